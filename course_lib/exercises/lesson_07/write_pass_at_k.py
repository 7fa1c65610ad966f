"""Exercise 07.7: pass@k from n programs, for every k."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_PASS_AT_K"]


def _counts(generator: torch.Generator) -> list[tuple[int, int]]:
    """Return n and c: a small task, a large one, one with none right, and one with more right programs than wrong ones."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    return [
        (draw(9, 14), draw(2, 4)),
        (draw(9_000, 10_001), draw(20, 60)),
        (draw(20, 30), 0),
        (draw(20, 25), draw(12, 15)),
    ]


def _right_by_right(n: int, c: int) -> Tensor:
    """Multiply, for each right program, the probabilities that it is not in a set of 1, 2, … n."""
    sizes = torch.arange(1, n + 1, dtype=torch.float64)
    none_right = torch.ones(n, dtype=torch.float64)
    for i in range(n - c + 1, n + 1):
        none_right *= (1 - sizes / i).clamp(min=0)
    return 1 - none_right


_SIGNATURE = '''\
def pass_at_k(n, c):
    """The unbiased estimates of pass@1, pass@2, … and pass@n, all at once: (n,).

    Of n programs c are right. The estimate of pass@k is the share of the sets of k of these
    programs that have a right one among them. n may be 10,000, where the numbers of sets have
    thousands of digits: do without them, and find each value from the one before.
    """
'''


def _pass_at_k(
    wrong: str = "(n - c - before) / (n - before)",
    none_right: str = "each_wrong.cumprod(dim=0)",
    result: str = "1 - none_right",
) -> str:
    """Return the cell of exercise 07.7 with its steps as given."""
    return f"""\
{_SIGNATURE}    before = torch.arange(n, dtype=torch.float64)  # picked before this one, and all of them wrong
    each_wrong = {wrong}
    none_right = {none_right}
    return {result}
"""


WRITE_PASS_AT_K = Exercise(
    id="07.7",
    kind="write",
    title="pass@k, for every k",
    section="pass@k",
    answer="pass_at_k",
    results=("pass_at_k",),
    inputs=_counts,
    expected=_right_by_right,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_pass_at_k(),
    why="C(n − c, k) / C(n, k) is a quotient of huge numbers, but it is a short product: pick one program after another; if j "
    "were picked before, and all of them wrong, the next is wrong with probability (n − c − j) / (n − j). One factor more "
    "for each k, so that one cumulative product gives all. Once all n − c wrong programs are picked, a factor is 0, and the "
    "product stays 0: any more programs have a right one among them. Nothing in it is large, while `math.comb` takes half a "
    "minute for these 10,000 values, and a float ends at 10³⁰⁸. `course_lib.applications.programs.pass_at_k` gives a single "
    "one of them, as a product of c factors: one for each right program, that it is not in the set.",
    hints=(
        "The sets without a right program are easier to count. What share of all sets are they?",
        "Pick one program after the other: with what probability is each wrong, if all before it were? Multiply.",
        "For pass@k the first k of these probabilities are multiplied, so pass@(k + 1) takes one factor more.",
    ),
    mistakes=(
        Mistake(
            _pass_at_k(none_right="(1 - c / n) ** (before + 1)"),
            "That is the biased formula: it puts each program back before the next is picked, and is too low.",
        ),
        Mistake(
            f"{_SIGNATURE}    sets = [(math.comb(n - c, k), math.comb(n, k)) for k in range(1, min(n, 999) + 1)]\n"
            "    return torch.tensor([1 - float(none) / float(every) for none, every in sets])\n",
            "Right while the numbers are small. But a float ends at 10³⁰⁸, and the numbers of sets go beyond it.",
        ),
        Mistake(
            _pass_at_k(result="none_right"),
            "That is the share of the sets in which all are wrong. Take it from 1.",
        ),
        Mistake(
            _pass_at_k(none_right="torch.full_like(before, 1 - c / n)"),
            "That is pass@1, for each k. With more programs in a set, more sets have a right one.",
        ),
        Mistake(
            _pass_at_k(result="((before + 1) * c / n).clamp(max=1)"),
            "That is how many right programs a set holds on the average. A set that holds several counts once.",
        ),
        Mistake(
            _pass_at_k(wrong="((c - before) / (n - before)).clamp(min=0)", result="none_right"),
            "Those are the sets in which *all* are right. One right program is enough.",
        ),
        Mistake(
            _pass_at_k(none_right="each_wrong"),
            "That is the probability that the last pick alone is wrong. All of the k picks have to be: multiply.",
        ),
        Mistake(
            _pass_at_k(none_right="torch.cat([torch.ones(1), each_wrong[:-1]]).cumprod(dim=0)"),
            "That is one pick too few: the first value is that of no program at all.",
        ),
        Mistake(
            _pass_at_k(wrong="(n - c) / (n - before)"),
            "The picks leave fewer programs each time, but not fewer wrong ones. All that were picked before were wrong.",
        ),
        Mistake(
            _pass_at_k(wrong="((n - c - before) / n).clamp(min=0)"),
            "The picks leave fewer wrong programs each time, but not fewer programs. What is picked is not put back.",
        ),
        Mistake(
            _pass_at_k(none_right="each_wrong.prod().expand(n)"),
            "All n factors are multiplied for each k. For pass@k it is the first k.",
        ),
    ),
)
