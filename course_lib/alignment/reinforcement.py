"""Reinforcement learning on the course's own Trainer: each step's batch is written by the model itself, and judged.

A step of the Trainer takes prompts in place of texts, writes answers to them, asks for their rewards, and makes of both what
GRPO or PPO learns from. All else, the schedule, checkpoints, processes, interrupts, is as in pretraining:

    prompts = Prompts(token_ids, 32, model.config.vocab_size)
    for report in GRPOTrainer(model, prompts, reward, PolicyConfig(), PretrainingConfig(n_steps=40, batch_size=8), …): ...
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.alignment.grpo import group_advantages, grpo_loss
from course_lib.alignment.policy import Prompts, side_by_side, spread, token_log_probs, weights_fingerprint
from course_lib.alignment.ppo import generalised_advantages, penalised_rewards, ppo_loss, value_loss
from course_lib.architecture import TransformerLM
from course_lib.checks import check, check_fields
from course_lib.corpora.packing import IGNORED
from course_lib.devices import autocast
from course_lib.finetuning.classification import Classifier
from course_lib.inference import Rollouts, Sampling, roll_out
from course_lib.pretraining import PretrainingConfig, Trainer, processes
from course_lib.pretraining.evaluation import as_in_use
from course_lib.pretraining.trainer import StepReport

__all__ = ["GRPOTrainer", "PPOTrainer", "PolicyAndCritic", "PolicyConfig", "PolicyReport", "Reward"]


class Reward(Protocol):
    """How good answers are: the rewards (row,) of `answers` (token ids, a stop id the last if there is one) to `prompts`."""

    def __call__(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor: ...


@dataclass(frozen=True)
class PolicyConfig:
    """How answers are drawn, and what is learned from them. `batch_size` of the Trainer's config counts prompts."""

    max_new_tokens: int = 16
    n_samples: int = 8  # answers to each prompt
    kl_weight: float = 0.05  # how short the leash is, in units of reward a nat; 0: there is none
    n_updates: int = 1  # of the weights, from the answers of a step
    clip: float = 0.2
    scale: bool = True  # GRPO: divide advantages by the group's standard deviation
    over: Literal["token", "row", "limit"] = "token"  # GRPO: of `masked_mean`; "limit" divides by max_new_tokens
    smoothing: float = 0.95  # PPO: λ of generalised advantages
    value_weight: float = 0.5  # PPO: of the critic's loss

    def __post_init__(self):
        check_fields(self, kl_weight=(0, math.inf), smoothing=(0, 1), value_weight=(0, math.inf))


@dataclass(frozen=True)
class PolicyReport(StepReport):
    """What is known after a step of reinforcement learning: of the answers that it learned from, their means."""

    reward: float = math.nan
    true_reward: float | None = None  # by the judge that the policy is not trained on; None: there is none
    kl: float = math.nan  # KL(policy ‖ reference) in nats an answer, estimated by k1
    entropy: float = math.nan  # nats a token
    length: float = math.nan  # tokens an answer, the stop id counted
    kl_weight: float = math.nan  # the leash at this step


