"""The tokenizer view without a kernel: one still picture, for GitHub, nbviewer and paper."""

from collections.abc import Iterator
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from course_lib.plots import chip, drawable
from course_lib.widgets.shared.numbers import short

__all__ = ["tokens_picture"]

_WIDTH, _DPI, _MARGIN = 1100, 100, 24  # pixels
_CHARACTER, _ROW, _CHIP = 9.2, 32, 22  # pixels: a monospaced character of 11 pt, a row of chips, a chip's height
_MOST_LINES, _MOST_MERGES = 6, 24
_QUIET, _DARK, _MUTED = "#F0F0F0", "#212121", "#666666"


def tokens_picture(result: dict, replay: dict, word: int) -> bytes:
    """Draw the tokens, the chosen word framed, and below them the whole ladder of its merges; return a PNG."""
    lines = list(_lines(result))
    shown = lines[:_MOST_LINES]
    steps = replay["steps"][: _MOST_MERGES + 1]
    top = 76 + _ROW * len(shown)
    height = top + (56 + _ROW * len(steps) if steps else 8)
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, _WIDTH), ylim=(height, 0))
    ax.axis("off")
    _title(ax, 30, _headline(result) + (", of which the first are shown" if len(shown) < len(lines) else ""))
    for number, line in enumerate(shown):
        for x, token, its_word in line:
            _draw_chip(
                ax, x, 64 + _ROW * number, drawable(token["chip"]), framed=its_word == word, dashed=token["special"]
            )
    if steps:
        cut = "" if len(steps) == len(replay["steps"]) else f", the first {_MOST_MERGES} merges"
        _title(ax, top + 10, f"Merging {drawable(chip(replay['word']))}{cut}")
        _draw_ladder(ax, top + 44, replay, steps)
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _headline(result: dict) -> str:
    sizes = [f"{n:,} {unit}{'s' * (n != 1)}" for unit, n in result["sizes"].items()]
    return f"{', '.join(sizes)}: {short(result['sizes']['byte'] / result['sizes']['token'], 2)} bytes per token"


def _lines(result: dict) -> Iterator[list[tuple[float, dict, int]]]:
    """Yield the lines of tokens, each as (x, token, word)."""
    words = [word for word, count in enumerate(result["words"]) for _ in range(count)]
    line, x = [], _MARGIN
    for position, (token, word) in enumerate(zip(result["tokens"], words, strict=True)):
        width = _width(drawable(token["chip"]))
        if line and x + width > _WIDTH - _MARGIN:
            yield line
            line, x = [], _MARGIN
        line.append((x, token, word))
        ends_word = position + 1 < len(words) and words[position + 1] != word
        x += width + (10 if ends_word else 3)
    yield line


def _draw_ladder(ax: Axes, top: float, replay: dict, steps: list[dict]) -> None:
    """Draw a row for each step; a token stands below the symbols that it was made of."""
    chips = [[drawable(replay["vocabulary"][str(index)]["chip"]) for index in step["ids"]] for step in steps]
    widths = [_width(text) for text in chips[0]]
    labels = 300  # pixels for the rank and the pair
    scale = min(1, (_WIDTH - labels - _MARGIN - 3 * len(widths)) / sum(widths))
    widths = [width * scale for width in widths]
    for number, (step, texts) in enumerate(zip(steps, chips, strict=True)):
        y = top + _ROW * number
        if number:
            start, stop = (step["position"], step["position"] + 2) if step["rank"] is not None else (0, len(widths))
            label = "whole word" if step["rank"] is None else f"rank {step['rank']:,}"
            pair = "in the vocabulary" if step["rank"] is None else " + ".join(chips[number - 1][start:stop])
            widths[start:stop] = [sum(widths[start:stop]) + 3 * (stop - start - 1)]
        else:
            label, pair = "", replay["symbols"]
        ax.text(_MARGIN + 95, y, label, ha="right", va="center_baseline", fontsize=11, color=_MUTED)
        _text(ax, _MARGIN + 110, y, pair if len(pair) < 19 else pair[:17] + "…", color=_MUTED)
        x = labels
        for place, (text, width) in enumerate(zip(texts, widths, strict=True)):
            _draw_chip(ax, x, y, text, width=width, dark=bool(number) and place == step["position"])
            x += width + 3


def _draw_chip(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    *,
    width: float | None = None,
    framed: bool = False,
    dashed: bool = False,
    dark: bool = False,
) -> None:
    width = _width(text) if width is None else width
    box = FancyBboxPatch(
        (x, y - _CHIP / 2),
        width,
        _CHIP,
        boxstyle="round,pad=0,rounding_size=4",
        facecolor=_DARK if dark else _QUIET,
        edgecolor=_DARK if framed or dashed else "none",
        linewidth=1.5 if framed else 1,
        linestyle="--" if dashed else "-",
    )
    ax.add_patch(box)
    fitting = text if len(text) * _CHARACTER <= width + 4 else text[: max(1, int(width / _CHARACTER))]
    _text(ax, x + width / 2, y, fitting, ha="center", color="white" if dark else _DARK)


def _text(ax: Axes, x: float, y: float, text: str, **style) -> None:
    ax.text(x, y, text, va="center_baseline", family="monospace", fontsize=11, parse_math=False, **style)


def _title(ax: Axes, y: float, text: str) -> None:
    ax.text(_MARGIN, y, text, va="center", fontsize=14, weight="bold", parse_math=False)


def _width(text: str) -> float:
    return len(text) * _CHARACTER + 12
