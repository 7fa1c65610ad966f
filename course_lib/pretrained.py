"""Real checkpoints into `TransformerLM`: the weights have other names elsewhere, and nothing else is different.

`load` takes the name of an asset (a GGUF file) or a folder as `transformers`' `save_pretrained` writes it (safetensors).
A GGUF is dequantised once and kept in the cache as safetensors in this library's own layout, so that later loads only map
the file into memory: they start at once, and thirty processes on one machine share the same pages.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from course_lib import assets
from course_lib.devices import pick_device, pick_dtype
from course_lib.tokenizer import Tokenizer
from course_lib.transformer import TransformerConfig, TransformerLM

__all__ = ["MODELS", "convert", "load"]

MODELS = tuple(name for name, asset in assets.ASSETS.items() if asset.cached_as.endswith(".gguf"))
"""The assets that are models."""

# To be raised when the names or the layout of TransformerLM's weights change: older conversions are then made anew.
_LAYOUT = 2
_CONVERTED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_TRANSPOSED = ".T"  # ends the name of a tensor that is stored as its transpose
_MANIFEST = "manifest.json"  # the size and SHA-256 of those files


def load(
    source: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> tuple[TransformerLM, Tokenizer]:
    """Return the model, ready for inference, and its tokenizer.

    `source` is a name in `MODELS`, or the folder of a GPT-2 or Llama checkpoint (`config.json`, `model.safetensors`,
    `tokenizer.json`). `device` and `dtype` default to `devices.pick_device()` and `devices.pick_dtype(device)`.

    Raises ValueError for an unsupported architecture or a missing, extra or misshapen tensor, and names it, and AssetError
    if the model can be neither found in the cache nor made.
    """
    device = torch.device(device) if device is not None else pick_device()
    dtype = dtype or pick_dtype(device)
    if str(source) in MODELS:
        folder = convert(str(source), thorough=False)
        config = TransformerConfig(**json.loads((folder / "config.json").read_text()))
        weights = _load(folder / "model.safetensors")
    else:
        folder = Path(source)
        config, weights = _read_folder(folder)
    return _build(config, weights, device, dtype), Tokenizer.load(folder)


def _build(
    config: TransformerConfig, weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype
) -> TransformerLM:
    # The meta device: neither memory nor random numbers for weights that are about to be replaced.
    with torch.device("meta"):
        model = TransformerLM(config)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != given:
        wrong = [
            f"{name}: wanted {wanted.get(name, 'none')}, got {given.get(name, 'none')}"
            for name in sorted(wanted.keys() | given.keys())
            if wanted.get(name) != given.get(name)
        ]
        raise ValueError(f"the checkpoint's tensors do not fit {config}:\n" + "\n".join(wrong))
    model.load_state_dict(weights, assign=True)
    return model.to(device=device, dtype=dtype).requires_grad_(False).eval()


# ---------------------------------------------------------------- GGUF, the format of llama.cpp


def convert(name: str, thorough: bool = True) -> Path:
    """Return the folder that holds the model `name` of `MODELS` as safetensors, converting it if it is missing or damaged.

    The sizes of its files are always compared with those at the conversion; their SHA-256 only if `thorough`, for that
    reads all of them. Raises AssetError if the model can be neither found nor fetched and converted.
    """
    asset = assets.ASSETS[name]
    folder = assets.cache_dir() / "converted" / f"{name}-{asset.sha256[:12]}-v{_LAYOUT}"
    find_fault = partial(_fault, thorough=thorough)
    if find_fault(folder):
        source = assets.fetch(name)
        assets.ensure(folder, find_fault, partial(_convert_gguf, source), room=8 * asset.size)  # of 4 bits become 32
    return folder


def _fault(folder: Path, thorough: bool) -> str | None:
    """Return what is wrong with a converted model, or None."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        files = [folder / name for name in _CONVERTED]
        size = sum(file.stat().st_size for file in files)
        if size != manifest["size"]:
            return f"{folder} holds {size:,} bytes instead of {manifest['size']:,}"
        if thorough and assets.folder_digest(files) != manifest["sha256"]:
            return f"{folder} has another SHA-256 than {_MANIFEST} says"
    except (OSError, ValueError) as error:
        return f"{folder} cannot be read ({error})"
    return None


