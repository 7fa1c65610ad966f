"""The attention stepper without a kernel: one still picture of the whole computation, its last step done."""

from collections.abc import Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.plots import PALETTE, attention_ramp, drawable

__all__ = ["stepper_picture"]

_COLOURS = PALETTE["light"]
_RAMP = ListedColormap(attention_ramp("light") / 255)
_CELL, _ROW = 0.68, 0.42  # inches: the width and the height of a number
_GAP, _LABEL, _TITLE = 0.3, 1.25, 0.6  # the space between matrices, the room for a token and for a name
_FORMULA = "weights = softmax(q kᵀ / √d + mask)\noutput = weights · v"


def stepper_picture(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor, output: Tensor, chips: dict[str, Sequence[str]]
) -> bytes:
    """Draw q, kᵀ, the weights, v and the output where a product by hand would put them; return a PNG.

    Each number of a matrix stands in the row of the one at its left and in the column of the one above it.
    """
    (n_queries, d), (n_keys, d_value) = q.shape, v.shape
    x_q, top = _LABEL, _TITLE + max(_LABEL + d * _ROW, n_keys * _ROW)
    x_k = x_q + d * _CELL + _GAP
    x_v = x_k + n_keys * _CELL + _GAP + _LABEL
    width, height = x_v + d_value * _CELL + 0.2, top + _GAP + n_queries * _ROW + _TITLE
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")

    def axes(x: float, y: float, matrix: Tensor) -> Axes:
        rows, columns = matrix.shape
        box = (x / width, 1 - (y + rows * _ROW) / height, columns * _CELL / width, rows * _ROW / height)
        ax = figure.add_axes(box)
        ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), xticks=[], yticks=[])
        ax.spines[:].set_color("#BBBBBB")
        return ax

    below = top + _GAP
    ax_q, ax_weights, ax_out = axes(x_q, below, q), axes(x_k, below, weights), axes(x_v, below, output)
    ax_k, ax_v = axes(x_k, top - d * _ROW, k.T), axes(x_v, top - n_keys * _ROW, v)
    ax_weights.imshow(weights.numpy(), _RAMP, vmin=0, vmax=1, aspect="auto")
    for ax, matrix, colour in ((ax_q, q, "query"), (ax_k, k.T, "key"), (ax_v, v, "value")):
        _write(ax, matrix, _COLOURS[colour])
    _write(ax_weights, weights, "black", on_ramp=True)
    _write(ax_out, output, "black")
    for ax, role in ((ax_q, "query"), (ax_v, "key")):
        ax.set_yticks(range(len(chips[role])), [drawable(chip) for chip in chips[role]], parse_math=False)
    ax_k.set_xticks(range(n_keys), [drawable(chip) for chip in chips["key"]], rotation=90, parse_math=False)
    ax_k.xaxis.tick_top()
    for ax in (ax_q, ax_k, ax_v):
        ax.tick_params(length=0, labelsize=12)
    for ax, name in ((ax_q, "q"), (ax_weights, "weights"), (ax_out, "output")):
        colour = _COLOURS["query"] if name == "q" else "black"
        ax.set_xlabel(name, fontsize=13, weight="bold", color=colour, labelpad=6)
    ax_k.set_ylabel("kᵀ", fontsize=13, weight="bold", color=_COLOURS["key"], rotation=0, ha="right", va="center")
    ax_v.set_title("v", fontsize=13, weight="bold", color=_COLOURS["value"])
    figure.text(0.2 / width, 1 - 0.2 / height, _FORMULA, fontsize=13, va="top", linespacing=1.6)
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _write(ax: Axes, matrix: Tensor, colour: str, on_ramp: bool = False) -> None:
    for row, numbers in enumerate(matrix.tolist()):
        for column, number in enumerate(numbers):
            tone = "white" if on_ramp and number > 0.45 else colour
            ax.text(column, row, _in_words(number), ha="center", va="center", fontsize=12, color=tone)


def _in_words(number: float) -> str:
    """Return two significant digits, of a large number all before the point."""
    if abs(number) >= 99.5:
        text = f"{number:.0f}"
    else:
        text = f"{number:.2g}" if abs(number) >= 0.001 or number == 0 else f"{number:.0e}"
    return text.replace("-", "−")
