"""What a model costs, counted from its configuration alone: parameters, floating-point operations, bytes of cache.

Nothing here builds or runs a model. A matrix product of (m, n) with (n, p) is 2·m·n·p operations: a multiplication and an
addition for each pair of numbers that meet. Only matrix products are counted, as is the custom: norms, softmax and
activations are a few operations a number, where a product with a matrix is a thousand or more.
"""

import torch

from course_lib.architecture.transformer import TransformerConfig

__all__ = ["cache_bytes", "forward_flops", "parameter_count", "step_flops", "weight_bytes"]

_GATED = ("swiglu", "geglu")
_NORMS_A_LAYER = {"pre": 2, "post": 2, "output": 2, "sandwich": 4}


def parameter_count(config: TransformerConfig) -> dict[str, int]:
    """Return the number of parameters of `TransformerLM(config)` by part; their sum is the size of the model.

    A tied unembedding is the embedding matrix once more, so it counts 0.
    """
    d_model, layers = config.d_model, config.n_layers
    q_width, kv_width = _widths(config)
    qkv_width, up_width = q_width + 2 * kv_width, _up_width(config)
    attention = d_model * qkv_width + q_width * d_model
    feed_forward = d_model * up_width + config.d_ff * d_model
    if config.bias:
        attention += qkv_width + d_model
        feed_forward += up_width + d_model
    norm = d_model * (2 if config.norm == "layernorm" and config.bias else 1)
    n_norms = layers * _NORMS_A_LAYER[config.norm_position] + (config.norm_position != "post") + config.embedding_norm
    d_head = q_width // config.n_heads
    qk_norm = {None: 0, "head": 2 * d_head, "projection": q_width + kv_width}[config.qk_norm]
    return {
        "embedding": (config.vocab_size + _n_ngrams(config)) * d_model,
        "positions": config.context_length * d_model if config.positions == "learned" else 0,
        "attention": layers * attention,
        "feed-forward": layers * feed_forward,
        "norms": n_norms * norm + layers * qk_norm,
        "unembedding": 0 if config.tied_embeddings else config.vocab_size * d_model,
    }


def forward_flops(
    config: TransformerConfig, n_new: int, n_past: int = 0, n_logits: int | None = None
) -> dict[str, int]:
    """Return the floating-point operations of one forward pass by part, for one sequence.

    `n_new` positions are computed and attend to themselves and to `n_past` cached ones; logits are made for `n_logits` of
    them (None: for all; generating text needs the last one's only). "projections" are the four matrices of attention, and
    "scores and mixture" is q kᵀ and weights · v: the one part that grows with the length of the text. Every query is
    counted with every key, as the model computes them before it hides the future and what lies outside a window.

    Compare Kaplan et al. 2020, arXiv 2001.08361, section 2.1: 2 operations a parameter and token, attention aside.
    """
    if n_new < 1 or n_past < 0:
        raise ValueError(f"n_new must be at least 1 and n_past at least 0, not {n_new} and {n_past}")
    q_width, kv_width = _widths(config)
    projections = config.d_model * (2 * q_width + 2 * kv_width)
    feed_forward = config.d_model * (_up_width(config) + config.d_ff)
    pairs = n_new * (n_past + n_new)
    return {
        "projections": 2 * config.n_layers * n_new * projections,
        "scores and mixture": 2 * config.n_layers * pairs * 2 * q_width,
        "feed-forward": 2 * config.n_layers * n_new * feed_forward,
        "unembedding": 2 * (n_new if n_logits is None else n_logits) * config.d_model * config.vocab_size,
    }


def step_flops(config: TransformerConfig, batch_size: int, context_length: int) -> int:
    """Return the floating-point operations of one training step on `batch_size` sequences.

    The backward pass computes two products, the gradients of weights and of inputs, for each one of the forward pass; so 3
    times `forward_flops`. This is PaLM's convention (arXiv 2204.02311, appendix B): attention is counted, every query with
    every key, and what is computed a second time to save memory is not.
    """
    return 3 * batch_size * sum(forward_flops(config, context_length).values())


def cache_bytes(config: TransformerConfig, n_positions: int, dtype: torch.dtype = torch.float32) -> int:
    """Return the bytes that the keys and values of `n_positions` take in all layers' caches, for one sequence.

    Two vectors a key/value head and layer, and two for an induction head: queries are not kept. Grouped-query attention saves
    here (arXiv 2305.13245).
    """
    q_width, kv_width = _widths(config)
    induction = q_width // config.n_heads if config.induction_head else 0
    return 2 * n_positions * (config.n_layers * kv_width + induction) * dtype.itemsize


def weight_bytes(config: TransformerConfig, dtype: torch.dtype = torch.float32) -> int:
    """Return the bytes of weights that every forward pass reads, be it for one position or for many.

    Of the embedding, the n-grams and the learned positions only the rows of the tokens at hand are read, which is next to
    nothing; a tied embedding is read whole nevertheless, as the unembedding.
    """
    parts = parameter_count(config)
    tied = config.vocab_size * config.d_model if config.tied_embeddings else 0
    looked_up = parts["positions"] + parts["embedding"] - tied
    return (sum(parts.values()) - looked_up) * dtype.itemsize


def _widths(config: TransformerConfig) -> tuple[int, int]:
    """Return the widths of all queries of a position side by side, and of all its keys (or values)."""
    d_head = config.d_head or config.d_model // config.n_heads
    return config.n_heads * d_head, (config.n_kv_heads or config.n_heads) * d_head


def _n_ngrams(config: TransformerConfig) -> int:
    return 2 * (config.ngram_rows or 0)


def _up_width(config: TransformerConfig) -> int:
    return config.d_ff * (2 if config.feed_forward in _GATED else 1)
