"""Exercise 01.6: the sliding-window mask."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_WINDOW"]


def _window_inputs(generator: torch.Generator) -> list[tuple]:
    """Return (length, window): two windows for one length, one of them 1, and a window longer than the text."""
    length = int(torch.randint(7, 12, (), generator=generator))
    window = int(torch.randint(2, 5, (), generator=generator))
    return [(length, window), (length, 1), (4, 6)]


def _window_entry_by_entry(length: int, window: int) -> Tensor:
    return torch.tensor([[query - window < key <= query for key in range(length)] for query in range(length)])


_WINDOW_SIGNATURE = '''\
def sliding_window_mask(length, window):
    """Return the boolean mask (query, key), both of size length: True = may attend.

    Each position sees the last `window` positions, itself among them, and never the future.
    """
'''


def _windowed(condition: str) -> str:
    """Return the cell of exercise 01.6, where distance is how far back the key lies, with the mask as given."""
    return f"""\
{_WINDOW_SIGNATURE}    position = torch.arange(length)
    distance = position[:, None] - position[None, :]  # (query, key): how far back the key lies
    return {condition}
"""


WRITE_WINDOW = Exercise(
    id="01.6",
    kind="write",
    title="A sliding-window mask",
    section="The causal mask",
    answer="sliding_window_mask",
    results=("mask",),
    inputs=_window_inputs,
    expected=_window_entry_by_entry,
    stub=f"{_WINDOW_SIGNATURE}    ...\n",
    solution=_windowed("(distance >= 0) & (distance < window)"),
    why="A key at distance 0 is the position itself, so a window of w reaches back to distance w − 1. Two conditions, one for "
    "each edge of the band: not the future, and not too far back. Each row then has at least one True, so no softmax is over "
    "nothing. A function that skips what is hidden then costs length × window, not length²; the mask alone saves nothing.",
    hints=(
        "Draw the mask for length 5 and window 2 on paper, rows are queries, before writing any code.",
        "Two things decide an entry: whether the key lies in the future, and how far back it lies.",
        "Subtract the key's position from the query's, for all pairs at once. For which differences is the entry True?",
    ),
    mistakes=(
        Mistake(
            _windowed("~((distance >= 0) & (distance < window))"),
            "The mask is inverted. Here, as in `scaled_dot_product_attention`, True means may attend; it is "
            "`nn.MultiheadAttention` where True means ignore.",
        ),
        Mistake(
            _windowed("(distance >= 0) & (distance <= window)"),
            "The window reaches one position too far back: the position itself counts as one of the `window`.",
        ),
        Mistake(
            _windowed("(distance >= 0) & (distance < window - 1)"),
            "The window is one position too short: a window of 1 still sees the position itself.",
        ),
        Mistake(
            _windowed("(distance > 0) & (distance <= window)"),
            "The window ends before the position itself: it should be the last of the `window` positions that are seen.",
        ),
        Mistake(
            _windowed("distance.abs() < window"),
            "The window reaches into the future as far as into the past: one of its two edges is the diagonal.",
        ),
        Mistake(
            _windowed("distance < window"),
            "The past is cut off where it should be, but the whole future is visible.",
        ),
        Mistake(
            _windowed("(distance <= 0) & (distance > -window)"),
            "The mask is transposed: each position sees itself and the future. Rows are queries and columns are keys.",
        ),
        Mistake(
            _windowed("distance >= 0"),
            "That is the causal mask: the future is hidden, but the window is not used, and the whole past is visible.",
        ),
    ),
)
