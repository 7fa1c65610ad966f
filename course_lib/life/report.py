"""The report card of a model's life: what each stage cost, and what came of it, in Markdown with figures.

All numbers come from what the stages left in the cache, their logs and weights, so the same runs have the same report. Scores
are on plays on which nothing was trained, each with its 95 % interval over lines (`finetuning.intervals`).
"""

import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from course_lib import storage
from course_lib.alignment import PolicyReport, calibration
from course_lib.corpora import shakespeare
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.life import kind_replies
from course_lib.life.policy_paths import Replies, reply
from course_lib.life.stages import STAGES, live
from course_lib.plots import show_curves
from course_lib.pretraining import Trainer, bits_per_byte, evaluate, shakespeare_model
from course_lib.pretraining.trainer import StepReport
from course_lib.storage import seconds_to_make

__all__ = ["check_writable", "report_card", "write_report"]

_REPORT, _SCORES = "report.md", "scores.json"
_N_SAMPLES, _N_BINS = 6, 5
_FIGURES = {
    "pretraining.png": "The loss of pretraining over its steps",
    "calibration.png": "How often the second of two replies was chosen, over the probability that the reward model gives it",
    "reward.png": "The learned and the human reward over the steps of reinforcement",
    "kl.png": "The KL to the supervised model over the steps of reinforcement",
}


def report_card() -> str:
    """Return the report card as Markdown, without figures. What no call has made yet is made first, in some minutes."""
    return _text(_measure(), figures=False)


def write_report(folder: Path) -> Path:
    """Write the report card and its figures into `folder`, and return the path of `report.md`.

    If that is there, it is whole, and so are the figures that it shows. Raises OSError if `folder` cannot be written to.
    """
    check_writable(folder)
    card = _measure()
    with tempfile.TemporaryDirectory(prefix=".report-", dir=folder) as stage:
        stage = Path(stage)
        _draw(card, stage)
        (stage / _REPORT).write_text(_text(card, figures=True), encoding="utf-8")
        (folder / _REPORT).unlink(missing_ok=True)  # it would show the new figures
        for name in (*_FIGURES, _REPORT):
            os.replace(stage / name, folder / name)
    return folder / _REPORT


def check_writable(folder: Path) -> None:
    """Make `folder` if need be. Raises OSError that says how to mend it, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"the report cannot be written into {folder} ({error.strerror}); give another folder") from None


# ---------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class _Cost:
    """What a stage took."""

    name: str
    size: str  # of what it made, in the unit that fits
    steps: int | None  # None: it is made in one go
    seconds: float | None  # None: not noted
    n_bytes: int  # on disk


@dataclass(frozen=True)
class _Scores:
    bits: dict[str, float]  # stage -> bits a byte of the model that it made
    probabilities: Tensor  # that the second of two replies is chosen (comparison,)
    choices: Tensor  # whether it was (comparison,)
    before: Replies
    after: Replies


@dataclass(frozen=True)
class _Card:
    costs: list[_Cost]
    pretraining: list[StepReport]
    policy: list[PolicyReport]
    scores: _Scores


def _measure() -> _Card:
    made = dict(zip((stage.name for stage in STAGES), live(STAGES, io.StringIO()), strict=True))
    runs = [one for one in made.values() if isinstance(one, Trainer)]
    # Kept under the runs' own logs: other runs, or the same ones made anew, have other scores.
    folder = storage.run_dir("life-scores", [[vars(report) for report in run.history] for run in runs])
    scores = storage.keep(folder, partial(_write_scores, made), _read_scores, room=1_000_000)
    costs = [_cost(name, one) for name, one in made.items()]
    return _Card(costs, made["pretraining"].history, made["reinforcement"].history, scores)


def _write_scores(made: Mapping[str, Trainer | Path], folder: Path) -> None:
    """Score the models of a life, in a minute or so, and write it down."""
    text, supervised, policy = made["pretraining"].validation, made["supervised"].model, made["reinforcement"].writer
    losses = {"pretraining": made["pretraining"].history[-1].validation_loss}
    for name, model in (("supervised", supervised), ("reinforcement", policy)):
        losses[name] = evaluate(model, text, model.config.context_length)
    fresh = kind_replies.fresh_comparisons()
    scores = {
        "bits": {name: bits_per_byte(loss, text) for name, loss in losses.items()},
        "probabilities": kind_replies.choice_probabilities(fresh).tolist(),
        "choices": [one.choice for one in fresh],
        "before": _as_lists(reply(supervised)),
        "after": _as_lists(reply(policy)),
    }
    folder.mkdir()
    (folder / _SCORES).write_text(json.dumps(scores), encoding="utf-8")


def _read_scores(folder: Path) -> _Scores:
    scores = json.loads((folder / _SCORES).read_text(encoding="utf-8"))
    lists = (torch.tensor(scores[name]) for name in ("probabilities", "choices"))
    return _Scores(scores["bits"], *lists, *(_as_replies(*scores[when]) for when in ("before", "after")))


def _as_lists(replies: Replies) -> list[list]:
    return [replies.answers, *(values.tolist() for values in replies[1:])]


def _as_replies(answers: list[list[int]], *values: list[float]) -> Replies:
    return Replies(answers, *(torch.tensor(one, dtype=torch.float64) for one in values))


def _cost(name: str, made: Trainer | Path) -> _Cost:
    if isinstance(made, Trainer):
        last, n_weights = made.history[-1], sum(weight.numel() for weight in made.model.parameters())
        return _Cost(name, f"{n_weights:,} parameters", last.step, last.seconds, _n_bytes(made.folder))
    if name == "tokenizer":
        size = f"{shakespeare_model.MODEL.vocab_size:,} tokens"
    else:
        size = f"{len(kind_replies.comparisons()):,} choices"
    return _Cost(name, size, None, seconds_to_make(made), _n_bytes(made))


def _n_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- what is written


def _text(card: _Card, *, figures: bool) -> str:
    names = iter(_FIGURES if figures else ())

    def figure() -> str:
        name = next(names, None)
        return "" if name is None else f"\n![{_FIGURES[name]}]({name})\n"

    scores, before, after = card.scores, card.scores.before, card.scores.after
    right = (scores.probabilities > 0.5) == scores.choices.bool()
    gap = calibration(scores.probabilities, scores.choices, _N_BINS).error
    return f"""# The life of a model

