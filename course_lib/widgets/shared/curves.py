"""A training run as curves, and what its model writes: for the widgets that show a run, live or afterwards."""

from collections.abc import Mapping, Sequence
from math import nan
from textwrap import fill

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.devices import single_thread
from course_lib.inference import Sampling, stream_text
from course_lib.plots import PALETTE, drawable
from course_lib.tokenization import Tokenizer

__all__ = ["CURVES", "block_bounds", "block_means", "curve_blocks", "divergence", "draw_losses", "draw_text", "write"]

CURVES = ("step", "loss", "lowest", "highest", "validation_loss", "learning_rate")
MOST_BLOCKS = 512  # of steps that a curve is drawn from: as many as a picture has room for
SAMPLE_TOKENS = 60

_LEARNER = PALETTE["light"]["learner"]


def curve_blocks(columns: Mapping[str, Sequence[float]], most: int = MOST_BLOCKS) -> np.ndarray:
    """Return float32 (len(CURVES), block): the steps in `most` blocks of equal length at the most, each as one point.

    `columns` gives "loss", "validation_loss" and "learning_rate" of every step; NaN where a step was not evaluated. A
    block's point has its last step, its mean losses, and its lowest and highest training loss. Blocks are a power of two
    long, so that a point once drawn stays where it is until their length doubles.
    """
    loss, validation, rate = (np.array(columns[name]) for name in ("loss", "validation_loss", "learning_rate"))
    starts, ends = block_bounds(len(loss), most)
    if len(starts) == 0:
        return np.empty((len(CURVES), 0), np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and not drawn
        return np.stack(
            [
                ends,
                np.add.reduceat(loss, starts) / (ends - starts),
                np.minimum.reduceat(loss, starts),
                np.maximum.reduceat(loss, starts),
                block_means(validation, starts),
                rate[ends - 1],
            ]
        ).astype(np.float32)


def block_bounds(n: int, most: int = MOST_BLOCKS) -> tuple[np.ndarray, np.ndarray]:
    """Return the first step of each block, counted from 0, and the first after it: see `curve_blocks`."""
    size = 1
    while n > size * most:
        size *= 2
    starts = np.arange(0, n, size)
    return starts, np.append(starts[1:], n)[: len(starts)]


def block_means(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the mean (block,) of those of `values` (step,) that are not NaN, of blocks from `starts` on; NaN if all are."""
    known = ~np.isnan(values)
    n_known = np.add.reduceat(known.astype(int), starts)
    summed = np.add.reduceat(np.where(known, values, 0), starts)
    return np.where(n_known > 0, summed / np.maximum(n_known, 1), nan)


def divergence(losses: Sequence[float]) -> str:
    """Return a sentence for a run of which a loss is no number: in which step, and the usual cause; "" if all are numbers."""
    lost = np.flatnonzero(~np.isfinite(losses))
    if len(lost) == 0:
        return ""
    return (
        f"In step {lost[0] + 1:,} the loss ceased to be a number (NaN or infinite). The usual cause is a learning rate that is "
        "too high, or that rises in too few steps (warmup): the weights grow beyond all bounds."
    )


def draw_losses(ax: Axes, curves: Mapping[str, np.ndarray], trouble: str = "") -> None:
    """Draw the training loss with the range that single steps lie in, and the validation loss; write `trouble` over them."""
    curves = {name: np.where(np.isfinite(row), row, nan) for name, row in curves.items()}
    ax.fill_between(curves["step"], curves["lowest"], curves["highest"], color=_LEARNER, alpha=0.2, linewidth=0)
    ax.plot(curves["step"], curves["loss"], color=_LEARNER, linewidth=2, label="training")
    ax.text(0.5, 0.5, fill(trouble, 60), transform=ax.transAxes, fontsize=12, weight="bold", ha="center", va="center")
    evaluated = ~np.isnan(curves["validation_loss"])
    if evaluated.any():
        at = curves["step"][evaluated], curves["validation_loss"][evaluated]
        ax.plot(*at, "o--", color="black", linewidth=1.5, markersize=5, clip_on=False, label="validation")
    ax.set_ylabel("loss (nats a token)", fontsize=12)
    ax.tick_params(labelsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=12)


def draw_text(figure: Figure, title: str, text: str, most_lines: int = 20) -> None:
    """Write `text`, line by line, into the right third of a figure of 11 inches, under a `title`."""
    figure.text(0.7, 0.965, title, fontsize=13, weight="bold", va="top")
    text = "".join(c if c == "\n" or drawable(c) == c else "\N{REPLACEMENT CHARACTER}" for c in text)
    lines = [fill(line, 38, subsequent_indent="  ") for line in text.strip().split("\n")]
    shown = "\n".join("\n".join(lines).splitlines()[:most_lines])
    figure.text(0.7, 0.9, shown, fontsize=12, va="top", linespacing=1.4, parse_math=False)


def write(model, tokenizer: Tokenizer, prompt: str, n_tokens: int = SAMPLE_TOKENS) -> str:
    """Return what `model` writes after `prompt` with seed 0; the text changes only as the model does.

    A model that has diverged writes nothing, and the text says why.
    """
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(0)
    try:
        with single_thread():  # for one token at a time a second one costs more than it brings
            return "".join(stream_text(model, tokenizer, prompt, n_tokens, Sampling(0.8), generator=generator))
    except FloatingPointError as error:
        return f" [{error}]"
    finally:
        model.train(was_training)
