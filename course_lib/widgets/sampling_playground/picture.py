"""The sampling playground without a kernel: one still picture, for GitHub, nbviewer and paper."""

from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from course_lib.plots import PALETTE, drawable

__all__ = ["sampling_picture"]

_VIOLET = PALETTE["light"]["learner"]
_TINT = LinearSegmentedColormap.from_list("probability", ["white", _VIOLET])
_PER_LINE, _MOST_LINES, _LONGEST_CHIP = 56, 9, 14  # characters, lines, characters


def sampling_picture(result: dict, prompt: list[dict]) -> bytes:
    """Draw the next token's odds, the model's own and those drawn from, and the text so far; return a PNG."""
    figure = Figure(figsize=(11, 4.8), dpi=100, facecolor="white")
    bars, text, legend = (
        figure.add_axes(box) for box in ((0.15, 0.16, 0.27, 0.74), (0.5, 0.2, 0.48, 0.68), (0.59, 0.1, 0.15, 0.025))
    )
    _draw_odds(bars, result["next"])
    _draw_text(text, prompt, result["path"])
    figure.colorbar(ScalarMappable(cmap=_TINT), cax=legend, orientation="horizontal", ticks=[0, 1])
    legend.tick_params(length=0, labelsize=11)
    figure.text(0.58, 0.1, "probability", fontsize=11, ha="right")
    figure.text(0.78, 0.1, "grey: the prompt", fontsize=11)
    for x, title in ((0.02, "Next token"), (0.5, "Text")):
        figure.text(x, 0.94, title, fontsize=14, weight="bold")
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _draw_odds(ax: Axes, tokens: list[dict]) -> None:
    rows = range(len(tokens))
    ax.barh(rows, [token["now"] for token in tokens], height=0.62, color=_VIOLET, label="drawn from")
    ax.barh(rows, [token["before"] for token in tokens], height=0.76, fill=False, linestyle="--", label="model's own")
    ax.set_yticks(
        rows, [drawable(token["chip"], _LONGEST_CHIP) for token in tokens], family="monospace", parse_math=False
    )
    ax.tick_params(length=0, labelsize=11)
    ax.set_xlabel("probability", fontsize=12)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower right", frameon=False, fontsize=11)


def _draw_text(ax: Axes, prompt: list[dict], path: list[dict]) -> None:
    """Write the tokens line by line, the prompt without a tint; of a long text, the end."""
    lines, room = [[]], _PER_LINE
    for token in [*prompt, *path]:
        length = len(drawable(token["chip"], _LONGEST_CHIP)) + 1
        if length > room:
            lines.append([])
            room = _PER_LINE
        lines[-1].append(token)
        room -= length
    ax.set(xlim=(0, _PER_LINE), ylim=(_MOST_LINES, 0))
    ax.axis("off")
    for row, line in enumerate(lines[-_MOST_LINES:]):
        column = 0
        for token in line:
            probability = token.get("own")
            box = {
                "facecolor": "#EEEEEE" if probability is None else _TINT(probability),
                "edgecolor": "none",
                "pad": 2.5,
            }
            colour = "white" if probability is not None and probability > 0.83 else "black"
            shown = drawable(token["chip"], _LONGEST_CHIP)
            ax.text(column, row + 0.5, shown, color=colour, bbox=box, family="monospace", fontsize=11, parse_math=False)
            column += len(shown) + 1
