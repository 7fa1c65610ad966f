"""Run notebooks whole and store them as they are committed: `make notebooks`.

Widget views and their state are left out: they mean nothing without the kernel that made them, and a reader without one
sees the picture or the text that every widget also gives.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from course_lib.exercises import find

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LESSONS = sorted(NOTEBOOKS.glob("*.ipynb"))
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CELL_METADATA = ("course", "tags")


def run(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Execute every cell in a fresh kernel and return the notebook; an error in a cell is raised.

    What a cell prints is kept in one piece, of a line that was written over only what it said last.
    """
    here = {"metadata": {"path": NOTEBOOKS}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=here, coalesce_streams=True).execute()
    return notebook


def exercise_of(cell: nbformat.NotebookNode) -> str | None:
    """Return the id of the exercise whose answer the cell holds, if it is such a cell."""
    return cell.metadata.get("course", {}).get("exercise")


def store(path: Path) -> None:
    """Fill in the exercises' stubs, run the notebook at `path`, and write it back without what is not for readers."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if exercise_of(cell):
            cell.source = find(exercise_of(cell)).stub.strip()
    run(notebook)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:03}"
        cell.metadata = {name: value for name, value in cell.metadata.items() if name in CELL_METADATA}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        store(Path(name))
