"""A training run is killed with SIGKILL at 20 random moments, and goes on each time: are its losses those of a run left alone?

    PYTHONPATH=tests python benchmarks/pretraining/kills.py

A checkpoint is written after every second step, so that many a kill strikes while one is being written. Each process uses as
many threads as PyTorch likes. benchmarks/README.md says what came out.
"""

import tempfile
from pathlib import Path

import torch
from killed_runs import Run, kill_at_random
from small_corpus import write_small_corpus

from course_lib.architecture import TransformerConfig
from course_lib.pretraining import PretrainingConfig, list_checkpoints, read_history

N_KILLS, MOST_STEPS = 20, 20
MODEL = TransformerConfig(
    vocab_size=266, d_model=48, n_layers=2, n_heads=4, d_ff=192, context_length=32, feed_forward="relu2", dropout=0.1
)
CONFIG = PretrainingConfig(n_steps=400, batch_size=8, warmup=10, checkpoint_every=2)


def result(run: Run) -> tuple[bytes, bytes, list[float]]:
    """Return the final weights, the optimizers' final state, and the loss of every step."""
    last = list_checkpoints(run.folder)[-1]
    losses = [report.loss for report in read_history(last)]
    return *((last / f"{kind}.safetensors").read_bytes() for kind in ("model", "optimizer")), losses


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        shards = write_small_corpus(Path(place, "shards"), n_texts=200).folder
        alone, killed = (
            Run(MODEL, CONFIG, shards, Path(place, name), torch.get_num_threads()) for name in ("alone", "killed")
        )
        alone.finish()
        print("| kill | went on from step | reached step | while writing a checkpoint | newest checkpoint left |")
        print("|---|---|---|---|---|")
        for number, kill in enumerate(kill_at_random(killed, N_KILLS, MOST_STEPS, seed=0), start=1):
            begun, reached = ("still reading" if step is None else step for step in (kill.begun_at, kill.reached))
            print(f"| {number} | {begun} | {reached} | {'yes' if kill.was_saving else ''} | {kill.saved} |", flush=True)
        killed.finish()
        (weights, memory, losses), (others, other_memory, other_losses) = result(alone), result(killed)
    same = sum(one == other for one, other in zip(losses, other_losses, strict=True))
    print(
        f"\n{same} of {CONFIG.n_steps} losses identical to the last bit; final weights identical: {weights == others}; ",
        end="",
    )
    print(f"final state of the optimizers identical: {memory == other_memory}")


if __name__ == "__main__":
    main()
