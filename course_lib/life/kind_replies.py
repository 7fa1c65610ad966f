"""The course's own model learns to reply to a line of a play, and then to reply as people like it.

What people like is measured by what ten people thought of each word (`tasks.ratings`). Of two replies that the model writes to
a line, one rater prefers one; from such choices a reward model is trained, and against it the policy. So there is a learned
reward, which a policy can deceive, and a human one, which it never sees.

    supervised()       the model of lesson 04, on 3,000 replies from the plays
    comparisons()      2,000 choices between two of its replies
    reward_model()     trained on these
    policy_trainer()   GRPO or PPO against the reward model; DPO on the choices themselves

The stages are kept in the cache, each in a folder of its own, and go on there when they were interrupted.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from course_lib import assets, storage
from course_lib.alignment import (
    AnswerPairs,
    Comparison,
    GRPOTrainer,
    PolicyAndCritic,
    PolicyConfig,
    PPOTrainer,
    PreferencePairs,
    Prompts,
    RewardModel,
    preference_loss,
    preference_pair_loss,
    rated_comparisons,
    rewards,
)
from course_lib.alignment.preferences import read_comparisons, write_comparisons
from course_lib.alignment.reinforcement import Reward
from course_lib.architecture import TransformerLM
from course_lib.corpora import shakespeare
from course_lib.devices import pick_device, seed_everything
from course_lib.finetuning import PackedExamples, add_chat_format, answer_loss, tokenize_chat
from course_lib.finetuning.chats import write_chat
from course_lib.inference import Sampling, roll_out
from course_lib.pretraining import PretrainingConfig, Trainer, shakespeare_model
from course_lib.pretraining.checkpoints import mended
from course_lib.pretraining.evaluation import as_in_use
from course_lib.tasks.instructions import replies
from course_lib.tasks.ratings import rate
from course_lib.tokenization import Tokenizer

__all__ = [
    "DPO", "HASTY", "LIMIT", "N_HASTY", "POLICY", "ROW", "TRAINING", "Lines", "ask", "choice_probabilities", "compared",
    "comparisons", "comparisons_folder", "fresh_comparisons", "human_reward", "learned_reward", "lines", "policy_trainer",
    "preference_trainer", "read_reply", "reward_model", "reward_trainer", "run_folder", "supervised", "supervised_trainer",
    "test_prompts", "write_replies", "written_pairs",
]  # fmt: skip

LIMIT = 16
"""The most tokens of a reply, with the one that ends it."""

_PROMPT = 24  # tokens
ROW = _PROMPT + LIMIT + 1  # a prompt, and a reply that was cut off and is given an end to be compared
_N_SUPERVISED, _N_COMPARED, _N_TEST = 3000, 3000, 120  # replies, pairs of replies, lines of plays that are held out
_SUPERVISED = PretrainingConfig(
    n_steps=80, batch_size=8, context_length=128, learning_rate=0.003, muon_learning_rate=0.003, warmup=10, checkpoint_every=40
)  # fmt: skip
_REWARD = PretrainingConfig(
    n_steps=120, batch_size=16, context_length=ROW, learning_rate=0.002, muon_learning_rate=0.002, warmup=5,
    checkpoint_every=40,
)  # fmt: skip
TRAINING = PretrainingConfig(
    n_steps=12, batch_size=4, context_length=_PROMPT, learning_rate=1e-3, muon_learning_rate=None, weight_decay=0.0, warmup=2,
    decay=0.0, checkpoint_every=6,
)  # fmt: skip
POLICY = PolicyConfig(max_new_tokens=LIMIT, n_samples=8, kl_weight=0.3)
DPO = replace(TRAINING, n_steps=18, batch_size=16, context_length=ROW, learning_rate=7e-4)
N_HASTY, HASTY = 400, replace(_REWARD, n_steps=40)  # choices, for a reward model that is easily deceived
_CHOICES, _AT_ONCE = "choices.jsonl", 200  # file name; prompts
_UNENDED = -1.0  # what is added to the reward of a reply that does not end: none like it was ever compared


# ---------------------------------------------------------------- lines of plays, as the model sees them


@cache
def _letters() -> Tokenizer:
    return add_chat_format(*shakespeare_model.pretrained())[1]


def ask(line: str) -> list[int]:
    """Return the ids of the chat in which a user says `line`, to where the reply begins."""
    return list(_asked(line))


@cache  # every stage asks with the same lines again
def _asked(line: str) -> tuple[int, ...]:
    return tuple(_letters().encode(write_chat(_letters(), [{"role": "user", "content": line}], opens_reply=True)))


def read_reply(ids: Sequence[int]) -> str:
    """Return the text of a reply, without what ends it."""
    return _letters().decode([i for i in ids if i not in _letters().end_ids])


class Lines(NamedTuple):
    """Lines of plays, each place in a play for one purpose; a few short lines stand in several places."""

    taught: list[tuple[str, str]]  # with the reply in the play
    compared: list[str]  # two replies of the model to each are compared
    asked: list[str]  # the policy writes replies to these, to learn from their rewards
    test: list[str]  # of three plays that nothing was trained on
    judged: list[str]  # more of them: choices between replies to these test the reward model


@cache
def lines() -> Lines:
    """Return what is said in the plays, as far as it fits into a prompt, in an order drawn once and for all."""
    train, held_out = (replies(works) for works in shakespeare.split())
    for pairs in (train, held_out):
        random.Random(0).shuffle(pairs)
    taught, rest = train[:_N_SUPERVISED], [line for line, _ in train[_N_SUPERVISED:] if len(ask(line)) <= _PROMPT]
    test = [line for line, _ in held_out if len(ask(line)) <= _PROMPT]
    return Lines(taught, rest[:_N_COMPARED], rest[_N_COMPARED:], test[:_N_TEST], test[_N_TEST:])


def test_prompts() -> list[list[int]]:
    """Return 120 lines (ids) of three plays on which nothing was trained."""
    return list(map(ask, lines().test))


# ---------------------------------------------------------------- the stages


def run_folder(name: str, recipe: object = None) -> Path:
    """Return the folder of what is made by `recipe` of these stages. Other stages have other folders."""
    sources = [assets.ASSETS[source].sha256 for source in ("shakespeare", "vader-lexicon")]
    stages = [asdict(config) for config in (shakespeare_model.MODEL, shakespeare_model.TRAINING, _SUPERVISED, _REWARD)]
    numbers = [LIMIT, _PROMPT, _N_SUPERVISED, _N_COMPARED, _N_TEST, _UNENDED, pick_device().type]
    return storage.run_dir(f"replies-{name}", [recipe, sources, stages, numbers])


def supervised_trainer() -> tuple[Trainer, Tokenizer]:
    """Return the Trainer that teaches lesson 04's model to reply, and the tokenizer. A finished one is done."""
    model, tokenizer = add_chat_format(*shakespeare_model.pretrained())
    rows = _taught_rows(model.config.vocab_size)
    seed_everything(0)
    return Trainer(
        model.requires_grad_(), rows, None, _SUPERVISED, mended(run_folder("supervised")), loss=answer_loss
    ), tokenizer


