"""The plan of the house holds: no circles, no import that points up the order of rooms, and a map that names every room."""

import ast
import shutil
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "course_lib"
ROOMS = (  # in the order of the course: a room imports those before it
    *("checks", "storage", "assets", "devices", "plots"),
    *(
        "architecture",
        "tokenization",
        "checkpoints",
        "inference",
        "corpora",
        "tasks",
        "pretraining",
        "finetuning",
        "alignment",
        "applications",
        "serve",
        "life",
        "exercises",
        "widgets",
        "__main__",
    ),
)


def modules(library: Path) -> dict[str, Path]:
    """Return the dotted names of all modules, packages under their own names, and their files."""
    found = {}
    for path in sorted(library.rglob("*.py")):
        parts = (library.name, *path.relative_to(library).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the library that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}, line {node.lineno}: write imports in full"
            for alias in node.names if node.module in known else ():
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in known else node.module


def faults(library: Path) -> list[str]:
    """Return what is wrong with the imports: circles, and arrows that point up the order of rooms or out of the house."""
    known = modules(library)
    graph = {name: set(imports(path, known)) for name, path in known.items()}
    found = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("a circle: " + " -> ".join(reversed(error.args[1])))
    for name, wanted in graph.items():
        for other in wanted if "." in name else ():
            room, theirs = name.split(".")[1], other.split(".")[1]
            if ROOMS.index(theirs) > ROOMS.index(room):
                found.append(f"{name} imports {other}, which stands after it in the order of rooms")
    return found


def test_imports_point_one_way():
    assert faults(LIBRARY) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("architecture/attention.py", "from course_lib.architecture import transformer", "a circle: "),
        ("tokenization/bpe.py", "def late():\n    from course_lib.tokenization import load_tokenizer", "a circle: "),
        ("assets.py", "import course_lib.devices, course_lib.plots", "course_lib.assets imports course_lib.devices"),
        ("corpora/shards.py", "from course_lib.pretraining import Trainer", "imports course_lib.pretraining, which"),
        ("inference/generation.py", "from course_lib.widgets.shared import curves", "course_lib.widgets.shared.curves"),
        ("pretraining/optim.py", "from course_lib.exercises import find", "imports course_lib.exercises, which"),
    ],
)
def test_a_planted_import_is_found(tmp_path, file, line, complaint):
    library = shutil.copytree(LIBRARY, tmp_path / "course_lib", ignore=shutil.ignore_patterns("__pycache__"))
    path = library / file
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    assert any(complaint in fault for fault in faults(library))


def test_no_test_is_imported_and_nothing_is_imported_by_a_name_in_a_string():
    tests = {path.stem for path in Path(__file__).parent.rglob("*.py")}
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] not in tests, path
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                assert "course_lib" not in ast.unparse(node.args[0]), path


MAPPED = [LIBRARY, *(LIBRARY / room for room in ROOMS if (LIBRARY / room).is_dir()), LIBRARY / "widgets" / "shared"]


@pytest.mark.parametrize("package", MAPPED, ids=lambda path: path.name)
def test_the_map_names_every_room_and_every_module(package):
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    inside = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    assert [name for name in sorted(inside - {"__init__"}) if f"`{name}`" not in text] == []


def test_rooms_are_few_and_small():
    shown = [path.name for path in LIBRARY.iterdir() if path.name != "__pycache__"]
    assert sorted(path.removesuffix(".py") for path in shown) == sorted([*ROOMS, "__init__"])
    assert len(shown) <= 14 + 7  # storage, tasks, the rooms of lessons 05 to 07, the server, and life; 08 brings one
    for room in LIBRARY.glob("*/__init__.py"):
        if room.parent.name not in ("exercises", "widgets"):
            assert len({path.stem for path in room.parent.glob("*.py")} - {"__init__", "__main__"}) <= 10, (
                room.parent.name
            )
