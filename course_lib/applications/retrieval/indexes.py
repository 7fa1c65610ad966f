"""Two indexes over the same texts: one of meanings, as vectors, and one of words."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import bm25s
import numpy as np
from torch import Tensor

from course_lib.checks import check, check_texts

__all__ = ["VectorIndex", "WordIndex", "words"]

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


class VectorIndex:
    """The vectors nearest to another, by their cosine.

    Without a graph it is compared with all of them, in one product: exact, and a matter of milliseconds for some ten thousand.
    A `graph` leads from vector to vector, ever nearer, and meets only some of them: it finds most of the same, takes seconds to
    make, and pays for a million. That is HNSW (arXiv 1603.09320), as `usearch` makes it: of the well-kept libraries the one
    without an OpenMP of its own, a second of which beside PyTorch's ends the process on a Mac (faiss-wheels issue 73).
    """

    def __init__(self, vectors: Tensor, graph: bool = False):
        """Index `vectors` (item, d_model). ValueError if there are none, or one of them is not finite or zero."""
        if vectors.ndim != 2 or not len(vectors):
            raise ValueError(f"vectors must be (item, d_model), at least one, not {tuple(vectors.shape)}")
        self.vectors = _unit(vectors)
        self._graph = _graph(self.vectors) if graph else None

    def nearest(self, vector: Tensor, n: int = 5) -> tuple[list[int], list[float]]:
        """Return the indices of the `n` items nearest to `vector` (d_model,), best first, and their cosines."""
        check("n", n)
        n = min(n, len(self.vectors))
        query = _unit(vector)
        if self._graph is None:
            best = (self.vectors @ query).topk(n)
            return best.indices.tolist(), best.values.tolist()
        matches = self._graph.search(query.numpy(), n, threads=1)
        return matches.keys.tolist(), (1 - matches.distances).tolist()


def _unit(vectors: Tensor) -> Tensor:
    vectors = vectors.float().cpu()
    lengths = vectors.norm(dim=-1, keepdim=True)
    if not (lengths.isfinite() & (lengths > 0)).all():
        raise ValueError("a vector is zero or not finite, so it has no direction")
    return vectors / lengths


def _graph(vectors: Tensor):
    from usearch.index import Index  # a second, and not needed without a graph

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
    index.add(np.arange(len(vectors)), vectors.numpy(), threads=1)  # by one thread, so that it is the same each time
    return index


def words(text: str) -> list[str]:
    """Return the words of `text` as the index of words has them: lower case, without punctuation."""
    return _WORD.findall(text.lower().replace("’", "'"))


class WordIndex:
    """BM25 (Robertson and Zaragoza 2009), from `bm25s` (arXiv 2407.03618): what share of a question's rare words a text has."""

    def __init__(self, texts: Sequence[str]):
        """Index `texts`. ValueError if there are none, or they have no words."""
        check_texts("texts", texts)
        tokens = [words(text) for text in texts]
        if not any(tokens):
            raise ValueError("there are no texts with words")
        self._tokens = [frozenset(text) for text in tokens]
        self._n_texts = Counter(word for text in self._tokens for word in text)  # that have a word
        self._index = bm25s.BM25()
        self._index.index(tokens, show_progress=False)

    def nearest(self, query: str, n: int = 5) -> tuple[list[int], list[float]]:
        """Return the indices of the `n` best texts, best first, and their scores; none that has no word of `query`."""
        check("n", n)
        known = self._index.get_tokens_ids(words(query))
        if not known:
            return [], []
        scores = self._index.get_scores_from_ids(known)
        best = np.argsort(-scores, kind="stable")[:n]
        best = best[scores[best] > 0]
        return best.tolist(), scores[best].tolist()

    def coverage(self, query: str, item: int) -> float:
        """Return the share, 0 to 1, of the words of `query` that text number `item` has, each weighed by how rare it is.

        The weight is BM25's, ln(1 + (N − n + ½) ⁄ (n + ½)) for a word in n of N texts: "the" is worth nothing, a word that no
        text has most. A score of BM25 grows with the query's length, this does not.
        """
        n_texts, wanted = len(self._tokens), set(words(query))
        weights = {w: math.log1p((n_texts - self._n_texts[w] + 0.5) / (self._n_texts[w] + 0.5)) for w in wanted}
        held = sum(weight for word, weight in weights.items() if word in self._tokens[item])
        return held / sum(weights.values()) if weights else 0.0
