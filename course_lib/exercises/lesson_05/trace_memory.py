"""Exercise 05.8: what LoRA needs in memory, by hand."""

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_MEMORY"]

_FROZEN, _TRAINED = 200, 2  # millions of weights
_BYTES = {"itself": 4, "gradient": 4, "mean of the gradient": 4, "mean of its square": 4}


def _array_by_array() -> float:
    """Return the size of all arrays, in GB: the frozen weights keep only themselves."""
    return (_FROZEN * _BYTES["itself"] + sum(_TRAINED * size for size in _BYTES.values())) / 1000


TRACE_MEMORY = Exercise(
    id="05.8",
    kind="trace",
    title="One percent of the weights, and of the memory?",
    section="LoRA",
    answer="gigabytes",
    results=("gigabytes",),
    expected=_array_by_array,
    tolerance=0.002,
    stub="""\
# A model of 200 million weights is trained with LoRA: 2 million more, and only these are trained.
# All numbers are in float32, and the optimizer is AdamW. How many gigabytes (billions of bytes) do
# weights, gradients and AdamW's running means take together? (Without activations.)
gigabytes = ...
""",
    solution="""\
# in billions: every weight takes 4 bytes, and one that is trained 4 more for its gradient, 8 for two means
gigabytes = 4 * (0.2 + 0.002) + (4 + 8) * 0.002
""",
    why="The frozen weights are still there: the model computes with them, at 4 bytes each, which makes 0.8 GB. The adapter "
    "takes 16 bytes a weight: 0.032 GB. Full fine-tuning would take 16 bytes for each of the 200 million, 3.2 GB. So to train "
    "one percent of the weights takes a quarter of the memory, and not a percent of it: LoRA saves what is needed *besides* "
    "the weights. To make the weights themselves smaller is another step (QLoRA, arXiv 2305.14314). The file, with the adapter "
    "alone, is where one percent is one percent.",
    hints=(
        "How many weights are in memory at all, and how many of them are trained?",
        "A frozen weight needs nothing but itself. What else does one need that AdamW trains?",
        "4 bytes for each weight, and 12 more for each that is trained. A thousand million bytes are a gigabyte.",
    ),
    mistakes=(
        Mistake(
            "gigabytes = (16 * 2) / 1000",
            "That is the adapter alone. The frozen weights are not trained, but the model computes with them: they are in "
            "memory too.",
        ),
        Mistake(
            "gigabytes = (16 * 200) / 1000",
            "That is full fine-tuning. A frozen weight has no gradient and no running means.",
        ),
        Mistake(
            "gigabytes = (16 * (200 + 2)) / 1000",
            "That has gradients and running means for all weights. The frozen ones need none.",
        ),
        Mistake(
            "gigabytes = (4 * (200 + 2)) / 1000",
            "Those are the weights alone. The trained ones have gradients and AdamW's running means besides.",
        ),
        Mistake(
            "gigabytes = (4 * 200 + 12 * 2) / 1000",
            "Each trained weight has four numbers: itself, its gradient, and two running means. One of them is missing.",
        ),
        Mistake(
            "gigabytes = (4 * 200 + 8 * 2) / 1000",
            "Each trained weight has four numbers: itself, its gradient, and two running means. Two of them are missing.",
        ),
        Mistake(
            "gigabytes = (12 * 2) / 1000",
            "That is what training adds to the weights. The weights themselves are in memory, too.",
        ),
        Mistake(
            "gigabytes = (4 * 2) / 1000",
            "That is the adapter's file. In memory there are the frozen weights too, and what AdamW needs.",
        ),
        Mistake(
            "gigabytes = (12 * 202 + 4 * 2) / 1000",
            "The wrong way round: it is the trained weights that need more than 4 bytes.",
        ),
        Mistake(
            "gigabytes = (3200 - 832) / 1000",
            "That is what LoRA saves. How much does it take?",
        ),
        Mistake(
            "gigabytes = (200 + 2 + 3 * 2) / 1000",
            "Those are the numbers in memory, in millions. Each takes four bytes.",
        ),
        Mistake("gigabytes = 832", "That is in megabytes. A gigabyte is a thousand of them."),
        Mistake("gigabytes = 832_000_000", "That is in bytes. A gigabyte is a billion of them."),
        Mistake(
            "gigabytes = (4 * (200 + 2) + 12 * 2) / 2000",
            "That takes two bytes a number, as bfloat16 has. In float32, it is four.",
        ),
    ),
)
