"""SmolLM2-135M taught the spelling of today by LoRA, in some 90 s: beside prompts, and beside a dictionary of the same pairs.

Held out are 200 lines of three plays that nothing was learned from. A line is right if the model, writing greedily, writes it
to the last sign and ends there; 95 % intervals are bootstrapped over lines. Prints the table of benchmarks/README.md, in some
five minutes on two cores.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch

from course_lib import checkpoints
from course_lib.architecture import TransformerLM
from course_lib.corpora.spelling import Pair, pairs
from course_lib.devices import seed_everything
from course_lib.finetuning import (
    Example,
    LoraConfig,
    PackedExamples,
    add_lora,
    answer_loss,
    score_answers,
    tokenize_chat,
)
from course_lib.finetuning.lora import TARGETS
from course_lib.pretraining import PretrainingConfig, Trainer
from course_lib.tokenization import Tokenizer

WORDING = "Write the line in modern spelling."
LORA = LoraConfig(rank=4, alpha=8.0, targets=TARGETS)
TRAINING = PretrainingConfig(
    n_steps=48, batch_size=2, context_length=256, learning_rate=2e-3, muon_learning_rate=None, weight_decay=0.0, warmup=3
)  # fmt: skip
N_TEST, N_TRAIN, N_SHOTS = 200, 560, 5  # 48 steps of two rows take some 560 chats, each once


def example(tokenizer: Tokenizer, pair: Pair, shots: Sequence[Pair] = ()) -> Example:
    """Return the chat that asks for `pair`, after `shots`; only its own answer counts."""
    turns = [
        [{"role": "user", "content": shown.old}, {"role": "assistant", "content": shown.modern}]
        for shown in (*shots, pair)
    ]
    whole = tokenize_chat(
        tokenizer, [{"role": "system", "content": WORDING}, *(message for turn in turns for message in turn)]
    )
    if not shots:
        return whole
    n_answer = len(example(tokenizer, pair).answer)
    last = [place for place, trained in enumerate(whole.trained) if trained][-n_answer:]
    return replace(whole, trained=tuple(place in last for place in range(len(whole.ids))))


def exact(model: TransformerLM, examples: list[Example], row: int = 256) -> torch.Tensor:
    return score_answers(model, PackedExamples(examples, row, model.config.vocab_size)).exact


def by_dictionary(known: Sequence[Pair], test: Sequence[Pair]) -> torch.Tensor:
    """Write for each word what it most often became in `known`; a word that is not there stays."""
    became = defaultdict(Counter)
    for pair in known:
        for old, modern in zip(pair.old.split(), pair.modern.split(), strict=True):
            became[old][modern] += 1
    likeliest = {old: counts.most_common(1)[0][0] for old, counts in became.items()}
    written = (" ".join(likeliest.get(word, word) for word in pair.old.split()) for pair in test)
    return torch.tensor([line == pair.modern for line, pair in zip(written, test, strict=True)])


def show(name: str, right: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = right.float()[torch.randint(len(right), (2000, len(right)), generator=generator)].mean(dim=1)
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    print(f"| {name} | {right.float().mean():.1%} | {low:.0%} to {high:.0%} |", flush=True)


def main() -> None:
    """Print the table."""
    train, held_out = pairs()
    test, seen = random.Random(0).sample(held_out, N_TEST), random.Random(0).sample(train, N_TRAIN)
    model, tokenizer = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    asked = [example(tokenizer, pair) for pair in test]
    print("| | lines right | 95 % |\n|---|---|---|")
    show("zero-shot", exact(model, asked))
    show("five-shot", exact(model, [example(tokenizer, pair, seen[:N_SHOTS]) for pair in test], 512))
    for n_pairs, known in ((N_TRAIN, seen), (len(train), train)):
        show(f"dictionary of {n_pairs:,} pairs", by_dictionary(known, test))
    seed_everything(0)
    add_lora(model, LORA)
    n_trained, n_all = (
        sum(w.numel() for w in model.parameters() if w.requires_grad or not small) for small in (True, False)
    )
    rows = PackedExamples([example(tokenizer, pair) for pair in seen], 256, model.config.vocab_size)
    trainer = Trainer(model, rows, None, TRAINING, loss=answer_loss)
    *_, last = trainer
    show(f"LoRA, {N_TRAIN} pairs, {last.seconds:.0f} s", exact(model, asked))
    print(f"\n{n_trained:,} of {n_all:,} weights trained, {n_trained / n_all:.2%}; {last.tokens:,} tokens")


if __name__ == "__main__":
    main()
