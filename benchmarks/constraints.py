"""What constrained decoding costs: compiling and decoding under our masks, beside llguidance and outlines-core, in one process.

SmolLM2-135M in float32. Prints the tables of benchmarks/README.md, in about three minutes.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import llguidance
import outlines_core
import torch
from torch import Tensor

from course_lib import checkpoints
from course_lib.applications import constraints
from course_lib.applications.constraints import Constraint, grammar
from course_lib.applications.patterns import schema_pattern
from course_lib.inference import Rule, Sampling, generate
from course_lib.tokenization import Tokenizer

ROUNDS, NEW_TOKENS = 7, 128
TEXT = {"type": "string", "maxLength": 40}
DATE = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
ORDER = {
    "customer": TEXT,
    "articles": {"type": "array", "items": TEXT, "maxItems": 6},
    "date": DATE,
    "total": {"type": "number"},
    "is_gift": {"type": "boolean"},
}
LONG = {"type": "string", "maxLength": 200}


def object_of(properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


WANTED = {
    "a date": DATE["pattern"].strip("^$"),
    "an order: 5 fields, a list": schema_pattern(object_of(ORDER)),
    "3 texts of up to 200 characters": schema_pattern(
        object_of({name: LONG for name in ("title", "author", "summary")})
    ),
    "any JSON string": r'"(?:[^"\\\x00-\x1F]|\\["\\bfnrt])*"',
}


def milliseconds(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


# ---------------------------------------------------------------- the peers


def outlines_vocabulary(tokenizer: Tokenizer) -> outlines_core.Vocabulary:
    tokens = {}
    for token, id in tokenizer.vocab.items():
        if token not in tokenizer.special_tokens:
            tokens.setdefault(tokenizer.decode_bytes([id]), []).append(id)
    (end,) = tokenizer.end_ids
    return outlines_core.Vocabulary(end, tokens)


def outlines_rule(index: outlines_core.Index) -> Rule:
    """A mask from the library's list of allowed tokens."""
    guide, n_read = outlines_core.Guide(index), 0

    def rule(written: Sequence[int], logits: Tensor) -> Tensor:
        nonlocal n_read
        for id in written[n_read:]:
            guide.advance(id)
        n_read = len(written)
        allowed = torch.tensor(guide.get_tokens())
        return torch.full_like(logits, -torch.inf).index_copy_(0, allowed, logits[allowed])

    return rule


def lark(pattern: str) -> str:
    return "start: /" + pattern.replace("/", "\\/") + "/"


# ---------------------------------------------------------------- the tables


def compiling(tokenizer: Tokenizer) -> None:
    vocabulary = outlines_vocabulary(tokenizer)
    print("| what | states | course_lib | llguidance | outlines-core |\n|---|---|---|---|---|")
    for what, pattern in WANTED.items():
        works = (
            lambda: Constraint(pattern, tokenizer),  # noqa: B023: called here and now
            lambda: grammar(lark(pattern), tokenizer).rule().allowed([]),  # noqa: B023
            lambda: outlines_core.Index(pattern, vocabulary),  # noqa: B023
        )
        times = [statistics.median(milliseconds(work) for _ in range(3)) for work in works]
        n_states = len(Constraint(pattern, tokenizer).automaton)
        print(
            f"| {what} | {n_states:,} | "
            + " | ".join(f"{t:,.0f} ms" if t >= 1 else f"{t:.1f} ms" for t in times)
            + " |"
        )


def decoding(model, tokenizer: Tokenizer) -> None:
    """Decode NEW_TOKENS tokens, the end banned so that there are as many each time; what is drawn differs from side to side."""
    pattern = (
        '(?:[^"\\\\\\x00-\\x1F]|\\\\["\\\\bfnrt]){800}'  # in every position a state of its own: no mask is met again
    )
    order = WANTED["an order: 5 fields, a list"] + "(?:.|\\n)*"
    prompt = tokenizer.encode("The story begins: ")
    print("| under | no mask | course_lib | llguidance | outlines-core |\n|---|---|---|---|---|")
    for what, pattern in {"an order, then anything": order, "a string, each place a state of its own": pattern}.items():
        constraint, peer = Constraint(pattern, tokenizer), grammar(lark(pattern), tokenizer)
        index = outlines_core.Index(pattern, outlines_vocabulary(tokenizer)) if pattern is order else None
        sides = {"none": lambda: None, "ours": constraint.rule, "llguidance": peer.rule}
        if index:
            sides["outlines"] = lambda index=index: outlines_rule(index)
        banned = sorted(tokenizer.end_ids)

        def decode(rule: Rule | None) -> float:
            constraint._masks.clear()  # noqa: B023: each text computes its masks itself
            generator, sampling = torch.Generator().manual_seed(0), Sampling(temperature=1.0)
            options = {"banned_ids": banned, "rule": rule, "generator": generator}  # noqa: B023
            start = time.perf_counter()
            n_tokens = sum(1 for _ in generate(model, prompt, NEW_TOKENS, sampling, **options))
            assert n_tokens == NEW_TOKENS
            return (time.perf_counter() - start) / NEW_TOKENS

        rounds = [{side: decode(make()) for side, make in sides.items()} for _ in range(ROUNDS + 1)][1:]
        cells = []
        for side in ("none", "ours", "llguidance", "outlines"):
            if side not in sides:
                cells.append("–")
                continue
            speed = 1 / statistics.median(r[side] for r in rounds)
            slower = statistics.median(r[side] / r["none"] - 1 for r in rounds)
            cells.append(f"{speed:.1f} tokens/s" + (f" ({slower:+.1%})" if side != "none" else ""))
        print(f"| {what} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    model, tokenizer = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; llguidance {llguidance.__version__}")
    once = (
        milliseconds(lambda: constraints._vocabulary(tokenizer)),
        milliseconds(lambda: constraints._peer_tokenizer(tokenizer)),
        milliseconds(lambda: outlines_vocabulary(tokenizer)),
    )
    print("once a tokenizer (ms):", *(f"{time:.0f}" for time in once), "\n")
    compiling(tokenizer)
    print()
    decoding(model, tokenizer)


if __name__ == "__main__":
    main()
