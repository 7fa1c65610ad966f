"""The course's own model: trained in lesson 04 on the works of Shakespeare, and used by the lessons after it.

It is made once and kept beside the assets, or where those may not be written, in the user's own cache. Who starts with a
later lesson gets it made there, by the same steps.
"""

from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from course_lib import assets
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora import TokenShards, shakespeare, write_shards
from course_lib.devices import pick_device, seed_everything
from course_lib.pretraining.config import PretrainingConfig
from course_lib.pretraining.trainer import Trainer
from course_lib.tokenization import Tokenizer, load_tokenizer, save_tokenizer, train_bpe

__all__ = ["MODEL", "TRAINING", "pretrained", "trainer"]

MODEL = TransformerConfig(
    vocab_size=2048, d_model=192, n_layers=3, n_heads=6, d_ff=768, context_length=128,
    feed_forward="relu2", qk_norm="head",
)  # fmt: skip
TRAINING = PretrainingConfig(
    n_steps=1300, batch_size=8, learning_rate=0.006, muon_learning_rate=0.02, warmup=20, evaluate_every=260,
    checkpoint_every=65,
)  # fmt: skip


def trainer() -> tuple[Trainer, Tokenizer]:
    """Return the Trainer that makes the model, and its tokenizer. One that was interrupted goes on; a finished one is done."""
    training, held_out = shakespeare.split()
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not (folder / "tokenizer").exists():
            save_tokenizer(train_bpe((work.text for work in training), MODEL.vocab_size), folder / ".tokenizer")
            (folder / ".tokenizer").rename(folder / "tokenizer")  # whole, or not there
        tokenizer = load_tokenizer(folder / "tokenizer")
        shards = [_shards(folder / name, works, tokenizer) for name, works in (("train", training), ("test", held_out))]
    seed_everything(0)
    model = TransformerLM(MODEL).to(pick_device())
    return Trainer(model, *shards, TRAINING, folder / "checkpoints"), tokenizer


def pretrained() -> tuple[TransformerLM, Tokenizer]:
    """Return the trained model, ready for use, and its tokenizer; if need be it is trained first, in some two minutes."""
    run, tokenizer = trainer()
    for _ in run:
        pass
    return run.model.eval(), tokenizer


def _folder() -> Path:
    return assets.run_dir("shakespeare-model", [asdict(MODEL), asdict(TRAINING), shakespeare.HELD_OUT])


def _shards(folder: Path, works: list[shakespeare.Work], tokenizer: Tokenizer) -> TokenShards:
    return TokenShards(folder) if folder.exists() else write_shards((w.text for w in works), tokenizer, folder)
