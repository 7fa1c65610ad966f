"""From what is likely to what people prefer: lesson 06.

Read in this order:

- `preferences`: which of two texts somebody prefers, in a file, and how far people agree
- `reward`: a reward model, from which of two answers people chose, and its calibration
- `best_of_n`: the best of several answers, the baseline without training
- `kl`: how far a policy has moved from its reference
- `surrogate`: what PPO and GRPO share, the clipped ratio and the means over what was written
- `ppo`: advantages from a critic, the leash in the reward
- `dpo`: a loss on preferences, without a reward model
- `grpo`: advantages from a group of samples, without a critic
- `policy`: a model as a policy, and the rows of tokens that it is trained on
- `reinforcement`: GRPO and PPO on the course's own Trainer

Losses are functions of log-probabilities alone. DPO and the reward model are trained by `pretraining.Trainer` as it is.
"""

from course_lib.alignment.best_of_n import best_of_n, best_of_n_kl
from course_lib.alignment.dpo import answer_log_probs, dpo_loss, implicit_rewards
from course_lib.alignment.grpo import group_advantages, grpo_loss
from course_lib.alignment.kl import exact_kl, kl_estimates
from course_lib.alignment.policy import PreferencePairs, Prompts, preference_pair_loss, token_log_probs
from course_lib.alignment.ppo import generalised_advantages, penalised_rewards, ppo_loss, value_loss
from course_lib.alignment.preferences import Comparison, agreement, pool, rated_comparisons, read_comparisons
from course_lib.alignment.reinforcement import GRPOTrainer, PolicyAndCritic, PolicyConfig, PolicyReport, PPOTrainer
from course_lib.alignment.reward import AnswerPairs, RewardModel, calibration, preference_loss, rewards
from course_lib.alignment.surrogate import clipped_surrogate, masked_mean

__all__ = [
    "AnswerPairs",
    "Comparison",
    "GRPOTrainer",
    "PPOTrainer",
    "PolicyAndCritic",
    "PolicyConfig",
    "PolicyReport",
    "PreferencePairs",
    "Prompts",
    "RewardModel",
    "agreement",
    "answer_log_probs",
    "best_of_n",
    "best_of_n_kl",
    "calibration",
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
    "pool",
    "ppo_loss",
    "preference_loss",
    "preference_pair_loss",
    "rated_comparisons",
    "read_comparisons",
    "rewards",
    "token_log_probs",
    "value_loss",
]
