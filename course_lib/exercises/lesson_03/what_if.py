"""Exercise 03.8: what if a layer were left out?"""

import functools

import torch
from torch.func import functional_call

from course_lib.exercises.real_model import TEXT_IN_A_CELL, bits_per_token, lesson_names, text_ids
from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WHAT_IF", "bits_without"]


@functools.cache
@torch.inference_mode()
def bits_without(layer: int | None) -> float:
    """Return the loss in bits per token on the exercise's text when `layer` is left out; None: with every layer at work.

    Not by a hook: the two matrices with which the layer writes into the stream are made zero.
    """
    model = lesson_names()["model"].whole
    writing = ("attention.output.weight", "feed_forward.down.weight")
    silent = {
        name: torch.zeros_like(weight)
        for name, weight in model.named_parameters()
        if name.startswith(f"blocks.{layer}.") and name.endswith(writing)
    }
    return bits_per_token(functional_call(model, silent, (text_ids(),)))


def _rise_without_layer_15() -> float:
    return bits_without(15) - bits_without(None)


_EXPERIMENT = f'''\
text = """\\
{TEXT_IN_A_CELL}"""
ids = torch.tensor([tokenizer.encode(text)], device=device)  # (1, position)
'''


def _leaving_out(layer: int) -> str:
    return f"""\
# within this block of code, layer {layer} is left out: it hands on the stream as it came in
with model.blocks[{layer}].register_forward_hook(lambda block, inputs, output: inputs[0]):
    logits = model(ids)  # (1, position, vocab)
"""


def _measured(
    layer: int = 15,
    loss: str = "F.cross_entropy(logits[0, :-1].float(), ids[0, 1:]) / math.log(2)",
    answer: str = "bits(logits) - bits(model(ids))",
) -> str:
    """Return the cell of exercise 03.8 with the layer that is left out, the loss and the comparison as given."""
    return f"""\
{_EXPERIMENT}

def bits(logits):
    return {loss}


{_leaving_out(layer)}skip_bits = ({answer}).item()
"""


WHAT_IF = Exercise(
    id="03.8",
    kind="why",
    title="What if a layer were left out?",
    section="The logit lens",
    answer="skip_bits",
    results=("skip_bits",),
    expected=_rise_without_layer_15,
    names=lesson_names,
    tolerance=0.1,  # in bfloat16, on a GPU, the cost is some 4 % smaller; that of the layer below is 25 % larger
    stub=f"""\
{_EXPERIMENT}{_leaving_out(15)}# By how many bits per token does the mean loss on this text rise
# when layer 15 is left out? Then try layers 0 and 29, for comparison.
skip_bits = ...
""",
    solution=_measured(),
    why="With all layers the model needs 5.8 bits per token. When it is left out, layer 15 costs 0.2 bits, the last layer "
    "29 costs 2.5 bits, and layer 0 costs 12.1 bits: that is worse than guessing blindly among all 49,152 tokens. If "
    "each layer *replaced* the representation, none could be missed. But it only adds, and what flows past a missing "
    "layer is still nearly what the next one was trained to read: two thirds of the layers cost less than half a bit "
    "each. Layer 0 is another matter, for all others were trained to read what it makes of the bare embeddings; and "
    "behind the last layer none is left to make up for it. Depth alone does not decide it: layer 11 costs 2.2 bits. "
    "Larger models, too, can spare layers in the middle more easily than the first and the last ones (arXiv "
    "2406.19384).",
    hints=(
        "Two forward passes on the same ids, one inside the `with` and one outside, and a loss for each.",
        "The logits at position i predict the token at position i + 1: the last logits and the first token have no partner.",
        "Cross-entropy is in nats; a bit is ln 2 nats. Subtract the loss of the whole model from the loss without the layer.",
    ),
    mistakes=(
        Mistake(
            _measured(loss="F.cross_entropy(logits[0, :-1].float(), ids[0, 1:])"),
            "The right difference, but in nats: `cross_entropy` uses the natural logarithm, and one bit is ln 2 nats.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits[0, :-1].float(), ids[0, 1:]) * math.log(2)"),
            "From nats to bits, the loss is divided by ln 2; you multiplied. One nat is 1.44 bits.",
        ),
        Mistake(
            _measured(answer="bits(model(ids)) - bits(logits)"),
            "The right number of bits with the wrong sign: the rise is the loss without the layer minus the loss with it.",
        ),
        Mistake(
            _measured(answer="bits(logits)"),
            "That is a loss, near 6 bits. What is asked is how far the one without layer 15 lies above that of the whole "
            "model: subtract.",
        ),
        Mistake(
            _measured(answer="bits(logits) / bits(model(ids))"),
            "That is the ratio of the two losses. Bits are logarithms already, so they are compared by subtracting.",
        ),
        Mistake(
            _measured(answer="2 ** (bits(logits) - bits(model(ids)))"),
            "That is the ratio of the two perplexities. The rise in bits is its logarithm to the base 2.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits[0].float(), ids[0]) / math.log(2)"),
            "The targets are not shifted: that asks how well each position predicts its own token, not the next one.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction='sum') / math.log(2)"),
            "That is the rise summed over the text. Per token, it is the mean.",
        ),
        Mistake(
            _measured(loss="F.cross_entropy(logits[0, 1:].float(), ids[0, :-1]) / math.log(2)"),
            "The targets are shifted the wrong way: that asks how well each position predicts the token before it.",
        ),
        Mistake(
            _measured(layer=14),
            "That is layer 14, one too low. Layers count from 0, so layer 15 is `model.blocks[15]`.",
        ),
        Mistake(
            _measured(layer=16),
            "That is layer 16, one too high. Layers count from 0, so layer 15 is `model.blocks[15]`.",
        ),
        Mistake(
            _measured(layer=0),
            "That is layer 0, worth comparing! The answer to put in is that of layer 15.",
        ),
        Mistake(
            _measured(layer=29),
            "That is layer 29, worth comparing! The answer to put in is that of layer 15.",
        ),
        Mistake(
            _measured(answer="bits(logits) - bits(logits)"),
            "The rise is 0: nothing has been left out. Are both forward passes run in the same way?",
        ),
    ),
)
