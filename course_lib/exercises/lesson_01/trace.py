"""Exercise 01.1: one attention weight, by hand."""

import math

import torch
from torch.nn import functional as F

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE"]


def _weight_of_key_0() -> float:
    q = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
    k = torch.tensor([[math.log(5), 3, 1, 1], [math.log(2), 1, 2, 2], [0, 4, -3, -3]])
    return F.scaled_dot_product_attention(q, k, torch.eye(3))[0, 0].item()


TRACE = Exercise(
    id="01.1",
    kind="trace",
    title="One attention weight by hand",
    section="Queries, keys and values",
    answer="weight",
    results=("weight",),
    expected=_weight_of_key_0,
    tolerance=0.01,
    stub="""\
# One query and three keys, d = 4:
#     q  = [ 2,   0,  1, −1]
#     k₀ = [ln 5, 3,  1,  1]
#     k₁ = [ln 2, 1,  2,  2]
#     k₂ = [ 0,   4, −3, −3]
# Which attention weight does the query give to key 0?
# By hand: the logarithms undo the softmax's exponentials.
weight = ...
""",
    solution="""\
# q·k₀ = 2 ln 5,  q·k₁ = 2 ln 2,  q·k₂ = 0;  divided by √4 = 2:  ln 5, ln 2, 0;  exponentials:  5, 2, 1
weight = 5 / (5 + 2 + 1)
""",
    why="The dot products are 2 ln 5, 2 ln 2 and 0. Dividing by √d = 2 leaves ln 5, ln 2 and 0, whose exponentials 5, 2 and 1 "
    "add up to 8. Key 2 scores 0 and still gets 1/8: no finite score gives a weight of exactly 0.",
    hints=(
        "There are three steps: a score for each key, a scaling of the scores, a softmax over the three keys.",
        "Each score is one dot product. In each one the last two products cancel; twice a logarithm is left.",
        "After dividing by √4 the scores are logarithms; e to the power ln x is x. A score of 0 takes part in the sum too.",
    ),
    mistakes=(
        Mistake(
            "weight = 25 / (25 + 4 + 1)",
            "That is the softmax of the dot products themselves: before it, every score is divided by √d.",
        ),
        Mistake(
            "weight = math.sqrt(5) / (math.sqrt(5) + math.sqrt(2) + 1)",
            "That divides the scores by d. It is √d: the standard deviation of the dot product, not its variance.",
        ),
        Mistake(
            "weight = math.log(5) / (math.log(5) + math.log(2))",
            "That divides the scores by their sum. The softmax takes exponentials first, so that every weight is positive.",
        ),
        Mistake(
            "weight = 5 / (5 + 2)",
            "That leaves out key 2, whose score is 0. A score of 0 is not a weight of 0: what is the exponential of 0?",
        ),
        Mistake(
            "weight = 5",
            "That is the exponential of the score. The weights of one query add up to 1: something is left to divide by.",
        ),
        Mistake(
            "weight = math.log(5)",
            "That is the scaled score, not the weight: a weight lies between 0 and 1, and the softmax is what makes it so.",
        ),
        Mistake(
            "weight = 2 * math.log(5)",
            "That is the dot product, the first step of three: the scaling and the softmax are still to come.",
        ),
    ),
)