class _PolicyTrainer(Trainer):
    """What GRPO and PPO have in common: `model` writes answers to `prompts`, `reward` judges them, a step learns from them.

    The reference is the model as it is given. `kl_weight`, the leash, may be changed between steps, and is reported with each.
    `true_reward` judges too, and nothing is learned from it. Answers are drawn from the seed and the step, the same in one
    process as in many. Raises ValueError, besides what `Trainer` does, for weights sharded over processes (FSDP).
    """

    Report = PolicyReport
    fewest_samples = 1

    def __init__(
        self,
        model: TransformerLM,
        prompts: Prompts,
        reward: Reward,
        policy: PolicyConfig,
        config: PretrainingConfig,
        folder: str | Path | None = None,
        *,
        stop_ids: frozenset[int],
        true_reward: Reward | None = None,
    ):
        if config.parallel == "fsdp" and processes.world_size() > 1:
            raise ValueError("a policy that writes needs all its weights: take parallel='ddp'")
        self.policy, self.reward, self.true_reward, self.stop_ids = policy, reward, true_reward, stop_ids
        self.n_updates, self.kl_weight = policy.n_updates, policy.kl_weight
        # distances within a row must not count if answers are to share a row
        shares = model.config.positions != "alibi" and model.config.window is None
        self.n_shared = policy.n_samples if shares else 1
        check("n_samples", policy.n_samples, int, self.fewest_samples)
        longest, context = int(prompts.parts[1].max()), model.config.context_length
        if longest + policy.max_new_tokens > context:
            raise ValueError(
                f"a prompt of {longest} tokens and an answer of {policy.max_new_tokens} do not fit into the context "
                f"of {context}: leave long prompts out, or write less"
            )
        super().__init__(model, prompts, None, config, folder, loss=self._policy_loss)
        if self.history:
            self.kl_weight = self.history[-1].kl_weight

    def _begin(self) -> None:
        self.reference = copy.deepcopy(self.writer).requires_grad_(False).eval()

    @property
    def writer(self) -> TransformerLM:
        """The model that writes the answers."""
        return self.model

    def _describe(self) -> dict[str, object]:
        policy = {f"policy.{name}": value for name, value in asdict(self.policy).items()}
        reference = weights_fingerprint(self.reference)
        run = {"method": type(self).__name__, "stop_ids": sorted(self.stop_ids), "reference": reference}
        return {**super()._describe(), **policy, **run}

    def _next_batch(self) -> tuple[tuple[Tensor, ...], int, dict[str, float]]:
        check("kl_weight", self.kl_weight, float, 0)
        n_samples, config = self.policy.n_samples, self.config
        ids, lengths = self.batches[self.step]
        prompts = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
        seed = int(np.random.SeedSequence((config.seed, self.step)).generate_state(1)[0])
        noise = torch.rand(
            config.batch_size * n_samples, self.policy.max_new_tokens, generator=torch.Generator().manual_seed(seed)
        ).chunk(processes.world_size())[processes.rank()]
        with as_in_use(self.writer):
            rollouts = roll_out(
                self.writer, prompts, self.policy.max_new_tokens, Sampling(temperature=1.0),
                n_samples=n_samples, stop_ids=self.stop_ids, noise=noise,
            )  # fmt: skip
        asked, answers = [prompt for prompt in prompts for _ in range(n_samples)], rollouts.answers
        rewards = self._judge("reward", self.reward, asked, answers)
        ids, targets = _shifted(rollouts)
        old = rollouts.log_probs[:, 1:]
        with as_in_use(self.writer), autocast(self.device, self.dtype):
            reference = token_log_probs(self.reference, ids, targets, self.n_shared)
            if self.dtype != torch.float32:  # what is trained is rounded, and a ratio of 1 must be 1
                old = token_log_probs(self.writer, ids, targets, self.n_shared)
        written = targets != IGNORED
        known = {
            "reward": rewards.mean(),
            "kl": (old - reference).sum() / len(old),
            "length": written.sum() / len(old),
            "nats": -old.sum() / len(old),
        }
        if self.true_reward is not None:
            known["true_reward"] = self._judge("true_reward", self.true_reward, asked, answers).mean()
        measured = {name: processes.mean(value.float()).item() for name, value in known.items()}
        measured["entropy"] = measured.pop("nats") / measured["length"]
        batch = ids, targets, old, reference, *self._learned_from(ids, targets, old, reference, rewards)
        n_tokens = int(processes.total(lengths.sum().to(self.device) * n_samples + written.sum()).item())
        return batch, n_tokens, measured | {"kl_weight": float(self.kl_weight)}

    def _judge(self, name: str, judge: Reward, prompts: list[list[int]], answers: list[list[int]]) -> Tensor:
        rewards = torch.as_tensor(judge(prompts, answers), dtype=torch.float32)
        if rewards.shape != (len(answers),) or not rewards.isfinite().all():
            raise ValueError(f"{name} must give a number for each of {len(answers)} answers, not {rewards}")
        return rewards.to(self.device)

    def _learned_from(
        self, ids: Tensor, targets: Tensor, old: Tensor, reference: Tensor, rewards: Tensor
    ) -> tuple[Tensor, ...]:
        """Return what else the loss needs of a batch."""
        raise NotImplementedError

    def _policy_loss(self, model: nn.Module, *batch: Tensor, reduction: str) -> Tensor:
        raise NotImplementedError


