"""Exercise 07.3: the mask of an automaton that reads dates."""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake, Stage

__all__ = ["BUILD_DATE"]

Tokens = dict[int, bytes]

_PATTERN = rb"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_BYTES = [bytes([byte]) for byte in b"0123456789-/:.a "]
_PIECES = [
    b"19", b"20", b"1969-", b"-0", b"07-2", b"12-", b"-1", b"0-", b"1a", b"a1", b"1-1", b"--", b"3 ", b"-12-", b"969",
]  # fmt: skip
_BEYOND = [b"20-", b"07 ", b"5\n", b"-31.", b"200", b"1969-07-20", b"1969-07-20.", b"-07-20T", b"24x", b"-1-"]
# a digit and a minus to people, but not to the automaton
_FOREIGN = ["٣".encode(), "²".encode(), b"\xff", "−".encode()]


def _dates(generator: torch.Generator) -> list[tuple[list[list[int]], Tensor, Tokens, int]]:
    """Return what is written of some texts, logits (text, vocab), tokens by their ids, and the id that ends a text."""

    def pick(choices: list) -> object:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    def begun(tokens: Tokens, lengths: range) -> list[list[int]]:
        """Return texts with so many bytes, in tokens as the dice fall."""
        texts = []
        for length in lengths:
            ids, done = [], b""
            while len(done) < length:
                fits = [
                    id for id, data in tokens.items() if len(done + data) <= length and _may_become_a_date(done + data)
                ]
                ids.append(pick(fits))
                done += tokens[ids[-1]]
            texts.append(ids)
        return texts

    def case(pieces: list[bytes], lengths: range, n_others: int) -> tuple:
        n_ids = len(pieces) + 1 + n_others
        end, *places = torch.randperm(n_ids, generator=generator)[: len(pieces) + 1].tolist()
        tokens = dict(sorted(zip(places, pieces, strict=True)))
        texts = begun(tokens, lengths)
        return texts, torch.randn(len(texts), n_ids, generator=generator), tokens, end

    return [
        case(_BYTES, range(1, 10), 0),
        case(_BYTES + _PIECES + _FOREIGN, range(7), 0),
        case(_BYTES + _PIECES + _BEYOND, range(10), 0),
        case(_BYTES + _PIECES, range(6, 11), 0),
        case(_BYTES + _PIECES + _BEYOND + _FOREIGN, range(11), 7),
    ]


def _may_become_a_date(text: bytes) -> bool:
    return re.fullmatch(_PATTERN, text + b"0000-00-00"[len(text) :]) is not None


def _filled_up(written: list[list[int]], logits: Tensor, tokens: Tokens, end: int) -> Tensor:
    """Fill each beginning up to the length of a date, and ask a regular expression: no state, and no table."""
    rows = []
    for ids, row in zip(written, logits.tolist(), strict=True):
        text = b"".join(tokens[id] for id in ids)
        may = {id for id, data in tokens.items() if _may_become_a_date(text + data)}
        may |= {end} if re.fullmatch(_PATTERN, text) else set()
        rows.append([logit if id in may else -torch.inf for id, logit in enumerate(row)])
    return torch.tensor(rows)


def _written(masked_logits: Callable[..., Tensor]) -> str:
    """Let SmolLM2 answer under the learner's own mask, and say what it wrote, and what it would have written."""
    from course_lib.exercises.real_model import lesson_names  # imported here: not before there is an answer
    from course_lib.inference.generation import chat_prompt, generate

    names = lesson_names()
    model, tokenizer = names["model"].whole, names["tokenizer"]
    ordinary = (id for token, id in tokenizer.vocab.items() if token not in tokenizer.special_tokens)
    tokens = {id: tokenizer.decode_bytes([id]) for id in ordinary}
    (end,) = tokenizer.end_ids
    question = "On which day did the first human walk on the Moon?"
    prompt = tokenizer.encode(chat_prompt(tokenizer, [{"role": "user", "content": question}]))

    def rule(written: list[int], logits: Tensor) -> Tensor:
        return masked_logits([list(written)], logits[None], tokens, end)[0]

    date, free = (
        tokenizer.decode(list(generate(model, prompt, 12, stop_ids=tokenizer.end_ids, rule=how)))
        for how in (rule, None)
    )
    return (
        f"Under your mask, over {len(tokens):,} tokens, SmolLM2 answers {question!r} with {date!r}. Without it: {free!r}… The "
        "form is right for sure. Whether the day is, no mask can tell."
    )


