"""A widget's cell run again and again, as learners do: the kernel's memory stays where it was after the first time."""

import gc
import tracemalloc
from collections.abc import Callable

import pytest
import torch
from small_corpus import write_small_corpus
from small_search import TEXTS, small_search
from torch import nn

from course_lib import widgets
from course_lib.alignment import GRPOTrainer, PolicyConfig, Prompts
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.exercises import EXERCISES
from course_lib.finetuning import LoraConfig, add_lora
from course_lib.pretraining import PretrainingConfig, Trainer, list_checkpoints
from course_lib.tokenization import train_bpe
from course_lib.widgets import (
    AttentionExplorer,
    AttentionStepper,
    CacheView,
    ChatApp,
    ChatFormatView,
    CheckpointScrubber,
    ConstraintView,
    LogitLens,
    LoraView,
    ParallelismTimeline,
    Predict,
    PreferenceLabeller,
    RetrievalExplorer,
    RLHFDashboard,
    SamplingPlayground,
    ScalePlanner,
    TokenizerView,
    TrainingDashboard,
    check,
)

RUNS, MEGABYTES = 20, 5
LONG = "the paintings hang on the wall of a room that nobody has entered for years, and " * 27
NAMES = (
    *("AttentionExplorer", "LogitLens", "SamplingPlayground", "CacheView", "TokenizerView", "AttentionStepper"),
    *("Predict", "check", "ScalePlanner", "ParallelismTimeline", "CheckpointScrubber", "TrainingDashboard"),
    "ChatFormatView",
    "LoraView",
    "PreferenceLabeller",
    "RetrievalExplorer",
    "RLHFDashboard",
    "ConstraintView",
    "ChatApp",
)


@pytest.fixture(scope="module")
def cells(smollm2, tmp_path_factory) -> dict[str, Callable[[], object]]:
    """What runs each widget's cell: on a quick model with logits as large as SmolLM2's, and a fifth of its maps and cache."""
    seed_everything(0)
    shape = {"d_model": 36, "n_layers": 6, "n_heads": 9, "n_kv_heads": 3, "d_head": 64, "d_ff": 8}
    model = (
        TransformerLM(TransformerConfig(vocab_size=49_152, context_length=1024, **shape)).eval().requires_grad_(False)
    )
    tokenizer, folder = smollm2[1], tmp_path_factory.mktemp("run")
    shards, small = write_small_corpus(folder / "shards", n_texts=3), train_bpe(["Tom sees the cat. " * 9], 266)
    shape = TransformerConfig(vocab_size=266, d_model=16, n_layers=3, n_heads=2, d_ff=16, context_length=64)
    recipe = PretrainingConfig(n_steps=2, batch_size=2, warmup=0, checkpoint_every=1, evaluate_every=None)
    list(Trainer(TransformerLM(shape), shards, None, recipe, folder / "run"))
    tuned = TransformerLM(shape).eval()
    add_lora(tuned, LoraConfig(rank=4))
    prompts, reward = Prompts([small.encode("Tom")], 64, 266), lambda prompts, answers: torch.rand(len(answers))
    search = small_search()
    q, k, v = torch.randn(3, 5, 4)
    exercise = next(iter(EXERCISES))
    return {
        "AttentionExplorer": lambda: AttentionExplorer(model, tokenizer, LONG),
        "LogitLens": lambda: LogitLens(model, tokenizer, LONG[:160]),
        "SamplingPlayground": lambda: SamplingPlayground(model, tokenizer, LONG),
        "CacheView": lambda: CacheView(model, tokenizer, LONG[:80]),
        "TokenizerView": lambda: TokenizerView(tokenizer, LONG),
        "AttentionStepper": lambda: AttentionStepper(q, k, v, causal=True),
        "Predict": lambda: Predict("Up or down?", choices=["up", "down"]).reveal("up"),
        "check": lambda: check(exercise, 0.5),
        "ScalePlanner": lambda: ScalePlanner("Llama 3 405B"),
        "ParallelismTimeline": lambda: ParallelismTimeline("1f1b"),
        "CheckpointScrubber": lambda: CheckpointScrubber(list_checkpoints(folder / "run"), small, "Tom sees the cat."),
        "ChatFormatView": lambda: ChatFormatView(
            tokenizer, [[{"role": "user", "content": LONG[:400]}, {"role": "assistant", "content": "Yes."}]] * 4
        ),
        "TrainingDashboard": lambda: TrainingDashboard(
            Trainer(TransformerLM(shape), shards, None, recipe), small, "Tom"
        ).run(),
        "LoraView": lambda: LoraView(tuned, small, "Tom sees"),
        "PreferenceLabeller": lambda: PreferenceLabeller([("Say.", LONG, LONG * 2)], folder / "choices.jsonl"),
        "ConstraintView": lambda: ConstraintView(model, tokenizer, LONG[:160], "[a-z]{1,30}( [a-z]+)*"),
        "RetrievalExplorer": lambda: RetrievalExplorer(
            search, model, tokenizer, texts=TEXTS, query="Who led the ship?"
        ),
        "RLHFDashboard": lambda: RLHFDashboard(
            GRPOTrainer(TransformerLM(shape), prompts, reward, PolicyConfig(), recipe, stop_ids=frozenset({0})),
            small,
            ["Tom"],
        ).run(),
        "ChatApp": lambda: ChatApp(model, tokenizer, max_new_tokens=1).say(LONG),
    }


@pytest.fixture(scope="module", autouse=True)
def traced():
    """Python notes what it allocates, NumPy's arrays and bytes among it; what is there already is looked through no more."""
    gc.collect()
    gc.freeze()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.unfreeze()


def held() -> int:
    """Bytes that somebody holds: of Python's objects, and of tensors, which Python does not count.

    What the system gives the process says less: an allocator keeps for later what was let go.
    """
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, nn.Parameter) and x.layout == torch.strided]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return tracemalloc.get_traced_memory()[0] + sum(storages.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_run_twenty_times_takes_the_memory_of_one(cells, name):
    cells[name]()
    after_one = held()
    for _ in range(RUNS - 1):
        cells[name]()
    assert (held() - after_one) / (RUNS - 1) < MEGABYTES * 1e6


def test_every_widget_is_asked(cells):
    assert set(cells) == set(NAMES) == {*widgets.__all__} - {"ExerciseCheck"}  # `check` is what shows one
