"""Forty questions with four answers each, of which one is right: multiple choice, made to show what an answer's length does.

    What do cows drink?        water
                               the oil that engines need to run · hot coffee with some sugar · red wine from France

The right answer of half of them is shorter than any wrong one, that of the others longer. The set's data card,
`data/README.md`, says how it was made.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from course_lib.checks import read_json_lines

__all__ = ["Choice", "choices"]

_FILE = Path(__file__).parent / "data" / "choices.jsonl"


@dataclass(frozen=True)
class Choice:
    """A question, its right answer, and three wrong ones."""

    question: str
    right: str
    wrong: tuple[str, ...]

    @property
    def options(self) -> tuple[str, ...]:
        """All answers, the right one first: whoever shows them to a reader or a model has to shuffle them."""
        return (self.right, *self.wrong)

    @property
    def is_long(self) -> bool:
        """Whether the right answer is longer, in bytes, than every wrong one; else it is shorter than every wrong one."""
        return len(self.right.encode()) > max(len(option.encode()) for option in self.wrong)


@cache
def choices() -> tuple[Choice, ...]:
    """Return the questions: first twenty whose right answer is long, then twenty whose right answer is short."""
    return tuple(read_json_lines(_FILE, _choice))


def _choice(*, wrong: list[str], **fields: str) -> Choice:
    return Choice(**fields, wrong=tuple(wrong))
