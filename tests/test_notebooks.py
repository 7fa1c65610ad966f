"""What nbval lets through: order, cleared outputs, stderr, pictures and booleans without numbers, exercise cells, bulk.

nbval itself runs over `notebooks/` in the same pytest call and compares the stored outputs.
"""

import ast
import re
import symtable
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from store_notebooks import LESSONS, WIDGET_VIEW, exercise_of

from course_lib.exercises import EXERCISES, find

PATHS = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
WIDGET = re.compile(
    r"\b(AttentionExplorer|AttentionStepper|CacheView|ChatApp|ChatFormatView|CheckpointScrubber|ConstraintView"
    r"|LogitLens|LoraView|ParallelismTimeline|PreferenceLabeller|RLHFDashboard|RetrievalExplorer"
    r"|SamplingPlayground|ScalePlanner|TokenizerView|TrainingDashboard)\("
)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|home|tmp|opt|usr/lib|Users)/[\w./-]+")
QUESTION = re.compile(r"Predict\(|\.reveal\(|^check\(", re.MULTILINE)
BOOLEANS = re.compile(r"(?=.*(?:True|False))(?:\b(?:True|False)\b|\w*\(|(?:'[^']*'|\d+):|[\[\](){},\s])+")
CLAIM = re.compile(r"\b(?:True|False)(?=[.;,)\]]|\s*$)", re.MULTILINE)
FIGURE = re.compile(r"<Figure size .*>")
NUMBER = re.compile(r"(?<![\w.])\d[\d,.]*")
MINUTES = {"trace": 2, "repair": 6, "why": 6, "write": 12, "build": 25}  # for an exercise of each kind


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def exercises_of(path: Path) -> list[str]:
    return [name for name in EXERCISES if name.startswith(path.stem[:3].replace("_", "."))]


def mime_types(cell: nbformat.NotebookNode) -> set[str]:
    return {mime for output in cell.outputs for mime in output.get("data", {"stream": ""})} - {WIDGET_VIEW}


def texts(cell: nbformat.NotebookNode) -> str:
    data = [output.get("data", {}) for output in cell.outputs]
    return "\n".join(
        [output.get("text", "") for output in cell.outputs]
        + [text for mimes in data for mime, text in mimes.items() if mime.startswith("text/")]
    )


def is_bare(output: str, source: str) -> bool:
    """Tell whether what a cell printed says *that* something is so, and not how large it is.

    Bare is a line of nothing but booleans, and a claim that ends in one ("scores agree: True") in an output without a
    number. Numbers that stand in a string of the cell ("more than 98 % are right: True") were known before, and do not count.
    """
    output = FIGURE.sub("", output)
    if any(map(BOOLEANS.fullmatch, output.splitlines())):
        return True
    strings = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    known = {number for text in strings if isinstance(text, str) for number in numbers(text)}
    return bool(CLAIM.search(output)) and not set(numbers(output)) - known


def numbers(text: str) -> list[str]:
    return [number.rstrip(".,") for number in NUMBER.findall(text)]


def names_of(source: str, used: Callable[[symtable.Symbol], bool]) -> set[str]:
    """Return the global names that a cell binds (`Symbol.is_assigned`) or reads (`Symbol.is_referenced`) at any depth."""
    scopes = [symtable.symtable(source, "<cell>", "exec")]
    names = {symbol.get_name() for symbol in scopes[0].get_symbols() if used(symbol)}
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        names |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global() and used(symbol)}
    return names


@PATHS
def test_run_in_order_from_a_fresh_kernel(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@PATHS
def test_cells_are_numbered_in_order(path):
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.id for cell in cells] == [f"cell-{index:03}" for index in range(len(cells))]


@PATHS
def test_stored_outputs_are_clean(path):
    for cell in code_cells(path):
        assert not [output for output in cell.outputs if output.output_type == "error"], cell.source
        assert not [output for output in cell.outputs if output.get("name") == "stderr"], cell.source
        assert not any(WIDGET_VIEW in output.get("data", {}) for output in cell.outputs), cell.source
        for pattern in (ADDRESS, MACHINE_PATH):
            assert not pattern.search(texts(cell)), cell.source


@PATHS
def test_every_pictures_numbers_are_asserted_beside_it(path):
    cells = code_cells(path)
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        if "image/png" in mime_types(cell) and "text/plain" in mime_types(cell) and not WIDGET.search(cell.source):
            beside = cell.source + (following.source if following else "")
            assert "assert" in beside, f"a picture whose numbers no cell checks:\n{cell.source}"


@PATHS
def test_what_nbval_ignores_is_bounded_by_the_next_cell(path):
    cells = code_cells(path)
    for cell, following in pairwise(cells):
        if "nbval-ignore-output" in cell.metadata.get("tags", []) and ".reveal(" not in cell.source:
            assert "assert" in following.source, cell.source


@PATHS
def test_widgets_leave_a_text_that_can_be_compared(path):
    for cell in code_cells(path):
        text = texts(cell).strip()
        if widget := WIDGET.search(cell.source):
            assert text.startswith(f"{widget[1]}: "), cell.source
        elif QUESTION.search(cell.source):
            assert re.match(r"Predict: |You said|Skipped|Exercise ", text), cell.source


