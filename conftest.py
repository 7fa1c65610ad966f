"""How pytest treats the notebooks: nbval runs each once; pictures and solved exercises are checked in that same run."""

import os
from collections.abc import Iterator

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile
from pictures import AKIN, ALIKE, pictures_of, wrong_outputs
from store_notebooks import exercise_of

from course_lib.exercises import find

os.environ["COURSE_DEVICE"] = "cpu"  # stored outputs were computed there; kernels inherit it


_next_message = IPyNbFile.get_kernel_message


def _next_message_or_update(file: IPyNbFile, *arguments, **options) -> dict:
    """Return the kernel's next message. One that changes what is shown already, which nbval passes over, changes it here.

    So a run that is made in the cell leaves the same outputs as one that was found in the cache.
    """
    message = _next_message(file, *arguments, **options)
    content = message["content"]
    shown, name = vars(file).setdefault("shown", {}), content.get("transient", {}).get("display_id")
    if message["msg_type"] == "display_data":
        shown[name] = content["data"] = nbformat.from_dict(content["data"])  # as nbval keeps it, and not a copy
    if message["msg_type"] == "update_display_data":
        shown[name].clear()
        shown[name].update(nbformat.from_dict(content["data"]))
    return message


IPyNbFile.get_kernel_message = _next_message_or_update


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """After each exercise cell of a notebook add a test of its solution, in the kernel as it is there; order the files."""
    items[:] = [test for item in items for test in (item, *_solved(item))]
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """Return when a file has its turn among those that two processes share: the longest first, the many short ones last.

    So no process is idle for long at the end.
    """
    if item.path.suffix == ".ipynb":
        return 0
    return 2 if item.path.parent.name == "widgets" else 1


def _solved(item: pytest.Item) -> Iterator[IPyNbCell]:
    exercise = exercise_of(item.cell) if isinstance(item, IPyNbCell) else None
    if exercise is None:
        return
    answer = find(exercise).answer
    # In a copy of the lesson's names, so that later cells find what the stub left them, as for who solves nothing.
    run = f"(lambda names: exec({find(exercise).solution!r}, names) or names[{answer!r}])(dict(globals()))"
    passed = nbformat.v4.new_output("execute_result", {"text/plain": f"Exercise {exercise}: passed"})
    cell = nbformat.v4.new_code_cell(f"check({exercise!r}, {run})", execution_count=1, outputs=[passed])
    name = f"Exercise {exercise}, solved"
    yield IPyNbCell.from_parent(
        item.parent, name=name, cell_num=item.cell_num, cell=cell, options={"check": True, "skip": False}
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Check what nbval leaves out: pictures, and which kinds of output a cell has whose outputs it is told to ignore."""
    yield
    if isinstance(item, IPyNbCell):
        elsewhere = [picture for cell in item.parent.nb.cells for picture in pictures_of(cell.get("outputs", []))]
        least = AKIN if "nbval-ignore-output" in item.cell.metadata.get("tags", []) else ALIKE
        if wrong := wrong_outputs(item.cell.outputs, item.test_outputs, elsewhere, least):
            item.raise_cell_error(wrong)
