"""What a long context is worth to SmolLM2, whose configuration allows 8,192 tokens, and what is lost beyond.

    python benchmarks/long_context.py

The same tokens of four plays are predicted after ever more of what stands before them. Lesson 02 shows the same losses.
"""

import math
import statistics
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from course_lib import checkpoints
from course_lib.architecture import TransformerLM
from course_lib.corpora import shakespeare

PLAYS = ("hamlet", "lear", "othello", "coriolanus")
N_PREDICTED = 512  # tokens of each play
READINGS = (  # tokens before the first that is predicted, how many are predicted in one go, and factor of θ
    (32, 32, 1), (128, 32, 1), (512, 32, 1), (2048, 32, 1), (7680, 512, 1), (12_288, 512, 1), (12_288, 512, 2),
)  # fmt: skip
AT_ONCE = 512
"""Tokens that the model reads at once: the weights of attention of more would fill the memory."""


@torch.inference_mode()
def losses(model: TransformerLM, texts: Tensor, n_predicted: int) -> Tensor:
    """Return the mean loss in bits of the last `n_predicted` tokens of each of `texts` (text, token)."""
    cache = model.new_cache(*texts.shape)
    streams = torch.cat([model.residual(part, cache) for part in texts[:, :-1].split(AT_ONCE, dim=1)], dim=1)
    logits = model.unembed(streams[:, -n_predicted:])
    return cross_entropy(logits.flatten(0, 1), texts[:, -n_predicted:].flatten()) / math.log(2)


def pieces(ids: Tensor, before: int, n_predicted: int) -> tuple[Tensor, ...]:
    """Cut texts (text, token) out of a play's `ids`, whose last tokens are, all together, the same `N_PREDICTED`."""
    end = max(reading[0] for reading in READINGS) + N_PREDICTED
    part = ids[end - N_PREDICTED - before : end]
    return part.unfold(0, before + n_predicted, n_predicted).split(4)


def main() -> None:
    """Print the table."""
    model, tokenizer = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    texts = {work.name: work.text for work in shakespeare.works() if work.edition == "modern"}
    plays = [torch.tensor(tokenizer.encode(texts[name]), device=model.device) for name in PLAYS]
    trained = model.config
    print(f"Loss of the same {len(PLAYS) * N_PREDICTED:,} tokens of {', '.join(PLAYS)}; ± is the standard error, over")
    print("the plays, of the difference from the row above\n")
    print("| tokens before | θ | bits a token | difference |\n|---|---|---|---|")
    above = None
    for before, n_predicted, factor in READINGS:
        model.config = replace(trained, context_length=2**14, rope_theta=factor * trained.rope_theta)
        means = [
            statistics.mean(losses(model, some, n_predicted).item() for some in pieces(ids, before, n_predicted))
            for ids in plays
        ]
        change = ""
        if above is not None:
            differences = [here - there for here, there in zip(means, above, strict=True)]
            error = statistics.stdev(differences) / len(differences) ** 0.5
            change = f"{statistics.mean(differences):+.3f} ± {error:.3f}"
        label = f"{before:,} to {before + n_predicted - 1:,}"
        print(f"| {label} | {model.config.rope_theta:,.0f} | {statistics.mean(means):.3f} | {change} |", flush=True)
        above = means


if __name__ == "__main__":
    main()
