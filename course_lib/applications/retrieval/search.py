"""Both indexes over the same chunks, and one ranking of their two."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from course_lib.applications.retrieval.chunks import Chunk
from course_lib.applications.retrieval.encoder import SentenceEncoder
from course_lib.applications.retrieval.indexes import VectorIndex, WordIndex
from course_lib.applications.retrieval.vectors import chunk_vectors
from course_lib.checks import check, check_fields

__all__ = ["DEPTH", "Fusion", "Hit", "Search", "asked", "fuse"]

DEPTH = 100
"""How many of each ranking are fused."""


def fuse(rankings: Sequence[Sequence[int]], k: float = 60, weights: Sequence[float] | None = None) -> dict[int, float]:
    """Return the score of each item in `rankings`, lists of items, best first; the highest score comes first.

    Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): Σ weight ⁄ (k + rank) over the rankings that have the item,
    ranks counted from 1. Only ranks count, so scores of different kinds need not be compared. With a large `k` to be somewhere
    in both lists is better than to be first in one. `weights` are 1 if not given. Of equal scores the item met first is first.
    """
    check("k", k, float, at_least=0)
    weights = [1.0] * len(rankings) if weights is None else weights
    if len(weights) != len(rankings):
        raise ValueError(f"{len(rankings)} rankings need as many weights, not {len(weights)}")
    scores: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        check("a weight", weight, float, at_least=0)
        if len(set(ranking)) < len(ranking):
            raise ValueError("a ranking holds an item twice")
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + weight / (k + rank)
    return dict(sorted(scores.items(), key=lambda entry: -entry[1]))


class Hit(NamedTuple):
    """A chunk that was found, and its score: the higher, the better, in the units of the index that found it."""

    chunk: Chunk
    score: float


@dataclass(frozen=True)
class Fusion:
    """How `Search.both` weighs its rankings: the `k` of `fuse`, and the weights of words and of meaning.

    With the paper's 60 and equal weights, to be the 40th in both rankings is better than to be first in one; where one index is
    blind that finds less than the other one alone. These were chosen on half of the plays and measured on the rest, see
    benchmarks/README.md.
    """

    k: float = 5
    words: float = 1.5
    meaning: float = 1.0

    def __post_init__(self):
        check_fields(self, k=(0, math.inf), words=(0, math.inf), meaning=(0, math.inf))


class Search:
    """Both indexes over the same `chunks`."""

    def __init__(self, chunks: Sequence[Chunk], encoder: SentenceEncoder, fusion: Fusion = Fusion()):
        """Index `chunks`, whose vectors are those of `chunk_vectors`. ValueError if there are none."""
        self.chunks, self.encoder, self.fusion = tuple(chunks), encoder, fusion
        self.meanings = VectorIndex(chunk_vectors(self.chunks, encoder))
        self.words = WordIndex([chunk.text for chunk in self.chunks])

    def by_words(self, query: str, n: int = 5) -> list[Hit]:
        """Return the `n` chunks with the highest BM25, or fewer: one that has no word of `query` is not found."""
        return self._hits(*self.words.nearest(asked(query), n))

    def by_meaning(self, query: str, n: int = 5) -> list[Hit]:
        """Return the `n` chunks whose vectors have the largest cosine with that of `query`."""
        return self._hits(*self.meanings.nearest(self.encoder([asked(query)])[0], n))

    def both(self, query: str, n: int = 5) -> list[Hit]:
        """Return the `n` best chunks by the fusion of both rankings, each 100 deep."""
        check("n", n)
        rankings = [
            self.words.nearest(asked(query), DEPTH)[0],
            self.meanings.nearest(self.encoder([query])[0], DEPTH)[0],
        ]
        scores = fuse(rankings, self.fusion.k, [self.fusion.words, self.fusion.meaning])
        return self._hits(list(scores)[:n], list(scores.values())[:n])

    def _hits(self, items: Sequence[int], scores: Sequence[float]) -> list[Hit]:
        return [Hit(self.chunks[item], score) for item, score in zip(items, scores, strict=True)]


def asked(query: str) -> str:
    """Return `query` as it is. ValueError if it is no string, or an empty one."""
    check("query", query, str)
    if not query.strip():
        raise ValueError("the query is empty")
    return query
