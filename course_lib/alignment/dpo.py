"""Direct preference optimisation (arXiv 2305.18290): a policy from preferences, without a reward model and without sampling.

The policy that is best for a reward under the leash `beta` · KL has the reward in it: beta · (log p − log r), up to a number
that the answers to one prompt share. Put into the Bradley–Terry model, that makes preferences a loss on the policy itself.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from course_lib.alignment.surrogate import Reduction, blank
from course_lib.checks import check

__all__ = ["answer_log_probs", "dpo_loss", "implicit_rewards"]


def answer_log_probs(log_probs: Tensor, written: Tensor) -> Tensor:
    """Return the log-probability of each answer (row,): the sum of `log_probs` where `written`, both (row, position).

    Neither the prompt nor padding counts. `written` is True where an answer's tokens are, whoever wrote them.
    """
    return blank(log_probs, written).sum(dim=1)


def implicit_rewards(log_probs: Tensor, reference_log_probs: Tensor, beta: float) -> Tensor:
    """Return the reward (row,) of answers for which the policy is best: `beta` · (log p − log r), in nats times `beta`.

    Both are (row,), of whole answers. Only differences between answers to one prompt mean something. The reference gets no
    gradient. Raises ValueError for a `beta` that is not positive.
    """
    check("beta", beta, float)
    return beta * (log_probs - reference_log_probs.detach())


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
    kind: Literal["sigmoid", "ipo", "robust"] = "sigmoid",
    *,
    label_noise: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the mean loss of preference pairs, or its sum, from the log-probabilities (row,) that policy and reference give
    the chosen and the rejected answer of each. With m, the difference of their implicit rewards, a pair's loss is

    - "sigmoid": −log σ(m), of a Bradley–Terry model;
    - "robust": ((1 − ε) · −log σ(m) − ε · −log σ(−m)) / (1 − 2ε), where the share ε = `label_noise` of the pairs is known to
      be the wrong way round: in the mean over such noise it is the "sigmoid" loss of the right ones (arXiv 2403.00409);
    - "ipo": (m / beta − 1 / (2 · beta))², which has a target for m, where the other two drive it on for ever (arXiv
      2310.12036, eq. 17; beta is τ there).

    A sum over tokens grows with an answer's length, and IPO's target does not: its authors, and `trl` after them, divide each
    answer's log-probability by its number of tokens. Give such means as all four, and IPO is theirs.

    At the reference itself m is 0, and the first two are log 2. The reference gets no gradient. Raises ValueError for shapes
    that differ, a `beta` that is not positive, and a `label_noise` that is not below a half or not with "robust".
    """
    check("kind", kind, Literal["sigmoid", "ipo", "robust"])
    check("label_noise", label_noise, float, 0)
    check("reduction", reduction, Reduction)
    if label_noise >= 0.5:
        raise ValueError(f"label_noise must be below 0.5, not {label_noise}: of such pairs half or more are wrong")
    if label_noise and kind != "robust":
        raise ValueError(f'label_noise is for kind="robust"; "{kind}" does not use it')
    shapes = [tuple(given.shape) for given in (chosen, rejected, reference_chosen, reference_rejected)]
    if len(set(shapes)) > 1:
        raise ValueError(f"the four log-probabilities must have one shape (row,), not {shapes}")
    margin = implicit_rewards(chosen, reference_chosen, beta) - implicit_rewards(rejected, reference_rejected, beta)
    if kind == "ipo":
        losses = (margin / beta - 1 / (2 * beta)).square()
    else:
        right, wrong = -F.logsigmoid(margin), -F.logsigmoid(-margin)
        losses = ((1 - label_noise) * right - label_noise * wrong) / (1 - 2 * label_noise)
    return losses.sum() if reduction == "sum" else losses.mean()
