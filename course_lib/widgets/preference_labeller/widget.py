"""PreferenceLabeller: two answers to a prompt side by side, and a file that keeps which of them is better."""

import random
import secrets
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock
from traitlets import Dict

from course_lib.alignment.preferences import (
    Comparison,
    append_comparison,
    read_comparisons,
    remove_last,
    self_agreement,
)
from course_lib.checks import check
from course_lib.widgets.preference_labeller.picture import pair_picture
from course_lib.widgets.shared.base import module, style_sheet
from course_lib.widgets.shared.live import LiveWidget

__all__ = ["PreferenceLabeller"]

GAP = 4  # other pairs, at least, before one is shown again, if there are so many
PATIENCE = 5  # seconds that a writer waits for another


class PreferenceLabeller(LiveWidget):
    """Ask which of two answers is better for each of `pairs`, a prompt and two answers; keep each choice in a file at once.

    `seed` draws the order of the pairs, and which answer is shown first. A share of them, `repeats`, is shown once more, some
    pairs later and the other way round, to measure how far somebody agrees with himself. A new labeller with the same file,
    pairs and settings goes on where the last one stopped. Without `rater`, a name, the file gets a random one.

        labeller = PreferenceLabeller([("Sing!", "La la la.", "No.")], "choices.jsonl")
        labeller.choose(0)  # what the key 1 does
        labeller.comparisons

    The file is as `alignment.preferences` reads it. ValueError if it holds choices that other pairs or settings led to, or
    anything else, or if two pairs are the same.
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    result = Dict().tag(sync=True)

    def __init__(
        self,
        pairs: Sequence[tuple[str, str, str]],
        path: str | Path,
        *,
        rater: str | None = None,
        repeats: float = 0.2,
        seed: int = 0,
    ):
        check("rater", rater, str | None)
        check("repeats", repeats, float, 0, 1)
        check("seed", seed, int, 0)
        self.path = Path(path)
        done = read_comparisons(self.path) if self.path.exists() else []
        self.rater = rater or (done[0].rater if done else secrets.token_hex(4))
        self._showings = _showings(_checked(pairs, self.rater), repeats, random.Random(seed))
        self._comparisons = self._those_of_ours(done)
        super().__init__(result=self._look())

    @property
    def comparisons(self) -> list[Comparison]:
        """What has been said so far, skipped pairs too, in the order in which they were shown."""
        return list(self._comparisons)

    def choose(self, choice: int | None) -> None:
        """Say which answer to the pair that is shown is better, 0 or 1, or None to skip it; show the next.

        On return the choice is on the disk. ValueError if there is no such choice, no pair left, or the file has been changed
        by somebody else; OSError if it cannot be written. Then nothing has been.
        """
        if len(self._comparisons) == len(self._showings):
            raise ValueError("every pair has been judged")
        said = replace(self._showings[len(self._comparisons)], choice=choice)
        self._write(lambda: append_comparison(self.path, said))

    def undo(self) -> None:
        """Take the last choice back, and show its pair again. Errors are those of `choose`."""
        self._write(lambda: remove_last(self.path))

    def __repr__(self) -> str:
        result = self.result
        return (
            f"PreferenceLabeller: {result['done']:,} of {result['total']:,} comparisons made, {result['skipped']:,} skipped; "
            f"{result['same']:,} of {result['repeats']:,} repeats chosen alike; in {self.path.name}"
        )

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return data | {"image/png": b64encode(pair_picture(self.result)).decode("ascii")}, metadata

    def _do(self, message: dict) -> None:
        """Do what the browser asks for, or if the pair that it shows is no longer the one to be judged, show that."""
        if message["number"] != len(self._comparisons):
            self._show()
        elif message["type"] == "undo":
            self.undo()
        else:
            self.choose(message["choice"])

    def _write(self, change: Callable[[], None]) -> None:
        """Make a `change` to the file while nobody else does; then show what the file holds, whether that went well or not."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=PATIENCE):
                if self._read() != self._comparisons:
                    self._show()
                    raise ValueError(
                        f"{self.path.name} has changed meanwhile, perhaps by another labeller, so this choice was not kept. "
                        "What is shown now follows on what the file holds."
                    )
                try:
                    change()
                finally:
                    self._show()
        except OSError as error:
            raise OSError(f"The choice was not kept: {error}") from None

    def _read(self) -> list[Comparison]:
        return self._those_of_ours(read_comparisons(self.path) if self.path.exists() else [])

    def _show(self) -> None:
        self._comparisons = self._read()
        self.result = self._look()

    def _those_of_ours(self, done: list[Comparison]) -> list[Comparison]:
        """Return `done` if it is what the first pairs may have led to, else raise ValueError."""
        for number, said in enumerate(done):
            if said.rater != self.rater:
                raise ValueError(
                    f"{self.path} holds choices of {said.rater!r}, not of {self.rater!r}: take another file"
                )
            if number >= len(self._showings) or replace(said, choice=None) != self._showings[number]:
                raise ValueError(
                    f"{self.path}, line {number + 1}, is a choice to which other pairs led, another seed or share of repeats: "
                    "take another file, or what was given when it was begun"
                )
        return done

    def _look(self) -> dict:
        """Return what is shown: the next pair, None after the last; how many are done; what was said of the last one."""
        done = self._comparisons
        same, repeats = self_agreement(done)
        left = self._showings[len(done) :]
        return {
            "pair": {"prompt": left[0].prompt, "answers": [left[0].first, left[0].second]} if left else None,
            "done": len(done),
            "total": len(self._showings),
            "skipped": sum(said.choice is None for said in done),
            "last": done[-1].choice if done else None,
            "same": same,
            "repeats": repeats,
            "file": str(self.path),
        }


def _checked(pairs: Sequence[tuple[str, str, str]], rater: str) -> list[Comparison]:
    """Return the pairs as comparisons without a choice. ValueError names one that is none, or is there twice."""
    checked: dict[tuple, Comparison] = {}
    for number, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 3:
            raise ValueError(f"pairs[{number}] must be a prompt and two answers, not {str(pair)[:60]!r}")
        try:
            one = Comparison(*pair, choice=None, rater=rater)
        except ValueError as error:
            raise ValueError(f"pairs[{number}]: {error}") from None
        if one.pair in checked:
            raise ValueError(f"pairs[{number}] is there twice, {pair[0][:40]!r}: leave it out; repeats are made here")
        checked[one.pair] = one
    if not checked:
        raise ValueError("pairs must hold a pair or more")
    return list(checked.values())


def _showings(pairs: list[Comparison], repeats: float, draw: random.Random) -> list[Comparison]:
    """Return what is shown one after the other: all pairs in any order, and a share of them later, the other way round."""
    firsts = [draw.choice((pair, _turned(pair))) for pair in draw.sample(pairs, len(pairs))]
    n_repeats = round(repeats * len(firsts))
    again = draw.sample(range(max(len(firsts) - GAP, n_repeats)), n_repeats)
    places = [*enumerate(firsts), *((at + draw.uniform(GAP, 3 * GAP), _turned(firsts[at])) for at in again)]
    return [showing for _, showing in sorted(places, key=lambda placed: placed[0])]


def _turned(pair: Comparison) -> Comparison:
    return replace(pair, first=pair.second, second=pair.first)
