"""Exercise 01.3: the mask that is applied after the softmax."""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR"]


def _self_attention_inputs(generator: torch.Generator) -> list[tuple]:
    """Return q, k (batch, position, d) and v (batch, position, d_v)."""
    sizes = [(2, 5, 3, 4), (3, 7, 8, 2), (1, 4, 6, 5)]
    return [
        tuple(torch.randn(batch, position, size, generator=generator) for size in (d, d, d_v))
        for batch, position, d, d_v in sizes
    ]


def _fused_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _repaired(visible: str, mask: str) -> str:
    """Return the cell of exercise 01.3 with the mask and its use as given."""
    return f'''\
def causal_attention(q, k, v):
    """Attend to this position and the past -> like v.

    q, k (batch, position, d), v (batch, position, d_v)
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (batch, query, key)
    visible = {visible}
{mask}
    return weights @ v
'''


_TRIL = "torch.ones_like(scores, dtype=torch.bool).tril()  # True = may attend"
_BEFORE = "    weights = scores.masked_fill(~visible, -math.inf).softmax(dim=-1)"

REPAIR = Exercise(
    id="01.3",
    kind="repair",
    title="A causal mask that leaks",
    section="The causal mask",
    answer="causal_attention",
    results=("output",),
    inputs=_self_attention_inputs,
    expected=_fused_causal,
    stub=_repaired(_TRIL, "    weights = scores.softmax(dim=-1)\n    weights = weights.masked_fill(~visible, 0.0)"),
    solution=_repaired(_TRIL, _BEFORE),
    why="Set to 0 after the softmax, the hidden keys have already taken their share of the sum, so the weights of a query no "
    "longer add up to 1, and how much is missing depends on the future. A score of −∞ before the softmax has the exponential "
    "0: the hidden key takes no share. (Dividing each row by its sum afterwards gives the same numbers, for one step more.)",
    hints=(
        "Print the sum of each query's weights. Which rows are wrong, and which one is right?",
        "The hidden keys take part in the softmax's sum before they are hidden. In which order must the two steps come?",
        "Which score has an exponential of exactly 0? Give it to the hidden keys, and take the softmax after that.",
    ),
    mistakes=(
        Mistake(
            _repaired(_TRIL, "    weights = scores.masked_fill(~visible, 0.0).softmax(dim=-1)"),
            "The order is right now, but the hidden keys still get weight: a score of 0 has the exponential 1, not 0.",
        ),
        Mistake(
            _repaired(_TRIL, _BEFORE.replace("~visible", "visible")),
            "The mask is inverted: each query now sees the future only, and the last one sees nothing and gives NaN. "
            "`masked_fill` fills where its mask is True, and `visible` is True where a query may look.",
        ),
        Mistake(
            _repaired("torch.ones_like(scores, dtype=torch.bool).tril(-1)", _BEFORE),
            "Now a position does not see itself, and the first one sees nothing at all: the softmax over nothing is NaN. "
            "The diagonal belongs to the visible keys.",
        ),
        Mistake(
            _repaired("torch.ones_like(scores, dtype=torch.bool).triu()", _BEFORE),
            "The mask is transposed: each query sees itself and the future. Rows are queries and columns are keys, so the "
            "past lies below the diagonal.",
        ),
        Mistake(
            _repaired(_TRIL, "    weights = scores.softmax(dim=-1)"),
            "Now nothing is hidden: the weights do add up to 1, but every query sees the whole future.",
        ),
        Mistake(
            _repaired(_TRIL, _BEFORE.replace("dim=-1", "dim=-2")),
            "The softmax now runs over the queries. Each query shares out its own weight among the keys: the last dimension.",
        ),
    ),
)
