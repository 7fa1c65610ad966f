"""Exercise 07.3: the mask of an automaton, and the automaton of a date."""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake, Stage

__all__ = ["BUILD_DATE"]

Tokens = dict[int, bytes]
Machine = tuple[list[dict[int, int]], set[int]]

_PATTERN = rb"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_BYTES = [bytes([byte]) for byte in b"0123456789-/:.a "]
_PIECES = [
    b"19", b"20", b"1969-", b"-0", b"07-2", b"12-", b"-1", b"0-", b"1a", b"a1", b"1-1", b"--", b"3 ", b"-12-", b"969",
    b"20-", b"07 ", b"5\n", b"-31.", b"200", b"1969-07-20", b"1969-07-20.", b"-07-20T", b"24x", b"-1-",
]  # fmt: skip
# a digit and a minus to people, but not to the automaton
_FOREIGN = ["٣".encode(), "²".encode(), b"\xff", "−".encode()]


def _texts(generator: torch.Generator) -> list[tuple[list[list[int]], Tensor, Tokens, int, Machine | None]]:
    """Return what is written of some texts, logits (text, vocab), tokens by their ids, the id that ends a text, and a machine.

    Machines are a chain, with edges that branch and loop in all but the first, so that the end can be reached from each state.
    """

    def pick(choices: list) -> object:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    def machine(n_states: int, n_more: int, accepting: set[int], goes_on: bool = False) -> Machine:
        table = [{pick(list(b"abc")): state + 1} for state in range(n_states - 1)] + [{}]
        for _ in range(n_more):
            pick(table[:-1]).setdefault(pick(list(b"abcdef")), pick(range(n_states)))
        if n_more:  # a loop, a leap and a way back: always there
            table[0][ord("x")] = 0
            table[1] |= {ord("x"): n_states - 2, ord("y"): 0}
        if goes_on:  # from where the text may end, too
            for state in accepting:
                table[state][ord("z")] = 1
        return table, accepting

    def walks(table: list[dict[int, int]], n_walks: int) -> list[bytes]:
        """Return pieces that lead on from some state, and each of them with another byte at its end."""
        pieces = []
        while len(pieces) < 2 * n_walks:
            state, piece = pick(range(len(table) - 1)), b""
            while len(piece) < 4 and table[state] and (len(piece) < 2 or pick([True, False])):
                byte = pick(list(table[state]))
                state, piece = table[state][byte], piece + bytes([byte])
            if len(piece) > 1 and piece not in pieces:
                pieces += [piece, piece[:-1] + pick([b"q", b"a", b"x", b"e"])]
        return list(dict.fromkeys(pieces))

    def begun(tokens: Tokens, alive: Callable[[bytes], bool], n_ids: int) -> list[int]:
        """Return a text of so many tokens, as the dice fall, or of fewer where nothing leads on."""
        ids, done = [], b""
        while len(ids) < n_ids and (fits := [id for id, data in tokens.items() if alive(done + data)]):
            ids.append(pick(fits))
            done += tokens[ids[-1]]
        return ids

    def case(pieces: list[bytes], given: Machine | None, lengths: range, n_others: int = 0, ends: bool = True) -> tuple:
        pieces = list(dict.fromkeys(pieces))
        n_ids = len(pieces) + 1 + n_others
        end, *places = torch.randperm(n_ids, generator=generator)[: len(pieces) + 1].tolist()
        tokens = dict(sorted(zip(places, pieces, strict=True)))
        texts, missing = [], set(given[1]) if ends and given else set()
        while len(texts) < len(lengths):
            ids = begun(tokens, lambda data: _leads_on(data, given), lengths[len(texts)])
            last = _reached(b"".join(tokens[id] for id in ids), given) if given else set()
            if missing and not missing & last:
                continue  # first a text for each state in which it may end
            missing -= last
            if ends or not last & given[1]:
                texts.append(ids)
        return texts, torch.randn(len(texts), n_ids, generator=generator), tokens, end, given

    letters = [bytes([byte]) for byte in b"abcdefqxyz"]
    chain, small, large = machine(7, 0, {6}), machine(6, 9, {5}), machine(8, 12, {7})
    ending, whole = machine(7, 10, {3, 6}, goes_on=True), machine(9, 14, {4, 8})
    return [
        case(letters, chain, range(1, 6), ends=False),
        case(letters, small, range(1, 9), ends=False),
        case(letters + walks(large[0], 16), large, range(7), ends=False),
        case(letters + walks(ending[0], 14), ending, range(3, 15)),
        case(letters + walks(whole[0], 18), whole, range(4, 14), n_others=7),
        case(_BYTES + _PIECES + _FOREIGN, None, range(11), n_others=5),
    ]


