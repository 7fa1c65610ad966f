"""Sums of two numbers, and two ways to answer: at once, or with each digit worked out first.

    478+356=834
    478+356=8+6=14,7+5+1=13,4+3+1=8:834

The answer is what stands behind the last colon, or the whole if there is none, so any way of working is allowed, and whether
it is right can be computed. That is a verifiable reward: nobody has to be asked.
"""

import random
import re

from course_lib.checks import check
from course_lib.tokenization import Tokenizer

__all__ = ["END", "is_right", "question", "sums", "tokenizer", "work_out"]

END = "<end>"
_SIGNS = "0123456789+=,:"
_QUESTION = re.compile(r"(\d+)\+(\d+)=")


def tokenizer() -> Tokenizer:
    """Return the tokenizer of sums: a token for each of the 14 signs, and one for the end."""
    return Tokenizer({sign: i for i, sign in enumerate(_SIGNS)}, [], {END: len(_SIGNS)}, end_tokens=(END,))


def sums(n: int, n_digits: int = 3, seed: int = 0, *, held_out: bool = False) -> list[tuple[int, int]]:
    """Return `n` pairs of numbers of `n_digits` digits, drawn by `seed`; those `held_out` are never among the others.

    Held out is a tenth of all pairs, by a rule that mixes the digits of both.
    """
    check("n", n)
    check("n_digits", n_digits, int, 1, 9)
    chance, found = random.Random(seed), []
    while len(found) < n:
        a, b = (chance.randrange(10 ** (n_digits - 1), 10**n_digits) for _ in range(2))
        if ((7919 * a + 104_729 * b) % 1009 < 101) == held_out:
            found.append((a, b))
    return found


def question(a: int, b: int) -> str:
    """Return how the sum is asked for."""
    return f"{a}+{b}="


def work_out(a: int, b: int) -> str:
    """Return the answer with its working: digit by digit from the right, with what is carried."""
    steps, carried, places = [], 0, max(len(str(a)), len(str(b)))
    for x, y in zip(reversed(f"{a:0{places}}"), reversed(f"{b:0{places}}"), strict=True):
        total = int(x) + int(y) + carried
        steps.append(f"{x}+{y}{'+1' if carried else ''}={total}")
        carried = total // 10
    return f"{','.join(steps)}:{a + b}"


def is_right(asked: str, answered: str) -> bool:
    """Return whether the answer to `asked`, as `question` writes it, is the sum, and ends with END."""
    a, b = map(int, _QUESTION.fullmatch(asked).groups())
    return answered.endswith(END) and answered.removesuffix(END).rpartition(":")[2] == str(a + b)
