"""What an exercise is, and how an answer to it is checked.

An answer is judged by what it does, never by how it is written. It is run on fresh random inputs beside an independent
computation, and then once more on the same, for it may neither write into its inputs nor depend on earlier calls; when it
is wrong, it is compared with every known wrong version of the exercise, and whoever gives the same wrong results gets the
hint for that misconception.
"""

import io
import math
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from inspect import signature
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.exercises.compare import (
    Changed,
    Difference,
    Loss,
    Raised,
    Used,
    call,
    describe,
    first_difference,
    gradient_by_differences,
)

__all__ = ["Exercise", "Mistake", "Outcome", "Stage"]

_MEMORY = (
    "Does it keep something from one call to the next, in a name outside of it or in a default argument, "
    "leave an input out, or draw at random?"
)


@dataclass(frozen=True)
class Mistake:
    """A known wrong version of an answer, and the hint that names its misconception and where to read again."""

    source: str
    hint: str


@dataclass(frozen=True)
class Stage:
    """A part of a build: `name` says what it has to cope with, and `hint` what is new in that."""

    name: str
    hint: str


@dataclass(frozen=True)
class Outcome:
    """What a check found: `message` says it in words; `got` and `wanted`, where there are any, show the two sides."""

    status: Literal["passed", "wrong", "error", "not attempted"]
    message: str
    got: str = ""
    wanted: str = ""


def no_inputs(generator: torch.Generator) -> list[tuple]:
    """Return the inputs of an exercise that asks for a value, not for a function: one case without arguments."""
    return [()]


def no_names() -> dict[str, object]:
    """Return the names that sources may use beside `torch`, `math` and `F`: none."""
    return {}


def no_reward(answer: object) -> str:
    """Return what a right answer is rewarded with where nothing is run on it: no words."""
    return ""


