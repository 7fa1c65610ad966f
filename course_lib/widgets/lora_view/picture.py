"""The LoRA view without a kernel: one still picture of a weight, its update with both factors, their sum, and two answers."""

from io import BytesIO
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from course_lib.plots import PALETTE, diverging_ramp, drawable
from course_lib.widgets.shared.numbers import short

__all__ = ["lora_picture"]

_RAMP = ListedColormap(diverging_ramp("light") / 255)
_VIOLET, _GREY = PALETTE["light"]["learner"], PALETTE["light"]["residual"]
_WIDTH, _BELOW = 11, 3.7  # inches, as are all that follow: of the picture, and of what stands below the maps
_SIDE, _THIN, _GAP = 2.5, 0.4, 0.06  # of the largest map; of a factor; between a factor and the update
_TOP = 1.35  # of the maps, from the upper edge: below a title, a shape and A
_LEFTS = {"frozen": 0.5, "update": 4.3, "sum": 8.1}
_LINE = 72  # characters of an answer's line


def lora_picture(settings: dict, result: dict) -> bytes:
    """Draw what `LoraView` shows with `settings`, of which `result` follows, the update at its full rank; return a PNG."""
    rows, columns = result["cells"]
    cell = _SIDE / max(rows, columns)
    width, height = columns * cell, rows * cell
    below = _TOP + height + 1
    tall = _TOP + height + _BELOW
    figure = Figure(figsize=(_WIDTH, tall), dpi=100, facecolor="white")

    def write(x: float, y: float, text: str, **look) -> None:
        figure.text(x / _WIDTH, 1 - y / tall, text, **{"fontsize": 12, "va": "top", "parse_math": False} | look)

    def axes(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / _WIDTH, 1 - (y + h) / tall, w / _WIDTH, h / tall))

    def draw(name: str, x: float, y: float, w: float, h: float, shape: tuple[int, int]):
        ax, limit = axes(x, y, w, h), result["limits"][name] or 1
        image = np.frombuffer(result["maps"][name], np.float32).reshape(shape)
        drawn = ax.imshow(image, _RAMP, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("#BBBBBB")
        return drawn

    n_rows, n_columns = result["shape"]
    shape, r = f"{n_rows:,} × {n_columns:,}", result["r"]
    titles = {"frozen": "W, frozen", "update": "α/r · B A, trained", "sum": "W + α/r · B A"}
    write(0.5, 0.15, f"Layer {settings['layer']}, {settings['matrix']}", fontsize=14, weight="bold")
    for name, x in _LEFTS.items():
        image = draw(name, x, _TOP, width, height, (rows, columns))
        left = x - _THIN - _GAP if name == "update" else x
        write(left, 0.5, titles[name], weight="bold", color=_VIOLET if name == "update" else "black")
        legend = axes(x, _TOP + height + 0.12, 1.2, 0.12)
        figure.colorbar(image, cax=legend, orientation="horizontal", ticks=[])
        legend.set_axis_off()
        write(x + 1.3, _TOP + height + 0.1, f"± {short(result['limits'][name], 2)}", fontsize=11)
    x = _LEFTS["update"]
    draw("a", x, _TOP - _THIN - _GAP, width, _THIN, (r, columns))
    draw("b", x - _THIN - _GAP, _TOP, _THIN, height, (rows, r))
    write(x + width + 0.08, _TOP - _THIN + 0.02, f"A, {r} × {n_columns:,}", fontsize=11)
    write(
        x - _THIN - _GAP - 0.06,
        _TOP + height,
        f"B, {n_rows:,} × {r}",
        fontsize=11,
        rotation=90,
        va="bottom",
        ha="right",
    )
    for x, sign in ((3.35, "+"), (_LEFTS["sum"] - 0.6, "=")):
        write(x, _TOP + height / 2, sign, fontsize=20, va="center", ha="center")
    write(_LEFTS["frozen"], 0.8, shape, fontsize=11, color=_GREY)
    write(_LEFTS["sum"], 0.8, shape, fontsize=11, color=_GREY)

    _draw_values(axes(0.75, below + 0.1, 2.4, 1.5), result["singular"])
    write(0.5, below - 0.4, "Singular values of the update", weight="bold")
    sides = {"Base model": result["answers"][0], f"Update × {settings['scale']:g}": result["answers"][1]}
    write(4.3, below - 0.4, f"Answers to {drawable(' '.join(settings['prompt'].split()), 60)}", weight="bold")
    for (title, answer), y in zip(sides.items(), (below, below + 1.25), strict=True):
        write(4.3, y, title, fontsize=11, color=_GREY)
        lines = fill(drawable(" ".join(answer.split()), 3 * _LINE), _LINE)
        write(4.3, y + 0.24, lines)
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _draw_values(ax: Axes, values: list[float]) -> None:
    ax.bar(range(1, len(values) + 1), values, color=_VIOLET)
    ax.set_xlabel("direction", fontsize=12)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.locator_params(axis="y", nbins=3)
    ax.set_ylim(bottom=0)
    ax.tick_params(labelsize=11)
    ax.spines[["top", "right"]].set_visible(False)
