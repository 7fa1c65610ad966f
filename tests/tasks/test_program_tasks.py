"""Every reference passes its tests and every known wrong program fails, in a process of its own; the file's damage is named."""

import ast
import contextlib
import doctest
import io
import json
import subprocess
import sys
from importlib import resources

import pytest

from course_lib.tasks.programs import ProgramTask, WrongProgram, program_tasks, read_program_tasks

TASKS = program_tasks()
PASSED = "all tests passed"
RUN = """
import contextlib, io, json, signal, sys

def stop(number, frame):
    raise TimeoutError
signal.signal(signal.SIGALRM, stop)

def last_line(program):
    output = io.StringIO()
    signal.setitimer(signal.ITIMER_REAL, 5)
    try:
        with contextlib.redirect_stdout(output):
            exec(program, {"__name__": "program"})
    except Exception as error:
        return type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return output.getvalue().rstrip().rpartition("\\n")[2]

print(json.dumps(list(map(last_line, json.load(sys.stdin)))))
"""
COMPLAINT = """
def complaint(call, wanted):
    try:
        found = eval(call)
    except Exception as error:
        return f"{call} should be {wanted}, but raises {type(error).__name__}: {error}"
    return f"{call} should be {wanted}, but is {found!r}" if found != eval(wanted) else None
"""


def last_lines(programs: list[str]) -> list[str]:
    """Run the programs, all in one other process, and return the last line that each printed, or the name of its error."""
    command = [sys.executable, "-I", "-c", RUN]
    done = subprocess.run(command, input=json.dumps(programs), capture_output=True, text=True, timeout=100, check=True)
    return json.loads(done.stdout)


def bodies(task: ProgramTask) -> list[str]:
    return [task.solution, *(wrong.body for wrong in task.wrong)]


def with_tests(task: ProgramTask, body: str) -> str:
    """Return a program with the task's tests behind it: its last line is PASSED if it passes them."""
    return "\n".join([task.prompt + body, "", *task.tests, f"print({PASSED!r})", ""])


def calls(task: ProgramTask) -> list[tuple[str, str]]:
    """Return the two sides of each of the task's tests."""
    compared = [ast.parse(test).body[0].test for test in task.tests]
    return [
        (ast.get_source_segment(test, one.left), ast.get_source_segment(test, one.comparators[0]))
        for test, one in zip(task.tests, compared, strict=True)
    ]


def test_every_reference_passes_and_every_wrong_program_fails():
    lines = last_lines([with_tests(task, body) for task in TASKS for body in bodies(task)])
    for task, (right, *wrong) in zip(TASKS, zip(*[iter(lines)] * 4, strict=True), strict=True):
        assert right == PASSED, task.name
        for one, line in zip(task.wrong, wrong, strict=True):
            assert line not in (PASSED, "SyntaxError", "NameError", "TimeoutError"), (task.name, one.mistake)


def agrees(task: ProgramTask, body: str) -> bool:
    """Return whether the program does what the examples in its prompt show."""
    names = {}
    exec(task.prompt + body, names)
    examples = doctest.DocTestFinder().find(names[task.name], globs=names)[0]
    with contextlib.redirect_stdout(io.StringIO()):
        n_failed, n_tried = doctest.DocTestRunner(verbose=False).run(examples)
    return n_tried > 0 and n_failed == 0


def test_what_the_prompts_show_is_true_and_not_enough():
    assert all(agrees(task, task.solution) for task in TASKS)
    assert sum(agrees(task, wrong.body) for task in TASKS for wrong in task.wrong) == 53


def test_a_complaint_is_what_the_first_failing_test_finds_in_the_broken_program():
    programs = []
    for task in TASKS:
        tests = [f"complaint({call!r}, {wanted!r})" for call, wanted in calls(task)]
        broken = task.prompt + task.wrong[0].body
        programs.append(f"{broken}\n{COMPLAINT}\nprint(next(filter(None, [{', '.join(tests)}])))")
    assert last_lines(programs) == [task.complaint for task in TASKS]


def test_tests_are_three_to_six_of_one_form_and_no_prompt_shows_one():
    for task in TASKS:
        assert 3 <= len(task.tests) <= 6
        for test, (call, wanted) in zip(task.tests, calls(task), strict=True):
            assert test == f"assert {call} == {wanted}" and repr(ast.literal_eval(wanted)) == wanted
            assert call not in task.prompt and call.startswith(f"{task.name}(")


def test_no_solution_stands_in_a_prompt_or_twice():
    for task in TASKS:
        assert not [other.name for other in TASKS if task.solution.strip() in other.prompt]
    assert len({body for task in TASKS for body in bodies(task)}) == 40 * 4


def test_there_are_forty_from_easy_to_hard():
    assert [sum(task.level == level for task in TASKS) for level in range(1, 5)] == [11, 10, 9, 10]
    assert [task.level for task in TASKS] == sorted(task.level for task in TASKS)
    assert len({task.name for task in TASKS}) == len({task.prompt for task in TASKS}) == 40
    assert max(len(task.prompt) for task in TASKS) < 500 and program_tasks() is TASKS


# ---------------------------------------------------------------- damaged files

LINES = (resources.files("course_lib.tasks") / "data" / "programs.jsonl").read_bytes().splitlines(keepends=True)


def changed(**fields: object) -> bytes:
    return json.dumps(json.loads(LINES[0]) | fields).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cut short"),
        (b"".join(LINES)[:-9], "cut short"),
        (LINES[0] + b"\n", "line 2"),
        (LINES[0] + LINES[1][:50] + b"\n", "line 2"),
        (LINES[0] * 2, "two tasks|2 tasks of the name larger"),
        (b"[]\n", "line 1"),
        (b"null\n", "line 1"),
        (b"[" * 100_000 + b"\n", "line 1"),
        (b"\xff\xfe\x00{}\n", "line 1"),
        (b"{}\n", "line 1"),
        (changed(more=1), "more"),
        (changed(level=5), "level must be"),
        (changed(level=True), "level must be"),
        (changed(level=float("nan")), "level must be"),
        (changed(name="smaller"), "first lines of smaller"),
        (changed(name=None), "name must be str"),
        (changed(prompt="def larger(a, b):\n"), "first lines of larger"),
        (changed(solution=""), "no solution"),
        (changed(solution=["return a"]), "solution must be str"),
        (changed(tests=[]), "no tests"),
        (changed(tests="assert larger(1, 2) == 2"), "lines of assert"),
        (changed(tests=[1]), "lines of assert"),
        (changed(tests=None), "line 1"),
        (changed(wrong=[]), "3 wrong programs"),
        (changed(wrong=[{"mistake": "", "body": 1}] * 3), "body must be str"),
        (changed(wrong=["", "", ""]), "line 1"),
    ],
    ids=range(26),
)
def test_damage_is_named_with_its_file_and_line(tmp_path, content, complaint):
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_program_tasks(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_said_to_be():
    with pytest.raises(FileNotFoundError):
        read_program_tasks("nowhere.jsonl")


def test_tasks_cannot_be_changed_or_made_of_other_things():
    with pytest.raises(AttributeError):
        TASKS[0].level = 2
    with pytest.raises(ValueError, match="mistake must be str"):
        WrongProgram(None, "")
