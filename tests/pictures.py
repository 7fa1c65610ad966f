"""Does a cell draw the picture that is stored? Seen from afar, so that fonts, processors and last digits do not matter."""

import base64
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from nbformat import NotebookNode
from PIL import Image
from store_notebooks import WIDGET_VIEW

SIZE = (32, 24)  # so small that the letters of a label run into one another, and a curve is still seen to rise or fall
ALIKE = 0.8  # two pictures of one notebook reach 0.75 (the same plots of two trained models); another font leaves 0.9
AKIN = 0.3  # where a training or a drawn text makes the picture, which come out otherwise on another processor: it left 0.38


def wrong_outputs(
    stored: Sequence[NotebookNode], fresh: Sequence[NotebookNode], all_stored: Sequence[str], least: float = ALIKE
) -> str:
    """Say what is wrong with a cell's `stored` outputs beside its `fresh` ones, of kinds and pictures; "" if nothing is.

    `all_stored` are all pictures that the notebook stores (base64); `least` is how like its own a fresh one must be.
    """
    if kinds_of(stored) != kinds_of(fresh):
        return f"stored are outputs of the kinds {sorted(kinds_of(stored))}, the cell gives {sorted(kinds_of(fresh))}"
    if len(pictures_of(stored)) != len(pictures_of(fresh)):
        return f"{len(pictures_of(stored))} pictures are stored, the cell draws {len(pictures_of(fresh))}"
    pairs = zip(pictures_of(stored), pictures_of(fresh), strict=True)
    found = (complaint(own, drawn, [other for other in all_stored if other != own], least) for own, drawn in pairs)
    return next(filter(None, found), "")


def kinds_of(outputs: Sequence[NotebookNode]) -> set[str]:
    """Return the kinds of output that a reader sees: MIME types, `stdout`, `stderr`, `error`."""
    kinds = {kind for output in outputs for kind in output.get("data", [output.get("name", output.output_type)])}
    return kinds - {WIDGET_VIEW}


def pictures_of(outputs: Sequence[NotebookNode]) -> list[str]:
    """Return the PNGs among a cell's outputs, in base64."""
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def complaint(stored: str, fresh: str, others: Sequence[str] = (), least: float = ALIKE) -> str:
    """Say what is wrong with a `stored` picture (base64) beside the `fresh` one that its cell draws; "" if nothing is.

    `others` are the other stored pictures of the notebook: the fresh one must be like its own, and less like any of them.
    """
    own = likeness(stored, fresh)
    if own < least:
        return f"the stored picture is not the one that the cell draws: their likeness is {own:.2f}, below {least}"
    if others and max(likeness(other, fresh) for other in others) >= own:
        return "the cell draws what is stored as the picture of another cell"
    return ""


def likeness(one: str, other: str) -> float:
    """Return the correlation of two PNGs (base64): 1 for equal ones, about 0 for unrelated ones; a blank is like nothing."""
    a, b = _seen_from_afar(one), _seen_from_afar(other)
    scale = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / scale) if scale > 1e-6 else 0.0


def _seen_from_afar(png: str) -> np.ndarray:
    """Return the picture on white as small colours (row, column, channel), less the mean of each channel."""
    picture = Image.open(BytesIO(base64.b64decode(png))).convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    colours = np.asarray(page.convert("RGB").resize(SIZE, Image.Resampling.BILINEAR), dtype=float)
    return colours - colours.mean(axis=(0, 1))
