"""Forty small programming tasks: a function's first lines, tests that it must pass, and programs that do not.

    def gap(a, b):
        \"\"\"Return the distance between two numbers on the number line. It is never negative.

        >>> gap(3, 10)
        7
        \"\"\"

A model is given the prompt and writes the function's body. Whether it is right is decided by tests that the prompt does not
show. Of the first wrong program each task holds what a test says of it. What the set is not fit for is in data/README.md.

Nothing here runs a program: one that a model wrote may do anything, and belongs into a sandbox.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from os import PathLike

from course_lib.checks import check_fields, read_json_lines

__all__ = ["ProgramTask", "WrongProgram", "program_tasks", "read_program_tasks"]

_N_WRONG = 3  # programs that a task's tests must reject


@dataclass(frozen=True)
class WrongProgram:
    """What may stand behind a prompt and looks right at first sight, and in a few words what is wrong with it."""

    mistake: str
    body: str

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ProgramTask:
    """A function to be written. ValueError for a field that is of another kind or that nothing stands in.

    `level` says how much it takes: 1 one expression, 2 a loop or a special case, 3 several cases, 4 an algorithm.
    """

    name: str  # of the function
    level: int  # 1 to 4
    prompt: str  # signature and docstring, without the last end of a line: a token may hold that and an indentation
    solution: str  # what goes on behind it, from the end of the line: a right program is prompt + solution
    tests: tuple[str, ...]  # each a line "assert name(…) == …"
    wrong: tuple[WrongProgram, ...]  # three
    complaint: str  # what the first failing test says of the first wrong program

    def __post_init__(self) -> None:
        check_fields(self, level=(1, 4))
        if not self.prompt.startswith(f"def {self.name}(") or not self.prompt.endswith('"""'):
            raise ValueError(f"the prompt must be the first lines of {self.name}, not {self.prompt[:40]!r}")
        if not all(isinstance(test, str) and test.startswith(f"assert {self.name}(") for test in self.tests):
            raise ValueError(f"the tests of {self.name} must be lines of assert")
        if len(self.wrong) != _N_WRONG or not all(isinstance(one, WrongProgram) for one in self.wrong):
            raise ValueError(f"{self.name} must have {_N_WRONG} wrong programs")
        if not (self.tests and self.solution and self.complaint):
            raise ValueError(f"{self.name} has no tests, no solution or no complaint")


@cache
def program_tasks() -> tuple[ProgramTask, ...]:
    """Return the forty tasks, from easy to hard."""
    with resources.as_file(resources.files("course_lib.tasks") / "data" / "programs.jsonl") as path:
        return read_program_tasks(path)


def read_program_tasks(path: str | PathLike) -> tuple[ProgramTask, ...]:
    """Return the tasks in a file with a task on each line. ValueError names the file, and the line that is none."""
    tasks = tuple(read_json_lines(path, _task))
    name, times = Counter(task.name for task in tasks).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{path} holds {times} tasks of the name {name}")
    return tasks


def _task(*, tests: Sequence[str], wrong: Sequence[Mapping[str, str]], **fields: object) -> ProgramTask:
    return ProgramTask(**fields, tests=tuple(tests), wrong=tuple(WrongProgram(**one) for one in wrong))
