"""The vectors of all plays come with the course, so that nobody waits minutes for them: two bits a number instead of 32.

The numbers of a vector of length 1 in d dimensions are some 1/√d large. Packed, each is one of four levels: −1½, −½, ½ or 1½
times that. The vector that is unpacked has a cosine of 0.94 with the one that was packed, and finds the passage of a question
as often; signs alone, one bit, find fewer (benchmarks/README.md). A question's own vector is not packed.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor

from course_lib.applications.retrieval.chunks import Chunk
from course_lib.applications.retrieval.encoder import SentenceEncoder

__all__ = ["pack", "packed_vectors", "unpack", "write_packed"]

_DATA = Path(__file__).with_name("data") / "plays.safetensors"
_SHIFTS = torch.tensor([0, 2, 4, 6], dtype=torch.uint8)  # of the four numbers in a byte
_CHECKSUM = "sha256"


def pack(vectors: Tensor) -> Tensor:
    """Return `vectors` (item, d_model) of length 1 as bytes (item, d_model / 4), four numbers in each."""
    levels = (vectors * vectors.shape[1] ** 0.5).floor().clamp(-2, 1) + 2
    return (levels.to(torch.uint8).unflatten(1, (-1, 4)) << _SHIFTS).sum(dim=-1, dtype=torch.uint8)


def unpack(codes: Tensor) -> Tensor:
    """Return the vectors (item, d_model) of length 1 that stand for the bytes `codes` (item, d_model / 4), float32."""
    levels = (codes[..., None] >> _SHIFTS & 3).flatten(1)
    return torch.nn.functional.normalize(levels - 1.5, dim=-1)


def packed_vectors(work: Sequence[Chunk], encoder: SentenceEncoder) -> Tensor | None:
    """Return the vectors (chunk, d_model) of a work's chunks, unpacked; None if it is other chunks that come with the course.

    They were made in float32; what another precision rounds is far finer than the packing. ValueError if the file is missing or
    damaged.
    """
    codes = _read(_DATA).get(_name(work, encoder))
    return None if codes is None else unpack(codes)


def write_packed(works: Sequence[Sequence[Chunk]], vectors: Sequence[Tensor], encoder: SentenceEncoder) -> Path:
    """Write the packed `vectors` of `works`, a tensor for each, to the file that comes with the course; return its path."""
    codes = {_name(work, encoder): pack(own) for work, own in zip(works, vectors, strict=True)}
    _DATA.parent.mkdir(exist_ok=True)
    save_file({**codes, _CHECKSUM: _checksum(codes)}, _DATA)
    _read.cache_clear()
    return _DATA


def _name(work: Sequence[Chunk], encoder: SentenceEncoder) -> str:
    """Return a name that no other texts have, nor the same ones with another encoder."""
    recipe = [encoder.recipe[:2], [chunk.text for chunk in work]]  # without dtype and device
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()


def _checksum(codes: dict[str, Tensor]) -> Tensor:
    whole = hashlib.sha256()
    for name in sorted(codes):
        whole.update(name.encode() + codes[name].numpy().tobytes())
    return torch.tensor(list(whole.digest()), dtype=torch.uint8)


@cache
def _read(path: Path) -> dict[str, Tensor]:
    """Return the bytes of each work in the file by the work's name."""
    try:
        codes = load(path.read_bytes())
        if not torch.equal(codes.pop(_CHECKSUM), _checksum(codes)):
            raise ValueError("its bytes are not as they were written")
    except Exception as error:  # safetensors has an exception of its own for a damaged file
        raise ValueError(
            f"{path} is missing or damaged: {error!r}. `python -m course_lib.applications.retrieval` makes it anew"
        ) from None
    return codes
