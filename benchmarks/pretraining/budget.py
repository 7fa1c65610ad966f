"""How good a model do a few minutes make? The course's own recipe beside nanoGPT's, given the same time, and beside counting.

    python benchmarks/pretraining/budget.py

Both train on the works that lesson 04 trains on and are measured on the plays that it holds out, in bits per byte, the unit in
which a model of characters and one of longer tokens can be compared. The course's recipe makes all its steps and says how long
they took, with three seeds. nanoGPT's gets the seconds of the first, and its learning rate falls over them as it does over its
own 2,000 steps. Ours computes in bfloat16 where the processor does, nanoGPT's in float32, as it does on a CPU. Only steps are
timed. PPMd and xz, which are compressors, read the same text (see compressors.py); PPMd goes on counting while it reads a play,
so it is measured on short pieces too. Prints the table and draws the figure of benchmarks/README.md. Takes a quarter of an hour
on two free cores.
"""

import time
from dataclasses import replace
from pathlib import Path

import compressors
import matplotlib.pyplot as plt
import nanogpt
import torch
from characters import characters

from course_lib.architecture import TransformerLM
from course_lib.corpora import shakespeare
from course_lib.devices import seed_everything
from course_lib.plots import PALETTE
from course_lib.pretraining import Trainer, bits_per_byte, evaluate, shakespeare_model

FIGURE = Path(__file__).with_suffix(".png")
N_MEASURED = 5  # times during training
SEEDS = (0, 1, 2)

Curve = list[tuple[float, float]]
"""(seconds of training, bits per byte on the held-out plays)"""

Run = tuple[Curve, int, int]
"""The curve, the number of weights, and that of tokens read, some more than once."""


def ours(seed: int) -> Run:
    """Train the course's model."""
    prepared, _ = shakespeare_model.trainer()
    seed_everything(seed)
    model = TransformerLM(shakespeare_model.MODEL)
    every = shakespeare_model.TRAINING.n_steps // N_MEASURED
    trainer = Trainer(
        model,
        prepared.train,
        prepared.validation,
        replace(prepared.config, seed=seed, evaluate_every=every, checkpoint_every=None),
    )
    measured = [report for report in trainer if report.validation_loss is not None]
    curve = [(report.seconds, bits_per_byte(report.validation_loss, prepared.validation)) for report in measured]
    return curve, n_weights(model), measured[-1].tokens


def theirs(budget: float) -> Run:
    """Train nanoGPT's model for `budget` seconds; a token is a character."""
    train, test = ("\n\n".join(work.text for work in works) for works in shakespeare.split())
    alphabet = "".join(sorted(set(train + test)))
    train, test = characters(train, alphabet), characters(test, alphabet)
    torch.manual_seed(0)
    model = nanogpt.NanoGPT(train.vocab_size)
    optimizer = nanogpt.adamw(model)
    seconds, n_steps, curve = 0.0, 0, []
    while seconds < budget:
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = nanogpt.learning_rate(nanogpt.N_STEPS * seconds / budget)
        nanogpt.make_step(model, optimizer, *nanogpt.random_batch(train))
        n_steps, seconds = n_steps + 1, seconds + time.perf_counter() - start
        if seconds >= budget * (len(curve) + 1) / N_MEASURED:
            curve.append((seconds, bits_per_byte(evaluate(model, test, nanogpt.CONTEXT_LENGTH), test)))
    return curve, n_weights(model), n_steps * nanogpt.BATCH_SIZE * nanogpt.CONTEXT_LENGTH


def n_weights(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def draw(curves: dict[str, Curve]) -> None:
    colours = PALETTE["light"]
    with plt.rc_context({"font.size": 12, "axes.spines.top": False, "axes.spines.right": False}):
        _, ax = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
        for (name, curve), role, marker in zip(curves.items(), ("residual", "query"), "os", strict=True):
            ax.plot(*zip(*curve, strict=True), color=colours[role], marker=marker, label=name)
        ax.set_xlabel("seconds of training")
        ax.set_ylabel("bits per byte, held-out plays")
        ax.legend(frameon=False)
        plt.savefig(FIGURE, dpi=120)


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| | weights | tokens read | seconds | bits per byte |\n|---|---|---|---|---|")
    first, *others = SEEDS
    our_run = ours(first)
    show(f"course_lib, seed {first}", our_run)
    their_run = theirs(budget=our_run[0][-1][0])
    show("nanoGPT's recipe", their_run)
    for order in (4, 6, 8):
        seconds, bits = compressors.ppmd(order)
        print(f"| PPMd, order {order} | | | {seconds:.0f} | {bits:.2f} |", flush=True)
    print(f"| PPMd, order 6, on cold pieces of 2 kB | | | | {compressors.ppmd_cold(6):.2f} |", flush=True)
    seconds, bits = compressors.xz()
    print(f"| xz | | | {seconds:.0f} | {bits:.2f} |", flush=True)
    draw({"nanoGPT's recipe": their_run[0], "course_lib": our_run[0]})
    for seed in others:
        show(f"course_lib, seed {seed}", ours(seed))


def show(name: str, run: Run) -> None:
    curve, weights, tokens = run
    seconds, bits = curve[-1]
    print(f"| {name} | {weights:,} | {tokens:,} | {seconds:.0f} | {bits:.3f} |", flush=True)


if __name__ == "__main__":
    main()