@dataclass(frozen=True)
class Exercise:
    """One exercise: what the learner sees, what is right, and what is known to go wrong.

    `stub` and `solution` are the source of the cell, which defines `answer`: a function, or a value to put in. `inputs`
    makes the argument tuples, afresh for every check and with no two sizes equal, so that a swapped axis cannot hide;
    `expected` computes what is right for them by another road than the solution. `results` names what the answer returns.
    A *build* goes through `stages`, from plain to all that it has to do, one for each of the inputs. Where the answer is a
    loss, `learned` names the argument that gets its gradient, which is then checked as well: by differences of `expected`,
    which has to return a number as precise as float64. `reward` runs the real thing on an answer that is right, and says what
    came of it. Where the answer is a class, `use` is given it and the arguments, makes an object of it and returns what that
    gives.
    """

    id: str
    kind: Literal["trace", "repair", "write", "build", "why"]
    title: str
    section: str
    answer: str
    stub: str
    solution: str
    why: str
    hints: tuple[str, ...]
    mistakes: tuple[Mistake, ...]
    expected: Callable
    results: tuple[str, ...]
    inputs: Callable[[torch.Generator], list[tuple]] = no_inputs
    names: Callable[[], dict[str, object]] = no_names
    stages: tuple[Stage, ...] = ()
    learned: str = ""
    use: Callable | None = None
    reward: Callable[[object], str] = no_reward
    tolerance: float = 1e-4

    def check(self, answer: object, generator: torch.Generator | None = None) -> Outcome:
        """Judge `answer`, the learner's function or value, on inputs drawn from `generator` (by default a fresh one)."""
        if _blank(answer):
            return Outcome("not attempted", f"Put your answer in the place of the `...` in `{self.answer}`.")
        answer, cases = self._as_function(answer), self.inputs(generator or _fresh())
        if cases != [()] and not callable(answer):
            return Outcome("wrong", f"Give the function itself, without calling it: check({self.id!r}, {self.answer}).")
        results = self._run(answer, cases)
        expected = [self._wanted(arguments) for arguments in cases]
        with redirect_stdout(io.StringIO()):  # what an answer prints is printed once
            again = self._run(answer, cases)
        differences = self._differences(results, expected)
        if self._differences(again, expected) != differences:
            return Outcome("wrong", f"`{self.answer}` does not give the same for the same inputs. {_MEMORY}")
        if not any(differences):
            return Outcome("passed", self._rewarded(answer))
        if all(map(_blank, results)):
            return Outcome(
                "not attempted", f"`{self.answer}` returns nothing yet. If it is written, where is its `return`?"
            )
        if cases != [()] and self._gives(self.stub, cases, results):
            todo = "Write what is left open." if self.kind == "build" else "Find the bug, and mend it."
            return Outcome("not attempted", f"`{self.answer}` still does what it did. {todo}")
        failed = next(i for i, difference in enumerate(differences) if difference)
        stage, hint = self._stage(failed)
        for mistake in self.mistakes:
            if self._gives(mistake.source, cases, results):
                return Outcome("wrong", f"{stage}{mistake.hint} Read again: {self.section}.")
        if self._late(results, expected):
            return Outcome("wrong", f"`{self.answer}` gives what is right for the inputs of an earlier call. {_MEMORY}")
        outcome = self._report(differences[failed], results[failed], cases[failed])
        return replace(outcome, message=f"{stage}{hint}{outcome.message}")

    def run(self, source: str) -> object:
        """Return the answer that the cell `source` of this exercise defines, a class as the function that uses it."""
        namespace = {"torch": torch, "math": math, "F": F, **self.names()}
        exec(compile(source, f"<exercise {self.id}>", "exec"), namespace)
        return self._as_function(namespace[self.answer])

    def _as_function(self, answer: object) -> object:
        return Used(answer, self.use) if self.use and isinstance(answer, type) else answer

    @property
    def _place(self) -> int | None:
        """The number of the argument that gets a gradient, if there is one."""
        return [*signature(self.expected).parameters].index(self.learned) if self.learned else None

    def _run(self, answer: object, cases: Sequence[tuple]) -> list:
        return [self._run_once(answer, arguments) for arguments in cases]

    def _run_once(self, answer: object, arguments: tuple) -> object:
        return call(answer, arguments, self._place) if arguments else answer

    def _gives(self, source: str, cases: Sequence[tuple], results: Sequence) -> bool:
        """Return whether the cell `source` gives these results; from where it does not, it is run no further."""
        answer = self.run(source)
        pairs = zip(results, cases, strict=True)
        return not any(self._difference(result, self._run_once(answer, arguments)) for result, arguments in pairs)

    def _wanted(self, arguments: tuple) -> object:
        value = self.expected(*arguments)
        if not self.learned:
            return value
        return Loss(value, gradient_by_differences(self.expected, arguments, self._place))

    def _rewarded(self, answer: object) -> str:
        try:
            with redirect_stdout(io.StringIO()):
                return self.reward(answer.made if isinstance(answer, Used) else answer)
        except Exception as error:  # it does what it should for the inputs of the check, and not for others
            return f"But in a real run it stopped: {type(error).__name__}: {error}"

    def _late(self, results: Sequence, expected: Sequence) -> bool:
        """Return whether a wrong result is what an earlier case wants."""
        return any(
            self._difference(result, expected[i])
            and not all(self._difference(result, earlier) for earlier in expected[:i])
            for i, result in enumerate(results)
        )

    def _differences(self, results: Sequence, others: Sequence) -> list[Difference | None]:
        return list(map(self._difference, results, others))

    def _difference(self, got: object, wanted: object) -> Difference | None:
        return first_difference(got, wanted, self.results, self.tolerance)

    def _stage(self, failed: int) -> tuple[str, str]:
        """Return the line that says at which stage a build stops, and the line with its hint; else nothing."""
        if not self.stages:
            return "", ""
        stage = self.stages[failed]
        return f"Stage {failed + 1} of {len(self.stages)}: {stage.name}.\n", f"{stage.hint}\n"

    def _report(self, difference: Difference, result: object, arguments: tuple) -> Outcome:
        """Say what is wrong with one result."""
        if not arguments:  # a value: to show the one that is wanted would be to tell the answer
            return Outcome("wrong", f"{difference.what}. Read again: {self.section}.", difference.got)
        inputs = f"The inputs were {self._describe(arguments)}."
        if isinstance(result, Changed):
            name = list(signature(self.expected).parameters)[result.place]
            return Outcome(
                "wrong", f"`{self.answer}` changes its input `{name}`, which others may still need. Make a new one."
            )
        if isinstance(result, Raised):
            stopped = f"Your code stopped at {result.line}" if result.line else "Your code stopped."
            return Outcome("error", f"{stopped}\n{result.kind}: {result.message}\n{inputs}")
        return Outcome("wrong", f"{difference.what}.\n{inputs}", difference.got, difference.wanted)

    def _describe(self, arguments: tuple) -> str:
        return ", ".join(
            f"{name} {tuple(value.shape)}" if isinstance(value, Tensor) else f"{name} = {_shown(value)}"
            for name, value in zip(signature(self.expected).parameters, arguments, strict=True)
        )


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else describe(value)  # a model, or a dictionary of tensors


def _blank(result: object) -> bool:
    return result is None or result is ...


def _fresh() -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator
