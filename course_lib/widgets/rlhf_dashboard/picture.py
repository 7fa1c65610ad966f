"""The RLHF dashboard without a kernel: the rows that are drawn of a run, and one still picture of them."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.plots import PALETTE
from course_lib.widgets.shared.curves import block_bounds, block_means, draw_text
from course_lib.widgets.shared.numbers import short

__all__ = ["ROWS", "policy_blocks", "policy_picture"]

ROWS = ("step", "reward", "true_reward", "kl", "entropy", "length", "kl_weight")
_LEARNER = PALETTE["light"]["learner"]
_AXES = {"kl": "KL (nats an answer)", "entropy": "entropy (nats a token)", "length": "length (tokens)"}


def policy_blocks(columns: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Return float32 (len(ROWS), block): the means of the steps in each of `curve_blocks`' blocks, and its last leash.

    `columns` gives all of ROWS but "step" for every step; NaN where there is none.
    """
    columns = {name: np.array(columns[name]) for name in ROWS[1:]}
    starts, ends = block_bounds(len(columns["reward"]))
    if len(starts) == 0:
        return np.empty((len(ROWS), 0), np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and not drawn
        means = [block_means(columns[name], starts) for name in ROWS[1:-1]]
        return np.stack([ends, *means, columns["kl_weight"][ends - 1]]).astype(np.float32)


def policy_picture(blocks: np.ndarray, n_steps: int, written: str, trouble: str = "") -> bytes:
    """Draw the rewards, the KL, the entropy and the length of answers; beside them `written`, if there is anything.

    `blocks` is what `policy_blocks` returns; a dotted line stands where the leash was changed. `trouble` is what went wrong.
    Return a PNG.
    """
    curves = {name: np.where(np.isfinite(row), row, np.nan) for name, row in zip(ROWS, blocks, strict=True)}
    figure = Figure(figsize=(11, 5.6), dpi=100, facecolor="white")
    (reward, kl), (entropy, length) = figure.subplots(2, 2, sharex=True)
    reward.plot(curves["step"], curves["reward"], color=_LEARNER, linewidth=2, label="learned")
    judged = ~np.isnan(curves["true_reward"])
    if judged.any():
        look = {"color": "black", "linewidth": 1.5, "marker": "o" if judged.sum() <= 60 else None, "markersize": 4}
        reward.plot(curves["step"][judged], curves["true_reward"][judged], "--", label="true", **look)
    reward.set_ylabel("reward", fontsize=12)
    reward.legend(frameon=False, fontsize=12)
    for ax, (name, label) in zip((kl, entropy, length), _AXES.items(), strict=True):
        ax.plot(curves["step"], curves[name], color="black", linewidth=1.5)
        ax.set_ylabel(label, fontsize=12)
    for ax in (reward, kl, entropy, length):
        _mark_leash(ax, curves["step"], curves["kl_weight"], said=ax is kl)
        ax.set_xlim(0, n_steps)
        ax.tick_params(labelsize=11)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in (entropy, length):
        ax.set_xlabel("step", fontsize=12)
    figure.text(0.36, 0.54, fill(trouble, 60), fontsize=12, weight="bold", ha="center", va="center", parse_math=False)
    figure.align_ylabels()
    figure.subplots_adjust(left=0.08, right=0.66 if written else 0.98, top=0.96, bottom=0.1, hspace=0.12, wspace=0.32)
    if written:
        draw_text(figure, f"Before, and after step {int(curves['step'][-1]):,}", written)
    png = BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _mark_leash(ax: Axes, steps: np.ndarray, weights: np.ndarray, said: bool) -> None:
    for before in np.flatnonzero(np.diff(weights)):
        ax.axvline(steps[before], color="black", linewidth=1, linestyle=":")
        if said:
            ax.annotate(
                f"leash {short(weights[before + 1])}",
                (steps[before], 0),
                xycoords=("data", "axes fraction"),
                xytext=(3, 3),
                textcoords="offset points",
                rotation=90,
                va="bottom",
                fontsize=11,
            )
