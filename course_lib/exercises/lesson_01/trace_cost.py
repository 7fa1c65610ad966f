"""Exercise 01.5: how much memory the scores of heads take."""

import torch

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_COST"]


def _megabytes() -> float:
    """Measure it for a hundredth of the tokens: with the square of their number, the rest follows."""
    q = torch.ones(10, 30, 64)
    return (q @ q.mT).nbytes * 100**2 / 1e6


TRACE_COST = Exercise(
    id="01.5",
    kind="trace",
    title="The memory of the scores",
    section="What it costs",
    answer="megabytes",
    results=("megabytes",),
    expected=_megabytes,
    tolerance=1e-3,
    stub="""\
# 10 heads work side by side on a text of 3,000 tokens, each with 64 numbers a query. The
# attention of section 6 makes all scores before it masks any, and stores each in 4 bytes. How
# many megabytes (millions of bytes) do these scores take? By hand.
megabytes = ...
""",
    solution="""\
# 3,000 queries meet 3,000 keys: 9 million scores for each of 10 heads, of 4 bytes
megabytes = 10 * 9 * 4
""",
    why="Each of the 10 heads has 3,000 · 3,000 scores of 4 bytes: 36 MB a head, 360 MB in all. The 64 numbers of a query are "
    "summed away in the dot product, so a score is one number however long the vectors are. The output, which is all that "
    "the fused function makes, has 10 · 3,000 · 64 numbers: 7.7 MB, and it grows with the text instead of its square.",
    hints=(
        "Which shape has the tensor of the scores, with the heads in front?",
        "A score is one number for a pair of a query and a key. How many pairs are there, in how many heads?",
        "Multiply heads, queries, keys and bytes, and divide by a million.",
    ),
    mistakes=(
        Mistake("megabytes = 36", "That is one head. There are ten side by side, each with scores of its own."),
        Mistake("megabytes = 90", "That counts the scores. Each takes 4 bytes."),
        Mistake(
            "megabytes = 9", "That is the number of scores of one head, in millions. There are ten heads, and bytes."
        ),
        Mistake(
            "megabytes = 180",
            "That is half of the scores, as if those above the diagonal were never made. The mask hides them once they are "
            "there.",
        ),
        Mistake(
            "megabytes = 10 * 3000 * 4 / 1e6",
            "That is one score a token. Each token meets every other: it is a number for each pair.",
        ),
        Mistake(
            "megabytes = 10 * 3000 * 64 * 4 / 1e6",
            "That is the size of the queries, or of the output. Scores are one number for each pair of tokens.",
        ),
        Mistake(
            "megabytes = 10 * 3000**2 * 64 * 4 / 1e6",
            "The 64 numbers of a query are summed up in the dot product: a score is a single number.",
        ),
        Mistake("megabytes = 10 * 3000**2 * 4 / 2**20", "That is in units of 2²⁰ bytes. A megabyte is 10⁶ here."),
        Mistake("megabytes = 10 * 3000**2 * 4", "That is in bytes. A megabyte is a million of them."),
        Mistake("megabytes = 10 * 3000**2 * 4 / 1e9", "That is in gigabytes. A megabyte is a million bytes."),
        Mistake(
            "megabytes = 10**2 * 3000**2 * 4 / 1e6",
            "Heads do not meet each other: each has one square of scores, and there are ten squares.",
        ),
        Mistake("megabytes = 10 * 3000**2 * 32 / 1e6", "You count bits: 4 bytes are 32 of them."),
    ),
)
