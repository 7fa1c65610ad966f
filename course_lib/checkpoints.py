"""Folders as `transformers`' `save_pretrained` writes them: what their `config.json` means, and what we call their tensors.

Of the decoder-only models here each is Llama with a few other choices, so one reader and one table of names serve them all.
Tensors are read one at a time, when it is their turn, and let go of once they are merged into ours.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from course_lib.attention import RopeScaling
from course_lib.transformer import TransformerConfig

__all__ = ["DECODERS", "ENCODERS", "Names", "read_folder", "rename"]

Names = dict[str, tuple[str, ...]]
"""Our name of a tensor -> theirs, several where we lay matrices together; {} stands for the layer."""


@dataclass(frozen=True)
class Plan:
    """How to read a checkpoint: its shape, the names of its tensors, and what is to be done to each while it is read."""

    config: TransformerConfig
    names: Names
    mend: Callable[[str, Callable[[str], Tensor]], Tensor] = lambda name, read: read(name)
    prefix: str = ""  # some files put it before every name
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)  # endings of names that hold nothing learned, or nothing we use


def read_folder(
    folder: Path, kinds: tuple[str, ...], dtype: torch.dtype
) -> tuple[TransformerConfig, dict[str, Tensor]]:
    """Return the shape and the weights, under our names, of the checkpoint in `folder`, of one of the model types `kinds`.

    Raises ValueError for what is not supported, and names it. Tensors that are missing, left over or of another shape are
    for the caller to find: what has no name of ours keeps its own.
    """
    published = json.loads((folder / "config.json").read_text())
    kind = published.get("model_type")
    if kind not in kinds:
        raise ValueError(f"{folder} holds a model of type {kind!r}; supported are {', '.join(kinds)}")
    plan = _READERS[kind](published)
    loaders = {name.removeprefix(plan.prefix): load for name, load in _open(folder).items()}
    names = [name for name in loaders if not name.endswith(plan.ignored)]

    def read(name: str) -> Tensor:
        return plan.mend(name, lambda name: loaders[name]()).to(dtype)

    return plan.config, rename(names, read, plan.names, plan.config.n_layers)


def _open(folder: Path) -> dict[str, Callable[[], Tensor]]:
    """Return for each tensor in the folder's safetensors files a function that reads it.

    Each read maps the file anew, so that the pages of a tensor that has been merged are given back.
    """
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors = {}
    for path in (folder / file for file in files):
        try:
            with safe_open(path, framework="pt") as opened:
                tensors |= {name: partial(_read, path, name) for name in opened.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise ValueError(f"{folder} holds no {path.name}: of its weights, only safetensors are read") from None
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); copy or download it again") from None
    return tensors


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as opened:
        return opened.get_tensor(name)


# ---------------------------------------------------------------- Llama, and the models that differ from it by a few choices

_LLAMA_FAMILY = {  # model_type -> the choices in which it differs from Llama
    "llama": {},
    "mistral": {},
    "qwen3": {"qk_norm": "head"},
    "olmo2": {"qk_norm": "projection", "norm_position": "output"},
    "gemma3_text": {
        "qk_norm": "head",
        "norm_position": "sandwich",
        "feed_forward": "geglu",
        "scaled_embeddings": True,
    },
}
_NORM_NAMES = {  # norm_position -> our norm -> theirs: the same names, for norms in other places
    "pre": {
        "attention_residual.input_norm": "input_layernorm",
        "feed_forward_residual.input_norm": "post_attention_layernorm",
    },
    "output": {
        "attention_residual.output_norm": "post_attention_layernorm",
        "feed_forward_residual.output_norm": "post_feedforward_layernorm",
    },
    "sandwich": {
        "attention_residual.input_norm": "input_layernorm",
        "attention_residual.output_norm": "post_attention_layernorm",
        "feed_forward_residual.input_norm": "pre_feedforward_layernorm",
        "feed_forward_residual.output_norm": "post_feedforward_layernorm",
    },
}


def _llama_names(norm_position: str) -> Names:
    def parts(place: str, *names: str) -> tuple[str, ...]:
        return tuple(f"model.layers.{{}}.{place}.{name}.weight" for name in names)

    norms = {
        f"blocks.{{}}.{ours}.weight": (f"model.layers.{{}}.{theirs}.weight",)
        for ours, theirs in _NORM_NAMES[norm_position].items()
    }
    return norms | {
        "embedding.weight": ("model.embed_tokens.weight",),
        "blocks.{}.attention.qkv.weight": parts("self_attn", "q_proj", "k_proj", "v_proj"),
        "blocks.{}.attention.q_norm.weight": parts("self_attn", "q_norm"),
        "blocks.{}.attention.k_norm.weight": parts("self_attn", "k_norm"),
        "blocks.{}.attention.output.weight": parts("self_attn", "o_proj"),
        "blocks.{}.feed_forward.up.weight": parts("mlp", "gate_proj", "up_proj"),
        "blocks.{}.feed_forward.down.weight": parts("mlp", "down_proj"),
        "final_norm.weight": ("model.norm.weight",),
        "unembedding.weight": ("lm_head.weight",),
    }


def _read_llama(published: dict) -> Plan:
    kind = published["model_type"]
    is_gemma = kind == "gemma3_text"
    choices = _LLAMA_FAMILY[kind]
    _require(
        published,
        **{"hidden_activation": "gelu_pytorch_tanh"} if is_gemma else {"hidden_act": "silu"},
        attention_bias=False,
        mlp_bias=False,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        use_bidirectional_attention=False,
    )
    window, every = _window(published)
    config = TransformerConfig(
        vocab_size=published["vocab_size"],
        d_model=published["hidden_size"],
        n_layers=published["num_hidden_layers"],
        n_heads=published["num_attention_heads"],
        n_kv_heads=published.get("num_key_value_heads"),
        d_head=published.get("head_dim"),
        d_ff=published["intermediate_size"],
        context_length=published["max_position_embeddings"],
        window=window,
        full_attention_every=every,
        norm_eps=published["rms_norm_eps"],
        tied_embeddings=published.get("tie_word_embeddings", is_gemma),
        **_rope(published),
        **choices,
    )
    names = _llama_names(config.norm_position)
    if not is_gemma:
        return Plan(config, names)
    # Gemma's norms multiply by 1 + weight, and its scores are divided by √query_pre_attn_scalar instead of by √d_head.
    d_head = config.d_head or config.d_model // config.n_heads
    sharper = math.sqrt(d_head / published["query_pre_attn_scalar"])

    def mend(name: str, read: Callable[[str], Tensor]) -> Tensor:
        if not name.endswith("norm.weight"):
            return read(name)
        return (1 + read(name).float()) * (sharper if name.endswith("q_norm.weight") else 1)

    return Plan(config, names, mend)


def _window(published: dict) -> tuple[int | None, int | None]:
    """Return `window` and `full_attention_every`, from the list of each layer's kind or the ways of writing before it."""
    window = published.get("sliding_window")
    if window is None or not published.get("use_sliding_window", True):
        return None, None
    n_layers = published["num_hidden_layers"]
    pattern = published.get("sliding_window_pattern")
    kinds = published.get("layer_types")
    is_full = [kind == "full_attention" for kind in kinds] if kinds else [False] * n_layers
    every = pattern if pattern and not kinds else is_full.index(True) + 1 if True in is_full else None
    if kinds and is_full != [every is not None and (layer + 1) % every == 0 for layer in range(n_layers)]:
        raise ValueError(f"the layers with full attention must come at equal distances, not as in layer_types {kinds}")
    return (None, None) if every == 1 else (window, every)


