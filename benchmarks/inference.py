"""SmolLM2-135M in float32: this library beside `transformers`, on the same weights, in one run, round by round in turn.

Each side has a process of its own: in a shared one it hangs on what the other side freed whether memory is at hand or costs
page faults, and a prefill varies by a tenth. Prints the tables of benchmarks/README.md, in three minutes on two cores.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
import transformers

from course_lib import assets, checkpoints
from course_lib.inference import generate

ROUNDS, NEW_TOKENS, PREFILL = 7, 64, 512
IDS = torch.randint(1000, 40_000, (1, PREFILL), generator=torch.Generator().manual_seed(0))
PROMPT = IDS[:, :1]  # one token, so that only decoding is timed

LOAD = {
    "course_lib": "from course_lib import checkpoints",
    "transformers": "import transformers; from course_lib import assets; gguf = assets.fetch('smollm2-135m-instruct')",
}
OPEN = {
    "course_lib": "model, _ = checkpoints.load('smollm2-135m-instruct', dtype=torch.float32)",
    "transformers": "model = transformers.AutoModelForCausalLM.from_pretrained("
    "gguf.parent, gguf_file=gguf.name, dtype=torch.float32)",
}


def seconds(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ---------------------------------------------------------------- what is timed: name -> work


def ours() -> dict[str, Callable]:
    """Greedy decoding with a cache, and all logits of a prompt, by this library."""
    model, _ = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    return {"decode": lambda: list(generate(model, PROMPT[0].tolist(), NEW_TOKENS)), "prefill": lambda: model(IDS)}


def theirs() -> dict[str, Callable]:
    """The same by `transformers`, which may not stop early."""
    gguf = assets.fetch("smollm2-135m-instruct")
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    options = {"do_sample": False, "eos_token_id": None, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    return {
        "decode": lambda: model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **options),
        "prefill": lambda: model(IDS).logits,
    }


def weight_products() -> dict[str, Callable]:
    """The matrix-vector products of NEW_TOKENS decoding steps and nothing else: what the machine allows at best.

    Once with every matrix by rows, as `nn.Linear` makes them, and once with each shape by rows or by columns, whichever
    PyTorch multiplies faster here.
    """
    model, _ = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
    weights = [p for p in model.parameters() if p.ndim == 2]
    vectors = {weight.shape[1]: torch.randn(1, weight.shape[1]) for weight in weights}

    def products(matrices, times=1):
        return lambda: [torch.nn.functional.linear(vectors[m.shape[1]], m) for _ in range(times) for m in matrices]

    by_rows, fastest = [], []
    for shape in {weight.shape for weight in weights}:
        rows = [w.clone(memory_format=torch.contiguous_format) for w in weights if w.shape == shape]
        columns = [w.T.contiguous().T for w in rows]
        by_rows += rows
        fastest += min(rows, columns, key=lambda matrices: min(seconds(products(matrices)) for _ in range(5)))
    return {"by rows": products(by_rows, NEW_TOKENS), "fastest layout": products(fastest, NEW_TOKENS)}


# ---------------------------------------------------------------- each in a process of its own


def start(prepare: Callable[[], dict[str, Callable]]) -> ProcessPoolExecutor:
    """Return a process that has the works of `prepare` and has done each once."""
    return ProcessPoolExecutor(1, get_context("spawn"), _prepare, (prepare,))


@torch.inference_mode()
def _prepare(prepare: Callable[[], dict[str, Callable]]) -> None:
    global works
    works = prepare()
    for work in works.values():
        work()


@torch.inference_mode()
def _seconds(name: str) -> float:
    return seconds(works[name])


@torch.inference_mode()
def _logits():
    return works["prefill"]().numpy()


def load_seconds(side: str) -> tuple[float, float]:
    """Seconds to load, and to load and compute one token, in a fresh process, imports not counted."""
    script = f"""
import time, torch
{LOAD[side]}
start = time.perf_counter()
{OPEN[side]}
loaded = time.perf_counter()
with torch.inference_mode():
    model(torch.tensor([[1]]))
print(loaded - start, time.perf_counter() - start)
"""
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    load, first = lines.splitlines()[-1].split()
    return float(load), float(first)


def main():
    own, peer, limit = start(ours), start(theirs), start(weight_products)
    difference = abs(own.submit(_logits).result() - peer.submit(_logits).result()).max()
    works = [
        *((process, work) for work in ("decode", "prefill") for process in (own, peer)),
        *((limit, layout) for layout in ("by rows", "fastest layout")),
    ]
    rounds = [{work: work[0].submit(_seconds, work[1]).result() for work in works} for _ in range(ROUNDS)]

    def median(process, name: str) -> float:
        return statistics.median(r[process, name] for r in rounds)

    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads, float32"
    )
    print(f"largest difference of logits: {difference:.1e}; medians of {ROUNDS} rounds\n")
    print("| | course_lib | transformers | ratio, round by round |")
    print("|---|---|---|---|")
    for row, name, tokens, digits in (
        ("decode (tokens/s)", "decode", NEW_TOKENS, 1),
        (f"prefill of {PREFILL}, all logits (tokens/s)", "prefill", PREFILL, 0),
    ):
        speeds = [f"{tokens / median(process, name):.{digits}f}" for process in (own, peer)]
        ratio = statistics.median(r[peer, name] / r[own, name] for r in rounds)
        print(f"| {row} | {speeds[0]} | {speeds[1]} | {ratio:.2f} |")
    loads = {side: [load_seconds(side) for _ in range(3)] for side in LOAD}
    for row, index in (("load (s)", 0), ("load and first token (s)", 1)):
        mine, other = (statistics.median(pair[index] for pair in loads[side]) for side in LOAD)
        print(f"| {row} | {mine:.2f} | {other:.1f} | {other / mine:.0f} |")
    print("\nThe machine's limit is the bare matrix-vector products of as many tokens, measured in the same rounds:\n")
    print("| matrices lie | bandwidth | limit | course_lib reaches |")
    print("|---|---|---|---|")
    n_bytes = sum(p.nbytes for p in checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)[0].parameters())
    for layout in ("by rows", "fastest layout"):
        speed = NEW_TOKENS / median(limit, layout)
        share = 100 * statistics.median(r[limit, layout] / r[own, "decode"] for r in rounds)
        print(f"| {layout} | {n_bytes * speed / 1e9:.1f} GB/s | {speed:.1f} tokens/s | {share:.0f} % |")


if __name__ == "__main__":
    main()
