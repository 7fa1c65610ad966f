"""A watermark in SmolLM2's texts: how many are found at which rate of false alarms, what it costs, and what attacks leave.

60 texts of 200 tokens, drawn at temperature 1, unmarked and with marks of several strengths, from the same random numbers;
tokens that end a text are banned. The detector is given text, not ids, and tokenizes it anew. Prints the tables of
benchmarks/README.md, in some fifteen minutes on one thread.
"""

import random
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from course_lib import checkpoints
from course_lib.applications.evaluation import paired_difference
from course_lib.applications.watermark import Watermark, delete_tokens, replace_tokens, shared_runs
from course_lib.corpora.shakespeare import works
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import Sampling, roll_out
from course_lib.inference.generation import chat_prompt, tokenless_ids

SUBJECTS = (
    "a lighthouse", "a lost dog", "a train at night", "an old teacher", "a market in spring", "a broken clock", "two sisters",
    "a letter that came late", "a storm at sea", "a new neighbour", "the first snow", "a garden behind a wall", "a long walk",
    "a thief with a conscience", "a small library", "a birthday", "a mountain hut", "a game of chess", "a river", "a song",
)  # fmt: skip
N_EACH, LENGTH, KEY, FALSE_ALARMS, N_KEYS = 3, 200, "course", 0.01, 100
STRENGTHS = ((0.25, 2.0), (0.25, 1.0), (0.25, 4.0))  # (γ, δ)
SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)

MODEL, TOKENIZER = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
BANNED = sorted({*tokenless_ids(MODEL, TOKENIZER), *TOKENIZER.special_tokens.values()})


def write(requests: Sequence[str], rule: Watermark | None, seed: int) -> tuple[list[list[int]], torch.Tensor]:
    """Return the ids of an answer to each request, and the mean of its tokens' nats under the model without a rule (text,)."""
    prompts = [TOKENIZER.encode(chat_prompt(TOKENIZER, [{"role": "user", "content": text}])) for text in requests]
    noise = torch.rand(len(prompts), LENGTH, generator=torch.Generator().manual_seed(seed))
    rules = None if rule is None else [rule] * len(prompts)
    start = time.perf_counter()
    written = roll_out(MODEL, prompts, LENGTH, Sampling(1.0), banned_ids=BANNED, rules=rules, noise=noise)
    print(f"  ({len(prompts) * LENGTH / (time.perf_counter() - start):.0f} tokens/s)", flush=True)
    return written.answers, -written.log_probs.sum(dim=1).cpu() / LENGTH


def read_again(ids: Sequence[int]) -> list[int]:
    """Return the ids that the text of `ids` has for who sees the text alone."""
    return TOKENIZER.encode(TOKENIZER.decode(ids))


def found(texts: Sequence[Sequence[int]], mark: Watermark) -> torch.Tensor:
    """Return which of `texts` are found at the rate of false alarms."""
    return torch.tensor([mark.detect(text).p_value <= FALSE_ALARMS for text in texts]).double()


def share(hits: torch.Tensor) -> str:
    low, high = bootstrap_interval(hits)
    return f"{hits.mean():.0%} ({low:.0%} to {high:.0%})"


def repeated(texts: Sequence[Sequence[int]]) -> float:
    """Return the share of pairs of tokens that came before in their text, in the mean."""
    return sum(1 - len(set(pairwise(text))) / (len(text) - 1) for text in texts) / len(texts)


def calibration(name: str, texts: Sequence[Sequence[int]], gamma: float) -> None:
    """Print how often unmarked `texts` are found, over many keys, and under the worst of these."""
    p_values = torch.tensor(
        [[Watermark(f"key {number}", gamma).detect(text).p_value for text in texts] for number in range(N_KEYS)]
    )
    rates = [f"{(p_values <= level).double().mean():.2%}" for level in (0.1, 0.05, 0.01, 0.001)]
    by_key = (p_values <= FALSE_ALARMS).double().mean(dim=1)
    print(f"| {name} | {len(texts)} | {' | '.join(rates)} | {by_key.max():.0%} |", flush=True)


def human_texts(n: int) -> list[list[int]]:
    """Return passages of 200 tokens from the middle of lines of the plays, in the modern edition."""
    chance = random.Random(0)
    plays = [work.text for work in works() if work.edition == "modern" and len(work.text) > 10_000]
    texts = []
    for _ in range(n):
        text = chance.choice(plays)
        start = chance.randrange(len(text) - 3000)
        texts.append(TOKENIZER.encode(" ".join(text[start : start + 3000].split()))[:LENGTH])
    return texts


def main() -> None:
    """Print the tables."""
    requests = [f"Write a story about {subject}." for subject in SUBJECTS for _ in range(N_EACH)]
    plain, plain_nats = write(requests, None, 0)
    human = human_texts(200)
    plain_read = list(map(read_again, plain))

    print("\n| unmarked texts | n | p ≤ 10 % | 5 % | 1 % | 0.1 % | worst key, at 1 % |\n|---|---|---|---|---|---|---|")
    calibration("of the plays", human, 0.25)
    calibration("of the model", plain_read, 0.25)

    print(
        "\n| γ, δ | found of 200 tokens | of 100 | of 50 | of 25 | median z | nats a token | perplexity | pairs repeated |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print(f"| no mark | | | | | | {plain_nats.mean():.2f} | {plain_nats.mean().exp():.1f} | {repeated(plain):.0%} |")
    for gamma, delta in STRENGTHS:
        mark = Watermark(KEY, gamma, delta)
        texts, nats = write(requests, mark, 0)
        again = list(map(read_again, texts))
        if (gamma, delta) == (0.25, 2.0):
            marked, kept = again, texts
        rates = [share(found([text[:n] for text in again], mark)) for n in (200, 100, 50, 25)]
        z = torch.tensor([mark.detect(text).z for text in again]).median()
        more, (low, high) = paired_difference(plain_nats, nats)
        costs = f"{nats.mean():.2f}, +{more:.2f} ({low:.2f} to {high:.2f}) | {nats.mean().exp():.1f} | {repeated(texts):.0%}"
        print(f"| {gamma}, {delta:g} | {' | '.join(rates)} | {z:.1f} | {costs} |", flush=True)

    mark = Watermark(KEY)
    limit = torch.tensor([shared_runs(text, marked) for text in plain_read + human]).quantile(1 - FALSE_ALARMS)

    def attacked(name: str, attack: Callable[[list[int]], list[int]]) -> None:
        texts = [read_again(attack(text)) for text in kept]
        looked_up = torch.tensor([shared_runs(text, marked) > limit for text in texts]).double()
        z = torch.tensor([mark.detect(text).z for text in texts]).median()
        print(f"| {name} | {share(found(texts, mark))} | {z:.1f} | {share(looked_up)} |", flush=True)

    pool = [token for text in plain for token in text]
    paraphrases, _ = write([f"Rewrite this story in other words:\n{TOKENIZER.decode(text)}" for text in kept], None, 1)
    rewritten = dict(zip(map(tuple, kept), paraphrases, strict=True))
    generator = torch.Generator().manual_seed(0)
    print("\n| attack | found by the mark | median z | found in the log |\n|---|---|---|---|")
    attacked("none", lambda text: text)
    for part in SHARES:
        attacked(f"{part:.0%} of tokens replaced", lambda text, part=part: replace_tokens(text, part, pool, generator))
    for part in SHARES:
        attacked(f"{part:.0%} of tokens deleted", lambda text, part=part: delete_tokens(text, part, generator))
    attacked("rewritten by the model", lambda text: rewritten[tuple(text)])


if __name__ == "__main__":
    main()
