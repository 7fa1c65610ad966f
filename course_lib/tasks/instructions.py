"""Instructions and answers made from Shakespeare's plays, to turn a model that continues into one that answers.

Four kinds, in equal parts. For three of them there is one right answer, and for `reply` there are many:

    first     What is the first word of this line? …
    last      What is the last word of this line? …
    repeat    Repeat this line. …
    reply     Answer this. …                                (what is said next in the play)
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle, islice, pairwise

from course_lib.checks import check
from course_lib.corpora.shakespeare import Work, spoken

__all__ = ["KINDS", "Instruction", "instructions", "replies", "speeches"]

KINDS = {
    "first": "What is the first word of this line?",
    "last": "What is the last word of this line?",
    "repeat": "Repeat this line.",
    "reply": "Answer this.",
}
"""Kind -> how it is asked for."""

_SPEECH = re.compile(r"(?<=\n\n)([A-Z][A-Za-z ]{1,18})\.\n((?:[^\n]+\n)+)")
_SIGNS = ".,;:!?'\"-()"
_WORDS = range(4, 10)  # in a line


@dataclass(frozen=True)
class Instruction:
    """A question of one of the `KINDS`, and its answer: a word, or a line."""

    kind: str
    question: str
    answer: str

    @property
    def chat(self) -> list[dict[str, str]]:
        """As messages of a user and an assistant."""
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]


def speeches(work: Work) -> list[list[str]]:
    """Return what is said in a play in the modern edition, speech by speech, as lines without stage directions.

    Nothing is found in the few files whose speakers' names stand otherwise: that speeches are missing does no harm here.
    """
    found = []
    for _, body in _SPEECH.findall(work.text):
        lines = map(spoken, body.split("\n"))
        if speech := [line for line in lines if line]:
            found.append(speech)
    return found


def instructions(works: Iterable[Work], n: int, seed: int = 0) -> list[Instruction]:
    """Return `n` instructions, a quarter of each kind, on lines of `works` that `seed` draws, in a random order.

    ValueError if no speech of theirs is answered by another.
    """
    check("n", n)
    works = list(works)
    said = [line for work in works for speech in speeches(work) for line in speech if len(line.split()) in _WORDS]
    answered = replies(works)
    if not answered:
        raise ValueError("the works hold no line that another one answers")
    chance = random.Random(seed)
    drawn = [_draw(kind, said, answered, chance) for kind in islice(cycle(KINDS), n)]
    chance.shuffle(drawn)
    return drawn


def replies(works: Iterable[Work]) -> list[tuple[str, str]]:
    """Return all pairs of a line that ends a speech and the line that begins the next, both of 4 to 9 words, in order."""
    said = (speeches(work) for work in works)
    pairs = ((before[-1], after[0]) for play in said for before, after in pairwise(play))
    return [pair for pair in pairs if all(len(line.split()) in _WORDS for line in pair)]


def _draw(kind: str, lines: list[str], replies: list[tuple[str, str]], chance: random.Random) -> Instruction:
    line, reply = chance.choice(replies) if kind == "reply" else (chance.choice(lines), "")
    words = [word.strip(_SIGNS) for word in line.split()]
    answer = {"first": words[0], "last": words[-1], "repeat": line, "reply": reply}[kind]
    return Instruction(kind, f"{KINDS[kind]} {line}", answer)
