"""Exercise 02.3: one weight of one head, by hand."""

import math

import torch
from torch.nn import functional as F

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_WEIGHT"]


def _weight_in_head_1() -> float:
    q = torch.tensor([[2, 1, math.sqrt(2), math.sqrt(2), -1, 3]])
    k = torch.tensor([[0, 1, math.log(3), 1, 0, 1], [1, 1, 0, 1, 2, 0]])
    heads = [part.reshape(1, -1, 3, 2).transpose(1, 2) for part in (q, k)]
    return F.scaled_dot_product_attention(*heads, torch.eye(2).expand(1, 3, 2, 2))[0, 1, 0, 0].item()


def _sigmoid(difference: str) -> str:
    """Return the answer that gives key 0 its weight of two, from how much larger its score is."""
    return f"weight = 1 / (1 + math.exp(-({difference})))"


TRACE_WEIGHT = Exercise(
    id="02.3",
    kind="trace",
    title="One weight of one head by hand",
    section="Split, attend, concatenate, project",
    answer="weight",
    results=("weight",),
    expected=_weight_in_head_1,
    tolerance=0.01,
    stub="""\
# Two positions, d_model = 6, three heads: 0, 1 and 2.
# Before the split, the query of position 1 and both keys are
#     q₁ = [2, 1,   √2, √2, −1, 3]
#     k₀ = [0, 1, ln 3,  1,  0, 1]
#     k₁ = [1, 1,    0,  1,  2, 0]
# Which weight does position 1 give to position 0 in head 1? By hand: the square roots cancel.
weight = ...
""",
    solution="""\
# d_head = 6 / 3 = 2, so head 1 has numbers 2 and 3: q = (√2, √2), k₀ = (ln 3, 1), k₁ = (0, 1)
# q·k₀ / √2 = ln 3 + 1,  q·k₁ / √2 = 1;  exponentials 3e and e
weight = 3 / (3 + 1)
""",
    why="Each head attends with its own d_model / n_heads = 2 numbers, as if the others were not there, and is scaled by the "
    "root of what its own dot product adds up: √d_head = √2. Heads 0 and 2 have other weights for the same two positions, "
    "and that is what several heads are for.",
    hints=(
        "First find out which two of the six numbers belong to head 1. Heads are counted from 0.",
        "The split gives each head a run of neighbouring numbers. With those alone, do what lesson 01 did: scores, scale, "
        "softmax.",
        "The scale is the root of how many numbers each dot product adds up, here two. Both scores hold the same 1: it "
        "cancels in the softmax.",
    ),
    mistakes=(
        Mistake(
            _sigmoid("(-2 + math.sqrt(2) * math.log(3) + 5) / math.sqrt(6)"),
            "That is what a single head of all six numbers would give. The split comes before the dot product.",
        ),
        Mistake(
            _sigmoid("math.sqrt(2) * math.log(3) / math.sqrt(6)"),
            "The right two numbers, but scaled by √d_model. The dot product of a head adds up only d_head numbers.",
        ),
        Mistake(
            _sigmoid("math.sqrt(2) * math.log(3) / math.sqrt(3)"),
            "The right two numbers, but scaled by the root of the number of heads. It is the root of the numbers *in* a "
            "head.",
        ),
        Mistake(
            _sigmoid("math.sqrt(2) * math.log(3)"),
            "The right two numbers, but the scores are not scaled before the softmax.",
        ),
        Mistake(
            _sigmoid("-2 / math.sqrt(2)"),
            "That is head 0. Heads are counted from 0, so head 1 is the second one.",
        ),
        Mistake(
            _sigmoid("5 / math.sqrt(2)"),
            "That is head 2, the last one.",
        ),
        Mistake(
            _sigmoid("2 / math.sqrt(2)"),
            "That takes every third number for a head. A head has a run of neighbouring numbers: 0 and 1, then 2 and 3, …",
        ),
        Mistake(
            "weight = 1 / 4",
            "That is the weight that position 1 gives to itself. The two add up to 1.",
        ),
    ),
)