def _convert_gguf(source: Path, stage: Path) -> Path:
    """Write what the GGUF file holds into a new folder in `stage`, and return that."""
    reader = GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise ValueError(f"{source.name} holds a model of architecture {architecture!r}; only 'llama' is supported")
    prefix = f"{architecture}."
    stored = {tensor.name: tensor for tensor in reader.tensors}
    config = TransformerConfig(
        vocab_size=fields[prefix + "vocab_size"],
        d_model=fields[prefix + "embedding_length"],
        n_layers=fields[prefix + "block_count"],
        n_heads=fields[prefix + "attention.head_count"],
        n_kv_heads=fields[prefix + "attention.head_count_kv"],
        d_ff=fields[prefix + "feed_forward_length"],
        context_length=fields[prefix + "context_length"],
        rope_theta=fields[prefix + "rope.freq_base"],
        norm_eps=fields[prefix + "attention.layer_norm_rms_epsilon"],
        tied_embeddings="output.weight" not in stored,
    )
    heads = {"attn_q": config.n_heads, "attn_k": config.n_kv_heads}
    folder = stage / "converted"
    folder.mkdir()
    total = sum(tensor.n_bytes for tensor in reader.tensors)
    with tqdm(desc=f"converting {source.name}", total=int(total), unit="B", unit_scale=True, leave=False) as bar:

        def read(name: str) -> Tensor:
            tensor = stored[name]
            weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
            bar.update(int(tensor.n_bytes))
            part = name.split(".")[-2]
            return _unpermute(weight, heads[part]) if part in heads else weight

        _save(_rename(stored, read, _GGUF_LLAMA, config.n_layers), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2))
    _gguf_tokenizer(fields).save(folder)
    files = [folder / name for name in _CONVERTED]
    manifest = {"size": sum(file.stat().st_size for file in files), "sha256": assets.folder_digest(files)}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2))
    return folder


