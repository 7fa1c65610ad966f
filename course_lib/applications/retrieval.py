"""Passages for a question: chunks of texts, found by their words, by their meaning, or by both.

    cut()               a text into chunks that know where they stand, so that they can be opened
    SentenceEncoder     a text as a vector of length 1; close vectors, close meanings
    VectorIndex         the vectors nearest to one: all compared, or along a graph
    WordIndex           BM25: rare words that a chunk has in common with the question
    fuse()              one ranking of several
    Search              all of them together

Texts are `plays()`, the modern edition, or `lessons(folder)`, what stands between the cells of code.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import bm25s
import numpy as np
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from course_lib import assets, checkpoints, storage
from course_lib.architecture.attention import padding_mask
from course_lib.checks import check, check_fields, check_texts, read_json
from course_lib.corpora import shakespeare

__all__ = [
    "Chunk", "Fusion", "Hit", "Plane", "Search", "SentenceEncoder", "VectorIndex", "WordIndex", "asked", "chunk_vectors",
    "cut", "cut_all", "fuse", "lessons", "open_chunk", "plays", "vectors_folder", "words",
]  # fmt: skip

_MINILM = "all-minilm-l6-v2"
_LONGEST = 256  # tokens that the encoder reads of a text: it was trained on no more
_AT_ONCE = 2048  # tokens in a batch, padding too
_DEPTH = 100  # of the rankings that are fused
_VECTORS = "vectors.safetensors"
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


# ---------------------------------------------------------------- texts and their chunks


@dataclass(frozen=True)
class Chunk:
    """A piece of the text called `work`: its lines without white space at their ends, and without empty ones.

    `first` and `last` are the numbers of its first and last line in the text, counted from 1.
    """

    work: str
    first: int
    last: int
    text: str

    @property
    def place(self) -> str:
        """Where it stands, as a citation says it."""
        return f"{self.work}, lines {self.first}–{self.last}"


def plays() -> dict[str, str]:
    """Return all works of Shakespeare in modern spelling, poems too, by their names in `shakespeare.works()`."""
    return {work.name: work.text for work in shakespeare.works() if work.edition == "modern"}


def lessons(folder: str | Path) -> dict[str, str]:
    """Return the Markdown of each notebook in `folder` by the file's name without its ending; cells are an empty line apart.

    ValueError if there is no notebook, or one cannot be read.
    """
    paths = sorted(Path(folder).glob("[!.]*.ipynb"))
    if not paths:
        raise ValueError(f"{folder} holds no notebook (*.ipynb)")
    return {path.stem: _markdown(path) for path in paths}


def _markdown(path: Path) -> str:
    try:
        cells = read_json(path)["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no notebook, or is damaged: {error!r}") from None


def cut(work: str, text: str, n_lines: int = 12, overlap: int = 0, n_words: int = 200) -> list[Chunk]:
    """Return `text` in chunks of `n_lines` lines, empty ones not counted; the last may be shorter.

    A chunk ends earlier where it would have more than `n_words` words: a line of a lesson is a whole paragraph. One line that
    is longer is a chunk by itself. Each chunk begins with the last `overlap` lines of the one before.
    """
    check("text", text, str)
    check("n_lines", n_lines)
    check("overlap", overlap, at_least=0, at_most=n_lines - 1)
    check("n_words", n_words)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    chunks, start, end = [], 0, 0
    while end < len(lines):
        end, length = start + 1, len(lines[start][1].split())
        while end < min(start + n_lines, len(lines)) and (length := length + len(lines[end][1].split())) <= n_words:
            end += 1
        part = lines[start:end]
        chunks.append(Chunk(work, part[0][0], part[-1][0], "\n".join(line for _, line in part)))
        start = max(end - overlap, start + 1)
    return chunks


def cut_all(texts: Mapping[str, str], n_lines: int = 12, overlap: int = 0, n_words: int = 200) -> list[Chunk]:
    """Return the chunks of all `texts`, one text after the other, see `cut`."""
    return [chunk for work, text in texts.items() for chunk in cut(work, text, n_lines, overlap, n_words)]


def open_chunk(chunk: Chunk, text: str, margin: int = 6) -> str:
    """Return the lines of `text`, the whole work, in which `chunk` stands, numbered, and `margin` lines on either side.

    The chunk's own lines are marked by "│". ValueError if it does not stand there: the text has changed since.
    """
    check("margin", margin, at_least=0)
    lines = text.splitlines()
    own = [line.strip() for line in lines[chunk.first - 1 : chunk.last] if line.strip()]
    if "\n".join(own) != chunk.text:
        raise ValueError(
            f"this text holds something else in lines {chunk.first}–{chunk.last} than the chunk of {chunk.work}"
        )
    start, end = max(chunk.first - margin, 1), min(chunk.last + margin, len(lines))
    shown = ((n, "│" if chunk.first <= n <= chunk.last else " ", lines[n - 1]) for n in range(start, end + 1))
    return "\n".join(f"{number:>6} {mark} {line}".rstrip() for number, mark, line in shown)


# ---------------------------------------------------------------- by meaning


class SentenceEncoder:
    """all-MiniLM-L6-v2 as `sentence-transformers` uses it (Reimers and Gurevych, arXiv 1908.10084).

    A text's vector is the mean of the encoder's vectors of its tokens, [CLS] and [SEP] too, brought to length 1. Of a longer
    text only the first 256 tokens are read.
    """

    def __init__(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        self.model = checkpoints.load_encoder(_MINILM, device, dtype)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(assets.fetch(_MINILM) / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(_LONGEST)

    @property
    def recipe(self) -> list[str | int]:
        """What vectors depend on besides the text, as JSON can hold it."""
        weight = self.model.embedding.weight
        return [assets.ASSETS[_MINILM].sha256, _LONGEST, str(weight.dtype), weight.device.type]

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the vectors (text, d_model) of `texts`, float32 on the CPU. FloatingPointError if the model's are NaN.

        Texts of about the same length are read together, so that little is padding.
        """
        check_texts("texts", texts)
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        vectors = torch.zeros(len(ids), self.model.config.d_model)
        for rows in _batches([len(row) for row in ids]):
            vectors[rows] = self._read([ids[row] for row in rows]).float().cpu()
        if not vectors.isfinite().all():
            raise FloatingPointError("the encoder's vectors are no numbers")
        return torch.nn.functional.normalize(vectors, dim=-1)

    def _read(self, ids: list[list[int]]) -> Tensor:
        """Return the mean vector (row, d_model) of each row of `ids`."""
        device, longest = self.model.embedding.weight.device, max(map(len, ids))
        lengths = torch.tensor([len(row) for row in ids], device=device)
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=device)
        mask = padding_mask(lengths, longest)
        stream = self.model(padded, mask if lengths.min() < longest else None)
        return (stream * mask[:, 0, 0, :, None]).sum(dim=1) / lengths[:, None]


