"""Exercise 01.7: what the attention sink is worth, measured on the real model."""

import torch
from torch import Tensor

from course_lib.exercises.real_model import TEXT_IN_A_CELL, bits_per_token, lesson_names, text_ids
from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WHAT_IF"]

_EXPERIMENT = f'''\
text = """\\
{TEXT_IN_A_CELL}"""
ids = torch.tensor([tokenizer.encode(text)], device=device)  # (1, query)
# True: each query sees itself and the 15 keys before it; the model hides the future by itself
n = ids.shape[1]
window = torch.ones(n, n, dtype=torch.bool, device=device).triu(-15)  # (query, key)
'''


def _sink_bits() -> float:
    model, ids = lesson_names()["model"], text_ids()
    position = torch.arange(ids.shape[1], device=ids.device)
    near = position[:, None] - position < 16

    def bits(mask: Tensor) -> float:
        return bits_per_token(model(ids, mask=mask))

    return bits(near) - bits(near | (position == 0))


def _measured(
    change: str = "with_sink[:, 0] = True",
    loss: str = "F.cross_entropy(logits[0, :-1].float(), ids[0, 1:]) / math.log(2)",
    answer: str = "bits(model(ids, mask=window)) - bits(model(ids, mask=with_sink))",
) -> str:
    """Return the cell of exercise 01.7 with its mask, its loss and its comparison as given."""
    return f"""\
{_EXPERIMENT}with_sink = window.clone()
{change}

def bits(logits):
    return {loss}

sink_bits = ({answer}).item()
"""


WHAT_IF = Exercise(
    id="01.7",
    kind="why",
    title="What if tokens saw only their neighbours, and what is position 0 worth then?",
    section="Attention sinks",
    answer="sink_bits",
    results=("sink_bits",),
    expected=_sink_bits,
    names=lesson_names,
    tolerance=0.05,
    stub=f"""\
{_EXPERIMENT}# model(ids, mask=window) returns the logits (1, query, vocab) of the next tokens. Compare it
# with a mask that lets every query see key 0 as well: how many bits per token does that take
# off the mean loss?
sink_bits = ...
""",
    solution=_measured(),
    why="With the window alone the model is lost: 10.4 bits per token against 5.8 when it sees everything. Giving back one "
    "key, that of position 0, takes 4.0 bits off; giving back position 5 or 10 instead takes off about half a bit. Not that "
    "‘Attention’, the first token, says so much: weights must add up to 1, heads with nothing to look for were trained to "
    "park theirs on position 0, and without it they spread weight where it does harm. That is why models that read endless "
    "text through a window keep the first positions in it (arXiv 2309.17453).",
    hints=(
        "You need two forward passes on the same ids, one for each mask, and one loss for each.",
        "The logits at position i predict the token at position i + 1: the last logits and the first token have no partner.",
        "Cross-entropy is in nats; a bit is ln 2 nats. Subtract the loss with key 0 given back from the loss without.",
    ),
    mistakes=(
        Mistake(
            _measured(loss="F.cross_entropy(logits[0, :-1].float(), ids[0, 1:])"),
            "The right difference, but in nats: `cross_entropy` uses the natural logarithm, and one bit is ln 2 nats.",
        ),
        Mistake(
            _measured(answer="bits(model(ids, mask=with_sink)) - bits(model(ids, mask=window))"),
            "The right number of bits with the wrong sign: what position 0 takes off the loss is the loss without it minus the "
            "loss with it.",
        ),
        Mistake(
            _measured(answer="bits(model(ids, mask=window)) / bits(model(ids, mask=with_sink))"),
            "That is a ratio. Bits are logarithms already, so they are compared by subtracting.",
        ),
        Mistake(
            _measured(answer="bits(model(ids, mask=window))"),
            "That is the loss with the window. How much of it goes away when key 0 comes back? Subtract the loss with both.",
        ),
        Mistake(
            _measured(answer="bits(model(ids, mask=window)) - bits(model(ids))"),
            "That is what the window costs against seeing everything. Give back key 0 only, and keep the window for the rest.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits[0].float(), ids[0]) / math.log(2)"),
            "The targets are not shifted: that asks how well each position predicts its own token, not the next one.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction='sum') / math.log(2)"),
            "That is the sum over the text. Per token, it is the mean.",
        ),
        Mistake(
            _measured("with_sink[0, :] = True"),
            "The mask changes nothing: it lets query 0 see everything, and the model hides the future from it anyway. Rows are "
            "queries and columns are keys; it is a column that must be opened.",
        ),
    ),
)