def _reached(text: bytes, machine: Machine) -> set[int]:
    """Return the states that `text` leads to from the start: one, or none."""
    table, _ = machine
    states = {0}
    for byte in text:
        states = {table[state][byte] for state in states if byte in table[state]}
    return states


def _leads_on(text: bytes, machine: Machine | None) -> bool:
    """Return whether a text may begin so. A date: filled up to its length, a regular expression matches."""
    if machine is None:
        return re.fullmatch(_PATTERN, text + b"0000-00-00"[len(text) :]) is not None
    return bool(_reached(text, machine))


def _may_end(text: bytes, machine: Machine | None) -> bool:
    if machine is None:
        return re.fullmatch(_PATTERN, text) is not None
    return bool(_reached(text, machine) & machine[1])


def _begun_anew(
    written: list[list[int]], logits: Tensor, tokens: Tokens, end: int, automaton: Machine | None
) -> Tensor:
    """Ask of each text with each token behind it whether a text may begin so: from the start, and no state is kept."""
    rows = []
    for ids, row in zip(written, logits.tolist(), strict=True):
        text = b"".join(tokens[id] for id in ids)
        may = {id for id, data in tokens.items() if _leads_on(text + data, automaton)}
        may |= {end} if _may_end(text, automaton) else set()
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
        return masked_logits([list(written)], logits[None], tokens, end, None)[0]

    date, free = (
        tokenizer.decode(list(generate(model, prompt, 12, stop_ids=tokenizer.end_ids, rule=how)))
        for how in (rule, None)
    )
    return (
        f"Under your mask, over {len(tokens):,} tokens, SmolLM2 answers {question!r} with {date!r}. Without it: {free!r}… The "
        "form is right for sure. Whether the day is, no mask can tell."
    )


_SIGNATURE = '''\
def mask_logits(written, logits, tokens, end, automaton=None):
    """The logits (text, vocab), with −∞ for each token after which no text of the form can come.

    automaton: (table, accepting). table[state] is a dict, byte -> next state; other bytes lead
    nowhere. A text begins in state 0, and may end in the states of the set `accepting`. None stands
    for the form of a date, [0-9]{4}-[0-9]{2}-[0-9]{2}: its table is yours to write.
    Of each text, `written` holds the ids so far, a list that may be empty, and `logits` (text,
    vocab) those of the next token. tokens: id -> its bytes, one or more. `end` is the id that ends
    a text. Ids that are neither are never allowed. What is allowed keeps its logit.
    (a) Walk a token's bytes through the table. (b) Walk a text to its state, and each token from
    there. (c) Mask. (d) Write a date's table: from each of eleven states, which bytes lead on?
    """
'''
_FITS = '[digits] * 4 + [b"-"] + [digits] * 2 + [b"-"] + [digits] * 2 + [b""]'
_DATE = "[{byte: state + 1 for byte in row} for state, row in enumerate(fits)], {10}"
_WALK = """\
        for byte in data:
            reached = table[reached].get(byte, -1)
        return reached
"""
_ALLOWED = "[id for id, data in tokens.items() if walk(state, data) >= 0]"


