"""Exercise 04.12: what one GPU of many holds, waits and sends."""

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_PLAN"]


def _plans(generator: object) -> list[tuple]:
    """Return weights, tensor, pipeline and data ways, ZeRO's stage and the number of micro-batches, all different."""
    return [
        (7_500_000_000, 2, 4, 64, 1, 8),
        (70_000_000_000, 8, 1, 32, 3, 4),
        (405_000_000_000, 8, 16, 128, 2, 32),
        (30_000_000_000, 4, 6, 5, 0, 12),
    ]


def _told_apart(
    n_weights: int, n_tensor: int, n_pipeline: int, n_data: int, stage: int, n_microbatches: int
) -> tuple[float, float, float]:
    """The library's bytes; idle places in a table of GPUs and turns; and the messages of a ring, one by one."""
    from course_lib.pretraining import scaling  # imported here: not in lesson 01

    own = n_weights / n_tensor / n_pipeline
    held = sum(scaling.state_bytes(own, scaling.PRECISIONS["bfloat16"], stage, n_data).values())
    # micro-batch b is with GPU g in turn b + g: all other places of the table, up to the last turn, are idle
    busy = {(g, b + g) for g in range(n_pipeline) for b in range(n_microbatches)}
    turns = 1 + max(turn for _, turn in busy)
    idle = 1 - len(busy) / (n_pipeline * turns)
    # round a ring, each GPU sends n − 1 messages of one n-th: once to add up, once to hand out; in stage 3 once more
    message = 2 * own / n_data
    return held, idle, sum(message for _ in range(3 if stage == 3 else 2) for _ in range(n_data - 1))


_SIGNATURE = '''\
def plan_of(n_weights, n_tensor, n_pipeline, n_data, stage, n_microbatches):
    """What one GPU holds, idles and sends in a step: bytes, a share of the time, bytes.

    The model is cut into n_tensor * n_pipeline equal parts, a GPU each; there are n_data copies.
    (a) Held are 2 bytes a weight, 2 for its gradient, 12 for the optimizer. What ZeRO's stage (0 to
        3) says is shared out evenly among the copies.
    (b) Idle is the pipeline's bubble, as a share of the step's time.
    (c) Sent is what the copies need to agree, 2 bytes a number: with a ring, all-reduce sends
        2 (n - 1) / n of what it sums; reduce-scatter and all-gather send half as much each. Stages
        0 to 2 send as much as one all-reduce of the gradients, stage 3 an all-gather more.
    """
'''


def _plan(
    own: str = "n_weights / (n_tensor * n_pipeline)",
    parts: str = "((3, 2), (2, 2), (1, 12))",
    share: str = "n_data if stage >= first else 1",
    idle: str = "(n_pipeline - 1) / (n_microbatches + n_pipeline - 1)",
    rounds: str = "3 if stage == 3 else 2",
    sent: str = "rounds * (n_data - 1) / n_data * 2 * own",
    result: str = "held, idle, sent",
) -> str:
    """Return the cell of exercise 04.12 with its steps as given."""
    return f"""\
{_SIGNATURE}    own = {own}
    parts = {parts}  # from which stage on shared out, and bytes
    held = sum(n_bytes * own / ({share}) for first, n_bytes in parts)
    idle = {idle}
    rounds = {rounds}
    sent = {sent}
    return {result}
"""


