"""SmolLM2 writes the forty programs of `tasks.programs`, and mends what failed: what more samples are worth, and repair.

A greedy completion a task, and eight at temperature 0.6. Repair: of each task's first sample that fails, the model is shown the
program and what the failing test says, and writes again, at the same temperature. Its peer is one more sample without a word
of the failure, which costs less. Prints the tables of benchmarks/README.md, in some four minutes on one thread.
"""

import time
from collections.abc import Sequence

import torch

from course_lib import checkpoints
from course_lib.applications.evaluation import paired_difference
from course_lib.applications.programs import complete, pass_at_k_interval, repair_prompt, solves, whole_program
from course_lib.applications.sandbox import Result
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import Sampling, write_replies
from course_lib.tasks.programs import program_tasks

N_SAMPLES, SAMPLING = 8, Sampling(0.6)

MODEL, TOKENIZER = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
TASKS = program_tasks()


def share(mean: float, low: float, high: float) -> str:
    return f"{mean:.0%} ({low:.0%} to {high:.0%})"


def judged(texts: Sequence[Sequence[str]]) -> list[list[Result]]:
    start = time.perf_counter()
    results = [solves(task, some) for task, some in zip(TASKS, texts, strict=True)]
    n_programs = sum(len(set(some)) for some in texts)
    print(f"  ({n_programs / (time.perf_counter() - start):.1f} programs/s in the sandbox)", flush=True)
    return results


def n_right(results: Sequence[Result]) -> int:
    return sum(result.status == "ok" for result in results)


def main() -> None:
    """Print the tables."""
    greedy = judged(complete(MODEL, TOKENIZER, TASKS))
    texts = complete(MODEL, TOKENIZER, TASKS, N_SAMPLES, SAMPLING)
    sampled = judged(texts)
    print(
        "\n| programs | pass@1 | pass@2 | pass@4 | pass@8 | solved at least once, by level |\n|---|---|---|---|---|---|"
    )
    for name, results, sizes in (("greedy", greedy, (1,)), ("temperature 0.6", sampled, (1, 2, 4, 8))):
        counts = [(len(some), n_right(some)) for some in results]
        cells = [share(*pass_at_k_interval(counts, k)) for k in sizes] + [""] * (4 - len(sizes))
        solved = [(task.level, c > 0) for task, (_, c) in zip(TASKS, counts, strict=True)]
        levels = (f"{sum(yes for at, yes in solved if at == level)}" for level in (1, 2, 3, 4))
        print(f"| {name} | {' | '.join(cells)} | {', '.join(levels)} |", flush=True)

    failed = [row for row, some in enumerate(sampled) if some[0].status != "ok"]
    prompts = [repair_prompt(TASKS[row], texts[row][0], sampled[row][0]) for row in failed]
    answers = write_replies(MODEL, TOKENIZER, prompts, 160, SAMPLING)
    mended = [n_right(solves(TASKS[row], [answer])) for row, answer in zip(failed, answers, strict=True)]
    again = [n_right(sampled[row][1:]) / (N_SAMPLES - 1) for row in failed]
    print("\n| of the first samples that fail | right |\n|---|---|")
    for name, hits in (("repaired", mended), ("sampled once more", again)):
        print(f"| {name} | {share(sum(hits) / len(hits), *bootstrap_interval(hits))} |")
    more, (low, high) = paired_difference(again, mended)
    print(f"\nrepair less another sample: {more:+.0%} ({low:+.0%} to {high:+.0%}) of {len(failed)}")
    same = [
        whole_program(TASKS[row], answer).split() == whole_program(TASKS[row], texts[row][0]).split()
        for row, answer in zip(failed, answers, strict=True)
    ]
    print(f"the same program once more: {sum(same)} of {len(failed)}")


if __name__ == "__main__":
    main()
