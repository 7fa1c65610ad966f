"""Exercise 03.2: the block that normalises its stream away."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR_BLOCK"]


class _Part:
    """A norm or a sublayer as the learner meets it: a function, whatever is inside."""

    def __init__(self, compute: Callable[[Tensor], Tensor]):
        self._compute = compute

    def __call__(self, x: Tensor) -> Tensor:
        return self._compute(x)

    def __repr__(self) -> str:
        return "a function"


def _block_inputs(generator: torch.Generator) -> list[tuple]:
    """Return x (batch, position, d_model), an attention, a feed-forward network and two norms, all with random weights."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def parts(position: int, d_model: int) -> tuple[_Part, ...]:
        mix, values, inner = draw(position, position).softmax(dim=-1), draw(d_model, d_model), draw(d_model, d_model)
        scales = 1 + draw(2, d_model).abs()
        return (
            _Part(lambda x: mix @ x @ values),
            _Part(lambda x: F.gelu(x @ inner)),
            *(_Part(lambda x, scale=scale: F.rms_norm(x, (d_model,), scale)) for scale in scales),
        )

    sizes = [(2, 5, 7), (3, 4, 6), (1, 6, 8)]
    # three times the size that a norm would give it: a stream that was normalised is told from one that was not
    return [(3 * draw(batch, position, d_model), *parts(position, d_model)) for batch, position, d_model in sizes]


def _sum_of_what_is_written(
    x: Tensor, attention: Callable, feed_forward: Callable, norm_1: Callable, norm_2: Callable
) -> Tensor:
    """Keep apart what came in and what each sublayer wrote: the stream is their sum."""
    written = [x]
    for norm, sublayer in ((norm_1, attention), (norm_2, feed_forward)):
        written.append(sublayer(norm(torch.stack(written).sum(dim=0))))
    return torch.stack(written).sum(dim=0)


def _block(*lines: str) -> str:
    """Return the cell of exercise 03.2 with the lines of its body as given."""
    body = "\n".join(f"    {line}" for line in lines)
    return f'''\
def block(x, attention, feed_forward, norm_1, norm_2):
    """One pre-norm layer: map the stream x (batch, position, d_model) to the same shape.

    norm_1 belongs to the attention, norm_2 to the feed-forward network.
    All four are functions that keep the shape.
    """
{body}
    return x
'''


_FIRST, _SECOND = "x = x + attention(norm_1(x))", "x = x + feed_forward(norm_2(x))"
_STUB_FIRST = "x = norm_1(x)", "x = x + attention(x)"
_STUB_SECOND = "x = norm_2(x)", "x = x + feed_forward(x)"

REPAIR_BLOCK = Exercise(
    id="03.2",
    kind="repair",
    title="A block that normalises its stream away",
    section="Where the norm stands",
    answer="block",
    results=("stream",),
    inputs=_block_inputs,
    expected=_sum_of_what_is_written,
    stub=_block(*_STUB_FIRST, *_STUB_SECOND),
    solution=_block(_FIRST, _SECOND),
    why="The norm belongs to what the sublayer *reads*. What it writes is added to the stream as it was, so from the "
    "embedding to the last layer runs a path on which nothing happens but additions: whatever a layer wrote is still there, "
    "and the gradient reaches it undiminished. With `x = norm(x)` the stream itself is rescaled twice a layer, and that "
    "path is gone.",
    hints=(
        "Follow what came in as x through the four lines. Does anything happen to it but being added to?",
        "The sublayer should read the normalised stream; its output should be added to the stream as it was before the norm.",
        "Give the norm's result to the sublayer without storing it in x. Both halves need it.",
    ),
    mistakes=(
        Mistake(
            _block(_FIRST, *_STUB_SECOND),
            "The first half is right. The second still overwrites the stream with its norm.",
        ),
        Mistake(
            _block(*_STUB_FIRST, _SECOND),
            "The second half is right. The first still overwrites the stream with its norm.",
        ),
        Mistake(
            _block("x = attention(norm_1(x))", "x = feed_forward(norm_2(x))"),
            "The residual connections are gone: each sublayer replaces the stream, where it should add to it.",
        ),
        Mistake(
            _block("x = attention(norm_1(x))", _SECOND),
            "The attention replaces the stream. What it writes should be added to what was there.",
        ),
        Mistake(
            _block(_FIRST, "x = feed_forward(norm_2(x))"),
            "The feed-forward network replaces the stream. What it writes should be added to what was there.",
        ),
        Mistake(
            _block("x = norm_1(x + attention(x))", "x = norm_2(x + feed_forward(x))"),
            "That is post-norm, as in the Transformer of 2017: the norm stands on the stream, behind the sum. Pre-norm "
            "leaves the stream alone, and normalises what each sublayer reads.",
        ),
        Mistake(
            _block("x = x + norm_1(attention(x))", "x = x + norm_2(feed_forward(x))"),
            "The stream is left alone, but the norm stands on what each sublayer writes, as in OLMo 2. In a pre-norm layer "
            "it stands on what it reads.",
        ),
        Mistake(
            _block("x = x + norm_1(attention(norm_1(x)))", "x = x + norm_2(feed_forward(norm_2(x)))"),
            "That is a norm before and after each sublayer, as in Gemma 3 (which has four different ones for it). A pre-norm "
            "layer normalises only what is read.",
        ),
        Mistake(
            _block("x = x + attention(x)", "x = x + feed_forward(x)"),
            "The norms are gone, and the sublayers read a stream that grows with every layer. Mend where they stand.",
        ),
        Mistake(
            _block(_FIRST, "x = x + feed_forward(norm_1(x))"),
            "Both sublayers read through norm_1. Each has a norm of its own, with weights of its own.",
        ),
        Mistake(
            _block("x = x + attention(norm_2(x))", "x = x + feed_forward(norm_1(x))"),
            "The two norms have changed places: norm_1 belongs to the attention, and norm_2 to the feed-forward network.",
        ),
        Mistake(
            _block("x = x + attention(norm_1(x)) + feed_forward(norm_2(x))"),
            "Here the feed-forward network reads the attention's input, so it cannot use what the attention has just fetched. "
            "That is a parallel block, as in GPT-NeoX: both can be computed at once, but it is another model.",
        ),
        Mistake(
            _block("x = x + attention(norm_1(x)) + feed_forward(norm_1(x))"),
            "That is the parallel block of GPT-J and PaLM: both sublayers read the same input, through one norm. Here the "
            "feed-forward network comes after the attention, and reads what it wrote too.",
        ),
        Mistake(
            _block("h = x + attention(norm_1(x))", "x = x + feed_forward(norm_2(h))"),
            "The feed-forward network reads the right thing, but its output is added to the stream from before the "
            "attention: what the attention wrote is lost.",
        ),
        Mistake(
            _block(_SECOND, _FIRST),
            "The norms stand rightly, but the feed-forward network now comes first. It comes after the attention.",
        ),
    ),
)
