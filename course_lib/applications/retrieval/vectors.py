"""The vectors of chunks: those that come with the course, or made once and kept in the cache."""

import hashlib
import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from course_lib import storage
from course_lib.applications.retrieval.chunks import Chunk
from course_lib.applications.retrieval.encoder import SentenceEncoder
from course_lib.applications.retrieval.packed import packed_vectors

__all__ = ["by_work", "chunk_vectors", "vectors_folder"]

_VECTORS = "vectors.safetensors"
_QUICK = 500  # chunks that are read in seconds, and need no bar


def by_work(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Return `chunks` in a list for each work, as they follow each other."""
    return [list(part) for _, part in groupby(chunks, key=lambda chunk: chunk.work)]


def chunk_vectors(chunks: Sequence[Chunk], encoder: SentenceEncoder, exact: bool = False) -> Tensor:
    """Return the vectors (chunk, d_model) of `chunks`, float32, of length 1.

    Those of all plays in chunks of twelve lines come with the course, packed (see `packed`), unless they shall be `exact`. What
    else is wanted is made, and each work's kept in the cache: all plays take minutes. Who is interrupted goes on at the work
    that was being read, and some of the works are no loss when all are wanted. A damaged file in the cache is made anew.
    ValueError if there are no chunks, or what comes with the course is damaged.
    """
    if not chunks:
        raise ValueError("there are no chunks")
    works = by_work(chunks)
    vectors = [None if exact else packed_vectors(work, encoder) for work in works]
    missing = [work for work, own in zip(works, vectors, strict=True) if own is None and _kept(work, encoder) is None]
    is_quick = sum(map(len, missing)) < _QUICK
    for work in tqdm(missing, desc="vectors", unit="work", leave=False, disable=is_quick):
        _make(work, encoder)
    return torch.cat([
        _read(vectors_folder(work, encoder), len(work)) if own is None else own
        for work, own in zip(works, vectors, strict=True)
    ])  # fmt: skip


def vectors_folder(work: Sequence[Chunk], encoder: SentenceEncoder) -> Path:
    """Return the folder in the cache for the vectors of a work's chunks; other chunks, or another encoder, have another."""
    digest = hashlib.sha256(json.dumps([chunk.text for chunk in work]).encode()).hexdigest()
    name = re.sub(r"\W+", "-", work[0].work)  # which may be any text, and shall not lead out of the cache
    return storage.run_dir(f"vectors/{name}", [encoder.recipe, digest])


def _make(work: Sequence[Chunk], encoder: SentenceEncoder) -> None:
    storage.keep(
        vectors_folder(work, encoder),
        lambda folder: _write(folder, encoder([chunk.text for chunk in work])),
        lambda folder: _read(folder, len(work)),
        room=8 * len(work) * encoder.model.config.d_model,
    )


def _kept(work: Sequence[Chunk], encoder: SentenceEncoder) -> Tensor | None:
    return storage.kept(vectors_folder(work, encoder), lambda folder: _read(folder, len(work)))


def _write(folder: Path, vectors: Tensor) -> None:
    folder.mkdir()
    save_file({"vectors": vectors}, folder / _VECTORS)


def _read(folder: Path, n_chunks: int) -> Tensor:
    path = folder / _VECTORS
    try:
        vectors = load_file(path)["vectors"]
    except Exception as error:  # safetensors has an exception of its own for a damaged file
        raise ValueError(f"{path} is missing or damaged: {error}") from None
    if len(vectors) != n_chunks or not vectors.isfinite().all():
        raise ValueError(f"{path} does not hold a vector for each of {n_chunks} chunks")
    return vectors
