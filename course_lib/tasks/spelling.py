"""Lines of Shakespeare in the spelling of 1623 and in ours, side by side: a task that has right answers.

    And let vs heare Barnardo speake of this        And let us hear Bernardo speak of this

The corpus holds most plays in both editions (`shakespeare`). Lines of a play belong together if their words have the same
consonants: those were spelled as today, most of them, and vowels were not.
"""

import re
from functools import cache
from typing import NamedTuple

from course_lib.corpora.shakespeare import HELD_OUT, spoken, works

__all__ = ["Pair", "pairs"]

_MODERN_NAMES = {  # of the plays whose files are named by their old spelling
    "all_is_well_that_ends_well": "alls_well_that_ends_well",
    "anthonie_and_cleopatra": "antony_and_cleopatra",
    "comedy_of_errours": "comedy_of_errors",
    "loves_labour_lost": "loves_labours_lost",
    "midsummer_nights_dreame": "midsummer_nights_dream",
    "titus_andronicus": "tragedy_of_titus_andronicus",
    "twelfe-night": "twelfth_night",
}
_SPEAKER = re.compile(r"^\s+[A-Z][\w ]{0,12}\. ?")  # "   Hor. "
_VOWELS = str.maketrans("", "", "aeiouvyj")  # v was written u, and j was written i
_TWICE = re.compile(r"([a-z])\1+")
_NO_LETTER, _LETTERS = re.compile(r"[^a-z ]"), re.compile(r"[A-Za-z'&]|\b-\b")
_FEWEST, _MOST = 4, 9  # words in a line
_SHORTEST = 4  # of a line's consonants and the spaces between words: fewer, and too many lines have the same


class Pair(NamedTuple):
    """A line in the spelling of the First Folio, and in ours. What ends the line is left out: the old file often lacks it."""

    old: str
    modern: str


@cache
def pairs() -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to learn from, and those of the plays that are held out: 25,000 and 2,300, play by play.

    Both lines of a pair have the same number of words, 4 to 9, and the same signs, and they differ. No line of a held-out play
    is among those to learn from, in either spelling or any other.
    """
    texts = {(work.name, work.edition): work.text for work in works()}
    train, held_out = [], []
    for (name, edition), text in texts.items():
        modern = texts.get((_MODERN_NAMES.get(name, name), "modern"))
        if edition == "folio" and modern is not None:
            (held_out if _MODERN_NAMES.get(name, name) in HELD_OUT else train).extend(_aligned(text, modern))
    held_out = list(dict.fromkeys(held_out))
    tested = {_consonants(pair.old) for pair in held_out}
    return [pair for pair in dict.fromkeys(train) if _consonants(pair.old) not in tested], held_out


def _aligned(old: str, modern: str) -> list[Pair]:
    lines = {}
    for line in map(_spoken, modern.splitlines()):
        if _FEWEST <= len(line.split()) <= _MOST:
            lines.setdefault(_consonants(line), line)
    found = []
    for line in (_spoken(_SPEAKER.sub("", line)) for line in old.splitlines()):
        if _FEWEST <= len(line.split()) <= _MOST and len(key := _consonants(line)) >= _SHORTEST and key in lines:
            pair = Pair(*(text.rstrip(" .,;:!?-") for text in (line, lines[key])))
            if pair.old != pair.modern and _signs(pair.old) == _signs(pair.modern):
                found.append(pair)
    return found


def _spoken(line: str) -> str:
    return "" if line.lstrip().startswith("[") else spoken(line)  # a direction may go on in the next line


def _consonants(line: str) -> str:
    """Return the consonants of each word, once where they stand twice: of "Haue you seene" and "Have you seen", "h  sn"."""
    letters = _NO_LETTER.sub("", line.lower().replace("&", "and"))
    return _TWICE.sub(r"\1", letters).translate(_VOWELS)


def _signs(line: str) -> list[str]:
    return [_LETTERS.sub("", word) for word in line.split()]
