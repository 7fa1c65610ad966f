"""The course's corpus: the works of Shakespeare, in two editions, and what is kept back to test on.

The asset holds 35 plays in the spelling of the First Folio (1623), and those and seven more works in modern spelling. Train
on both, or test on one edition of what was trained on in the other, and the same play has been counted twice: `split` takes
the modern edition only.

The files are as Project Gutenberg's volunteers left them: acts III and IV of the modern Cymbeline are missing, and here and
there a brace stands for a bracket.
"""

import re
from dataclasses import dataclass

from course_lib import assets

__all__ = ["HELD_OUT", "Work", "fold_spelling", "split", "spoken", "works"]

HELD_OUT = ("twelfth_night", "john", "macbeth")
"""A comedy, a history and a tragedy, which no model of the course is trained on: 7 % of the text."""

_FOLIO, _MODERN = "_gut_f", "_gut"
_DIRECTION = re.compile(r"\[[^]]*\]")
_SAME_LETTER = str.maketrans("vjy", "uii")


@dataclass(frozen=True)
class Work:
    """A play or poem in one edition, "modern" or "folio". `name` is that of its file: folio names keep the old spelling."""

    name: str
    edition: str
    text: str


def works() -> list[Work]:
    """Return all works in both editions, by name."""
    found = []
    for path in sorted(assets.fetch("shakespeare").glob("[!.]*_gut*.txt")):  # a Mac's copy leaves ._hamlet_gut.txt too
        edition, ending = ("folio", _FOLIO) if path.stem.endswith(_FOLIO) else ("modern", _MODERN)
        found.append(Work(path.stem.removesuffix(ending), edition, path.read_text(encoding="utf-8")))
    return found


def split() -> tuple[list[Work], list[Work]]:
    """Return the modern works to train on, and the plays that are kept back, HELD_OUT."""
    modern = [work for work in works() if work.edition == "modern"]
    return [w for w in modern if w.name not in HELD_OUT], [w for w in modern if w.name in HELD_OUT]


def spoken(line: str) -> str:
    """Return what is said in a line: without stage directions in brackets, with single spaces."""
    return " ".join(_DIRECTION.sub("", line).split())


def fold_spelling(text: str) -> str:
    """Return `text` without what most often differs between the spelling of 1623 and ours, to compare editions.

    Lower case; u for v, i for j and y ("haue", "ioy", "heyre"); double letters once ("farewell"); no e at a word's end
    ("olde").
    """
    once = re.sub(r"([a-z])\1+", r"\1", text.lower().translate(_SAME_LETTER))
    return re.sub(r"(?<=\w\w)e\b", "", once)
