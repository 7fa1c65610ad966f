"""SmolLM2-135M in float32: this library beside `transformers`, on the same weights, in one run, round by round in turn.

Prints the table that stands in benchmarks/README.md. Takes about three minutes on two cores.
"""

import statistics
import subprocess
import sys
import time

import torch
import transformers

from course_lib import assets, pretrained
from course_lib.generation import generate

ROUNDS, NEW_TOKENS, PREFILL = 7, 64, 512

LOAD = {
    "course_lib": "from course_lib import pretrained",
    "transformers": "import transformers; from course_lib import assets; gguf = assets.fetch('smollm2-135m-instruct')",
}
OPEN = {
    "course_lib": "model, _ = pretrained.load('smollm2-135m-instruct', dtype=torch.float32)",
    "transformers": "model = transformers.AutoModelForCausalLM.from_pretrained("
    "gguf.parent, gguf_file=gguf.name, dtype=torch.float32)",
}


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def load_seconds(side: str) -> tuple[float, float]:
    """Seconds to load, and to load and compute one token, in a fresh process, imports not counted."""
    script = f"""
import time, torch
{LOAD[side]}
torch.inference_mode().__enter__()
start = time.perf_counter()
{OPEN[side]}
loaded = time.perf_counter()
model(torch.tensor([[1]]))
print(loaded - start, time.perf_counter() - start)
"""
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    load, first = lines.splitlines()[-1].split()
    return float(load), float(first)


def weight_products(model) -> dict[str, object]:
    """The matrix-vector products of NEW_TOKENS decoding steps and nothing else: what the machine allows at best.

    Once with every matrix by rows, as `nn.Linear` makes them, and once with each shape by rows or by columns, whichever
    PyTorch multiplies faster here.
    """
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


@torch.inference_mode()
def main():
    ours, _ = pretrained.load("smollm2-135m-instruct", dtype=torch.float32)
    gguf = assets.fetch("smollm2-135m-instruct")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    ids = torch.randint(1000, 40_000, (1, PREFILL), generator=torch.Generator().manual_seed(0))
    difference = (ours(ids) - theirs(ids).logits).abs().max()
    n_bytes = sum(p.nbytes for p in ours.parameters())
    limits = weight_products(ours)
    prompt = ids[:, :1]  # one token, so that only decoding is timed
    # both generate greedily with a cache; neither may stop early
    sides = {
        "decode, course_lib": lambda: list(generate(ours, prompt[0].tolist(), NEW_TOKENS)),
        "decode, transformers": lambda: theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, eos_token_id=None,
            min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS,
        ),
        "prefill, course_lib": lambda: ours(ids),
        "prefill, transformers": lambda: theirs(ids).logits,
        **limits,
    }  # fmt: skip
    for work in sides.values():
        work()
    rounds = [{name: seconds(work) for name, work in sides.items()} for _ in range(ROUNDS)]

    def ratio(numerator: str, denominator: str) -> str:
        return f"{statistics.median(r[numerator] / r[denominator] for r in rounds):.2f}"

    def median(name: str) -> float:
        return statistics.median(r[name] for r in rounds)

    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads, float32"
    )
    print(f"largest difference of logits: {difference:.1e}; medians of {ROUNDS} rounds\n")
    print("| | course_lib | transformers | ratio, round by round |")
    print("|---|---|---|---|")
    speeds = [NEW_TOKENS / median(f"decode, {side}") for side in LOAD]
    print(
        f"| decode (tokens/s) | {speeds[0]:.1f} | {speeds[1]:.1f} | {ratio('decode, transformers', 'decode, course_lib')} |"
    )
    speeds = [PREFILL / median(f"prefill, {side}") for side in LOAD]
    better = ratio("prefill, transformers", "prefill, course_lib")
    print(f"| prefill of {PREFILL}, all logits (tokens/s) | {speeds[0]:.0f} | {speeds[1]:.0f} | {better} |")
    loads = {side: [load_seconds(side) for _ in range(3)] for side in LOAD}
    for row, index in (("load (s)", 0), ("load and first token (s)", 1)):
        own, peer = (statistics.median(pair[index] for pair in loads[side]) for side in LOAD)
        print(f"| {row} | {own:.2f} | {peer:.1f} | {peer / own:.0f} |")
    print("\nThe machine's limit is the bare matrix-vector products of as many tokens, measured in the same rounds:\n")
    print("| matrices lie | bandwidth | limit | course_lib reaches |")
    print("|---|---|---|---|")
    for layout in limits:
        speed = NEW_TOKENS / median(layout)
        share = 100 * statistics.median(r[layout] / r["decode, course_lib"] for r in rounds)
        print(f"| {layout} | {n_bytes * speed / 1e9:.1f} GB/s | {speed:.1f} tokens/s | {share:.0f} % |")


if __name__ == "__main__":
    main()
