"""What tests/alignment/test_two_processes.py has two processes do together."""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from course_lib.alignment.policy import PreferencePairs, Prompts, preference_pair_loss
from course_lib.alignment.reinforcement import GRPOTrainer, PolicyAndCritic, PolicyConfig, PPOTrainer
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.pretraining import PretrainingConfig, Trainer
from course_lib.pretraining.processes import process_group, rank

MODEL = TransformerConfig(vocab_size=20, d_model=24, n_layers=2, n_heads=3, d_ff=40, context_length=16)
TRAINING = PretrainingConfig(
    n_steps=8, batch_size=4, context_length=5, learning_rate=5e-3, muon_learning_rate=None, weight_decay=0.0,
    checkpoint_every=3,
)  # fmt: skip
POLICY = PolicyConfig(max_new_tokens=6, n_samples=4, kl_weight=0.1, n_updates=2)
PROMPTS = [[3, 1, 4], [1, 5], [9, 2, 6, 5], [3, 5, 8, 9, 7], [2], [4, 4]]
CHOSEN = [[7, 7, 0], [1, 0], [5], [5, 8, 0], [6, 6, 6, 0], [12]]
REJECTED = [[4, 4], [9], [8, 8, 8, 0], [3], [2, 0], [1, 0]]
HURRIED = frozenset(range(6, 20))  # stop ids, of which an answer soon has one

BROKEN_OFF, TOGETHER = 4, 7  # steps: two processes stop, go on from step 3 to another stop, and one goes on from step 6


class Judge:
    """Rewards the 7s among an answer's tokens, and notes of each batch the length of the longest answer."""

    def __init__(self):
        self.longest: list[int] = []

    def __call__(self, prompts: list[list[int]], answers: list[list[int]]) -> Tensor:
        self.longest.append(max(map(len, answers)))
        return torch.tensor(
            [(answer.count(7) + len(prompt)) / len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
        )


def new_model(seed: int) -> TransformerLM:
    seed_everything(seed)
    return TransformerLM(MODEL)


def new_policy(method, folder=None, stop_ids=frozenset({0}), accumulation=1, **changes) -> Trainer:
    """Return a Trainer; the models of different processes differ until they hear of process 0's."""
    model = new_model(rank())
    return method(
        PolicyAndCritic(model) if method is PPOTrainer else model, Prompts(PROMPTS, 5, 20), Judge(),
        replace(POLICY, **changes), replace(TRAINING, accumulation=accumulation), folder,
        stop_ids=stop_ids, true_reward=Judge(),
    )  # fmt: skip


def grpo(folder=None, **changes) -> Trainer:
    return new_policy(GRPOTrainer, folder, **changes)


def ppo(folder=None, **changes) -> Trainer:
    return new_policy(PPOTrainer, folder, **changes)


def dpo(folder=None, accumulation=1) -> Trainer:
    pairs = PreferencePairs(PROMPTS, CHOSEN, REJECTED, 9, new_model(2))
    training = replace(TRAINING, context_length=9, evaluate_every=3, accumulation=accumulation)
    return Trainer(new_model(rank()), pairs, pairs, training, folder, loss=preference_pair_loss)


CASES = {
    "grpo": (grpo, {}),
    "grpo, over rows": (grpo, {"over": "row"}),
    "grpo, over the limit": (grpo, {"over": "limit"}),
    "grpo, without a leash": (grpo, {"kl_weight": 0.0, "n_updates": 1}),
    "grpo, micro-batches": (grpo, {"accumulation": 2}),
    "grpo, hurried": (grpo, {"stop_ids": HURRIED, "n_samples": 2}),
    "ppo": (ppo, {}),
    "ppo, micro-batches": (ppo, {"accumulation": 2}),
    "ppo, hurried": (ppo, {"stop_ids": HURRIED, "n_samples": 1}),
    "dpo": (dpo, {}),
    "dpo, micro-batches": (dpo, {"accumulation": 2}),
}


def new_trainer(case: str, folder: Path | None = None) -> Trainer:
    make, changes = CASES[case]
    return make(folder, **changes)


def train_to(trainer: Trainer, stop: int) -> dict:
    """Train until `stop` steps are made, and return where it began, all reports and the weights."""
    begun_at = trainer.step
    for report in trainer:
        if report.step == stop:
            break
    weights = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    longest = [*trainer.reward.longest] if hasattr(trainer, "reward") else []
    reports = list(map(asdict, trainer.history))
    return {"begun_at": begun_at, "reports": reports, "weights": weights, "longest": longest}


def main(runs: Path) -> None:
    with process_group():
        done = {}
        for case in CASES:
            train_to(new_trainer(case, runs / case), BROKEN_OFF)
            done[case] = train_to(new_trainer(case, runs / case), TOGETHER)
        torch.save(done, runs / f"{rank()}.pt")
