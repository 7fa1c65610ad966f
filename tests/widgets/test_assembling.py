"""How a widget's module and style sheet are put together from files that import one another."""

import re
from pathlib import Path

import pytest

from course_lib import widgets
from course_lib.plots import css_variables
from course_lib.widgets.shared.base import module, style_sheet

ROOT = Path(widgets.__file__).parent
SCRIPTS = sorted(ROOT.glob("*/*.js"))
SHEETS = sorted(ROOT.glob("*/*.css"))
VIEWS = sorted(ROOT.glob("*/view.js"))


def imports(file: Path) -> dict[Path, list[str]]:
    """What a file imports: {file: names}; a style sheet imports no names."""
    text = file.read_text()
    if file.suffix == ".css":
        return {(file.parent / path).resolve(): [] for path in re.findall(r"@import\s+\"([^\"]+)\"", text)}
    found = re.findall(r"\bimport\s*\{([^}]*)\}\s*from\s*\"([^\"]+)\"", text)
    return {(file.parent / path).resolve(): re.findall(r"[\w$]+", names) for names, path in found}


def reached(door: Path) -> set[Path]:
    """The door, and every file that it leads to."""
    return {door}.union(*(reached(file) for file in imports(door)))


@pytest.fixture
def write(tmp_path):
    """Write files, {name: text}, and return the path of a widget's Python file beside them."""

    def write_files(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return tmp_path / "widget.py"

    return write_files


def test_a_module_stands_after_those_it_imports_and_each_stands_once(write):
    widget = write(
        {
            "view.js": 'import { a } from "./a.js";\nimport {\n  b,\n} from "./b.js";\n\nexport default { render };\n',
            "a.js": 'import { b } from "./b.js";\nexport const a = b + 1;\n',
            "b.js": "// The first.\nexport const b = 1;\nexport function f() {}\n",
        }
    )
    text = "// The first.\nconst b = 1;\nfunction f() {}\n\nconst a = b + 1;\n\n\nexport default { render };\n"
    assert module(widget) == text


def test_a_style_sheet_stands_after_those_it_imports_and_the_palette_before_all(write):
    widget = write({"style.css": '/* Mine */\n@import "./base.css";\n.a {\n}\n', "base.css": ".b {\n}\n"})
    assert style_sheet(widget) == f"{css_variables()}\n.b {{\n}}\n\n/* Mine */\n.a {{\n}}\n"


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.parent.name)
def test_a_widgets_rules_are_for_that_widget_alone(view):
    sheet = re.sub(
        r"/\*.*?\*/", "", style_sheet(view.with_name("widget.py")).removeprefix(css_variables()), flags=re.DOTALL
    )
    sheet = re.sub(r"@keyframes [^{]*\{(?:[^{}]*\{[^}]*\})*\s*\}", "", sheet)
    selectors = [one.strip() for rule in re.findall(r"([^{};]+)\{", sheet) for one in split_at_commas(rule)]
    own = re.compile(rf"\.{view.parent.name.replace('_', '-')}(?![\w-])")
    assert selectors
    assert [one for one in selectors if not own.search(one) and not one.startswith(("@", "&"))] == []


def split_at_commas(selectors: str) -> list[str]:
    """Cut a list of selectors at the commas that stand in no brackets."""
    return re.split(r",(?![^(]*\))", selectors)


def test_a_missing_file_is_named_with_the_file_that_imports_it(write):
    widget = write({"view.js": 'import { a } from "./gone.js";\n'})
    with pytest.raises(FileNotFoundError, match=r"there is no .*gone\.js, which .*view\.js imports"):
        module(widget)
    with pytest.raises(FileNotFoundError, match=r"there is no .*style\.css$"):
        style_sheet(widget)


def test_files_that_import_one_another_in_a_circle_are_named(write):
    files = {"view.js": 'import { a } from "./a.js";\n', "a.js": 'import { b } from "./b.js";\n'}
    widget = write(files | {"b.js": 'import { a } from "./a.js";\n'})
    with pytest.raises(ValueError, match=r"circle: a\.js → b\.js → a\.js"):
        module(widget)


def test_a_name_that_two_files_give_is_an_error(write):
    widget = write(
        {"view.js": 'import { a } from "./a.js";\nconst b = 1;\n', "a.js": "export const a = 1;\nfunction b() {}\n"}
    )
    with pytest.raises(ValueError, match=r"a\.js and .*view\.js both call something b: rename"):
        module(widget)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.parent.name)
def test_the_browser_gets_one_module_without_imports(view):
    text = module(view.with_name("widget.py"))
    assert not re.findall(r"^[ \t]*import\b", text, re.MULTILINE)
    assert re.findall(r"^[ \t]*export\b.*", text, re.MULTILINE) == ["export default { render };"]
    assert not re.search("@import", style_sheet(view.with_name("widget.py")))


def test_every_imported_name_is_exported_and_every_exported_one_imported():
    exported = {
        file: set(re.findall(r"^export (?:function|const) (\w+)", file.read_text(), re.MULTILINE)) for file in SCRIPTS
    }
    imported = {file: set() for file in SCRIPTS}
    for script in SCRIPTS:
        for file, names in imports(script).items():
            imported[file].update(names)
    assert imported == exported


def test_every_file_is_used_by_a_widget():
    doors = [*VIEWS, *ROOT.glob("*/style.css")]
    assert set().union(*map(reached, doors)) == {*SCRIPTS, *SHEETS}
