"""Exercise 02.7: rotary positions for a whole head."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_ROTARY"]


def _rotary_inputs(generator: torch.Generator) -> list[tuple]:
    """Return x (batch, head, position, d_head) and theta; the first and the last case differ in theta alone."""
    shapes = [(2, 3, 5, 8), (1, 4, 7, 6), (3, 5, 4, 2)]
    first, second, third = (torch.randn(*shape, generator=generator) for shape in shapes)
    return [(first, 10_000.0), (second, 100.0), (third, 500.0), (first, 50.0)]


def _turned_as_complex_numbers(x: Tensor, theta: float) -> Tensor:
    """Turn by multiplying complex numbers: the first half of a head is their real part, the second the imaginary."""
    half = x.shape[-1] // 2
    speed = torch.tensor([theta ** (-2 * r / x.shape[-1]) for r in range(half)], dtype=torch.float64)
    angle = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64), speed)
    turned = torch.view_as_real(
        torch.complex(*x.double().split(half, dim=-1)) * torch.polar(torch.ones(()).double(), angle)
    )
    return torch.cat(turned.unbind(-1), dim=-1).to(x.dtype)


_SIGNATURE = '''\
def turn(x, theta):
    """Rotary positions: return x (batch, head, position, d_head) with each pair turned.

    Pair r is (x[..., r], x[..., r + d_head / 2]); at position m, counted from 0, it turns by the
    angle m · theta^(-2r / d_head).
    """
'''


def _turned(
    exponent: str = "-2 * torch.arange(half) / x.shape[-1]",
    positions: str = "torch.arange(x.shape[2])[:, None]",
    pairs: str = "x[..., :half], x[..., half:]",
    result: str = "[first * cos - second * sin, first * sin + second * cos]",
    join: str = "torch.cat({}, dim=-1)",
) -> str:
    """Return the cell of exercise 02.7 with its steps as given."""
    return f"""\
{_SIGNATURE}    half = x.shape[-1] // 2
    angle = {positions} * theta ** ({exponent})  # (position, pair)
    cos, sin = angle.cos(), angle.sin()
    first, second = {pairs}
    return {join.format(result)}
"""


WRITE_ROTARY = Exercise(
    id="02.7",
    kind="write",
    title="Rotary positions",
    section="RoPE: turn the queries and keys",
    answer="turn",
    results=("turned",),
    inputs=_rotary_inputs,
    expected=_turned_as_complex_numbers,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_turned(),
    why="A pair is a point in a plane, and turning it by the angle α takes (a, b) to (a cos α − b sin α, a sin α + b cos "
    "α). All pairs are turned at once, for the angles (position, pair) broadcast over batch and head. No length changes, "
    "and a query times a key depends on their positions only through the difference of the angles.",
    hints=(
        "Begin with the angles: a table with a row for each position and a column for each pair.",
        "Cut x into its first and its second half: the pairs then stand at the same place in both, and you can turn all "
        "at once.",
        "A point (a, b) turned by the angle α has a new first number made of both old ones, and a new second one too. At "
        "position 0 nothing may change.",
    ),
    mistakes=(
        Mistake(
            _turned(pairs="x[..., ::2], x[..., 1::2]", join="torch.stack({}, dim=-1).flatten(-2)"),
            "These pairs are neighbours, (x[0], x[1]), (x[2], x[3]), …, as in the paper. Here, as in Llama's code, pair "
            "r is x[r] with x[r + d_head / 2]: the same idea, but weights trained with one do not fit the other.",
        ),
        Mistake(
            _turned(result="[first * cos + second * sin, second * cos - first * sin]"),
            "That turns the other way round: clockwise. Differences still work, but not with keys that turn "
            "counter-clockwise.",
        ),
        Mistake(
            _turned(result="[first * cos + second * sin, first * sin + second * cos]"),
            "That does not turn: lengths change. Of the four products one has a minus.",
        ),
        Mistake(
            _turned(result="[first + cos, second + sin]"),
            "That adds the positions, as the Transformer of 2017 does. Rotary positions multiply: they turn what is there.",
        ),
        Mistake(
            _turned(exponent="-torch.arange(half) / x.shape[-1]"),
            "The pairs slow down only half as fast as they should: the exponent is −2r / d_head.",
        ),
        Mistake(
            _turned(exponent="2 * torch.arange(half) / x.shape[-1]"),
            "The later pairs turn faster and faster. The exponent is negative: they turn more slowly.",
        ),
        Mistake(
            _turned(positions="torch.arange(1, x.shape[2] + 1)[:, None]"),
            "The positions are counted from 1; here they count from 0, and at position 0 nothing turns.",
        ),
        Mistake(
            _turned(positions="torch.arange(x.shape[1])[:, None, None]"),
            "The angle grows with the head. All heads turn alike; it is the position, the axis before the last, that counts.",
        ),
        Mistake(
            _turned(exponent="0 * torch.arange(half)"),
            "All pairs turn at the same speed, one radian a position. Each pair has its own: theta to the power −2r / "
            "d_head.",
        ),
    ),
)