_SIGNATURE = '''\
def date_logits(written, logits, tokens, end):
    """The logits (text, vocab), with −∞ for each token after which no date can come of the text.

    A date is [0-9]{4}-[0-9]{2}-[0-9]{2}. Of each text, `written` holds the ids so far, a list that
    may be empty, and `logits` (text, vocab) those of the next token. tokens: id -> its bytes, one
    or more. `end` is the id that ends a text: it may follow a whole date, and there nothing else
    may. Ids that are neither are never allowed. What is allowed keeps its logit.
    (a) From each of eleven states, which bytes lead to the next one? (b) Walk a token's bytes
    through that table. (c) Walk a text to its state, and each token from there. (d) Mask.
    """
'''
_TABLE = '[digits] * 4 + [{ord("-")}] + [digits] * 2 + [{ord("-")}] + [digits] * 2 + [set()]'
_WALK = """\
        for byte in data:
            reached = reached + 1 if byte in table[reached] else -1
        return reached
"""
_ALLOWED = "[id for id, data in tokens.items() if walk(state, data) >= 0]"


def _date(
    table: str = _TABLE,
    walk: str = _WALK,
    onwards: str = "state = walk(state, tokens[id])",
    allowed: str = _ALLOWED,
    ends: str = "[end] if state == 10 else []",
    digits: str = 'set(b"0123456789")',
    start: str = "torch.full_like(logits, -torch.inf)",
    fill: str = "masked[row, allowed] = logits[row, allowed]",
    result: str = "masked",
) -> str:
    """Return the cell of exercise 07.3 with its steps as given."""
    return f"""\
{_SIGNATURE}    digits = {digits}
    table = {table}

    def walk(reached, data):  # the state after these bytes; -1, which is the last row, if none fits
{walk}
    masked = {start}
    for row, ids in enumerate(written):
        state = 0
        for id in ids:
            {onwards}
        allowed = {allowed}
        allowed += {ends}
        {fill}
    return {result}
"""


