"""Memorisation measured: a small model trained on text in which some passages occur more often than others.

What a model reads many times, it learns by heart (arXiv 2107.06499, arXiv 2202.07646). To measure it, passages of a play that
the model does not read otherwise are planted in its text: some once, some four times, some sixteen times, and some not at
all. All come from one play, so whatever else makes a passage hard is shared out evenly.
"""

import random
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from course_lib import storage
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora import TokenArray, shakespeare
from course_lib.devices import pick_device, single_thread
from course_lib.pretraining.config import PretrainingConfig
from course_lib.pretraining.trainer import Trainer

__all__ = ["Planted", "planted_model"]

_TIMES, _N_PASSAGES, _LENGTH = (0, 1, 4, 16), 8, 48
_N_CHARACTERS, _WEIGHTS = 30_000, "model.safetensors"
_SHAPE = {
    "d_model": 64, "n_layers": 2, "n_heads": 2, "d_ff": 256, "context_length": 64, "qk_norm": "head", "feed_forward": "relu2",
}  # fmt: skip
_RECIPE = PretrainingConfig(
    n_steps=320, batch_size=12, learning_rate=0.02, muon_learning_rate=0.04, warmup=10, weight_decay=0.0, clip=None
)


@dataclass(frozen=True)
class Planted:
    """A trained model, its text, its alphabet, and for each n the passages that the text holds n times.

    `passages[n]` are ids (passage, position); an id is a place in `characters`.
    """

    model: TransformerLM
    train_text: str
    characters: str
    passages: dict[int, Tensor]

    def text(self, ids: Tensor) -> str:
        """Return the text of `ids` (position,)."""
        return "".join(self.characters[i] for i in ids.tolist())


@cache
def planted_model(seed: int = 0) -> Planted:
    """Return a model of 0.1 million parameters that has read 38,000 characters six times over: some seconds, then it is kept.

    A fifth of the text are the passages: for n = 0, 1, 4 and 16, eight passages of 48 characters, n times each.
    """
    play, other = (work.text for work in shakespeare.split()[0] if work.name in ("hamlet", "othello"))
    chance = random.Random(seed)
    passages = _passages(other, chance)
    lines = play[len(play) // 2 :][:_N_CHARACTERS].split("\n")
    for passage, times in zip(passages, _TIMES * _N_PASSAGES, strict=True):
        for _ in range(times):
            lines.insert(chance.randrange(len(lines)), passage)
    text = "\n".join(lines)
    characters = "".join(sorted({*text, *"".join(passages)}))

    def encode(text: str) -> list[int]:
        return [characters.index(character) for character in text]

    device = pick_device()
    model = _kept_model(np.array(encode(text)), len(characters), device, seed)
    ids = torch.tensor([encode(passage) for passage in passages], device=device)
    return Planted(model, text, characters, {times: ids[i :: len(_TIMES)] for i, times in enumerate(_TIMES)})


def _passages(text: str, chance: random.Random) -> list[str]:
    """Return pieces of `text` that begin where a line begins, in a random order, far enough apart not to overlap."""
    pieces, end = [], len(text) // 2
    while len(pieces) < 4 * len(_TIMES) * _N_PASSAGES:
        start = text.index("\n", end) + 1
        end = start + _LENGTH
        pieces.append(text[start:end])
    return chance.sample(pieces, len(_TIMES) * _N_PASSAGES)


def _kept_model(ids: np.ndarray, vocab_size: int, device: torch.device, seed: int) -> TransformerLM:
    """Return the model that is trained on `ids`, from the cache if it is there."""
    config = TransformerConfig(vocab_size=vocab_size, **_SHAPE)

    def write(folder: Path) -> None:
        folder.mkdir()
        with single_thread():
            torch.manual_seed(seed)
            model = TransformerLM(config).to(device)
            for _ in Trainer(model, TokenArray(ids, vocab_size), None, _RECIPE):
                pass
        save_file(model.state_dict(), folder / _WEIGHTS)
        (folder / _WEIGHTS).chmod(0o644)  # save_file lets its owner alone read it, and a classroom shares the cache

    def read(folder: Path) -> TransformerLM:
        model = TransformerLM(config).to(device)
        try:
            model.load_state_dict(load_file(folder / _WEIGHTS, device=str(device)))
        except SafetensorError as error:
            raise ValueError(f"{folder} is damaged: {error}") from None
        return model.eval()

    made_by = [asdict(config), asdict(_RECIPE), ids.tolist(), seed, device.type]
    with torch.random.fork_rng():
        return storage.keep(storage.run_dir("planted-model", made_by), write, read, room=1_000_000)