## What it cost

{_costs(card.costs)}

The seconds are those that each stage's own log counts, of trained stages those of the steps. "–": it was not noted.
{figure()}
## How well it predicts plays

{_table(("after", "bits a byte"), ((name, f"{bits:.3f}") for name, bits in scores.bits.items()))}

Fewer are better. The text is that of {len(shakespeare.HELD_OUT)} plays that were held out, as it stands: it is no chat.

## The reward model

Of {len(right)} fresh choices it expects {_share(right)}. Its probabilities are {100 * gap:.1f} points away from what
happened, in the mean over {_N_BINS} bins.
{figure()}
## What reinforcement changed

On {len(before.answers)} lines of these plays, a reply to each:

{_changes(before, after)}

Intervals hold 95 % of the means that other lines would have given; what another seed would have given, they do not say. The
policy was trained on the learned reward; the human one is the mean of ten people's ratings of the words, from −4 to 4, and it
never saw that. A win is a line on which people like its reply better than another of the supervised model's; where they like
both alike, it is half a win.
{figure()}{figure()}
## Samples

{_samples(before, after)}
"""


def _costs(costs: Sequence[_Cost]) -> str:
    rows = [
        (
            one.name,
            one.size,
            "–" if one.steps is None else f"{one.steps:,}",
            "–" if one.seconds is None else f"{one.seconds:,.0f}",
            f"{one.n_bytes:,}",
        )
        for one in costs
    ]
    seconds, n_bytes = sum(one.seconds or 0 for one in costs), sum(one.n_bytes for one in costs)
    rows.append(("together", "", "", f"{seconds:,.0f}", f"{n_bytes:,}"))
    return _table(("stage", "made", "steps", "seconds", "bytes on disk"), rows)


def _changes(before: Replies, after: Replies) -> str:
    names = {"reward": "learned reward", "human": "human rating", "wins": "wins", "kl": "KL, nats", "length": "tokens"}
    rows = []
    for field, name in names.items():
        old, new = getattr(before, field), getattr(after, field)
        rows.append((name, *map(_with_interval, (old, new, new - old))))
    return _table(("mean of", "before", "after", "difference, line by line"), rows)


def _samples(before: Replies, after: Replies) -> str:
    rows = [
        (line, *(f"{_quoted(one.answers[i])} ({_number(one.human[i])})" for one in (before, after)))
        for i, line in enumerate(kind_replies.lines().test[:_N_SAMPLES])
    ]
    return _table(("line", "reply before (human rating)", "after"), rows)


def _quoted(answer: list[int]) -> str:
    """Return a reply as Markdown shows it sign by sign."""
    words = kind_replies.read_reply(answer).replace("`", "'").split()
    return f"`{' '.join(words)}`" if words else "(nothing)"


def _with_interval(values: Tensor) -> str:
    low, high = bootstrap_interval(values)
    return f"{_number(values.mean())} [{_number(low)}, {_number(high)}]"


def _number(value: Tensor | float) -> str:
    return f"{value:z.2f}".replace("-", "−")


def _share_interval(share: float, n: int) -> tuple[float, float]:
    n_yes = round(share * n)
    return bootstrap_interval([1.0] * n_yes + [0.0] * (n - n_yes)) if n > 1 else (0.0, 1.0)


def _share(right: Tensor) -> str:
    low, high = bootstrap_interval(right)
    return f"{right.double().mean().item():.0%} [{low:.0%}, {high:.0%}]"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _draw(card: _Card, folder: Path) -> None:
    files = [folder / name for name in _FIGURES]
    steps = [report.step for report in card.pretraining]
    losses = {"batches": [report.loss for report in card.pretraining]}
    show_curves(steps, losses, xlabel="step", ylabel="loss, nats a token", file=files[0])
    found = calibration(card.scores.probabilities, card.scores.choices, _N_BINS)
    expected = found.predicted.tolist()
    show_curves(
        expected,
        {"chosen": found.observed.tolist(), "as expected": expected},
        xlabel="probability of the second reply",
        ylabel="share chosen",
        intervals={"chosen": list(map(_share_interval, found.observed.tolist(), found.counts.tolist()))},
        file=files[1],
    )
    steps = [report.step for report in card.policy]
    rewards = {"learned": [r.reward for r in card.policy], "human": [r.true_reward for r in card.policy]}
    lowest = min(0.0, *rewards["learned"], *rewards["human"])
    show_curves(steps, rewards, xlabel="step", ylabel="mean reward", lowest=lowest, file=files[2])
    kl = [report.kl for report in card.policy]
    curves = {"KL to the supervised model": kl}
    show_curves(steps, curves, xlabel="step", ylabel="nats a reply", lowest=min(0.0, *kl), file=files[3])
