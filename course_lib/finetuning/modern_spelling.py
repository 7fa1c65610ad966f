"""SmolLM2 is taught the spelling of today, by prompts, by LoRA and with all its matrices: lesson 05's runs on the real model.

Each takes a minute at most, and is kept in the cache, so that the lesson shows it at once the next time.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from course_lib import assets, checkpoints
from course_lib.architecture import TransformerLM
from course_lib.corpora.capitals import CAPITALS, capital_chat
from course_lib.corpora.spelling import Pair, pairs
from course_lib.devices import pick_device, seed_everything
from course_lib.finetuning.chats import Example, tokenize_chat
from course_lib.finetuning.lora import TARGETS, LoraConfig, add_lora, save_adapter
from course_lib.finetuning.supervised import PackedExamples, Scores, answer_loss, score_answers
from course_lib.pretraining import PretrainingConfig, Trainer
from course_lib.tokenization import Tokenizer

__all__ = [
    "LORA",
    "TRAINING",
    "WORDINGS",
    "Report",
    "adapter_folder",
    "ask",
    "examples",
    "prompt_scores",
    "taught_scores",
    "teach",
]

WORDINGS = (
    "Write the line in modern spelling.",
    "You modernise the spelling of Shakespeare's lines. Change no word.",
    "Translate into modern English.",
)
"""System prompts that ask for the same thing. The first is the one that is trained with."""

LORA = LoraConfig(rank=4, alpha=8.0, targets=TARGETS)
_N_PAIRS, _N_TEST, _LENGTH = 320, 200, 256
_LORA_TRAINING = PretrainingConfig(
    n_steps=36, batch_size=1, context_length=_LENGTH, learning_rate=2e-3, muon_learning_rate=None, weight_decay=0.0, warmup=3
)  # fmt: skip
TRAINING = {"lora": _LORA_TRAINING, "full": replace(_LORA_TRAINING, learning_rate=3e-4)}
"""How each way of training goes. In "full" all matrices and norms are trained, and the embedding, which is shared, is not."""
_LOOKS = (0, 9, 18, 27, 36)  # the steps after which the capitals are asked for
_RUN, _ROOM = "run.json", 10_000_000  # bytes on disk


@dataclass(frozen=True)
class Report:
    """A step of training: its loss, and after some of them how the model still knows capitals; `seconds` of training so far."""

    step: int
    loss: float | None  # nats a token, None before the first step
    seconds: float
    capitals: float | None  # the share of answers that it would write to the last sign
    capital_nats: float | None  # nats a token of these answers


def ask(tokenizer: Tokenizer, pair: Pair, shots: Sequence[Pair] = (), wording: str = WORDINGS[0]) -> Example:
    """Return the chat that asks for `pair`, after `shots`, which are shown answered; only its own answer counts."""
    messages = [{"role": "system", "content": wording}]
    for old, modern in (*shots, pair):
        messages += [{"role": "user", "content": old}, {"role": "assistant", "content": modern}]
    whole = tokenize_chat(tokenizer, messages)
    n_others = len(tokenize_chat(tokenizer, messages[:-2]).ids) if shots else 0
    counts = (trained and place >= n_others for place, trained in enumerate(whole.trained))
    return replace(whole, trained=tuple(counts))


@cache
def examples(seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Return the 320 pairs to learn from, drawn by `seed`, and the 200 to be tested on, of three plays that are held out."""
    train, held_out = pairs()
    return random.Random(seed).sample(train, _N_PAIRS), random.Random(0).sample(held_out, _N_TEST)


def prompt_scores(n_shots: int, wording: str = WORDINGS[0]) -> Scores:
    """Return how SmolLM2, as it is, writes the test's lines after being shown `n_shots` pairs."""
    folder = _folder(f"{n_shots}-shot", wording)

    def make(stage: Path) -> Path:
        return _write(stage / "run", _scores(*_smollm2(), examples()[0][:n_shots], wording))

    assets.ensure(folder, _fault, make, room=_ROOM)
    return _read(folder)[0]


