"""Exercise 07.2: a memory that leaves half a pair."""

import torch

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR_MEMORY"]

Turns = list[tuple[str, int]]


def _chats(generator: torch.Generator) -> list[tuple[Turns, int]]:
    """Return the turns of a chat, and the room: a whole number of pairs fits into it, and often half a pair more."""

    def chat(n_pairs: int, *, opened: bool) -> Turns:
        lengths = iter(torch.randint(5, 60, (2 * n_pairs + 2,), generator=generator).tolist())
        opening = [("system", 120 + next(lengths))] if opened else []  # longer than a pair
        pairs = [(role, next(lengths)) for _ in range(n_pairs) for role in ("user", "assistant")]
        return [*opening, *pairs, ("user", next(lengths))]

    def size(turns: Turns, n_left_out: int) -> int:
        n_first = turns[0][0] == "system"
        return sum(length for _, length in turns[:n_first] + turns[n_first + n_left_out :])

    four, six, five, three, two, none = (
        chat(n, opened=opened) for n, opened in ((4, True), (6, False), (5, True), (3, True), (2, False), (0, True))
    )
    return [
        (four, size(four, 1)),  # without the first message it fits, and the first reply fits as well
        (six, size(six, 5) + 1),
        (five, size(five, 4)),  # to the last token
        (three, size(three, 0)),  # all fits
        (two, two[-1][1] - 1),  # not even the message fits
        (none, none[0][1]),
    ]


def _pair_by_pair(turns: Turns, room: int) -> Turns:
    """Put the chat together from its end: the message first, and then pair before pair, as long as there is room."""
    *before, message = turns
    opening = [turn for turn in before if turn[0] == "system"]
    pairs = list(zip(before[len(opening) :: 2], before[len(opening) + 1 :: 2], strict=True))
    free, kept = room - message[1] - sum(length for _, length in opening), []
    while pairs and free >= pairs[-1][0][1] + pairs[-1][1][1]:
        pair = pairs.pop()
        free -= pair[0][1] + pair[1][1]
        kept = [*pair, *kept]
    return [*opening, *kept, message]


_SIGNATURE = '''\
def remembered(turns, room):
    """The turns of a chat that the model is shown, so that they take at most `room` tokens.

    turns: (role, n_tokens), the oldest first. A "system" turn, if there is one, is the first, and
    always kept; "user" and "assistant" then alternate, and the last one is the user's message,
    which is kept even if there is no room. Of the others, as many of the newest as fit: a message
    and the reply to it stay together, or go together, the oldest pair first.
    """
'''


def _remembered(
    starts: str = "range(0, len(rest), 2)",
    kept: str = "opening + rest[start:]",
    counted: str = "kept",
    fits: str = "<= room",
    result: str = "kept",
) -> str:
    """Return the cell of exercise 07.2 with its steps as given."""
    return f"""\
{_SIGNATURE}    opening = [turn for turn in turns if turn[0] == "system"]
    rest = turns[len(opening) :]
    for start in {starts}:
        kept = {kept}
        if sum(n_tokens for _, n_tokens in {counted}) {fits}:
            break
    return {result}
"""


REPAIR_MEMORY = Exercise(
    id="07.2",
    kind="repair",
    title="A memory that leaves half a pair",
    section="A bounded memory",
    answer="remembered",
    results=("turns",),
    inputs=_chats,
    expected=_pair_by_pair,
    stub=_remembered("range(len(rest))"),
    solution=_remembered(),
    why="With one turn more left out in each round, the loop may stop behind a message whose reply is still there. The chat "
    "then begins with an answer to nothing: no chat in the model's training did, and some templates refuse it. Nothing fails, "
    "and no length is wrong, so it is seen only by who reads the prompt. In steps of two, what is left always begins with the "
    "user. The last start is that of the message, which stays even where it does not fit. And the system turn counts, "
    "although it never goes. `course_lib.applications.chat.Chat` forgets so, too, but several pairs at once, so that it has "
    "to do it seldom.",
    hints=(
        "Print the roles of what is left, for a chat that does not fit. With whom should it begin?",
        "What is counted is right, and so is what is always kept. How much more goes in each round of the loop?",
        "Of a pair, a message and its reply, none may be left alone. Let both go in the same round.",
    ),
    mistakes=(
        Mistake(
            _remembered(kept="opening + rest[: len(rest) - start]"),
            "Now the *newest* turns go, with the message that is to be answered. What is oldest goes first.",
        ),
        Mistake(
            _remembered(kept="opening + rest[: len(rest) - 1 - start] + rest[-1:]"),
            "The message stays, but of the pairs the *newest* one goes first. What is oldest goes first.",
        ),
        Mistake(
            _remembered("range(0, len(rest), 3)"),
            "Three turns go at once: a pair, and half of the next one.",
        ),
        Mistake(
            _remembered("range(0, len(rest), 4)"),
            "Two pairs go at once, although it may be enough if one does.",
        ),
        Mistake(
            _remembered("range(1, len(rest), 2)"),
            "The first turn is left out at once, even if all fits, and what is left begins with a reply.",
        ),
        Mistake(
            _remembered("range(2, len(rest), 2)", result="kept if len(rest) > 1 else turns"),
            "The first pair is left out at once, even if all fits.",
        ),
        Mistake(
            _remembered("(0, len(rest) - 1)"),
            "All pairs go at once. As many of the newest as fit are to stay.",
        ),
        Mistake(
            _remembered("(0, min(2, len(rest) - 1))"),
            "The pair goes whole now, but only one does. Go on until the rest fits.",
        ),
        Mistake(
            _remembered("range(0, len(rest) + 2, 2)"),
            "The pairs go whole now. But where there is no room even for the message, it goes, too.",
        ),
        Mistake(
            _remembered(counted="rest[start:]"),
            "The pairs go whole now. But the system turn is not counted any more, and takes room as well.",
        ),
        Mistake(
            _remembered(fits="< room"),
            "The pairs go whole now. But a chat that takes *exactly* the room fits.",
        ),
        Mistake(
            _remembered(result="rest[start:]"),
            "The pairs go whole now. But the system turn is gone from what is returned.",
        ),
        Mistake(
            _remembered(result='[turn for turn in kept if turn[0] != "assistant"]'),
            "The right pairs, but their replies are missing.",
        ),
    ),
)
