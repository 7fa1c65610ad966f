"""The attention explorer without a kernel: one still picture, for GitHub, nbviewer and paper."""

from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.plots import PALETTE, drawable
from course_lib.widgets.shared.attention_maps import RAMP, draw_matrix, future_keys

__all__ = ["attention_picture"]

_COLOURS = PALETTE["light"]
# Left, bottom, width and height of the heads, the chosen head, its legend and the bars, in parts of an 11 × 6 inch figure.
_BOXES = ((0.06, 0.09, 0.165, 0.83), (0.34, 0.12, 0.35, 0.64), (0.44, 0.06, 0.15, 0.02), (0.82, 0.4, 0.15, 0.5))


def attention_picture(result: dict, weights: Tensor, layer: int, head: int) -> bytes:
    """Draw all heads as thumbnails, the weights (query, key) of one of them, and the next token's odds; return a PNG."""
    figure = Figure(figsize=(11, 6), dpi=100, facecolor="white")
    heads, matrix, legend, bars = (figure.add_axes(box) for box in _BOXES)
    _draw_heads(heads, result, layer, head)
    image = draw_matrix(matrix, weights.numpy(), [token["chip"] for token in result["tokens"]])
    figure.colorbar(image, cax=legend, orientation="horizontal", ticks=[0, 0.5, 1])
    legend.set_title("attention weight", fontsize=11)
    legend.tick_params(length=0, labelsize=11)
    _draw_next_tokens(bars, result["next"])
    for x, title in ((0.06, "All heads"), (0.31, f"Layer {layer}, head {head}"), (0.76, "Next token")):
        figure.text(x, 0.95, title, fontsize=14, weight="bold")
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _draw_heads(ax: Axes, result: dict, layer: int, head: int) -> None:
    layers, heads, side = result["layers"], result["heads"], result["side"]
    maps = np.frombuffer(result["thumbnails"], np.uint8).reshape(layers, heads, side, side)
    framed = np.ma.masked_all((layers, heads, side + 1, side + 1), np.uint8)
    framed[..., :side, :side] = np.ma.masked_array(maps, np.broadcast_to(future_keys(side), maps.shape))
    mosaic = framed[::-1].transpose(0, 2, 1, 3).reshape(layers * (side + 1), heads * (side + 1))
    ax.imshow(
        mosaic,
        RAMP,
        vmin=0,
        vmax=255,
        extent=(-0.5, heads - 0.5, -0.5, layers - 0.5),
        interpolation="nearest",
        aspect="auto",
    )
    ax.plot(*zip(*_square(head, layer), strict=True), color="black", linewidth=2, clip_on=False)
    ax.set_xticks(range(0, heads, -(-heads // 10)))
    ax.set_yticks(range(0, layers, -(-layers // 10)))
    ax.set_xlabel("head", fontsize=12)
    ax.set_ylabel("layer", fontsize=12)
    ax.tick_params(length=0, labelsize=11)
    ax.spines[:].set_visible(False)


def _draw_next_tokens(ax: Axes, tokens: list[dict]) -> None:
    rows = range(len(tokens))
    ax.barh(rows, [token["now"] for token in tokens], height=0.62, color=_COLOURS["learner"], label="now")
    if any(token["now"] != token["before"] for token in tokens):
        before = [token["before"] for token in tokens]
        ax.barh(rows, before, height=0.62, fill=False, linestyle="--", label="all heads on")
        ax.legend(loc="upper right", bbox_to_anchor=(1, -0.25), frameon=False, fontsize=11)
    ax.set_yticks(rows, [drawable(token["chip"]) for token in tokens], family="monospace", parse_math=False)
    ax.tick_params(length=0, labelsize=11)
    ax.set_xlabel("probability", fontsize=12)
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)


def _square(x: float, y: float) -> list[tuple[float, float]]:
    return [(x + dx, y + dy) for dx, dy in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5))]
