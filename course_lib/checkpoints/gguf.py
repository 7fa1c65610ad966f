"""GGUF, the format of llama.cpp: converted once, and kept in the cache in this library's own layout.

The weights are dequantised into safetensors, so that later loads only map the file into memory: they start at once, and thirty
processes on one machine share the same pages.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from gguf.quants import dequantize
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from course_lib import assets, storage
from course_lib.architecture import TransformerConfig
from course_lib.architecture.quantised import QuantisedLinear
from course_lib.checkpoints.folders import every_layer, rename
from course_lib.checkpoints.model_types import Names
from course_lib.checks import read_json
from course_lib.tokenization import Tokenizer, save_tokenizer

__all__ = ["MODELS", "convert", "read_converted"]

MODELS = tuple(name for name, asset in assets.ASSETS.items() if asset.cached_as.endswith(".gguf"))
"""The assets that are decoder-only models."""

# To be raised when the names or the layout of TransformerLM's weights change: older conversions are then made anew.
_LAYOUT = 3
_CONVERTED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_TRANSPOSED = ".T"  # ends the name of a tensor that is stored as its transpose
_MANIFEST = "manifest.json"  # the size and SHA-256 of those files


def convert(name: str, thorough: bool = True, n_lanes: int = 0) -> Path:
    """Return the folder that holds the model `name` of `MODELS` as safetensors, converting it if it is missing or damaged.

    Its matrices are float32 if `n_lanes` is 0, else as they are stored, packed for a kernel of so many lanes (`devices.lanes`).
    The sizes of its files are always compared with those at the conversion; their SHA-256 only if `thorough`, for that reads
    all of them. Raises AssetError if the model can be neither found nor fetched and converted.
    """
    asset = assets.ASSETS[name]
    find_fault = partial(_fault, thorough=thorough)
    place = Path("converted") / f"{name}-{asset.sha256[:12]}-v{_LAYOUT}{f'-packed-{n_lanes}' if n_lanes else ''}"
    folder = storage.cache_dir() / place
    if n_lanes and find_fault(folder):  # a cache from another machine may be read only, and made for other lanes
        folder = storage.own_dir() / place
    if find_fault(folder):
        source = assets.fetch(name)
        room = 2 * asset.size if n_lanes else 8 * asset.size  # of 4 bits become 32
        storage.ensure(folder, find_fault, partial(_convert_file, source, n_lanes > 0), room)
    return folder


def _fault(folder: Path, thorough: bool) -> str | None:
    """Return what is wrong with a converted model, or None."""
    try:
        manifest = read_json(folder / _MANIFEST)
        files = [folder / name for name in _CONVERTED]
        size = sum(file.stat().st_size for file in files)
        if size != manifest.get("size"):
            return f"{folder} holds {size:,} bytes, and {_MANIFEST} says {manifest.get('size')}"
        if thorough and storage.folder_digest(files) != manifest.get("sha256"):
            return f"{folder} has another SHA-256 than {_MANIFEST} says"
    except (OSError, ValueError) as error:
        return f"{folder} cannot be read ({error})"
    return None


class _Reader(GGUFReader):
    """A reader that notices the end of its file, where its base goes on for as many times as a damaged number says."""

    def _get(self, offset, dtype, count=1, *order, **options):
        if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("it ends too early")
        return super()._get(offset, dtype, count, *order, **options)


def _convert_file(source: Path, packed: bool, stage: Path) -> Path:
    """Write what the GGUF file holds into a new folder in `stage`, and return that.

    Raises ValueError that names the file if it is damaged or holds what is not supported.
    """
    try:
        return _convert(source, packed, stage)
    except OSError:
        raise
    except Exception as error:  # the reader takes numbers in the file for sizes, kinds and places: each may be wrong
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{source} is damaged, or no model that can be converted ({reason})") from None


def _convert(source: Path, packed: bool, stage: Path) -> Path:
    reader = _Reader(source)
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

        def read(name: str) -> tuple[Tensor, ...]:
            tensor = stored[name]
            parts = _blocks(tensor) if packed else (_dequantised(tensor),)
            bar.update(int(tensor.n_bytes))
            n_heads = heads.get(name.split(".")[-2])
            return parts if n_heads is None else tuple(_unpermute(part, n_heads) for part in parts)

        if packed:
            weights = _packed({name: read(name) for name in stored}, config.n_layers)
        else:
            weights = rename(stored, lambda name: read(name)[0], _NAMES, config.n_layers)
        _save(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2), encoding="utf-8")
    save_tokenizer(_tokenizer(fields), folder)
    files = [folder / name for name in _CONVERTED]
    manifest = {"size": sum(file.stat().st_size for file in files), "sha256": storage.folder_digest(files)}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    return folder


def _packed(blocks: Mapping[str, tuple[Tensor, ...]], n_layers: int) -> dict[str, Tensor]:
    """Return the weights under our names, and matrices of blocks packed as `QuantisedLinear` has them.

    Where we merge several matrices into one, their rows are, and with them what belongs to each row.
    """
    weights = {}
    for ours, theirs in every_layer(_NAMES, n_layers):
        if blocks.keys() >= set(theirs):
            merged = [torch.cat(parts) for parts in zip(*(blocks[name] for name in theirs), strict=True)]
            if len(merged) == 1:
                weights[ours] = merged[0]
            else:  # q and scale alone are of eight bits
                pack = QuantisedLinear.of_bytes if len(merged) == 2 else QuantisedLinear.of_steps
                weights |= pack(*merged).state_dict(prefix=ours.removesuffix("weight"))
    return weights


def _blocks(tensor: ReaderTensor) -> tuple[Tensor, ...]:
    """Return what lies in a tensor's rows: of Q4_1 q, scale and middle, of Q8_0 q and scale, of others the weights.

    A block is 32 weights: a half-precision scale, in Q4_1 the least weight too, and then all q, of which Q4_1 has those of the
    first half of the block in the low halves of its bytes.
    """
    if tensor.tensor_type == GGMLQuantizationType.Q4_1:
        blocks = torch.tensor(tensor.data).unflatten(1, (-1, 20))
        scale, least = blocks[..., :4].contiguous().view(torch.float16).float().unbind(-1)
        steps = torch.cat([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], dim=-1)
        return steps.flatten(1), scale, least + 8 * scale
    if tensor.tensor_type == GGMLQuantizationType.Q8_0:
        blocks = torch.tensor(tensor.data).unflatten(1, (-1, 34))
        scale = blocks[..., :2].contiguous().view(torch.float16).float()
        return blocks[..., 2:].contiguous().view(torch.int8).flatten(1), scale.flatten(1)
    return (_dequantised(tensor),)


def _dequantised(tensor: ReaderTensor) -> Tensor:
    return torch.tensor(dequantize(tensor.data, tensor.tensor_type))


def _save(weights: dict[str, Tensor], path: Path) -> None:
    """Write `weights`; what lies in memory by columns is written as its transpose, and named so."""
    rows = {name if tensor.is_contiguous() else name + _TRANSPOSED: tensor for name, tensor in weights.items()}
    try:
        save_file({name: t.T if name.endswith(_TRANSPOSED) else t for name, t in rows.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from None
    path.chmod(0o644)  # save_file lets its owner alone read it, and a classroom shares the cache


def read_converted(folder: Path) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """Return the shape and the weights in a folder that `convert` made, mapped into memory without reading them.

    Raises ValueError that names the folder if a file has been damaged and kept its size.
    """
    try:
        config = TransformerConfig(**read_json(folder / "config.json"))
        rows = load_file(folder / "model.safetensors")
    except (ValueError, TypeError, SafetensorError) as error:
        raise ValueError(f"{folder} is damaged; `python -m course_lib` mends it ({error})") from None
    weights = {name.removesuffix(_TRANSPOSED): t.T if name.endswith(_TRANSPOSED) else t for name, t in rows.items()}
    return config, weights


def _unpermute(weight: Tensor, n_heads: int) -> Tensor:
    """Undo llama.cpp's order of the query and key rows.

    Its rotary positions turn neighbours (row 2i with 2i + 1 of a head), ours row i with i + d_head / 2, so its files hold
    the rows interleaved. Read wrongly, the model still loads, and talks nonsense.
    """
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def _tokenizer(fields: Mapping) -> Tokenizer:
    tokens = fields["tokenizer.ggml.tokens"]
    control = 3  # the GGUF specification's token type for special tokens
    special = [
        token for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True) if kind == control
    ]
    ids = {token: i for i, token in enumerate(tokens)}
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # as templates say, and as GGUF does
    fields_of = {f"{name}_token": f"tokenizer.ggml.{theirs}_token_id" for name, theirs in named.items()}
    return Tokenizer(
        vocab=ids,
        merges=[tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]],
        special_tokens={token: ids[token] for token in special},
        split_digits=fields["tokenizer.ggml.pre"] == "smollm",
        chat_template=fields["tokenizer.chat_template"],
        end_tokens=(tokens[fields["tokenizer.ggml.eos_token_id"]],),
        named_tokens={name: tokens[fields[field]] for name, field in fields_of.items() if field in fields},
    )


_NAMES: Names = {
    "embedding.weight": ("token_embd.weight",),
    "blocks.{}.attention_residual.input_norm.weight": ("blk.{}.attn_norm.weight",),
    "blocks.{}.attention.qkv.weight": ("blk.{}.attn_q.weight", "blk.{}.attn_k.weight", "blk.{}.attn_v.weight"),
    "blocks.{}.attention.output.weight": ("blk.{}.attn_output.weight",),
    "blocks.{}.feed_forward_residual.input_norm.weight": ("blk.{}.ffn_norm.weight",),
    "blocks.{}.feed_forward.up.weight": ("blk.{}.ffn_gate.weight", "blk.{}.ffn_up.weight"),
    "blocks.{}.feed_forward.down.weight": ("blk.{}.ffn_down.weight",),
    "final_norm.weight": ("output_norm.weight",),
    "unembedding.weight": ("output.weight",),
}
