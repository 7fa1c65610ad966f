"""Exercise 07.7: pass@k from n programs."""

import math
from fractions import Fraction

import torch

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_PASS_AT_K"]


def _counts(generator: torch.Generator) -> list[tuple[int, int, int]]:
    """Return n, c and k: a small task, large ones, one with none right, and one with fewer wrong programs than k."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    return [
        (draw(9, 14), draw(2, 4), draw(4, 6)),
        (draw(9_000, 10_001), draw(20, 60), draw(200, 300)),
        (draw(900, 1000), draw(40, 50), 1),
        (draw(20, 30), 0, draw(5, 10)),
        (draw(20, 25), draw(12, 15), draw(15, 20)),
    ]


def _exactly(n: int, c: int, k: int) -> float:
    """Return the share of the sets without a right program from whole numbers, as a fraction, and take it from 1."""
    return float(1 - Fraction(math.comb(n - c, k), math.comb(n, k)))


_SIGNATURE = '''\
def pass_at_k(n, c, k):
    """The unbiased estimate of pass@k: a number from 0 to 1.

    Of n programs c are right. It is the share of the sets of k of these programs, 1 <= k <= n, that
    have a right one among them. n may be 10,000, where the numbers of sets have hundreds of digits.
    """
'''


def _pass_at_k(
    factor: str = "1 - k / i", many: str = "range(n - c + 1, n + 1)", result: str = "1 - none_right", start: str = "1.0"
) -> str:
    """Return the cell of exercise 07.7 with its steps as given."""
    return f"""\
{_SIGNATURE}    none_right = {start}
    for i in {many}:
        none_right *= {factor}
    return {result}
"""


def _in_one(expression: str) -> str:
    return f"{_SIGNATURE}    return {expression}\n"


_LOGS = "math.lgamma(n - c + 1) - math.lgamma(n - c - k + 1) - math.lgamma(n + 1) + math.lgamma(n - k + 1)"

WRITE_PASS_AT_K = Exercise(
    id="07.7",
    kind="write",
    title="pass@k",
    section="pass@k",
    answer="pass_at_k",
    results=("pass_at_k",),
    inputs=_counts,
    expected=_exactly,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_pass_at_k(),
    why="C(n − c, k) / C(n, k) is a quotient of huge numbers, but most of their factors are the same in both. What is left "
    "are c factors 1 − k / i, with i from n − c + 1 to n, each between 0 and 1: one for each right program, that it is not in "
    "the set. (Or k factors (n − c − j) / (n − j), one for each pick: also right.) Where there are fewer wrong programs than "
    "k, one factor is 0, and the product with it: any k programs have a right one then. Python's whole numbers have no limit, "
    "so that `math.comb` of both, divided by `/`, is right, too, and slow; a float ends at 10³⁰⁸. "
    "`course_lib.applications.programs.pass_at_k` is this function.",
    hints=(
        "The sets without a right program are easier to count. What share of all sets are they?",
        "Pick one program after the other: with what probability is each wrong, if all before it were? Multiply.",
        "Multiply shares instead of dividing huge numbers. Then see what your product gives if fewer than k programs are "
        "wrong.",
    ),
    mistakes=(
        Mistake(
            _in_one("1 - (1 - c / n) ** k"),
            "That is the biased formula: it puts each program back before the next is picked, and is too low.",
        ),
        Mistake(
            _in_one("1 - float(math.comb(n - c, k)) / float(math.comb(n, k))"),
            "Right while the numbers are small. But a float ends at 10³⁰⁸, and the numbers of sets go beyond it: divide before "
            "you make floats of them.",
        ),
        Mistake(
            _in_one(f"1 - math.exp({_LOGS})"),
            "Right, until fewer than k programs are wrong: then there are no sets of k wrong ones, and 0 has no logarithm.",
        ),
        Mistake(
            _in_one(f"0.0 if n - c < k else 1 - math.exp({_LOGS})"),
            "Where fewer than k programs are wrong, you say 0. Can a set of k do without a right one there?",
        ),
        Mistake(
            _pass_at_k(result="none_right"),
            "That is the share of the sets in which all are wrong. Take it from 1.",
        ),
        Mistake(_in_one("c / n"), "That is pass@1: a single program is picked."),
        Mistake(
            _in_one("min(1.0, k * c / n)"),
            "That is how many right programs a set holds on the average. A set that holds several counts once.",
        ),
        Mistake(
            _in_one("math.comb(c, k) / math.comb(n, k)"),
            "Those are the sets in which *all* are right. One right program is enough.",
        ),
        Mistake(
            _in_one("c * math.comb(n - c, k - 1) / math.comb(n, k)"),
            "Those are the sets with *exactly* one right program. Those with more count as well.",
        ),
        Mistake(
            _pass_at_k(many="range(n - c, n + 1)"),
            "The product has one factor too many: there is one for each of the c right programs, so it begins one later.",
        ),
        Mistake(
            _pass_at_k(many="range(n - c + 1, n)"),
            "The product has one factor too few: the last one is that of n itself.",
        ),
        Mistake(
            _pass_at_k(many="range(n - k + 1, n + 1)"),
            "k factors are multiplied, but each is that of a right program: there are c of these.",
        ),
        Mistake(
            _pass_at_k(factor="(n - c) / (n - i)", many="range(k)"),
            "The picks leave fewer programs each time, but not fewer wrong ones. All that were picked before were wrong.",
        ),
        Mistake(
            _pass_at_k(factor="1 - c / (n - i)", many="range(k - 1)"),
            "That is one pick too few: there are k.",
        ),
        Mistake(
            _in_one("1 - math.comb(n - c, k) // math.comb(n, k)"),
            "`//` is the division without a rest: of a share below 1 it leaves 0. Use `/`.",
        ),
    ),
)
