"""From what is likely to what people prefer: lesson 06.

Read in this order:

- `best_of_n`: the best of several answers, the baseline without training
- `kl`: how far a policy has moved from its reference
- `surrogate`: what PPO and GRPO share, the clipped ratio and the means over what was written
- `ppo`: advantages from a critic, the leash in the reward
- `dpo`: a loss on preferences, without a reward model
- `grpo`: advantages from a group of samples, without a critic

Losses are functions of log-probabilities alone: what they are trained with is in other rooms.
"""

from course_lib.alignment.best_of_n import best_of_n, best_of_n_kl
from course_lib.alignment.dpo import answer_log_probs, dpo_loss, implicit_rewards
from course_lib.alignment.grpo import group_advantages, grpo_loss
from course_lib.alignment.kl import exact_kl, kl_estimates
from course_lib.alignment.ppo import generalised_advantages, penalised_rewards, ppo_loss, value_loss
from course_lib.alignment.surrogate import clipped_surrogate, masked_mean

__all__ = [
    "answer_log_probs",
    "best_of_n",
    "best_of_n_kl",
    "clipped_surrogate",
    "dpo_loss",
    "exact_kl",
    "generalised_advantages",
    "group_advantages",
    "grpo_loss",
    "implicit_rewards",
    "kl_estimates",
    "masked_mean",
    "penalised_rewards",
    "ppo_loss",
    "value_loss",
]
