"""Proximal policy optimisation (arXiv 1707.06347) of a language model, as in arXiv 1909.08593: the leash is in the reward.

Each token is an action, an answer an episode. A second network, the critic, predicts at each token what the episode will yet
bring; an advantage is by how much it came better than that. The order is that of a step:

    rewards = penalised_rewards(scores, log_probs, reference_log_probs, written, kl_weight=0.05)
    advantages, returns = generalised_advantages(rewards, values, written)
    loss = ppo_loss(…, advantages, …) + 0.5 * value_loss(…, returns, …)

What is (row, position) is as `surrogate` says. A value at position t is predicted from the tokens before t, as the
log-probability is. The first two functions give tensors without a gradient.
"""

import torch
from torch import Tensor

from course_lib.alignment.surrogate import Reduction, blank, clipped_surrogate, masked_mean
from course_lib.checks import check

__all__ = ["generalised_advantages", "penalised_rewards", "ppo_loss", "value_loss"]


@torch.no_grad()
def penalised_rewards(
    rewards: Tensor, log_probs: Tensor, reference_log_probs: Tensor, written: Tensor, kl_weight: float
) -> Tensor:
    """Return each token's reward (row, position): the leash, and at the last one written that of the answer, `rewards` (row,).

    The leash is −`kl_weight` · (log p − log r) at each written token, of the policy that wrote it and of the reference, both
    (row, position). Summed over an answer it is an estimate of −`kl_weight` · KL(policy ‖ reference). Elsewhere it is 0; a row
    with nothing written has no place for its reward. Raises ValueError for a `kl_weight` below 0.
    """
    check("kl_weight", kl_weight, float, 0)
    n_yet_to_come = written.flip(1).cumsum(dim=1).flip(1)  # this one counted
    last = written & (n_yet_to_come == 1)
    leash = blank(log_probs - reference_log_probs, written)
    return rewards[:, None] * last - kl_weight * leash


@torch.no_grad()
def generalised_advantages(
    rewards: Tensor, values: Tensor, written: Tensor, discount: float = 1.0, smoothing: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, both (row, position) as `rewards` and `values` are; 0 where nothing was `written`.

    The critic's error at one token is δ = reward + discount · (value at the next) − value, and after the last token written
    there is no value. The advantage is the sum of all errors from here on, each times (discount · smoothing) to the power of
    how far off it is (arXiv 1506.02438, eq. 16; γ and λ there): with `smoothing` 0, this error alone, little spread, wrong
    where the critic is; with 1, what all the rewards to come brought over the value, right in the mean, much spread. The
    return, advantage + value, is what the critic should have said.

    Tokens between written ones that are not the model's own, such as a tool's reply, take no step. Raises ValueError for
    `discount` or `smoothing` outside 0 to 1.
    """
    check("discount", discount, float, 0, 1)
    check("smoothing", smoothing, float, 0, 1)
    rewards, values = blank(rewards, written), blank(values, written)
    advantages, advantage, next_value = torch.zeros_like(values), torch.zeros_like(values[:, 0]), 0
    for t in reversed(range(values.shape[1])):
        error = rewards[:, t] + discount * next_value - values[:, t]
        advantage = torch.where(written[:, t], error + discount * smoothing * advantage, advantage)
        next_value = torch.where(written[:, t], values[:, t], next_value)
        advantages[:, t] = advantage
    advantages = blank(advantages, written)
    return advantages, advantages + values


def ppo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    written: Tensor,
    clip: float = 0.2,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the clipped surrogate's mean over all tokens written, or its sum; all tensors are (row, position).

    Only `log_probs`, of the policy as it is now, gets a gradient. See `clipped_surrogate` and `masked_mean`.
    """
    losses = clipped_surrogate(blank(log_probs, written), old_log_probs, advantages, clip)
    return masked_mean(losses, written, reduction=reduction)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    written: Tensor,
    clip: float = 0.2,
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return half the critic's squared error, as the mean over all tokens written, or the sum; all are (row, position).

    The error is the larger of that of `values` and that of `values` held within `clip` of `old_values`, which the advantages
    were computed with: a value that has already moved so far towards its return gets no gradient, as in arXiv 1909.08593's
    code. `clip` is in units of the reward. Only `values` gets a gradient. Raises ValueError for a `clip` that is not positive.
    """
    check("clip", clip, float)
    values, old_values, returns = blank(values, written), old_values.detach(), returns.detach()
    held = values.clamp(old_values - clip, old_values + clip)
    errors = torch.maximum((values - returns).square(), (held - returns).square())
    return masked_mean(errors / 2, written, reduction=reduction)
