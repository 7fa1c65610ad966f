"""Exercise 03.9: the cross-attention that hides the source's future, and not its padding."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR_CROSS_ATTENTION"]


def _pairs_of_texts(generator: torch.Generator) -> list[tuple]:
    """Return x (batch, query, d_model), y (batch, key, d_model), three matrices (d_model, d_head), real (batch, key).

    Each case has a source of its full length and shorter ones.
    """

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    cases = []
    for lengths, n_queries, d_model, d_head in (([7, 3], 5, 8, 6), ([2, 4, 6], 9, 7, 5), ([1, 8, 5, 2], 6, 9, 3)):
        y = draw(len(lengths), max(lengths), d_model)
        real = torch.arange(y.shape[1]) < torch.tensor(lengths)[:, None]
        matrices = (draw(d_model, d_head) / d_model**0.5 for _ in range(3))
        cases.append((draw(len(lengths), n_queries, d_model), y, *matrices, real))
    return cases


def _text_by_text(x: Tensor, y: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, real: Tensor) -> Tensor:
    """Cut each source down to its real tokens; then each query is a mixture of what is left."""
    mixed = x.new_zeros(*x.shape[:2], w_v.shape[1])
    for text, n_real in enumerate(real.sum(dim=1).tolist()):
        source = y[text, :n_real]
        for place, target in enumerate(x[text]):
            scores = [torch.dot(target @ w_q, token @ w_k) / w_q.shape[1] ** 0.5 for token in source]
            exponentials = torch.stack(scores).exp()
            for token, share in zip(source, exponentials / exponentials.sum(), strict=True):
                mixed[text, place] += share * (token @ w_v)
    return mixed


_SIGNATURE = '''\
def look_across(x, y, w_q, w_k, w_v, real):
    """Cross-attention of one head: the target x (batch, query, d_model) looks at the source.

    y (batch, key, d_model) is what the encoder gives for it. real (batch, key) is True at the
    source's tokens and False at padding. w_q, w_k, w_v (d_model, d_head).
    """
'''


def _cross(
    hidden: str = "~real[:, None, :]",
    read: str = "x @ w_q, y @ w_k, y @ w_v",
    scores: str = "q @ k.mT / math.sqrt(k.shape[-1])",
    result: str = "scores.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ v",
) -> str:
    """Return the cell of exercise 03.9 with its steps as given."""
    return f"""\
{_SIGNATURE}    q, k, v = {read}
    scores = {scores}  # (batch, query, key)
    hidden = {hidden}
    return {result}
"""


_FUTURE = "torch.ones_like(scores, dtype=torch.bool).triu(1)"

REPAIR_CROSS_ATTENTION = Exercise(
    id="03.9",
    kind="repair",
    title="A decoder that may not see the whole source",
    section="The Transformer of 2017",
    answer="look_across",
    results=("mixed",),
    inputs=_pairs_of_texts,
    expected=_text_by_text,
    stub=_cross(_FUTURE),
    solution=_cross(),
    why="The causal mask hides what is not written yet. The source is all there before the first token of the target is "
    "written, so nothing of it is a future: position 1 of the target may need the last word of the source, as the year of a "
    "date does. What does have to be hidden is padding, which is a matter of the source alone: the mask has a row for each "
    "text, the same for all its queries. A causal mask here would not crash, and would train: only worse, on all that stands "
    "late in the source.",
    hints=(
        "Which keys are hidden now? Is that what the table above says of cross-attention?",
        "The causal mask belongs to the decoder's attention to itself. Here another one is due, and it is among the arguments.",
        "The scores are (batch, query, key), `real` is (batch, key): give it an axis for the queries. Mind which sign of it "
        "means hidden.",
    ),
    mistakes=(
        Mistake(
            _cross("torch.zeros_like(scores, dtype=torch.bool)"),
            "Now the whole source is seen, but its padding as well.",
        ),
        Mistake(
            _cross(f"{_FUTURE} | ~real[:, None, :]"),
            "The padding is hidden now, but the source's later tokens still are too. None of them is a future to the target.",
        ),
        Mistake(
            _cross("real[:, None, :]"),
            "The mask is the wrong way round: it hides the tokens, and shows the padding.",
        ),
        Mistake(
            _cross("torch.ones_like(scores, dtype=torch.bool).tril(-1)"),
            "That hides the source's past instead of its future. It has neither for the target.",
        ),
        Mistake(
            _cross(result="scores.softmax(dim=-1).masked_fill(hidden, 0) @ v"),
            "The padding is hidden after the softmax: it has taken its share already, and the weights no longer add up to 1.",
        ),
        Mistake(
            _cross(result="scores.masked_fill(hidden, 0).softmax(dim=-1) @ v"),
            "A score of 0 is a score like any other. What is hidden gets −∞, whose exponential is 0.",
        ),
        Mistake(
            _cross(result="scores.masked_fill(hidden, -torch.inf).softmax(dim=-2) @ v"),
            "The softmax runs over the queries. Each query shares out its weight over the keys, the last axis.",
        ),
        Mistake(
            _cross(scores="q @ k.mT"),
            "The scores are no longer divided by the root of d_head.",
        ),
        Mistake(
            _cross(scores="q @ k.mT / math.sqrt(x.shape[-1])"),
            "The scores are divided by the root of d_model. What is summed over are the d_head numbers of a head.",
        ),
    ),
)
