"""The stages of a model's life, in order. Each is kept in the cache: interrupted it goes on, and finished it is done."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from course_lib.life import kind_replies
from course_lib.pretraining import Trainer, shakespeare_model
from course_lib.pretraining.trainer import StepReport
from course_lib.storage import seconds_to_make

__all__ = ["STAGES", "Stage", "live"]


@dataclass(frozen=True)
class Stage:
    """A part of a model's life. `start` makes it, or returns the Trainer that does when iterated."""

    name: str
    start: Callable[[], Trainer | Path]


def _preferences() -> Path:
    kind_replies.comparisons()
    return kind_replies.comparisons_folder()


STAGES = (
    Stage("tokenizer", shakespeare_model.tokenizer_folder),
    Stage("pretraining", lambda: shakespeare_model.trainer()[0]),
    Stage("supervised", lambda: kind_replies.supervised_trainer()[0]),
    Stage("preferences", _preferences),
    Stage("reward model", kind_replies.reward_trainer),
    Stage("reinforcement", lambda: kind_replies.policy_trainer("grpo", kept=True)),
)
"""From the first to the last; each needs those before it."""


def live(stages: Iterable[Stage], screen: TextIO) -> list[Trainer | Path]:
    """Go through `stages`, and return what each was made by: a Trainer at its last step, or its folder.

    Each has a line on `screen`. On a terminal the line follows the steps; elsewhere it is written when the stage is done.
    """
    return [_live(stage, screen) for stage in stages]


def _live(stage: Stage, screen: TextIO) -> Trainer | Path:
    _show(screen, stage.name, "…")
    made = stage.start()
    if isinstance(made, Path):
        _show(screen, stage.name, f"{_seconds(seconds_to_make(made))}   {made}", ends=True)
        return made
    for report in made:
        _show(screen, stage.name, _told(report))
    _show(screen, stage.name, _told(made.history[-1]), ends=True)
    return made


def _told(report: StepReport) -> str:
    reward = getattr(report, "reward", None)
    value = f"loss {report.loss:7.3f}" if reward is None else f"reward {reward:5.2f}"
    return f"{_seconds(report.seconds)}   step {report.step:5,} of {report.n_steps:5,}   {value}"


def _seconds(seconds: float | None) -> str:
    return f"{'–':>8}" if seconds is None else f"{seconds:6,.0f} s"


def _show(screen: TextIO, name: str, text: str, *, ends: bool = False) -> None:
    if screen.isatty():
        screen.write(f"\r\x1b[K{name:15}{text}" + "\n" * ends)  # the line anew, in the place of what it was
    elif ends:
        screen.write(f"{name:15}{text}\n")
    screen.flush()
