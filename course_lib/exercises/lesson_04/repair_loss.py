"""Exercise 04.2: the loss that padding makes look better than it is."""

import math

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR_LOSS"]


def _padded_batches(generator: torch.Generator) -> list[tuple]:
    """Return logits (batch, position, vocab), ids and is_padding (batch, position): texts of different lengths."""
    batches = []
    for vocab, *lengths in [(7, 6, 2, 4), (11, 5, 3), (5, 2, 7, 4, 3)]:
        logits = 2 * torch.randn(len(lengths), max(lengths), vocab, generator=generator)
        is_padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
        ids = torch.randint(vocab, is_padding.shape, generator=generator).masked_fill(is_padding, 0)
        ids[:, 1] = 0  # a real token of the padding's id, as the end token often is
        batches.append((logits, ids, is_padding))
    return batches


def _token_by_token(logits: Tensor, ids: Tensor, is_padding: Tensor) -> float:
    """Ask, for each token that has one before it, what probability it was given there: plain Python numbers."""
    costs = []
    for text, tokens, hidden in zip(logits.tolist(), ids.tolist(), is_padding.tolist(), strict=True):
        for position in range(1, len(tokens)):
            if not hidden[position]:
                parts = [math.exp(logit) for logit in text[position - 1]]
                costs.append(-math.log(parts[tokens[position]] / sum(parts)))
    return sum(costs) / len(costs)


def _loss(
    result: str,
    predictions: str = "logits[:, :-1]",
    targets: str = "ids[:, 1:]",
    padding: str = "is_padding[:, 1:]",
    losses: str = 'F.cross_entropy(predictions.transpose(1, 2), targets, reduction="none")',
) -> str:
    """Return the cell of exercise 04.2 with its steps as given."""
    return f'''\
def next_token_loss(logits, ids, is_padding):
    """The mean loss in nats per token, a number.

    logits (batch, position, vocab), ids and is_padding (batch, position). Texts shorter than the
    batch are filled up with padding at their end; is_padding is True there. A model is to predict
    the tokens of the texts, and no padding.
    """
    predictions, targets, padding = {predictions}, {targets}, {padding}
    # (batch, position)
    losses = {losses}
    return {result}
'''


_MEAN = "losses[~padding].mean()"
_ZEROED = "losses.masked_fill(padding, 0)"

