"""Wrong answers do not pass: of all small changes to a solution, a check lets through only those that change nothing.

The answer to a *trace* is a number: its mutants are other numbers that a slip makes of it, and those of the expression.
The solutions of *what if* exercises run real models for seconds, so there only the learner's own lines are mutated and
not what the stub gives; the model remembers what it gave for the same ids, mask and hooks (`real_model.Remembering`), and
the number that is right is measured once. Most mutants then run no model at all: some 30 different runs are left of 430.
"""

import ast
import math
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from equivalents import EQUIVALENT
from mutants import mutants

from course_lib.exercises import EXERCISES, find
from course_lib.exercises.registry import Exercise, no_reward

TRACES = [exercise for exercise in EXERCISES.values() if exercise.kind == "trace"]
OTHERS = [exercise for exercise in EXERCISES.values() if exercise.kind != "trace"]


class Endless(BaseException):
    """Raised where a mutant has run too long: no answer's `except Exception`, nor the check's, catches it."""


@contextmanager
def at_most(seconds: float):
    """Raise Endless in the code inside once it has used so many seconds of processor time, be the machine busy or not."""

    def stop(number, frame):
        raise Endless(f"no end after {seconds} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def passes(exercise: Exercise, source: str, seconds: float = 5) -> bool:
    try:
        with at_most(seconds):
            return exercise.check(exercise.run(source), torch.Generator().manual_seed(0)).status == "passed"
    except (Exception, Endless):
        return False  # it gives no answer


def judge(exercise: Exercise) -> Exercise:
    """Return `exercise` without its known mistakes, which only choose the hint, with inputs and what is right made only once.

    Where a gradient is checked, what is right is asked for at other inputs, too, and is computed.
    """
    cases = exercise.inputs(torch.Generator().manual_seed(0))
    strict = replace(exercise, mistakes=(), reward=no_reward, inputs=lambda generator: cases)
    if exercise.learned:
        return strict
    right = {tuple(map(id, case)): exercise.expected(*case) for case in cases}
    return replace(strict, expected=lambda *case: right[tuple(map(id, case))])


def lines_of(source: str) -> set[str]:
    return {line.strip() for line in ast.unparse(ast.parse(source)).splitlines()}


@pytest.mark.parametrize("exercise", OTHERS, ids=lambda exercise: exercise.id)
def test_mutants_that_pass_are_those_that_change_nothing(exercise):
    given = lines_of(exercise.stub) if exercise.kind == "why" else set()
    changed = [mutant for mutant in mutants(exercise.solution) if mutant.old not in given]
    assert len(changed) >= 30
    strict = judge(exercise)
    assert passes(strict, exercise.solution, seconds=60)
    passed = {mutant.new for mutant in changed if passes(strict, mutant.source)}
    assert passed == {line for lines in EQUIVALENT.get(exercise.id, {}).values() for line in lines}


@pytest.mark.parametrize("exercise", TRACES, ids=lambda exercise: exercise.id)
def test_no_other_number_passes(exercise):
    strict = judge(exercise)
    right = strict.expected()
    shares = 0.011, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1, 2
    others = [right * (1 + sign * share) for sign in (1, -1) for share in shares]
    others += [
        1 / right,
        1 - right,
        right - 1,
        right + 1,
        right**2,
        right**0.5,
        right * math.log(2),
        right / math.log(2),
    ]
    others += [math.exp(right), math.log(right), 2**right, math.log2(right), math.nan, math.inf, -math.inf, True]
    assert len(others) >= 30
    assert not [other for other in others if strict.check(other).status == "passed"]
    assert not [mutant for mutant in mutants(exercise.solution) if passes(strict, mutant.source)]


# ---------------------------------------------------------------- the tool itself


def test_mutants_of_two_lines_by_hand():
    assert {(mutant.old, mutant.new) for mutant in mutants("def f(a):\n    '''Say.'''\n    return a[-1] - 2\n")} == {
        ("return a[-1] - 2", new)
        for new in (
            *("return a[-1] + 2", "return a[-1] * 2", "return a[-1] / 2"),  # the operator
            *("return a[-1]", "return 2", "return 2 - a[-1]"),  # its sides
            *("return a[-2] - 2", "return a[0] - 2", "return a[1] - 2", "return a - 2"),  # the index
            *("return a[-1] - 3", "return a[-1] - 1", "return a[-1] - -2"),  # the constant
            "pass",  # the line
        )
    }


@pytest.mark.parametrize(
    ("source", "new"),
    [
        ("if a < b: f(a, b)", "if not a < b:"),
        ("if a < b: f(a, b)", "if a <= b:"),
        ("f(a, b)", "f(b, a)"),
        ("f(a, b)", "f(b)"),
        ("x.sum(dim=1)", "x.sum()"),
        ("x.sum(dim=1)", "x.mean(dim=1)"),
        ("x.sum(dim=1)", "x"),
        ("a, b = c", "b, a = c"),
        ("x += 1", "x -= 1"),
        ("a = 1; b = 2; c = a", "c = b"),
        ("y = ~x & z", "y = x & z"),
        ("y = x[1:]", "y = x[:]"),
        ("y = a and b", "y = a or b"),
    ],
)
def test_kinds_of_mutants(source, new):
    assert new in {mutant.new for mutant in mutants(source)}


def test_mutant_without_end_is_stopped_and_does_not_pass():
    window = find("01.6")
    endless = window.solution.replace(
        "    position =", "    while length:\n        length = length + 1\n    position =", 1
    )
    assert endless != window.solution
    assert not passes(judge(window), endless, seconds=0.2)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
