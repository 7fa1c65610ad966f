"""Corpora as token shards on disk, and the batches that training draws from them.

A corpus is tokenized once and written as flat arrays of token ids, one document behind the other. Training maps the files
into memory and reads the windows it needs, so the corpus may be larger than RAM, and all processes on a machine share one copy.
Which window comes when is a function of the seed and the step, so a run can go on from any step, in any number of
processes, without a saved state.
"""

import glob
import hashlib
import json
import shutil
import struct
import tempfile
from bisect import bisect
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from operator import index
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from course_lib.checks import check, check_texts, read_json
from course_lib.tokenization import Tokenizer

__all__ = [
    "Batches",
    "TokenArray",
    "TokenShards",
    "Windowed",
    "write_shards",
]

_INDEX = "index.json"
_ROUNDS = (
    6  # of the Feistel network: four suffice for many windows (Luby and Rackoff 1988), a dozen need six to be fair
)
_ODD = 0x9E3779B97F4A7C15  # 2⁶⁴ divided by the golden ratio: multiplying by it scatters neighbours (Knuth 1973, section 6.4)


class Windowed(Protocol):
    """What `Batches` draws from and a Trainer trains on: rows of tokens, such as the windows of a text."""

    vocab_size: int  # one more than the largest id

    def __len__(self) -> int:
        """The number of tokens."""

    def n_windows(self, context_length: int) -> int:
        """How many rows an epoch has."""

    def window(self, number: int, shift: int, context_length: int) -> tuple[Tensor, ...]:
        """One of them: ids (context_length,), targets, and what else a loss may ask for."""

    def windows(self, context_length: int) -> Iterator[tuple[Tensor, ...]]:
        """All of them, once and in order."""

    def fingerprint(self) -> str:
        """What tells these tokens and targets from others."""


_BLOCK, _MOST_BLOCKS = 4096, 256  # tokens, and how many blocks of them a fingerprint is taken of


# ---------------------------------------------------------------- on disk


def write_shards(
    texts: Iterable[str], tokenizer: Tokenizer, folder: str | Path, *, shard_tokens: int = 1 << 26
) -> "TokenShards":
    """Tokenize `texts`, each ended by the tokenizer's first end token, into `folder`, in files of `shard_tokens` tokens.

    A token takes two bytes, or four where ids go beyond 65,535. The texts are taken one at a time. The folder
    appears when all is written, so one that is there is whole, even if a writer is killed; of several writers, one writes and
    the others wait. Raises FileExistsError if the folder is there already, and ValueError for a tokenizer without an end
    token, no text at all, or something else than texts.
    """
    check_texts("texts", texts)
    check("shard_tokens", shard_tokens)
    folder = Path(folder)
    if not tokenizer.end_tokens:
        raise ValueError("the tokenizer has no end token to stand between texts; train it with special_tokens")
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.partial-"
    with FileLock(folder.parent / f".{folder.name}.lock"):
        for abandoned in folder.parent.glob(f"{glob.escape(prefix)}*"):  # by a writer that was killed: it held the lock
            shutil.rmtree(abandoned)
        if folder.exists():
            raise FileExistsError(f"{folder} exists; TokenShards(folder) reads what is there")
        with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as stage:
            fresh = Path(stage, "fresh")
            fresh.mkdir()
            _write(texts, tokenizer, fresh, shard_tokens)
            fresh.rename(folder)
    return TokenShards(folder)


def _write(texts: Iterable[str], tokenizer: Tokenizer, folder: Path, shard_tokens: int) -> None:
    ids = tokenizer.vocab | tokenizer.special_tokens
    vocab_size = max(ids.values()) + 1  # more than there are tokens, where some ids have none
    dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32).newbyteorder("<")
    end = [ids[tokenizer.end_tokens[0]]]
    lengths, n_bytes, n_texts = [], 0, 0
    for text in texts:
        check(f"text {n_texts}", text, str)
        n_bytes, n_texts = n_bytes + len(text.encode()), n_texts + 1
        tokens = np.array(tokenizer.encode(text) + end, dtype)
        while len(tokens):
            if not lengths or lengths[-1] == shard_tokens:
                lengths.append(0)
            part, tokens = np.split(tokens, [shard_tokens - lengths[-1]])
            with (folder / _name(len(lengths) - 1)).open("ab") as file:
                part.tofile(file)
            lengths[-1] += len(part)
    if not lengths:
        raise ValueError("there is no text to write")
    entries = {
        "dtype": dtype.name,
        "vocab_size": vocab_size,
        "n_bytes": n_bytes,
        "n_texts": n_texts,
        "lengths": lengths,
    }
    (folder / _INDEX).write_text(json.dumps(entries | {"sha256": _digest(entries)}), encoding="utf-8")


