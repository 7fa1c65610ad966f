"""A search over a few dozen chunks that leaves nothing in the cache, for its vectors are bags of words, and a model for it."""

import zlib

import torch
from torch import Tensor

from course_lib.applications.retrieval import Chunk, Fusion, Search, VectorIndex, WordIndex, cut_all, words
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.tokenization import Tokenizer, train_bpe

D_MODEL = 24
ALIKE = {"vessel": "ship", "skipper": "captain", "commanded": "led", "infant": "child", "monarch": "king"}
TEXTS = {
    "sea": "Ahab led the ship.\nThe captain was called Ahab.\nA whale swims below.\n\nThe mast is broken.\n"
    "<img src=x onerror=alert(1)>\nHe sailed from Nantucket.\n"
    + "".join(f"Wave {i} rolls by the ship.\n" for i in range(30)),
    "farm": "The cow gives milk.\nThe hen lays eggs.\nThe farmer ploughs his field.\nThe horse pulls a cart.\n"
    + "".join(f"Row {i} of corn stands high.\n" for i in range(30)),
    "court": "The king is old.\nThe queen has a child.\nThe fool sings to the king.\nThe crown is lost.\n"
    + "".join(f"Lord {i} bows to the king.\n" for i in range(30)),
}


class WordVectors:
    """Stands in for a `SentenceEncoder`: a text's vector is the sum of its words' own, and some words mean the same."""

    def __call__(self, texts: list[str]) -> Tensor:
        """Return the vectors (text, D_MODEL) of `texts`, of length 1."""
        vectors = [sum((_vector(ALIKE.get(word, word)) for word in words(text)), _vector("")) for text in texts]
        return torch.nn.functional.normalize(torch.stack(vectors), dim=-1) if vectors else torch.zeros(0, D_MODEL)


def _vector(word: str) -> Tensor:
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


class SmallSearch(Search):
    """A `Search` whose vectors are computed here and not kept."""

    def __init__(self, chunks: list[Chunk], encoder=None):
        self.chunks, self.encoder, self.fusion = tuple(chunks), encoder or WordVectors(), Fusion()
        self.meanings = VectorIndex(self.encoder([chunk.text for chunk in self.chunks]))
        self.words = WordIndex([chunk.text for chunk in self.chunks])


def small_search(n_lines: int = 2) -> SmallSearch:
    """Search TEXTS, cut into chunks of `n_lines` lines."""
    return SmallSearch(cut_all(TEXTS, n_lines))


def small_writer() -> tuple[TransformerLM, Tokenizer]:
    """Return a small model that answers with nonsense, and its tokenizer, which has a chat template."""
    seed_everything(0)
    tokenizer = train_bpe(list(TEXTS.values()), 300)
    tokenizer.chat_template = "{{ messages[0].content }}\n"
    shape = {"d_model": 16, "n_layers": 3, "n_heads": 2, "d_ff": 32, "context_length": 1024}
    return TransformerLM(TransformerConfig(vocab_size=300, **shape)).eval(), tokenizer
