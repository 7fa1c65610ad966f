"""SmolLM2-135M in float32 beside `transformers`, as stored beside llama.cpp: one file, one run, round by round in turn.

Each side has a process of its own: in a shared one it hangs on what the other side freed whether memory is at hand or costs
page faults, and a prefill varies by a tenth. Prints the tables of benchmarks/README.md, in some ten minutes on two cores.
`llama-cpp-python` comes with the extra `bench`, built from source in some minutes.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import torch
import transformers
from torch.nn.functional import cross_entropy

from course_lib import assets, checkpoints
from course_lib.corpora import shakespeare
from course_lib.devices import lanes, pick_device
from course_lib.inference import generate

ROUNDS, NEW_TOKENS, PREFILL, HELD_OUT = 15, 64, 512, 4096
IDS = torch.randint(1000, 40_000, (1, PREFILL), generator=torch.Generator().manual_seed(0))
PROMPT = IDS[:, :1]  # one token, so that only decoding is timed

NAME = "smollm2-135m-instruct"
LOAD = {
    "course_lib": "from course_lib import checkpoints",
    "stored": "from course_lib import checkpoints",
    "transformers": "import transformers; from course_lib import assets; gguf = assets.fetch('smollm2-135m-instruct')",
}
OPEN = {
    "course_lib": "model, _ = checkpoints.load('smollm2-135m-instruct', dtype=torch.float32)",
    "stored": "model, _ = checkpoints.load('smollm2-135m-instruct', weights='stored')",
    "transformers": "model = transformers.AutoModelForCausalLM.from_pretrained("
    "gguf.parent, gguf_file=gguf.name, dtype=torch.float32)",
}


def seconds(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ---------------------------------------------------------------- what is timed: name -> work


def ours(**options) -> dict[str, Callable]:
    """Greedy decoding with a cache, and all logits of a prompt, by this library."""
    model, _ = checkpoints.load(NAME, **options)
    return {"decode": lambda: list(generate(model, PROMPT[0].tolist(), NEW_TOKENS)), "prefill": lambda: model(IDS)}


def theirs() -> dict[str, Callable]:
    """The same by `transformers`, which may not stop early."""
    gguf = assets.fetch(NAME)
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    options = {"do_sample": False, "eos_token_id": None, "min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    return {
        "decode": lambda: model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **options),
        "prefill": lambda: model(IDS).logits,
    }


def llama() -> dict[str, Callable]:
    """The same by llama.cpp, of a prompt the last logits alone, as it makes them."""
    from llama_cpp import Llama  # of the extra `bench`, in the process that needs it

    n_threads = torch.get_num_threads()
    options = {"n_ctx": 1024, "n_batch": PREFILL, "n_threads": n_threads, "n_threads_batch": n_threads}
    model = Llama(str(assets.fetch(NAME)), **options, verbose=False)

    def decode() -> None:
        model.reset()
        for _ in islice(model.generate(PROMPT[0].tolist(), temp=0, repeat_penalty=1), NEW_TOKENS):
            pass

    def prefill() -> None:
        model.reset()
        model.eval(IDS[0].tolist())

    return {"decode": decode, "prefill": prefill}


def weight_products() -> dict[str, Callable]:
    """The matrix-vector products of NEW_TOKENS decoding steps and nothing else: what the machine allows at best.

    Once with every matrix by rows, as `nn.Linear` makes them, and once with each shape by rows or by columns, whichever
    PyTorch multiplies faster here.
    """
    model, _ = checkpoints.load(NAME, dtype=torch.float32)
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
    global timed
    timed = prepare()
    for work in timed.values():
        work()


@torch.inference_mode()
def _seconds(name: str) -> float:
    return seconds(timed[name])


@torch.inference_mode()
def _logits():
    return timed["prefill"]().numpy()


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


def held_out_losses() -> list[float]:
    """Return the loss in nats a token on the opening of a play, of the model in float32 and as stored."""
    models = [checkpoints.load(NAME, dtype=torch.float32)[0], checkpoints.load(NAME, weights="stored")[0]]
    tokenizer = checkpoints.load(NAME)[1]
    text = next(work.text for work in shakespeare.works() if (work.name, work.edition) == ("hamlet", "modern"))
    ids = torch.tensor(tokenizer.encode(text))[: HELD_OUT + 1]
    windows = [(part[:-1], part[1:]) for part in (ids[at : at + 1025] for at in range(0, HELD_OUT, 1024))]
    with torch.inference_mode():
        losses = [[cross_entropy(model(x[None])[0], y) for x, y in windows] for model in models]
    return [torch.stack(some).mean().item() for some in losses]


def mapped_bytes(n_processes: int) -> float:
    """Return the memory that the stored weights take in all of `n_processes` that have written with them."""
    processes = [start(partial(ours, weights="stored")) for _ in range(n_processes)]
    for process in processes:
        process.submit(_seconds, "decode").result()
    return sum(process.submit(_mapped).result() for process in processes)


def _mapped() -> int:
    """Return the bytes of mapped weights of this process, shared pages divided among all that share them."""
    is_weights, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            is_weights = line.endswith("model.safetensors")
        elif is_weights and line.startswith("Pss:"):
            total += 1024 * int(line.split()[1])
    return total


def main() -> None:
    """Print the tables."""
    if not lanes(pick_device("cpu")):
        sys.exit("this processor has no kernel for weights as stored")
    own, packed = start(partial(ours, dtype=torch.float32)), start(partial(ours, weights="stored"))
    peer, fast, limit = start(theirs), start(llama), start(weight_products)
    difference = abs(own.submit(_logits).result() - peer.submit(_logits).result()).max()
    turns = [
        *((side, work) for work in ("decode", "prefill") for side in (own, packed, peer, fast)),
        *((limit, layout) for layout in ("by rows", "fastest layout")),
    ]
    rounds = [{turn: turn[0].submit(_seconds, turn[1]).result() for turn in turns} for _ in range(ROUNDS)]
    for side in (own, packed, peer, fast, limit):
        side.shutdown()

    def median(side, work: str) -> float:
        return statistics.median(r[side, work] for r in rounds)

    def ratio(work: str, side, other) -> str:
        return f"{statistics.median(r[other, work] / r[side, work] for r in rounds):.2f}"

    def print_speeds(side, *others) -> None:
        """Print the speed of `side` and of the first of `others`, and how many times as fast it is as each."""
        for row, work, n_tokens, digits in (
            ("decode (tokens/s)", "decode", NEW_TOKENS, 1),
            (f"prefill of {PREFILL} (tokens/s)", "prefill", PREFILL, 0),
        ):
            speeds = [f"{n_tokens / median(one, work):.{digits}f}" for one in (side, others[0])]
            print(f"| {' | '.join([row, *speeds, *(ratio(work, side, other) for other in others)])} |")

    loads = {side: [load_seconds(side) for _ in range(3)] for side in LOAD}
    load, first = (
        {side: statistics.median(pair[i] for pair in pairs) for side, pairs in loads.items()} for i in (0, 1)
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "llama-cpp-python"))
    print(f"{versions}; {torch.get_num_threads()} threads; medians of {ROUNDS} rounds, ratios round by round\n")
    print("| | course_lib, stored | llama.cpp | ratio | beside our float32 |\n|---|---|---|---|---|")
    print_speeds(packed, fast, own)
    for row, took in (("load (s)", load), ("load and first token (s)", first)):
        print(f"| {row} | {took['stored']:.2f} | | | |")
    losses = held_out_losses()
    print(f"\nLoss on {HELD_OUT:,} tokens of Hamlet: {losses[0]:.4f} nats in float32, {losses[1]:.4f} as stored.")
    one, three = mapped_bytes(1), mapped_bytes(3)
    print(f"Stored weights in memory: {one / 1e6:.0f} MB of one process, {three / 1e6:.0f} MB of three together.")

    print(f"\nIn float32; largest difference of logits: {difference:.1e}\n")
    print("| | course_lib | transformers | ratio |\n|---|---|---|---|")
    print_speeds(own, peer)
    for row, took in (("load (s)", load), ("load and first token (s)", first)):
        mine, other = took["course_lib"], took["transformers"]
        print(f"| {row} | {mine:.2f} | {other:.1f} | {other / mine:.0f} |")
    print("\nThe machine's limit is the bare matrix-vector products of as many tokens, measured in the same rounds:\n")
    print("| matrices lie | bandwidth | limit | course_lib reaches |\n|---|---|---|---|")
    n_bytes = sum(p.nbytes for p in checkpoints.load(NAME, dtype=torch.float32)[0].parameters())
    for layout in ("by rows", "fastest layout"):
        speed = NEW_TOKENS / median(limit, layout)
        share = 100 * statistics.median(r[limit, layout] / r[own, "decode"] for r in rounds)
        print(f"| {layout} | {n_bytes * speed / 1e9:.1f} GB/s | {speed:.1f} tokens/s | {share:.0f} % |")


if __name__ == "__main__":
    main()
