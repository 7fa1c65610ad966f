"""What constrained decoding costs: compiling and decoding under our masks, beside llguidance and outlines-core, in one process.

SmolLM2-135M in float32. Prints the tables of benchmarks/README.md, in four minutes on an idle core.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import llguidance
import outlines_core
import torch
from torch import Tensor

from course_lib import checkpoints
from course_lib.applications.constraints import Constraint, grammar
from course_lib.applications.constraints.grammars import peer_tokenizer
from course_lib.applications.constraints.schemas import schema_pattern
from course_lib.applications.constraints.vocabulary import Vocabulary
from course_lib.architecture import TransformerLM
from course_lib.inference import Rule, Sampling, generate
from course_lib.tokenization import Tokenizer

ROUNDS, NEW_TOKENS = 5, 128
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
DECODED = {
    "an order, then anything": WANTED["an order: 5 fields, a list"] + r"[\s\S]*",
    "600 letters or more, each place a state of its own": r"[a-z ]{600}[\s\S]*",
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
            partial(Constraint, pattern, tokenizer),
            lambda pattern=pattern: grammar(lark(pattern), tokenizer).rule().allowed([]),
            partial(outlines_core.Index, pattern, vocabulary),
        )
        times = [statistics.median(milliseconds(work) for _ in range(3)) for work in works]
        n_states = len(Constraint(pattern, tokenizer).automaton)
        print(
            f"| {what} | {n_states:,} | "
            + " | ".join(f"{t:,.0f} ms" if t >= 1 else f"{t:.1f} ms" for t in times)
            + " |"
        )


def decoding(model: TransformerLM, tokenizer: Tokenizer) -> None:
    """Decode under masks that each text computes itself; the end is banned, so that all texts have as many tokens."""
    vocabulary, prompt = outlines_vocabulary(tokenizer), tokenizer.encode("The story begins: ")
    options = {"banned_ids": sorted(tokenizer.end_ids)}

    def seconds(make: Callable[[], Rule | None]) -> float:
        rule, generator = make(), torch.Generator().manual_seed(0)
        tokens = generate(
            model, prompt, NEW_TOKENS, Sampling(temperature=1.0), rule=rule, generator=generator, **options
        )
        start = time.perf_counter()
        assert len(list(tokens)) == NEW_TOKENS
        return time.perf_counter() - start

    print("| under | no mask | course_lib | llguidance | outlines-core |\n|---|---|---|---|---|")
    for what, pattern in DECODED.items():
        constraint, peer = Constraint(pattern, tokenizer), grammar(lark(pattern), tokenizer)
        index = outlines_core.Index(pattern, vocabulary)
        sides = (lambda: None, partial(fresh, constraint), peer.rule, partial(outlines_rule, index))
        rounds = [[seconds(side) for side in sides] for _ in range(ROUNDS + 1)][1:]
        cells = [f"{NEW_TOKENS / statistics.median(free for free, *_ in rounds):.1f} tokens/s"]
        cells += [f"{statistics.median(r[side] / r[0] - 1 for r in rounds):+.1%} of the time" for side in (1, 2, 3)]
        print(f"| {what} | " + " | ".join(cells) + " |", flush=True)


def fresh(constraint: Constraint) -> Rule:
    constraint._masks.clear()
    return constraint.rule()


def main() -> None:
    model, tokenizer = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; llguidance {llguidance.__version__}")
    once = (
        milliseconds(lambda: Vocabulary(tokenizer)),
        milliseconds(lambda: peer_tokenizer(tokenizer)),
        milliseconds(lambda: outlines_vocabulary(tokenizer)),
    )
    print("once a tokenizer (ms):", *(f"{time:.0f}" for time in once), "\n")
    compiling(tokenizer)
    print()
    decoding(model, tokenizer)


if __name__ == "__main__":
    main()
