"""Kill a training run again and again with SIGKILL, at random moments; each time it goes on from what it left behind."""

import multiprocessing
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from forkserver import FORKSERVER

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora import TokenShards
from course_lib.devices import seed_everything
from course_lib.pretraining import PretrainingConfig, Trainer, list_checkpoints


@dataclass(frozen=True)
class Run:
    """A training run; every process that works on it makes the same Trainer."""

    model: TransformerConfig
    config: PretrainingConfig
    shards: Path
    folder: Path
    n_threads: int

    def steps(self, connection: Connection) -> None:
        """Train to the end, and tell after each step how many have been made."""
        torch.set_num_threads(self.n_threads)
        seed_everything(0)
        trainer = Trainer(TransformerLM(self.model), TokenShards(self.shards), None, self.config, self.folder)
        connection.send(trainer.step)
        for report in trainer:
            connection.send(report.step)

    def start(self) -> tuple[multiprocessing.Process, Connection]:
        """Start a process that trains, and return it and the line on which it tells its steps."""
        ours, theirs = FORKSERVER.Pipe(duplex=False)
        process = FORKSERVER.Process(target=self.steps, args=(theirs,))
        process.start()
        theirs.close()
        return process, ours

    def finish(self) -> None:
        """Train to the end."""
        process, connection = self.start()
        while connection.poll(None):
            try:
                connection.recv()
            except EOFError:
                break
        process.join()
        assert process.exitcode == 0


@dataclass(frozen=True)
class Kill:
    """When a process was killed, and what it left behind."""

    begun_at: int | None  # the step it had gone on from; None: it was still reading
    reached: int | None  # the last step it told of
    saved: int | None  # the step of the newest checkpoint that is left
    was_saving: bool  # whether it was writing a checkpoint


def kill_at_random(run: Run, n_kills: int, most_steps: int, seed: int) -> Iterator[Kill]:
    """Kill the run `n_kills` times: after up to `most_steps` steps, and somewhere in the next two."""
    moments = random.Random(seed)
    for _ in range(n_kills):
        process, connection = run.start()
        told, times = [], [time.monotonic()]
        for _ in range(moments.randint(0, most_steps + 1)):
            told.append(connection.recv())
            times.append(time.monotonic())
        a_step = statistics.median(end - start for start, end in pairwise(times)) if told else 1.0
        time.sleep(moments.uniform(0, 2 * a_step))
        process.kill()
        process.join()
        told += list(_rest(connection))
        saved = list_checkpoints(run.folder)
        yield Kill(
            begun_at=told[0] if told else None,
            reached=told[-1] if told else None,
            saved=int(saved[-1].name.removeprefix("step-")) if saved else None,
            was_saving=any(run.folder.glob(".step-*.partial")),
        )


def _rest(connection: Connection) -> Iterator[int]:
    while connection.poll(0):
        try:
            yield connection.recv()
        except EOFError:
            return
