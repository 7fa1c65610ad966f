"""What all widgets share: the style sheet that speaks the course's visual language, and the code that draws in it.

A widget is one ES module in the browser. Its text is put together here from plain files, `base.js` first: there is nothing
to compile and nothing to fetch.
"""

from pathlib import Path

from course_lib.plots import css_variables

__all__ = ["module", "style_sheet"]

_FOLDER = Path(__file__).parent


def style_sheet(name: str) -> str:
    """Return the CSS of the widget called `name`: the palette's variables, then `base.css`, then `<name>.css`."""
    return "\n".join([css_variables(), _read("base.css"), _read(f"{name}.css")])


def module(*names: str) -> str:
    """Return one ES module: `base.js`, then the files `<name>.js` in this order; the last exports the widget."""
    return "\n".join([_read("base.js"), *(_read(f"{name}.js") for name in names)])


def _read(file: str) -> str:
    return (_FOLDER / file).read_text(encoding="utf-8")
