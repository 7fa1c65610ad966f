"""SmolLM2 reads sixty short texts as JSON, free and under the schema's constraint: how many are valid, how many fields right.

One greedy answer a text, of at most 100 tokens; what stands around a free answer's object is cut off. The request names the
fields; an example before it is a text with its answer, of another kind or of the text's own (the set's next one: chosen from
the test, but nobody's answer is shown to itself). Peers: rules that look at the types in the schema, without a model, and each
field's most common value, chosen on the test itself. Prints the table of benchmarks/README.md.
In some ten minutes on one thread.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch

from course_lib import checkpoints
from course_lib.applications.constraints import Constraint
from course_lib.applications.evaluation import paired_difference
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import write_replies
from course_lib.tasks.extraction import (
    SCHEMAS,
    ExtractionTask,
    by_rules,
    extraction_tasks,
    first_object,
    request,
    score,
)

LENGTH = 100

MODEL, TOKENIZER = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
TASKS = extraction_tasks()
KINDS = {kind: [task for task in TASKS if task.kind == kind] for kind in SCHEMAS}


def none(_: ExtractionTask) -> list[ExtractionTask]:
    return []


def other_kind(task: ExtractionTask) -> list[ExtractionTask]:
    return [TASKS[-1] if task.kind == TASKS[0].kind else TASKS[0]]


def own_kind(task: ExtractionTask) -> list[ExtractionTask]:
    alike = KINDS[task.kind]
    return [alike[(alike.index(task) + 1) % len(alike)]]


def chat(task: ExtractionTask, examples: Sequence[ExtractionTask]) -> list[dict[str, str]]:
    messages = []
    for one in examples:
        messages.append({"role": "user", "content": request(one)})
        messages.append({"role": "assistant", "content": json.dumps(one.gold, ensure_ascii=False)})
    return [*messages, {"role": "user", "content": request(task)}]


def turned(schema: Mapping) -> dict:
    """Return `schema` with its fields in the opposite order, in which a constrained answer then has them."""
    return {**schema, "properties": dict(reversed(schema["properties"].items()))}


def answers(examples: Callable, schemas: Mapping[str, Mapping] | None) -> list[str]:
    rules = None
    if schemas is not None:
        compiled = {kind: Constraint(schema, TOKENIZER) for kind, schema in schemas.items()}
        rules = [compiled[task.kind].rule(LENGTH) for task in TASKS]
    start = time.perf_counter()
    texts = write_replies(MODEL, TOKENIZER, [chat(task, examples(task)) for task in TASKS], LENGTH, rules=rules)
    print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)
    return [first_object(text) if schemas is None else text for text in texts]


def show(name: str, texts: Sequence[str], beside: Sequence[float] | None = None) -> list[float]:
    """Print a row, and return the share of right fields of each text."""
    scores = [score(task, text) for task, text in zip(TASKS, texts, strict=True)]
    right = [one.fields_right for one in scores]
    low, high = bootstrap_interval(right)
    cells = [name, f"{sum(one.valid for one in scores)}", f"{sum(right) / len(right):.0%} ({low:.0%} to {high:.0%})"]
    if beside is not None:
        more, (low, high) = paired_difference(beside, right)
        cells.append(f"{more:+.0%} ({low:+.0%} to {high:+.0%})")
    else:
        cells.append("")
    print(f"| {' | '.join(cells)} |", flush=True)
    return right


def most_common(task: ExtractionTask) -> str:
    golds = [[json.dumps(one.gold[name]) for one in KINDS[task.kind]] for name in task.gold]
    return json.dumps({
        name: json.loads(Counter(some).most_common(1)[0][0]) for name, some in zip(task.gold, golds, strict=True)
    })  # fmt: skip


def main() -> None:
    """Print the table."""
    print("| answer | valid of 60 | fields right | beside the free one |\n|---|---|---|---|")
    for name, examples in (
        ("no example", none),
        ("one of another kind", other_kind),
        ("one of its own kind", own_kind),
    ):
        free = show(f"{name}, free", answers(examples, None))
        constrained = show(f"{name}, constrained", answers(examples, SCHEMAS), free)
        if examples is none:
            bare = constrained
    backwards = {kind: turned(schema) for kind, schema in SCHEMAS.items()}
    print("(the next rows: beside the constrained answer without an example)")
    show("no example, constrained, fields in the opposite order", answers(none, backwards), bare)
    show("rules, no model", list(map(by_rules, TASKS)), bare)
    show("each field's most common value, no model", list(map(most_common, TASKS)), bare)


if __name__ == "__main__":
    main()
