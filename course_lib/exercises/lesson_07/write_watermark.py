"""Exercise 07.5: is a text marked?"""

from itertools import pairwise

import torch

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_WATERMARK"]

Pair = tuple[int, int]


def _texts(generator: torch.Generator) -> list[tuple[list[int], set[Pair], float]]:
    """Return ids, all green pairs and γ: texts with phrases that come again, somewhat greener than by chance; one is short."""
    cases = []
    for n_words, n_ids, gamma, lead in ((11, 26, 0.25, 1.5), (8, 33, 0.5, 1.2), (13, 44, 0.1, 2.0)):
        ids = torch.randint(n_words, (n_ids,), generator=generator).tolist()
        ids += [*ids[3:9], *ids[3:8], *ids[:5]]
        pairs = sorted(set(pairwise(ids)))
        n_green = round(gamma * len(pairs) + lead * (gamma * (1 - gamma) * len(pairs)) ** 0.5)
        again = [pair for pair in pairs if list(pairwise(ids)).count(pair) > 2][:2]
        others = [pair for pair in pairs if pair not in again]
        chosen = torch.randperm(len(others), generator=generator)[: n_green - len(again)].tolist()
        unseen = [(a, b) for a in range(n_words) for b in range(n_words) if (a, b) not in pairs]
        more = torch.randperm(len(unseen), generator=generator)[: round(gamma * len(unseen))].tolist()
        cases.append((ids, {*again, *(others[i] for i in chosen), *(unseen[i] for i in more)}, gamma))
    a, b, c, d = torch.randperm(9, generator=generator)[:4].tolist()
    return [*cases, ([a, b, c, a, b, d], {(a, b), (c, a), (b, d), (d, a)}, 0.4)]


def _pair_by_pair(ids: list[int], green: set[Pair], gamma: float) -> tuple[float, float]:
    """Follow the distribution of the number of green pairs, from none on, and take mean and variance from that."""
    chances, counted = [1.0], []
    for at in range(1, len(ids)):
        if (ids[at - 1], ids[at]) not in counted:
            counted.append((ids[at - 1], ids[at]))
            chances = [
                (1 - gamma) * same + gamma * fewer for same, fewer in zip([*chances, 0], [0, *chances], strict=True)
            ]
    n_green = len([pair for pair in counted if pair in green])
    mean = sum(n * chance for n, chance in enumerate(chances))
    variance = sum((n - mean) ** 2 * chance for n, chance in enumerate(chances))
    return (n_green - mean) / variance**0.5, sum(chances[n_green:])


_SIGNATURE = '''\
def detect(ids, green, gamma):
    """How green a text is: z and p_value, two numbers.

    ids: its tokens. green: a set of pairs (token, next), those whose second token is green; by
    chance a pair is green with probability gamma. Each *different* pair of neighbours in the text
    counts once. z: how far the number of green pairs is above its mean by chance, in standard
    deviations. p_value: how probable it is by chance that as many pairs are green, or more;
    exactly, by the binomial distribution.
    """
'''


def _detect(
    pairs: str = "set(zip(ids, ids[1:]))",
    n_green: str = "len(pairs & green)",
    z: str = "(n_green - gamma * n) / (n * gamma * (1 - gamma)) ** 0.5",
    counts: str = "range(n_green, n + 1)",
    chance: str = "math.comb(n, i) * gamma**i * (1 - gamma) ** (n - i)",
    result: str = "z, sum(chances)",
    n: str = "len(pairs)",
) -> str:
    """Return the cell of exercise 07.5 with its steps as given."""
    return f"""\
{_SIGNATURE}    pairs = {pairs}
    n, n_green = {n}, {n_green}
    z = {z}
    chances = [{chance} for i in {counts}]
    return {result}
"""


_EACH, _GREEN_AGAIN = "list(zip(ids, ids[1:]))", "sum(pair in green for pair in pairs)"

