"""Exercise 03.6: the nucleus of a distribution."""

import math

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_TOP_P"]


def _logits_and_p(generator: torch.Generator) -> list[tuple]:
    """Return logits (vocab,) and p, among them one that the likeliest token reaches alone."""
    cases = [(12, 0.5), (9, 0.8), (15, 0.9), (10, 0.05)]
    return [(1.2 * torch.randn(vocab, generator=generator), p) for vocab, p in cases]


def _token_by_token(logits: Tensor, p: float) -> Tensor:
    """Take tokens one at a time, the likeliest first, until their probability reaches p: plain Python numbers."""
    parts = [math.exp(logit) for logit in logits.tolist()]
    kept, reached = [0.0] * len(parts), 0.0
    for token in sorted(range(len(parts)), key=lambda token: -parts[token]):
        kept[token] = parts[token]
        reached += parts[token] / sum(parts)
        if reached >= p:
            break
    return torch.tensor([part / sum(kept) for part in kept])


_SIGNATURE = '''\
def top_p_probabilities(logits, p):
    """Nucleus sampling: the probabilities (vocab,) to draw from, for logits (vocab,) and 0 < p < 1.

    Keep the smallest set of likeliest tokens whose probability reaches p, and share out 1 among
    them in proportion.
    Probabilities 0.1, 0.5, 0.1, 0.3 and p = 0.7 give 0, 0.625, 0, 0.375.
    """
'''


def _nucleus(
    keep: str = "likeliest.cumsum(dim=0) - likeliest < p",
    result: str = "kept / kept.sum()",
    probabilities: str = "logits.softmax(dim=0)",
    sort: str = "sort(descending=True)",
    back: str = "torch.zeros_like(likeliest).scatter(0, order, likeliest * keep)",
) -> str:
    """Return the cell of exercise 03.6 with its steps as given."""
    return f"""\
{_SIGNATURE}    probabilities = {probabilities}
    likeliest, order = probabilities.{sort}
    keep = {keep}
    kept = {back}  # in the order of the vocabulary
    return {result}
"""


_KEPT = "torch.zeros_like(likeliest).scatter(0, order, keep.float()).bool()"  # which tokens, in the vocabulary's order

WRITE_TOP_P = Exercise(
    id="03.6",
    kind="write",
    title="Top-p: the nucleus",
    section="Sampling",
    answer="top_p_probabilities",
    results=("probabilities",),
    inputs=_logits_and_p,
    expected=_token_by_token,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_nucleus(),
    why="A token is kept if all that are likelier have not reached p yet: the running sum *before* it decides, so the token "
    "that crosses p stays in, and the likeliest always does. What is kept is divided by its sum, which leaves the ratios as "
    "they were. How many tokens that is depends on the model's certainty: few where it is sure, many where it is not; a top-k "
    "cannot do that (arXiv 1904.09751).",
    hints=(
        "Probabilities first; then it is a question of order: the likeliest first, and a running sum.",
        "Look at the token that carries the sum over p. Is it in? What is the running sum just before it?",
        "`sort` returns values and indices. The indices say where each value came from: `scatter` puts it back there. Last of "
        "all, the kept ones must add up to 1.",
    ),
    mistakes=(
        Mistake(
            _nucleus("likeliest.cumsum(dim=0) <= p"),
            "The token that crosses p is cut, so what is kept does not reach p; where the likeliest token crosses it alone, "
            "nothing is left to sample from. Decide by the sum before each token.",
        ),
        Mistake(
            _nucleus("F.pad(likeliest.cumsum(dim=0), (2, 0))[:-2] < p"),
            "One token too many is kept: the set has reached p before it.",
        ),
        Mistake(
            _nucleus("likeliest >= p"),
            "That keeps the tokens whose own probability is at least p. It is the sum of the likeliest ones that must reach p.",
        ),
        Mistake(
            _nucleus("likeliest >= p * likeliest[0]"),
            "That is min-p: it compares each token with the likeliest one. Top-p adds up probabilities until they reach p.",
        ),
        Mistake(
            _nucleus("torch.arange(len(likeliest)) < math.ceil(p * len(likeliest))"),
            "That keeps the share p of the *tokens* in the vocabulary. It is the share p of the *probability*.",
        ),
        Mistake(
            _nucleus("likeliest.cumsum(dim=0) - likeliest >= p"),
            "That is everything but the nucleus: what should be cut is kept, and what should be kept is cut.",
        ),
        Mistake(
            _nucleus(result="kept"),
            "The right tokens are kept, but their probabilities no longer add up to 1: divide them by their sum.",
        ),
        Mistake(
            _nucleus(back="likeliest * keep"),
            "The probabilities are right, but sorted: the first one is that of the likeliest token, and not of token 0. Put "
            "each back where it came from.",
        ),
        Mistake(
            _nucleus(back="(likeliest * keep)[order]"),
            "The way back from the sorted order is wrong: `[order]` sorts once more. `order[i]` is where the i-th likeliest "
            "*came from*, so it is where its value must be written.",
        ),
        Mistake(
            _nucleus(back="probabilities * keep"),
            "`keep` is in the sorted order, and is laid on probabilities in the order of the vocabulary: tokens are cut for "
            "the rank of others.",
        ),
        Mistake(
            _nucleus(sort="clone(), torch.arange(len(logits))"),
            "The running sum goes through the vocabulary in the order of the ids. The set of the likeliest needs the likeliest "
            "first.",
        ),
        Mistake(
            _nucleus(sort="sort()"),
            "The sum starts from the least likely token: that keeps the tail, which top-p is there to cut. Sort in descending "
            "order.",
        ),
        Mistake(
            _nucleus(probabilities="logits"),
            "Logits are summed as if they were probabilities. Take the softmax first.",
        ),
        Mistake(
            _nucleus(result="kept.softmax(dim=0)"),
            "Probabilities are put through a softmax again: that flattens them, and the tokens that were cut come back, for "
            "the exponential of 0 is 1.",
        ),
        Mistake(
            _nucleus(result="kept.masked_fill(kept == 0, -math.inf).softmax(dim=0)"),
            "The right tokens are kept, but the softmax of probabilities flattens them: the ratios change. Divide by the sum, "
            "or take the softmax of the kept *logits*.",
        ),
        Mistake(
            _nucleus(result=f"logits.masked_fill(~{_KEPT}, 0.0).softmax(dim=0)"),
            "The tokens that were cut come back: a logit of 0 has the exponential 1. A logit that leaves nothing is −∞.",
        ),
        Mistake(
            _nucleus(result=f"logits.masked_fill(~{_KEPT}, -math.inf)"),
            "Those are the logits, with −∞ for what is cut: the right tokens. Wanted are their probabilities.",
        ),
        Mistake(
            _nucleus(result="kept / len(kept.nonzero())"),
            "The kept probabilities are divided by how many there are. Divided by their sum, they add up to 1.",
        ),
        Mistake(
            _nucleus(result="(kept > 0) / (kept > 0).sum()"),
            "The right tokens are kept, but all with the same probability. They keep their proportions.",
        ),
    ),
)
