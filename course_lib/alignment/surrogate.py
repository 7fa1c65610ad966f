"""What PPO and GRPO share: the clipped ratio, and three ways to average over what was written.

Log-probabilities are (row, position): at position t, that of token t, given those before it. `written` (row, position) is
True where the model wrote the token itself: prompts and padding are False, and what stands there never counts.
"""

from typing import Literal

import torch
from torch import Tensor

from course_lib.checks import check

__all__ = ["Over", "Reduction", "blank", "clipped_surrogate", "masked_mean"]

Over = Literal["token", "row"] | float  # what a mean is taken over, see `masked_mean`
Reduction = Literal["mean", "sum"]


def clipped_surrogate(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return the loss −min(ratio · A, clip(ratio, 1 − clip, 1 + clip) · A) of each token (row, position): arXiv 1707.06347, 3.

    The ratio is that of a token's probability now, `log_probs`, to the one with which it was drawn, `old_log_probs`; both are
    (row, position). At the first step on fresh samples it is 1 everywhere, and its gradient is that of log p. `advantages`, A,
    are (row, 1) or (row, position). Old log-probabilities and advantages get no gradient.

    The minimum stops the gradient of tokens that have already moved as far as `clip` in the direction in which A pushes them,
    and never that of tokens which moved the wrong way. Raises ValueError for advantages without a dimension for positions,
    which would be taken for one row.
    """
    check("clip", clip, float)
    if advantages.dim() != log_probs.dim():
        raise ValueError(f"advantages must be (row, 1) or (row, position), not {tuple(advantages.shape)}")
    ratio, advantages = (log_probs - old_log_probs.detach()).exp(), advantages.detach()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def masked_mean(values: Tensor, written: Tensor, over: Over = "token", *, reduction: Reduction = "mean") -> Tensor:
    """Return the mean of `values` (row, position) where `written` (row, position) is True, as a scalar. `over` says which:

    - "token": over all tokens of all rows, each of which counts the same (DAPO, arXiv 2503.14476);
    - "row": over the tokens of each row, then over rows. In a long row a token counts less, so that a wrong answer costs less
      the longer it is (GRPO, arXiv 2402.03300);
    - a number: the sum over all tokens, divided by the rows and by this number, such as the most tokens that an answer may
      have. Each token counts the same, and no more where others are few (Dr. GRPO, arXiv 2503.20783).

    With `reduction="sum"` it is not yet divided by the number of tokens written ("token"), or of rows (else): a batch in parts
    has the mean of the whole as the sum over its parts, divided by that number for all of them.

    A row with nothing written adds 0 and counts as a row. If nothing was written at all, the mean is 0.
    Raises ValueError for shapes that differ, another `over` or `reduction`.
    """
    if over not in ("token", "row"):
        check("over", over, float)
    check("reduction", reduction, Reduction)
    values, n_written = blank(values, written), written.sum(dim=1)
    if over == "token":
        summed, count = values.sum(), n_written.sum().clamp(min=1)
    elif over == "row":
        summed, count = (values.sum(dim=1) / n_written.clamp(min=1)).sum(), len(values)
    else:
        summed, count = values.sum() / over, len(values)
    return summed if reduction == "sum" else summed / count


def blank(values: Tensor, written: Tensor) -> Tensor:
    """Return `values` with 0 where nothing was written; both are (row, position).

    A product with the mask would keep a NaN or an infinity, in the value or in its gradient; here neither comes
    through. Raises ValueError for shapes that differ.
    """
    if values.shape != written.shape:
        raise ValueError(f"values {tuple(values.shape)} and written {tuple(written.shape)} must have one shape")
    return values.masked_fill(~written, 0)
