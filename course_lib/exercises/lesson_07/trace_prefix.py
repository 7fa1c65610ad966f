"""Exercise 07.1: what a prefix cache has to read again, by hand."""

from itertools import chain

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_PREFIX"]


def _token_by_token() -> float:
    """Return how many tokens of the fifth prompt come after the first one that differs from what the cache holds."""
    system = [("system", 0, i) for i in range(30)]
    turns = [
        [(role, number, i) for role, n in (("user", 20), ("assistant", 50)) for i in range(n)] for number in range(5)
    ]
    cached = [*system, *chain(*turns[:4])]
    prompt = [*system, *chain(*turns[1:4]), *turns[4][:20]]
    return float(next(len(prompt) - at for at, (a, b) in enumerate(zip(cached, prompt, strict=False)) if a != b))


TRACE_PREFIX = Exercise(
    id="07.1",
    kind="trace",
    title="What is read again",
    section="A prefix that is kept",
    answer="n_read",
    results=("n_read",),
    expected=_token_by_token,
    tolerance=0.001,
    stub="""\
# The system prompt of a chat has 30 tokens, each message 20 and each reply 50, template included.
# (Take any two messages to differ from their first token on.) Four messages have been answered, and
# the cache holds all of that. With the fifth message, the context is full: the first message and
# its reply are left out. How many tokens of the fifth prompt does the model have to read?
n_read = ...
""",
    solution="""\
# system, three pairs, the message; behind the system prompt nothing stands where it stood
n_read = 3 * (20 + 50) + 20
""",
    why="Had nothing been left out, it would be the 20 of the new message. But keys and values depend on all that came before "
    "them, and on their position. So only what both texts *begin* with can be kept, the 30 tokens of the system prompt: the "
    "other 210 are in the cache, and of no use. (In SmolLM2's template every message opens with the same three tokens, "
    "`<|im_start|>`, `user` and a line break, so that 33 would be kept.) A memory that leaves out one pair with each message "
    "would therefore read almost everything anew each time. `Chat` leaves out many at once, and then none for a while.",
    hints=(
        "Write down what the fifth prompt holds, in order, and below it what the cache holds.",
        "From the first token on, how far are the two the same? What a token's key and value depend on decides the rest.",
        "The prompt's tokens behind the system prompt: how many pairs are left, and what stands behind them?",
    ),
    mistakes=(
        Mistake(
            "n_read = 20",
            "That would be so if nothing were left out. The pairs behind the gap stand elsewhere now, and behind other tokens.",
        ),
        Mistake(
            "n_read = 30 + 3 * (20 + 50) + 20",
            "The system prompt is still where it was, with nothing before it that has changed: that is kept.",
        ),
        Mistake(
            "n_read = 30 + 4 * (20 + 50) + 20",
            "That is the whole prompt, as if nothing had been left out and nothing were kept.",
        ),
        Mistake(
            "n_read = 4 * (20 + 50) + 20", "Four pairs were in the chat, but the first one is left out of the prompt."
        ),
        Mistake("n_read = 3 * (20 + 50)", "Those are the three pairs. The new message has to be read as well."),
        Mistake("n_read = 30", "That is what need *not* be read again. What of the prompt is behind it?"),
        Mistake(
            "n_read = 30 + 3 * (20 + 50)",
            "That is what stands both in the cache and in the prompt. Only what both *begin* with is of use.",
        ),
        Mistake(
            "n_read = 3 * (20 + 50) + 20 + 50",
            "That counts the fifth reply, too. It is not read but written, afterwards.",
        ),
        Mistake(
            "n_read = 3 * 20 + 20",
            "The replies are missing. The model wrote them itself, but in the next prompt they are read like all else.",
        ),
        Mistake("n_read = 3 * 50 + 20", "The earlier messages are missing. They are in the prompt as the replies are."),
        Mistake(
            "n_read = 3 * (20 + 50) + 20 - 3",
            "So it is with SmolLM2's template, in which every message opens with the same three tokens. Here any two messages "
            "are taken to differ from their first token on.",
        ),
        Mistake("n_read = 2 * (20 + 50) + 20", "Of four pairs one is left out: three are left."),
        Mistake("n_read = 20 + 50", "That is the size of what is left out. How much of what remains is to be read?"),
    ),
)
