"""Exercise 03.7: what one step of a server reads."""

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_BYTES"]


def _read_user_by_user() -> float:
    """Go through the memory as the step does: the weights once, then user by user, token by token."""
    read = 3_000_000_000 * 2
    for _user in range(8):
        for _token in range(5_000):
            read += 100_000
    return read / 1e9


TRACE_BYTES = Exercise(
    id="03.7",
    kind="trace",
    title="What one step of a server reads",
    section="The KV cache",
    answer="step_gb",
    results=("step_gb",),
    expected=_read_user_by_user,
    tolerance=1e-5,
    stub="""\
# A model of 3 billion parameters of 2 bytes each keeps 100 kB of keys and values for a token.
# A server writes to 8 users in one batch; each has 5,000 tokens behind them.
# How many gigabytes does it read in one step, in which each user gets one token?
step_gb = ...
""",
    solution="""\
# one reading of the weights serves all users; but each has a past of their own, 100 kB = 1e-4 GB a token
step_gb = 3 * 2 + 8 * 5_000 * 1e-4
""",
    why="6 GB of weights, once for all, and 0.5 GB of cache for each user: 10 GB for eight tokens. One user alone would cost "
    "6.5 GB for one token, so the batch makes a token five times as cheap. With more users and longer texts it is the caches "
    "that are read most, and no batch shares them: that is why key/value heads are shared instead (lesson 02), and why layers "
    "look at a window only (section 13).",
    hints=(
        "Two things are read: the weights, and what is kept of the past. Which of them do the users share?",
        "The weights are the same for everyone, so one reading serves the whole batch. Keys and values belong to one text.",
        "Weights: parameters times bytes. Cache: users times tokens times 100 kB; a million kB are one GB.",
    ),
    mistakes=(
        Mistake(
            "step_gb = 8 * (6 + 0.5)", "That reads the weights for each user anew. One reading serves the whole batch."
        ),
        Mistake("step_gb = 6 + 0.5", "That is the step of one user alone. Each of the eight has a cache of their own."),
        Mistake("step_gb = 6", "The caches are missing: each step reads all the keys and values that are kept."),
        Mistake("step_gb = 4", "Those are the caches. The weights are read in each step, too."),
        Mistake("step_gb = 3 + 4", "A parameter takes 2 bytes."),
        Mistake(
            "step_gb = (6 + 4) / 8", "That is for one token written. Asked for is what the step reads for all eight."
        ),
        Mistake("step_gb = 6 + 8 * 100 / 1e6", "That reads one token of each cache. A query looks at all 5,000."),
        Mistake(
            "step_gb = 6 + 2 * 4", "The 100 kB are of keys and values together, in bytes: nothing is left to double."
        ),
        Mistake(
            "step_gb = 8 * 5_000 * 6 + 4",
            "That reads the weights for each token of the past. With a cache the past is not computed again.",
        ),
        Mistake("step_gb = 10_000", "That is in megabytes. Asked for are gigabytes, a thousand megabytes each."),
        Mistake("step_gb = 10e9", "That is in bytes. Asked for are gigabytes."),
    ),
)
