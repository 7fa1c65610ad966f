"""How long each lesson runs from top to bottom and in how much memory, and how soon each widget's first picture is there.

    PYTHONPATH=tests python benchmarks/lessons.py

Lessons run in a fresh kernel with nothing solved, as they are stored, first on a cache that holds the assets and what the
lessons before have made, then once more, with what they have made themselves. Memory is that of the first run: of the kernel,
and of it together with all processes that it starts, shared pages counted once, looked at twice a second. Widgets are shown in
JupyterLab and Chromium; what they show exists by then, and the clock starts when the cell that shows them is run.
"""

import statistics
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import psutil
from browser import Notebooks, jupyter_server, launch_chromium
from caches import without_runs
from playwright.sync_api import sync_playwright
from store_notebooks import NOTEBOOKS, run

SETUP = """
import torch
from course_lib.applications import retrieval
from course_lib import alignment, checkpoints, finetuning, pretraining, widgets
from course_lib.pretraining import shakespeare_model
model, tokenizer = checkpoints.load("smollm2-135m-instruct")
sentence = "The cat sat on the mat because it was tired, and the cat"
q, k, v = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
trainer, letters = shakespeare_model.trainer()
chats = [[{"role": "user", "content": sentence}, {"role": "assistant", "content": "sat down."}]]
prompts = alignment.Prompts([letters.encode("Tom")], 8, trainer.model.config.vocab_size)
options = alignment.PolicyConfig(), pretraining.PretrainingConfig(n_steps=1, batch_size=1, context_length=8)
reward = lambda prompts, answers: torch.rand(len(answers))
policy = alignment.GRPOTrainer(trainer.model, prompts, reward, *options, stop_ids=frozenset())
texts = retrieval.plays()
search = retrieval.Search(retrieval.cut_all(texts), retrieval.SentenceEncoder())
adapted, _ = checkpoints.load("smollm2-135m-instruct")
finetuning.add_lora(adapted, finetuning.LoraConfig())
"""
WIDGETS = {
    "AttentionExplorer": "widgets.AttentionExplorer(model, tokenizer, sentence)",
    "AttentionStepper": "widgets.AttentionStepper(q, k, v, causal=True)",
    "CheckpointScrubber": "widgets.CheckpointScrubber(pretraining.list_checkpoints(trainer.folder), letters, sentence)",
    "ChatApp": "widgets.ChatApp(model, tokenizer)",
    "ChatFormatView": "widgets.ChatFormatView(tokenizer, chats)",
    "CacheView": "widgets.CacheView(model, tokenizer, sentence)",
    "ConstraintView": "widgets.ConstraintView(model, tokenizer, sentence)",
    "LogitLens": "widgets.LogitLens(model, tokenizer, sentence)",
    "LoraView": "widgets.LoraView(adapted, tokenizer, sentence)",
    "ParallelismTimeline": 'widgets.ParallelismTimeline("gpipe", n_devices=4, n_microbatches=4)',
    "RetrievalExplorer": "widgets.RetrievalExplorer(search, model, tokenizer, 0.4, texts=texts, query=sentence)",
    "RLHFDashboard": 'widgets.RLHFDashboard(policy, letters, ["Tom"])',
    "SamplingPlayground": "widgets.SamplingPlayground(model, tokenizer, sentence)",
    "ScalePlanner": 'widgets.ScalePlanner("Llama 3 405B")',
    "TokenizerView": "widgets.TokenizerView(tokenizer, sentence)",
    "TrainingDashboard": "widgets.TrainingDashboard(trainer, letters, sentence)",
}
ROUNDS = 3
# A card is there when it has some height in a frame; it is painted in that frame.
SHOWN = """() => [...document.querySelectorAll(".course-widget")].some((card) => card.offsetHeight > 80) && performance.now()"""


class PeakMemory(threading.Thread):
    """The most memory, in bytes, that processes started by this one took while the `with` lasted: one, and all together."""

    def __init__(self):
        super().__init__(daemon=True)
        self.one, self.together, self.over = 0, 0, threading.Event()

    def __enter__(self) -> "PeakMemory":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(0.5):
            taken = [_memory(process) for process in psutil.Process().children(recursive=True)]
            self.one = max([self.one, *(rss for rss, _ in taken)])
            self.together = max(self.together, sum(pss for _, pss in taken))


def _memory(process: psutil.Process) -> tuple[int, int]:
    """Return the resident bytes of a process, and those with each shared page divided among all that share it."""
    try:
        info = process.memory_full_info()
    except psutil.Error:  # it has just ended
        return 0, 0
    return info.rss, info.pss


def seconds_of(path: Path) -> float:
    """Run a lesson whole and return how long it took."""
    start = time.perf_counter()
    run(nbformat.read(path, as_version=4))
    return time.perf_counter() - start


def first_paint(notebooks: Notebooks, make: str) -> float:
    """Return the seconds from running the cell that shows the widget to its first picture."""
    page = notebooks.open(
        [SETUP, f"widget = {make}\nis_armed = False", "if is_armed:\n    display(widget)\nis_armed = True"]
    )
    page.locator(".jp-Notebook .jp-CodeCell .jp-Editor").last.click()
    start = page.evaluate("performance.now()")
    page.keyboard.press("Shift+Enter")
    shown = page.wait_for_function(SHOWN, polling="raf", timeout=60_000).json_value()
    page.close()
    return (shown - start) / 1000


def main() -> None:
    print("| lesson | runs for | again | peak memory | with all its processes |\n|---|---|---|---|---|")
    with without_runs():
        for path in sorted(NOTEBOOKS.glob("*.ipynb")):
            with PeakMemory() as memory:
                first = seconds_of(path)
            again = seconds_of(path)
            sizes = f"{memory.one / 1e9:.2f} GB | {memory.together / 1e9:.2f} GB"
            print(f"| {path.stem} | {first:.0f} s | {again:.0f} s | {sizes} |", flush=True)

    print(f"\nJupyterLab {version('jupyterlab')}, median of {ROUNDS} and slowest\n")
    print("| widget | first paint | slowest |\n|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyter_server(Path(folder)) as server,
        sync_playwright() as playwright,
    ):
        notebooks = Notebooks(server, launch_chromium(playwright))
        for name, make in WIDGETS.items():
            seconds = [first_paint(notebooks, make) for _ in range(ROUNDS)]
            print(f"| {name} | {statistics.median(seconds):.2f} s | {max(seconds):.2f} s |", flush=True)
        notebooks.close()


if __name__ == "__main__":
    main()
