"""Exercise 03.10: the cache of a model, read from its config.json."""

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_CONFIG"]


def _kept_layer_by_layer() -> float:
    """Fill each layer's cache token by token, and drop what has left its window."""
    kept = 0
    for layer in range(1, 13):
        positions = 0
        for _token in range(10_000):
            positions += 1
            if layer % 6 and positions > 500:
                positions = 500
        kept += positions * 1 * (256 + 256) * 2
    return kept / 1e6


TRACE_CONFIG = Exercise(
    id="03.10",
    kind="trace",
    title="The cache of a model, from its config.json",
    section="What has changed since 2017",
    answer="cache_mb",
    results=("cache_mb",),
    expected=_kept_layer_by_layer,
    tolerance=1e-5,
    stub="""\
# From the config.json of a small model, invented in the manner of Gemma 3:
#     "num_hidden_layers": 12, "hidden_size": 640, "intermediate_size": 2048,
#     "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
#     "sliding_window": 500, "sliding_window_pattern": 6, "torch_dtype": "bfloat16"
# Every 6th layer attends to all positions, the others to the last 500 only, and keep no more.
# How many megabytes does its cache take after 10,000 tokens?
cache_mb = ...
""",
    solution="""\
# a key and a value, one head, 256 numbers, 2 bytes: 2 · 1 · 256 · 2 = 1,024 bytes a position
# two layers keep all positions, ten the last 500
cache_mb = (2 * 10_000 + 10 * 500) * 1_024 * 1e-6
""",
    why="A layer keeps a key and a value of 256 numbers for each position that it may still look at: 1,024 bytes. Two layers "
    "keep 10,000 positions, ten keep 500: 25.6 MB. Three fields save here. `num_key_value_heads` a factor of four "
    "(grouped queries, arXiv 2305.13245), `torch_dtype` one of two against float32, and the window with its pattern nearly "
    "one of five (arXiv 2004.05150; with full layers between them, 2503.19786). `head_dim` stands by itself: it is not "
    "`hidden_size` / `num_attention_heads`, which would be 160. `intermediate_size` is d_ff, and leaves nothing in the cache.",
    hints=(
        "Which fields say how long a key is, how many there are for a position, and how many positions a layer keeps?",
        "Of the 12 layers two are every 6th. Count the positions that all layers keep together.",
        "For each position and layer: a key and a value, each of num_key_value_heads · head_dim numbers of 2 bytes.",
    ),
    mistakes=(
        Mistake(
            "cache_mb = 122.88",
            "That lets every layer keep all 10,000 positions. Ten of the twelve have a window of 500.",
        ),
        Mistake("cache_mb = 6.144", "That gives every layer the window. Every 6th attends to all positions."),
        Mistake(
            "cache_mb = 103.424",
            "The pattern is the wrong way round: every 6th layer attends to all, and the five before it have the window.",
        ),
        Mistake("cache_mb = 15.872", "One layer in twelve attends to all here. Every 6th of 12 makes two."),
        Mistake(
            "cache_mb = 16",
            "A head is hidden_size / num_attention_heads wide here. This model says its width: `head_dim`.",
        ),
        Mistake("cache_mb = 102.4", "That keeps four heads. Keys and values have one: `num_key_value_heads`."),
        Mistake("cache_mb = 12.8", "Keys or values are missing, or a number takes one byte here. bfloat16 takes two."),
        Mistake("cache_mb = 51.2", "That is with numbers of 4 bytes. bfloat16 has 2."),
        Mistake(
            "cache_mb = 32",
            "Those vectors are hidden_size wide. Keys and values are num_key_value_heads · head_dim wide.",
        ),
        Mistake(
            "cache_mb = 38.4",
            "Queries are kept as well, or something else beside keys and values. A query is used once.",
        ),
        Mistake("cache_mb = 25_600_000", "That is in bytes. Asked for are megabytes."),
        Mistake("cache_mb = 25_600", "That is in kilobytes. Asked for are megabytes."),
        Mistake("cache_mb = 25_600_000 / 2**20", "That is in mebibytes, of 2²⁰ bytes. A megabyte has a million."),
    ),
)
