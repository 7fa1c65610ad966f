"""The chat without a kernel: one still picture of the conversation's last turns, and what each reply took."""

import textwrap
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from course_lib.plots import PALETTE, drawable

__all__ = ["chat_picture"]

_WIDTH, _DPI, _MARGIN, _INDENT, _PAD = 1100, 100, 24, 140, 16  # pixels
_CHARACTER, _LINE = 9.2, 22  # pixels: a monospaced character of 11 pt, and a line of them
_MOST_LINES, _MOST_TURNS = 8, 6
_INK, _MUTED, _SUNK, _EDGE = "#212121", "#666666", "#F2F2F2", "#D8D8D8"


def chat_picture(settings: dict, result: dict) -> bytes:
    """Draw what ChatApp shows, its `settings` and its `result`; return a PNG."""
    path = result["path"][-_MOST_TURNS:]
    texts = [_lines(turn["content"] or "(nothing)", _WIDTH - 2 * _MARGIN - _INDENT - 2 * _PAD) for turn in path]
    tops, y = [], 92
    for lines in texts:
        tops.append(y)
        y += _LINE * len(lines) + 66
    height = y + (40 if not path else 0)
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, _WIDTH), ylim=(height, 0))
    ax.axis("off")
    _write(ax, _MARGIN, 28, f"Chat with {drawable(settings['model'], 60)}", fontsize=14, weight="bold")
    left_out = len(result["path"]) - len(path)
    told = [f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}, seed {settings['seed']}"]
    told += [f"system prompt: {drawable(' '.join(settings['system'].split()), 60)}"] if settings["system"] else []
    told += [f"the first {left_out} turns are not drawn"] if left_out else []
    _write(ax, _MARGIN, 58, "; ".join(told), color=_MUTED)
    for turn, lines, top in zip(path, texts, tops, strict=True):
        _draw_turn(ax, turn, lines, top)
    if not path:
        _write(ax, _MARGIN, 100, "Nothing has been said yet.", color=_MUTED)
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _draw_turn(ax: Axes, turn: dict, lines: list[str], top: float) -> None:
    is_own = turn["role"] == "user"
    x, width = _MARGIN + _INDENT * is_own, _WIDTH - 2 * _MARGIN - _INDENT
    edge = PALETTE["light"]["learner"] if is_own else _EDGE
    style = {"boxstyle": "round,pad=0,rounding_size=8", "facecolor": _SUNK if is_own else "white", "edgecolor": edge}
    box = FancyBboxPatch((x, top), width, _LINE * len(lines) + 16, **style)
    box.set_linestyle("--" if turn["is_forgotten"] else "-")
    ax.add_patch(box)
    colour = _MUTED if turn["is_forgotten"] else _INK
    for number, line in enumerate(lines):
        _write(ax, x + _PAD, top + 19 + number * _LINE, line, family="monospace", fontsize=11, color=colour)
    parts = ["You" if is_own else "Model", *_figures(turn)]
    _write(ax, x, top + _LINE * len(lines) + 34, " · ".join(parts), fontsize=11, color=_MUTED)


def _figures(turn: dict) -> list[str]:
    """Return what a turn took, in words, as the widget says it."""
    told = []
    if len(turn["siblings"]) > 1:
        told.append(f"{turn['siblings'].index(turn['id']) + 1} of {len(turn['siblings'])}")
    if turn["is_forgotten"]:
        told.append("left out of the prompt")
    if turn["n_tokens"]:
        told.append(f"{turn['n_tokens']:,} token{'s' * (turn['n_tokens'] != 1)}")
    if turn["ending"] is None:
        return told
    if turn["n_prompt"]:
        cached = "" if turn["n_cached"] is None else f", {turn['n_cached']:,} from the cache"
        told.append(f"prompt {turn['n_prompt']:,}{cached}")
    if turn["ending"] != "end":
        told.append({"stopped": "stopped", "length": "no more room"}[turn["ending"]])
    return told


def _lines(text: str, width: float) -> list[str]:
    """Return the lines of `text` that are drawn, none wider than `width` pixels; where there are more, the last is "…"."""
    most = int(width / _CHARACTER)
    shown = text[: most * _MOST_LINES]
    lines = [line for part in shown.splitlines() for line in textwrap.wrap(drawable(part, len(text) * 8), most) or [""]]
    if len(lines) <= _MOST_LINES and shown == text:
        return lines
    return [*lines[: _MOST_LINES - 1], "…"]


def _write(ax: Axes, x: float, y: float, text: str, **style) -> None:
    style = {"fontsize": 12, "color": _INK, "va": "center_baseline", "parse_math": False} | style
    ax.text(x, y, text, **style)
