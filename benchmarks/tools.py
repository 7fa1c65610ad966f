"""SmolLM2 does arithmetic by itself, and with a calculator: plain questions, and problems in words.

Beside it a peer without a language model: it finds the expression in the text, or guesses the operation by a list of words.
Prints the tables of benchmarks/README.md, in some six minutes on an idle core.
"""

import re
from collections import Counter
from functools import reduce

import torch

from course_lib import checkpoints
from course_lib.applications.evaluation import mcnemar, paired_difference
from course_lib.applications.tools import CALCULATIONS, CALCULATOR, Run, Tools, calculate
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import write_replies
from course_lib.tasks.sums import Problem, plain_problems, story_problems

N_PLAIN, FREE_TOKENS = 40, 64
PROBLEMS = (*plain_problems(N_PLAIN, seed=7), *story_problems())
KINDS = {
    "plain": ("plain",),
    "one step": ("one step",),
    "two steps": ("two steps",),
    "misleading": ("misleading",),
    "all stories": ("one step", "two steps", "misleading"),
}
OPERATIONS = (  # the words were chosen with the problems in sight
    ("/", ("equal", "into", "share", "how many minutes")),
    ("-", (
        "left", "lost", "still", "free", "taken", "higher", "back", "saved", "run out", "less", "more than", "shorter",
    )),
    ("*", ("each", "cost", "rows", "hold", " a day", " wide", "packs", "trays", "years", "carry", "pages")),
)  # fmt: skip


# ---------------------------------------------------------------- without a model


def rule(problem: Problem) -> str:
    """Answer without a model."""
    if found := re.search(r"\d+ [+−×÷] \d+", problem.text):
        return calculate(found[0])
    text, numbers = problem.text.lower(), re.findall(r"\d+", problem.text)
    sign = next((sign for sign, words in OPERATIONS if any(word in text for word in words)), "+")
    return reduce(lambda value, number: calculate(f"{value}{sign}{number}"), numbers)


# ---------------------------------------------------------------- the tables


def share(values: torch.Tensor) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():.0%} ({low:.0%} to {high:.0%})"


def difference(first: torch.Tensor, second: torch.Tensor) -> str:
    mean, (low, high) = paired_difference(first, second)
    p = mcnemar(int((first > second).sum()), int((second > first).sum()))
    return f"{mean:+.0%} ({low:+.0%} to {high:+.0%}), p = {p:.1g}"


def of(kind: str, values: torch.Tensor) -> torch.Tensor:
    return values[[problem.kind in KINDS[kind] for problem in PROBLEMS]]


def table(head: str, rows: dict[str, list[str]]) -> None:
    print(f"\n| {head} | {' | '.join(KINDS)} |\n|{'---|' * (len(KINDS) + 1)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    bare = Tools(MODEL, TOKENIZER, [], [Run(run.question, (), run.answer) for run in CALCULATIONS])
    calling = Tools(MODEL, TOKENIZER, [CALCULATOR], CALCULATIONS)
    runs = [calling(problem.text) for problem in PROBLEMS]
    answers = {
        "SmolLM2 alone, in its own words": write_replies(
            MODEL, TOKENIZER, [problem.text for problem in PROBLEMS], FREE_TOKENS
        ),
        "SmolLM2 alone, same form and examples": [bare(problem.text).answer for problem in PROBLEMS],
        "SmolLM2 with the calculator": [run.answer or "" for run in runs],
        "no model: a rule and the calculator": [rule(problem) for problem in PROBLEMS],
    }
    right = {
        way: torch.tensor([float(p.is_right(text)) for p, text in zip(PROBLEMS, texts, strict=True)])
        for way, texts in answers.items()
    }
    words, form, tool, peer = right.values()
    table("right", {way: [share(of(kind, hits)) for kind in KINDS] for way, hits in right.items()})
    gains = {
        "than alone, in its own words": (words, tool),
        "than alone, same form": (form, tool),
        "than the rule": (peer, tool),
    }
    table(
        "the calculator's model, more",
        {name: [difference(of(kind, a), of(kind, b)) for kind in KINDS] for name, (a, b) in gains.items()},
    )
    called = [any(p.is_right(step.result) for step in run.steps) for p, run in zip(PROBLEMS, runs, strict=True)]
    copied = [bool(run.steps) and run.answer == run.steps[-1].result for run in runs]
    table(
        "with the calculator",
        {
            "a result is the answer": [share(of(kind, torch.tensor(called).float())) for kind in KINDS],
            "the last result is answered": [share(of(kind, torch.tensor(copied).float())) for kind in KINDS],
        },
    )
    print(
        "\ncalls in a run:",
        dict(Counter(len(run.steps) for run in runs)),
        "endings:",
        dict(Counter(run.ending for run in runs)),
    )
    wrong = [
        (p.expression, run.steps) for p, run in zip(PROBLEMS, runs, strict=True) if not p.is_right(run.answer or "")
    ]
    for expression, steps in wrong:
        print(f"- wanted {expression}, called {', '.join(step.arguments['expression'] for step in steps)}")


if __name__ == "__main__":
    MODEL, TOKENIZER = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    main()
