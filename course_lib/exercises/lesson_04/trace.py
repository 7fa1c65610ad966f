"""Exercise 04.1: three tokens in bits per byte, by hand."""

import math

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE"]

_TOKENS = {"So": 1 / 4, " naïve": 1 / 256, "!": 1 / 32}


def _code_length() -> float:
    """Return how long the text is when it is written with the model's probabilities, in bits for each byte it had."""
    return -math.log2(math.prod(_TOKENS.values())) / len("".join(_TOKENS).encode())


TRACE = Exercise(
    id="04.1",
    kind="trace",
    title="Bits per byte by hand",
    section="Cross-entropy in bits",
    answer="bits_per_byte",
    results=("bits_per_byte",),
    expected=_code_length,
    tolerance=0.01,
    stub="""\
# A text of three tokens, and the probability that the model gave to each one before it came:
#     So        2 bytes    1/4
#     ·naïve    7 bytes    1/256      (· is the space; ï takes two bytes in UTF-8)
#     !         1 byte     1/32
# What is the model's loss on this text, in bits per byte?
# By hand: every probability is a power of two.
bits_per_byte = ...
""",
    solution="""\
# −log₂ of 1/4, 1/256 and 1/32 is 2, 8 and 5: together 15 bits, for a text of 2 + 7 + 1 = 10 bytes
bits_per_byte = (2 + 8 + 5) / (2 + 7 + 1)
""",
    why="A token of probability 1/256 costs 8 bits: that is what it takes to pick one of 256 things that are equally likely. "
    "Together the text costs 15 bits. Per token that makes 5; had a tokenizer cut it into two tokens, the same 15 bits would "
    "make 7.5 per token, and the model would be no worse. Bytes are there before any tokenizer is, so bits per byte "
    "can be compared: 1.5 here, where a file without any model takes 8.",
    hints=(
        "What does each token cost in bits? Then: how many bits does the whole text cost, and how many bytes has it?",
        "A probability of 1/2 costs one bit, and each further halving one more: count how often 1 is halved.",
        "Add up the bits of all three tokens, add up their bytes, and divide once, at the very end.",
    ),
    mistakes=(
        Mistake(
            "bits_per_byte = 15 / 3",
            "That is the loss in bits per *token*. It depends on how the tokenizer cut the text; the bytes do not.",
        ),
        Mistake(
            "bits_per_byte = 15",
            "That is what the whole text costs. Share it out over its bytes.",
        ),
        Mistake(
            "bits_per_byte = 15 * math.log(2) / 10",
            "Per byte, but in nats: that is the natural logarithm. A bit is one halving, the logarithm to the base 2.",
        ),
        Mistake(
            "bits_per_byte = 15 * math.log(2) / 3",
            "That is what `cross_entropy` would return: nats, and per token. Both units are still to be changed.",
        ),
        Mistake(
            "bits_per_byte = 15 * math.log(2)",
            "That is what the whole text costs in nats. Count halvings for bits, and share them out over the bytes.",
        ),
        Mistake(
            "bits_per_byte = 15 / math.log(2) / 10",
            "That takes the 2, 8 and 5 for nats. They are halvings, and so they are bits already.",
        ),
        Mistake(
            "bits_per_byte = 15 * math.log10(2) / 10",
            "That is the logarithm to the base 10. A bit is one halving: the base is 2.",
        ),
        Mistake(
            "bits_per_byte = (2 / 2 + 8 / 7 + 5 / 1) / 3",
            "That is the mean of the three tokens' own ratios, in which the one byte of `!` weighs as much as the seven of "
            "`·naïve`. Add up the bits, add up the bytes, and divide only then.",
        ),
        Mistake(
            "bits_per_byte = 2 / 2 + 8 / 7 + 5 / 1",
            "Those are the three tokens' own ratios, added up. Add up the bits, add up the bytes, and divide only then.",
        ),
        Mistake(
            "bits_per_byte = (2 * 2 + 7 * 8 + 1 * 5) / 10",
            "Each byte is charged with the whole cost of its token. A token's bits are paid once, for all of its bytes.",
        ),
        Mistake(
            "bits_per_byte = 15 / 9",
            "That is per *character*: the text has 9, the space among them. Bytes are wanted, and the ï takes two.",
        ),
        Mistake(
            "bits_per_byte = 15 / 8",
            "That leaves out the space, and counts ï once. A token's space is part of it, and of its 7 bytes.",
        ),
        Mistake(
            "bits_per_byte = 10 / 15",
            "That is bytes per bit. The other way round.",
        ),
        Mistake(
            "bits_per_byte = 15 / 80",
            "That is the share of the text's 80 bits that the model needs. Divide by the number of bytes, not of their bits.",
        ),
        Mistake(
            "bits_per_byte = 15 / 3 / 10",
            "Divided twice: once by the three tokens and once by the bytes. The bits of all tokens belong to all bytes.",
        ),
        Mistake(
            "bits_per_byte = 15 / 3 * 10 / 3",
            "That is bits per token *times* bytes per token. A longer token spreads its bits over more bytes: divide.",
        ),
        Mistake(
            "bits_per_byte = 2**5",
            "That is the perplexity, 2 to the bits per token. The bits are its logarithm, and here they are wanted per byte.",
        ),
        Mistake(
            "bits_per_byte = 2**1.5",
            "That is the perplexity per byte. The loss in bits is its logarithm to the base 2.",
        ),
        Mistake(
            "bits_per_byte = 1 / 4 * 1 / 256 * 1 / 32",
            "That is the probability of the whole text, 1/2¹⁵. What does it cost in bits, and per byte?",
        ),
        Mistake(
            "bits_per_byte = -math.log2((1 / 4 + 1 / 256 + 1 / 32) / 3)",
            "The probabilities were averaged before the logarithm. Costs are averaged: the logarithm first, token by token.",
        ),
        Mistake(
            "bits_per_byte = -math.log2(1 / 4 + 1 / 256 + 1 / 32) / 10",
            "The probabilities were added before the logarithm. The probability of all three together is their *product*: "
            "it is their bits that add up.",
        ),
        Mistake(
            "bits_per_byte = -15 / 10",
            "The right size. But the logarithm of a probability is negative, and the loss is its opposite: a cost, above 0.",
        ),
    ),
)
