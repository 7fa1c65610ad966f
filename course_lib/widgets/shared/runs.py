"""What the widgets share that run a trainer: buttons that pause and stop it, and what the browser is told meanwhile.

Training keeps the kernel busy, so a message from the browser would wait until it is over. A kernel with subshells (JEP 91)
takes it in another thread; there it does no more than leave an order, which the loop looks at after every step.
"""

import time
from array import array
from base64 import b64encode
from math import isfinite, nan
from textwrap import shorten
from typing import ClassVar

import numpy as np
from anywidget import AnyWidget
from IPython.display import display
from traitlets import Bytes, Dict, List, Unicode

from course_lib.pretraining import Trainer
from course_lib.widgets.shared.curves import divergence
from course_lib.widgets.shared.live import listen_while_busy

__all__ = ["RunDashboard", "finite"]

INTERVAL = 0.2  # seconds between two updates, at least
SHARE = 0.01  # of the training time that updates may take
ORDERS = ("run", "pause", "stop")


class RunDashboard(AnyWidget):
    """Run a trainer, show how it goes, and take orders between its steps.

    A subclass names in `_reported` what it takes of each step's report, and makes of it `_blocks`, what is drawn, and
    `_picture`, the PNG that stays in a saved notebook. What the model writes, if anything, is `_write_sample`'s.
    """

    _reported: ClassVar[tuple[str, ...]]

    state = Unicode("ready").tag(sync=True)  # "running", "paused", "stopped", "done"
    progress = Dict().tag(sync=True)
    curves = Bytes().tag(sync=True)  # float32 (row, block)
    samples = List().tag(sync=True)

    def __init__(self, trainer: Trainer, **traits):
        self._trainer = trainer
        self._columns = {name: array("d") for name in self._reported}
        self._order, self._is_seen, self._failure = "run", False, ""
        self._told = self._telling = 0.0
        super().__init__(progress=self._progress(), **traits)
        self.on_msg(self._hear)

    def run(self) -> None:
        """Train until the last step, or until Stop is pressed. What a step raises is shown, and raised when all is shown."""
        self._order, self._failure = "run", ""
        self._began, self._began_at = time.perf_counter(), self._step
        if self._step >= self._n_steps:
            self._write_sample()  # of a run that is over, all is shown at once
        place = display(self, display_id=True)
        try:
            self._obey()
            self._write_sample()
            self._tell("running")
            for _ in self._trainer:
                self._take_turn()
                if self._order == "stop":
                    break
            self._write_sample()
        except Exception as error:
            said = shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")
            self._failure = (
                f"Step {self._step + 1:,} was not made. {said.rstrip('.')}. Run the cell again to go on from here."
            )
            raise
        finally:
            self._obey()
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
        return divergence([report.loss for report in self._trainer.history]) or self._failure

    def __repr__(self) -> str:
        shown = f"{type(self).__name__}: {self._n_steps:,} steps"
        return shown + (f". {self._trouble}" if self._trouble else "")

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        if self._step == 0:
            return data, metadata
        self._take_history()
        return data | {"image/png": b64encode(self._picture()).decode("ascii")}, metadata

    # ---------------------------------------------------------------- after every step

    def _take_turn(self) -> None:
        """Show what is new, if it is time for that, and do what was ordered."""
        self._obey()
        now = time.perf_counter()
        if self._sample_is_due(now - self._began):
            self._write_sample()
        if now - self._told >= max(INTERVAL, self._telling / SHARE):
            self._tell("running")
        if self._order != "pause":
            return
        paused = time.perf_counter()
        self._write_sample()
        self._tell("paused")
        while self._order == "pause":
            time.sleep(INTERVAL / 2)
            if self._obey():
                self._tell("paused")
        self._began += time.perf_counter() - paused
        self._tell("running")

    def _tell(self, state: str) -> None:
        start = time.perf_counter()
        self._take_history()
        with self.hold_sync():
            self.state = state
            self.progress = self._progress()
            self.curves = self._blocks().tobytes()
        listen_while_busy(self)
        self._told = time.perf_counter()
        self._telling = self._told - start

    def _hear(self, _widget, message: dict, _buffers) -> None:
        """Take an order. This runs in another thread than training."""
        self._is_seen = True
        if message.get("order") in ORDERS:
            self._order = message["order"]

    def _obey(self) -> bool:
        """Change what was ordered to be changed before the next step; return whether there was anything."""
        return False

    # ---------------------------------------------------------------- what is shown

    def _take_history(self) -> None:
        first, *_ = self._columns.values()
        start = max(0, len(first) - 1)  # an interrupted evaluation of that step may have been made since
        for name, column in self._columns.items():
            del column[start:]
            values = (getattr(report, name) for report in self._trainer.history[start:])
            column.extend(nan if value is None else value for value in values)

    def _progress(self) -> dict[str, object]:
        """Return how far it is, and the seconds that are `left`; None for what is not known."""
        made = self._step - getattr(self, "_began_at", self._step)
        left = (time.perf_counter() - self._began) / made * (self._n_steps - self._step) if made else nan
        return {"step": self._step, "n_steps": self._n_steps, "trouble": self._trouble} | finite(left=left)

    def _blocks(self) -> np.ndarray:
        """Return what is drawn of the steps so far, float32 (row, block)."""
        raise NotImplementedError

    def _picture(self) -> bytes:
        raise NotImplementedError

    def _sample_is_due(self, trained: float) -> bool:
        """Return whether the model shall write after this step, `trained` seconds after the run began."""
        raise NotImplementedError

    def _write_sample(self) -> None:
        """Let the model write, unless it has done so at this very step."""
        raise NotImplementedError


def finite(**numbers: float) -> dict[str, float | None]:
    """Return `numbers` as JSON can hold them: None for what is no number."""
    return {name: number if isfinite(number) else None for name, number in numbers.items()}
