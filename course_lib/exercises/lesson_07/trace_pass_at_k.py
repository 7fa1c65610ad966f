"""Exercise 07.6: pass@k, by hand."""

from itertools import combinations

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_PASS_AT_K"]


def _set_by_set() -> float:
    """Return the share of the sets of three programs with a right one among them, from a list of all sets."""
    sets = list(combinations([True, True, *[False] * 6], 3))
    return sum(map(any, sets)) / len(sets)


TRACE_PASS_AT_K = Exercise(
    id="07.6",
    kind="trace",
    title="One of three is right",
    section="pass@k",
    answer="pass_at_3",
    results=("pass_at_3",),
    expected=_set_by_set,
    tolerance=0.005,
    stub="""\
# A model has written 8 programs for a task, and 2 of them pass its tests. The unbiased estimate of
# pass@3 is the share of all sets of 3 of these 8 programs that have a right one among them.
# By hand, as a fraction; you may use math.comb(n, k), the number of sets of k out of n.
pass_at_3 = ...
""",
    solution="""\
# 3 of the 6 wrong ones can be picked in 20 ways, 3 of all 8 in 56 ways: 36 sets have a right one
pass_at_3 = 1 - math.comb(6, 3) / math.comb(8, 3)
""",
    why="36 sets of 56: 0.64. The formula 1 − (1 − c/n)^k gives 0.58: it puts each program back before the next is picked, so "
    "that a wrong one may be picked twice. That is not only another question, it is biased. If a single program is right with "
    "probability p, what is wanted is 1 − (1 − p)^k. Over all that n programs may come out as, the mean of C(n − c, k) / "
    "C(n, k) is exactly (1 − p)^k. The mean of (1 − c/n)^k is larger, since a power k ≥ 2 is curved upwards: a c that is by "
    "chance too small adds more than one that is too large takes away. So the formula says too little, the more so the nearer "
    "k is to n (arXiv 2107.03374, section 2.1).",
    hints=(
        "Which sets are easier to count: those with a right program, or those without?",
        "A set without a right program takes all three from the wrong ones. How many wrong ones are there?",
        "Number of sets of 3 wrong ones, divided by the number of all sets of 3; and that taken from 1.",
    ),
    mistakes=(
        Mistake(
            "pass_at_3 = 1 - (1 - 2 / 8) ** 3",
            "That puts each program back before the next is picked, and is too low. A set has three different programs.",
        ),
        Mistake(
            "pass_at_3 = math.comb(6, 3) / math.comb(8, 3)",
            "That is the share of the sets in which all are wrong. Those with a right one are the others.",
        ),
        Mistake(
            "pass_at_3 = (1 - 2 / 8) ** 3",
            "That is how probably three programs are wrong, if each is put back. It was asked how many sets have a right one, "
            "and no set holds a program twice.",
        ),
        Mistake("pass_at_3 = 2 / 8", "That is pass@1: one program is picked. What if there are three tries?"),
        Mistake(
            "pass_at_3 = 3 * 2 / 8",
            "That is how many right programs a set holds on the average. A set that holds both has only one set's weight.",
        ),
        Mistake(
            "pass_at_3 = 2 * math.comb(6, 2) / math.comb(8, 3)",
            "Those are the sets with exactly one right program. Those that hold both count as well.",
        ),
        Mistake(
            "pass_at_3 = math.comb(6, 1) / math.comb(8, 3)",
            "Those are the sets that hold both right programs. One is enough.",
        ),
        Mistake(
            "pass_at_3 = 1 - math.comb(6, 2) / math.comb(8, 2)",
            "That is pass@2. Here sets of three are asked for.",
        ),
        Mistake(
            "pass_at_3 = 1 - math.comb(5, 3) / math.comb(8, 3)",
            "There are 8 − 2 = 6 wrong programs, and not 5: k is not taken off.",
        ),
        Mistake(
            "pass_at_3 = 1 - (2 / 8) ** 3",
            "That takes off what happens if all three are *right*. It is those without any right one that do not count.",
        ),
        Mistake(
            "pass_at_3 = 36",
            "That is the number of sets with a right program. As a share, it is divided by the number of all sets.",
        ),
    ),
)
