"""Two sentences, of which one is a question: a task that one bag of all the words does not tell.

    Would not a pair of these have bred, sir          0: the first is the question
    Yes, being kept together and put to use

The two follow each other in a play, and their last signs are taken away. Whoever counts the words of both in one bag
cannot know which is which. Whoever counts them line by line can, mostly: a question has words of its own. That is a peer to
measure a classifier against.
"""

import random
import re
from collections.abc import Iterable

from course_lib.corpora.shakespeare import Work
from course_lib.tasks.instructions import speeches

__all__ = ["question_pairs"]

_SENTENCE = re.compile(r"([^.?!]+)([.?!])(?=\s|$)")
_WORDS = range(3, 15)  # in a sentence


def question_pairs(works: Iterable[Work], seed: int = 0) -> list[tuple[str, int]]:
    """Return pairs of sentences, a line each, and which line is the question, 0 or 1: as many of one as of the other.

    The sentences follow each other, in one speech or from a speech to the next, and none is in two pairs. The order of the
    pairs, and which are left out to make the classes equal, is drawn by `seed`.
    """
    by_label: tuple[list[str], list[str]] = ([], [])
    for work in works:
        sentences, at = _sentences(work), 0
        while at + 1 < len(sentences):
            (first, sign), (second, next_sign) = sentences[at : at + 2]
            if {sign, next_sign} == {".", "?"} and all(len(text.split()) in _WORDS for text in (first, second)):
                by_label[next_sign == "?"].append(f"{first}\n{second}")
                at += 1
            at += 1
    chance = random.Random(seed)
    size = min(map(len, by_label))
    pairs = [(text, label) for label, texts in enumerate(by_label) for text in chance.sample(texts, size)]
    chance.shuffle(pairs)
    return pairs


def _sentences(work: Work) -> list[tuple[str, str]]:
    """Return the play's sentences, each with the sign that ended it."""
    texts = (" ".join(speech) for speech in speeches(work))
    return [(" ".join(match[1].split()), match[2]) for text in texts for match in _SENTENCE.finditer(text)]