def _rope(published: dict) -> dict[str, object]:
    """Return the fields of `TransformerConfig` on rotary positions, whichever of three ways `config.json` writes them."""
    rope = published.get("rope_scaling") or published.get("rope_parameters") or {}
    near_theta = published.get("rope_local_base_freq")
    if "full_attention" in rope:  # one setting for each kind of layer
        near = rope.get("sliding_attention") or {}
        _require(near, rope_type="default")
        rope, near_theta = rope["full_attention"], near.get("rope_theta", near_theta)
    kind = rope.get("rope_type") or rope.get("type", "default")  # older files say `type`
    if kind not in ("default", "llama3"):
        raise ValueError(f"a checkpoint with rope_type {kind!r} is not supported, only with 'default' or 'llama3'")
    scaling = None
    if kind == "llama3":
        scaling = RopeScaling(
            factor=rope["factor"],
            low_turns=rope["low_freq_factor"],
            high_turns=rope["high_freq_factor"],
            original_context=rope["original_max_position_embeddings"],
        )
    theta = rope.get("rope_theta") or published.get("rope_theta", 10_000.0)
    return {"rope_theta": theta, "rope_scaling": scaling, "window_rope_theta": near_theta}


def _require(published: dict, **supported: object) -> None:
    """Raise ValueError for the first field of a `config.json` that is there and differs from its supported value."""
    for field, value in supported.items():
        if published.get(field, value) not in (value, None):
            raise ValueError(f"a checkpoint with {field} {published[field]!r} is not supported, only with {value!r}")


