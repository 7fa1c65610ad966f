"""A widget's cell run again and again, as learners do: the kernel's memory stays where it was after the first time."""

import psutil
import pytest

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.tokenization import Tokenizer
from course_lib.widgets import AttentionExplorer, CacheView, LogitLens, SamplingPlayground, TokenizerView

RUNS, MEGABYTES = 20, 5
LONG = "the paintings hang on the wall of a room that nobody has entered for years, and " * 27
CELLS = {
    "AttentionExplorer": lambda model, tokenizer: AttentionExplorer(model, tokenizer, LONG),
    "LogitLens": lambda model, tokenizer: LogitLens(model, tokenizer, LONG[:160]),
    "SamplingPlayground": lambda model, tokenizer: SamplingPlayground(model, tokenizer, LONG),
    "CacheView": lambda model, tokenizer: CacheView(model, tokenizer, LONG[:80]),
    "TokenizerView": lambda _, tokenizer: TokenizerView(tokenizer, LONG),
}


@pytest.fixture(scope="module")
def wide(smollm2) -> tuple[TransformerLM, Tokenizer]:
    """A quick model with logits as large as SmolLM2's, a fifth of its maps and cache; and SmolLM2's tokenizer."""
    seed_everything(0)
    shape = {"d_model": 36, "n_layers": 6, "n_heads": 9, "n_kv_heads": 3, "d_head": 64, "d_ff": 8}
    model = TransformerLM(TransformerConfig(vocab_size=49_152, context_length=1024, **shape)).eval()
    return model.requires_grad_(False), smollm2[1]


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_cell_run_twenty_times_takes_the_memory_of_one(wide, cell):
    process, taken = psutil.Process(), []
    for _ in range(RUNS):
        cell(*wide)
        taken.append(process.memory_info().rss / 1e6)
    assert (taken[-1] - taken[0]) / (RUNS - 1) < MEGABYTES, [round(megabytes) for megabytes in taken]
