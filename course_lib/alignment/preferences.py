"""Which of two texts somebody prefers: kept in a file, a line a choice, pooled over people, and how far they agree."""

import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from course_lib.checks import check, check_fields
from course_lib.tasks.ratings import N_RATERS, rate

__all__ = [
    "Comparison",
    "agreement",
    "append_comparison",
    "pool",
    "rated_comparisons",
    "read_comparisons",
    "remove_last",
    "self_agreement",
    "write_comparisons",
]

_START = b'{"prompt": '


@dataclass(frozen=True)
class Comparison:
    """What a rater said of two answers to a prompt, `first` and `second` in the order in which they were shown.

    `choice` is 0 for the first, 1 for the second, None where the rater skipped. Raises ValueError if the two are the same.
    """

    prompt: str
    first: str
    second: str
    choice: int | None
    rater: str

    def __post_init__(self) -> None:
        check_fields(self, choice=(0, 1))
        if self.first == self.second:
            raise ValueError(f"first and second are the same text, {self.first[:40]!r}: there is nothing to choose")

    @property
    def pair(self) -> tuple[str, str, str]:
        """The prompt and the two answers, whichever was shown first: comparisons of the same pair have the same."""
        return self.prompt, *sorted((self.first, self.second))

    @property
    def chosen(self) -> str | None:
        """The answer that was preferred; None where the rater skipped."""
        return None if self.choice is None else (self.first, self.second)[self.choice]

    @property
    def rejected(self) -> str | None:
        """The answer that was not preferred; None where the rater skipped."""
        return None if self.choice is None else (self.second, self.first)[self.choice]


def rated_comparisons(pairs: Iterable[tuple[str, str, str]], n_raters: int = 1, seed: int = 0) -> list[Comparison]:
    """Return what single raters of `ratings.rate` prefer among `pairs`, each a prompt and two answers to it.

    Of the ten raters, `n_raters` (1 to 10) different ones are drawn for each pair, and for each of them the order in which the
    two are shown. A rater prefers the answer with the higher rating of his own, the prompt left aside; raters differ, so the
    comparisons contradict one another, as people do. Who rates both alike has no preference and is left out: a drawn one
    would be noise that comes from nobody.
    """
    check("n_raters", n_raters, int, 1, N_RATERS)
    draw = random.Random(seed)
    found = []
    for prompt, *answers in pairs:
        ratings = {answer: rate(answer) for answer in answers}
        for rater in draw.sample(range(N_RATERS), n_raters):
            first, second = draw.sample(answers, 2)
            liking = [ratings[answer][rater] for answer in (first, second)]
            if liking[0] != liking[1]:
                found.append(Comparison(prompt, first, second, int(np.argmax(liking)), f"rater {rater}"))
    return found


