"""SmolLM2 answers questions with four answers each, adds with a check behind it, and judges: what each way of asking is worth.

Multiple choice: the forty questions of `tasks.choices`, and fifty capitals beside three others. A verifier: sums of two numbers
of two digits, eight answers each. A judge: of the right answer and a wrong one, and of the right answer and the same with an
empty sentence behind it. Prints the tables of benchmarks/README.md, and more, in some five minutes.
"""

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial

import torch

from course_lib import checkpoints
from course_lib.alignment import best_of_n
from course_lib.applications.evaluation import (
    HOW,
    items_needed,
    judge,
    length_bias,
    mcnemar,
    mcnemar_power,
    paired_difference,
    position_bias,
    score_options,
)
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import Sampling, roll_out
from course_lib.inference.generation import tokenless_ids
from course_lib.tasks.capitals import CAPITALS
from course_lib.tasks.choices import choices
from course_lib.tasks.sums import sums

FILLER = " That is the answer to this question, and there is nothing else to say about it."
N_SUMS, N_SAMPLES = 60, 8

MODEL, TOKENIZER = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)


def share(values: Sequence[float] | torch.Tensor) -> str:
    low, high = bootstrap_interval(values)
    return f"{torch.as_tensor(values).double().mean():.0%} ({low:.0%} to {high:.0%})"


def multiple_choice() -> None:
    chance = random.Random(0)
    capitals = [
        (
            f"What is the capital of {land}?",
            (capital, *chance.sample([c for c in CAPITALS.values() if c != capital], 3)),
        )
        for land, capital in CAPITALS.items()
    ]
    items = [(item.question, item.options) for item in choices()] + capitals
    scores = [score_options(MODEL, TOKENIZER, question, options) for question, options in items]
    right = {how: torch.tensor([score.by(how).argmax() == 0 for score in scores]).double() for how in HOW}
    sizes = [[len(option.encode()) for option in options] for _, options in items]
    longest = torch.tensor([float(size[0] == max(size)) / size.count(max(size)) for size in sizes])
    print("| likeliest by | right answer longest (20) | shortest (20) | all 40 | 50 capitals |\n|---|---|---|---|---|")
    for how, hits in {**right, "(the longest answer)": longest}.items():
        print(f"| {how} | {' | '.join(share(part) for part in (hits[:20], hits[20:40], hits[:40], hits[40:]))} |")
    print(
        "\n| on the 40, beside the sum | difference | only the sum right | only the other | p |\n|---|---|---|---|---|"
    )
    for how in HOW[1:]:
        first, second = right["sum"][:40], right[how][:40]
        mean, (low, high) = paired_difference(first, second)
        only = int((first > second).sum()), int((second > first).sum())
        print(f"| {how} | {mean:+.0%} ({low:+.0%} to {high:+.0%}) | {only[0]} | {only[1]} | {mcnemar(*only):.2g} |")


def verifier() -> None:
    shown = "".join(f"{a} + {b} = {a + b}\n" for a, b in sums(8, 2, seed=5))
    asked = sums(N_SUMS, 2, seed=6)
    prompts = [TOKENIZER.encode_prompt(f"{shown}{a} + {b} =") for a, b in asked]
    noise = torch.rand(N_SUMS * N_SAMPLES, 5, generator=torch.Generator().manual_seed(0))
    written = roll_out(
        MODEL, prompts, 5, Sampling(1.0), n_samples=N_SAMPLES, noise=noise,
        stop_ids=frozenset(TOKENIZER.encode("\n")), banned_ids=tokenless_ids(MODEL, TOKENIZER),
    )  # fmt: skip
    answers = [TOKENIZER.decode(ids).strip() for ids in written.answers]
    rows = [answers[i : i + N_SAMPLES] for i in range(0, len(answers), N_SAMPLES)]
    totals = [a + b for a, b in asked]
    right = torch.tensor([[float(text == str(sum_)) for text in row] for sum_, row in zip(totals, rows, strict=True)])
    nines = torch.tensor(
        [[float(cast_out(text, sum_)) for text in row] for sum_, row in zip(totals, rows, strict=True)]
    )
    print("\n| of n answers | 1 | 2 | 4 | 8 |\n|---|---|---|---|---|")
    for name, accepted in (("the check adds for itself", right), ("the check casts out nines", nines)):
        print(f"| {name} | {' | '.join(share(best_of_n(accepted, n, right)) for n in (1, 2, 4, 8))} |")
    most = [[Counter(row[:n]).most_common(1)[0][0] for row in rows] for n in (1, 2, 4, 8)]
    hits = [[float(text == str(sum_)) for sum_, text in zip(totals, row, strict=True)] for row in most]
    print(f"| no check: the most frequent | {' | '.join(map(share, hits))} |")


def cast_out(text: str, total: int) -> bool:
    """Return whether `text` is a number that leaves what `total` leaves when divided by 9."""
    return text.isdecimal() and int(text) % 9 == total % 9


def judging() -> None:
    prefers = partial(judge, MODEL, TOKENIZER)
    pairs = [(item.question, item.right, item.wrong[0]) for item in choices()]
    straight = torch.tensor([prefers(question, a, b) for question, a, b in pairs])
    turned = torch.tensor([1 - prefers(question, b, a) for question, a, b in pairs])
    both = (straight.logit() + turned.logit()) / 2
    likelier = [
        score_options(MODEL, TOKENIZER, question, [a, b]).by("against prior").argmax().item() == 0
        for question, a, b in pairs
    ]
    print("\n| which of a right and a wrong answer is better | right |\n|---|---|")
    print(f"| judge, the right one first | {share((straight > 0.5).double())} |")
    print(f"| judge, the right one second | {share((turned > 0.5).double())} |")
    print(f"| judge, both orders averaged | {share((both > 0).double())} |")
    print(f"| no judge: likelier against prior | {share(torch.tensor(likelier).double())} |")
    bias = position_bias(prefers, pairs)
    first, contradicts = (f"{low:.0%} to {high:.0%}" for low, high in (bias.first_interval, bias.contradicts_interval))
    print(f"| its verdicts for what stands first | {bias.first:.0%} ({first}) |")
    print(f"| pairs of which it contradicts itself when they are turned | {bias.contradicts:.0%} ({contradicts}) |")
    length = length_bias(prefers, [(item.question, f"{item.right}.", f"{item.right}.{FILLER}") for item in choices()])
    longer, odds = (f"{low:.2f} to {high:.2f}" for low, high in (length.longer_interval, length.log_odds_interval))
    print(f"| its verdicts for an empty sentence more | {length.longer:.2f} ({longer}) |")
    print(f"| what that is worth, in nats | {length.log_odds:.2f} ({odds}) |")


def plan() -> None:
    print(
        "\n| right for one alone, for the other alone | items for a power of 80 % | power of 40 items |\n|---|---|---|"
    )
    for only in ((0.05, 0.1), (0.1, 0.15), (0.2, 0.25), (0.05, 0.15), (0.1, 0.2), (0.05, 0.25), (0.1, 0.3)):
        print(f"| {only[0]:.0%}, {only[1]:.0%} | {items_needed(*only):,} | {mcnemar_power(40, *only):.0%} |")


if __name__ == "__main__":
    for part in (multiple_choice, verifier, judging, plan):
        part()
