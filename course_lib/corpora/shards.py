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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from operator import index
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from course_lib.checks import check, check_texts, read_json
from course_lib.tokenization import Tokenizer

__all__ = [
    "IGNORED",
    "Batches",
    "Packed",
    "TokenArray",
    "TokenShards",
    "fingerprint",
    "pack",
    "windows",
    "write_shards",
]

IGNORED = -100
"""The target that `torch.nn.functional.cross_entropy` leaves out of the mean."""

_INDEX = "index.json"
_ROUNDS = (
    6  # of the Feistel network: four suffice for many windows (Luby and Rackoff 1988), a dozen need six to be fair
)
_ODD = 0x9E3779B97F4A7C15  # 2⁶⁴ divided by the golden ratio: multiplying by it scatters neighbours (Knuth 1973, section 6.4)


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


class TokenShards:
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


class TokenArray:
    """What `TokenShards` is, of a text that fits into memory: its tokens, and `n_bytes` if they are to be compared by bytes."""

    def __init__(self, tokens: np.ndarray, vocab_size: int, n_bytes: int | None = None):
        self.tokens, self.vocab_size, self.n_bytes = tokens, vocab_size, n_bytes

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, at: slice) -> np.ndarray:
        return self.tokens[at]


_BLOCK, _MOST_BLOCKS = 4096, 256  # tokens, and how many blocks of them a fingerprint is taken of


def fingerprint(shards: TokenShards | TokenArray) -> str:
    """Return 32 hexadecimal digits that tell one text's tokens from another's, on disk or in memory.

    A text of up to a million tokens is read whole, of a longer one 256 blocks, evenly apart: milliseconds, however long it is.
    """
    digest = hashlib.blake2b(str(len(shards)).encode(), digest_size=16)
    for start in range(0, len(shards), max(_BLOCK, len(shards) // _MOST_BLOCKS)):
        digest.update(shards[start : start + _BLOCK].astype("<u4").tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- batches


class Batches:
    """The batches of a training run: `batches[step]` is (ids, targets), both (batch_size / world_size, context_length).

    The corpus is cut into windows of `context_length` tokens, and each epoch takes every window once, in an order of its own;
    the cuts lie elsewhere in each epoch. A target is the token after each id. `batch_size` is that of all processes together,
    of which `rank` gets its share, so that the batch of a step is the same whatever `world_size` is.

    Raises ValueError if the batch cannot be shared out evenly, the corpus is shorter than two windows or a number is no such.
    """

    def __init__(
        self,
        shards: TokenShards | TokenArray,
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
        self.n_windows = len(shards) // context_length - 1  # one less than fit: the cuts move by up to a window
        if self.n_windows < 1:
            raise ValueError(f"{len(shards)} tokens do not make two windows of {context_length}")
        self.shards, self.context_length, self.batch_size, self.seed = shards, context_length, batch_size, seed
        self._share = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of `step`, counted from 0, as int64. There is no last one: epoch follows epoch."""
        if (step := index(step)) < 0:
            raise IndexError(f"steps are counted from 0, not {step}")
        rows = np.stack([self._window(step * self.batch_size + row) for row in self._share])
        tokens = torch.from_numpy(rows.astype(np.int64))
        return tokens[:, :-1], tokens[:, 1:]

    def _window(self, turn: int) -> np.ndarray:
        epoch, place = divmod(turn, self.n_windows)
        shift = _random((self.seed, epoch))[0] % self.context_length
        start = shift + self.context_length * permuted(place, self.n_windows, (self.seed, epoch))
        return self.shards[start : start + self.context_length + 1]


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


def windows(shards: TokenShards | TokenArray, context_length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (ids, targets), both (context_length,) and the last pair perhaps shorter, of consecutive windows, in order.

    Each token of the corpus but the first is a target once.
    """
    check("context_length", context_length)
    for start in range(0, len(shards) - 1, context_length):
        tokens = torch.from_numpy(shards[start : start + context_length + 1].astype(np.int64))
        yield tokens[:-1], tokens[1:]


# ---------------------------------------------------------------- packing


@dataclass(frozen=True)
class Packed:
    """Several documents a row: `ids`, `targets` and `documents`, all int64 (row, context_length).

    A target is IGNORED where no token of the same piece follows. `documents` numbers the pieces of a row from 0; padding is −1.
    """

    ids: Tensor
    targets: Tensor
    documents: Tensor

    def mask(self) -> Tensor:
        """Return the mask (row, 1, query, key) under which pieces of a row do not see each other. True = may attend.

        Padding sees padding, so that no row of a softmax is empty.
        """
        return (self.documents[:, :, None] == self.documents[:, None, :])[:, None]


def pack(documents: Sequence[Sequence[int]], context_length: int, pad_id: int = 0) -> Packed:
    """Put documents (token ids) of any length side by side into rows of `context_length`, with as little padding as may be.

    One that is longer is first cut into pieces of `context_length` and a rest. Then, the longest first, each piece goes to the
    row in which it leaves the least room: best-fit decreasing (arXiv 2404.10830). Empty documents are left out.
    """
    check("context_length", context_length)
    check("pad_id", pad_id, int, 0)
    pieces = [
        document[start : start + context_length]
        for document in documents
        for start in range(0, len(document), context_length)
    ]
    rows: list[list[Sequence[int]]] = []
    with_room: list[list[int]] = [[] for _ in range(context_length + 1)]  # of each room left, the rows that have it
    for piece in sorted(pieces, key=len, reverse=True):
        room = next((room for room in range(len(piece), context_length + 1) if with_room[room]), None)
        if room is None:
            room, row = context_length, len(rows)
            rows.append([])
        else:
            row = with_room[room].pop()
        rows[row].append(piece)
        with_room[room - len(piece)].append(row)
    shape = (len(rows), context_length)
    ids = torch.full(shape, pad_id)
    targets, places = torch.full(shape, IGNORED), torch.full(shape, -1)
    for row, parts in enumerate(rows):
        end = 0
        for number, part in enumerate(parts):
            start, end = end, end + len(part)
            ids[row, start:end] = torch.as_tensor(part)
            targets[row, start : end - 1] = ids[row, start + 1 : end]
            places[row, start:end] = number
    return Packed(ids, targets, places)
