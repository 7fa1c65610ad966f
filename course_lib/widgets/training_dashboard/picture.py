"""The training dashboard without a kernel: one still picture of how the run went."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure

from course_lib.widgets.shared.curves import draw_losses, draw_text

__all__ = ["training_picture"]


def training_picture(curves: Mapping[str, np.ndarray], n_steps: int, sample: dict | None, trouble: str = "") -> bytes:
    """Draw the losses and, below them, AdamW's learning rate; beside them the last sample, if there is one. Return a PNG.

    `curves` holds the rows of `curve_blocks` by name; `sample` is what the model wrote ("text", with the
    prompt) at a "step"; `trouble` is what `divergence` says.
    """
    figure = Figure(figsize=(11, 5), dpi=100, facecolor="white")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    draw_losses(loss, curves, trouble)
    rate.plot(curves["step"], curves["learning_rate"], color="black", linewidth=1.5)
    rate.set(xlim=(0, n_steps), ylim=(0, None))
    rate.set_xlabel("step", fontsize=12)
    rate.set_ylabel("rate", fontsize=12)
    rate.tick_params(labelsize=11)
    rate.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels()
    figure.subplots_adjust(left=0.08, right=0.66 if sample else 0.98, top=0.97, bottom=0.12, hspace=0.12)
    if sample:
        draw_text(figure, f"Written after step {sample['step']:,}", sample["text"])
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()
