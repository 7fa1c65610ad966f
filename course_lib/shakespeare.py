"""The course's corpus: the works of Shakespeare, in two editions, and what is kept back to test on.

The asset holds 35 plays in the spelling of the First Folio (1623), and those and seven more works in modern spelling. Train on
both, or test on one edition of what was trained on in the other, and the same play has been counted twice: `split` takes the
modern edition only.
"""

from dataclasses import dataclass

from course_lib import assets

__all__ = ["HELD_OUT", "Work", "split", "works"]

HELD_OUT = ("twelfth_night", "john", "macbeth")
"""A comedy, a history and a tragedy, which no model of the course is trained on: 7 % of the text."""

_FOLIO, _MODERN = "_gut_f", "_gut"


@dataclass(frozen=True)
class Work:
    """A play or poem in one edition, "modern" or "folio". `name` is that of its file: folio names keep the old spelling."""

    name: str
    edition: str
    text: str


def works() -> list[Work]:
    """Return all works in both editions, by name."""
    found = []
    for path in sorted(assets.fetch("shakespeare").glob("*_gut*.txt")):
        edition, ending = ("folio", _FOLIO) if path.stem.endswith(_FOLIO) else ("modern", _MODERN)
        found.append(Work(path.stem.removesuffix(ending), edition, path.read_text(encoding="utf-8")))
    return found


def split() -> tuple[list[Work], list[Work]]:
    """Return the modern works to train on, and the plays that are kept back, HELD_OUT."""
    modern = [work for work in works() if work.edition == "modern"]
    return [w for w in modern if w.name not in HELD_OUT], [w for w in modern if w.name in HELD_OUT]