class GRPOTrainer(_PolicyTrainer):
    """Group relative policy optimisation: see `grpo`. The leash is in the loss."""

    fewest_samples = 2  # a group

    def _learned_from(
        self, ids: Tensor, targets: Tensor, old: Tensor, reference: Tensor, rewards: Tensor
    ) -> tuple[Tensor, ...]:
        return (group_advantages(rewards.unflatten(0, (-1, self.policy.n_samples)), self.policy.scale).flatten(),)

    def _count(self, batch: tuple[Tensor, ...]) -> Tensor:
        if self.policy.over == "token":
            return super()._count(batch)
        return torch.tensor(len(batch[0]), device=self.device)

    def _policy_loss(
        self, model: nn.Module, ids: Tensor, targets: Tensor, old: Tensor, reference: Tensor, advantages: Tensor,
        *, reduction: str,
    ) -> Tensor:  # fmt: skip
        over = self.policy.max_new_tokens if self.policy.over == "limit" else self.policy.over
        return grpo_loss(
            token_log_probs(model, ids, targets, self.n_shared), old, advantages, targets != IGNORED, self.policy.clip, over,
            kl_weight=self.kl_weight, reference_log_probs=reference, reduction=reduction,
        )  # fmt: skip


class PolicyAndCritic(Classifier):
    """A language model and a critic, which reads the policy's last vector at each position and leaves it as it is."""

    fewest_classes = 1  # a number

    def __init__(self, body: TransformerLM):
        super().__init__(body, 1)

    def forward(
        self,
        ids: Tensor,
        keep: Tensor | tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits (kept, vocab) and values (kept,) of `ids` (batch, position); the rest is as in `TransformerLM`."""
        stream = self.body.residual(ids, mask=mask, positions=positions)[keep]
        return self.body.unembed(stream), self.head(stream.detach())[:, 0]


class PPOTrainer(_PolicyTrainer):
    """Proximal policy optimisation of a `PolicyAndCritic`: see `ppo`. The leash is in the reward."""

    @property
    def writer(self) -> TransformerLM:
        """The policy, without its critic."""
        return self.model.body

    def _learned_from(
        self, ids: Tensor, targets: Tensor, old: Tensor, reference: Tensor, rewards: Tensor
    ) -> tuple[Tensor, ...]:
        written = targets != IGNORED
        with as_in_use(self.model), autocast(self.device, self.dtype):
            values = spread(self.model(**side_by_side(ids, written, self.n_shared))[1].float(), written)
        per_token = penalised_rewards(rewards, old, reference, written, self.kl_weight)
        advantages, returns = generalised_advantages(per_token, values, written, smoothing=self.policy.smoothing)
        return values, _whitened(advantages, written), returns

    def _policy_loss(
        self, model: nn.Module, ids: Tensor, targets: Tensor, old: Tensor, reference: Tensor, old_values: Tensor,
        advantages: Tensor, returns: Tensor, *, reduction: str,
    ) -> Tensor:  # fmt: skip
        written = targets != IGNORED
        logits, values = model(**side_by_side(ids, written, self.n_shared))
        log_probs = spread(-F.cross_entropy(logits.float(), targets[written], reduction="none"), written)
        clip = self.policy.clip
        of_policy = ppo_loss(log_probs, old, advantages, written, clip, reduction=reduction)
        of_critic = value_loss(spread(values.float(), written), old_values, returns, written, clip, reduction=reduction)
        return of_policy + self.policy.value_weight * of_critic


def _shifted(rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    """Return ids and targets (row, position) of what was written."""
    following = rollouts.ids[:, 1:]
    return rollouts.ids[:, :-1], following.masked_fill(~rollouts.written[:, 1:], IGNORED)


def _whitened(advantages: Tensor, written: Tensor) -> Tensor:
    """Return `advantages` (row, position) with mean 0 and variance 1 over all that was written, so that one rate fits."""
    n = processes.total(written.sum())
    centred = (advantages - processes.total(advantages.sum()) / n) * written
    return centred / ((processes.total(centred.square().sum()) / n).sqrt() + 1e-8)