def teach(how: str, seed: int = 0) -> Iterator[Report]:
    """Yield a report of each step while SmolLM2 is taught by "lora" or in "full"; of one that is kept, those of its time."""
    folder = _trained(how, seed)
    if _fault(folder):
        yield from _train(how, seed, folder)
        return
    yield from _read(folder)[1]


def taught_scores(how: str, seed: int = 0) -> Scores:
    """Return how SmolLM2 writes the test's lines after it was taught by "lora" or in "full", which is done if need be."""
    for _ in teach(how, seed):
        pass
    return _read(_trained(how, seed))[0]


def adapter_folder() -> Path:
    """Return where the adapter lies that "lora" makes, as `peft` would store it; it is made if need be."""
    taught_scores("lora")
    return _trained("lora", 0) / "adapter"


def _train(how: str, seed: int, folder: Path) -> Iterator[Report]:
    model, tokenizer = _smollm2()
    seed_everything(seed)
    if how == "lora":
        add_lora(model, LORA)
    else:
        model.requires_grad_(True).embedding.requires_grad_(False)
    rows = _rows([ask(tokenizer, pair) for pair in examples(seed)[0]], _LENGTH)
    capitals = _rows([tokenize_chat(tokenizer, capital_chat(country)) for country in CAPITALS], _LENGTH)
    log = [_look(model, capitals, 0, None, 0.0)]
    yield log[0]
    for step in Trainer(model, rows, None, replace(TRAINING[how], seed=seed), loss=answer_loss):
        now = step.step, step.loss, step.seconds
        log.append(_look(model, capitals, *now) if step.step in _LOOKS else Report(*now, None, None))
        yield log[-1]

    def make(stage: Path) -> Path:
        if how == "lora":
            save_adapter(model, stage / "run" / "adapter")
        return _write(stage / "run", _scores(model, tokenizer), log)

    assets.ensure(folder, _fault, make, room=_ROOM)


def _look(model: TransformerLM, capitals: PackedExamples, step: int, loss: float | None, seconds: float) -> Report:
    scores = score_answers(model, capitals)
    nats = scores.nats.sum() / scores.n_tokens.sum()
    return Report(step, loss, seconds, scores.exact.double().mean().item(), nats.item())


def _smollm2() -> tuple[TransformerLM, Tokenizer]:
    return checkpoints.load("smollm2-135m-instruct", pick_device(), torch.float32)


def _rows(of: list[Example], length: int) -> PackedExamples:
    return PackedExamples(of, length, 49_152, shares_prompt=True)


def _scores(
    model: TransformerLM, tokenizer: Tokenizer, shots: Sequence[Pair] = (), wording: str = WORDINGS[0]
) -> Scores:
    test = [ask(tokenizer, pair, shots, wording) for pair in examples()[1]]
    return score_answers(model, _rows(test, 2 * _LENGTH * (1 + bool(shots))))


def _trained(how: str, seed: int) -> Path:
    return _folder(how, [seed, asdict(TRAINING[how]), asdict(LORA) if how == "lora" else None])


def _folder(name: str, recipe: object) -> Path:
    """Return a folder whose name changes with the recipe, so that no other recipe's run is taken for this one's."""
    whole = json.dumps([recipe, WORDINGS, _N_PAIRS, _N_TEST, _LOOKS, CAPITALS], sort_keys=True)
    return assets.own_dir() / f"spelling-{name}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _write(folder: Path, scores: Scores, log: Sequence[Report] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    kept = {
        "scores": {name: values.tolist() for name, values in scores._asdict().items()},
        "log": [asdict(report) for report in log],
    }
    (folder / _RUN).write_text(json.dumps(kept), encoding="utf-8")
    return folder


def _read(folder: Path) -> tuple[Scores, list[Report]]:
    kept = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    scores = Scores(**{name: torch.tensor(values) for name, values in kept["scores"].items()})
    return scores, [Report(**report) for report in kept["log"]]


def _fault(folder: Path) -> str | None:
    """Return what is wrong with what is kept in `folder`, or None."""
    try:
        scores, _ = _read(folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"it cannot be read: {error}"
    return None if {len(values) for values in scores} == {_N_TEST} else "it has not a score for each line"
