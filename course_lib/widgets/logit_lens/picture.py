"""The logit lens without a kernel: one still picture, for GitHub, nbviewer and paper."""

from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from course_lib.inference.interpret import Lens
from course_lib.plots import PALETTE, drawable

__all__ = ["lens_picture"]

_VIOLET = PALETTE["light"]["learner"]
_TINT = LinearSegmentedColormap.from_list("probability", ["white", _VIOLET])
_MOST_COLUMNS, _MOST_ROWS, _LONGEST_TEXT = 8, 31, 8


def lens_picture(lens: Lens, result: dict, position: int) -> bytes:
    """Draw the likeliest token of the last positions after every layer, and the way of `position`; return a PNG."""
    figure = Figure(figsize=(11, 8), dpi=100, facecolor="white")
    table, legend, curve = (
        figure.add_axes(box) for box in ((0.11, 0.06, 0.6, 0.85), (0.28, 0.955, 0.15, 0.015), (0.785, 0.56, 0.19, 0.35))
    )
    image = _draw_table(table, lens, result)
    figure.colorbar(image, cax=legend, orientation="horizontal", ticks=[0, 1])
    legend.tick_params(length=0, labelsize=11, labeltop=False)
    figure.text(0.27, 0.955, "probability", fontsize=11, ha="right")
    _draw_curve(curve, lens, result, position)
    figure.text(0.02, 0.95, "Likeliest token", fontsize=14, weight="bold")
    figure.text(0.735, 0.95, f"Position {position}", fontsize=14, weight="bold")
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _draw_table(ax: Axes, lens: Lens, result: dict):
    n_depths, n_tokens = lens.entropy.shape
    depths = np.unique(np.linspace(0, n_depths - 1, min(n_depths, _MOST_ROWS)).round().astype(int))
    positions = range(max(0, n_tokens - _MOST_COLUMNS), n_tokens)
    probabilities = lens.top_probabilities[..., 0].numpy()[np.ix_(depths, positions)]
    image = ax.imshow(probabilities, _TINT, vmin=0, vmax=1, origin="lower", aspect="auto")
    for (row, column), probability in np.ndenumerate(probabilities):
        index = lens.top_ids[depths[row], positions[column], 0].item()
        ax.text(
            column,
            row,
            drawable(result["vocabulary"][str(index)]["chip"], _LONGEST_TEXT),
            color="white" if probability > 0.8 else "black",
            weight="bold" if index == lens.answer[positions[column]] else "normal",
            family="monospace",
            fontsize=11,
            ha="center",
            va="center",
            parse_math=False,
        )
    chips = [drawable(result["tokens"][position]["chip"], _LONGEST_TEXT) for position in positions]
    ax.set_xticks(range(len(chips)), chips, family="monospace", parse_math=False)
    named = [row for row, depth in enumerate(depths) if depth == 0 or (depth - 1) % 5 == 0 or depth == n_depths - 1]
    ax.set_yticks(named, ["embedding" if depths[row] == 0 else depths[row] - 1 for row in named])
    ax.tick_params(length=0, labelsize=11)
    ax.text(-0.02, 1.015, "after layer", transform=ax.transAxes, ha="right", fontsize=11)
    ax.spines[:].set_visible(False)
    return image


def _draw_curve(ax: Axes, lens: Lens, result: dict, position: int) -> None:
    after = range(-1, len(lens.entropy) - 1)
    tokens = result["tokens"]
    answer = result["vocabulary"][str(lens.answer[position].item())]["chip"]
    ax.plot(
        after,
        lens.answer_probability[:, position],
        color=_VIOLET,
        linewidth=2,
        label=f"the model's answer {drawable(answer, _LONGEST_TEXT)}",
    )
    if position + 1 < len(tokens):
        actual = tokens[position + 1]["chip"]
        ax.plot(
            after,
            lens.actual_probability[:, position],
            "--",
            color="black",
            label=f"comes next {drawable(actual, _LONGEST_TEXT)}",
        )
    ax.set_ylim(0, 1)
    ax.set_yticks([0, 0.5, 1])
    ax.tick_params(labelsize=11)
    ax.set_xlabel("after layer", fontsize=12)
    ax.set_ylabel("probability", fontsize=12)
    ax.spines[["top", "right"]].set_visible(False)
    for text in ax.legend(loc="upper left", bbox_to_anchor=(-0.3, -0.2), frameon=False, fontsize=11).get_texts():
        text.set_parse_math(False)
