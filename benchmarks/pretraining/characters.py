"""The text of the comparison, one token a character, cut as nanoGPT cuts tiny Shakespeare.

Tiny Shakespeare (1,115,394 characters) is from an edition that the course's corpus does not hold. So both sides get as many
characters of the course's own: the first of the plays in modern spelling that lesson 04 trains on, nine tenths to train on and
the last tenth to test on.
"""

import numpy as np

from course_lib import shakespeare

N_CHARACTERS = 1_115_394


class Characters:
    """What a `TokenShards` is to a `Trainer`, in memory: the ids of a text whose alphabet is `alphabet`."""

    def __init__(self, text: str, alphabet: str):
        self.vocab_size, self.n_bytes = len(alphabet), len(text.encode())
        self.ids = np.array([alphabet.index(character) for character in text], np.uint16)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: slice) -> np.ndarray:
        return self.ids[at]


def split() -> tuple[Characters, Characters]:
    """Return the text to train on and the text to test on."""
    plays, _ = shakespeare.split()
    text = "\n\n".join(play.text for play in plays)[:N_CHARACTERS]
    alphabet, end = "".join(sorted(set(text))), N_CHARACTERS * 9 // 10
    return Characters(text[:end], alphabet), Characters(text[end:], alphabet)