# ---------------------------------------------------------------- GPT-2 and BERT


def _with_biases(names: dict[str, tuple[str, ...]]) -> Names:
    """Return `names`, which lack their last part, with both `weight` and `bias` as the last part."""
    return {
        f"{ours}.{part}": tuple(f"{name}.{part}" for name in theirs)
        for part in ("weight", "bias")
        for ours, theirs in names.items()
    }


_GPT2_NAMES = {
    "embedding.weight": ("wte.weight",),
    "position_embedding.weight": ("wpe.weight",),
    "unembedding.weight": ("lm_head.weight",),
    **_with_biases(
        {
            "blocks.{}.attention_residual.input_norm": ("h.{}.ln_1",),
            "blocks.{}.attention.qkv": ("h.{}.attn.c_attn",),
            "blocks.{}.attention.output": ("h.{}.attn.c_proj",),
            "blocks.{}.feed_forward_residual.input_norm": ("h.{}.ln_2",),
            "blocks.{}.feed_forward.up": ("h.{}.mlp.c_fc",),
            "blocks.{}.feed_forward.down": ("h.{}.mlp.c_proj",),
            "final_norm": ("ln_f",),
        }
    ),
}


def _read_gpt2(published: dict) -> Plan:
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
        feed_forward="gelu_tanh",
        bias=True,
        tied_embeddings=published.get("tie_word_embeddings", True),
    )

    def mend(name: str, read: Callable[[str], Tensor]) -> Tensor:
        tensor = read(name)  # its matrices lie as (in, out), the transpose of nn.Linear's (out, in)
        return tensor.T.contiguous() if ".c_" in name and tensor.ndim == 2 else tensor

    # The files of 2019 hold each layer's causal mask as if it were a weight.
    return Plan(config, _GPT2_NAMES, mend, "transformer.", (".attn.bias", ".attn.masked_bias"))


_BERT_NAMES = {
    "embedding.weight": ("embeddings.word_embeddings.weight",),
    "position_embedding.weight": ("embeddings.position_embeddings.weight",),
    **_with_biases(
        {
            "embedding_norm": ("embeddings.LayerNorm",),
            "blocks.{}.attention.qkv": tuple(
                f"encoder.layer.{{}}.attention.self.{part}" for part in ("query", "key", "value")
            ),
            "blocks.{}.attention.output": ("encoder.layer.{}.attention.output.dense",),
            "blocks.{}.attention_residual.stream_norm": ("encoder.layer.{}.attention.output.LayerNorm",),
            "blocks.{}.feed_forward.up": ("encoder.layer.{}.intermediate.dense",),
            "blocks.{}.feed_forward.down": ("encoder.layer.{}.output.dense",),
            "blocks.{}.feed_forward_residual.stream_norm": ("encoder.layer.{}.output.LayerNorm",),
        }
    ),
}


def _read_bert(published: dict) -> Plan:
    _require(published, position_embedding_type="absolute")
    config = TransformerConfig(
        vocab_size=published["vocab_size"],
        d_model=published["hidden_size"],
        n_layers=published["num_hidden_layers"],
        n_heads=published["num_attention_heads"],
        d_ff=published["intermediate_size"],
        context_length=published["max_position_embeddings"],
        positions="learned",
        norm="layernorm",
        norm_eps=published["layer_norm_eps"],
        norm_position="post",
        feed_forward=published["hidden_act"],
        bias=True,
        embedding_norm=True,
    )
    positions, kinds = "embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"

    def mend(name: str, read: Callable[[str], Tensor]) -> Tensor:
        """Add to each position the vector that says "first text of a pair": ours are all one text."""
        return read(name) + read(kinds)[0] if name == positions else read(name)

    unused = (kinds, "embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
    return Plan(config, _BERT_NAMES, mend, "bert.", unused)


_READERS = {**dict.fromkeys(_LLAMA_FAMILY, _read_llama), "gpt2": _read_gpt2, "bert": _read_bert}
DECODERS = (*_LLAMA_FAMILY, "gpt2")
"""The model types that `TransformerLM` can be."""
ENCODERS = ("bert",)
"""The model types that `TransformerEncoder` can be."""


# ---------------------------------------------------------------- from their names to ours


def rename(names: Iterable[str], read: Callable[[str], Tensor], table: Names, n_layers: int) -> dict[str, Tensor]:
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


def _every_layer(names: Names, n_layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for ours, theirs in names.items():
        for layer in range(n_layers if "{}" in ours else 1):
            yield ours.format(layer), tuple(name.format(layer) for name in theirs)
