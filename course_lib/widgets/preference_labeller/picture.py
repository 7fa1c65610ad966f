"""The labeller without a kernel: one still picture of the pair to be judged, or of what came out when all are."""

import textwrap
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from course_lib.plots import PALETTE, drawable

__all__ = ["pair_picture"]

_WIDTH, _DPI, _MARGIN, _GAP = 1100, 100, 24, 24  # pixels
_CHARACTER, _LINE = 9.2, 22  # pixels: a monospaced character of 11 pt, and a line of them
_MOST_LINES = 8
_LINE_COLOUR, _INK, _MUTED = "#D8D8D8", "#212121", "#666666"


def pair_picture(result: dict) -> bytes:
    """Draw what PreferenceLabeller shows, its `result`, and return a PNG."""
    pair = result["pair"]
    wide = _WIDTH - 2 * _MARGIN
    narrow = (wide - _GAP) / 2
    prompt = _lines(pair["prompt"], wide) if pair else []
    answers = [_lines(text, narrow - 32) for text in pair["answers"]] if pair else [[], []]
    top = 96 + _LINE * len(prompt)
    box = 56 + _LINE * max(map(len, answers))
    height = top + box + 54 if pair else 150
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, _WIDTH), ylim=(height, 0))
    ax.axis("off")
    _write(ax, _MARGIN, 28, ["Which answer is better?" if pair else "All pairs judged"], fontsize=14, weight="bold")
    told = f"{result['done']:,} of {result['total']:,} judged, {result['skipped']:,} skipped"
    ax.text(_WIDTH - _MARGIN, 28, told, ha="right", va="center_baseline", fontsize=12, color=_MUTED)
    ax.add_patch(Rectangle((_MARGIN, 48), wide, 4, facecolor="#F2F2F2"))
    share = result["done"] / result["total"]
    ax.add_patch(Rectangle((_MARGIN, 48), wide * share, 4, facecolor=PALETTE["light"]["learner"]))
    if pair is None:
        alike = f"Of {result['repeats']:,} judged twice, the same answer was chosen in {result['same']:,}."
        _write(ax, _MARGIN, 92, [alike if result["repeats"] else "No pair was judged twice."])
        return _png(figure)
    text = {"family": "monospace", "fontsize": 11}
    _write(ax, _MARGIN, 80, prompt, **text)
    for number, lines in enumerate(answers):
        x = _MARGIN + number * (narrow + _GAP)
        style = {"boxstyle": "round,pad=0,rounding_size=8", "facecolor": "white", "edgecolor": _LINE_COLOUR}
        ax.add_patch(FancyBboxPatch((x, top), narrow, box, **style))
        _write(ax, x + 16, top + 22, [str(number + 1)], weight="bold")
        _write(ax, x + 16, top + 50, lines, **text)
    keys = "In a running notebook the keys 1 and 2 choose, s skips, u takes back."
    _write(ax, _MARGIN, top + box + 28, [keys], color=_MUTED)
    return _png(figure)


def _lines(text: str, width: float) -> list[str]:
    """Return the lines of `text` that are drawn, none wider than `width` pixels; where there are more, the last is "…"."""
    most = int(width / _CHARACTER)
    shown = text[: most * _MOST_LINES]
    lines = [line for part in shown.splitlines() for line in textwrap.wrap(drawable(part, len(text) * 8), most) or [""]]
    if len(lines) <= _MOST_LINES and shown == text:
        return lines
    return [*lines[: _MOST_LINES - 1], "…"]


def _write(ax: Axes, x: float, y: float, lines: list[str], **style) -> None:
    style = {"fontsize": 12, "color": _INK, "va": "center_baseline", "parse_math": False} | style
    for number, line in enumerate(lines):
        ax.text(x, y + number * _LINE, line, **style)


def _png(figure: Figure) -> bytes:
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()
