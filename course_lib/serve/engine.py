"""One thread that writes the texts of all clients in one batch: whoever comes joins at the next step, whoever goes makes room.

A model is used by one thread alone; the others put jobs into a queue, and get pieces of text by a function that they gave.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from course_lib.architecture import TransformerLM
from course_lib.inference import Batch, Text, Token
from course_lib.inference.generation import tokenless_ids
from course_lib.serve.protocol import ProtocolError
from course_lib.serve.writer import Writer
from course_lib.tokenization import Tokenizer

__all__ = ["Engine", "Job", "Piece"]


@dataclass(frozen=True)
class Piece:
    """What a step brings: a token, the text that can be shown now, and at the end why: "stop", "length" or an error."""

    text: str = ""
    tokens: tuple[Token, ...] = ()
    ended: str | ProtocolError | None = None


@dataclass(eq=False)
class Job:
    """A text that somebody wants: `options` are those of `Batch.add`, and `deliver` takes each piece, on its thread."""

    prompt: Sequence[int]
    options: Mapping[str, Any]
    writer: Writer
    deliver: Callable[[Piece], None]
    cancelled: bool = field(default=False, init=False)


class Engine:
    """Writes jobs with a model, `n_rows` at once and up to `n_columns` tokens each; up to `max_waiting` more wait in line."""

    def __init__(self, model: TransformerLM, tokenizer: Tokenizer, n_rows: int, n_columns: int, max_waiting: int = 256):
        self.tokenizer, self.n_columns, self._max_waiting = tokenizer, n_columns, max_waiting
        self._batch = Batch(model, n_rows, n_columns, banned_ids=tokenless_ids(model, tokenizer))
        self._waiting: deque[Job] = deque()
        self._jobs: dict[Text, Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def n_busy(self) -> int:
        """How many jobs are being written or wait."""
        return len(self._jobs) + len(self._waiting)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Put `jobs` into the queue, all or none. ProtocolError 429 if it is full, 503 if the engine is closed."""
        with self._changed:
            if self._closed:
                raise _stopping()
            if len(self._waiting) + len(jobs) > self._max_waiting:
                raise ProtocolError(
                    f"{len(self._waiting)} texts wait already; try again later", 429, code="rate_limit_exceeded"
                )
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Let go of `jobs`: their places are free at the next step. Those that have ended may be named too."""
        with self._changed:
            for job in jobs:
                job.cancelled = True
            self._waiting = deque(job for job in self._waiting if not job.cancelled)

    def close(self) -> None:
        """End the thread after the step that it is at; every job that is not done gets an error. Closing twice is fine."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._wait():
            try:
                self._let_in()
                self._step()
            except Exception as error:  # one step's failure, of memory or of numbers, is not the end of the server
                self._fail(ProtocolError(f"the model failed: {error}", 500, code="model_failed"))
        self._fail(_stopping())
        with self._changed:
            waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.deliver(Piece(ended=_stopping()))

    def _wait(self) -> bool:
        """Wait until there is something to do, and return whether there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._jobs or self._waiting)
            return not self._closed

    def _let_in(self) -> None:
        """Let go of those who went away, and let in those who wait, as far as there is room."""
        for text in [text for text, job in self._jobs.items() if job.cancelled]:
            self._leave(text)
        while len(self._jobs) < self._batch.n_rows:
            with self._changed:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
            try:
                self._jobs[self._batch.add(job.prompt, **job.options)] = job
            except Exception as error:
                job.deliver(Piece(ended=ProtocolError(f"the text cannot be begun: {error}", 500, code="model_failed")))

    def _step(self) -> None:
        for text, got in self._batch.step().items():
            job = self._jobs[text]
            piece = self._piece(text, job.writer, got)
            if piece.ended is not None:
                self._leave(text)
            job.deliver(piece)

    def _piece(self, text: Text, writer: Writer, got: Token | Exception) -> Piece:
        if isinstance(got, Exception):
            return Piece(ended=ProtocolError(f"the text cannot go on: {got}", 500, code="model_failed"))
        if text.ended == "stop":
            return Piece(writer.end(), ended="stop")
        shown = writer.write(got.id)
        if not writer.stopped and text.ended:
            shown += writer.end()
        return Piece(shown, (got,), "stop" if writer.stopped else text.ended)

    def _leave(self, text: Text) -> None:
        self._batch.remove(text)
        del self._jobs[text]

    def _fail(self, error: ProtocolError) -> None:
        for text, job in list(self._jobs.items()):
            self._leave(text)
            job.deliver(Piece(ended=error))


def _stopping() -> ProtocolError:
    return ProtocolError("the server is stopping", 503, code="server_stopping")
