"""Programs that a model wrote, tried by their tests in the sandbox: completion, repair, and pass@k.

    def gap(a, b):
        \"\"\"Return the distance between two numbers on the number line. It is never negative.\"\"\"

is a prompt; what a model writes behind it is a completion. Whether it is right is not asked of a model: its tests are run.
"""

import json
import os
import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from course_lib.applications import sandbox
from course_lib.applications.sandbox import Limits, Result, run
from course_lib.architecture import TransformerLM
from course_lib.checks import check, check_texts
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import roll_out
from course_lib.inference.generation import Rule, Sampling, chat_prompt, tokenless_ids
from course_lib.tokenization import Tokenizer

__all__ = [
    "Task", "complete", "pass_at_k", "pass_at_k_interval", "repair", "repair_prompt", "solves", "whole_program",
]  # fmt: skip

_JUDGE = Path(sandbox.__file__).with_name("judge.py").read_text(encoding="utf-8")
_N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
_LENGTH = 100  # tokens of a completion
_AT_ONCE = 16  # completions
_FENCED = re.compile(r"^```\w*[ \t]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)


class Task(Protocol):
    """A function to be written; `course_lib.tasks.programs` has forty."""

    @property
    def name(self) -> str:
        """The function's name."""

    @property
    def prompt(self) -> str:
        """Its first lines: signature and docstring."""

    @property
    def tests(self) -> Sequence[str]:
        """Lines such as `assert gap(3, 10) == 7`, with plain values: numbers, texts, None, and lists, dicts, sets of them."""


def complete(
    model: TransformerLM,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    n_samples: int = 1,
    sampling: Sampling = Sampling(),
    seed: int = 0,
) -> list[list[str]]:
    """Return what a chat model writes behind the prompt of each of `tasks`, `n_samples` times, of at most 100 tokens.

    It is asked for the function, and its reply is begun by the prompt. A text ends where the function is over: what would
    follow is not written at all. Another `seed` draws others. ValueError for no sample, and as of `chat_prompt`.
    """
    check("n_samples", n_samples)
    prompts = [_begun(tokenizer, task) for task in tasks]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(len(tasks), n_samples, _LENGTH, generator=generator)
    order = sorted(range(len(tasks)), key=lambda row: len(prompts[row]))
    n_tasks, texts = max(1, _AT_ONCE // n_samples), {}
    for start in range(0, len(order), n_tasks):
        rows = order[start : start + n_tasks]
        written = roll_out(
            model, [prompts[row] for row in rows], _LENGTH, sampling, n_samples=n_samples, stop_ids=tokenizer.end_ids,
            banned_ids=tokenless_ids(model, tokenizer), noise=noise[rows].flatten(end_dim=1),
            rules=[_end_of_function(tokenizer)] * len(rows) * n_samples,
        ).answers  # fmt: skip
        for number, row in enumerate(rows):
            some = written[number * n_samples : (number + 1) * n_samples]
            texts[row] = [_body(tokenizer.decode([id for id in ids if id not in tokenizer.end_ids])) for ids in some]
    return [texts[row] for row in range(len(tasks))]


def _begun(tokenizer: Tokenizer, task: Task) -> list[int]:
    request = [{"role": "user", "content": f"Write this Python function.\n\n{task.prompt}"}]
    return tokenizer.encode(chat_prompt(tokenizer, request) + task.prompt)


def _end_of_function(tokenizer: Tokenizer) -> Rule:
    """Return a rule that leaves only the end of the text where a line has begun that is not the function's."""

    def rule(written: Sequence[int], logits: Tensor) -> Tensor:
        text = tokenizer.decode(written)
        if _body(text) == text:
            return logits
        end = [min(tokenizer.end_ids)]
        return torch.full_like(logits, -torch.inf).index_fill(0, torch.tensor(end, device=logits.device), 0.0)

    return rule


def _body(text: str) -> str:
    """Return `text`, which goes on behind a prompt, up to the first line that is neither blank nor indented."""
    first, *rest = text.split("\n")
    inside = next((i for i, line in enumerate(rest) if line.strip() and not line[0].isspace()), len(rest))
    return "\n".join([first, *rest[:inside]])


def whole_program(task: Task, text: str) -> str:
    """Return the program in what a model wrote for a task.

    - A block between ``` fences, the first one, is the program if it defines the function; else it goes on behind the prompt.
    - Without fences the text goes on behind the prompt, and ends before the first line that is neither blank nor indented:
      there the function is over, and models write on, with a second function or a test of their own invention.
    """
    check("text", text, str)
    fenced = _FENCED.search(text)
    if fenced and re.search(rf"^def {re.escape(task.name)}\b", fenced[1], re.MULTILINE):
        return fenced[1]
    return task.prompt + _body(f"\n{fenced[1]}" if fenced else text)


def solves(
    task: Task, texts: Sequence[str], *, limits: Limits = Limits(), bubblewrap: bool | None = None
) -> list[Result]:
    """Run the task's tests on what a model wrote, each text in a sandbox of its own, as many at once as there are cores.

    A text is right if its result's status is "ok". Else the last line of stderr says why: which test fails and what came
    instead, or that there is no such function. Equal programs are run once. `limits` and `bubblewrap` are as in `sandbox.run`.

    The function runs in another process than its tests (`sandbox/judge.py`), and that they passed is told by a token, new in
    each run, that its process does not hold. So a program cannot pass by leaving early, by printing what a passing one
    prints, or by values that are equal to everything. Special cases for the prompt's examples are what tests are there for.
    Raises ValueError for texts that are no strings, and what `sandbox.run` raises.
    """
    check_texts("texts", texts)
    programs = [whole_program(task, text) for text in texts]
    distinct = list(dict.fromkeys(programs))
    pool = ThreadPoolExecutor(_N_CORES)
    try:
        results = pool.map(partial(_try, task, limits=limits, bubblewrap=bubblewrap), distinct)
        by_program = dict(zip(distinct, results, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    return [by_program[program] for program in programs]


def _try(task: Task, program: str, *, limits: Limits, bubblewrap: bool | None) -> Result:
    token = secrets.token_hex(16)
    judge = f"{_JUDGE}\nmain({program!r}, {task.name!r})\n"
    tests = json.dumps({"token": token, "tests": "\n".join(task.tests)})
    result = run(judge, stdin=tests, limits=limits, bubblewrap=bubblewrap)
    if result.status == "ok" and f"\n{token}\n" in result.stdout:
        return replace(result, stdout=result.stdout.replace(f"\n{token}\n", ""))
    status = "error" if result.status == "ok" else result.status
    before, mark, rest = result.stderr.rpartition(f"\n{token}")
    if not mark:
        return replace(result, status=status)
    # What the judge has said is put behind what the program has.
    complaint, _, after = rest.partition("\n")
    return replace(result, status=status, stderr=f"{before}{after}\n{complaint}\n")


def repair_prompt(task: Task, text: str, result: Result) -> str:
    """Return the request to a chat model to mend what it wrote: the program, and what the first failing test says of it."""
    said = result.stderr.strip().rpartition("\n")[2] if result.status == "error" else result.meaning
    return (
        f"This Python function is wrong:\n\n```python\n{whole_program(task, text).strip()}\n```\n\n{said}\n\n"
        f"Write the whole function {task.name} again, so that it is right."
    )


def repair(
    task: Task, texts: Sequence[str], results: Sequence[Result], write: Callable[[list[str]], Sequence[str]]
) -> list[str]:
    """Return the texts after one round of repair: those that failed are replaced by what `write` answers to their prompts.

    `write` is given all `repair_prompt`s at once, for a model that answers in batches. What a second sample without the
    complaint would have repaired is the number to compare with: a round of repair costs as much.
    Raises ValueError if the numbers of texts, results and answers do not match.
    """
    if len(texts) != len(results):
        raise ValueError(f"{len(texts)} texts have {len(results)} results")
    failed = [i for i, result in enumerate(results) if result.status != "ok"]
    answers = write([repair_prompt(task, texts[i], results[i]) for i in failed]) if failed else []
    if len(answers) != len(failed):
        raise ValueError(f"{len(failed)} texts were to be repaired, and write returned {len(answers)}")
    mended = dict(zip(failed, answers, strict=True))
    return [mended.get(i, text) for i, text in enumerate(texts)]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return pass@k: how probable it is that one of `k` samples is right, from `n` samples of which `c` are.

    1 − C(n − c, k) / C(n, k), the share of the sets of k samples with a right one among them; unbiased, where 1 − (1 − c/n)^k
    is too low (arXiv 2107.03374, section 2.1). As a product of c factors, no number in it is large:

        1 − ∏ (1 − k / i),  i from n − c + 1 to n

    Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    check("n", n)
    check("c", c, int, 0, n)
    check("k", k, int, 1, n)
    if n - c < k:  # any k samples have a right one among them
        return 1.0
    return 1.0 - prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def pass_at_k_interval(counts: Sequence[tuple[int, int]], k: int) -> tuple[float, float, float]:
    """Return the mean of pass@k over tasks and its 95 % interval, (mean, low, high), from (n, c) of each task.

    The tasks are drawn again (`bootstrap_interval`): other tasks could have been asked. It is no interval of a task's samples.
    Raises ValueError for fewer than two tasks, and as `pass_at_k` does.
    """
    values = [pass_at_k(n, c, k) for n, c in counts]
    low, high = bootstrap_interval(values)
    return sum(values) / len(values), low, high
