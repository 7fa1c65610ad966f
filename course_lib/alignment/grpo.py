"""Group relative policy optimisation (arXiv 2402.03300): PPO without a critic.

Several answers to one prompt are drawn, and an answer's advantage is by how much its reward beats those of its group.
"""

from torch import Tensor

from course_lib.alignment.kl import kl_estimates
from course_lib.alignment.surrogate import Over, Reduction, blank, clipped_surrogate, masked_mean
from course_lib.checks import check

__all__ = ["group_advantages", "grpo_loss"]

_LEAST_SPREAD = 1e-4  # added to the standard deviation, as `trl` does


def group_advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """Return the advantages (prompt, sample) of samples with `rewards` (prompt, sample): reward − mean of the prompt's.

    With `scale` they are divided by the group's standard deviation (with n − 1), as in GRPO. Prompts of which nearly all or
    nearly no samples are right then count more than those in between: Dr. GRPO leaves it out (arXiv 2503.20783, 3.1). A group
    of equal rewards teaches nothing: its advantages are exactly 0. Raises ValueError for groups of fewer than two samples.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be (prompt, sample) with two samples or more, not {tuple(rewards.shape)}")
    rewards = rewards.detach().float()
    rewards = rewards - rewards[:, :1]  # equal ones are exactly 0 now: seven times 0.1 has not the mean 0.1 in float32
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    return advantages / (rewards.std(dim=1, keepdim=True) + _LEAST_SPREAD) if scale else advantages


def grpo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    written: Tensor,
    clip: float = 0.2,
    over: Over = "row",
    *,
    kl_weight: float = 0.0,
    reference_log_probs: Tensor | None = None,
    corrected: bool = True,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the clipped surrogate of each token, plus `kl_weight` times its KL to the reference (k3), averaged `over` what.

    `advantages` are (row,): all tokens of an answer have the same. The rest are (row, position), as `surrogate` says, and
    `over` and `reduction` are those of `masked_mean`. Only `log_probs`, of the policy as it is now, gets a gradient.

    The leash is in the loss here, where PPO has it in the reward. `corrected`, k3 counts by the ratio, as samples of another
    policy must; and as the ratio has a gradient, k3's is then that of KL(policy ‖ reference) (arXiv 2512.02556, and `trl`). As
    GRPO's paper has it, without, it is that of KL(reference ‖ policy), see `kl_estimates`.

    Raises ValueError for a `kl_weight` below 0, or one without a reference.
    """
    check("kl_weight", kl_weight, float, 0)
    if kl_weight and reference_log_probs is None:
        raise ValueError("a kl_weight needs reference_log_probs: there is nothing to stay near to")
    log_probs = blank(log_probs, written)  # no gradient passes there, whatever the others hold
    losses = clipped_surrogate(log_probs, old_log_probs, advantages[:, None], clip)
    if kl_weight:
        kl = kl_estimates(log_probs, reference_log_probs).k3
        ratio = (log_probs - old_log_probs.detach()).exp() if corrected else 1
        losses = losses + kl_weight * ratio * kl
    return masked_mean(losses, written, over, reduction=reduction)
