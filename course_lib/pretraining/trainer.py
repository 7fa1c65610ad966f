"""The training loop, for one process or for many: `for report in Trainer(…)` makes one step after the other.

The loop is the one that lesson 04 builds by hand: take a batch, predict every next token, walk down the gradient. What is
added here is what a long run needs. It can be stopped anywhere, killed even, and goes on from its newest checkpoint with
exactly the same numbers; and it gives the same losses in one process as in many:

    python -m course_lib.pretraining --config run.toml
    torchrun --nproc-per-node 4 -m course_lib.pretraining --config run.toml
"""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from course_lib.architecture import TransformerLM, accounting
from course_lib.corpora import Batches
from course_lib.corpora.packing import IGNORED
from course_lib.corpora.shards import Windowed
from course_lib.devices import autocast, matmul_peak, pick_device, pick_dtype
from course_lib.pretraining import optim, processes
from course_lib.pretraining.checkpoints import (
    checkpoint_path,
    list_checkpoints,
    read_lines,
    read_state,
    restore,
    save,
    write_history,
)
from course_lib.pretraining.config import PretrainingConfig
from course_lib.pretraining.evaluation import Loss, check_text, evaluate, next_token_loss

__all__ = ["StepReport", "Trainer", "read_history"]


@dataclass(frozen=True)
class StepReport:
    """What is known after a step."""

    step: int  # steps made so far
    n_steps: int
    loss: float  # of this step's batch before the step, in nats a token
    learning_rate: float  # of AdamW; Muon's follows the same schedule
    tokens: int  # seen so far
    seconds: float  # spent on steps so far: neither evaluation nor checkpoints count
    tokens_per_second: float  # of this step
    mfu: float | None  # model FLOPs utilisation: the share of what all processes' matrix products can; None: unknown
    gradient_norm: float  # before it was clipped
    validation_loss: float | None = None  # in nats a token; None: not evaluated at this step