WRITE_PLAN = Exercise(
    id="04.12",
    kind="write",
    title="A plan for many GPUs",
    section="Many GPUs",
    answer="plan_of",
    results=("held", "idle", "sent"),
    inputs=_plans,
    expected=_told_apart,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_plan(),
    why="Cutting the model (tensor, pipeline) makes the part smaller that each GPU holds *and* synchronises; "
    "copies only share out "
    "what ZeRO lets them. Llama 3's plan, 8 × 16 × 128 GPUs in stage 2, holds 6.7 GB of state a GPU instead "
    "of 51 and sends 12.6 "
    "GB a step between copies, whatever the batch is: a larger batch hides it better. Stage 3 saves the "
    "weights, too, and pays with "
    "half as much sending again (arXiv 1910.02054, section 7). The bubble depends on the pipeline and the micro-batches alone. "
    "Activations come on top: they are what the planner below counts besides.",
    hints=(
        "Begin with the number of weights that one GPU has to do with. All of (a) and (c) is in proportion to it.",
        "Which stage is the first in which the optimizer's bytes are shared out, which for the gradients, which "
        "for the weights?",
        "(b) stands in the section. (c): as often as all-gathers and reduce-scatters are made, (n − 1) / n of two "
        "bytes a weight.",
    ),
    mistakes=(
        Mistake(
            _plan(own="n_weights"),
            "The model is not cut: a GPU has to do with its own part of the weights only.",
        ),
        Mistake(
            _plan(own="n_weights / (n_tensor * n_pipeline * n_data)"),
            "Every copy is a whole model. The weights are divided among the GPUs of one copy; what copies share, the "
            "stage says.",
        ),
        Mistake(
            _plan(own="n_weights / n_tensor"),
            "The pipeline cuts the model as well: each GPU has some of the layers.",
        ),
        Mistake(
            _plan(own="n_weights / n_pipeline"),
            "Tensor parallelism cuts the model as well: each GPU has a part of each matrix.",
        ),
        Mistake(
            _plan(own="n_weights / (n_tensor + n_pipeline)"),
            "The numbers of parts are added. A matrix of each stage of the pipeline is cut again: they multiply.",
        ),
        Mistake(
            _plan(share="1"),
            "Nothing is shared out. From stage 1 on, each copy keeps its share of the optimizer's bytes only.",
        ),
        Mistake(
            _plan(share="n_data"),
            "Everything is shared out, whatever the stage is.",
        ),
        Mistake(
            _plan(share="n_data if stage == first else 1"),
            "Each stage shares out what the one before did, *and* one thing more.",
        ),
        Mistake(
            _plan(parts="((1, 2), (2, 2), (3, 12))"),
            "The wrong way round: the optimizer's bytes, which are the most and are needed least often, are shared out first.",
        ),
        Mistake(
            _plan(parts="((3, 2), (2, 2), (1, 8))"),
            "The optimizer has 12 bytes a weight: two running means and a precise copy of the weight, 4 bytes each.",
        ),
        Mistake(
            _plan(parts="((2, 2), (1, 12))"),
            "The weights themselves are missing, 2 bytes each.",
        ),
        Mistake(
            _plan(idle="(n_pipeline - 1) / n_microbatches"),
            "That is idle time as a share of the time that is *worked*. Wanted is its share of the whole step.",
        ),
        Mistake(
            _plan(idle="n_pipeline / (n_microbatches + n_pipeline)"),
            "A pipeline of one GPU has no bubble: it is p − 1 turns that a GPU waits.",
        ),
        Mistake(
            _plan(idle="n_microbatches / (n_microbatches + n_pipeline - 1)"),
            "That is the share in which a GPU works. How much is it idle?",
        ),
        Mistake(
            _plan(rounds="2"),
            "Stage 3 has to gather the weights once more than the other stages: forward and backward.",
        ),
        Mistake(
            _plan(rounds="1"),
            "An all-reduce is two rounds: first each GPU gets the sum of one part, then all get all parts.",
        ),
        Mistake(
            _plan(sent="rounds * 2 * own"),
            "Nearly: of n parts, a GPU sends n − 1. Its own it keeps.",
        ),
        Mistake(
            _plan(sent="rounds * (n_data - 1) * 2 * own"),
            "That is what would be sent if each GPU sent everything to each other one. In a ring, each message is one n-th.",
        ),
        Mistake(
            _plan(sent="rounds * (n_data - 1) / n_data * own"),
            "Those are numbers. Each takes two bytes.",
        ),
        Mistake(
            _plan(result="held, sent, idle"),
            "All three are there, but in another order than the docstring's.",
        ),
        Mistake(
            _plan(result="held"),
            "That is (a). The idle share and the bytes sent are wanted as well.",
        ),
    ),
)
