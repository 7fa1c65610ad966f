"""TrainingDashboard: a training run as it happens, with buttons that pause and stop it.

Training keeps the kernel busy, so a message from the browser would wait until it is over. A kernel with subshells (JEP 91)
takes it in another thread; there it does no more than leave an order, which the loop looks at after every step.
"""

import time
from array import array
from base64 import b64encode
from collections.abc import Sequence
from math import isfinite, nan

from anywidget import AnyWidget
from IPython.display import display
from traitlets import Bytes, Dict, List, Unicode

from course_lib.pretraining import Trainer
from course_lib.tokenization import Tokenizer
from course_lib.widgets.shared.base import module, style_sheet
from course_lib.widgets.shared.curves import CURVES, curve_blocks, divergence, write
from course_lib.widgets.training_dashboard.picture import training_picture

__all__ = ["TrainingDashboard"]

INTERVAL = 0.2  # seconds between two updates, at least
SHARE = 0.01  # of the training time that updates may take, and samples another as much
RECENT = 20  # steps that throughput and loss are averaged over
MOST_SAMPLES = 20
ORDERS = ("run", "pause", "stop")


class TrainingDashboard(AnyWidget):
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

    state = Unicode("ready").tag(sync=True)  # "running", "paused", "stopped", "done"
    progress = Dict().tag(sync=True)
    curves = Bytes().tag(sync=True)  # float32 (len(CURVES), block)
    samples = List().tag(sync=True)

    def __init__(self, trainer: Trainer, tokenizer: Tokenizer | None = None, prompt: str = "The king"):
        self._trainer, self._tokenizer, self._prompt = trainer, tokenizer, prompt
        self._columns = {name: array("d") for name in ("loss", "validation_loss", "learning_rate")}
        self._order, self._is_seen = "run", False
        self._seconds = self._told = self._telling = self._sampling = 0.0
        super().__init__(progress=self._progress())
        self.on_msg(self._hear)

    def run(self) -> None:
        """Train until the last step, or until Stop is pressed."""
        place = display(self, display_id=True)
        self._order = "run"
        self._began, self._began_at = time.perf_counter(), self._step
        try:
            self._write_sample()
            self._tell("running")
            for _ in self._trainer:
                self._take_turn()
                if self._order == "stop":
                    break
            self._write_sample()
        finally:
            self._tell("done" if self._step >= self._n_steps else "stopped")
        if place and not self._is_seen:  # nobody looks on: leave a picture of how it went
            place.update(self)

    @property
    def _step(self) -> int:
        return len(self._trainer.history)

    @property
    def _n_steps(self) -> int:
        return self._trainer.config.n_steps

    @property
    def _trouble(self) -> str:
        return divergence([report.loss for report in self._trainer.history])

    def __repr__(self) -> str:
        return f"TrainingDashboard: {self._n_steps:,} steps" + (f". {self._trouble}" if self._trouble else "")

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        if self._step == 0:
            return data, metadata
        self._take_history()
        blocks = dict(zip(CURVES, curve_blocks(self._columns), strict=True))
        sample = None
        if self.samples:
            sample = self.samples[-1] | {"text": self._prompt + self.samples[-1]["text"]}
        return data | {
            "image/png": b64encode(training_picture(blocks, self._n_steps, sample, self._trouble)).decode("ascii")
        }, metadata

    # ---------------------------------------------------------------- after every step

    def _take_turn(self) -> None:
        """Show what is new, if it is time for that, and do what was ordered."""
        now = time.perf_counter()
        trained = now - self._began
        if self._sampling <= SHARE * trained:
            self._write_sample()
        if now - self._told >= max(INTERVAL, self._telling / SHARE):
            self._tell("running")
        if self._order != "pause":
            return
        self._tell("paused")
        paused = time.perf_counter()
        while self._order == "pause":
            time.sleep(INTERVAL / 2)
        self._began += time.perf_counter() - paused
        self._tell("running")

    def _tell(self, state: str) -> None:
        start = time.perf_counter()
        self._take_history()
        with self.hold_sync():
            self.state = state
            self.progress = self._progress()
            self.curves = curve_blocks(self._columns).tobytes()
        # ipykernel 7.4 hands the browser's messages to the shell that the widget spoke from last: the one that trains. As
        # long as it has not noted any, they go where the browser sent them: to the widgets' own.
        vars(self.comm).pop("_reply_subshell_id", None)
        self._told = time.perf_counter()
        self._telling = self._told - start

    def _hear(self, _widget, message: dict, _buffers) -> None:
        """Take an order. This runs in another thread than training."""
        self._is_seen = True
        if message.get("order") in ORDERS:
            self._order = message["order"]

    # ---------------------------------------------------------------- what is shown

    def _take_history(self) -> None:
        for column in self._columns.values():
            del column[-1:]  # an interrupted evaluation of that step may have been made since
        for report in self._trainer.history[len(self._columns["loss"]) :]:
            for name, column in self._columns.items():
                value = getattr(report, name)
                column.append(nan if value is None else value)

    def _progress(self) -> dict[str, float | None]:
        reports = self._trainer.history[-RECENT:]
        shown = {"step": self._step, "n_steps": self._n_steps, "prompt": self._prompt if self._tokenizer else None}
        shown["trouble"] = self._trouble
        if not reports:
            return shown
        made = self._step - getattr(self, "_began_at", self._step)
        seconds_a_step = (time.perf_counter() - self._began) / made if made else nan
        evaluated = [report.validation_loss for report in self._trainer.history if report.validation_loss is not None]
        mfu = [report.mfu for report in reports if report.mfu is not None]
        numbers = {
            "tokens": reports[-1].tokens,
            "loss": _mean([report.loss for report in reports]),
            "validation_loss": evaluated[-1] if evaluated else nan,
            "tokens_per_second": len(reports) / sum(1 / report.tokens_per_second for report in reports),
            "mfu": _mean(mfu),
            "left": seconds_a_step * (self._n_steps - self._step),
        }
        return shown | {name: number if isfinite(number) else None for name, number in numbers.items()}

    def _write_sample(self) -> None:
        """Let the model continue the prompt, unless it has done so at this very step."""
        if self._tokenizer is None or (self.samples and self.samples[-1]["step"] == self._step):
            return
        start = time.perf_counter()
        text = write(self._trainer.model, self._tokenizer, self._prompt)
        self.samples = [*self.samples[1 - MOST_SAMPLES :], {"step": self._step, "text": text}]
        self._sampling += time.perf_counter() - start


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else nan