WRITE_WATERMARK = Exercise(
    id="07.5",
    kind="write",
    title="Is this text marked?",
    section="A watermark",
    answer="detect",
    results=("z", "p_value"),
    inputs=_texts,
    expected=_pair_by_pair,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_detect(),
    why="In a text that does not depend on the key each different pair is green like the toss of a coin that shows green with "
    "γ: the number of green pairs is binomial, with mean γ n and variance γ (1 − γ) n. Only *more* green is a sign of the "
    "mark, so only that side counts. A pair that comes again is green again for sure: with *ha ha ha ha* counted word by "
    "word, one lucky pair would convict an honest author (arXiv 2301.10226, section 4.1). z is quick to compare; the normal "
    "distribution's tail beyond z is near the p-value for long texts, and too small for short ones, exactly where somebody is "
    "accused. `course_lib.applications.watermark.Watermark.detect` does this from a key.",
    hints=(
        "First the different pairs of neighbours, then two numbers: how many there are, and how many of them are green.",
        "The binomial distribution of n pairs with probability γ has the mean γ n. What is its variance?",
        "For the p-value, add up the probabilities of n_green, n_green + 1, … up to n. `math.comb` says in how many ways each "
        "comes.",
    ),
    mistakes=(
        Mistake(
            _detect(_EACH, _GREEN_AGAIN),
            "Pairs that come again are counted again. They are green again for sure, and say nothing new.",
        ),
        Mistake(
            _detect(_EACH, "len(set(pairs) & green)"),
            "Green pairs are counted once, but all pairs as often as they come. Each different pair counts once in both.",
        ),
        Mistake(
            _detect(n="len(ids)"),
            "n is the number of tokens. What is green or not is a pair, and each different one counts once.",
        ),
        Mistake(
            _detect("set(zip(ids[1:], ids))"),
            "The pairs are the wrong way round: (token, next).",
        ),
        Mistake(
            _detect(n_green="len(pairs - green)"),
            "The pairs that are *not* green are counted.",
        ),
        Mistake(
            _detect(z="(n_green - gamma * n) / (n * gamma) ** 0.5"),
            "z is divided by the root of γ n. That is the mean; the variance is γ (1 − γ) n.",
        ),
        Mistake(
            _detect(z="(n_green - gamma * n) / (n * gamma * (1 - gamma))"),
            "z is divided by the variance. A standard deviation is its root.",
        ),
        Mistake(
            _detect(z="(n_green / n - gamma) / (gamma * (1 - gamma)) ** 0.5"),
            "The standard deviation is that of a single pair. The share in n pairs varies √n times less.",
        ),
        Mistake(
            _detect(z="(gamma * n - n_green) / (n * gamma * (1 - gamma)) ** 0.5"),
            "z has the wrong sign: more green than by chance is above 0.",
        ),
        Mistake(
            _detect(z="n_green / (n * gamma * (1 - gamma)) ** 0.5"),
            "What is green by chance is not taken off in z.",
        ),
        Mistake(
            _detect(result="z, 2 * sum(chances)"),
            "z is right. But the p-value counts both sides. Less green than by chance is no sign of a mark.",
        ),
        Mistake(
            _detect(counts="range(n_green + 1, n + 1)"),
            "z is right. But the p-value is that of *more* green pairs. As many count as well.",
        ),
        Mistake(
            _detect(counts="range(n_green, n)"),
            "z is right. But the last case is missing in the p-value: all n pairs are green.",
        ),
        Mistake(
            _detect(counts="[n_green]"),
            "z is right. But the p-value is that of exactly so many green pairs. More count as well.",
        ),
        Mistake(
            _detect(counts="range(n_green + 1)"),
            "z is right. But the p-value is that of so many green pairs or *fewer*.",
        ),
        Mistake(
            _detect(counts="range(n_green)"),
            "z is right. But that is the probability of fewer green pairs. Take it from 1, or add up the others.",
        ),
        Mistake(
            _detect(result="z, math.erfc(z / 2**0.5) / 2"),
            "z is right. But the p-value is the normal distribution's. For a text this short it is not near enough: add up the "
            "binomial one.",
        ),
        Mistake(
            _detect(chance="gamma**i * (1 - gamma) ** (n - i)"),
            "z is right. But in the p-value each number of green pairs has the weight of one order. They come in `math.comb` "
            "many.",
        ),
        Mistake(
            _detect(chance="math.comb(n, i) * gamma ** (n - i) * (1 - gamma) ** i"),
            "z is right. But in the p-value γ and 1 − γ are exchanged.",
        ),
        Mistake(
            _detect(result="sum(chances), z"), "Both are right, but in the wrong order: z first, then the p-value."
        ),
    ),
)