@pytest.mark.parametrize(
    ("output", "source", "bare"),
    [
        ("True\n", "print(a == b)", True),
        ("[True, False, True]", "[a == b for a, b in pairs]", True),
        ("{'shuffled': True, 'plain': False}", "same", True),
        ("tensor([[ True, False],\n        [ True,  True]])", "mask", True),
        ("3 of 4\n(True, True)", "print(n, 'of', m)\nsame", True),
        ("scores agree: True", "print('scores agree:', same)", True),
        ("the last: False.", "print(f'the last: {same}.')", True),
        ("more than 98 % of 1,000 are right: True", "print('more than 98 % of 1,000 are right:', right > 980)", True),
        ("below 0.1: True\nabove 4: True", "print(f'below 0.1: {a < 0.1}')\nprint('above 4:', b > 4)", True),
        ("<Figure size 750x340 with 1 Axes>\nlonger: True", "print('longer:', a > b)", True),
        ("0.25 and 0.25, equal: True", "print(f'{a} and {b}, equal: {a == b}')", False),
        ("0.25\n0.25\nequal: True", "print(a)\nprint(b)\nprint('equal:', a == b)", False),
        ("reads True as may attend", "print('reads True as may attend')", False),
        ("48.0 and 46.0", "print(a, 'and', b)", False),
        ("()", "tuple(found)", False),
    ],
)
def test_what_a_bare_boolean_is(output, source, bare):
    assert is_bare(output, source) == bare


@PATHS
def test_who_predicted_a_number_sees_that_number(path):
    for cell in code_cells(path):
        if not (exercise_of(cell) or QUESTION.search(cell.source) or WIDGET.search(cell.source)):
            assert not is_bare(texts(cell), cell.source), f"prints a boolean, and no number:\n{cell.source}"


@PATHS
def test_exercises_point_back_to_sections_that_exist(path):
    prose = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    headings = re.findall(r"^#+ (.+)$", "\n".join(prose), re.MULTILINE)
    for name in exercises_of(path):
        section = find(name).section
        assert any(section in heading.replace("$\\sqrt{d}$", "√d") for heading in headings), section


@PATHS
def test_every_prediction_is_revealed_later(path):
    source = "\n".join(cell.source for cell in code_cells(path))
    asked = re.findall(r"^(\w+) = Predict\(", source, re.MULTILINE)
    assert len(asked) >= 4
    for name in asked:
        assert source.index(f"{name} = Predict(") < source.index(f"{name}.reveal("), name


@PATHS
def test_cells_are_short_and_the_file_is_small(path):
    for cell in code_cells(path):
        lines = cell.source.splitlines()
        assert len(lines) <= 22, cell.source  # fifteen lines of code, with comments and blank lines
        assert max(map(len, lines)) <= 100, cell.source  # what a cell shows without scrolling
    assert path.stat().st_size < 1.5 * 2**20


@PATHS
def test_exercise_cells_hold_the_registrys_stubs(path):
    cells = [cell for cell in code_cells(path) if exercise_of(cell)]
    assert [exercise_of(cell) for cell in cells] == exercises_of(path)
    for cell in cells:
        assert cell.source == find(exercise_of(cell)).stub.strip(), "run `make notebooks`, or mend the registry"


@PATHS
def test_no_cell_but_its_check_needs_what_a_solution_makes(path):
    """So that whoever solves nothing and whoever solves everything run the same lesson."""
    cells = code_cells(path)
    for place, exercise in enumerate(map(exercise_of, cells)):
        if exercise is None:
            continue
        made = names_of(find(exercise).solution, symtable.Symbol.is_assigned)
        check, *later = (cell.source for cell in cells[place + 1 :])
        assert check == f'check("{exercise}", {find(exercise).answer})'
        for source in later:
            bound = names_of(source, symtable.Symbol.is_assigned)
            needed = names_of(source, symtable.Symbol.is_referenced) - bound
            assert not made & needed, f"{exercise} makes {made & needed}, which another cell uses:\n{source}"
            made -= bound


@PATHS
def test_the_minutes_that_a_lesson_states_are_those_that_it_takes(path):
    """Reading at 180 words a minute, a minute and a half for a prediction, and the time of each exercise."""
    cells, minutes, sitting = nbformat.read(path, as_version=4).cells, [0.0, 0.0], 0
    for cell in cells:
        sitting = max(sitting, int("# Sitting 2 of 2" in cell.source))
        if cell.cell_type == "markdown":
            minutes[sitting] += len(cell.source.split()) / 180
        elif exercise_of(cell):
            minutes[sitting] += MINUTES[find(exercise_of(cell)).kind]
        else:
            minutes[sitting] += 1.5 * cell.source.count("= Predict(")
    prose = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
    stated = [int(n) for n in re.search(r"Two sittings of (\d+) and (\d+) minutes", prose).groups()]
    assert stated == [round(n) for n in minutes] and max(stated) <= 75
