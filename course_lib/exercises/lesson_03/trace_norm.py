"""Exercise 03.1: one number of an RMSNorm, by hand."""

import torch
from torch.nn import functional as F

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_NORM"]


def _normalised() -> float:
    x, weight = torch.tensor([[1, -5, 7, 5], [1, 0.5, 1.5, 3]])
    return F.rms_norm(x, (4,), weight, eps=0.0)[2].item()


TRACE_NORM = Exercise(
    id="03.1",
    kind="trace",
    title="One number of an RMSNorm by hand",
    section="Norms",
    answer="y_2",
    results=("y_2",),
    expected=_normalised,
    tolerance=0.01,
    stub="""\
# The stream at one position, and the learned weights of an RMSNorm whose ε is 0:
#     x = [1,  −5,   7, 5]
#     w = [1, 0.5, 1.5, 3]
# What is y[2], where y = RMSNorm(x)? By hand: the squares of x add up to a round number.
y_2 = ...
""",
    solution="""\
# squares 1 + 25 + 49 + 25 = 100;  their mean 100 / 4 = 25;  its root 5
y_2 = 7 / 5 * 1.5
""",
    why="The squares have the mean 25, so the root mean square is 5: x / 5 has a root mean square of 1, and 7 becomes 1.4. "
    "The learned weight then gives this component the size that suits the sublayer behind it: 1.4 · 1.5 = 2.1. The mean of "
    "x, 2, is not taken off: that is what RMSNorm leaves out of LayerNorm.",
    hints=(
        "Two steps: divide the whole vector by one number, then multiply each component by a weight of its own.",
        "The number is what its name says, read from the back: square each component, take the mean, take the root.",
        "The four squares add up to 100. Components count from 0, so y[2] is the third.",
    ),
    mistakes=(
        Mistake(
            "y_2 = (7 - 2) / math.sqrt(21) * 1.5",
            "That is LayerNorm, which takes off the mean and divides by the standard deviation. RMSNorm takes off nothing.",
        ),
        Mistake(
            "y_2 = (7 - 2) / math.sqrt(28) * 1.5",
            "That is LayerNorm with n − 1 in its variance. RMSNorm takes off no mean, and divides by n.",
        ),
        Mistake(
            "y_2 = (7 - 2) / 5 * 1.5",
            "Divided by the right number, but the mean was taken off first. Only LayerNorm does that.",
        ),
        Mistake(
            "y_2 = 7 / math.sqrt(21) * 1.5",
            "That divides by the standard deviation, which measures from the mean. The root mean square measures from 0.",
        ),
        Mistake(
            "y_2 = 7 / math.sqrt(28) * 1.5",
            "That divides by the standard deviation with n − 1. The root mean square is a mean over all n squares, measured "
            "from 0.",
        ),
        Mistake(
            "y_2 = 7 / math.sqrt(100 / 3) * 1.5",
            "That takes the mean of the squares with n − 1. It is an ordinary mean: four squares, divided by four.",
        ),
        Mistake(
            "y_2 = 7 / 10 * 1.5",
            "That divides by the length of the vector, the root of the *sum* of the squares. It is the root of their *mean*, "
            "so that the numbers keep their size however wide the vector is.",
        ),
        Mistake(
            "y_2 = 7 / 25 * 1.5",
            "That divides by the mean square. Its root is still to be taken.",
        ),
        Mistake(
            "y_2 = 7 / 100 * 1.5",
            "That divides by the sum of the squares. Take their mean, and its root.",
        ),
        Mistake(
            "y_2 = 7 / 4.5 * 1.5",
            "That divides by the mean of the absolute values. The components are squared before the mean.",
        ),
        Mistake(
            "y_2 = 7 / 5",
            "The vector is normalised, but the learned weight is missing.",
        ),
        Mistake(
            "y_2 = 7 / 5 / 1.5",
            "The vector is normalised rightly, but the weight multiplies; it does not divide.",
        ),
        Mistake(
            "y_2 = 10.5 / math.sqrt(342.5 / 4)",
            "The weights were applied before the norm, so they changed what the vector is divided by. They come after it.",
        ),
        Mistake(
            "y_2 = -5 / 5 * 0.5",
            "That is y[1]. Components count from 0, so y[2] is the third.",
        ),
        Mistake(
            "y_2 = 5",
            "That is the number to divide by, the root mean square. The division and the weight are still to come.",
        ),
    ),
)
