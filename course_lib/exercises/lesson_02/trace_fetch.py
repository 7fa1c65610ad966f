"""Exercise 02.2: how much of one of three things a single head hands on."""

import torch

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_FETCH"]


def _left_by_least_squares() -> float:
    """Draw the three vectors, mix them, fit the first to the mixture, and see what is left."""
    parts = torch.randn(3, 10_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = torch.linalg.qr(parts.T).Q.T  # as vectors that have nothing in common
    mixed = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64) @ parts
    fit = mixed * (mixed @ parts[0]) / (mixed @ mixed)
    return ((parts[0] - fit).square().sum() / parts[0].square().sum()).item()


TRACE_FETCH = Exercise(
    id="02.2",
    kind="trace",
    title="One head, three things",
    section="Why several heads",
    answer="share",
    results=("share",),
    expected=_left_by_least_squares,
    tolerance=0.01,
    stub="""\
# Position i has to put out three vectors, x_(i-1), x_(i-2) and x_(i-3), side by side. The x are
# random and have nothing to do with each other. One head mixes them with the weights
# 0.5, 0.3 and 0.2, and the matrices behind it make the best of the mixture.
# Which share of the variance of the first part, x_(i-1), stays wrong?
share = ...
""",
    solution="""\
# p times the mixture has the error (0.5 p - 1)² + (0.3 p)² + (0.2 p)², smallest for p = 0.5 / 0.38
share = (0.3**2 + 0.2**2) / (0.5**2 + 0.3**2 + 0.2**2)
""",
    why="What is mixed in with the wanted part is noise, and squares of weights count, since variances add up. By the "
    "same sum the second part keeps 0.29 of 0.38 and the third 0.34 of 0.38 wrong: together 2 of 3, whatever the "
    "weights. One mixture hands on one thing's worth.",
    hints=(
        "As in the text for two parts: multiply the mixture by a number p, and write down the error of the first part.",
        "The other two come in as noise. Their variances add up, and a variance is multiplied by the square of a weight.",
        "For two parts, b² / (a² + b²) was left. What stands in the place of b² now?",
    ),
    mistakes=(
        Mistake(
            "share = 0.5",
            "That is 1 − 0.5. Variances are multiplied by the *squares* of the weights.",
        ),
        Mistake(
            "share = 0.75",
            "That is 1 − 0.5²: the mixture is taken as it is. It may be multiplied by the best number first.",
        ),
        Mistake(
            "share = 0.25 / 0.38",
            "That is the share that comes through. What stays wrong is the rest.",
        ),
        Mistake(
            "share = 0.09 / 0.34",
            "The third vector is noise as well.",
        ),
        Mistake(
            "share = 2 / 3",
            "That is the share over all three parts together. Here the first part is asked for, which has the largest "
            "weight.",
        ),
    ),
)