def _mask(
    fits: str = _FITS,
    walk: str = _WALK,
    onwards: str = "state = walk(state, tokens[id])",
    allowed: str = _ALLOWED,
    ends: str = "[end] if state in accepting else []",
    digits: str = 'b"0123456789"',
    date: str = _DATE,
    start: str = "torch.full_like(logits, -torch.inf)",
    fill: str = "masked[row, allowed] = logits[row, allowed]",
    result: str = "masked",
) -> str:
    """Return the cell of exercise 07.3 with its steps as given."""
    return f"""\
{_SIGNATURE}    digits = {digits}
    fits = {fits}
    date = {date}
    table, accepting = automaton or date
    table = [*table, {{}}]  # a last row, in which nothing leads on

    def walk(reached, data):  # the state after these bytes; -1, which is that last row, if none fits
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
    title="An automaton's mask, and a date's automaton",
    section="From a pattern to a mask",
    answer="mask_logits",
    results=("logits",),
    inputs=_texts,
    expected=_begun_anew,
    reward=_written,
    stages=(
        Stage(
            "tokens of one byte, through a chain of states",
            "A text's state comes from its bytes, one after the other, from state 0 on. What may follow are the bytes in that "
            "state's row of the table.",
        ),
        Stage(
            "branches and loops",
            "The next state is what the table says. It may be any, also the same one, or one from before.",
        ),
        Stage(
            "tokens of several bytes",
            "A token is allowed if *all* its bytes lead on, one after the other, each from the state that the one before led "
            "to. A text's state is found in the same way.",
        ),
        Stage(
            "the end of the text",
            "The end may come in an accepting state, and only there; it has no bytes that could be walked. There may be "
            "several such states, and ways that lead on from them.",
        ),
        Stage(
            "ids that stand for no bytes",
            "Special tokens, and rows of a model that is wider than its tokenizer: whatever is not in `tokens` and is not the "
            "end.",
        ),
        Stage(
            "a date, with your own table",
            "The automaton is `None`. Write a date down, number the places between its bytes from 0 to 10, and say for each "
            "which bytes may follow, and where they lead.",
        ),
    ),
    stub=f"{_SIGNATURE}    ...\n",
    solution=_mask(),
    why="The mask depends on the state alone, and not on how the text came there. That is why `Constraint` computes each mask "
    "once and keeps it, walks all tokens at once along their common beginnings, and carries the state from token to token "
    "instead of walking the text anew. A date's automaton is a chain: state n is *n bytes are read, and all fit*. Others have "
    "branches and loops, but the walk is the same. −∞ becomes exactly 0 in the softmax, and what is left is stretched to 1 "
    "again. The mask knows the form: the nineteenth month passes it, and so does a wrong day. "
    "`course_lib.applications.constraints` builds the table from the pattern, and leaves no state in it from which a text "
    "cannot end.",
    hints=(
        "Small things: a walk of bytes through a table, a loop over all tokens, a table by hand. The mask is the last one.",
        "A walk may fail; say so by a value of its own. In a date's table, state n means that n bytes are read: the bytes that "
        "lead on are digits, but for two of the states.",
        "Begin with −∞ everywhere, and put back the logits of what is allowed. The state of a text is the walk of all its "
        "bytes from 0; each token is walked from there.",
    ),
    mistakes=(
        Mistake(
            _mask('[digits] * 4 + [b"-"] + [digits] * 2 + [digits] * 3 + [b""]'),
            "In the table the second hyphen is missing: what leads on from state 7?",
        ),
        Mistake(
            _mask('[digits] * 2 + [b"-"] + [digits] * 2 + [b"-"] + [digits] * 4 + [b""]'),
            "In the table the year comes last. It is the first.",
        ),
        Mistake(
            _mask('[digits] * 4 + [digits + b"-"] + [digits] * 2 + [digits + b"-"] + [digits] * 2 + [b""]'),
            "Where a hyphen stands, the table lets a digit pass as well.",
        ),
        Mistake(
            _mask('[digits + b"-"] * 10 + [b""]'),
            "The table lets hyphens and digits pass anywhere: it has the right bytes, but no order.",
        ),
        Mistake(_mask(digits='b"123456789"'), "The digit 0 is missing in the table."),
        Mistake(
            _mask(digits="bytes(range(48, 57))"),
            "The digit 9 is missing in the table: `range` ends before its second number.",
        ),
        Mistake(
            _mask(digits='"0123456789"', fits='[digits] * 4 + ["-"] + [digits] * 2 + ["-"] + [digits] * 2 + [""]'),
            'The table holds characters. What is walked are bytes, which in Python are numbers: `ord`, or each of b"…".',
        ),
        Mistake(
            _mask(date=_DATE.replace("{10}", "{9}")),
            "The end is allowed one byte too early. A date has ten.",
        ),
        Mistake(
            _mask(_FITS.replace('b""', "digits"), date=_DATE.replace("state + 1", "min(state + 1, 10)")),
            "Behind the date digits may follow without end. Nothing leads on from there.",
        ),
        Mistake(
            _mask(fill="masked[row, allowed] = -torch.inf", start="logits.clone()"),
            "The mask is the wrong way round: what is allowed is set to −∞.",
        ),
        Mistake(
            _mask(start="torch.zeros_like(logits)"),
            "What is not allowed has the logit 0. That is a logit like any other; a probability of 0 takes −∞.",
        ),
        Mistake(
            _mask(result="masked.softmax(dim=-1)"),
            "Those are probabilities. Asked for are the logits; the softmax comes later.",
        ),
        Mistake(
            _mask(fill="masked[row, allowed] = 0.0"),
            "What is allowed has the logit 0, so that all of it would be equally likely. It keeps its own.",
        ),
        Mistake(
            _mask(
                start="logits",
                fill="masked[row, [id for id in range(logits.shape[1]) if id not in allowed]] = -torch.inf",
            ),
            "The mask is written into `logits`, which belong to whoever gave them. Make a new tensor.",
        ),
        Mistake(
            _mask(
                walk="        for byte in data:\n            reached = reached + 1 if byte in table[reached] else -1\n"
                "        return reached\n"
            ),
            "Each byte that fits leads to the state with the next number. That is so in a chain; ask the table where it leads.",
        ),
        Mistake(
            _mask(walk=_WALK.replace("-1", "reached")),
            "A byte that leads nowhere is passed over, and the state stays. There the walk has failed.",
        ),
        Mistake(
            _mask(walk="        return table[reached].get(data[0], -1)\n"),
            "Only the first byte of each token is looked at. All have to lead on.",
        ),
        Mistake(
            _mask(
                walk="        fits = all(byte in table[reached] for byte in data)\n"
                "        return table[reached][data[-1]] if fits else -1\n"
            ),
            "All bytes of a token are looked up in the same state. Each leads to the next one.",
        ),
        Mistake(
            _mask(
                walk="        first = table[reached].get(data[0], -1)\n        for byte in data:\n"
                "            if byte not in table[reached]:\n                return first if first < 0 else reached\n"
                "            reached = table[reached][byte]\n        return reached\n"
            ),
            "The walk stops where nothing leads on, and the rest of the token is not looked at. Then the token does not fit.",
        ),
        Mistake(
            _mask(allowed="[id for id, data in tokens.items() if len(data) == 1 and walk(state, data) >= 0]"),
            "Only tokens of one byte are allowed. Longer ones are, too, if all their bytes lead on.",
        ),
        Mistake(
            _mask(allowed="[id for id, data in tokens.items() if walk(state, data) > 0]"),
            "A token that leads back to state 0 is taken to lead nowhere. 0 is a state like any other.",
        ),
        Mistake(
            _mask(allowed="[id for id, data in tokens.items() if walk(0, data) >= 0]"),
            "Each token is walked from the beginning. It is walked from the state that its text has come to.",
        ),
        Mistake(
            _mask(onwards="state = walk(0, tokens[id])"),
            "Only the last token of a text leads to its state. All of its bytes do, from the first one on.",
        ),
        Mistake(
            _mask(ends="[]"),
            "The end is never allowed: behind a whole text it has to be.",
        ),
        Mistake(
            _mask(ends="[end]"),
            "The end is allowed everywhere. Only in an accepting state is the text whole.",
        ),
        Mistake(
            _mask(ends="[end] if not table[state] else []"),
            "The end is allowed only where nothing leads on. A text may also end where it could go on: `accepting` says so.",
        ),
        Mistake(
            _mask(ends="[end] if state == len(table) - 2 else []"),
            "The end is allowed only in the last state. `accepting` may hold others, and more than one.",
        ),
        Mistake(
            _mask(allowed=f"[] if state in accepting else {_ALLOWED}"),
            "Where a text may end, nothing else is allowed. It *may* end there, but it may also go on.",
        ),
        Mistake(
            _mask(
                allowed="[id for id in range(logits.shape[1]) if id != end and walk(state, tokens[id]) >= 0]",
            ),
            "Every id of the vocabulary is looked up in `tokens`. Not all are there: a model has special tokens, and often "
            "more rows than tokens.",
        ),
        Mistake(
            _mask(
                allowed='[id for id in range(logits.shape[1]) if walk(state, tokens.get(id, b"")) >= 0 and id != end]'
            ),
            "An id that is not in `tokens` counts as one without bytes, and no bytes lead everywhere. It is never allowed.",
        ),
    ),
)
