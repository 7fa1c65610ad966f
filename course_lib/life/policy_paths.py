"""How a policy replies before, during and after its training, and how one replies that nothing holds back.

What takes minutes is kept in the cache, as the stages of `kind_replies` are.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from course_lib import storage
from course_lib.alignment import GRPOTrainer, PolicyReport, token_log_probs
from course_lib.alignment.policy import answer_rows
from course_lib.architecture import TransformerLM
from course_lib.corpora.packing import IGNORED
from course_lib.life.kind_replies import (
    DPO,
    HASTY,
    N_HASTY,
    POLICY,
    ROW,
    TRAINING,
    human_reward,
    learned_reward,
    policy_trainer,
    preference_trainer,
    run_folder,
    supervised,
    test_prompts,
    write_replies,
)
from course_lib.pretraining.evaluation import as_in_use

__all__ = ["LONG", "UNLEASHED", "Look", "Replies", "look", "path", "reply", "unleashed", "unleashed_trainer"]

UNLEASHED, LONG = replace(POLICY, kl_weight=0.0), replace(TRAINING, n_steps=32, warmup=3)
_RECORDS = "records.json"


class Replies(NamedTuple):
    """What a policy replies to the test's lines, one reply to each, and what each is worth: tensors (line,)."""

    answers: list[list[int]]
    reward: Tensor  # learned
    human: Tensor
    wins: Tensor  # 1 where people like it better than the supervised model's, ½ where both are worth the same
    kl: Tensor  # log-probability less the supervised model's: the mean estimates the KL in nats a reply
    length: Tensor  # tokens


@dataclass(frozen=True)
class Look:
    """A policy on the test's lines, one reply to each: means."""

    step: int
    reward: float  # learned
    human: float
    wins: float  # the share of lines on which people like its reply better than the supervised model's; equal ones are half
    kl: float  # to the supervised model, in nats a reply
    length: float  # tokens


def look(policy: TransformerLM, step: int = 0, seed: int = 0) -> Look:
    """Return how `policy` replies to the test's lines, in the mean. `seed` draws the replies."""
    return Look(step, *(values.mean().item() for values in reply(policy, seed)[1:]))


def reply(policy: TransformerLM, seed: int = 0) -> Replies:
    """Return what `policy` replies to the test's lines. `seed` draws the replies."""
    reference, prompts = _reference(), test_prompts()
    answers = write_replies(policy, prompts, 1, seed)
    human = human_reward(prompts, answers)
    others = _liked(seed + 1)
    ids, targets = (part.to(policy.device) for part in answer_rows(prompts, answers, ROW))
    with as_in_use(policy), as_in_use(reference):
        log_ratio = token_log_probs(policy, ids, targets) - token_log_probs(reference, ids, targets)
    wins = (human > others).double() + (human == others).double() / 2
    worth = learned_reward(prompts, answers), human, wins, log_ratio.sum(dim=1), (targets != IGNORED).sum(dim=1)
    return Replies(answers, *(values.cpu().double() for values in worth))


def path(method: str, seed: int = 0) -> list[Look]:
    """Return how a policy of "grpo", "ppo" or "dpo" replies before training and after each third of it; kept."""
    recipe = [method, seed, asdict(POLICY), asdict(TRAINING), asdict(DPO)]

    def write(folder: Path) -> None:
        run = preference_trainer(seed) if method == "dpo" else policy_trainer(method, seed)
        policy = run.model if method == "dpo" else run.writer
        looks = [_first_look(seed)]
        looks += [look(policy, report.step, seed) for report in run if report.step % (report.n_steps // 3) == 0]
        _keep(folder, looks)

    return storage.keep(run_folder(f"path-{method}-{seed}", recipe), write, partial(_kept, kind=Look), room=1_000_000)


def unleashed_trainer(seed: int = 0) -> GRPOTrainer:
    """Return the Trainer of GRPO without a leash, for longer, against the hasty reward model."""
    return policy_trainer("grpo", seed, UNLEASHED, LONG, reward=partial(learned_reward, hasty=True))


def unleashed(seed: int = 0) -> list[PolicyReport]:
    """Return the reports of `unleashed_trainer`, which is run if need be; kept."""
    folder = run_folder(f"unleashed-{seed}", [asdict(UNLEASHED), asdict(LONG), N_HASTY, asdict(HASTY)])

    def write(folder: Path) -> None:
        _keep(folder, list(unleashed_trainer(seed)))

    return storage.keep(folder, write, partial(_kept, kind=PolicyReport), room=1_000_000)


@cache
def _liked(seed: int) -> Tensor:
    """Return what people think of the supervised model's replies to the test's lines (line,), drawn by `seed`."""
    prompts = test_prompts()
    return human_reward(prompts, write_replies(_reference(), prompts, 1, seed))


@cache
def _first_look(seed: int) -> Look:
    return look(_reference(), 0, seed)


@cache
def _reference() -> TransformerLM:
    return supervised()[0].requires_grad_(False)


def _keep(folder: Path, records: Sequence[object]) -> None:
    folder.mkdir()
    (folder / _RECORDS).write_text(json.dumps([asdict(one) for one in records]), encoding="utf-8")


def _kept(folder: Path, kind: type) -> list:
    return [kind(**one) for one in json.loads((folder / _RECORDS).read_text(encoding="utf-8"))]
