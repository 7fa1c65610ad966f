"""Exercise 01.4: scaled dot-product attention from its signature."""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_ATTENTION"]


def _attention_inputs(generator: torch.Generator) -> list[tuple]:
    """Return q (batch, query, d), k (batch, key, d), v (batch, key, d_v)."""
    sizes = [(2, 5, 7, 3, 4), (3, 6, 2, 9, 5), (1, 4, 6, 8, 3)]
    return [
        tuple(torch.randn(batch, *shape, generator=generator) for shape in ((query, d), (key, d), (key, d_v)))
        for batch, query, key, d, d_v in sizes
    ]


def _fused_with_weights(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return what PyTorch's kernel gives; with the identity as values, what it gives is the weights."""
    identity = torch.eye(k.shape[-2]).expand(k.shape[0], -1, -1)
    return F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k, identity)


_SIGNATURE = '''\
def my_attention(q, k, v):
    """Scaled dot-product attention: output (batch, query, d_v), weights (batch, query, key).

    q (batch, query, d), k (batch, key, d), v (batch, key, d_v). No mask.
    """
'''


def _written(
    scores: str = "q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])",
    weights: str = "scores.softmax(dim=-1)",
    result: str = "weights @ v, weights",
) -> str:
    """Return the cell of exercise 01.4 with its three steps as given."""
    return f"{_SIGNATURE}    scores = {scores}\n    weights = {weights}\n    return {result}\n"


_PRODUCT = "q @ k.transpose(-2, -1)"

WRITE_ATTENTION = Exercise(
    id="01.4",
    kind="write",
    title="Scaled dot-product attention",
    section="Why divide by √d",
    answer="my_attention",
    results=("output", "weights"),
    inputs=_attention_inputs,
    expected=_fused_with_weights,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_written(),
    why="Every query meets every key in one matrix product, so the scores are (batch, query, key). For independent components "
    "of variance 1 a dot product over d of them has variance d; dividing by √d brings it back to 1, where the softmax still "
    "has a gradient. The softmax runs over the keys, because each query shares out a total weight of 1 among them.",
    hints=(
        "Three lines: scores, weights, output. Write the shape of each beside it before you write the line.",
        "Scores (batch, query, key) come from q (batch, query, d) and k (batch, key, d): which two dimensions of k must swap?",
        "Scale by the square root of the size that the dot product sums over, then softmax over the dimension of the keys.",
    ),
    mistakes=(
        Mistake(
            _written(_PRODUCT),
            "The scaling is missing. Without 1/√d the scores spread as √d, and the softmax saturates.",
        ),
        Mistake(
            _written(f"{_PRODUCT} / math.sqrt(k.shape[-2])"),
            "That is the square root of the number of keys. What grows the scores is the number of components that each dot "
            "product adds up.",
        ),
        Mistake(
            _written(f"{_PRODUCT} / math.sqrt(v.shape[-1])"),
            "That is the square root of d_v, the size of the values, which have no part in the scores. Take d, the size of "
            "queries and keys.",
        ),
        Mistake(
            _written(f"{_PRODUCT} / q.shape[-1]"),
            "That divides by d. The variance of a dot product grows as d, so its spread grows as √d.",
        ),
        Mistake(
            _written(f"{_PRODUCT} * math.sqrt(q.shape[-1])"),
            "That multiplies by √d, and makes wide scores wider still.",
        ),
        Mistake(
            _written(weights="scores.softmax(dim=-2)"),
            "The softmax runs over the queries: each column adds up to 1. Each query shares out its weight among the keys, so "
            "each row must.",
        ),
        Mistake(
            _written(weights="scores.softmax(dim=0)"),
            "The softmax runs over the batch, and mixes sentences that have nothing to do with each other. The keys are the "
            "last dimension.",
        ),
        Mistake(
            _written("q @ k.reshape(k.shape[0], k.shape[2], k.shape[1]) / math.sqrt(q.shape[-1])"),
            "The keys are reshaped, not transposed: the shape fits, but the numbers of different keys are mixed.",
        ),
        Mistake(
            _written("q @ k / math.sqrt(q.shape[-1])"),
            "The keys are not transposed: a matrix product sums over the last dimension of q and the one before the last of k, "
            "and both must be d.",
        ),
        Mistake(
            _written(_PRODUCT, "scores.softmax(dim=-1) / math.sqrt(q.shape[-1])"),
            "The scaling comes after the softmax: there it shrinks the weights, which no longer add up to 1, and the softmax "
            "has saturated already.",
        ),
        Mistake(
            _written(result="weights @ v, scores"),
            "The output is right, but what is returned beside it is the scores: the weights are their softmax.",
        ),
        Mistake(
            _written(result="weights, weights @ v"),
            "Both are right, but in the other order: the output comes first, then the weights.",
        ),
    ),
)
