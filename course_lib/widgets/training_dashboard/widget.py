"""TrainingDashboard: a training run as it happens, with buttons that pause and stop it."""

import time
from collections.abc import Sequence
from math import nan

import numpy as np

from course_lib.pretraining import Trainer
from course_lib.tokenization import Tokenizer
from course_lib.widgets.shared.base import module, style_sheet
from course_lib.widgets.shared.curves import CURVES, curve_blocks, write
from course_lib.widgets.shared.runs import RunDashboard, finite
from course_lib.widgets.training_dashboard.picture import training_picture

__all__ = ["TrainingDashboard"]

SHARE = 0.01  # of the training time that samples may take
RECENT = 20  # steps that throughput and loss are averaged over
MOST_SAMPLES = 20


class TrainingDashboard(RunDashboard):
    """Run `trainer` and show how it goes: loss, learning rate, throughput, time left, and what the model writes.

    With a `tokenizer`, the model continues `prompt` now and then, always from the same seed. `run` returns when the last
    step is made or somebody presses Stop; run again goes on. Without a browser it trains to the end.

        dashboard = TrainingDashboard(Trainer(model, train, validation, config), tokenizer, "The king")
        dashboard.run()

    Pause and Stop need a front end that talks to the kernel over subshells, as JupyterLab and Notebook 7 do. In any other,
    interrupt the kernel: that ends the cell with KeyboardInterrupt and leaves the trainer between two steps.
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)
    _reported = ("loss", "validation_loss", "learning_rate")

    def __init__(self, trainer: Trainer, tokenizer: Tokenizer | None = None, prompt: str = "The king"):
        self._tokenizer, self._prompt, self._sampling = tokenizer, prompt, 0.0
        super().__init__(trainer)

    def _blocks(self) -> np.ndarray:
        return curve_blocks(self._columns)

    def _picture(self) -> bytes:
        sample = None
        if self.samples:
            sample = self.samples[-1] | {"text": self._prompt + self.samples[-1]["text"]}
        return training_picture(dict(zip(CURVES, self._blocks(), strict=True)), self._n_steps, sample, self._trouble)

    def _progress(self) -> dict[str, object]:
        reports = self._trainer.history[-RECENT:]
        shown = super()._progress() | {"prompt": self._prompt if self._tokenizer else None}
        if not reports:
            return shown
        evaluated = [report.validation_loss for report in self._trainer.history if report.validation_loss is not None]
        return shown | finite(
            tokens=reports[-1].tokens,
            loss=_mean([report.loss for report in reports]),
            validation_loss=evaluated[-1] if evaluated else nan,
            tokens_per_second=len(reports) / sum(1 / report.tokens_per_second for report in reports),
            mfu=_mean([report.mfu for report in reports if report.mfu is not None]),
        )

    def _sample_is_due(self, trained: float) -> bool:
        return self._sampling <= SHARE * trained

    def _write_sample(self) -> None:
        if self._tokenizer is None or (self.samples and self.samples[-1]["step"] == self._step):
            return
        start = time.perf_counter()
        text = write(self._trainer.model, self._tokenizer, self._prompt)
        self.samples = [*self.samples[1 - MOST_SAMPLES :], {"step": self._step, "text": text}]
        self._sampling += time.perf_counter() - start


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else nan