@cache
def _taught_rows(vocab_size: int) -> PackedExamples:
    chats = [
        [{"role": "user", "content": line}, {"role": "assistant", "content": reply}] for line, reply in lines().taught
    ]
    return PackedExamples([tokenize_chat(_letters(), chat) for chat in chats], 128, vocab_size)


def supervised() -> tuple[TransformerLM, Tokenizer]:
    """Return the model that replies, trained first if need be, and its tokenizer."""
    run, tokenizer = supervised_trainer()
    return _done(run).eval(), tokenizer


def write_replies(model: TransformerLM, prompts: list[list[int]], n_samples: int, seed: int) -> list[list[int]]:
    """Return `n_samples` replies (ids) of `model` to each of `prompts`, those to one beside each other, drawn by `seed`."""
    noise = torch.rand(len(prompts) * n_samples, LIMIT, generator=torch.Generator().manual_seed(seed))
    stop_ids, answers = _letters().end_ids, []
    for start in range(0, len(prompts), _AT_ONCE):
        some = slice(start * n_samples, (start + _AT_ONCE) * n_samples)
        with as_in_use(model):
            answers += roll_out(
                model, prompts[start : start + _AT_ONCE], LIMIT, Sampling(temperature=1.0),
                n_samples=n_samples, stop_ids=stop_ids, noise=noise[some],
            ).answers  # fmt: skip
    return answers


def written_pairs(model: TransformerLM, asked: Sequence[str], seed: int = 0) -> list[tuple[str, str, str]]:
    """Return the lines `asked`, each with two different replies that `model` writes to it, drawn by `seed`."""
    written = [read_reply(answer).strip() for answer in write_replies(model, list(map(ask, asked)), 2, seed)]
    pairs = zip(asked, written[::2], written[1::2], strict=True)
    fits = (pair for pair in pairs if all(len(_text(pair[0], reply)) <= ROW for reply in pair[1:]))
    return [pair for pair in fits if pair[1] != pair[2]]


def comparisons() -> list[Comparison]:
    """Return what raters, one for each pair, prefer of the pairs that the supervised model writes."""

    def write(folder: Path) -> None:
        folder.mkdir()
        write_comparisons(folder / _CHOICES, rated_comparisons(written_pairs(supervised()[0], lines().compared)))

    return storage.keep(
        comparisons_folder(), write, lambda folder: read_comparisons(folder / _CHOICES), room=10_000_000
    )


def fresh_comparisons() -> list[Comparison]:
    """Return such choices on some 500 further lines of the plays on which nothing was trained, to judge a reward model by."""
    return rated_comparisons(written_pairs(supervised()[0], lines().judged))


def choice_probabilities(choices: Sequence[Comparison], *, hasty: bool = False) -> Tensor:
    """Return the probability (comparison,) of the second reply to be chosen, by the reward model or the `hasty` one."""
    of_first, of_second = (rewards(reward_model(hasty=hasty), texts) for texts in _sides(choices))
    return (of_second - of_first).sigmoid()


