"""Whatever the answer is, a check says in words what is wrong with it, and never shows its own code."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest
import torch
from torch import Tensor

from course_lib.exercises import EXERCISES, find
from course_lib.exercises.registry import Exercise, no_inputs, no_reward
from course_lib.widgets import ExerciseCheck


def quick(exercise: Exercise) -> Exercise:
    """Return `exercise` with few of its known mistakes; what is measured on a model is a number known beforehand."""
    if exercise.kind == "why":
        return replace(exercise, mistakes=(), expected=lambda: 3.7)
    return replace(exercise, mistakes=exercise.mistakes[:2], reward=no_reward)


EXERCISES = {number: quick(exercise) for number, exercise in EXERCISES.items()}
FUNCTIONS = [number for number, exercise in EXERCISES.items() if exercise.inputs is not no_inputs]
EVERY = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)


class Hostile:
    """Nothing can be asked of it."""

    def __eq__(self, other):
        raise TypeError("no comparison")

    __hash__ = None

    def __bool__(self):
        raise TypeError("no truth value")

    def __repr__(self):
        raise TypeError("no text")


class NoArguments:
    """A class in the place of a function."""


def numbers():
    yield 1.0


def endless(*arguments):
    return endless(*arguments)


def failing(*arguments):
    raise ZeroDivisionError("on purpose")


def in_each(change: Callable[[Tensor], object], result: object) -> object:
    """Return `result` with its tensors changed; a number or a collection stands for the tensor of it where it can."""
    if isinstance(result, tuple) and any(isinstance(part, Tensor | float) for part in result):
        return tuple(in_each(change, part) for part in result)
    if isinstance(result, dict):
        return {key: change(value) for key, value in result.items()}
    return change(
        result if isinstance(result, Tensor) else torch.tensor(result) if isinstance(result, float) else result
    )


RESULTS = {
    "None": (lambda right: None, "not attempted"),
    "generator": (lambda right: numbers(), "wrong"),
    "string": (lambda right: "softmax", "wrong"),
    "long string": (lambda right: "softmax" * 1_000, "wrong"),
    "class": (lambda right: NoArguments, "wrong"),
    "function": (lambda right: endless, "wrong"),
    "module": (lambda right: math, "wrong"),
    "exception": (lambda right: ValueError("returned"), "wrong"),
    "nothing to ask of": (lambda right: Hostile(), "wrong"),
    "pair of nothing to ask of": (lambda right: (Hostile(), Hostile()), "wrong"),
    "very large number": (lambda right: 10**400, "wrong"),
    "number too long to write": (lambda right: -(10**5000), "wrong"),
    "dictionary of nothing to ask of": (lambda right: {"a": Hostile()}, "wrong"),
    "complex number": (lambda right: 1j, "wrong"),
    "empty tuple": (lambda right: (), "wrong"),
}
"""What is returned, or put in as the value -> the function that makes it of the right result, and the status."""

TENSORS = {
    "list": (lambda tensor: [tensor.tolist()], "wrong"),
    "one more axis": (lambda tensor: tensor[None], "wrong"),
    "not a number": (lambda tensor: tensor * math.nan, "wrong"),
    "no numbers": (lambda tensor: tensor.to("meta"), "wrong"),
    "complex": (lambda tensor: tensor + 1j, "wrong"),
    "gradient": (lambda tensor: tensor.requires_grad_() if tensor.is_floating_point() else tensor, "passed"),
    "double": (lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, "passed"),
    "sparse": (lambda tensor: tensor.detach().to_sparse() if tensor.ndim else tensor, "passed"),
}

NO_NUMBERS = "04.6", "07.2", "07.11"
"""The exercises that ask for words, turns or texts."""

ANSWERS = {
    "raises": (failing, "error"),
    "recurses": (endless, "error"),
    "class": (NoArguments, "error"),
    "takes nothing": (lambda: None, "error"),
    "takes strings": (str.join, "error"),
    "built in": (print, "not attempted"),
}


def judged(exercise: Exercise, answer: object) -> tuple[str, str]:
    """Return the status and what the learner reads; it must be words, few of them, and none of the check's code."""
    outcome = exercise.check(answer, torch.Generator().manual_seed(0))
    text = repr(ExerciseCheck(exercise, outcome))
    assert "Traceback" not in text
    assert "compare.py" not in text
    assert "registry.py" not in text
    assert len(text) < 1000
    return outcome.status, text


def giving(exercise: Exercise, change: Callable[[object], object]) -> object:
    """Return the answer that gives `change` of what is right: a function, or where a value is wanted the value."""
    if exercise.id not in FUNCTIONS:
        return change(exercise.expected())
    right = exercise.run(exercise.solution)
    return lambda *arguments: change(right(*arguments))


