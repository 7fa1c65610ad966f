"""Exercise 02.9: grouped-query attention."""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_GROUPED"]


def _grouped_inputs(generator: torch.Generator) -> list[tuple]:
    """Return q (batch, head, query, d_head) and k, v (batch, kv_head, key, d_head)."""
    sizes = [(1, 6, 5, 2, 7, 4), (2, 9, 5, 3, 4, 8), (3, 8, 5, 4, 6, 7)]
    return [
        (
            torch.randn(batch, head, query, d, generator=generator),
            *torch.randn(2, batch, kv_head, key, d, generator=generator),
        )
        for batch, head, query, kv_head, key, d in sizes
    ]


def _head_by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    group = q.shape[1] // k.shape[1]
    heads = [F.scaled_dot_product_attention(q[:, h], k[:, h // group], v[:, h // group]) for h in range(q.shape[1])]
    return torch.stack(heads, dim=1)


_SIGNATURE = '''\
def grouped_query_attention(q, k, v):
    """Return (batch, head, query, d_head). No mask.

    q (batch, head, query, d_head); k and v (batch, kv_head, key, d_head), where kv_head
    divides head. Of 6 heads and 2 key/value heads, query heads 0, 1 and 2 use key/value head 0,
    and query heads 3, 4 and 5 use key/value head 1.
    """
'''


def _grouped(
    share: str = "repeat_interleave(q.shape[1] // k.shape[1], dim=1)",
    scale: str = " / math.sqrt(q.shape[-1])",
    q: str = "q",
) -> str:
    """Return the cell of exercise 02.9 with the sharing, the scaling and the queries as given."""
    return f"""\
{_SIGNATURE}    k, v = (kv.{share} for kv in (k, v))
    scores = {q} @ k.transpose(-2, -1){scale}
    return scores.softmax(dim=-1) @ v
"""


WRITE_GROUPED = Exercise(
    id="02.9",
    kind="write",
    title="Grouped-query attention",
    section="Fewer keys and values",
    answer="grouped_query_attention",
    results=("output",),
    inputs=_grouped_inputs,
    expected=_head_by_head,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_grouped(),
    why="Each key/value head stands once for every query head of its group, next to each other: 0, 0, 0, 1, 1, 1. With "
    "that it is ordinary attention. Only the cache gets smaller: it holds each key/value head once, and the copies are "
    "made on the way (a good kernel makes none). One key/value head is multi-query attention; as many as query heads, "
    "the ordinary one.",
    hints=(
        "If there were as many key/value heads as query heads, three lines from lesson 01 would do. What is missing to "
        "get there?",
        "Which key/value head does query head 4 of 6 use, if there are 2? Make k and v as tall as q along the head axis.",
        "The copies of one key/value head must stand next to each other: 0, 0, 0, 1, 1, 1.",
    ),
    mistakes=(
        Mistake(
            _grouped("repeat(1, q.shape[1] // k.shape[1], 1, 1)"),
            "The copies stand in the order 0, 1, 0, 1, …, so neighbouring query heads use different key/value heads. A "
            "group is a run of neighbours: 0, 0, …, 1, 1, ….",
        ),
        Mistake(
            _grouped("mean(dim=1, keepdim=True)"),
            "All query heads use the mean of all key/value heads. Each group has a key/value head of its own.",
        ),
        Mistake(
            _grouped("narrow(1, 0, 1)"),
            "All query heads use key/value head 0: that is multi-query attention. Each group has a key/value head of its "
            "own.",
        ),
        Mistake(
            _grouped(q="q.unflatten(1, (k.shape[1], -1)).mean(dim=2)", share="contiguous()"),
            "The queries of each group are averaged, and heads are lost: the output must have as many heads as q.",
        ),
        Mistake(
            _grouped(scale=""),
            "The groups are right, but the scores are not scaled by 1/√d_head.",
        ),
        Mistake(
            _grouped(scale=" / math.sqrt(q.shape[1])"),
            "The groups are right, but the scores are divided by the root of the number of heads. It is the root of d_head.",
        ),
        Mistake(
            _grouped("flip(1).repeat_interleave(q.shape[1] // k.shape[1], dim=1)"),
            "The groups use the key/value heads in reverse order: query head 0 belongs to key/value head 0.",
        ),
    ),
)
