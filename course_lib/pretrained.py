"""Real checkpoints into `TransformerLM`: the weights have other names elsewhere, and nothing else is different.

`load` takes the name of an asset (a GGUF file) or a folder as `transformers`' `save_pretrained` writes it (safetensors).
A GGUF is dequantised once and kept beside its source as safetensors in this library's own layout, so that later loads only
map the file into memory: they start at once, and thirty processes on one machine share the same pages.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from filelock import FileLock
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from torch import Tensor

from course_lib import assets
from course_lib.devices import pick_device, pick_dtype
from course_lib.tokenizer import Tokenizer
from course_lib.transformer import TransformerConfig, TransformerLM

__all__ = ["load"]

_LAYOUT = (
    1  # raise it when the names or the layout of TransformerLM's weights change: older conversions are then made anew
)


def load(
    source: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> tuple[TransformerLM, Tokenizer]:
    """Return the model, ready for inference, and its tokenizer.

    `source` is a name in `assets.ASSETS`, or the folder of a GPT-2 or Llama checkpoint (`config.json`, `model.safetensors`,
    `tokenizer.json`). `device` and `dtype` default to `devices.pick_device()` and `devices.pick_dtype(device)`.

    Raises ValueError for an unsupported architecture or a missing, extra or misshapen tensor, and names it.
    """
    device = torch.device(device) if device is not None else pick_device()
    dtype = dtype or pick_dtype(device)
    if str(source) in assets.ASSETS:
        folder = _converted(str(source))
        config = TransformerConfig(**json.loads((folder / "config.json").read_text()))
        weights = load_file(folder / "model.safetensors")
    else:
        folder = Path(source)
        config, weights = _read_folder(folder)
    return _build(config, weights, device, dtype), Tokenizer.load(folder)


def _build(
    config: TransformerConfig, weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype
) -> TransformerLM:
    with torch.device(
        "meta"
    ):  # shapes only: neither memory nor random numbers for weights that are about to be replaced
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


def _converted(name: str) -> Path:
    """Return the folder with the asset `name` as safetensors, converting it if this is the first time."""
    asset = assets.ASSETS[name]
    folder = assets.cache_dir() / "converted" / f"{name}-{asset.sha256[:12]}-v{_LAYOUT}"
    if folder.exists():  # it appears by one rename, so it is complete
        return folder
    source = assets.fetch(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if folder.exists():
            return folder
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}-"))
        try:
            _convert_gguf(source, draft)
            os.replace(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _convert_gguf(source: Path, folder: Path) -> None:
    reader = GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise ValueError(f"{source.name} holds a model of architecture {architecture!r}; only 'llama' is supported")
    prefix = f"{architecture}."
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
        tied_embeddings=not any(tensor.name == "output.weight" for tensor in reader.tensors),
    )
    tensors = {t.name: torch.tensor(dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    for name in tensors:
        for part, heads in (("attn_q", config.n_heads), ("attn_k", config.n_kv_heads)):
            if part in name:
                tensors[name] = _unpermute(tensors[name], heads)
    save_file(_rename(tensors, _GGUF_LLAMA, config.n_layers), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2))
    _gguf_tokenizer(fields).save(folder)


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
        known = ", ".join(sorted(assets.ASSETS))
        raise ValueError(f"{str(folder)!r} is neither a known asset ({known}) nor a folder with a config.json")
    published = json.loads((folder / "config.json").read_text())
    readers = {"llama": _read_llama, "gpt2": _read_gpt2}
    kind = published.get("model_type")
    if kind not in readers:
        raise ValueError(f"{folder} holds a model of type {kind!r}; supported are {', '.join(readers)}")
    return readers[kind](published, load_file(folder / "model.safetensors"))


def _read_llama(published: dict, tensors: dict[str, Tensor]) -> tuple[TransformerConfig, dict[str, Tensor]]:
    rope = published.get("rope_parameters") or published.get("rope_scaling") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"rotary positions of type {rope['rope_type']!r} are not supported, only 'default'")
    for field in ("attention_bias", "mlp_bias"):
        if published.get(field):
            raise ValueError(f"Llama checkpoints with {field} are not supported")
    config = TransformerConfig(
        vocab_size=published["vocab_size"],
        d_model=published["hidden_size"],
        n_layers=published["num_hidden_layers"],
        n_heads=published["num_attention_heads"],
        n_kv_heads=published["num_key_value_heads"],
        d_head=published.get("head_dim"),
        d_ff=published["intermediate_size"],
        context_length=published["max_position_embeddings"],
        rope_theta=rope.get("rope_theta") or published.get("rope_theta", 10_000.0),
        norm_eps=published["rms_norm_eps"],
        tied_embeddings=published["tie_word_embeddings"],
    )
    return config, _rename(tensors, _HF_LLAMA, config.n_layers)


def _read_gpt2(published: dict, tensors: dict[str, Tensor]) -> tuple[TransformerConfig, dict[str, Tensor]]:
    if published["activation_function"] != "gelu_new":
        raise ValueError(
            f"GPT-2 with activation {published['activation_function']!r} is not supported, only 'gelu_new'"
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
    # GPT-2 stores its matrices as (in, out), the transpose of nn.Linear's (out, in)
    turned = {
        name: tensor.T.contiguous() if ".c_" in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }
    return config, _rename(turned, _HF_GPT2, config.n_layers)


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
    "embedding.weight": ("transformer.wte.weight",),
    "position_embedding.weight": ("transformer.wpe.weight",),
    **{
        f"blocks.{{}}.{ours}.{part}": (f"transformer.h.{{}}.{theirs}.{part}",)
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
    "final_norm.weight": ("transformer.ln_f.weight",),
    "final_norm.bias": ("transformer.ln_f.bias",),
    "unembedding.weight": ("lm_head.weight",),
}


def _rename(tensors: dict[str, Tensor], names: dict[str, tuple[str, ...]], n_layers: int) -> dict[str, Tensor]:
    """Return `tensors` under our names, merged where we merge; names that the table lacks stay as they are, to be reported."""
    left = dict(tensors)
    renamed = {}
    for ours, theirs in _every_layer(names, n_layers):
        parts = [left.pop(name) for name in theirs if name in left]
        if len(parts) == len(theirs):
            renamed[ours] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return renamed | left


def _every_layer(names: dict[str, tuple[str, ...]], n_layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for ours, theirs in names.items():
        for layer in range(n_layers if "{}" in ours else 1):
            yield ours.format(layer), tuple(name.format(layer) for name in theirs)
