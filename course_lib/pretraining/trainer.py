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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture import TransformerLM, accounting
from course_lib.corpora import Batches, TokenArray, TokenShards
from course_lib.corpora.shards import windows
from course_lib.devices import autocast, matmul_peak, pick_device, pick_dtype
from course_lib.pretraining import optim, processes
from course_lib.pretraining.checkpoints import list_checkpoints, read_lines, read_state, restore, save
from course_lib.pretraining.config import PretrainingConfig

__all__ = [
    "StepReport",
    "Trainer",
    "bits_per_byte",
    "evaluate",
    "next_token_loss",
    "read_history",
]


def next_token_loss(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats a token, of `model`'s predictions from `ids` (batch, position).

    `targets` (batch, position) holds the token that follows each of `ids`.
    """
    return F.cross_entropy(model(ids).flatten(0, 1).float(), targets.flatten())


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
    mfu: float  # model FLOPs utilisation: the share that this step reached of what all processes' matrix products can
    gradient_norm: float  # before it was clipped
    validation_loss: float | None = None  # in nats a token; None: not evaluated at this step


class Trainer:
    """Trains `model` on `train` as `config` says, and evaluates it on `validation`.

    `for report in trainer` makes a step, yields its `StepReport`, and makes the next. `break` stops; iterating again goes on.
    With a `folder`, checkpoints and a log (`log.jsonl`, a report a line) are kept there, and a Trainer on a folder that
    holds checkpoints goes on from the newest, whatever the weights of `model` were. An interrupt never leaves half a step.

    Raises ValueError if the batch cannot be shared out evenly, if the model has fewer tokens than the text, or if the
    folder holds another run.
    """

    def __init__(
        self,
        model: TransformerLM,
        train: TokenShards | TokenArray,
        validation: TokenShards | TokenArray | None,
        config: PretrainingConfig,
        folder: str | Path | None = None,
    ):
        if train.vocab_size > model.config.vocab_size:
            raise ValueError(f"the text has {train.vocab_size} tokens, the model {model.config.vocab_size}")
        rank, world_size = processes.rank(), processes.world_size()
        if config.batch_size % (world_size * config.accumulation):
            raise ValueError(
                f"{config.batch_size} sequences cannot be shared out evenly over {world_size} processes "
                f"with {config.accumulation} micro-batches each"
            )
        if not any(weight.requires_grad for weight in model.parameters()):
            raise ValueError("every weight of the model is frozen; model.requires_grad_() sets them free")
        self.model, self.train, self.validation, self.config = model, train, validation, config
        self.folder = None if folder is None else Path(folder)
        self.context_length = config.context_length or model.config.context_length
        self.batches = Batches(
            train, self.context_length, config.batch_size, seed=config.seed, rank=rank, world_size=world_size
        )
        self.device = model.embedding.weight.device if world_size == 1 else pick_device()
        self.dtype = pick_dtype(self.device) if config.dtype is None else getattr(torch, config.dtype)
        self.replica = processes.spread(model, config.parallel, self.device, self.dtype)  # called in the model's place
        compiled = config.compile is not None
        self.loss = torch.compile(next_token_loss, backend=config.compile) if compiled else next_token_loss
        self.optimizers = optim.for_model(
            model,
            learning_rate=config.learning_rate,
            muon_learning_rate=config.muon_learning_rate,
            weight_decay=config.weight_decay,
        )
        self.peak = processes.total(torch.tensor(matmul_peak(self.device, self.dtype), device=self.device)).item()
        self.history: list[StepReport] = []
        self._n_logged, self._saved_step = 0, None
        if self.folder is not None:
            self._resume()

    @property
    def step(self) -> int:
        """How many steps have been made."""
        return len(self.history)

    def __iter__(self) -> Iterator[StepReport]:
        """Make one step after the other, to the last."""
        if self._saves_now():  # the state before the first step; or one that an interrupt kept from being saved
            self.save_now()
        while self.step < self.config.n_steps:
            self._make_step()
            if self.validation is not None and self._is_due(self.config.evaluate_every):
                loss = evaluate(self.model, self.validation, self.context_length, dtype=self.dtype)
                self.history[-1] = replace(self.history[-1], validation_loss=loss)
            self._log()
            if self._saves_now():
                self.save_now()
            yield self.history[-1]

    def save_now(self) -> Path:
        """Write a checkpoint of the present state, unless there is one already, and return its path."""
        if self.folder is None:
            raise ValueError("this Trainer was given no folder to save in")
        if self._saved_step != self.step:
            state = {"identity": self._identity()}
            save(self.folder, self.step, self.model, self.optimizers, state, map(vars, self.history))
            self._saved_step = self.step
        return list_checkpoints(self.folder)[-1]

    # ---------------------------------------------------------------- one step

    def _make_step(self) -> None:
        config, start = self.config, time.perf_counter()
        rate = self._schedule(self.step)
        loss = self._fill_gradients()
        norm = optim.clip_gradients(self.model.parameters(), config.clip or math.inf)
        with _undivided():
            for optimizer in self.optimizers:
                optimizer.step()
            loss, norm = loss.item(), norm.item()  # waits for the device, so that the clock tells the truth
            seconds = time.perf_counter() - start
            n_tokens = config.batch_size * self.context_length
            report = StepReport(
                step=self.step + 1,
                n_steps=config.n_steps,
                loss=loss,
                learning_rate=rate,
                tokens=(self.step + 1) * n_tokens,
                seconds=seconds + (self.history[-1].seconds if self.history else 0.0),
                tokens_per_second=n_tokens / seconds,
                mfu=accounting.step_flops(self.model.config, config.batch_size, self.context_length)
                / seconds
                / self.peak,
                gradient_norm=norm,
            )
            self.history.append(report)

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

    def _fill_gradients(self) -> Tensor:
        """Fill the gradients with those of the mean loss over the batch of all processes, and return that loss."""
        n_parts = self.config.accumulation
        self.model.train()
        self.model.zero_grad()
        if self.model.config.dropout:  # drawn from the step and the process alone, so that a resumed run draws the same
            seeds = np.random.SeedSequence((self.config.seed, self.step, processes.rank()))
            torch.manual_seed(int(seeds.generate_state(1)[0]))
        ids, targets = (torch.as_tensor(x).to(self.device) for x in self.batches[self.step])
        mean_loss = torch.zeros((), device=self.device)
        for part, (x, y) in enumerate(zip(ids.chunk(n_parts), targets.chunk(n_parts), strict=True), start=1):
            with processes.gradient_sync(self.replica, now=part == n_parts):
                with autocast(self.device, self.dtype):
                    loss = self.loss(self.replica, x, y) / n_parts
                loss.backward()
            mean_loss += loss.detach()
        return processes.mean(mean_loss)

    # ---------------------------------------------------------------- what is kept

    def _is_due(self, every: int | None) -> bool:
        return self.step in (0, self.config.n_steps) or (every is not None and self.step % every == 0)

    def _saves_now(self) -> bool:
        return self.folder is not None and self._is_due(self.config.checkpoint_every)

    def _identity(self) -> dict[str, object]:
        """What a checkpoint must have been made with for this run to go on from it."""
        # What only says how the work is done may change: the result stays the same.
        how = {"accumulation", "dtype", "compile", "parallel", "evaluate_every", "checkpoint_every"}
        model = {f"model.{name}": value for name, value in asdict(self.model.config).items()}
        training = {name: value for name, value in asdict(self.config).items() if name not in how}
        return {"train_tokens": len(self.train), **training, **model}

    def _resume(self) -> None:
        found = list_checkpoints(self.folder)
        if not found:
            return
        ours, theirs = self._identity(), read_state(found[-1])["identity"]
        if wrong := [name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]:
            differences = ", ".join(f"{name} {theirs.get(name)} there and {ours.get(name)} here" for name in wrong)
            raise ValueError(f"{self.folder} holds another run: {differences}; take another folder")
        restore(found[-1], self.model, self.optimizers)
        self.history = read_history(found[-1])
        self._saved_step = self.step

    def _log(self) -> None:
        if self.folder is None or processes.rank() > 0:
            return
        with (self.folder / "log.jsonl").open("a" if self._n_logged else "w", encoding="utf-8") as log:
            log.writelines(json.dumps(vars(report)) + "\n" for report in self.history[self._n_logged :])
        self._n_logged = self.step


def read_history(checkpoint: Path) -> list[StepReport]:
    """Return the report of every step that led to a checkpoint."""
    return [StepReport(**line) for line in read_lines(checkpoint)]


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


# ---------------------------------------------------------------- measures

_EVALUATED_AT_ONCE = 1024  # tokens: nearly twice as fast on a CPU as 4,096, whose logits its caches do not hold


@torch.no_grad()
def evaluate(
    model: TransformerLM, shards: TokenShards | TokenArray, context_length: int, *, dtype: torch.dtype = torch.float32
) -> float:
    """Return the mean loss, in nats a token, over the whole of `shards`, cut into consecutive windows of `context_length`.

    The first token of a window is predicted from one token, the last from `context_length`. Several processes share the
    windows out among themselves; each gets the mean of all. Matrix products are made in `dtype`.
    """
    was_training, device = model.training, model.embedding.weight.device
    rank, world_size = processes.rank(), processes.world_size()
    model.eval()
    summed, n_tokens = 0.0, 0
    batches = _stacked(windows(shards, context_length), max(1, _EVALUATED_AT_ONCE // context_length))
    while turn := list(islice(batches, world_size)):
        ids, targets = turn[min(rank, len(turn) - 1)]
        with autocast(device, dtype):
            loss = next_token_loss(model, ids.to(device), targets.to(device))
        if rank < len(turn):  # else it has none in the last turn, and only helps to gather sharded weights
            summed += loss.item() * targets.numel()
            n_tokens += targets.numel()
    model.train(was_training)
    processes.let_go(model)
    summed, n_tokens = processes.total(torch.tensor([summed, n_tokens], device=device)).tolist()
    return summed / n_tokens


def _stacked(pairs: Iterable[tuple[Tensor, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the windows `size` at a time, and one of another length (the last) by itself."""
    batch = []
    for pair in pairs:
        if len(batch) == size or (batch and len(pair[0]) != len(batch[0][0])):
            yield tuple(map(torch.stack, zip(*batch, strict=True)))
            batch = []
        batch.append(pair)
    if batch:
        yield tuple(map(torch.stack, zip(*batch, strict=True)))


def bits_per_byte(nats_a_token: float, shards: TokenShards | TokenArray) -> float:
    """Return a loss in bits a byte of the text, which does not depend on how the tokenizer cut it.

    A tokenizer with longer tokens has fewer and harder ones to predict, so losses a token cannot be compared between two.
    """
    return nats_a_token * len(shards) / shards.n_bytes / math.log(2)
