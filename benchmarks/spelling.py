"""SmolLM2-135M and the spelling of today: prompts, LoRA and full fine-tuning, beside a dictionary and ten rules.

Held out are 200 lines of three plays that nothing was learned from. A line is right if the model, writing greedily, writes it
to the last sign and ends there; 95 % intervals are bootstrapped over lines. What is trained is trained with three seeds, on 320
pairs that the seed draws. Then, how fast a token is written without the adapter, beside it, and with it merged. Prints the
tables of benchmarks/README.md, in some ten minutes on two cores, with nothing in the cache.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from caches import without_runs

from course_lib import checkpoints
from course_lib.architecture import TransformerLM
from course_lib.finetuning import load_adapter, merge, modern_spelling
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import generate
from course_lib.tasks.spelling import Pair, pairs

RULES = (  # of small letters; applied one after the other to words that the dictionary has not
    (r"^v(?=[^aeiou])", "u"),  # vnto
    (r"(?<=[aeiourl])u(?=[aeiou'])", "v"),  # haue
    (r"^i(?=[aeou])", "j"),  # ioy
    (r"(?<=\w{3})ie$", "y"),  # mercie
    (r"(ss|ll|ff)e$", r"\1"),  # goodnesse
    (r"([^aeiouslf])\1e$", r"\1"),  # sonne
    (r"cke$", "ck"),  # backe
    (r"(?<=[aeiou]{2})([kdnmrlpt])e$", r"\1"),  # speake
    (r"(?<=[rnlw])([kndmt])e$", r"\1"),  # darke
    (r"(?<=[aeo])y(?=[a-z]{2})", "i"),  # praysed
)
N_TOKENS, ROUNDS = 40, 5


def dictionary(known: Sequence[Pair]) -> dict[str, str]:
    """Return what each word most often became."""
    became = defaultdict(Counter)
    for pair in known:
        for old, modern in zip(pair.old.split(), pair.modern.split(), strict=True):
            became[old][modern] += 1
    return {old: counts.most_common(1)[0][0] for old, counts in became.items()}


def by_rules(word: str, is_first: bool, names: set[str]) -> str:
    """Return a word that no dictionary has: in the Folio nouns begin with a capital, and in our editions names do."""
    small = word.lower()
    for pattern, replacement in RULES:
        small = re.sub(pattern, replacement, small)
    return small.capitalize() if word[:1].isupper() and (is_first or small in names) else small


def looked_up(known: dict[str, str], test: Sequence[Pair], *, rules: bool) -> torch.Tensor:
    """Return which lines come out right, word by word."""
    names = {new.lower() for new in known.values() if new[:1].isupper()}
    right = []
    for old, modern in test:
        words = enumerate(old.split())
        new = [known.get(word, by_rules(word, at == 0, names) if rules else word) for at, word in words]
        right.append(" ".join(new) == modern)
    return torch.tensor(right)


def show(name: str, right: torch.Tensor, rest: str = "") -> None:
    low, high = bootstrap_interval(right)
    print(f"| {name} | {right.double().mean():.1%} | {low:.0%} to {high:.0%} | {rest} |", flush=True)


def tokens_per_second(model: TransformerLM, ids: list[int]) -> float:
    """Return the tokens written per second in the fastest of some rounds, with the reading of `ids`."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        n = sum(1 for _ in generate(model, ids, N_TOKENS))
        seconds.append((time.perf_counter() - start) / n)
    return 1 / min(seconds)


def main() -> None:
    """Print the tables, on a cache that holds the assets and no run."""
    train, _ = pairs()
    seen, test = modern_spelling.examples()
    print("| | lines right | 95 % | seconds of training, capitals after it |\n|---|---|---|---|")
    for n_shots in (0, 5):
        show(f"{n_shots} pairs in the prompt", modern_spelling.prompt_scores(n_shots).exact)
    for known in (seen, train):
        for rules in (False, True):
            name = f"dictionary of {len(known):,} pairs{', and ten rules' if rules else ''}"
            show(name, looked_up(dictionary(known), test, rules=rules))
    for how in ("lora", "full"):
        for seed in range(3):
            *_, last = modern_spelling.teach(how, seed)
            rest = f"{last.seconds:.0f} s, {last.capitals:.0%}, {last.capital_nats:.2f} nats a token"
            show(f"{how}, seed {seed}", modern_spelling.taught_scores(how, seed).exact, rest)
    model, tokenizer = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    ids = list(modern_spelling.ask(tokenizer, test[0]).ids)
    speeds = {"without the adapter": tokens_per_second(model, ids)}
    load_adapter(model, modern_spelling.adapter_folder())
    speeds["beside it"] = tokens_per_second(model, ids)
    merge(model)
    speeds["merged"] = tokens_per_second(model, ids)
    print("\n| | tokens written per second |\n|---|---|")
    for name, speed in speeds.items():
        print(f"| {name} | {speed:.0f} |")


if __name__ == "__main__":
    with without_runs():
        main()
