"""What people think of the words of a text: ten raw ratings a word, as a human score that needs no person at the desk.

The words and ratings are those of VADER (Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text", ICWSM): ten people, from a larger group, rated each word alone from −4, extremely negative, to 4,
extremely positive. VADER itself uses their mean, with rules for negations and the like; here is each rater by himself, and no
rule: "not good" rates as "good" does.

A rater is a place in a word's list. The file does not say that a place is one person in all of it, and ten people did not rate
all words: what two raters think of one word is two people's, what a rater thinks of a long text is a mixture.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

import numpy as np

from course_lib import assets

__all__ = ["N_RATERS", "rate", "word_ratings"]

N_RATERS = 10

_PLAIN = re.compile(r"[a-z]+")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_POSSESSIVE = ("'s", "’s")


@cache
def word_ratings() -> Mapping[str, tuple[int, ...]]:
    """Return word -> what each of the ten raters gave it, −4 to 4: 7,200 words in lower case, without any but letters a to z.

    Emoticons, and the few entries with spaces, digits or hyphens, are left out. Of a word that is listed twice ("ok", "lol")
    the later ratings count, as they do in VADER.
    """
    lines = assets.fetch("vader-lexicon").read_text(encoding="utf-8").split("\n")
    entries = (line.split("\t") for line in lines if line)  # word, mean, standard deviation, ratings
    return MappingProxyType(
        {word: tuple(json.loads(ratings)) for word, _, _, ratings in entries if _PLAIN.fullmatch(word)}
    )


def rate(text: str) -> np.ndarray:
    """Return each rater's rating of `text`: floats (10,) from −4 to 4. Their mean is the human score.

    It is the sum of the ratings of its words, each counted once, divided by the number of all words: what is said again gives
    nothing again. A word that has no rating counts 0, and a text without words rates 0. Words are runs of letters and digits,
    in upper or lower case; an apostrophe inside a word belongs to it, so that "won't" is not "won", but a final 's is left
    out: "love's" is "love". All other signs, hyphens and underscores too, only stand between words.
    """
    ratings = word_ratings()
    words = [_without_s(word) for word in _WORD.findall(text.lower())]
    rated = [ratings[word] for word in dict.fromkeys(words) if word in ratings]
    return np.sum(rated, axis=0) / len(words) if rated else np.zeros(N_RATERS)


def _without_s(word: str) -> str:
    return word[:-2] if word.endswith(_POSSESSIVE) else word
