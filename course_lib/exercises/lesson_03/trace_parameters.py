"""Exercise 03.4: the parameters of a block, by hand."""

from course_lib.architecture import accounting
from course_lib.architecture.transformer import TransformerConfig
from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_PARAMETERS"]


def _of_a_block() -> float:
    """Return what a second layer adds to a whole model, in thousands."""
    one, two = (
        TransformerConfig(
            vocab_size=7, d_model=100, n_layers=layers, n_heads=5, n_kv_heads=1, d_ff=300, context_length=9
        )
        for layers in (1, 2)
    )
    return (sum(accounting.parameter_count(two).values()) - sum(accounting.parameter_count(one).values())) / 1000


TRACE_PARAMETERS = Exercise(
    id="03.4",
    kind="trace",
    title="The parameters of a block by hand",
    section="Counting parameters and operations",
    answer="block_thousands",
    results=("block_thousands",),
    expected=_of_a_block,
    tolerance=1e-5,
    stub="""\
# A pre-norm block like SmolLM2's (RMSNorm, SwiGLU, no biases) with
#     d_model = 100, 5 query heads, 1 key/value head, d_head = 20, d_ff = 300.
# How many thousand parameters has it?
block_thousands = ...
""",
    solution="""\
attention_weights = 100 * (5 + 1 + 1) * 20 + 5 * 20 * 100  # to queries, keys, values; and the output
block_thousands = (attention_weights + 3 * 100 * 300 + 2 * 100) / 1000
""",
    why="Attention has 14,000 weights that read the stream (10,000 for queries, 2,000 each for keys and values) and 10,000 "
    "that write into it; SwiGLU has three matrices of 30,000; each sublayer's norm has 100. Together 114,200, four fifths "
    "of it in the feed-forward network. With five key/value heads attention would have 16,000 more. The number of positions "
    "stands nowhere: the same weights serve a text of any length.",
    hints=(
        "Three parts: attention, the feed-forward network, and what stands in front of each of them.",
        "A matrix that maps m numbers to n has m · n weights. Attention has four, but two are narrower; SwiGLU has three.",
        "Queries are 5 heads wide, keys and values 1 head each; the output matrix reads all 5 heads. A norm has one weight for "
        "each number of the vector.",
    ),
    mistakes=(
        Mistake("block_thousands = 114.0", "The norms are missing: one for each sublayer, with d_model weights each."),
        Mistake(
            "block_thousands = 114.1",
            "There is one norm too few: attention and the feed-forward network have one each.",
        ),
        Mistake(
            "block_thousands = 114.3",
            "There is one norm too many. The last norm of the model stands behind all blocks, and belongs to none.",
        ),
        Mistake("block_thousands = 114.4", "That counts a bias in each norm. RMSNorm has a weight only."),
        Mistake(
            "block_thousands = 84.2",
            "The feed-forward network has two matrices here. SwiGLU has three: gate, up and down.",
        ),
        Mistake(
            "block_thousands = 130.2",
            "That gives keys and values five heads. The query heads share one key/value head.",
        ),
        Mistake(
            "block_thousands = 104.2",
            "Attention's output matrix is missing: it maps the heads, side by side, back to d_model.",
        ),
        Mistake("block_thousands = 112.2", "Keys and values need a matrix each, and one is missing."),
        Mistake("block_thousands = 110.2", "The matrices for keys and values are missing."),
        Mistake(
            "block_thousands = 106.2",
            "The output matrix reads one head. It reads all five query heads: each has a result of its own.",
        ),
        Mistake("block_thousands = 90.2", "The attention is missing."),
        Mistake("block_thousands = 24.2", "The feed-forward network is missing."),
        Mistake(
            "block_thousands = 228.4",
            "Twice too many: those are the FLOPs for a token, near enough. A weight is one parameter.",
        ),
    ),
)
