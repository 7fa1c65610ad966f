"""Lesson 06's sums, with three seeds, and beside GRPO the simpler ways to the same: a table of benchmarks/README.md.

    python benchmarks/right_sums.py

takes some five minutes on two cores. "Worked half" learns from scratch from those examples alone that are worked out, as who
knows that working helps would do. "Kept the right ones" asks the same prompts as GRPO, as often, keeps what was right, and
trains on that as in supervised fine-tuning (expert iteration, arXiv 1705.08439, in one round).
"""

import sys
from collections.abc import Callable

import torch

from course_lib.alignment import GRPOTrainer, PolicyConfig, Prompts
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.finetuning import PackedExamples, answer_loss
from course_lib.finetuning.chats import prompted
from course_lib.finetuning.intervals import bootstrap_interval
from course_lib.inference import Sampling, roll_out
from course_lib.pretraining import PretrainingConfig, Trainer
from course_lib.tasks import sums

SEEDS = range(3)
SIGNS = sums.tokenizer()
HELD_OUT = [sums.question(a, b) for a, b in sums.sums(300, seed=1, held_out=True)]
TO_LEARN = [SIGNS.encode(sums.question(a, b)) for a, b in sums.sums(2000, seed=7)]
SHAPE = TransformerConfig(
    vocab_size=15, d_model=96, n_layers=3, n_heads=3, d_ff=384, context_length=96, feed_forward="relu2", qk_norm="head"
)
SUPERVISED = {"batch_size": 16, "learning_rate": 0.004, "warmup": 10}
N_PROMPTS, N_SAMPLES, N_STEPS, LONGEST = 16, 8, 25, 40


def learn(examples: list, seed: int, n_steps: int, model: TransformerLM | None = None) -> TransformerLM:
    """Return a model after supervised training on `examples`, a new one if none is given."""
    seed_everything(seed)
    model = model or TransformerLM(SHAPE)
    config = PretrainingConfig(n_steps=n_steps, seed=seed, **SUPERVISED)
    for _ in Trainer(model, PackedExamples(examples, 96, 15), None, config, loss=answer_loss):
        pass
    return model


def first_examples(worked: Callable[[int], bool]) -> list:
    return [
        prompted(SIGNS, sums.question(a, b), sums.work_out(a, b) if worked(i) else str(a + b))
        for i, (a, b) in enumerate(sums.sums(6000))
    ]


def answers(model: TransformerLM, prompts: list[list[int]], seed: int) -> list[list[int]]:
    noise = torch.rand(len(prompts), LONGEST, generator=torch.Generator().manual_seed(seed))
    return roll_out(model, prompts, LONGEST, Sampling(temperature=1.0), stop_ids=SIGNS.end_ids, noise=noise).answers


def is_right(prompts: list[list[int]], written: list[list[int]]) -> torch.Tensor:
    pairs = zip(map(SIGNS.decode, prompts), map(SIGNS.decode, written), strict=True)
    return torch.tensor([float(sums.is_right(*pair)) for pair in pairs])


def told(name: str, model: TransformerLM) -> None:
    """Print how many of 300 held-out sums are right, and how many were worked out."""
    prompts = list(map(SIGNS.encode, HELD_OUT))
    written = answers(model.eval(), prompts, 0)
    right = is_right(prompts, written).double()
    low, high = bootstrap_interval(right)
    worked = sum(":" in SIGNS.decode(answer) for answer in written) / len(written)
    print(f"  {name:22} {right.mean():4.0%} [{low:.0%}, {high:.0%}], {worked:4.0%} worked out", flush=True)


def by_grpo(model: TransformerLM, seed: int) -> None:
    config = PretrainingConfig(
        n_steps=N_STEPS, batch_size=N_PROMPTS, context_length=8, learning_rate=5e-4, muon_learning_rate=None,
        weight_decay=0.0, warmup=3, decay=0.5, seed=seed,
    )  # fmt: skip
    policy = PolicyConfig(max_new_tokens=LONGEST, n_samples=N_SAMPLES, kl_weight=0.0)
    for _ in GRPOTrainer(model, Prompts(TO_LEARN, 8, 15), is_right, policy, config, stop_ids=SIGNS.end_ids):
        pass


def kept_the_right_ones(model: TransformerLM, seed: int) -> list:
    prompts = [prompt for prompt in TO_LEARN[: N_PROMPTS * N_STEPS] for _ in range(N_SAMPLES)]
    written = answers(model.eval(), prompts, seed + 1)
    right = is_right(prompts, written)
    return [
        prompted(SIGNS, SIGNS.decode(prompt), SIGNS.decode([i for i in answer if i not in SIGNS.end_ids]))
        for prompt, answer, is_good in zip(prompts, written, right, strict=True)
        if is_good
    ]


def main() -> None:
    for seed in SEEDS:
        print(f"seed {seed}")
        model = learn(first_examples(lambda i: i % 2 == 1), seed, 300)
        told("both halves", model)
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        by_grpo(model, seed)
        told("then GRPO", model)
        model.load_state_dict(weights)
        told("then the right ones", learn(kept_the_right_ones(model, seed), seed, 100, model))
        told("the worked half", learn(first_examples(lambda i: True), seed, 300))


if __name__ == "__main__":
    sys.exit(main())
