"""What all widgets share: the style sheet that speaks the course's visual language, and the code that draws in it.

A widget's JavaScript is ES modules and its CSS style sheets, which import one another; here each of the two is put together
as the one text that Jupyter takes. There is nothing to compile and nothing to fetch.
"""

import re
from pathlib import Path

from course_lib.plots import chip, css_variables
from course_lib.tokenization import Tokenizer

__all__ = ["encode_text", "module", "style_sheet", "token_of"]

_JS_IMPORT = re.compile(r'^import \{[^}]*\} from "(.+)";\n', re.MULTILINE)
_CSS_IMPORT = re.compile(r'^@import "(.+)";\n', re.MULTILINE)
_CSS_SHARED = re.compile(r"\.(?:course-widget|course-card|settings-widget|run-dashboard|attention-panels)(?![\w-])")
_JS_NAME = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE)
_JS_EXPORT = re.compile(r"^export (?!default)", re.MULTILINE)


def style_sheet(widget_file: str | Path) -> str:
    """Return a widget's CSS: the palette's variables, and `style.css` beside `widget_file` after all that it imports.

    The shared rules are narrowed to this widget, which has the class of its folder's name: a sheet that comes later in a
    notebook would else win over the own rules of the widgets before it.
    """
    own = Path(widget_file).parent.name.replace("_", "-")
    sheets = _in_order(Path(widget_file).with_name("style.css"), _CSS_IMPORT).values()
    return "\n".join([css_variables(), *(_CSS_SHARED.sub(rf"\g<0>:where(.{own})", sheet) for sheet in sheets)])


def module(widget_file: str | Path) -> str:
    """Return a widget's JavaScript as one ES module: `view.js` beside `widget_file`, after all that it imports.

    FileNotFoundError if an imported file is not there; ValueError if files import one another in a circle, or two of them
    give something the same name, for in the one module all names are neighbours.
    """
    # The browser gets this text from the kernel, not from a server: it has no address that a relative import could start from.
    files = _in_order(Path(widget_file).with_name("view.js"), _JS_IMPORT)
    owners: dict[str, Path] = {}
    for file, text in files.items():
        for name in _JS_NAME.findall(text):
            if name in owners:
                raise ValueError(f"{owners[name]} and {file} both call something {name}: rename one of the two")
            owners[name] = file
    return "\n".join(_JS_EXPORT.sub("", text) for text in files.values())


def encode_text(tokenizer: Tokenizer, text: str, longest: int) -> list[int]:
    """Return the ids of the text that a learner typed, after those that the model was trained to see at a text's start.

    ValueError says how to mend a text that is empty or longer than `longest` tokens.
    """
    ids = tokenizer.encode_prompt(text)
    if not tokenizer.encode(text):
        raise ValueError("The text is empty: type a word or more.")
    if len(ids) > longest:
        raise ValueError(f"The text has {len(ids)} tokens and {longest} fit: shorten it by {len(ids) - longest}.")
    return ids


def token_of(tokenizer: Tokenizer, index: int) -> dict:
    """Return what the browser is told of a token: its id, its text, and the text that its chip shows.

    A model may have more rows than its tokenizer has tokens, so as to be a round number wide: those are called unused.
    """
    try:
        piece = tokenizer.piece(index)
    except ValueError:
        piece = f"<unused {index}>"
    return {"id": index, "piece": piece, "chip": chip(piece)}


def _in_order(door: Path, imports: re.Pattern) -> dict[Path, str]:
    """Return the texts, without imports, of `door` and of every file that it leads to: each once, after those it imports."""
    texts: dict[Path, str] = {}

    def visit(file: Path, importers: tuple[Path, ...]) -> None:
        if file in importers:
            circle = " → ".join(path.name for path in (*importers[importers.index(file) :], file))
            raise ValueError(f"these files import one another in a circle: {circle}")
        if file in texts:
            return
        if not file.is_file():
            raise FileNotFoundError(f"there is no {file}" + (f", which {importers[-1]} imports" if importers else ""))
        text = file.read_text(encoding="utf-8")
        for name in imports.findall(text):
            visit((file.parent / name).resolve(), (*importers, file))
        texts[file] = imports.sub("", text)

    visit(door.resolve(), ())
    return texts
