"""Exercise 02.4: the view that splits the sequence where it should split the model's width."""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR"]


def _layer_inputs(generator: torch.Generator) -> list[tuple]:
    """Return x (batch, position, d_model), w_q, w_k, w_v (d_model, width), w_o (width, d_model) and n_heads."""
    sizes = [(2, 5, 7, 3, 4), (3, 4, 10, 2, 6), (1, 6, 9, 4, 2)]
    return [
        (
            torch.randn(batch, position, d_model, generator=generator),
            *(torch.randn(d_model, n_heads * d_head, generator=generator) / d_model**0.5 for _ in range(3)),
            torch.randn(n_heads * d_head, d_model, generator=generator),
            n_heads,
        )
        for batch, position, d_model, n_heads, d_head in sizes
    ]


def _head_by_head(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, n_heads: int) -> Tensor:
    """Add up what each head writes: its own columns of the projections, its own rows of the last matrix."""
    matrices = (w.chunk(n_heads, dim=1) for w in (w_q, w_k, w_v))
    written = [
        F.scaled_dot_product_attention(x @ q, x @ k, x @ v) @ rows
        for q, k, v, rows in zip(*matrices, w_o.chunk(n_heads, dim=0), strict=True)
    ]
    return torch.stack(written).sum(dim=0)


_SPLIT = "view(batch, position, n_heads, -1).transpose(1, 2)"
_JOIN = "transpose(1, 2).reshape(batch, position, -1)"


def _layer(
    split: str = _SPLIT, join: str = _JOIN, scale: str = "math.sqrt(q.shape[-1])", softmax: str = "softmax(dim=-1)"
) -> str:
    """Return the cell of exercise 02.4 with its steps as given."""
    return f'''\
def multi_head_by_view(x, w_q, w_k, w_v, w_o, n_heads):
    """Multi-head self-attention without a mask: x (batch, position, d_model) -> the same shape.

    w_q, w_k, w_v (d_model, width), where width is n_heads · d_head, and w_o (width, d_model).
    """
    batch, position, _ = x.shape
    q, k, v = ((x @ w).{split} for w in (w_q, w_k, w_v))
    scores = q @ k.transpose(-2, -1) / {scale}  # (batch, head, query, key)
    out = scores.{softmax} @ v  # (batch, head, query, d_head)
    return out.{join} @ w_o
'''


_STUB = "view(batch, n_heads, position, -1)"

REPAIR = Exercise(
    id="02.4",
    kind="repair",
    title="Heads that cut up the text",
    section="A view where a transpose is needed",
    answer="multi_head_by_view",
    results=("output",),
    inputs=_layer_inputs,
    expected=_head_by_head,
    stub=_layer(split=_STUB),
    solution=_layer(),
    why="In memory the numbers of one position lie side by side. `view` renames the axes without moving a number, so it "
    "may only cut the width into (head, d_head), in the place where the width is; bringing the head to the front is a "
    "second step, a transpose. einops does both when the pattern says so, and refuses a pattern that does not fit.",
    hints=(
        "Write the shape of `x @ w` beside the first line that uses it. Which of its axes is cut into heads?",
        "Cut the last axis in two and leave the others where they are. The head axis is then not yet where the scores "
        "need it.",
        "Two steps: a view to (batch, position, head, d_head), then an exchange of two axes.",
    ),
    mistakes=(
        Mistake(
            _layer(split=_STUB, join="reshape(batch, position, -1)"),
            "Now both ends agree, and both are wrong: cut and joined in the same false way, each head still gets its own "
            "part of the text and not its own part of the width.",
        ),
        Mistake(
            _layer(join="reshape(batch, position, -1)"),
            "The split is right. On the way back the axes must be exchanged again before the heads are set side by side.",
        ),
        Mistake(
            _layer(split="view(batch, position, n_heads, -1)"),
            "The width is cut rightly, but the heads still stand behind the positions: now the heads of one position "
            "attend to each other, and no position sees another.",
        ),
        Mistake(
            _layer(split="view(batch, n_heads, position, -1).transpose(1, 2)"),
            "The view still cuts up the text; a transpose afterwards cannot mend that. It is the view's axes that must "
            "be in the order in which the numbers lie.",
        ),
        Mistake(
            _layer(split="unflatten(-1, (-1, n_heads)).permute(0, 3, 1, 2)"),
            "The axes are in order, but each head takes every n-th number: w_o expects runs of neighbouring numbers, "
            "head 0 first.",
        ),
        Mistake(
            _layer(scale="math.sqrt(x.shape[-1])"),
            "The heads are split rightly, but the scores are divided by √d_model. A head's dot product adds up d_head "
            "numbers.",
        ),
        Mistake(
            _layer(softmax="softmax(dim=1)"),
            "The heads are split rightly, but the softmax runs over the heads. Each head shares out its own weight of 1 "
            "among the keys.",
        ),
    ),
)
