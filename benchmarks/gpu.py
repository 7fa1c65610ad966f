"""The same code on a GPU: is what it computes right, and how fast is it? Prints the table of benchmarks/README.md.

    COURSE_DEVICE=cuda python benchmarks/gpu.py          in some four minutes, the training of lesson 04's model included

Where there is a GPU, `pick_device` takes it anyway. `transformers` is the peer, on the same weights or the same shape.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import transformers

from course_lib.architecture import TransformerLM
from course_lib.architecture.open_models import OPEN_MODELS
from course_lib.architecture.quantised import quantise
from course_lib.corpora import TokenArray
from course_lib.devices import pick_device, seed_everything, synchronize
from course_lib.inference import generate, roll_out
from course_lib.life import kind_replies
from course_lib.pretraining import PretrainingConfig, Trainer, shakespeare_model

SHAPE = replace(OPEN_MODELS["SmolLM2 135M"], context_length=1024)
BATCH, NEW, PROMPTS = 16, 64, 64


def seconds(work: Callable, device: torch.device, times: int = 3) -> float:
    work()
    found = []
    for _ in range(times):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found)


def peer(device: torch.device) -> transformers.LlamaForCausalLM:
    """A model of the same shape by `transformers`."""
    config = transformers.LlamaConfig(
        vocab_size=SHAPE.vocab_size, hidden_size=SHAPE.d_model, num_hidden_layers=SHAPE.n_layers,
        num_attention_heads=SHAPE.n_heads, num_key_value_heads=SHAPE.n_kv_heads, intermediate_size=SHAPE.d_ff,
        max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).to(device)


def is_the_same(device: torch.device) -> float:
    """The largest difference of a logit from the CPU's, in float32, over their standard deviation."""
    seed_everything(0)
    model, ids = TransformerLM(SHAPE).eval(), torch.randint(0, SHAPE.vocab_size, (2, 256))
    with torch.no_grad():
        here = model(ids)
        there = model.to(device)(ids.to(device)).cpu()
    return ((there - here).abs().max() / here.std()).item()


def training(device: torch.device) -> None:
    tokens = np.random.default_rng(0).integers(0, SHAPE.vocab_size, 2_000_000)
    text = TokenArray(tokens, SHAPE.vocab_size)
    for compiler in (None, "inductor"):
        config = PretrainingConfig(n_steps=24, batch_size=BATCH, muon_learning_rate=None, compile=compiler)
        run = Trainer(TransformerLM(SHAPE).to(device), text, None, config)
        reports = list(run)[-10:]
        speed = sum(r.tokens_per_second for r in reports) / len(reports)
        print(
            f"training, compile={compiler}: {speed:,.0f} tokens/s, MFU {reports[-1].mfu:.2f} of {run.peak / 1e12:.0f} TFLOP/s"
        )
    model = peer(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(0, SHAPE.vocab_size, (BATCH, SHAPE.context_length), device=device)

    def step():
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    print(f"training, transformers: {BATCH * SHAPE.context_length / seconds(step, device, 8):,.0f} tokens/s")


def writing(device: torch.device) -> None:
    model = TransformerLM(SHAPE).to(device).eval().requires_grad_(False)
    theirs = peer(device).eval()
    draw = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(1, 40_000, (int(n),), generator=draw).tolist()
        for n in torch.randint(8, 64, (PROMPTS,), generator=draw)
    ]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    options = {
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
        "min_new_tokens": NEW,
        "max_new_tokens": NEW,
    }
    alone = seconds(lambda: list(generate(model, prompts[0], NEW)), device)
    ours = seconds(lambda: roll_out(model, prompts, NEW), device)
    other = seconds(lambda: theirs.generate(ids, attention_mask=mask, **options), device)
    print(f"one text: {NEW / alone:,.0f} tokens/s")
    print(f"{PROMPTS} texts: {PROMPTS * NEW / ours:,.0f} tokens/s, transformers {PROMPTS * NEW / other:,.0f}")


