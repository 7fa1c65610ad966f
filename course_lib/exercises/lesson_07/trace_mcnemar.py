"""Exercise 07.12: McNemar's exact test, by hand."""

from itertools import product

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_MCNEMAR"]


def _toss_by_toss() -> float:
    """Return the p-value from all outcomes of eleven tosses: the share that is split as unevenly as 9 to 2, or more."""
    heads = [sum(tosses) for tosses in product((0, 1), repeat=11)]
    return sum(abs(n - (11 - n)) >= 9 - 2 for n in heads) / len(heads)


TRACE_MCNEMAR = Exercise(
    id="07.12",
    kind="trace",
    title="Nine against two",
    section="Better, or luck?",
    answer="p_value",
    results=("p_value",),
    expected=_toss_by_toss,
    tolerance=0.005,
    stub="""\
# Two systems answer the same 60 questions. Both are right on 31 of them, and both wrong on 18; on 9
# only the new one is right, and on 2 only the old one. If neither were better, each of these 11
# would be the toss of a coin. How probable is a split as uneven as 9 to 2, or more, to either side?
# You may use math.comb(n, k), the number of sets of k out of n.
p_value = ...
""",
    solution="""\
# of 2048 outcomes 1 + 11 + 55 have at most 2 for the old one, and as many for the new one
p_value = 2 * (1 + 11 + 55) / 2**11
""",
    why="0.065: 40 right answers against 33, a lead of 12 points, and yet luck alone gives as much once in fifteen times. The "
    "49 items on which both do the same say nothing of which is better, so only 11 are left to decide. Both sides count: "
    "before the answers were seen, nobody could say which of the two would be ahead, and a lead of the old one would have "
    "been noticed as well. `course_lib.applications.evaluation.mcnemar` computes this, and `items_needed` how many items a "
    "claim needs: a question to ask before the test, not after it.",
    hints=(
        "The items on which both are right, or both wrong, are left out. How many are left, and how many outcomes have they?",
        "Count the outcomes with 0, 1 or 2 heads. Each number of heads can come in `math.comb` many ways.",
        "A split of 2 to 9 is as uneven as 9 to 2: count both sides.",
    ),
    mistakes=(
        Mistake(
            "p_value = (1 + 11 + 55) / 2048",
            "That is one side only. A split as uneven the other way round counts as well.",
        ),
        Mistake(
            "p_value = 2 * 55 / 2048",
            "Those are the splits of exactly 9 to 2. More uneven ones, 10 to 1 and 11 to 0, count as well.",
        ),
        Mistake("p_value = 55 / 2048", "That is exactly 9 to 2, to one side. Count more uneven ones, and both sides."),
        Mistake(
            "p_value = 2 * (1 + 11) / 2048",
            "Those are only the splits that are *more* uneven than 9 to 2. It counts itself, too.",
        ),
        Mistake(
            "p_value = math.erfc(math.sqrt((9 - 2) ** 2 / (9 + 2) / 2))",
            "That is McNemar's χ² in place of the exact probability. For 11 items it is far too small.",
        ),
        Mistake(
            "p_value = math.erfc(math.sqrt((9 - 2 - 1) ** 2 / (9 + 2) / 2))",
            "That is McNemar's χ² with its correction: near, but only an approximation. Eleven tosses can be counted.",
        ),
        Mistake(
            "p_value = (9 - 2) / 60",
            "That is the lead, as a share of the questions. How probable is one like it by luck?",
        ),
        Mistake(
            "p_value = 2 / 11",
            "That is the share of the old system among the 11. How probable is a split like it by luck?",
        ),
        Mistake(
            "p_value = 1 - 2 * (1 + 11 + 55) / 2048",
            "That is the probability of a split that is *less* uneven. The p-value is the other part.",
        ),
        Mistake(
            "p_value = sum(math.comb(73, i) for i in range(34)) / 2**72",
            "That compares 40 right answers with 33 as if they were to different questions. The pairs are what is known.",
        ),
        Mistake(
            "p_value = 2 * (1 + 11 + 55)",
            "That is how many outcomes there are. Divide by the number of all, 2 to the 11.",
        ),
    ),
)
