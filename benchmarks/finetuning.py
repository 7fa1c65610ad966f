"""LoRA on SmolLM2-135M in float32: this library beside `peft` on `transformers`, and packed rows beside padded ones; then all
that this library has, packed rows that share their system prompt, beside `peft` on padded ones.

Every side has a process of its own, and they take turns, step by step. A step is forward, backward, clipping and AdamW, on
real chats: lines to be put into modern spelling, and speeches with the speech that answers. Tokens are counted without padding.
Prints the tables of benchmarks/README.md, in some ten minutes on two cores.
"""

import random
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context

import peft
import torch
import transformers

from course_lib import assets, checkpoints
from course_lib.corpora import shakespeare
from course_lib.corpora.packing import IGNORED
from course_lib.finetuning import Example, LoraConfig, PackedExamples, add_lora, answer_loss, tokenize_chat
from course_lib.tasks.instructions import speeches
from course_lib.tasks.spelling import pairs

ROUNDS, N_CHATS, RANK, ALPHA, TARGETS = 7, 16, 8, 16.0, ("q_proj", "v_proj")
LONGEST = 256  # tokens: a longer chat is left out, and rows are packed to this


def spelling_chats() -> list[Example]:
    """Return a batch of chats of some 42 tokens, of which a quarter is the answer."""
    _, tokenizer = checkpoints.load("smollm2-135m-instruct", "meta")
    system = {"role": "system", "content": "Write the line in modern spelling."}
    chosen = random.Random(0).sample(pairs()[0], N_CHATS)
    turns = [({"role": "user", "content": p.old}, {"role": "assistant", "content": p.modern}) for p in chosen]
    return [tokenize_chat(tokenizer, [system, *chat]) for chat in turns]


def speech_chats() -> list[Example]:
    """Return a batch of chats as long as speeches are: most of them short, some long."""
    _, tokenizer = checkpoints.load("smollm2-135m-instruct", "meta")
    said = [" ".join(speech) for work in shakespeare.split()[0] for speech in speeches(work)]
    found = []
    for before, after in random.Random(0).sample(list(pairwise(said)), 4 * N_CHATS):
        chat = [{"role": "user", "content": before}, {"role": "assistant", "content": after}]
        example = tokenize_chat(tokenizer, [{"role": "system", "content": "Answer in verse."}, *chat])
        if len(example.ids) <= LONGEST:
            found.append(example)
    return found[:N_CHATS]


def padded(examples: list[Example]) -> tuple[torch.Tensor, ...]:
    """Return ids, targets and documents, a chat a row, filled up to the longest."""
    rows = [PackedExamples([example], max(len(e.ids) for e in examples), 49_152).parts for example in examples]
    return tuple(map(torch.cat, zip(*rows, strict=True)))


def stepper(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """Return what makes a training step and returns the loss before it."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        return value.item()

    return step


def ours(parts: tuple[torch.Tensor, ...]) -> Callable[[], float]:
    model, _ = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    add_lora(model, LoraConfig(RANK, ALPHA, TARGETS))
    return stepper(model, lambda: answer_loss(model, *parts))


def theirs(parts: tuple[torch.Tensor, ...]) -> Callable[[], float]:
    gguf = assets.fetch("smollm2-135m-instruct")
    base = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    ids, targets, documents = parts
    labels = torch.full_like(targets, IGNORED)
    labels[:, 1:] = targets[:, :-1]  # `transformers` shifts them back
    mask = (documents >= 0).long()
    return stepper(model, lambda: model(input_ids=ids, labels=labels, attention_mask=mask).loss)


SIDES = {
    "course_lib": lambda: ours(padded(spelling_chats())),
    "peft on transformers": lambda: theirs(padded(spelling_chats())),
    "course_lib, packed": lambda: ours(PackedExamples(spelling_chats(), LONGEST, 49_152, shares_prompt=True).parts),
    "packed": lambda: ours(PackedExamples(speech_chats(), LONGEST, 49_152).parts),
    "padded": lambda: ours(padded(speech_chats())),
}
_step = None


def prepare(side: str) -> float:
    """In a side's process: make ready, take one step to warm up, and return its loss."""
    global _step
    _step = SIDES[side]()
    return _step()


def timed() -> float:
    """Return the seconds of one step."""
    start = time.perf_counter()
    _step()
    return time.perf_counter() - start


def peak_gigabytes() -> float:
    """Return the most memory that the process has held, a step's and its loading's."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compare(one: str, other: str, n_tokens: int) -> None:
    """Print a table of two sides that train on the same chats."""
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as first,
        ProcessPoolExecutor(1, get_context("spawn")) as second,
    ):
        pools = {one: first, other: second}
        losses = {side: pool.submit(prepare, side).result() for side, pool in pools.items()}
        rounds = [{side: pool.submit(timed).result() for side, pool in pools.items()} for _ in range(ROUNDS)]
        memory = {side: pool.submit(peak_gigabytes).result() for side, pool in pools.items()}
    ratio = statistics.median(seconds[other] / seconds[one] for seconds in rounds)
    print(f"| | {one} | {other} | ratio, round by round |\n|---|---|---|---|")
    speeds = [n_tokens / statistics.median(seconds[side] for seconds in rounds) for side in pools]
    print(f"| tokens/s | {speeds[0]:,.0f} | {speeds[1]:,.0f} | {ratio:.2f} |")
    print(f"| peak memory (GB) | {memory[one]:.2f} | {memory[other]:.2f} | {memory[other] / memory[one]:.2f} |")
    print(f"\nloss before training: {losses[one]:.4f} and {losses[other]:.4f}\n")


def main() -> None:
    """Print the tables."""
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, peft {peft.__version__}\n")
    for sides, chats in (
        (("course_lib", "peft on transformers"), spelling_chats()),
        (("packed", "padded"), speech_chats()),
        (("course_lib, packed", "peft on transformers"), spelling_chats()),
    ):
        lengths = sorted(len(example.ids) for example in chats)
        share = sum(sum(example.trained) for example in chats) / sum(lengths)
        print(f"{len(chats)} chats of {lengths[0]} to {lengths[-1]} tokens, {share:.0%} of them answers\n")
        compare(*sides, sum(lengths))


if __name__ == "__main__":
    main()