def _batches(lengths: list[int]) -> Iterable[list[int]]:
    """Yield the indices of `lengths`, shortest first, as many at once as make _AT_ONCE tokens when padded."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > _AT_ONCE:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def chunk_vectors(chunks: Sequence[Chunk], encoder: SentenceEncoder) -> Tensor:
    """Return the vectors (chunk, d_model) of `chunks`, float32, each work's from the cache, or made and kept there.

    All plays take minutes. Who is interrupted goes on at the work that was being read, and some of the works are no loss when
    all are wanted. A damaged file is made anew. ValueError if there are no chunks.
    """
    if not chunks:
        raise ValueError("there are no chunks")
    works = [list(part) for _, part in groupby(chunks, key=lambda chunk: chunk.work)]
    missing = [work for work in works if _kept(work, encoder) is None]
    for work in tqdm(missing, desc="vectors", unit="work", leave=False, disable=not missing):
        storage.keep(
            vectors_folder(work, encoder),
            lambda folder, work=work: _write(folder, encoder([chunk.text for chunk in work])),
            lambda folder, work=work: _read(folder, len(work)),
            room=8 * len(work) * encoder.model.config.d_model,
        )
    return torch.cat([_read(vectors_folder(work, encoder), len(work)) for work in works])


def vectors_folder(work: Sequence[Chunk], encoder: SentenceEncoder) -> Path:
    """Return the folder in the cache for the vectors of a work's chunks; other chunks, or another encoder, have another."""
    digest = hashlib.sha256(json.dumps([chunk.text for chunk in work]).encode()).hexdigest()
    name = re.sub(r"\W+", "-", work[0].work)  # which may be any text, and shall not lead out of the cache
    return storage.run_dir(f"vectors/{name}", [encoder.recipe, digest])


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


# ---------------------------------------------------------------- by words


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


# ---------------------------------------------------------------- both


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
        """Index `chunks`; their vectors come from the cache, see `chunk_vectors`. ValueError if there are none."""
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
            self.words.nearest(asked(query), _DEPTH)[0],
            self.meanings.nearest(self.encoder([query])[0], _DEPTH)[0],
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


# ---------------------------------------------------------------- a map


class Plane:
    """The plane in which `vectors` (item, d_model) differ most: a map of them, by principal components.

    `points` (item, 2) are the vectors on it; `share` of the variance is seen there, for sentences little: what lies together on
    the map may be far apart. Others, such as a question's, are put on it by a call.
    """

    def __init__(self, vectors: Tensor):
        """Find the plane. ValueError for fewer than 3 vectors, one that is not finite, or none that differs from another."""
        if vectors.ndim != 2 or min(vectors.shape) < 2 or len(vectors) < 3 or not vectors.isfinite().all():
            raise ValueError(f"a map needs vectors (item, d_model), at least 3, all finite, not {tuple(vectors.shape)}")
        self._centre = vectors.double().mean(dim=0)
        away = vectors.double() - self._centre
        if not away.any():
            raise ValueError("the vectors are all alike: there is nothing to see on a map")
        variances, axes = torch.linalg.eigh(away.T @ away)  # in ascending order
        axes = axes[:, -2:].flip(1)
        largest = axes.abs().argmax(dim=0)
        self._axes = axes * axes[largest, [0, 1]].sign()  # else each machine has its own left and right
        self.points, self.share = self(vectors), (variances[-2:].sum() / variances.sum()).item()

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return the points (…, 2) of `vectors` (…, d_model), float32."""
        return ((vectors.double() - self._centre) @ self._axes).float()
