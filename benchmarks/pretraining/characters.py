"""The text of the comparison, one token a character, cut as nanoGPT cuts tiny Shakespeare.

Tiny Shakespeare (1,115,394 characters) is from an edition that the course's corpus does not hold. So both sides get as many
characters of the course's own: the first of the plays in modern spelling that lesson 04 trains on, nine tenths to train on and
the last tenth to test on.
"""

import numpy as np

from course_lib.corpora import TokenArray, shakespeare

N_CHARACTERS = 1_115_394


def characters(text: str, alphabet: str) -> TokenArray:
    """Return the text as ids of its characters, by their place in `alphabet`."""
    ids = np.array([alphabet.index(character) for character in text], np.uint16)
    return TokenArray(ids, len(alphabet), len(text.encode()))


def split() -> tuple[TokenArray, TokenArray]:
    """Return the text to train on and the text to test on."""
    plays, _ = shakespeare.split()
    text = "\n\n".join(play.text for play in plays)[:N_CHARACTERS]
    alphabet, end = "".join(sorted(set(text))), N_CHARACTERS * 9 // 10
    return characters(text[:end], alphabet), characters(text[end:], alphabet)