class Trainer:
    """Trains `model` on `train` as `config` says, and evaluates it on `validation`: texts (`TokenShards`, `TokenArray`), or
    other rows of tokens with a `loss` of their own, such as the examples of fine-tuning.

    `for report in trainer` makes a step, yields its `StepReport`, and makes the next. `break` stops; iterating again goes on.
    With a `folder`, checkpoints and a log (`log.jsonl`, a report a line) are kept there, and a Trainer on a folder that
    holds checkpoints goes on from the newest, whatever the weights of `model` were. An interrupt never leaves half a step:
    what it kept from being evaluated or saved is done first when iterating goes on.

    Only one Trainer at a time writes into a folder: while it iterates or saves, and no longer, it holds a lock that ends with
    its process. Another one gets a RuntimeError then, and also later if it was made before and so does not know what has
    come into the folder since.

    Raises ValueError if the batch cannot be shared out evenly, if a text is too short or has more tokens than the model, or if
    the folder holds another run.
    """

    Report = StepReport
    n_updates = 1  # of the weights, from one batch

    def __init__(
        self,
        model: TransformerLM,
        train: Windowed,
        validation: Windowed | None,
        config: PretrainingConfig,
        folder: str | Path | None = None,
        *,
        loss: Loss = next_token_loss,
    ):
        for text in (train, validation):
            if text is not None:
                check_text(text, model)
        rank, world_size = processes.rank(), processes.world_size()
        if config.batch_size % (world_size * config.accumulation):
            raise ValueError(
                f"{config.batch_size} sequences cannot be shared out evenly over {world_size} processes "
                f"with {config.accumulation} micro-batches each"
            )
        self.model, self.train, self.validation, self.config = model, train, validation, config
        self.folder = None if folder is None else Path(folder)
        self.context_length = config.context_length or model.config.context_length
        if self.context_length > model.config.context_length:
            raise ValueError(
                f"context_length {self.context_length} is more than the {model.config.context_length} that the model reads"
            )
        self.batches = Batches(
            train, self.context_length, config.batch_size, seed=config.seed, rank=rank, world_size=world_size
        )
        self.device = model.device if world_size == 1 else pick_device()
        self.dtype = pick_dtype(self.device) if config.dtype is None else getattr(torch, config.dtype)
        self.replica = processes.spread(model, config.parallel, self.device, self.dtype)  # called in the model's place
        self._begin()
        compiled = config.compile is not None
        self._plain_loss, self.loss = loss, torch.compile(loss, backend=config.compile) if compiled else loss
        self.optimizers = optim.for_model(
            model,
            learning_rate=config.learning_rate,
            muon_learning_rate=config.muon_learning_rate,
            weight_decay=config.weight_decay,
        )
        self.peak = processes.total(torch.tensor(matmul_peak(self.device, self.dtype), device=self.device)).item()
        self._flops = self._count_flops()
        self.history: list[StepReport] = []
        self._n_logged, self._saved = 0, None
        if self.folder is not None:
            self._lock = FileLock(self.folder / ".lock", timeout=0, thread_local=False)
            self._identity = self._describe()
            self._resume()

    @property
    def step(self) -> int:
        """How many steps have been made."""
        return len(self.history)

    def __iter__(self) -> Iterator[StepReport]:
        """Make one step after the other, to the last."""
        if self._is_complete():  # and may lie where nothing can be written
            return
        with self._as_only_writer():
            self._finish_step()  # saves the state before the first one too
            while self.step < self.config.n_steps:
                self._make_step()
                self._finish_step()
                yield self.history[-1]

    def save_now(self) -> Path:
        """Write a checkpoint of the present state, unless there is one already, and return its path."""
        if self.folder is None:
            raise ValueError("this Trainer was given no folder to save in")
        path = checkpoint_path(self.folder, self.step)
        if self._saved == path and path.exists():
            self._check_folder()
            return path
        with self._as_only_writer(), _undivided():
            state = {"identity": self._identity}
            self._saved = save(self.folder, self.step, self.model, self.optimizers, state, map(vars, self.history))
        return path

    # ---------------------------------------------------------------- one step

    def _make_step(self) -> None:
        config, start = self.config, time.perf_counter()
        rate = self._schedule(self.step)
        batch, n_tokens, measured = self._next_batch()
        loss, norm = self._fill_gradients(batch)
        with _undivided():
            self._update()
            for _ in range(1, self.n_updates):
                self._fill_gradients(batch)
                self._update()
            loss, norm = loss.item(), norm.item()  # waits for the device, so that the clock tells the truth
            seconds = time.perf_counter() - start
            report = self.Report(
                step=self.step + 1,
                n_steps=config.n_steps,
                loss=loss,
                learning_rate=rate,
                tokens=n_tokens + (self.history[-1].tokens if self.history else 0),
                seconds=seconds + (self.history[-1].seconds if self.history else 0.0),
                tokens_per_second=n_tokens / seconds,
                mfu=None if self._flops is None else self._flops / seconds / self.peak,
                gradient_norm=norm,
                **measured,
            )
            self.history.append(report)

    def _begin(self) -> None:
        """Do what is to be done with the model's first weights, on its device, before a checkpoint replaces them."""

    def _next_batch(self) -> tuple[tuple[Tensor, ...], int, dict[str, float]]:
        """Return this process's part of the step's batch, how many tokens the whole has, and what else a report says of it."""
        batch = tuple(part.to(self.device) for part in self.batches[self.step])
        return batch, self.config.batch_size * self.context_length, {}

    def _update(self) -> None:
        with autocast(self.device, self.dtype):  # Muon's products
            for optimizer in self.optimizers:
                optimizer.step()

    def _count(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return how many losses this process's part of the batch has, over which the mean is taken."""
        return (batch[1] != IGNORED).sum()

    def _count_flops(self) -> int | None:
        """Return the operations of a step; None where not all of the model's are made: for frozen weights, few logits."""
        if self._plain_loss is not next_token_loss or not all(w.requires_grad for w in self.model.parameters()):
            return None
        return accounting.step_flops(self.model.config, self.config.batch_size, self.context_length)

    def _schedule(self, step: int) -> float:
        """Set the learning rates of `step`, counted from 0, and return AdamW's."""
        config = self.config
        if config.schedule == "cosine":
            factor = optim.cosine(step, config.n_steps, config.warmup)
        else:
            factor = optim.warmup_stable_decay(step, config.n_steps, config.warmup, config.decay)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = factor * group.setdefault("highest_lr", group["lr"])
        return factor * config.learning_rate

    def _fill_gradients(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Fill the gradients with those of the mean loss over the batch of all processes, and clip them.

        Returns that loss, and the norm of the gradients before they were clipped.
        """
        n_parts = self.config.accumulation
        self.model.train()
        self.model.zero_grad()
        if self.model.config.dropout:  # drawn from the step and the process alone, so that a resumed run draws the same
            seeds = np.random.SeedSequence((self.config.seed, self.step, processes.rank()))
            torch.manual_seed(int(seeds.generate_state(1)[0]))
        n_targets = processes.mean(self._count(batch))  # who has more of them counts more
        mean_loss = torch.zeros((), device=self.device)
        parts = zip(*(tensor.chunk(n_parts) for tensor in batch), strict=True)
        for number, part in enumerate(parts, start=1):
            with processes.gradient_sync(self.replica, now=number == n_parts):
                with autocast(self.device, self.dtype):
                    loss = self.loss(self.replica, *part, reduction="sum") / n_targets
                loss.backward()
            mean_loss += loss.detach()
        loss = processes.mean(mean_loss)
        return loss, optim.clip_gradients(self.model.parameters(), self.config.clip or math.inf)

    # ---------------------------------------------------------------- what is done after it

    def _is_due(self, every: int | None) -> bool:
        return self.step in (0, self.config.n_steps) or (every is not None and self.step % every == 0)

    def _saves_now(self) -> bool:
        if self.folder is None or not self._is_due(self.config.checkpoint_every):
            return False
        return self._saved != checkpoint_path(self.folder, self.step)

    def _evaluates_now(self) -> bool:
        if self.validation is None or not self.history or not self._is_due(self.config.evaluate_every):
            return False
        return self.history[-1].validation_loss is None

    def _is_complete(self) -> bool:
        """Whether all steps are made, evaluated, saved and logged."""
        is_left = self._saves_now() or self._evaluates_now() or (self.folder is not None and self._n_logged < self.step)
        return self.step == self.config.n_steps and not is_left

    def _finish_step(self) -> None:
        """Do what is due after a step, unless it has been done: save, so that nothing can lose the step, evaluate, and log."""
        if self._saves_now():
            self.save_now()
        if self._evaluates_now():
            text, length = self.validation, self.context_length
            loss = evaluate(self.model, text, length, dtype=self.dtype, loss=self._plain_loss)
            with _undivided():
                self.history[-1] = replace(self.history[-1], validation_loss=loss)
                if self.folder is not None and self._saved == checkpoint_path(self.folder, self.step):
                    write_history(self._saved, map(vars, self.history))
        if self.folder is not None and self._n_logged < self.step:
            with _undivided():
                self._log()

    def _log(self) -> None:
        start, self._n_logged = self._n_logged, 0  # should the disk be full now, all is written anew the next time
        if processes.rank() == 0:
            with (self.folder / "log.jsonl").open("a" if start else "w", encoding="utf-8") as log:
                log.writelines(map(_line, self.history[start:]))
        self._n_logged = self.step

    # ---------------------------------------------------------------- the folder

    def _describe(self) -> dict[str, object]:
        """Return what a checkpoint must have been made with for this run to go on from it."""
        # What only says how the work is done may change: the result stays the same.
        how = {"accumulation", "dtype", "compile", "parallel", "evaluate_every", "checkpoint_every"}
        model = {f"model.{name}": value for name, value in asdict(self.model.config).items()}
        training = {name: value for name, value in asdict(self.config).items() if name not in how}
        frozen = sorted(name for name, weight in self.model.named_parameters() if not weight.requires_grad)
        text = {"train_tokens": len(self.train), "train_fingerprint": self.train.fingerprint()}
        return {**text, "frozen": frozen, **training, **model}

    def _newest(self) -> Path | None:
        """Return the folder's newest checkpoint; ValueError if it is of another run."""
        found = list_checkpoints(self.folder)
        if not found:
            return None
        ours, theirs = self._identity, read_state(found[-1]).get("identity", {})
        unknown = {"train_fingerprint", "frozen"} - theirs.keys()  # in checkpoints from before these were noted
        names = sorted((ours | theirs).keys() - unknown)
        if wrong := [name for name in names if ours.get(name) != theirs.get(name)]:
            differences = ", ".join(f"{name} {theirs.get(name)} there and {ours.get(name)} here" for name in wrong)
            raise ValueError(f"{self.folder} holds another run: {differences}; take another folder")
        return found[-1]

    def _resume(self) -> None:
        newest = self._newest()
        if newest is None:
            return
        restore(newest, self.model, self.optimizers)
        self.history = read_history(newest, self.Report)
        self._saved = newest
        log, whole = self.folder / "log.jsonl", "".join(map(_line, self.history)).encode()
        if log.exists() and log.read_bytes() == whole:
            self._n_logged = self.step  # else it was broken off, or goes on to steps that were lost: it is written anew

    def _as_only_writer(self) -> AbstractContextManager:
        """Within the block, keep every other Trainer from writing into the folder; process 0 does it for all."""
        if self.folder is None or processes.rank() > 0:
            return nullcontext()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = self._lock.acquire()
        except Timeout:
            raise RuntimeError(
                f"another Trainer is writing into {self.folder}, in this process or in another one; "
                "stop it, or take another folder"
            ) from None
        try:
            self._check_folder()
        except BaseException:
            self._lock.release()
            raise
        return lock

    def _check_folder(self) -> None:
        """See that what is newest in the folder is what this Trainer has last read or written."""
        newest = self._newest()
        if newest not in (None, self._saved):
            raise RuntimeError(
                f"{newest} was written by another Trainer since this one was made; make a new one, which goes on from there"
            )


def _line(report: StepReport) -> str:
    return json.dumps(vars(report)) + "\n"


def read_history(checkpoint: Path, report: type[StepReport] = StepReport) -> list[StepReport]:
    """Return the report of every step that led to a checkpoint; `report` is what the run's Trainer calls its Report."""
    try:
        return [report(**line) for line in read_lines(checkpoint)]
    except TypeError as error:
        raise ValueError(f"{checkpoint / 'history.jsonl'} is damaged: {error}") from None


@contextmanager
def _undivided() -> Iterator[None]:
    """Hold an interrupt (Ctrl-C, or the notebook's stop button) back until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    held_back = []
    usual = signal.signal(signal.SIGINT, lambda *_: held_back.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if held_back:
        signal.raise_signal(signal.SIGINT)
