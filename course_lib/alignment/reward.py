"""A reward model: from which of two answers people chose, to a number that says how much they would like one.

A language model reads the prompt and the answer, and a linear head makes one number of its last vector. Only differences
count (Bradley and Terry 1952): the first answer is preferred with probability σ(reward of the first − reward of the second).
So it is logistic regression, on the difference of two texts (arXiv 2009.01325, section 3.4).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.finetuning.classification import Classifier, LabelledTexts
from course_lib.finetuning.rows import Rows
from course_lib.pretraining.evaluation import as_in_use

__all__ = ["AnswerPairs", "Calibration", "RewardModel", "calibration", "preference_loss", "rewards"]


class RewardModel(Classifier):
    """The language model `body` with one number out: the reward of a text. It begins as 0 for every text."""

    fewest_classes = 1  # a number

    def __init__(self, body: TransformerLM):
        super().__init__(body, 1)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the rewards (batch,) of texts: `ids` (batch, position), of which the first `lengths` (batch,) count."""
        return super().forward(ids, lengths)[:, 0]


class AnswerPairs(Rows):
    """Pairs of texts (token ids), each a prompt and an answer, and which one was chosen, 0 or 1; a pair a row.

    The parts are: the first's ids (row, context_length), choices (row,), the first's lengths, the second's ids and lengths.
    Raises ValueError for a text without tokens or longer than a row, if there are not as many of one as of the other, and for
    a choice that is neither 0 nor 1.
    """

    def __init__(
        self,
        firsts: Sequence[Sequence[int]],
        seconds: Sequence[Sequence[int]],
        choices: Sequence[int],
        context_length: int,
        vocab_size: int,
    ):
        if not {*choices} <= {0, 1}:
            raise ValueError(
                f"a choice is 0 or 1, and these hold {({*choices} - {0, 1}).pop()}: leave out what was skipped"
            )
        sides = [LabelledTexts(texts, choices, context_length, vocab_size) for texts in (firsts, seconds)]
        (first, chosen, first_lengths), (second, _, second_lengths) = (side.parts for side in sides)
        super().__init__((first, chosen, first_lengths, second, second_lengths), vocab_size)


def preference_loss(
    model: nn.Module,
    first: Tensor,
    choices: Tensor,
    first_lengths: Tensor,
    second: Tensor,
    second_lengths: Tensor,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Return −log of the probability that a `RewardModel` gives to the `choices` (pair,), in nats: the mean over pairs, or sum.

    The rest is as in `AnswerPairs`. Both texts go through the model as one batch.
    """
    both = model(torch.cat([first, second]), torch.cat([first_lengths, second_lengths])).float()
    of_first, of_second = both.chunk(2)
    return F.binary_cross_entropy_with_logits(of_second - of_first, choices.float(), reduction=reduction)


def rewards(model: RewardModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """Return the reward of each of `texts` (token ids): float32 (text,), on the CPU."""
    device, found = model.device, []
    with as_in_use(model):
        for start in range(0, len(texts), 64):
            some = texts[start : start + 64]
            rows = LabelledTexts(some, [0] * len(some), max(map(len, some)), model.config.vocab_size)
            ids, _, lengths = (part.to(device) for part in rows.parts)
            found.append(model(ids, lengths).float().cpu())
    return torch.cat(found)


class Calibration(NamedTuple):
    """Predicted probabilities in bins of equal width, against what happened; tensors (bin,), of the bins that hold any."""

    predicted: Tensor  # the mean probability in a bin
    observed: Tensor  # the share of them that came true
    counts: Tensor  # int64: how many there are

    @property
    def error(self) -> float:
        """The expected calibration error (arXiv 1706.04599): |observed − predicted|, averaged over all predictions."""
        gaps = (self.observed - self.predicted).abs()
        return ((gaps * self.counts).sum() / self.counts.sum()).item()


def calibration(probabilities: Tensor, came_true: Tensor, n_bins: int = 10) -> Calibration:
    """Return how `probabilities` (prediction,) from 0 to 1 compare with what `came_true` (prediction,), 0 or 1.

    ValueError if there is none, one is no probability, or the two are not equally many.
    """
    check("n_bins", n_bins)
    if probabilities.shape != came_true.shape or not len(probabilities):
        raise ValueError(f"wanted as many outcomes as predictions, got {len(came_true)} and {len(probabilities)}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability lies between 0 and 1")
    bins = (probabilities * n_bins).long().clamp(max=n_bins - 1)
    counts = torch.bincount(bins, minlength=n_bins)
    held = counts > 0
    sums = (torch.bincount(bins, weights=x.double(), minlength=n_bins) for x in (probabilities, came_true))
    predicted, observed = (total[held] / counts[held] for total in sums)
    return Calibration(predicted, observed, counts[held])
