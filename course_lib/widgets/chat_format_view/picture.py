"""The chat format without a kernel: one still picture of a chat's tokens, the rows, and who sees whom in one of them."""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from course_lib.plots import PALETTE, drawable

__all__ = ["chat_picture"]

_WIDTH, _DPI, _MARGIN = 1100, 100, 24  # pixels
_CHARACTER, _ROW, _CHIP = 9.2, 34, 24  # pixels: a monospaced character of 11 pt, a line of chips, a chip's height
_STRIP = 32  # pixels: a row of the batch, and the gap below it
_MOST_LINES = 12
_SIDE, _GAP = 300, 90  # pixels: the mask, and what is between it and the rows
_COLOURS = PALETTE["light"]
_QUIET, _TRAINED, _INK, _MUTED = "#F0F0F0", "#E4D8EF", "#212121", "#666666"


def chat_picture(settings: dict, result: dict) -> bytes:
    """Draw the chosen chat's tokens, the targets underlined; below them the rows, and the chosen one's mask; return a PNG."""
    lines = list(_lines(result["tokens"]))
    shown = lines[:_MOST_LINES]
    top = 76 + _ROW * len(shown)
    height = top + 50 + max(_STRIP * len(result["rows"]) + 20, _SIDE + 46 if result["row"] else 0)
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, _WIDTH), ylim=(height, 0))
    ax.axis("off")
    _title(ax, 30, _headline(settings, result, len(shown) < len(lines)))
    for number, line in enumerate(shown):
        for x, token in line:
            _draw_chip(ax, x, 66 + _ROW * number, token)
    right = _WIDTH - _MARGIN - (_SIDE + _GAP if result["row"] else 0)
    packing = f"rows of {result['row_length']} tokens, {result['padding']:.0%} padding (hatched)"
    _title(ax, top + 10, f"{'Packed: ' if settings['packed'] else 'One chat a row: '}{packing}")
    for number, segments in enumerate(result["rows"]):
        _draw_strip(ax, right, top + 36 + _STRIP * number, segments, result["row_length"], settings["chat"])
    if result["row"]:
        kind = "inside each chat" if settings["isolated"] else "plain causal"
        _title(ax, top + 10, f"Row {result['row']['number'] + 1}: {kind}", right + _GAP)
        _draw_mask(figure, (right + _GAP) / _WIDTH, 1 - (top + 62 + _SIDE) / height, height, settings, result)
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _headline(settings: dict, result: dict, is_cut: bool) -> str:
    n_targets = sum(token["target"] for token in result["tokens"])
    problem = result["problems"][settings["chat"]]
    told = f"{n_targets} of {len(result['tokens'])} tokens are targets (underlined)"
    cut = "; the first lines" if is_cut else ""
    return f"Chat {settings['chat'] + 1}, template: {settings['template']}. " + (
        f"Left out: {drawable(problem, 60)}" if problem else told + cut
    )


def _lines(tokens: list[dict]) -> Iterator[list[tuple[float, dict]]]:
    """Yield the lines of tokens, each as (x, token): a newline ends one, and so does the picture's edge."""
    line, x = [], _MARGIN
    for token in tokens:
        width = _width(drawable(token["chip"]))
        if line and x + width > _WIDTH - _MARGIN:
            yield line
            line, x = [], _MARGIN
        line.append((x, token))
        x += width + 4
        if token["piece"].endswith("\n"):
            yield line
            line, x = [], _MARGIN
    if line:
        yield line


def _draw_chip(ax: Axes, x: float, y: float, token: dict) -> None:
    text = drawable(token["chip"])
    width = _width(text)
    box = FancyBboxPatch(
        (x, y - _CHIP / 2),
        width,
        _CHIP,
        boxstyle="round,pad=0,rounding_size=4",
        facecolor=_TRAINED if token["target"] else "white" if token["special"] else _QUIET,
        edgecolor=_INK if token["special"] else "none",
        linestyle="--",
    )
    ax.add_patch(box)
    if token["target"]:
        ax.add_patch(Rectangle((x + 2, y + _CHIP / 2), width - 4, 3, facecolor=_COLOURS["learner"]))
    style = {"color": _INK, "family": "monospace", "fontsize": 11, "parse_math": False}
    ax.text(x + width / 2, y, text, ha="center", va="center_baseline", **style)


def _draw_strip(ax: Axes, right: float, y: float, segments: list[dict], length: int, chosen: int) -> None:
    """Draw one row: its chats with their numbers, the tokens that are targets underlined, and what pads it hatched."""
    x = np.interp(np.arange(length + 1), [0, length], [_MARGIN, right])
    height = _STRIP - 8
    end = segments[-1]["end"] if segments else 0
    ax.add_patch(
        Rectangle((x[end], y), x[-1] - x[end], height, facecolor="white", edgecolor="#BBBBBB", hatch="////", lw=0)
    )
    for segment in segments:
        left, stop, is_chosen = x[segment["start"]], x[segment["end"]], segment["chat"] == chosen
        ax.add_patch(Rectangle((left, y), stop - left, height, facecolor="#DDDDDD"))
        for first, last in segment["targets"]:
            ax.add_patch(Rectangle((x[first], y + height - 6), x[last] - x[first], 6, facecolor=_COLOURS["learner"]))
        ax.add_patch(
            Rectangle(
                (left, y),
                stop - left,
                height,
                fill=False,
                edgecolor=_INK if is_chosen else "white",
                lw=2,
                zorder=3 + is_chosen,
            )
        )
        ax.text(left + 6, y + 10, str(segment["chat"] + 1), va="center_baseline", fontsize=11, weight="bold")


def _draw_mask(figure: Figure, left: float, bottom: float, height: float, settings: dict, result: dict) -> None:
    """Draw who sees whom (query, key): of the same chat dark, of another, as plain causal attention would, orange."""
    length = result["row_length"]
    own = np.frombuffer(result["row"]["own"], np.uint8).reshape(length, length)
    others = np.tri(length, dtype=np.uint8) & (own == 0) & (not settings["isolated"])
    n_tokens = len(result["row"]["tokens"])
    ax = figure.add_axes((left, bottom, _SIDE / _WIDTH, _SIDE / height))
    colours = ListedColormap([_QUIET, _COLOURS["residual"], _COLOURS["key"]])
    ax.imshow(own + 2 * others, colours, vmin=0, vmax=2, interpolation="nearest", extent=(0, length, length, 0))
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("bottom")
    ax.set_xlabel("key", color=_COLOURS["key"], fontsize=12, labelpad=2)
    ax.set_ylabel("query", color=_COLOURS["query"], fontsize=12, labelpad=2)
    for x, width in ((0, length), (n_tokens, length - n_tokens)):  # what pads the row, as query and as key
        y, height = (n_tokens, length - n_tokens) if x == 0 else (0, n_tokens)
        ax.add_patch(Rectangle((x, y), width, height, facecolor="white", edgecolor="#BBBBBB", hatch="////", lw=0))
    begins = [segment["start"] for segment in result["rows"][result["row"]["number"]]]
    ax.set_xticks([0, length])
    ax.set_yticks([0, length])
    ax.tick_params(length=0, labelsize=11)
    ax.spines[:].set_visible(False)
    for begin in begins[1:]:
        ax.axhline(begin, color=_MUTED, linewidth=0.6)
        ax.axvline(begin, color=_MUTED, linewidth=0.6)


def _title(ax: Axes, y: float, text: str, x: float = _MARGIN) -> None:
    ax.text(x, y, text, va="center", fontsize=14, weight="bold", parse_math=False)


def _width(text: str) -> float:
    return len(text) * _CHARACTER + 12
