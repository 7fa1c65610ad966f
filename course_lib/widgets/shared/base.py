"""What all widgets share: the style sheet that speaks the course's visual language, and the code that draws in it.

A widget is one ES module in the browser. Its text is put together here from plain files, `base.js` first: there is nothing
to compile and nothing to fetch.
"""

from pathlib import Path

from course_lib.plots import chip, css_variables
from course_lib.tokenization import Tokenizer

__all__ = ["encode_text", "module", "style_sheet", "token_of"]

_WIDGETS = Path(__file__).parents[1]


def style_sheet(*names: str) -> str:
    """Return a widget's CSS: the palette's variables, then `base.css`, then the files `<name>.css` in this order."""
    return "\n".join([css_variables(), _read("shared/base.css"), *(_read(f"{name}.css") for name in names)])


def module(*names: str) -> str:
    """Return one ES module: `base.js`, then the files `<name>.js` in this order; the last exports the widget."""
    return "\n".join([_read("shared/base.js"), *(_read(f"{name}.js") for name in names)])


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


def _read(file: str) -> str:
    return (_WIDGETS / file).read_text(encoding="utf-8")
