"""Exercise 04.9: what if a passage stands in the training text sixteen times?"""

import math

import torch

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WHAT_IF", "bits_a_character", "mean_bits"]


def bits_a_character(times: int) -> float:
    """Return the loss on the passages that the text holds `times` times: character by character, in plain numbers."""
    from course_lib.pretraining.memorisation import (
        planted_model,  # its optimizers take most of a second to import: not in lesson 01
    )

    planted = planted_model()
    return mean_bits(planted.model, planted.passages[times])


def mean_bits(model: torch.nn.Module, ids: torch.Tensor) -> float:
    """Return the mean loss of `model` on passages, `ids` (passage, position), in bits a token: one token after the other."""
    with torch.inference_mode():
        chances = model(ids).float().softmax(dim=-1)
    costs = []
    for passage, probabilities in zip(ids.tolist(), chances.tolist(), strict=True):
        costs += [-math.log2(probabilities[at][token]) for at, token in enumerate(passage[1:])]
    return sum(costs) / len(costs)


def _saved_by_16() -> float:
    return bits_a_character(0) - bits_a_character(16)


_EXPERIMENT = """\
from course_lib.pretraining.memorisation import planted_model

# a small character model, trained in some seconds on text with passages planted in it
planted = planted_model()
"""


def _measured(
    loss: str = "F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) / math.log(2)",
    answer: str = "bits(0) - bits(16)",
) -> str:
    """Return the cell of exercise 04.9 with the loss and the comparison as given."""
    return f"""\
{_EXPERIMENT}

def bits(times):
    ids = planted.passages[times]
    with torch.inference_mode():
        logits = planted.model(ids)  # (passage, position, vocab)
    return ({loss}).item()


saved_bits = {answer}
"""


WHAT_IF = Exercise(
    id="04.9",
    kind="why",
    title="What if a passage is in the training text sixteen times?",
    section="Data matters",
    answer="saved_bits",
    results=("saved_bits",),
    expected=_saved_by_16,
    tolerance=0.02,
    stub=f"""\
{_EXPERIMENT}ids = planted.passages[16]  # (passage, position): eight passages that the text holds 16 times each
# The text holds planted.passages[0], of the same play, not at all. planted.model(ids) returns
# logits (passage, position, vocab). By how many bits a character is the mean loss on the 16-fold
# passages lower than on those that the model never saw?
# Then try the passages that it saw once, and four times.
saved_bits = ...
""",
    solution=_measured(),
    why="On passages that it never saw the model needs about 2.9 bits a character. What its text holds once costs 0.4 less, "
    "what it holds four times 1.3 less, and what it holds sixteen times 2.2 less: less than a bit is left, for the model has "
    "the passages nearly by heart. Nothing about Othello was learned with that; but the training loss falls with every copy, "
    "and a test set that shares text with the training set, be it in another edition, rewards it as well. In large models, "
    "too, memorisation grows with the logarithm of the number of copies (arXiv 2202.07646), and without the copies they "
    "repeat their training text ten times less often (arXiv 2107.06499).",
    hints=(
        "Two sets of passages, one loss for each, and their difference.",
        "The logits at position i predict the character at position i + 1: the last logits and the first one have no partner.",
        "Cross-entropy is in nats; a bit is ln 2 nats. Subtract the loss on what was seen 16 times from that on what was not.",
    ),
    mistakes=(
        Mistake(
            _measured(loss="F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())"),
            "The right difference, but in nats: `cross_entropy` uses the natural logarithm, and one bit is ln 2 nats.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) * math.log(2)"),
            "From nats to bits, the loss is divided by ln 2; you multiplied. One nat is 1.44 bits.",
        ),
        Mistake(
            _measured(answer="bits(16) - bits(0)"),
            "The right number of bits with the wrong sign: how much lower it is on what was seen is the loss on what was not "
            "seen, minus the loss on what was.",
        ),
        Mistake(
            _measured(answer="bits(16)"),
            "That is the loss on the passages that were seen 16 times. How far is it below that on the unseen ones?",
        ),
        Mistake(
            _measured(answer="bits(0)"),
            "That is the loss on the passages that were never seen. How far below it is that on those seen 16 times?",
        ),
        Mistake(
            _measured(answer="bits(0) / bits(16)"),
            "That is the ratio of the two losses. Bits are logarithms already, so they are compared by subtracting.",
        ),
        Mistake(
            _measured(answer="bits(16) / bits(0)"),
            "That is the share of the loss that is left. Bits are logarithms already, so they are compared by subtracting.",
        ),
        Mistake(
            _measured(answer="2 ** (bits(0) - bits(16))"),
            "That is the ratio of the two perplexities. What is saved in bits is its logarithm to the base 2.",
        ),
        Mistake(
            _measured(answer="2 ** bits(0) - 2 ** bits(16)"),
            "That is the difference of the perplexities. Take that of the losses in bits.",
        ),
        Mistake(
            _measured(answer="bits(0) - bits(1)"),
            "That is what having been seen once saves, worth comparing! The answer to put in is that of 16 times.",
        ),
        Mistake(
            _measured(answer="bits(0) - bits(4)"),
            "That is what having been seen four times saves, worth comparing! The answer to put in is that of 16 times.",
        ),
        Mistake(
            _measured(answer="bits(1) - bits(16)"),
            "That compares 16 times with once. Compare with the passages that the text does not hold at all.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits.flatten(0, 1), ids.flatten()) / math.log(2)"),
            "The targets are not shifted: that asks how well each position predicts its own character, not the next one.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten()) / math.log(2)"),
            "The targets are shifted the wrong way: that asks how well each position predicts the character before it.",
        ),
        Mistake(
            _measured(
                loss="F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction='sum') / math.log(2)"
            ),
            "That is what is saved on all eight passages together. Per character, it is the mean.",
        ),
        Mistake(
            _measured(
                loss="F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction='sum')"
                " / len(ids) / math.log(2)"
            ),
            "That is what is saved on a whole passage. Per character, it is the mean over the characters too.",
        ),
        Mistake(
            _measured(
                loss="F.cross_entropy(logits[:, :-1].softmax(dim=-1).flatten(0, 1), ids[:, 1:].flatten()) / math.log(2)"
            ),
            "The logits go through a softmax twice: `cross_entropy` takes it itself.",
        ),
        Mistake(
            _measured(answer="bits(16) - bits(16)"),
            "The difference is 0: both losses are those of the same passages.",
        ),
    ),
)
