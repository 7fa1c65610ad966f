"""Exercise 02.6: how far a head is an induction head, from its weights."""

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_INDUCTION"]


def _by_looking_up() -> float:
    """For each token that was there before, take the weight on the one after it."""
    tokens = "xyzxyz"
    rows = {3: (0.1, 0.6, 0.2, 0.1), 4: (0.05, 0.2, 0.4, 0.25, 0.1), 5: (0.1, 0.1, 0.2, 0.35, 0.2, 0.05)}
    found = [row[tokens.index(tokens[query]) + 1] for query, row in rows.items()]
    return sum(found) / len(found)


TRACE_INDUCTION = Exercise(
    id="02.6",
    kind="trace",
    title="How much of an induction head",
    section="What 270 heads do",
    answer="measure",
    results=("measure",),
    expected=_by_looking_up,
    tolerance=0.01,
    stub="""\
# The weights of a head on six tokens, x y z x y z. Keys 0, 1, 2, … from left to right:
#     query 3 (x)   0.1    0.6   0.2   0.1
#     query 4 (y)   0.05   0.2   0.4   0.25   0.1
#     query 5 (z)   0.1    0.1   0.2   0.35   0.2   0.05
# By the table above, how much of an induction head is it? (The mean weight of these three queries.)
measure = ...
""",
    solution="""\
# x was at 0, so key 1; y was at 1, so key 2; z was at 2, so key 3
measure = (0.6 + 0.4 + 0.35) / 3
""",
    why="More than 0.3, so the letter is I. The same rows hold the other measures as well, each on a diagonal of its "
    "own: the same token in keys 0, 1, 2, the token before in keys 2, 3, 4, the own position in keys 3, 4, 5. That is "
    "what the cell above reads with `diagonal`.",
    hints=(
        "The table says *on the token after the same one*. Where did x stand before, and what came after it?",
        "Query 3 is an x. The x before stood at 0, so its entry is in the column of key 1.",
        "From row to row the entry moves one to the right. Take the mean of the three.",
    ),
    mistakes=(
        Mistake(
            "measure = (0.1 + 0.2 + 0.2) / 3",
            "That is the weight on the *same* token: the letter D. An induction head looks at the one after it.",
        ),
        Mistake(
            "measure = (0.2 + 0.25 + 0.2) / 3",
            "That is the weight on the position before: the letter P.",
        ),
        Mistake(
            "measure = (0.1 + 0.1 + 0.05) / 3",
            "That is the weight on the own position: the letter C.",
        ),
        Mistake(
            "measure = (0.6 + 0.4) / 2",
            "The last row counts as well: the token after the first z is the second x, at position 3.",
        ),
        Mistake(
            "measure = 0.6 + 0.4 + 0.35",
            "That is the sum of the three weights. The measure is their mean.",
        ),
    ),
)
