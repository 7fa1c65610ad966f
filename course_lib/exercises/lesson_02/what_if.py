"""Exercise 02.10: what if a model is made multi-query without training it again?"""

import functools
import math
from collections.abc import Callable

import torch
from torch.func import functional_call
from torch.nn import functional as F

from course_lib.exercises.real_model import bits_per_token, lesson_names, text_ids
from course_lib.exercises.registry import Exercise, Mistake
from course_lib.inference.interpret import changed

__all__ = ["WHAT_IF"]


@functools.cache
@torch.inference_mode()
def _cost_with_mean_weights() -> float:
    """Average the rows of the matrices themselves: the mean of three products is the product with the mean matrix."""
    model, ids = lesson_names()["model"].whole, text_ids()
    averaged = {}
    for layer, block in enumerate(model.blocks):
        q, *kv = block.attention.qkv.weight.float().split([576, 192, 192])
        means = [part.view(3, 64, -1).mean(dim=0).repeat(3, 1) for part in kv]
        averaged[f"blocks.{layer}.attention.qkv.weight"] = torch.cat([q, *means]).to(block.attention.qkv.weight.dtype)
    return bits_per_token(functional_call(model, averaged, (ids,))) - bits_per_token(model(ids))


def _bits_with(change: Callable | None = None) -> float:
    """Return the loss in bits per token with `change` behind every layer's projection, as the lesson's `bits_with` does."""
    model, ids = lesson_names()["model"], text_ids()
    projections = [block.attention.qkv for block in model.blocks] if change else []
    with changed(change, *projections):
        return F.cross_entropy(model(ids)[0, :-1].float(), ids[0, 1:]).item() / math.log(2)


def _measured(
    keys: str = "keys.mean(dim=2, keepdim=True).expand_as(keys)",
    values: str = "values.mean(dim=2, keepdim=True).expand_as(values)",
    answer: str = "bits_with(share) - bits_with()",
) -> str:
    """Return the cell of exercise 02.10 with what becomes of the keys and values, and the comparison, as given."""
    return f"""\
def share(out):
    queries, keys, values = out.unflatten(-1, (15, 64)).split([9, 3, 3], dim=2)  # (batch, position, head, 64)
    keys = {keys}
    values = {values}
    return torch.cat([queries, keys, values], dim=2).flatten(2)


mqa_bits = {answer}
"""


WHAT_IF = Exercise(
    id="02.10",
    kind="why",
    title="What if a model is made multi-query without training it again?",
    section="Fewer keys and values",
    answer="mqa_bits",
    results=("mqa_bits",),
    expected=_cost_with_mean_weights,
    names=lambda: {"bits_with": _bits_with},
    tolerance=0.008,  # the mean of the wrong parts comes within 0.83 %; in bfloat16 the two roads lie 0.4 % apart
    stub="""\
# In every layer, the last axis of `out` (batch, position, 960) holds 9 queries, 3 keys and
# 3 values of 64 numbers each. Replace each of the three keys by the mean of the three,
# and each of the three values by the mean of the values.
def share(out):
    return out


# bits_with(share) is the loss in bits per token with that done in all layers,
# bits_with() that of the model as it is. How many bits per token does it cost?
mqa_bits = ...
""",
    solution=_measured(),
    why="From 5.8 bits per token to 13.8: it costs 8.0 bits, and the model is of no use. The queries were trained to "
    "find their own group's keys, and the output matrix to read their own group's values; the mean of three different "
    "things is none of them. Taking key/value head 0 for all is worse still. But the mean is a good place to start "
    "training from: with about 5 % of the original training, models converted in this way come close to what they were "
    "(arXiv 2305.13245, section 2).",
    hints=(
        "Cut the last axis into 15 parts of 64 numbers. Which of them are the keys, and which the values?",
        "The mean goes over the three heads, never over the 64 numbers. What you give back must have the shape of `out` "
        "again.",
        "Split off the queries and leave them alone; put the mean in the place of each of the three; join all 15 parts "
        "again.",
    ),
    mistakes=(
        Mistake(
            _measured(values="values"),
            "Only the keys are shared. Multi-query attention shares the values as well.",
        ),
        Mistake(
            _measured(keys="keys"),
            "Only the values are shared. Multi-query attention shares the keys as well.",
        ),
        Mistake(
            _measured(keys="keys[:, :, :1].expand_as(keys)", values="values[:, :, :1].expand_as(values)"),
            "That gives all groups the key and the value of head 0. Here each becomes the mean of the three (worth "
            "comparing!).",
        ),
        Mistake(
            _measured(
                keys="keys.sum(dim=2, keepdim=True).expand_as(keys)",
                values="values.sum(dim=2, keepdim=True).expand_as(values)",
            ),
            "That is the sum of the three, not the mean: the scores and the values are three times too large.",
        ),
        Mistake(
            _measured(
                keys="keys.mean(dim=3, keepdim=True).expand_as(keys)",
                values="values.mean(dim=3, keepdim=True).expand_as(values)",
            ),
            "The mean goes over the 64 numbers of each head. It should go over the three heads, number by number.",
        ),
        Mistake(
            _measured(answer="bits_with() - bits_with(share)"),
            "The right number of bits with the wrong sign: what it costs is the loss with shared keys and values minus "
            "the loss without.",
        ),
        Mistake(
            _measured(answer="bits_with(share)"),
            "That is the loss with shared keys and values. How much more is it than the loss of the model as it is?",
        ),
        Mistake(
            _measured(answer="bits_with(share) / bits_with()"),
            "That is a ratio. Bits are logarithms already, so they are compared by subtracting.",
        ),
        Mistake(
            "def share(out):\n    return out\n\n\nmqa_bits = bits_with(share) - bits_with()",
            "`share` still gives back what it was given, so nothing has changed in the model.",
        ),
    ),
)
