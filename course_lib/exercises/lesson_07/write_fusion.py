"""Exercise 07.9: reciprocal rank fusion."""

from fractions import Fraction
from itertools import combinations

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_FUSION"]

_SIZES = (((4, 3), 7, 60), ((5, 4, 2), 9, 1), ((6, 3, 8, 5, 7), 12, 10), ((4,), 6, 2))  # of rankings, n_items, k


def _rankings(generator: torch.Generator) -> list[tuple[list[list[int]], int, int]]:
    """Return rankings of different lengths, the number of items, and k; in the last two two items, or all, are level."""

    def draw(lengths: tuple[int, ...], n_items: int) -> list[list[int]]:
        return [torch.randperm(n_items, generator=generator)[:length].tolist() for length in lengths]

    cases = []
    for lengths, n_items, k in _SIZES:
        rankings = draw(lengths, n_items)
        while not _apart(_exact_scores(rankings, n_items, k)):
            rankings = draw(lengths, n_items)
        cases.append((rankings, n_items, k))
    a, b, c, d, e = sorted(torch.randperm(11, generator=generator)[:5].tolist())
    return [*cases, ([[d, b, e, a], [b, d, a, e]], 11, 5), ([[c], [b], [e], [a], [d]], 13, 3)]


def _exact_scores(rankings: list[list[int]], n_items: int, k: int) -> list[Fraction]:
    found = [[ranking.index(item) + 1 for ranking in rankings if item in ranking] for item in range(n_items)]
    return [sum((Fraction(1, k + rank) for rank in ranks), Fraction()) for ranks in found]


def _apart(scores: list[Fraction]) -> bool:
    """Return whether the order does not depend on the last digits: of items that were found no two are nearly level."""
    return all(abs(a - b) > a / 10_000 for a, b in combinations(filter(None, scores), 2))


def _item_by_item(rankings: list[list[int]], n_items: int, k: int) -> tuple[Tensor, Tensor]:
    """Look each item up in each ranking, and add up as fractions."""
    scores = _exact_scores(rankings, n_items, k)
    order = sorted(range(n_items), key=lambda item: (-scores[item], item))
    return torch.tensor([float(score) for score in scores]), torch.tensor(order)


_SIGNATURE = '''\
def fuse(rankings, n_items, k):
    """Reciprocal rank fusion: the scores (item,), and the items in order (item,), the best first.

    rankings: any number of lists of items, each with its best item first; the items are the numbers
    from 0 to n_items - 1, and a ranking need not hold all. An item's score is the sum of
    1 / (k + rank) over the rankings that hold it, and 0 if none does; the first has rank 1.
    Of items with the same score, the smaller number comes first. Both results are tensors.
    """
'''


def _fuse(
    score: str = "scores[item] += 1 / (k + rank)",
    first: str = "1",
    order: str = "scores.argsort(descending=True, stable=True)",
    result: str = "scores, order",
    extra: str = "",
) -> str:
    """Return the cell of exercise 07.9 with its steps as given."""
    return f"""\
{_SIGNATURE}    scores = torch.zeros(n_items)
    for ranking in rankings:
        for rank, item in enumerate(ranking, start={first}):
            {score}
{extra}    order = {order}
    return {result}
"""


WRITE_FUSION = Exercise(
    id="07.9",
    kind="write",
    title="Reciprocal rank fusion",
    section="Words and meaning together",
    answer="fuse",
    results=("scores", "order"),
    inputs=_rankings,
    expected=_item_by_item,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_fuse(),
    why="Each ranking adds to the scores of the items that it holds, and whoever is missing gets nothing from it. So it does "
    "for two rankings or ten, of any lengths. Only ranks are used: the scores of an index of words and the cosines of an "
    "index of meaning have no common unit, and need none. A small k lets the first places decide, a large one how many "
    "rankings hold the item. `stable` keeps equal items in the order that they had, here that of their numbers; without it, "
    "which of two comes first may differ from one processor to another. `course_lib.applications.retrieval.fuse` does the "
    "same, with weights.",
    hints=(
        "Begin with a score of 0 for each item, and go through the rankings one by one.",
        "`enumerate` counts the places of a ranking; from which number? What does an item get that is not in it?",
        "For the order: `argsort` from the largest on. By itself it promises nothing about equal scores; an argument of it "
        "does.",
    ),
    mistakes=(
        Mistake(_fuse(first="0"), "The ranks are counted from 0. The first of a ranking has rank 1."),
        Mistake(
            _fuse("scores[item] += 1 / rank"), "k is left out: the first place of one ranking then outweighs all else."
        ),
        Mistake(
            _fuse("scores[item] += 1 / k + rank"),
            "1 is divided by k alone, and the rank is added: an item that is far down gets *more*. Put brackets.",
        ),
        Mistake(
            _fuse("scores[item] = 1 / (k + rank)"),
            "Each ranking writes over what those before it gave. The parts are added.",
        ),
        Mistake(
            _fuse("scores[item] = max(scores[item], 1 / (k + rank))"),
            "Only an item's best rank counts. To stand in several rankings is to be worth more.",
        ),
        Mistake(
            _fuse(
                order="(scores / len(rankings)).argsort(descending=True, stable=True)",
                result="scores / len(rankings), order",
            ),
            "The scores are divided by the number of rankings. It is their sum, not their mean.",
        ),
        Mistake(
            _fuse("scores[item] += 1 / (k + rank) / len(ranking)"),
            "What a ranking gives is divided by its length. All rankings count the same.",
        ),
        Mistake(
            _fuse("scores[item] += (len(ranking) - rank + 1) / len(ranking)"),
            "That is Borda's count: points that fall evenly to the end of the ranking. Here it is 1 / (k + rank).",
        ),
        Mistake(_fuse("scores[item] += 1"), "That counts the rankings that hold the item. Its rank counts as well."),
        Mistake(
            _fuse(
                extra="        for item in set(range(n_items)) - set(ranking):\n"
                "            scores[item] += 1 / (k + len(ranking) + 1)\n"
            ),
            "An item that a ranking does not hold gets something from it, as if it came right after the last. It gets nothing.",
        ),
        Mistake(
            _fuse(order="scores.argsort(stable=True)"),
            "The scores are right. But the order begins with the worst: largest scores first.",
        ),
        Mistake(
            _fuse(order="n_items - 1 - scores.flip(0).argsort(descending=True, stable=True)"),
            "The scores are right. But of items with the same score the *larger* number comes first.",
        ),
        Mistake(
            _fuse(order="scores.argsort(descending=True, stable=True).argsort()"),
            "The scores are right. But that is each item's place in the order. Asked for are the items, in order.",
        ),
        Mistake(
            _fuse(order="scores.argsort(descending=True, stable=True)[: int((scores > 0).sum())]"),
            "The scores are right. But items that no ranking holds are missing in the order: they come last.",
        ),
        Mistake(
            _fuse(order="scores.sort(descending=True, stable=True).values"),
            "The scores are right. But the order holds the sorted scores. Asked for are the items.",
        ),
        Mistake(_fuse(result="order, scores"), "Both are right, but in the wrong order: scores first, then the items."),
    ),
)
