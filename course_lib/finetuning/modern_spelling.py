"""SmolLM2 is taught the spelling of today, by prompts, by LoRA and with all its matrices: lesson 05's runs on the real model.

Each takes a minute at most, and is kept in the cache, so that the lesson shows it at once the next time.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from course_lib import assets, checkpoints, storage
from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.corpora.shakespeare import HELD_OUT
from course_lib.devices import pick_device, seed_everything
from course_lib.finetuning.chats import Example, tokenize_chat
from course_lib.finetuning.lora import TARGETS, LoraConfig, add_lora, save_adapter
from course_lib.finetuning.supervised import PackedExamples, Scores, answer_loss, score_answers
from course_lib.pretraining import PretrainingConfig, Trainer
from course_lib.tasks.capitals import CAPITALS, capital_chat
from course_lib.tasks.spelling import Pair, pairs
from course_lib.tokenization import Tokenizer

__all__ = [
    "INSTRUCTION",
    "LORA",
    "TRAINING",
    "Report",
    "adapter_folder",
    "ask",
    "examples",
    "prompt_scores",
    "taught_scores",
    "teach",
]

INSTRUCTION = "Write the line in modern spelling."
"""The system prompt."""

LORA = LoraConfig(rank=4, alpha=8.0, targets=TARGETS)
_N_PAIRS, _N_TEST, _LENGTH = 320, 200, 256  # the pairs fill 37 or 38 rows: 36 steps of one row read nearly all of them
_LORA_TRAINING = PretrainingConfig(
    n_steps=36, batch_size=1, context_length=_LENGTH, learning_rate=2e-3, muon_learning_rate=None, weight_decay=0.0, warmup=3
)  # fmt: skip
TRAINING = {"lora": _LORA_TRAINING, "full": replace(_LORA_TRAINING, learning_rate=3e-4)}
"""How each way of training goes. In "full" all matrices and norms are trained, and the embedding, which is shared, is not."""
_LOOKS = (0, 6, 36)  # the steps after which the capitals are asked for
_RUN, _ROOM = "run.json", 10_000_000  # bytes on disk


@dataclass(frozen=True)
class Report:
    """A step of training: its loss, and after some of them how the model still knows capitals; `seconds` of training so far."""

    step: int
    loss: float | None  # of its batch, before the step, in nats a token; None at step 0
    seconds: float
    capitals: float | None  # the share of answers that it would write to the last sign
    capital_nats: float | None  # nats a token of these answers


def ask(tokenizer: Tokenizer, pair: Pair, shots: Sequence[Pair] = ()) -> Example:
    """Return the chat that asks for `pair`, after `shots`, which are shown answered; only its own answer counts."""
    messages = [{"role": "system", "content": INSTRUCTION}]
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


def prompt_scores(n_shots: int) -> Scores:
    """Return how SmolLM2, as it is, writes the test's lines after being shown `n_shots` pairs.

    Raises ValueError for so many that the prompt does not fit into 1,024 tokens.
    """
    check("n_shots", n_shots, int, 0)

    def write(folder: Path) -> None:
        _write(folder, _scores(*_smollm2(), examples()[0][:n_shots]))

    return storage.keep(_folder(f"{n_shots}-shot", None), write, _read, room=_ROOM)[0]


def teach(how: str, seed: int = 0) -> Iterator[Report]:
    """Yield a report of each step while SmolLM2 is taught by "lora" or in "full"; of a run that is kept, those of its time.

    It is kept before the last report is given; one that is stopped earlier begins anew. ValueError for any other `how`.
    """
    folder = _trained(how, seed)
    kept = storage.kept(folder, _read)
    yield from _train(how, seed, folder) if kept is None else kept[1]


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
        if step.step < TRAINING[how].n_steps:
            yield log[-1]

    def write(fresh: Path) -> None:
        if how == "lora":
            save_adapter(model, fresh / "adapter")
        _write(fresh, _scores(model, tokenizer), log)

    storage.keep(folder, write, _read, room=_ROOM)
    yield log[-1]


def _look(model: TransformerLM, capitals: PackedExamples, step: int, loss: float | None, seconds: float) -> Report:
    scores = score_answers(model, capitals)
    return Report(step, loss, seconds, scores.exact.double().mean().item(), scores.nats_a_token)


def _smollm2() -> tuple[TransformerLM, Tokenizer]:
    return checkpoints.load("smollm2-135m-instruct", pick_device(), torch.float32)


def _rows(of: list[Example], length: int) -> PackedExamples:
    return PackedExamples(of, length, 49_152, shares_prompt=True)


def _scores(model: TransformerLM, tokenizer: Tokenizer, shots: Sequence[Pair] = ()) -> Scores:
    test = [ask(tokenizer, pair, shots) for pair in examples()[1]]
    return score_answers(model, _rows(test, 2 * _LENGTH * (1 + bool(shots))))


def _trained(how: str, seed: int) -> Path:
    if how not in TRAINING:
        raise ValueError(f"how must be one of {', '.join(TRAINING)}, not {how!r}")
    device = pick_device().type  # which decides the dtype of training, and how numbers are drawn
    return _folder(how, [seed, device, asdict(TRAINING[how]), asdict(LORA)])


def _folder(name: str, recipe: object) -> Path:
    sources = [assets.ASSETS[source].sha256 for source in ("smollm2-135m-instruct", "shakespeare")]
    fixed = [sources, HELD_OUT, INSTRUCTION, _N_PAIRS, _N_TEST, _LOOKS, CAPITALS]
    return storage.run_dir(f"spelling-{name}", [recipe, fixed])


def _write(folder: Path, scores: Scores, log: Sequence[Report] = ()) -> None:
    folder.mkdir(exist_ok=True)
    kept = {
        "scores": {name: values.tolist() for name, values in scores._asdict().items()},
        "log": [asdict(report) for report in log],
    }
    (folder / _RUN).write_text(json.dumps(kept), encoding="utf-8")


def _read(folder: Path) -> tuple[Scores, list[Report]]:
    kept = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    scores = Scores(**{name: torch.tensor(values) for name, values in kept["scores"].items()})
    if {len(values) for values in scores} != {_N_TEST}:
        raise ValueError("it has not a score for each line")
    return scores, [Report(**report) for report in kept["log"]]
