"""Arithmetic, whose answers a rule can judge: sums for a model of signs, and problems in words for one of texts.

Sums of two numbers can be answered in two ways: at once, or with each digit worked out first.

    478+356=834
    478+356=8+6=14,7+5+1=13,4+3+1=8:834

The answer is what stands behind the last colon, or the whole if there is none, so any way of working is allowed, and whether
it is right can be computed. That is a verifiable reward: nobody has to be asked.

Problems are asked in words: "What is 347 × 28?", made by a rule, and sixty that tell a story, made for this course, of which
`data/README.md` says what they are not fit for.
"""

import operator
import random
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from os import PathLike
from typing import Literal

from course_lib.checks import check, check_fields, read_json_lines
from course_lib.tokenization import Tokenizer

__all__ = [
    "END", "Problem", "is_right", "plain_problems", "question", "read_problems", "story_problems", "sums", "tokenizer",
    "work_out",
]  # fmt: skip

END = "<end>"
_SIGNS = "0123456789+=,:"
_QUESTION = re.compile(r"(\d+)\+(\d+)=")
_NUMBER = re.compile(r"[−-]?[0-9][0-9,]*(?:\.[0-9]+)?")
_OPERATIONS = {"+": operator.add, "−": operator.sub, "×": operator.mul, "÷": operator.floordiv}


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


@dataclass(frozen=True)
class Problem:
    """A problem in words, one way to compute it, and the answer; "misleading" has a word or a number that leads astray."""

    kind: Literal["plain", "one step", "two steps", "misleading"]
    text: str
    expression: str
    answer: int

    def __post_init__(self) -> None:
        check_fields(self, answer=(-(10**9), 10**9))

    def is_right(self, text: str) -> bool:
        """Return whether the last number in what was answered is the answer; units, commas and a .0 do not matter."""
        numbers = _NUMBER.findall(text)
        return bool(numbers) and float(numbers[-1].replace(",", "").replace("−", "-")) == self.answer


def plain_problems(n: int, seed: int = 0) -> tuple[Problem, ...]:
    """Return `n` problems such as "What is 347 × 28?", of three digits and of two, the four operations in turn.

    Of a quotient these are what comes out, and what is divided by: nothing is left over.
    """
    check("n", n)
    chance, problems = random.Random(seed), []
    for i in range(n):
        sign, a, b = "+−×÷"[i % 4], chance.randrange(100, 1000), chance.randrange(11, 100)
        a = a * b if sign == "÷" else a
        expression = f"{a} {sign} {b}"
        problems.append(Problem("plain", f"What is {expression}?", expression, _OPERATIONS[sign](a, b)))
    return tuple(problems)


@cache
def story_problems() -> tuple[Problem, ...]:
    """Return the sixty problems that tell a story: 24 of one step, 20 of two or more, 16 misleading ones."""
    with resources.as_file(resources.files("course_lib.tasks") / "data" / "arithmetic.jsonl") as path:
        return read_problems(path)


def read_problems(path: str | PathLike) -> tuple[Problem, ...]:
    """Return the problems in a file with one on each line. ValueError names the file, and the line that is none."""
    return tuple(read_json_lines(path, Problem))
