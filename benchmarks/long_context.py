"""What a long context is worth to SmolLM2, whose configuration allows 8,192 tokens, and what is lost beyond.

    python benchmarks/long_context.py

The same tokens of four plays are predicted after ever more of what stands before them. Lesson 02 shows the same losses.
"""

import statistics
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from course_lib import checkpoints
from course_lib.architecture import TransformerLM
from course_lib.corpora import shakespeare

PLAYS = ("hamlet", "lear", "othello", "coriolanus")
CONTEXTS = (32, 128, 512, 2048, 8192, 12_288)
N_PREDICTED = 512
AT_ONCE = 512
"""Tokens that the model reads at once: the weights of attention of more would fill the memory."""


@torch.inference_mode()
def losses(model: TransformerLM, ids: Tensor) -> Tensor:
    """Return the loss in nats of each of the last `N_PREDICTED` of `ids` (token,)."""
    cache = model.new_cache(1, len(ids))
    streams = torch.cat([model.residual(part[None], cache)[0] for part in ids[:-1].split(AT_ONCE)])
    return cross_entropy(model.unembed(streams[-N_PREDICTED:]), ids[-N_PREDICTED:], reduction="none")


def main() -> None:
    """Print the table."""
    model, tokenizer = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    texts = {work.name: work.text for work in shakespeare.works() if work.edition == "modern"}
    plays = [torch.tensor(tokenizer.encode(texts[name])) for name in PLAYS]
    trained = model.config
    print(
        f"Loss in nats of the same {len(PLAYS) * N_PREDICTED:,} tokens of {', '.join(PLAYS)}; ± is the standard error over"
    )
    print("the plays of the difference from the row above\n")
    print("| tokens before | θ | loss | difference |\n|---|---|---|---|")
    above = None
    for context, factor in [*((context, 1) for context in CONTEXTS), (CONTEXTS[-1], 2)]:
        model.config = replace(trained, context_length=2 * CONTEXTS[-1], rope_theta=factor * trained.rope_theta)
        last = CONTEXTS[-1] + N_PREDICTED
        means = [losses(model, ids[last - context - N_PREDICTED : last]).mean().item() for ids in plays]
        change = ""
        if above is not None:
            differences = [mean - other for mean, other in zip(means, above, strict=True)]
            error = statistics.stdev(differences) / len(differences) ** 0.5
            change = f"{statistics.mean(differences):+.3f} ± {error:.3f}"
        print(f"| {context:,} | {model.config.rope_theta:,.0f} | {statistics.mean(means):.3f} | {change} |", flush=True)
        above = means


if __name__ == "__main__":
    main()
