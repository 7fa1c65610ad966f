"""What tests/test_distributed.py has several processes do together: torchrun … tests/distributed_run.py SHARDS RUNS REPORT."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora import TokenShards
from course_lib.devices import seed_everything
from course_lib.pretraining import PretrainingConfig, Trainer
from course_lib.pretraining.processes import process_group, rank, world_size

# Of 3 heads, 24 and 41 numbers and 266 tokens hardly anything can be cut into 4 equal parts.
MODEL = TransformerConfig(
    vocab_size=266, d_model=24, n_layers=2, n_heads=3, d_ff=41, context_length=16, feed_forward="relu2", qk_norm="head"
)
CONFIG = PretrainingConfig(n_steps=9, batch_size=8, evaluate_every=4, checkpoint_every=3)
WAYS = {
    "ddp": {},
    "fsdp": {"parallel": "fsdp"},
    "ddp, micro-batches": {"accumulation": 2},
    "fsdp, micro-batches": {"parallel": "fsdp", "accumulation": 2},
    "ddp, compiled": {"compile": "aot_eager"},
    "fsdp, compiled": {"parallel": "fsdp", "compile": "aot_eager"},
    "fsdp, bfloat16": {"parallel": "fsdp", "dtype": "bfloat16"},
}
# For 4 processes, each of which would compile for seconds what each of 2 has compiled.
PLAIN_WAYS = {way: change for way, change in WAYS.items() if "compile" not in change}
STOPS = {2: 3, 4: 6, 1: 9}
"""A run is begun by 2 processes; 4 go on from step 3, and a single one from step 6."""


def new_trainer(shards: Path, folder: Path | None = None, **change) -> Trainer:
    """Return a Trainer; the models of different processes differ until they hear of process 0's."""
    seed_everything(rank())
    train, validation = TokenShards(shards / "train"), TokenShards(shards / "validation")
    return Trainer(TransformerLM(MODEL), train, validation, replace(CONFIG, **change), folder)


def train_to(trainer: Trainer, stop: int) -> list[dict]:
    """Train until `stop` steps are made, and return all reports."""
    for report in trainer:
        if report.step == stop:
            break
    return list(map(asdict, trainer.history))


def main(shards: Path, runs: Path, report: Path) -> None:
    with process_group():
        ways = WAYS if world_size() == 2 else PLAIN_WAYS
        reports = {way: train_to(new_trainer(shards, **change), CONFIG.n_steps) for way, change in ways.items()}
        for way in ("ddp", "fsdp"):
            trainer = new_trainer(shards, runs / way, parallel=way)
            begun_at = trainer.step
            train_to(trainer, STOPS[world_size()])
            reports[f"{way} begun at"] = begun_at
        if rank() == 0:
            report.write_text(json.dumps(reports))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
