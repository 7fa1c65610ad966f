"""The course's own model: trained in lesson 04 on the works of Shakespeare, and used by the lessons after it.

It is made once and kept beside the assets, or where those may not be written, in the user's own cache. Who starts with a
later lesson gets it made there, by the same steps.
"""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from course_lib import storage
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora import TokenShards, shakespeare, write_shards
from course_lib.devices import multiplies_bfloat16, pick_device, seed_everything
from course_lib.pretraining.checkpoints import mended
from course_lib.pretraining.config import PretrainingConfig
from course_lib.pretraining.trainer import Trainer
from course_lib.tokenization import Tokenizer, load_tokenizer, save_tokenizer, train_bpe

__all__ = ["MODEL", "TRAINING", "pretrained", "tokenizer_folder", "trainer"]

MODEL = TransformerConfig(
    vocab_size=2048, d_model=192, n_layers=3, n_heads=3, d_ff=768, context_length=512,
    feed_forward="relu2", qk_norm="head", ngram_rows=8192, induction_head=True,
)  # fmt: skip
TRAINING = PretrainingConfig(
    n_steps=800, batch_size=4, learning_rate=0.006, muon_learning_rate=0.012, warmup=20, evaluate_every=200,
    checkpoint_every=100,
)  # fmt: skip
_ROOM = 20_000_000  # bytes on disk


def tokenizer_folder() -> Path:
    """Return the folder of the model's tokenizer, which is made first if need be."""
    texts = (work.text for work in shakespeare.split()[0])
    folder = _folder() / "tokenizer"
    storage.keep(folder, lambda path: save_tokenizer(train_bpe(texts, MODEL.vocab_size), path), load_tokenizer, _ROOM)
    return folder


def trainer() -> tuple[Trainer, Tokenizer]:
    """Return the Trainer that makes the model, and its tokenizer. One that was interrupted goes on; a finished one is done."""
    tokenizer = load_tokenizer(tokenizer_folder())
    folder = _folder()
    shards = [
        _shards(folder / name, works, tokenizer)
        for name, works in zip(("train", "test"), shakespeare.split(), strict=True)
    ]
    device, recipe = pick_device(), TRAINING
    if multiplies_bfloat16(device):  # a processor's products too: half the time, for digits that nobody prints
        recipe = replace(recipe, dtype="bfloat16")
    seed_everything(0)
    model = TransformerLM(MODEL).to(device)
    return Trainer(model, *shards, recipe, mended(folder / "checkpoints")), tokenizer


def pretrained() -> tuple[TransformerLM, Tokenizer]:
    """Return the trained model, ready for use, and its tokenizer; if need be it is trained first, in some three minutes."""
    run, tokenizer = trainer()
    for _ in run:
        pass
    return run.model.eval(), tokenizer


def _folder() -> Path:
    return storage.run_dir("shakespeare-model", [asdict(MODEL), asdict(TRAINING), shakespeare.HELD_OUT])


def _shards(folder: Path, works: list[shakespeare.Work], tokenizer: Tokenizer) -> TokenShards:
    return storage.keep(folder, partial(write_shards, (w.text for w in works), tokenizer), TokenShards, _ROOM)