def _digest(entries: dict) -> str:
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _name(shard: int) -> str:
    return f"shard-{shard:05d}.bin"


class _RunningText:
    """Tokens one behind the other, from which training takes windows. A target is the token after each id."""

    def n_windows(self, context_length: int) -> int:
        """Return how many windows of `context_length` tokens an epoch has. ValueError if there is none."""
        count = len(self) // context_length - 1  # one less than fit: the cuts move by up to a window
        if count < 1:
            raise ValueError(f"{len(self)} tokens do not make two windows of {context_length}")
        return count

    def window(self, number: int, shift: int, context_length: int) -> tuple[Tensor, Tensor]:
        """Return (ids, targets), both int64 (context_length,), of window `number` if the first begins at token `shift`."""
        return self._pair(shift + number * context_length, context_length)

    def windows(self, context_length: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (ids, targets), both (context_length,) and the last pair perhaps shorter, of consecutive windows, in order.

        Each token of the text but the first is a target once.
        """
        check("context_length", context_length)
        for start in range(0, len(self) - 1, context_length):
            yield self._pair(start, context_length)

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that tell one text's tokens from another's, on disk or in memory.

        A text of up to a million tokens is read whole, of a longer one 256 blocks, evenly apart: milliseconds, however long
        it is.
        """
        digest = hashlib.blake2b(str(len(self)).encode(), digest_size=16)
        for start in range(0, len(self), max(_BLOCK, len(self) // _MOST_BLOCKS)):
            digest.update(self[start : start + _BLOCK].astype("<u4").tobytes())
        return digest.hexdigest()

    def _pair(self, start: int, length: int) -> tuple[Tensor, Tensor]:
        tokens = torch.from_numpy(self[start : start + length + 1].astype(np.int64))
        return tokens[:-1], tokens[1:]


class TokenShards(_RunningText):
    """The tokens of a corpus in `folder`, as `write_shards` made it, mapped into memory.

    `len(shards)` is the number of tokens, `shards[start:stop]` an array of them, `vocab_size` one more than the tokenizer's
    largest id, `n_texts` the number of documents and `n_bytes` that of their bytes in UTF-8, without the end tokens.

    Raises ValueError or OSError that names the file if one is missing, damaged or of another size; and, when it comes to it,
    for a token beyond the vocabulary. A token that has become another one goes unseen: to tell would take reading all.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        entries = read_json(self.folder / _INDEX)
        noted = entries.pop("sha256", None)  # none: the folder was written before there was one
        if noted not in (None, _digest(entries)) or "lengths" not in entries:
            raise ValueError(
                f"{self.folder / _INDEX} is not as write_shards wrote it: copy the folder anew, or write it anew"
            )
        self.vocab_size, self.n_bytes, self.n_texts = (entries[name] for name in ("vocab_size", "n_bytes", "n_texts"))
        dtype = np.dtype(entries["dtype"]).newbyteorder("<")
        self._shards = [self._map(_name(i), dtype, length) for i, length in enumerate(entries["lengths"])]
        self._starts = [0, *accumulate(entries["lengths"])]

    def _map(self, name: str, dtype: np.dtype, length: int) -> np.ndarray:
        path, wanted = self.folder / name, length * dtype.itemsize
        if (size := path.stat().st_size) != wanted:
            raise ValueError(f"{path} has {size:,} bytes instead of {wanted:,}: copy the folder anew, or write it anew")
        return np.memmap(path, dtype, mode="r", shape=(length,))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, at: slice) -> np.ndarray:
        """Return the tokens of a slice without a step, as a copy, wherever shards end."""
        start, stop, step = at.indices(len(self))
        if step != 1:
            raise ValueError(f"tokens are read in order and without gaps, not in steps of {step}")
        parts = []
        while start < stop:
            shard = bisect(self._starts, start) - 1
            part = self._shards[shard][start - self._starts[shard] : stop - self._starts[shard]]
            if part.max() >= self.vocab_size:
                raise ValueError(
                    f"{self.folder / _name(shard)} is damaged: of {self.vocab_size} tokens it holds number {part.max()}"
                )
            parts.append(part)
            start += len(part)
        return np.concatenate(parts or [self._shards[0][:0]])


class TokenArray(_RunningText):
    """What `TokenShards` is, of a text that fits into memory: its tokens, and `n_bytes` if they are to be compared by bytes."""

    def __init__(self, tokens: np.ndarray, vocab_size: int, n_bytes: int | None = None):
        self.tokens, self.vocab_size, self.n_bytes = tokens, vocab_size, n_bytes

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, at: slice) -> np.ndarray:
        return self.tokens[at]


# ---------------------------------------------------------------- batches


class Batches:
    """The batches of a training run. Those of a text are `batches[step]` = (ids, targets), both (batch_size / world_size,
    context_length).

    The text is cut into windows of `context_length` tokens, and each epoch takes every window once, in an order of its own;
    the cuts lie elsewhere in each epoch. A target is the token after each id. `batch_size` is that of all processes together,
    of which `rank` gets its share, so that the batch of a step is the same whatever `world_size` is.

    Anything that has `n_windows` and `window` can stand in a text's place, as the examples of fine-tuning do; of what its
    windows hold, each step stacks so many.

    Raises ValueError if the batch cannot be shared out evenly, the text is shorter than two windows or a number is no such.
    """

    def __init__(
        self,
        text: Windowed,
        context_length: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        for name, number in {
            "context_length": context_length,
            "batch_size": batch_size,
            "world_size": world_size,
        }.items():
            check(name, number)
        check("seed", seed, int, 0)
        check("rank", rank, int, 0, world_size - 1)
        if batch_size % world_size:
            raise ValueError(f"{batch_size} sequences cannot be shared out evenly over {world_size} processes")
        self.n_windows = text.n_windows(context_length)
        self.text, self.context_length, self.batch_size, self.seed = text, context_length, batch_size, seed
        self._share = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        """Return the batch of `step`, counted from 0, as int64. There is no last one: epoch follows epoch."""
        if (step := index(step)) < 0:
            raise IndexError(f"steps are counted from 0, not {step}")
        rows = [self._window(step * self.batch_size + row) for row in self._share]
        return tuple(map(torch.stack, zip(*rows, strict=True)))

    def _window(self, turn: int) -> tuple[Tensor, ...]:
        epoch, place = divmod(turn, self.n_windows)
        shift = _random((self.seed, epoch))[0] % self.context_length
        return self.text.window(permuted(place, self.n_windows, (self.seed, epoch)), shift, self.context_length)


def permuted(place: int, n: int, key: tuple[int, ...]) -> int:
    """Return where a pseudo-random permutation of 0 … n − 1, chosen by `key`, sends `place`; nothing is stored.

    A Feistel network mixes the two halves of a number's bits and can be undone, so it permutes the numbers of 2b bits. One that
    lands beyond n goes through it again until it does not: "cycle walking" (Black and Rogaway 2002, section 3).
    """
    half = max((n - 1).bit_length() + 1, 2) // 2
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for number in _random(key):
            product = ((right ^ number) * _ODD) & (1 << 64) - 1
            left, right = right, left ^ (product ^ product >> 32) * _ODD >> 40 & mask
        place = left << half | right
        if place < n:
            return place


@lru_cache
def _random(key: tuple[int, ...]) -> tuple[int, ...]:
    """Return a random number of 64 bits, drawn by `key`, for each round of the Feistel network."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8 * _ROUNDS).digest()
    return struct.unpack(f"<{_ROUNDS}Q", digest)