REPAIR_LOSS = Exercise(
    id="04.2",
    kind="repair",
    title="A loss that padding makes look better",
    section="The loop by hand",
    answer="next_token_loss",
    results=("loss",),
    inputs=_padded_batches,
    expected=_token_by_token,
    stub=_loss(f"{_ZEROED}.mean()"),
    solution=_loss(_MEAN),
    why="Set to 0, the loss of the padding does no harm to the sum, but `mean` still divides by it: a batch that is half "
    "padding shows half the loss, and its tokens move the weights half as far. Two runs whose texts were padded differently "
    "could not be compared. Leave the padding out of the sum *and* of the count. (`cross_entropy` does both for targets of "
    "−100, its `ignore_index`.)",
    hints=(
        "Make a batch that is nearly all padding, with random logits. What does the loss come to?",
        "A mean is a sum divided by a number. Which number does `mean` divide by, and which should it be?",
        "Take the mean of the losses at the real targets only: a mask of booleans can pick them out.",
    ),
    mistakes=(
        Mistake(
            _loss("losses.mean()"),
            "Now the model is asked to predict the padding, too. It is left out of the sum and of the count.",
        ),
        Mistake(
            _loss(_MEAN, predictions="logits", targets="ids", padding="is_padding"),
            "The targets are no longer shifted: each position is asked for its own token, which it can see. Such a loss falls "
            "to 0, and the model has learned to copy.",
        ),
        Mistake(
            _loss(f"{_ZEROED}.mean()", predictions="logits", targets="ids", padding="is_padding"),
            "The targets are no longer shifted, and the padding still counts in the mean. The shift was right.",
        ),
        Mistake(
            _loss(_MEAN, predictions="logits[:, 1:]", targets="ids[:, :-1]", padding="is_padding[:, :-1]"),
            "Shifted the wrong way: each position is asked for the token *before* it. The logits at a position belong to the "
            "token that follows.",
        ),
        Mistake(
            _loss(_MEAN, predictions="logits[:, 1:]", targets="ids[:, :-1]"),
            "Shifted the wrong way: each position is asked for the token *before* it, and the padding is another target's.",
        ),
        Mistake(
            _loss(_MEAN, predictions="logits[:, :-2]", targets="ids[:, 2:]", padding="is_padding[:, 2:]"),
            "Shifted twice: each position is asked for the token after the next one. Many a library's model shifts the "
            "targets itself, and whoever shifts them beforehand gets this.",
        ),
        Mistake(
            _loss(_MEAN, predictions="logits[:, 1:]", targets="ids[:, 1:]"),
            "The first position was cut off on both sides, so nothing is shifted: each position is asked for its own token.",
        ),
        Mistake(
            _loss(_MEAN, predictions="logits[:, :-1]", targets="ids[:, :-1]", padding="is_padding[:, :-1]"),
            "The last position was cut off on both sides, so nothing is shifted: each position is asked for its own token.",
        ),
        Mistake(
            _loss(_MEAN, padding="is_padding[:, :-1]"),
            "The padding is that of the positions that predict. Then the last token of each text is asked for the padding "
            "behind it. What decides is whether the *target* is padding.",
        ),
        Mistake(
            _loss("losses[targets != 0].mean()"),
            "Padding is recognised by its id, 0. Texts may hold that token too, and it is often the one that ends them; what "
            "is padding is told by `is_padding`.",
        ),
        Mistake(
            _loss("losses[padding].mean()"),
            "The mask is the wrong way round: that is the mean over the padding, and over nothing else.",
        ),
        Mistake(
            _loss("losses[~padding].sum()"),
            "The padding is gone, but that is the sum. It grows with the batch; the mean does not.",
        ),
        Mistake(
            _loss("losses[~padding].sum() / len(losses)"),
            "That is the mean over the *texts* of their summed losses, so it grows with their length. Divide by "
            "the number of tokens.",
        ),
        Mistake(
            _loss(f"({_ZEROED}.sum(dim=1) / (~padding).sum(dim=1)).mean()"),
            "That is the mean of the texts' own means, in which a token of a short text weighs more than one of a long text. "
            "Every token weighs the same.",
        ),
        Mistake(
            _loss(f"({_ZEROED}.sum(dim=0) / (~padding).sum(dim=0)).mean()"),
            "That is the mean of the positions' own means, in which a token far behind, where few texts reach, weighs more. "
            "Every token weighs the same.",
        ),
        Mistake(
            _loss(f"{_ZEROED}.sum() / (~is_padding).sum()"),
            "The count is one too high for each text: its first token is nobody's target, for nothing stands before it.",
        ),
        Mistake(
            _loss(f"{_ZEROED}.sum() / ids.numel()"),
            "The sum is right. It is divided by all positions, padding and all.",
        ),
        Mistake(
            _loss(f"{_ZEROED}.sum() / padding.sum()"),
            "The sum is right. It is divided by the number of *padding* targets, where it should be that of the others.",
        ),
        Mistake(
            _loss("losses[~padding].mean() / math.log(2)"),
            "The right loss, in bits. Here it is asked for in nats, as `cross_entropy` gives it.",
        ),
        Mistake(
            _loss("losses[~padding].mean().exp()"),
            "That is the perplexity, the exponential of the loss. Return the loss.",
        ),
        Mistake(
            _loss(
                "losses[~padding].mean()",
                losses='F.cross_entropy(predictions.softmax(-1).transpose(1, 2), targets, reduction="none")',
            ),
            "Padding is right, but the logits go through a softmax first. `cross_entropy` takes the softmax itself, and of "
            "probabilities it makes a nearly even distribution.",
        ),
        Mistake(
            _loss(
                "losses[~padding].mean()",
                losses='F.cross_entropy(predictions.reshape(len(ids), -1, ids.shape[1] - 1), targets, reduction="none")',
            ),
            "Padding is right, but the logits were reshaped where a transpose is needed: that tears each distribution apart, "
            "and shares it out among the positions.",
        ),
    ),
)