BUILD_DATE = Exercise(
    id="07.3",
    kind="build",
    title="An automaton's mask for a date",
    section="From a pattern to a mask",
    answer="date_logits",
    results=("logits",),
    inputs=_dates,
    expected=_filled_up,
    reward=_written,
    stages=(
        Stage(
            "tokens of one byte, in a date that is begun",
            "First the table. Write a date down, number the places between its bytes from 0 to 10, and say for each what may "
            "follow.",
        ),
        Stage(
            "tokens of several bytes",
            "A token is allowed if *all* its bytes lead on, one after the other, each from the state that the one before led "
            "to. A text's state is found in the same way.",
        ),
        Stage(
            "tokens that go beyond the end",
            "Behind the last digit there is a state, too, and no byte leads out of it.",
        ),
        Stage(
            "the end of the text",
            "A whole date is in the accepting state. There the end may come, and only there; it has no bytes that could be "
            "walked.",
        ),
        Stage(
            "ids that stand for no bytes",
            "Special tokens, and rows of a model that is wider than its tokenizer: whatever is not in `tokens` and is not the "
            "end.",
        ),
    ),
    stub=f"{_SIGNATURE}    ...\n",
    solution=_date(),
    why="A date's automaton is a chain: state n is *n bytes are read, and all fit*. Others have branches and loops, so that a "
    "state names the next one for each byte, but the walk is the same, and so is the mask: it depends on the state alone, "
    "and not on how the text came there. That is why `Constraint` computes each mask once and keeps it, walks all tokens at "
    "once along their common beginnings, and carries the state from token to token instead of walking the text anew. −∞ "
    "becomes exactly 0 in the softmax, and what is left is stretched to 1 again. The mask knows the form: the nineteenth "
    "month passes it, and so does a wrong day. `course_lib.applications.constraints` builds the table from the pattern.",
    hints=(
        "Three small things: a table by hand, a walk of bytes through it, and a loop over all tokens. The mask is the last "
        "one.",
        "State n: n bytes are read. The bytes that lead on are digits, but for two of the states. A walk may fail; say so by "
        "a value of its own.",
        "Begin with −∞ everywhere, and put back the logits of what is allowed. The state of a text is the walk of all its "
        "bytes from 0; each token is walked from there.",
    ),
    mistakes=(
        Mistake(
            _date('[digits] * 4 + [{ord("-")}] + [digits] * 2 + [digits] * 3 + [set()]'),
            "In the table the second hyphen is missing: what leads on from state 7?",
        ),
        Mistake(
            _date('[digits] * 2 + [{ord("-")}] + [digits] * 2 + [{ord("-")}] + [digits] * 4 + [set()]'),
            "In the table the year comes last. It is the first.",
        ),
        Mistake(
            _date(
                '[digits] * 4 + [digits | {ord("-")}] + [digits] * 2 + [digits | {ord("-")}] + [digits] * 2 + [set()]'
            ),
            "Where a hyphen stands, the table lets a digit pass as well.",
        ),
        Mistake(
            _date('[digits | {ord("-")}] * 10 + [set()]'),
            "The table lets hyphens and digits pass anywhere: it has the right bytes, but no order.",
        ),
        Mistake(
            _date(digits='set(b"123456789")'),
            "The digit 0 is missing in the table.",
        ),
        Mistake(
            _date(digits="set(range(48, 57))"),
            "The digit 9 is missing in the table: `range` ends before its second number.",
        ),
        Mistake(
            _date(
                digits='set("0123456789")',
                table='[digits] * 4 + [{"-"}] + [digits] * 2 + [{"-"}] + [digits] * 2 + [set()]',
            ),
            'The table holds characters. What is walked are bytes, which in Python are numbers: `ord`, or a set of b"…".',
        ),
        Mistake(
            _date(fill="masked[row, allowed] = -torch.inf", start="logits.clone()"),
            "The mask is the wrong way round: what is allowed is set to −∞.",
        ),
        Mistake(
            _date(start="torch.zeros_like(logits)"),
            "What is not allowed has the logit 0. That is a logit like any other; a probability of 0 takes −∞.",
        ),
        Mistake(
            _date(result="masked.softmax(dim=-1)"),
            "Those are probabilities. Asked for are the logits; the softmax comes later.",
        ),
        Mistake(
            _date(fill="masked[row, allowed] = 0.0"),
            "What is allowed has the logit 0, so that all of it would be equally likely. It keeps its own.",
        ),
        Mistake(
            _date(
                start="logits",
                fill="masked[row, [id for id in range(logits.shape[1]) if id not in allowed]] = -torch.inf",
            ),
            "The mask is written into `logits`, which belong to whoever gave them. Make a new tensor.",
        ),
        Mistake(
            _date(walk="        return reached + 1 if data[0] in table[reached] else -1\n"),
            "Only the first byte of each token is looked at. All have to lead on.",
        ),
        Mistake(
            _date(
                walk="        fits = all(byte in table[reached] for byte in data)\n"
                "        return reached + len(data) if fits else -1\n"
            ),
            "All bytes of a token are looked up in the same state. Each leads to the next one.",
        ),
        Mistake(
            _date(onwards="state += 1"),
            "A text's state is taken to be the number of its tokens. A token may be several bytes, and leads as many states "
            "on.",
        ),
        Mistake(
            _date(allowed="[id for id, data in tokens.items() if len(data) == 1 and walk(state, data) >= 0]"),
            "Only tokens of one byte are allowed. Longer ones are, too, if all their bytes lead on.",
        ),
        Mistake(
            _date(allowed="[id for id, data in tokens.items() if walk(0, data) >= 0]"),
            "Each token is walked from the beginning. It is walked from the state that its text has come to.",
        ),
        Mistake(
            _date(onwards="state = walk(0, tokens[id])"),
            "Only the last token of a text leads to its state. All of its bytes do, from the first one on.",
        ),
        Mistake(
            _date(
                walk="        fits = all(byte in row for byte, row in zip(data, table[reached:10]))\n"
                "        return min(reached + len(data), 10) if fits else -1\n"
            ),
            "The walk stops with the date, and what a token has beyond the end is not looked at. `zip` ends with the shorter "
            "one.",
        ),
        Mistake(
            _date(
                table=_TABLE.removesuffix(" + [set()]"),
                walk="        for byte in data:\n            if byte not in table[reached]:\n                return -1\n"
                "            reached += 1\n        return reached\n",
            ),
            "The table has no row for the state behind the last digit, and a token goes beyond it. From there nothing leads "
            "on.",
        ),
        Mistake(
            _date(ends="[]"),
            "The end is never allowed: behind a whole date there is no token at all.",
        ),
        Mistake(
            _date(ends="[end]"),
            "The end is allowed everywhere. Only in the accepting state is the text whole.",
        ),
        Mistake(
            _date(ends="[end] if state == 9 else []"),
            "The end is allowed one byte too early. A date has ten.",
        ),
        Mistake(
            _date(
                table=_TABLE.replace("+ [set()]", "+ [digits]"),
                walk="        for byte in data:\n            if byte not in table[reached]:\n                return -1\n"
                "            reached = min(reached + 1, 10)\n        return reached\n",
            ),
            "Behind the date digits may follow without end. Nothing leads on from there.",
        ),
        Mistake(
            _date(
                allowed="[id for id in range(logits.shape[1]) if id != end and walk(state, tokens[id]) >= 0]",
            ),
            "Every id of the vocabulary is looked up in `tokens`. Not all are there: a model has special tokens, and often "
            "more rows than tokens.",
        ),
        Mistake(
            _date(
                allowed='[id for id in range(logits.shape[1]) if walk(state, tokens.get(id, b"")) >= 0 and id != end]'
            ),
            "An id that is not in `tokens` counts as one without bytes, and no bytes lead everywhere. It is never allowed.",
        ),
    ),
)
