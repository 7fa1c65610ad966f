"""Real checkpoints into `TransformerLM`: the weights have other names elsewhere, and nothing else is different.

`load` takes the name of an asset (a GGUF file, see `gguf`) or a folder as `transformers`' `save_pretrained` writes it
(safetensors, see `folders`).
"""

import re
import warnings
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from course_lib import assets
from course_lib.architecture import TransformerConfig, TransformerEncoder, TransformerLM
from course_lib.architecture.quantised import assemble
from course_lib.checkpoints.folders import read_folder
from course_lib.checkpoints.gguf import MODELS, convert, read_converted
from course_lib.checkpoints.model_types import DECODERS, ENCODERS
from course_lib.checks import check
from course_lib.devices import lanes, pick_device, pick_dtype
from course_lib.tokenization import Tokenizer, load_tokenizer

__all__ = ["load", "load_encoder"]


def load(
    source: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    weights: Literal["float", "stored"] = "float",
) -> tuple[TransformerLM, Tokenizer]:
    """Return the model, ready for inference, and its tokenizer.

    `source` is a name in `MODELS`; or the folder of a checkpoint (`config.json`, safetensors in one file or several,
    `tokenizer.json`) of a model type in `model_types.DECODERS`, as `save_pretrained` writes it; or the id of one on the
    Hugging Face hub, "owner/name", where `huggingface_hub` is installed and the hub can be reached. `device` and `dtype`
    default to `devices.pick_device()` and `devices.pick_dtype(device)`.

    `weights="stored"` keeps the matrices of a model in `MODELS` as its file has them, four or eight bits a weight, for
    inference alone: see `architecture.quantised`. All else is float32 then. Where that cannot be multiplied, they become
    `dtype`, with a warning.

    Raises ValueError for a missing file, an unsupported architecture or a missing, extra or misshapen tensor, and names it,
    and AssetError if the model can be neither found in the cache nor fetched.
    """
    check("weights", weights, Literal["float", "stored"])
    wanted = dtype
    device, dtype = _where(device, dtype)
    if weights == "stored" and _can_stay_packed(source, device, wanted):
        folder = convert(str(source), thorough=False, n_lanes=lanes())
        try:
            model, tokenizer = assemble(*read_converted(folder)), load_tokenizer(folder)
        except (KeyError, AttributeError, ArithmeticError, RuntimeError) as error:  # damaged, and of the same size
            raise ValueError(f"{folder} is damaged ({error!r}); delete it, and it is made anew") from None
        return model.to(device), tokenizer
    if str(source) in MODELS:
        folder = convert(str(source), thorough=False)
        config, tensors = read_converted(folder)
    else:
        folder = _find(source, MODELS, ("config.json", "tokenizer.json"))
        config, tensors = read_folder(folder, DECODERS, dtype)
    return _build(TransformerLM, folder, config, tensors, device, dtype), load_tokenizer(folder)


def _can_stay_packed(source: str | Path, device: torch.device, dtype: torch.dtype | None) -> bool:
    if str(source) not in MODELS:
        raise ValueError(f"weights='stored' is for {', '.join(MODELS)}; load {source} as it is, and `quantise` it")
    if lanes() and lanes(device) and dtype in (None, torch.float32):  # packed by the processor, maybe for a GPU
        return True
    warnings.warn(
        f"there is no kernel for weights as stored, in {dtype or 'float32'} on {device} of this machine: they are written "
        "out; dtype=torch.float32 on a processor with AVX2, or a GPU beside one, keeps them",
        stacklevel=3,
    )
    return False


def load_encoder(
    source: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> TransformerEncoder:
    """Return an encoder such as BERT, ready for inference: the asset "all-minilm-l6-v2", or as in `load`.

    Its folder holds a WordPiece `tokenizer.json` for the `tokenizers` library. Raises as `load` does.
    """
    device, dtype = _where(device, dtype)
    folder = assets.fetch(_MINILM) if str(source) == _MINILM else _find(source, (_MINILM,), ("config.json",))
    config, weights = read_folder(folder, ENCODERS, dtype)
    return _build(TransformerEncoder, folder, config, weights, device, dtype)


_MINILM = "all-minilm-l6-v2"
Model = TypeVar("Model", bound=nn.Module)


def _where(device: torch.device | str | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    device = torch.device(device) if device is not None else pick_device()
    return device, dtype or pick_dtype(device)


def _find(source: str | Path, known: tuple[str, ...], needed: tuple[str, ...]) -> Path:
    """Return the folder that `source` is the path of, or that the hub has under this id; it holds the files `needed`."""
    folder = Path(source)
    if not folder.is_dir():
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
            raise ValueError(
                f"{str(source)!r} is neither a known model ({', '.join(known)}) nor the folder of one; "
                "an id on the Hugging Face hub looks like owner/name"
            )
        folder = assets.fetch_from_hub(str(source))
    for name in needed:
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} holds no {name}; a model's folder needs {' and '.join(needed)} beside its weights"
            )
    return folder


def _build(
    kind: type[Model],
    folder: Path,
    config: TransformerConfig,
    weights: dict[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> Model:
    # The meta device: neither memory nor random numbers for weights that are about to be replaced.
    try:
        with torch.device("meta"):
            model = kind(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != given:
        wrong = [
            f"{name}: wanted {wanted.get(name, 'none')}, got {given.get(name, 'none')}"
            for name in sorted(wanted.keys() | given.keys())
            if wanted.get(name) != given.get(name)
        ]
        raise ValueError(f"the tensors in {folder} do not fit {config}:\n" + "\n".join(wrong))
    model.load_state_dict(weights, assign=True)
    return model.to(device=device, dtype=dtype).requires_grad_(False).eval()