def is_written_alike(device: torch.device) -> int:
    """How many of 16 texts are the CPU's, to the last of 32 greedy tokens; a tie of two tokens may go either way."""
    seed_everything(0)
    model = TransformerLM(replace(SHAPE, n_layers=4, vocab_size=2000)).eval()
    prompts = [list(range(1, n)) for n in range(3, 19)]
    here = roll_out(model, prompts, 32).answers
    there = roll_out(model.to(device), prompts, 32).answers
    alone = [list(generate(model, prompt, 32)) for prompt in prompts]
    return sum(one == other == single for one, other, single in zip(here, there, alone, strict=True))


def few_bits(device: torch.device) -> None:
    """Matrices of 4 and 8 bits: what the kernels of both make of the same ones, and how fast one text is written with them."""
    seed_everything(0)
    model, ids = TransformerLM(SHAPE).eval(), torch.arange(2 * 300).view(2, 300)
    packed = quantise(model, 4)
    there = copy.deepcopy(packed).to(device)
    with torch.no_grad():
        here, few, many = packed(ids), there(ids[:, :20].to(device)).cpu(), there(ids.to(device)).cpu()
    off = [((logits - here[:, : logits.shape[1]]).abs().max() / here.std()).item() for logits in (few, many)]
    places = torch.tensor([0, 7, 8, 49_151])
    pairs = [(part, there.get_submodule(name)) for name, part in packed.named_modules() if hasattr(part, "packed")]
    apart = max(
        (a.rows(places % a.n_rows) - b.rows((places % a.n_rows).to(device)).cpu()).abs().max() for a, b in pairs
    )
    back = max((a.packed != b.packed.cpu()).sum() for a, b in ((a, copy.deepcopy(b).cpu()) for a, b in pairs))
    print(
        f"weights of few bits: {len(pairs)} matrices, rows apart by {apart:.1e}, bytes that came back otherwise: {back}; "
        f"logits of few and many vectors against the CPU's: {off[0]:.1e} and {off[1]:.1e} standard deviations"
    )
    for name, one in (("float32", model.to(device)), ("4 bits", there)):
        one.requires_grad_(False)
        took = seconds(lambda one=one: list(generate(one, [1, 2, 3], NEW)), device)
        print(f"  one text, {name}: {NEW / took:,.0f} tokens/s, {size(one) / 1e6:.0f} MB")


def size(model: TransformerLM) -> int:
    return sum({part.data_ptr(): part.nbytes for part in (*model.parameters(), *model.buffers())}.values())


def lives(device: torch.device) -> None:
    """Lesson 04's model, and what lesson 06 makes of it."""
    run, _ = shakespeare_model.trainer()
    for _ in run:
        pass
    last = run.history[-1]
    print(f"lesson 04's model: {last.seconds:.0f} s of steps, {last.validation_loss:.2f} nats a token")
    start = time.perf_counter()
    kind_replies.reward_model()
    print(f"supervised, comparisons, reward model: {time.perf_counter() - start:.0f} s")
    for method in ("grpo", "ppo"):
        policy = kind_replies.policy_trainer(method)
        start = time.perf_counter()
        *_, last = policy
        took = (time.perf_counter() - start) / last.n_steps
        reward = f"{policy.history[0].reward:+.2f} to {last.reward:+.2f}"
        print(f"{method}: {took:.2f} s a step, learned reward {reward}, KL {last.kl:.1f}")


def main() -> None:
    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}, PyTorch {torch.__version__}, transformers {transformers.__version__}")
    print(f"logits against the CPU's: {is_the_same(device):.1e} standard deviations")
    print(f"texts written alike, alone and together: {is_written_alike(device)} of 16")
    few_bits(device)
    writing(device)
    training(device)
    lives(device)


if __name__ == "__main__":
    main()
