"""Every exercise of the course: its solution passes, each known wrong version gets its hint, its stub is not attempted."""

import importlib
import itertools
import pkgutil
from dataclasses import replace

import pytest
import torch

from course_lib import exercises
from course_lib.exercises import EXERCISES
from course_lib.exercises.registry import Exercise, no_inputs, no_reward

EVERY = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
SEEDED = [
    (exercise, seed) for exercise in EXERCISES.values() for seed in range(1 if exercise.inputs is no_inputs else 3)
]  # where a value is asked for, nothing is drawn
MISTAKES = [(exercise, mistake, seed) for exercise, seed in SEEDED for mistake in exercise.mistakes]
BUILDS = [exercise for exercise in EXERCISES.values() if exercise.kind == "build"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def each_value_made_once():
    """A wrong value is also made for every mistake that comes after it, which takes a model seconds: remember it."""
    run, known = Exercise.run, {}

    def remembered(exercise, source):
        if exercise.inputs is not no_inputs:
            return run(exercise, source)
        if (exercise.id, source) not in known:
            known[exercise.id, source] = run(exercise, source)
        return known[exercise.id, source]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Exercise, "run", remembered)
        yield


def stage_lines(exercise):
    """Return what a check says first of each stage."""
    n_stages = len(exercise.stages)
    return [f"Stage {i + 1} of {n_stages}: {stage.name}." for i, stage in enumerate(exercise.stages)]


def test_every_lesson_is_in_the_registry_in_order():
    names = sorted(
        module.name for module in pkgutil.iter_modules(exercises.__path__) if module.name.startswith("lesson_")
    )
    lessons = [importlib.import_module(f"course_lib.exercises.{name}") for name in names]
    assert list(EXERCISES) == [exercise.id for lesson in lessons for exercise in lesson.EXERCISES]
    for name, lesson in zip(names, lessons, strict=True):
        number = name.removeprefix("lesson_")
        assert [exercise.id for exercise in lesson.EXERCISES] == [
            f"{number}.{i + 1}" for i in range(len(lesson.EXERCISES))
        ]


# ---------------------------------------------------------------- what holds for every exercise


@pytest.mark.parametrize(("exercise", "seed"), SEEDED, ids=lambda part: getattr(part, "id", part))
def test_solution_passes(exercise, seed):
    once = exercise if seed == 0 else replace(exercise, reward=no_reward)
    assert once.check(exercise.run(exercise.solution), seeded(seed)).status == "passed"


@EVERY
def test_stub_is_not_attempted(exercise):
    assert exercise.check(exercise.run(exercise.stub)).status == "not attempted"


@pytest.mark.parametrize(("exercise", "mistake", "seed"), MISTAKES, ids=lambda part: getattr(part, "id", None))
def test_wrong_version_gets_its_own_hint_and_the_section(exercise, mistake, seed, each_value_made_once):
    outcome = exercise.check(exercise.run(mistake.source), seeded(seed))
    assert outcome.status == "wrong"
    stage, _, message = outcome.message.rpartition("\n")
    assert message == f"{mistake.hint} Read again: {exercise.section}."
    assert stage in (stage_lines(exercise) or [""])


@EVERY
def test_every_mistake_has_a_hint_of_its_own(exercise):
    assert len({mistake.hint for mistake in exercise.mistakes}) == len(exercise.mistakes) >= 3


@EVERY
def test_hints_are_at_most_three_and_give_no_line_of_the_solution_away(exercise):
    assert 1 <= len(exercise.hints) <= 3
    given = {line.strip() for line in exercise.stub.splitlines()}
    secret = [line.strip() for line in exercise.solution.splitlines() if line.strip() and line.strip() not in given]
    assert secret
    for text in (*exercise.hints, *(part.hint for part in (*exercise.stages, *exercise.mistakes))):
        assert not any(line.removeprefix("return ") in text for line in secret)


@EVERY
def test_stub_is_short_and_defines_the_answer_that_its_check_takes(exercise):
    assert len(exercise.stub.splitlines()) <= 15
    assert callable(exercise.run(exercise.stub)) == (exercise.inputs is not no_inputs)


@EVERY
def test_inputs_have_no_two_equal_sizes(exercise):
    for seed in range(3):
        for arguments in exercise.inputs(seeded(seed)):
            for argument in arguments:
                sizes = argument.shape if isinstance(argument, torch.Tensor) else ()
                assert len(set(sizes)) == len(sizes)
            numbers = [argument for argument in arguments if isinstance(argument, int)]
            assert len(set(numbers)) == len(numbers)


# ---------------------------------------------------------------- the stages of a build


@EVERY
def test_a_build_has_a_stage_for_each_input_and_no_other_exercise_has_stages(exercise):
    n_stages = len(exercise.inputs(seeded(0))) if exercise.kind == "build" else 0
    assert len({stage.hint for stage in exercise.stages}) == len(set(stage_lines(exercise))) == n_stages
    assert n_stages != 1


@pytest.mark.parametrize("exercise", BUILDS, ids=lambda exercise: exercise.id)
def test_each_stage_stops_a_known_mistake_that_passes_those_before_it(exercise):
    outcomes = [exercise.check(exercise.run(mistake.source), seeded(0)) for mistake in exercise.mistakes]
    assert {outcome.message.splitlines()[0] for outcome in outcomes} == set(stage_lines(exercise))


@pytest.mark.parametrize("exercise", BUILDS, ids=lambda exercise: exercise.id)
def test_answer_nobody_foresaw_is_told_its_stage_with_the_hint_and_both_numbers(exercise):
    right, n_stages = exercise.run(exercise.solution), len(exercise.stages)
    for n_passed, (line, stage) in enumerate(zip(stage_lines(exercise), exercise.stages, strict=True)):
        calls = itertools.cycle(range(n_stages))  # a check asks for everything twice

        def stops(*arguments, calls=calls, n_passed=n_passed):
            result = right(*arguments)
            return result if next(calls) < n_passed else 3 * result + 1

        outcome = exercise.check(stops, seeded(0))
        assert outcome.status == "wrong"
        assert outcome.message.splitlines()[:2] == [line, stage.hint]
        assert outcome.got
        assert outcome.wanted


@pytest.mark.parametrize("exercise", BUILDS, ids=lambda exercise: exercise.id)
def test_exception_in_a_build_is_told_with_its_stage(exercise):
    outcome = exercise.check(lambda *arguments: 1 / 0)
    line, hint, stopped, *_ = outcome.message.splitlines()
    assert (outcome.status, line, hint) == ("error", stage_lines(exercise)[0], exercise.stages[0].hint)
    assert stopped.startswith("Your code stopped at")
