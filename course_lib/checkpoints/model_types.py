"""What the `config.json` of an open model means in our terms, and what its tensors are called.

Of the decoder-only models here each is Llama with a few other choices, so one reader and one table of names serve them all.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from course_lib.architecture import TransformerConfig
from course_lib.architecture.attention import RopeScaling

__all__ = ["DECODERS", "ENCODERS", "READERS", "Names", "Plan"]

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
_DEFAULTS = {  # of fields that a config.json may leave out, as `transformers` has them: Llama's, and where others differ
    "llama": {
        "num_key_value_heads": None,
        "head_dim": None,
        "tie_word_embeddings": False,
        "rope_theta": 10_000.0,
        "rope_local_base_freq": None,
        "sliding_window": None,
    },
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "qwen3": {
        "num_key_value_heads": 32,
        "head_dim": 128,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "max_window_layers": 28,
    },
    "olmo2": {},
    "gemma3_text": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
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
    published = _DEFAULTS["llama"] | _DEFAULTS[kind] | published
    _require(
        published,
        hidden_act="silu",
        hidden_activation="gelu_pytorch_tanh",  # Gemma's name for its own
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
        n_kv_heads=published["num_key_value_heads"],
        d_head=published["head_dim"],
        d_ff=published["intermediate_size"],
        context_length=published["max_position_embeddings"],
        window=window,
        full_attention_every=every,
        norm_eps=published["rms_norm_eps"],
        tied_embeddings=published["tie_word_embeddings"],
        **_rope(published),
        **_LLAMA_FAMILY[kind],
    )
    names = _llama_names(config.norm_position)
    if kind != "gemma3_text":
        return Plan(config, names)
    # Gemma's norms multiply by 1 + weight, and its scores are divided by √query_pre_attn_scalar instead of by √d_head.
    sharper = math.sqrt(config.d_head / published["query_pre_attn_scalar"])

    def mend(name: str, read: Callable[[str], Tensor]) -> Tensor:
        if not name.endswith("norm.weight"):
            return read(name)
        return (1 + read(name).float()) * (sharper if name.endswith("q_norm.weight") else 1)

    return Plan(config, names, mend)


def _window(published: dict) -> tuple[int | None, int | None]:
    """Return `window` and `full_attention_every`, for whichever layers `config.json` gives the window to."""
    window = published["sliding_window"]
    if published["model_type"] in ("llama", "olmo2"):  # these have none, though the field may be there
        return None, None
    if window is None or not published.get("use_sliding_window", True):
        return None, None
    layers = range(published["num_hidden_layers"])
    source = next((name for name in _WINDOWED_LAYERS if published.get(name) is not None), None)
    is_full = _WINDOWED_LAYERS[source](published[source], layers) if source else [False for _ in layers]
    every = is_full.index(True) + 1 if True in is_full else None
    if is_full != [every is not None and (layer + 1) % every == 0 for layer in layers]:
        raise ValueError(
            f"the layers with full attention must come at equal distances, not as in {source} {published[source]}"
        )
    return (None, None) if every == 1 else (window, every)


_WINDOWED_LAYERS = {  # field -> what it says, for each of the layers, on whether it attends to everything
    "layer_types": lambda kinds, layers: [kind == "full_attention" for kind in kinds],
    "sliding_window_pattern": lambda pattern, layers: [(layer + 1) % pattern == 0 for layer in layers],
    "max_window_layers": lambda first, layers: [layer < first for layer in layers],
}


def _rope(published: dict) -> dict[str, object]:
    """Return the fields of `TransformerConfig` on rotary positions, whichever of three ways `config.json` writes them."""
    rope = published.get("rope_scaling") or published.get("rope_parameters") or {}
    near_theta = published["rope_local_base_freq"]
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
    theta = rope.get("rope_theta") or published["rope_theta"]
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


READERS: dict[str, Callable[[dict], Plan]] = {
    **dict.fromkeys(_LLAMA_FAMILY, _read_llama),
    "gpt2": _read_gpt2,
    "bert": _read_bert,
}
"""Model type -> what makes a plan of its `config.json`: KeyError for a missing field, ValueError for an unsupported one."""
DECODERS = (*_LLAMA_FAMILY, "gpt2")
"""The model types that `TransformerLM` can be."""
ENCODERS = ("bert",)
"""The model types that `TransformerEncoder` can be."""
