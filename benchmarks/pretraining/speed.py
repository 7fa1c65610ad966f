"""How long until a small model reaches the loss that nanoGPT's recipe ends with? And how fast is the same architecture?

    python benchmarks/pretraining/speed.py

Both sides train on the same text, in turn, with 5 seeds each; what they are is in nanogpt.py and recipe.py. Only the steps are
timed. The loss is that of the whole test text, cut into windows of 64. Prints the tables that stand in benchmarks/README.md.
Takes four minutes on two free cores.
"""

import copy
import statistics
import time

import nanogpt
import recipe
import torch
from characters import split

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.accounting import step_flops
from course_lib.devices import matmul_peak, pick_dtype
from course_lib.pretraining import evaluate, optim

N_SEEDS, N_ROUNDS = 5, 400

SAME_ARCHITECTURE = dict(
    d_model=nanogpt.D_MODEL,
    n_layers=nanogpt.N_LAYERS,
    n_heads=nanogpt.N_HEADS,
    d_ff=4 * nanogpt.D_MODEL,
    context_length=nanogpt.CONTEXT_LENGTH,
    positions="learned",
    norm="layernorm",
    feed_forward="gelu",
)


def time_to_loss() -> None:
    train, test = split()
    sides = {"nanoGPT's recipe": nanogpt, "course_lib": recipe}
    seconds, losses = {name: [] for name in sides}, {name: [] for name in sides}
    for seed in range(N_SEEDS):
        for name, side in sides.items():
            model, taken = side.train(train, seed)
            seconds[name].append(taken)
            losses[name].append(evaluate(model, test, nanogpt.CONTEXT_LENGTH))
    print(f"{len(train):,} characters to train on, {len(test):,} to test on, {train.vocab_size} different ones")
    print("\n| | steps | training (s) | slowest | test loss (nats a character) | worst |\n|---|---|---|---|---|---|")
    for name, side in sides.items():
        times, ends = seconds[name], losses[name]
        print(
            f"| {name} | {side.N_STEPS:,} | {statistics.median(times):.1f} | {max(times):.1f} "
            f"| {statistics.median(ends):.3f} | {max(ends):.3f} |"
        )
    baseline, ours = sides
    target = statistics.median(losses[baseline])
    ratios = [theirs / mine for theirs, mine in zip(seconds[baseline], seconds[ours], strict=True)]
    print(f"\nRatio of the times, seed by seed: {statistics.median(ratios):.1f} (lowest {min(ratios):.1f})")
    print(
        f"Runs of course_lib at or below the baseline's median loss: {sum(x <= target for x in losses[ours])} of {N_SEEDS}"
    )


def throughput() -> None:
    """Train the baseline's model and the same one as a `TransformerLM`, same weights, step by step in turn.

    The `TransformerLM` trains once with the baseline's optimizer, and once with this library's AdamW.
    """
    text, _ = split()
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=text.vocab_size, **SAME_ARCHITECTURE)
    theirs, ours = nanogpt.NanoGPT(text.vocab_size), TransformerLM(config)
    for weight, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        weight.data.copy_(other.data)
    again = copy.deepcopy(ours)
    sides = {
        "nanoGPT's model": (theirs, nanogpt.adamw(theirs)),
        "TransformerLM": (ours, nanogpt.adamw(ours)),
        "TransformerLM, optim.AdamW": (again, nanogpt.adamw(again, optim.AdamW)),
    }
    seconds = {name: [] for name in sides}
    largest = 0.0
    for turn in range(N_ROUNDS):
        batch = nanogpt.random_batch(text)
        losses = {}
        for name in list(sides)[:: 1 if turn % 2 else -1]:  # each goes first every other time
            start = time.perf_counter()
            losses[name] = nanogpt.make_step(*sides[name], *batch)
            seconds[name].append(time.perf_counter() - start)
        largest = max(largest, max(losses.values()) - min(losses.values()))
    n_tokens = nanogpt.BATCH_SIZE * nanogpt.CONTEXT_LENGTH
    device = ours.embedding.weight.device
    peak = matmul_peak(device, pick_dtype(device))
    flops = step_flops(config, nanogpt.BATCH_SIZE, nanogpt.CONTEXT_LENGTH)
    print(f"\nLargest difference of the losses in {N_ROUNDS} steps: {largest:.0e}")
    print(f"Matrix products reach {peak / 1e9:.0f} GFLOP/s")
    print("\n| | tokens/s | MFU | ratio, step by step |\n|---|---|---|---|")
    baseline = seconds["nanoGPT's model"]
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(theirs / mine for theirs, mine in zip(baseline, times, strict=True))
        print(f"| {name} | {n_tokens / median:,.0f} | {flops / median / peak:.0%} | {ratio:.3f} |")


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    throughput()
    print(flush=True)
    time_to_loss()


if __name__ == "__main__":
    main()
