"""Rollouts and a step of GRPO: this library beside `transformers` and `trl`, on the same weights, prompts and group sizes.

Prints the table of benchmarks/README.md, in some three minutes on two cores:

    PYTHONPATH=tests python benchmarks/alignment.py

Each side has a process of its own, and they take turns; a step of `trl` is the best of seven in one training. All texts have
the same number of new tokens: none may end early.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import datasets
import torch
import transformers
from chat_templates import tokenizer_pair
from trl import GRPOConfig, GRPOTrainer

from course_lib import alignment, assets, checkpoints
from course_lib.inference import roll_out
from course_lib.pretraining import PretrainingConfig

ROUNDS = 3
SMALL = transformers.LlamaConfig(  # as large as lesson 04's model
    vocab_size=2048, hidden_size=192, num_hidden_layers=3, num_attention_heads=6, intermediate_size=512,
    max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
NEW = {"SmolLM2": 64, "small": 32}
GROUPS, SAMPLES, ANSWER = 8, 8, 16  # of a step of GRPO: prompts, answers to each, tokens


def prompts(name: str) -> list[list[int]]:
    """Sixteen prompts of 8 to 63 tokens for the real model, 64 of 4 to 30 for the small one."""
    n, shortest, longest, vocab_size = (16, 8, 64, 49_000) if name == "SmolLM2" else (64, 4, 31, 2000)
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest, (n,), generator=draw).tolist()
    return [torch.randint(10, vocab_size, (length,), generator=draw).tolist() for length in lengths]


def small_folder() -> Path:
    """The small model, random, as `transformers` saves it, with a tokenizer that both sides read."""
    folder = Path(tempfile.gettempdir()) / "course-small-llama"
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        _, tokenizer = tokenizer_pair("mistral", folder)
        transformers.LlamaForCausalLM(SMALL).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


# ---------------------------------------------------------------- what is timed


def ours(name: str) -> Callable[[], object]:
    """All prompts' texts, by `roll_out`."""
    source = "smollm2-135m-instruct" if name == "SmolLM2" else small_folder()
    model, _ = checkpoints.load(source, dtype=torch.float32)
    return lambda: roll_out(model, prompts(name), NEW[name])


def theirs(name: str) -> Callable[[], object]:
    """The same by `transformers`, padded on the left."""
    if name == "SmolLM2":
        gguf = assets.fetch("smollm2-135m-instruct")
        model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(small_folder(), dtype=torch.float32)
    asked = prompts(name)
    longest = max(map(len, asked))
    ids = torch.tensor([[0] * (longest - len(one)) + one for one in asked])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in asked])
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": NEW[name]}
    return lambda: model.generate(ids, attention_mask=mask, min_new_tokens=NEW[name], **options)


def our_step(_: str) -> Callable[[], object]:
    """A step of GRPO by `GRPOTrainer`, with a leash, on rewards that cost nothing."""
    model, _ = checkpoints.load(small_folder(), dtype=torch.float32)
    trainer = alignment.GRPOTrainer(
        model.requires_grad_(),
        alignment.Prompts([one[:20] for one in prompts("small") if len(one) >= 20][:GROUPS], 20, SMALL.vocab_size),
        lambda asked, answers: torch.arange(len(answers)) % SAMPLES / SAMPLES,
        alignment.PolicyConfig(max_new_tokens=ANSWER, n_samples=SAMPLES, kl_weight=0.04),
        PretrainingConfig(
            n_steps=10_000, batch_size=GROUPS, context_length=20, learning_rate=1e-6, muon_learning_rate=None
        ),
        stop_ids=frozenset(),
    )
    steps = iter(trainer)
    return lambda: next(steps)


def their_step(_: str) -> Callable[[], object]:
    """The same by `trl`: as many prompts, answers and tokens, and a leash."""
    folder = small_folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or "</s>"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = ["w" * 20] * GROUPS
    assert len(tokenizer(texts[0])["input_ids"]) == 20
    marks: list[float] = []

    class Watched(transformers.TrainerCallback):
        def on_step_end(self, *_, **__):
            marks.append(time.perf_counter())

    def train() -> None:
        with warnings.catch_warnings(action="ignore"):
            config = GRPOConfig(
                tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to="none", beta=0.04, num_generations=SAMPLES,
                per_device_train_batch_size=GROUPS * SAMPLES, max_completion_length=ANSWER, max_steps=8, learning_rate=1e-6,
                logging_steps=1000, save_strategy="no", disable_tqdm=True, gradient_checkpointing=False,
                generation_kwargs={"min_new_tokens": ANSWER},
            )  # fmt: skip
            data = datasets.Dataset.from_list([{"prompt": text} for text in texts])
            GRPOTrainer(
                model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Watched()],
                reward_funcs=lambda completions, **_: [i % SAMPLES / SAMPLES for i in range(len(completions))],
            ).train()  # fmt: skip

    train()
    took = [after - before for before, after in pairwise(marks[1:])]
    return lambda: min(took)


# ---------------------------------------------------------------- the clock

_work: Callable[[], object] | None = None


def prepare(side: str, name: str) -> None:
    global _work
    _work = globals()[side](name)
    _work()


def seconds() -> float:
    start = time.perf_counter()
    told = _work()
    return told if isinstance(told, float) else time.perf_counter() - start


def race(left: str, right: str, name: str) -> tuple[float, float]:
    """Return the least seconds of either side, each in a process of its own, in turn."""
    pools = [ProcessPoolExecutor(1, mp_context=get_context("spawn")) for _ in range(2)]
    for pool, side in zip(pools, (left, right), strict=True):
        pool.submit(prepare, side, name).result()
    found = [[pool.submit(seconds).result() for pool in pools] for _ in range(ROUNDS)]
    for pool in pools:
        pool.shutdown()
    return min(one for one, _ in found), min(other for _, other in found)


def main() -> None:
    for name in ("SmolLM2", "small"):
        n_tokens = len(prompts(name)) * NEW[name]
        mine, other = (n_tokens / taken for taken in race("ours", "theirs", name))
        print(
            f"{name}, {len(prompts(name))} prompts: {mine:,.0f} tokens/s, transformers {other:,.0f}: {mine / other:.2f} ×"
        )
    mine, other = race("our_step", "their_step", "")
    print(f"a step of GRPO: {mine:.2f} s, trl {other:.2f} s: {other / mine:.2f} ×")


if __name__ == "__main__":
    sys.exit(main())
