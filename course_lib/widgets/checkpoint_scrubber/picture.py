"""The checkpoint scrubber without a kernel: one still picture of how heads changed while the loss fell."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.plots import PALETTE
from course_lib.widgets.shared.attention_maps import draw_matrix
from course_lib.widgets.shared.curves import draw_losses

__all__ = ["scrubber_picture"]

_COLOURS = PALETTE["light"]


def scrubber_picture(
    curves: Mapping[str, np.ndarray],
    steps: Sequence[int],
    scores: np.ndarray,
    chosen: tuple[int, int],
    weights: Tensor,
    chips: Sequence[str],
    trouble: str = "",
) -> bytes:
    """Draw the losses, below them the induction scores (checkpoint, layer, head) at `steps`, and the chosen head's weights.

    `chosen` is its (layer, head), `weights` (query, key) are those of the last checkpoint on tokens called `chips`;
    `trouble` is what `divergence` says. Return a PNG.
    """
    figure = Figure(figsize=(11, 5.4), dpi=100, facecolor="white")
    loss = figure.add_axes((0.07, 0.56, 0.47, 0.4))
    induction = figure.add_axes((0.07, 0.11, 0.47, 0.38), sharex=loss)
    draw_losses(loss, curves, trouble)
    loss.tick_params(labelbottom=False)
    layer, head = chosen
    for other in np.ndindex(scores.shape[1:]):
        induction.plot(steps, scores[:, *other], color=_COLOURS["residual"], linewidth=1, alpha=0.7)
    look = {"color": _COLOURS["learner"], "linewidth": 2.5, "marker": "o", "markersize": 5, "clip_on": False}
    induction.plot(steps, scores[:, layer, head], label=f"layer {layer}, head {head}", **look)
    top = next(limit for limit in (0.1, 0.2, 0.5, 1) if limit >= scores.max())
    induction.set(ylim=(0, top), xlim=(0, max(steps[-1], 1)))
    induction.set_xlabel("step", fontsize=12)
    induction.set_ylabel("induction score", fontsize=12)
    induction.tick_params(labelsize=11)
    induction.spines[["top", "right"]].set_visible(False)
    induction.legend(frameon=False, fontsize=12, loc="upper left")
    matrix, legend = figure.add_axes((0.65, 0.13, 0.33, 0.63)), figure.add_axes((0.74, 0.06, 0.15, 0.02))
    image = draw_matrix(matrix, weights.numpy(), list(chips))
    figure.colorbar(image, cax=legend, orientation="horizontal", ticks=[0, 0.5, 1])
    legend.tick_params(length=0, labelsize=11)
    figure.text(0.6, 0.95, f"Layer {layer}, head {head} after step {steps[-1]:,}", fontsize=14, weight="bold")
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()
