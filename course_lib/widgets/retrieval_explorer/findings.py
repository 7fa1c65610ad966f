"""What a query finds: two rankings, their fusion, and the chunk that is open with the query's words marked in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from course_lib.applications.answers import confidence
from course_lib.applications.retrieval import Chunk, Fusion, Search, asked, fuse, open_chunk, words
from course_lib.applications.retrieval.search import DEPTH
from course_lib.tasks.passages import Question, holds

__all__ = ["Rankings", "lines_of", "rank"]

_SHOWN = 10  # chunks of each ranking
_LINE = re.compile(r" *(\d+) ?([ │]?) ?(.*)")  # as `open_chunk` writes it
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # whether it is one of the query is for `retrieval.words` to say
_LONGEST = 120  # characters of a chunk's beginning


@dataclass(frozen=True)
class Rankings:
    """What `query` finds: the chunks' numbers, best first, by words and by meaning, with their scores.

    Also the query's `vector` (d_model,), the `confidence` that it has an answer, and, if it is a known `question`, the numbers
    of the chunks that hold its answer: `right`.
    """

    query: str
    words: tuple[list[int], list[float]]
    meaning: tuple[list[int], list[float]]
    vector: Tensor
    confidence: float
    question: Question | None
    right: list[int]

    def seen(self, chunks: Sequence[Chunk], fusion: Fusion) -> dict:
        """Return the first _SHOWN of both and of their fusion, and of each chunk in them its ranks and what they add up to.

        `lists` are by words, by meaning and fused: [number, score] each. A chunk's `ranks`, counted from 1, are in the same
        order, None where a ranking does not hold it; its `parts` are what its first two ranks contribute to the fused score.
        `fused` is that whole ranking, and `right` what is known of a known question, with the best rank of a right chunk.
        """
        by_words, by_meaning = self.words[0], self.meaning[0]
        fused = fuse([by_words, by_meaning], fusion.k, [fusion.words, fusion.meaning])
        lists = [[list(row) for row in zip(*found, strict=True)][:_SHOWN] for found in (self.words, self.meaning)]
        lists.append([list(row) for row in fused.items()][:_SHOWN])
        ranks = [_ranks_in(ranking) for ranking in (by_words, by_meaning, list(fused))]
        found = {}
        for item in dict.fromkeys(item for rows in lists for item, _ in rows):
            own = [known.get(item) for known in ranks]
            parts = [
                weight / (fusion.k + rank) if rank else None
                for rank, weight in zip(own, (fusion.words, fusion.meaning), strict=False)
            ]
            begins = " ".join(chunks[item].text[: 2 * _LONGEST].split())[:_LONGEST]
            found[str(item)] = {"begins": begins, "ranks": own, "parts": parts}
        return {"lists": lists, "found": found, "fused": list(fused), "right": self._right(ranks)}

    def _right(self, ranks: Sequence[dict[int, int]]) -> dict | None:
        if self.question is None:
            return None
        best = [min(filter(None, map(known.get, self.right)), default=None) for known in ranks]
        answer, lines = self.question.answers[0], list(self.question.lines)
        return {"items": self.right, "ranks": best, "lines": lines, "answer": answer}


def _ranks_in(ranking: Sequence[int]) -> dict[int, int]:
    """Return the rank of each item of `ranking`, counted from 1."""
    return {item: rank for rank, item in enumerate(ranking, 1)}


def rank(search: Search, query: str, question: Question | None = None) -> Rankings:
    """Return what `search` finds for `query`, the text of `question` if that is known. ValueError if it is empty."""
    vector = search.encoder([asked(query)])[0]
    return Rankings(
        query,
        search.words.nearest(query, DEPTH),
        search.meanings.nearest(vector, DEPTH),
        vector,
        confidence(search, query),
        question,
        _right_chunks(search.chunks, question) if question else [],
    )


def _right_chunks(chunks: Sequence[Chunk], question: Question) -> list[int]:
    """Return the numbers of the chunks that hold the answer's lines; none if they lie in two chunks, or in none."""
    return [i for i, chunk in enumerate(chunks) if chunk.work == question.work and holds(question, chunk.text)]


def lines_of(chunk: Chunk, text: str | None, query: str) -> dict:
    """Return the lines in which `chunk` stands in `text`, its whole work, with the words of `query` marked.

    A line is its number, whether it is the chunk's own, and [text, marked] pieces. Without the text, or with one that has
    changed since, the chunk's own lines are all there is, without numbers, and `note` says why.
    """
    wanted = set(words(query))
    try:
        if text is None:
            raise ValueError("The work's text was not given: these are the chunk's own lines.")
        matches = [_LINE.fullmatch(line).groups() for line in open_chunk(chunk, text).split("\n")]
        lines = [[int(number), mark == "│", _pieces(line, wanted)] for number, mark, line in matches]
    except ValueError as error:
        own = [[None, True, _pieces(line, wanted)] for line in chunk.text.split("\n")]
        return {"lines": own, "note": str(error)}
    return {"lines": lines, "note": ""}


def _pieces(line: str, wanted: set[str]) -> list[list]:
    """Return `line` as [text, whether it is a word of the query]."""
    pieces, end = [], 0
    for word in _WORD.finditer(line):
        if not wanted.intersection(words(word[0])):
            continue
        pieces += [[line[end : word.start()], False], [word[0], True]]
        end = word.end()
    return [piece for piece in [*pieces, [line[end:], False]] if piece[0]]
