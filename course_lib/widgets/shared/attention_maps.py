"""The attention maps of all heads: made small for the browser, sent whole for one head, drawn as a picture."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor
from torch.nn import functional as F

from course_lib.inference.interpret import Capture
from course_lib.plots import PALETTE, attention_ramp, drawable
from course_lib.widgets.shared.live import Reply

__all__ = ["RAMP", "draw_matrix", "future_keys", "pool_maps", "whole_map"]

RAMP = ListedColormap(attention_ramp("light") / 255)
THUMBNAIL = 32

_COLOURS = PALETTE["light"]
_MOST_LABELS, _LONGEST_LABEL = 24, 12


def whole_map(capture: Capture, head_of: dict) -> Reply:
    """Return what answers the browser's request for the whole map of one head, {"layer": …, "head": …}."""
    layer, head = head_of["layer"], head_of["head"]
    return {"type": "map", "layer": layer, "head": head}, [capture.maps[layer, head].numpy().tobytes()]


def pool_maps(maps: Tensor, side: int = THUMBNAIL) -> Tensor:
    """Shrink maps (layer, head, query, key) to at most `side` × `side` by the largest weight of each square block.

    Blocks are square and start at position 0, so that the causal triangle stays a triangle. Maps that fit are unchanged.
    """
    block = -(-maps.shape[-1] // side)
    return F.max_pool2d(maps, block, ceil_mode=True)


def draw_matrix(ax: Axes, weights: np.ndarray, chips: list[str]):
    """Draw weights (query, key) with the tokens' `chips` beside them, if they are few, and return the image."""
    image = ax.imshow(
        np.ma.masked_array(weights, future_keys(len(weights))), RAMP, vmin=0, vmax=1, interpolation="nearest"
    )
    if len(chips) <= _MOST_LABELS:
        labels = [drawable(chip, _LONGEST_LABEL) for chip in chips]
        ax.set_xticks(range(len(chips)), labels, rotation=90, family="monospace", parse_math=False)
        ax.set_yticks(range(len(chips)), labels, family="monospace", parse_math=False)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=11)
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("key", color=_COLOURS["key"], fontsize=12)
    ax.set_ylabel("query", color=_COLOURS["query"], fontsize=12)
    ax.spines[:].set_visible(False)
    return image


def future_keys(side: int) -> np.ndarray:
    """True where the key comes after the query."""
    return ~np.tri(side, dtype=bool)