@EVERY
def test_result_of_any_kind_is_judged(exercise):
    found = {kind: judged(exercise, giving(exercise, change))[0] for kind, (change, _) in RESULTS.items()}
    assert found == {kind: status for kind, (_, status) in RESULTS.items()}


@pytest.mark.parametrize("number", [number for number in EXERCISES if number not in NO_NUMBERS])
def test_tensor_of_any_kind_is_judged(number):
    exercise = EXERCISES[number]
    answers = {kind: giving(exercise, partial(in_each, change)) for kind, (change, _) in TENSORS.items()}
    assert {kind: judged(exercise, answer)[0] for kind, answer in answers.items()} == {
        kind: status for kind, (_, status) in TENSORS.items()
    }


@EVERY
def test_function_of_any_kind_is_judged(exercise):
    found = {kind: judged(exercise, answer)[0] for kind, (answer, _) in ANSWERS.items()}
    assert found == {kind: status if exercise.id in FUNCTIONS else "wrong" for kind, (_, status) in ANSWERS.items()}


@EVERY
def test_answer_that_prints_is_heard_once_a_case(exercise, capsys):
    def loud(result):
        print("result")
        return result

    assert judged(exercise, giving(exercise, loud))[0] == "passed"
    assert capsys.readouterr().out == "result\n" * len(exercise.inputs(torch.Generator()))


def test_fraction_counts_as_the_number_it_is():
    assert find("01.1").check(Fraction(5, 8)).status == "passed"
    assert find("01.1").check(Fraction(1, 8)).status == "wrong"


def test_what_cannot_be_read_is_said():
    outcome = find("01.4").check(lambda q, k, v: (torch.empty(2, 5, 4, device="meta"), None), seed())
    assert outcome.message.startswith("`output` holds no numbers.")
    assert outcome.got == "a tensor of shape (2, 5, 4) on the device meta"


# ---------------------------------------------------------------- answers with side effects


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def places(exercise: Exercise) -> list[tuple[int, str]]:
    """Return the index and name of every input that can be changed in place, but for models and what trains them."""
    names = exercise.expected.__code__.co_varnames
    return [
        (i, names[i]) for i, given in enumerate(exercise.inputs(seed())[0]) if isinstance(given, Tensor | dict | list)
    ]


@pytest.mark.parametrize(
    ("number", "i", "name"), [(number, *place) for number in FUNCTIONS for place in places(EXERCISES[number])]
)
def test_answer_that_changes_an_input_is_told_which(number, i, name):
    exercise = EXERCISES[number]
    right = exercise.run(exercise.solution)

    def vandal(*arguments):
        result = right(*arguments)
        if isinstance(arguments[i], dict):
            arguments[i].popitem()
        elif isinstance(arguments[i], list):
            arguments[i].pop()
        else:
            arguments[i].copy_(arguments[i].roll(1, dims=-1).logical_not())
        return result

    status, text = judged(exercise, vandal)
    assert status == "wrong"
    assert f"`{exercise.answer}` changes its input `{name}`" in text


@pytest.mark.parametrize("number", FUNCTIONS)
def test_answer_that_depends_on_earlier_calls_is_told_so(number):
    exercise = EXERCISES[number]
    right, wrong = exercise.run(exercise.solution), exercise.run(exercise.mistakes[0].source)
    calls, kept = [], []

    def tired(*arguments):
        calls.append(arguments)
        return (right if len(calls) <= len(exercise.inputs(seed())) else wrong)(*arguments)

    def keeps_the_first(*arguments):
        kept.append(right(*arguments))
        return kept[0]

    for answer in (tired, keeps_the_first):
        status, text = judged(exercise, answer)
        assert status == "wrong"
        assert "from one call to the next" in text


def test_counts_in_a_default_argument_are_told():
    merge = find("04.6")
    assert "    counts = {}\n" in merge.solution
    hoarding = merge.solution.replace("    counts = {}\n", "").replace("(words):", "(words, counts={}):", 1)
    status, text = judged(merge, merge.run(hoarding))
    assert status == "wrong"
    assert "from one call to the next" in text


def test_mask_and_angles_kept_by_their_shape_alone_are_told():
    window, turn = find("01.6"), find("02.7")
    masks, turned = {}, {}

    def one_mask_a_length(length, window_):
        return masks.setdefault(length, window.run(window.solution)(length, window_))

    def one_turn_a_shape(x, theta):
        return turned.setdefault(x.shape, turn.run(turn.solution)(x, theta))

    for exercise, answer in ((window, one_mask_a_length), (turn, one_turn_a_shape)):
        status, text = judged(exercise, answer)
        assert status == "wrong"
        assert "from one call to the next" in text


def test_right_memory_passes():
    window = find("01.6")
    masks = {}
    right = window.run(window.solution)
    assert judged(window, lambda *sizes: masks.setdefault(sizes, right(*sizes)))[0] == "passed"
