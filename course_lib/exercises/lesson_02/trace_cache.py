"""Exercise 02.8: what a key/value cache takes."""

import torch

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_CACHE"]


def _held() -> float:
    """Lay the cache out, without memory, and ask for its size."""
    sizes = {"keys and values": 2, "layers": 24, "texts": 8, "key/value heads": 4, "tokens": 4096, "d_head": 128}
    return torch.empty(*sizes.values(), dtype=torch.bfloat16, device="meta").nbytes / 1e9


TRACE_CACHE = Exercise(
    id="02.8",
    kind="trace",
    title="The cache of eight texts",
    section="What has to be kept",
    answer="gigabytes",
    results=("gigabytes",),
    expected=_held,
    tolerance=0.007,  # 1.6 is near enough
    stub="""\
# A model of 24 layers has 16 query heads and 4 key/value heads of 128 numbers, 2 bytes each.
# It writes eight texts at once, and each is 4,096 tokens long by now.
# How many gigabytes (1e9 bytes) does its cache take?
gigabytes = ...
""",
    solution="""\
# keys and values, layers, key/value heads, numbers, bytes: 49,152 bytes a token
gigabytes = 2 * 24 * 4 * 128 * 2 * 8 * 2**12 / 10**9
""",
    why="49,152 bytes a token, times 32,768 tokens. Of the 16 query heads nothing is kept. With a key/value head for "
    "each of them it would be 6.4 GB, and the same memory would hold two texts in the place of eight.",
    hints=(
        "Begin with one token of one text, in one layer.",
        "Which of the 16 and the 4 heads does the cache hold? And what is kept for each of them?",
        "Keys and values · layers · key/value heads · numbers · bytes, then tokens, then texts.",
    ),
    mistakes=(
        Mistake(
            "gigabytes = 2 * 24 * 16 * 128 * 2 * 8 * 2**12 / 10**9",
            "That keeps something for each query head. Queries are not kept, and groups share keys and values.",
        ),
        Mistake(
            "gigabytes = 24 * 4 * 128 * 2 * 8 * 2**12 / 10**9",
            "Half of it is missing: either values are kept beside keys, or a number takes two bytes. Both are so.",
        ),
        Mistake(
            "gigabytes = 2 * 24 * 4 * 128 * 2 * 4096 / 1e9",
            "That is one text. Each has a cache of its own.",
        ),
        Mistake(
            "gigabytes = 2 * 24 * 4 * 128 * 2 * 8 * 4096 / 2**30",
            "That is in GiB, of 2³⁰ bytes. Here a gigabyte has 1e9.",
        ),
        Mistake(
            "gigabytes = 2 * 4 * 128 * 2 * 8 * 2**12 / 10**9",
            "That is one layer. Each layer has keys and values of its own.",
        ),
    ),
)