def comparisons_folder() -> Path:
    """Return where the comparisons are kept."""
    return run_folder("comparisons")


def compared(choices: Sequence[Comparison], vocab_size: int) -> AnswerPairs:
    """Return `choices` as rows for a reward model, the line and each of the two replies; what was skipped is left out."""
    choices = [one for one in choices if one.choice is not None]
    return AnswerPairs(*_sides(choices), [one.choice for one in choices], ROW, vocab_size)


def reward_trainer(*, hasty: bool = False) -> Trainer:
    """Return the Trainer of the reward model, which begins as the supervised one; of a `hasty` one, from 400 choices."""
    model, _ = supervised()
    choices, config = (comparisons()[:N_HASTY], HASTY) if hasty else (comparisons(), _REWARD)
    rows = compared(choices, model.config.vocab_size)
    seed_everything(0)
    folder = run_folder("hasty-reward", asdict(HASTY)) if hasty else run_folder("reward")
    return Trainer(RewardModel(model.requires_grad_()), rows, None, config, mended(folder), loss=preference_loss)


@cache
def reward_model(*, hasty: bool = False) -> RewardModel:
    """Return the reward model, trained first if need be; or the `hasty` one."""
    return _done(reward_trainer(hasty=hasty)).eval().requires_grad_(False)


def policy_trainer(
    method: str,
    seed: int = 0,
    policy: PolicyConfig = POLICY,
    training: PretrainingConfig = TRAINING,
    *,
    reward: Reward | None = None,
    kept: bool = False,
) -> GRPOTrainer | PPOTrainer:
    """Return the Trainer of `method`, "grpo" or "ppo", from the supervised model against the learned reward, or another one.

    Its reports have the human reward beside the learned one. `kept`: it has a folder in the cache, and goes on there.
    """
    if method not in ("grpo", "ppo"):
        raise ValueError(f"method must be grpo or ppo, not {method!r}")
    if kept and reward is not None:
        raise ValueError(
            "a policy against another reward has no folder of its own to be kept in: leave kept or reward out"
        )
    model, tokenizer = supervised()
    rows = Prompts(
        [ask(line) for line in lines().asked[: 4 * training.n_steps * training.batch_size]],
        _PROMPT,
        model.config.vocab_size,
    )
    seed_everything(seed)
    training = replace(training, seed=seed)
    folder = mended(run_folder("policy", [method, asdict(policy), asdict(training)])) if kept else None
    kinds = {"grpo": (GRPOTrainer, lambda model: model), "ppo": (PPOTrainer, PolicyAndCritic)}
    kind, prepare = kinds[method]
    return kind(
        prepare(model.requires_grad_()), rows, reward or learned_reward, policy, training, folder,
        stop_ids=tokenizer.end_ids, true_reward=human_reward,
    )  # fmt: skip


def preference_trainer(seed: int = 0, beta: float = 0.1, training: PretrainingConfig = DPO) -> Trainer:
    """Return the Trainer of DPO: from the supervised model, on the choices of people themselves."""
    model, _ = supervised()
    rows = _preference_rows(4 * training.n_steps * training.batch_size)
    seed_everything(seed)
    return Trainer(
        model.requires_grad_(), rows, None, replace(training, seed=seed), loss=partial(preference_pair_loss, beta=beta)
    )


@cache
def _preference_rows(most: int) -> PreferencePairs:
    said = comparisons()[:most]
    asked = [ask(one.prompt) for one in said]
    chosen, rejected = (
        [_reply_ids(reply) for reply in kind]
        for kind in zip(*((one.chosen, one.rejected) for one in said), strict=True)
    )
    return PreferencePairs(asked, chosen, rejected, ROW, supervised()[0])


# ---------------------------------------------------------------- what replies are worth


def learned_reward(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, hasty: bool = False
) -> Tensor:
    """Return what the reward model, or the `hasty` one, says of each answer (row,); one that does not end gets 1 less."""
    end_ids = _letters().end_ids
    unended = torch.tensor([answer[-1] not in end_ids for answer in answers])
    return (
        rewards(
            reward_model(hasty=hasty), [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
        )
        + _UNENDED * unended
    )


def human_reward(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
    """Return the mean of what ten raters think of the words of each answer (row,), from −4 to 4."""
    return torch.tensor([rate(read_reply(answer)).mean() for answer in answers])


# ---------------------------------------------------------------- helpers


def _reply_ids(reply: str) -> list[int]:
    return _letters().encode(f"{reply}<|im_end|>")


def _text(line: str, reply: str) -> list[int]:
    return [*ask(line), *_reply_ids(reply)]


def _sides(choices: Sequence[Comparison]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the texts of all first replies, and those of all second ones."""
    return [_text(one.prompt, one.first) for one in choices], [_text(one.prompt, one.second) for one in choices]


def _done(run: Trainer) -> TransformerLM:
    for _ in run:
        pass
    return run.model