def _save(weights: dict[str, Tensor], path: Path) -> None:
    """Write `weights`; what lies in memory by columns is written as its transpose, and named so."""
    rows = {name if tensor.is_contiguous() else name + _TRANSPOSED: tensor for name, tensor in weights.items()}
    try:
        save_file({name: t.T if name.endswith(_TRANSPOSED) else t for name, t in rows.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from None
    path.chmod(0o644)  # save_file lets its owner alone read it, and a classroom shares the cache


def _load(path: Path) -> dict[str, Tensor]:
    """Map what `_save` wrote into memory, without reading it."""
    rows = load_file(path)
    return {name.removesuffix(_TRANSPOSED): t.T if name.endswith(_TRANSPOSED) else t for name, t in rows.items()}


def _unpermute(weight: Tensor, n_heads: int) -> Tensor:
    """Undo llama.cpp's order of the query and key rows.

    Its rotary positions turn neighbours (row 2i with 2i + 1 of a head), ours row i with i + d_head / 2, so its files hold
    the rows interleaved. Read wrongly, the model still loads, and talks nonsense.
    """
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def _gguf_tokenizer(fields: Mapping) -> Tokenizer:
    tokens = fields["tokenizer.ggml.tokens"]
    control = 3  # the GGUF specification's token type for special tokens
    special = [
        token for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind == control
    ]
    ids = {token: i for i, token in enumerate(tokens)}
    return Tokenizer(
        vocab=ids,
        merges=[tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]],
        special_tokens={token: ids[token] for token in special},
        split_digits=fields["tokenizer.ggml.pre"] == "smollm",
        chat_template=fields["tokenizer.chat_template"],
        end_tokens=(tokens[fields["tokenizer.ggml.eos_token_id"]],),
    )


# ---------------------------------------------------------------- folders as `save_pretrained` writes them


def _read_folder(folder: Path) -> tuple[TransformerConfig, dict[str, Tensor]]:
    if not (folder / "config.json").is_file():
        known = ", ".join(MODELS)
        raise ValueError(f"{str(folder)!r} is neither a known model ({known}) nor a folder with a config.json")
    published = json.loads((folder / "config.json").read_text())
    readers = {"llama": _read_llama, "gpt2": _read_gpt2}
    kind = published.get("model_type")
    if kind not in readers:
        raise ValueError(f"{folder} holds a model of type {kind!r}; supported are {', '.join(readers)}")
    if not (folder / "model.safetensors").is_file():
        sharded = (folder / "model.safetensors.index.json").is_file()
        found = "its weights in several files (model.safetensors.index.json)" if sharded else "no model.safetensors"
        raise ValueError(
            f"{folder} holds {found}; supported is one file of weights, as transformers writes with "
            "model.save_pretrained(folder, max_shard_size='1TB')"
        )
    return readers[kind](published, load_file(folder / "model.safetensors"))


def _require(published: dict, **supported) -> None:
    """Raise ValueError for the first field of a `config.json` that is there and differs from its supported value."""
    for field, value in supported.items():
        if published.get(field, value) != value:
            raise ValueError(f"a checkpoint with {field} {published[field]!r} is not supported, only with {value!r}")


def _read_llama(published: dict, tensors: dict[str, Tensor]) -> tuple[TransformerConfig, dict[str, Tensor]]:
    rope = published.get("rope_scaling") or published.get("rope_parameters") or {}
    kind = rope.get("rope_type") or rope.get("type", "default")  # older files say `type`
    _require(
        published | {"rope_type": kind}, rope_type="default", hidden_act="silu", attention_bias=False, mlp_bias=False
    )
    config = TransformerConfig(
        vocab_size=published["vocab_size"],
        d_model=published["hidden_size"],
        n_layers=published["num_hidden_layers"],
        n_heads=published["num_attention_heads"],
        n_kv_heads=published.get("num_key_value_heads"),
        d_head=published.get("head_dim"),
        d_ff=published["intermediate_size"],
        context_length=published["max_position_embeddings"],
        rope_theta=rope.get("rope_theta") or published.get("rope_theta", 10_000.0),
        norm_eps=published["rms_norm_eps"],
        tied_embeddings=published.get("tie_word_embeddings", False),
    )
    return config, _rename(tensors, tensors.__getitem__, _HF_LLAMA, config.n_layers)


def _read_gpt2(published: dict, tensors: dict[str, Tensor]) -> tuple[TransformerConfig, dict[str, Tensor]]:
    _require(
        published,
        activation_function="gelu_new",
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
    )
    config = TransformerConfig(
        vocab_size=published["vocab_size"],
        d_model=published["n_embd"],
        n_layers=published["n_layer"],
        n_heads=published["n_head"],
        d_ff=published.get("n_inner") or 4 * published["n_embd"],
        context_length=published["n_positions"],
        positions="learned",
        norm="layernorm",
        norm_eps=published["layer_norm_epsilon"],
        feed_forward="gelu",
        bias=True,
        tied_embeddings=published.get("tie_word_embeddings", True),
    )
    # The files of 2019 have no prefix, and hold each layer's causal mask as if it were a weight.
    weights = {
        name.removeprefix("transformer."): tensor
        for name, tensor in tensors.items()
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }

    def read(name: str) -> Tensor:  # GPT-2 stores its matrices as (in, out), the transpose of nn.Linear's (out, in)
        tensor = weights[name]
        return tensor.T.contiguous() if ".c_" in name and tensor.ndim == 2 else tensor

    return config, _rename(weights, read, _HF_GPT2, config.n_layers)


# ---------------------------------------------------------------- the names: ours -> theirs, several where we merge matrices

_GGUF_LLAMA = {
    "embedding.weight": ("token_embd.weight",),
    "blocks.{}.attention_norm.weight": ("blk.{}.attn_norm.weight",),
    "blocks.{}.attention.qkv.weight": ("blk.{}.attn_q.weight", "blk.{}.attn_k.weight", "blk.{}.attn_v.weight"),
    "blocks.{}.attention.output.weight": ("blk.{}.attn_output.weight",),
    "blocks.{}.feed_forward_norm.weight": ("blk.{}.ffn_norm.weight",),
    "blocks.{}.feed_forward.up.weight": ("blk.{}.ffn_gate.weight", "blk.{}.ffn_up.weight"),
    "blocks.{}.feed_forward.down.weight": ("blk.{}.ffn_down.weight",),
    "final_norm.weight": ("output_norm.weight",),
    "unembedding.weight": ("output.weight",),
}
_HF_LLAMA = {
    "embedding.weight": ("model.embed_tokens.weight",),
    "blocks.{}.attention_norm.weight": ("model.layers.{}.input_layernorm.weight",),
    "blocks.{}.attention.qkv.weight": tuple(f"model.layers.{{}}.self_attn.{part}_proj.weight" for part in "qkv"),
    "blocks.{}.attention.output.weight": ("model.layers.{}.self_attn.o_proj.weight",),
    "blocks.{}.feed_forward_norm.weight": ("model.layers.{}.post_attention_layernorm.weight",),
    "blocks.{}.feed_forward.up.weight": ("model.layers.{}.mlp.gate_proj.weight", "model.layers.{}.mlp.up_proj.weight"),
    "blocks.{}.feed_forward.down.weight": ("model.layers.{}.mlp.down_proj.weight",),
    "final_norm.weight": ("model.norm.weight",),
    "unembedding.weight": ("lm_head.weight",),
}
_HF_GPT2 = {
    "embedding.weight": ("wte.weight",),
    "position_embedding.weight": ("wpe.weight",),
    **{
        f"blocks.{{}}.{ours}.{part}": (f"h.{{}}.{theirs}.{part}",)
        for part in ("weight", "bias")
        for ours, theirs in {
            "attention_norm": "ln_1",
            "attention.qkv": "attn.c_attn",
            "attention.output": "attn.c_proj",
            "feed_forward_norm": "ln_2",
            "feed_forward.up": "mlp.c_fc",
            "feed_forward.down": "mlp.c_proj",
        }.items()
    },
    "final_norm.weight": ("ln_f.weight",),
    "final_norm.bias": ("ln_f.bias",),
    "unembedding.weight": ("lm_head.weight",),
}


def _rename(
    names: Iterable[str], read: Callable[[str], Tensor], table: dict[str, tuple[str, ...]], n_layers: int
) -> dict[str, Tensor]:
    """Read the tensors `names`, and return them under our names, merged where we merge.

    The parts of a matrix are read when it is their turn, and let go of once it is merged, so that no more than one matrix
    lies in memory twice. Names that the table lacks stay as they are, to be reported.
    """
    left = set(names)
    renamed = {}
    for ours, theirs in _every_layer(table, n_layers):
        if left.issuperset(theirs):
            renamed[ours] = _by_columns(_merge([read(name) for name in theirs]))
            left.difference_update(theirs)
    return renamed | {name: read(name) for name in left}


def _merge(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _by_columns(weight: Tensor) -> Tensor:
    """Return `weight` (out, in) unchanged in value and shape, but if it has more rows than columns, lying column by column.

    A matrix-vector product then runs along the longer side in memory. Decoding is bound by how fast the weights stream in,
    and gets 1.4 times faster by it (benchmarks/README.md).
    """
    if weight.ndim != 2 or weight.shape[0] <= weight.shape[1]:
        return weight
    return weight.T.contiguous().T


def _every_layer(names: dict[str, tuple[str, ...]], n_layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for ours, theirs in names.items():
        for layer in range(n_layers if "{}" in ours else 1):
            yield ours.format(layer), tuple(name.format(layer) for name in theirs)