def append_comparison(path: Path, comparison: Comparison) -> None:
    """Add a line to the file at `path`, making it if need be; return when it is on the disk. If that fails, none is added.

    An unfinished last line, which a crash leaves, is taken away first.
    """
    data = path.read_bytes() if path.exists() else b""
    whole = b"".join(line + b"\n" for line in _lines(data))
    line = _line(comparison).encode("ascii")
    end = min(len(whole), len(data))  # the last line may lack its end, after an editor
    with path.open("ab", buffering=0) as file:
        try:
            file.truncate(end)
            unwritten = whole[end:] + line
            while unwritten:
                unwritten = unwritten[file.write(unwritten) :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise


def write_comparisons(path: Path, comparisons: Iterable[Comparison]) -> None:
    """Make the file at `path` hold `comparisons`, and nothing else."""
    path.write_text("".join(map(_line, comparisons)), encoding="ascii")


def remove_last(path: Path) -> None:
    """Take the last comparison out of the file at `path`. ValueError if it holds none."""
    *kept, last = _lines(path.read_bytes()) or [b""]
    if not last:
        raise ValueError(f"{path} holds no comparison that could be taken out")
    with path.open("r+b") as file:
        file.truncate(sum(len(line) + 1 for line in kept))
        os.fsync(file.fileno())


def read_comparisons(path: str | Path) -> list[Comparison]:
    """Return the comparisons in the file at `path`, in order. An unfinished last line, which a crash leaves, is ignored.

    ValueError names the file and the line of anything else that is no comparison.
    """
    found = []
    for number, line in enumerate(_lines(Path(path).read_bytes()), 1):
        try:
            found.append(Comparison(**json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}, is no comparison: {error}") from None
    return found


def _line(comparison: Comparison) -> str:
    return json.dumps(asdict(comparison)) + "\n"  # ASCII: whatever opens it reads the same


def _lines(data: bytes) -> list[bytes]:
    """Return the lines of a file without their ends, and without an unfinished last one."""
    *lines, last = data.split(b"\n")
    return [*lines, last] if last and not _is_unfinished(last) else lines


def _is_unfinished(line: bytes) -> bool:
    """Whether it is a part of a comparison, from its beginning on; where the power failed, zeros may follow."""
    written = line.rstrip(b"\0")
    try:
        json.loads(written)
    except ValueError:
        return written.startswith(_START) or _START.startswith(written)
    return False


def pool(paths: Iterable[str | Path]) -> list[Comparison]:
    """Return the comparisons of several files, such as a whole class's, file after file.

    ValueError if `read_comparisons` raises it, or if a rater has seen a pair in the same order in two files: then one is a
    copy of the other, or two people have given one name.
    """
    pooled: list[Comparison] = []
    files: dict[tuple, str | Path] = {}  # what was shown to whom -> the file that says so
    for path in paths:
        comparisons = read_comparisons(path)
        shown = {(one.rater, one.prompt, one.first, one.second) for one in comparisons}
        if twice := shown & files.keys():
            showing = min(twice)
            raise ValueError(
                f"{files[showing]} and {path} both hold choices of {showing[0]!r} on the same pairs: leave out what is a "
                "copy, or give two people two names"
            )
        files |= dict.fromkeys(shown, path)
        pooled += comparisons
    return pooled


def agreement(comparisons: Iterable[Comparison]) -> float:
    """Return Cohen's kappa between two raters drawn from those who judged the same pair: 1 if all agree, 0 as if by chance.

    Each pair counts by how many judged it. Of a rater's choices on one pair the first counts, and skipped ones do not. Which
    text of a pair is called 0 and which 1 is arbitrary, so each counts under either naming: by chance, half of all agree.

    ValueError if no pair was judged by two raters.
    """
    said: dict[tuple, dict[str, str]] = defaultdict(dict)  # pair -> rater -> the text that he chose
    for one in comparisons:
        if one.chosen is not None:
            said[one.pair].setdefault(one.rater, one.chosen)
    twos = [
        (mine == text, other == text, 1 / (len(choices) - 1))
        for (_, *texts), choices in said.items()
        for mine, other in permutations(choices.values(), 2)
        for text in texts
    ]
    if not twos:
        raise ValueError("no pair was judged by two raters, so there is nothing on which they could agree")
    from sklearn.metrics import cohen_kappa_score  # here, for it takes seconds, and every widget imports this file

    mine, others, weights = zip(*twos, strict=True)
    return float(cohen_kappa_score(mine, others, sample_weight=weights))


def self_agreement(comparisons: Iterable[Comparison]) -> tuple[int, int]:
    """Return how many repeats there are whose rater chose the same text as the first time, and how many repeats there are.

    A repeat is a further choice by the same rater on the same pair; skipped ones do not count.
    """
    first: dict[tuple, str] = {}  # rater and pair -> the text that he chose
    n_same = n_repeats = 0
    for one in comparisons:
        if one.chosen is None:
            continue
        earlier = first.setdefault((one.rater, one.pair), one.chosen)
        n_repeats += 1
        n_same += one.chosen == earlier
    return n_same - len(first), n_repeats - len(first)  # the first time is no repeat
