"""Exercise 02.1: activation patching in the two heads made by hand."""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_PATCH"]


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _weight_with_patched_keys() -> float:
    """Let the two heads of the lesson run, the first of them switched off for the keys of the second."""
    token = F.one_hot(torch.tensor([0, 1, 2, 3, 1, 2])).float()[None]
    place = torch.eye(6)[None]
    before = _attend(12 * place.roll(-1, dims=2), place, token)
    return _attend(12 * token, 0 * before, place)[0, 5, 3].item()


TRACE_PATCH = Exercise(
    id="02.1",
    kind="trace",
    title="A patch by hand",
    section="Who put it there?",
    answer="weight",
    results=("weight",),
    expected=_weight_with_patched_keys,
    tolerance=0.01,
    stub="""\
# The two heads made by hand, on the letters ^ a b c a b, positions 0 to 5. Run them twice: once as
# they are, once with the first head off, so that it hands over zeros. Now the second head takes
# its queries and values from the first run, and its keys from the second.
# Which weight does the last position, the second b, give to position 3, the c?
weight = ...
""",
    solution="""\
# keys of zeros: all six scores are 0, and the weight is shared out evenly
weight = 1 / 6
""",
    why="The second head finds its place by what the first one has written, and reads that in its keys. Without it all "
    "keys are alike, and alike keys get alike weights. With the queries from the second run nothing would change: they "
    "are made of the position's own letter. That is how the two runs tell the ways apart.",
    hints=(
        "Which of the three does the first head's result go into? Look at the call that makes `after`.",
        "A vector of zeros has the same dot product with every query.",
        "The softmax of equal scores is even. How many positions does the last one see?",
    ),
    mistakes=(
        Mistake(
            "weight = 1.0",
            "That is its weight when nothing is patched: with the keys as they are, it finds the c. These keys hold nothing.",
        ),
        Mistake(
            "weight = 0.0",
            "A score of 0 is not a weight of 0: the exponential of 0 is 1, for each of the keys.",
        ),
        Mistake(
            "weight = 1 / 5",
            "The last position sees itself as well: the mask hides only what comes after.",
        ),
        Mistake(
            "weight = 1 / 4",
            "Weights are shared out among positions, not among the four different letters.",
        ),
    ),
)
