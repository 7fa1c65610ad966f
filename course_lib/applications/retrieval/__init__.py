"""Passages for a question: chunks of texts, found by their words, by their meaning, or by both.

Read in this order:

- `chunks`: a text cut into pieces that know where they stand, so that they can be opened
- `encoder`: a text as a vector of length 1; close vectors, close meanings
- `packed`: the vectors of all plays, which come with the course at two bits a number
- `vectors`: the vectors of any chunks: those, or made and kept in the cache
- `indexes`: the vectors nearest to one; and BM25: rare words that a chunk has in common with the question
- `search`: one ranking of several, and all of them together
- `plane`: a map of the vectors

`python -m course_lib.applications.retrieval`, in `__main__`, makes the vectors that come with the course anew.
"""

from course_lib.applications.retrieval.chunks import Chunk, cut, cut_all, lessons, open_chunk, plays
from course_lib.applications.retrieval.encoder import SentenceEncoder
from course_lib.applications.retrieval.indexes import VectorIndex, WordIndex, words
from course_lib.applications.retrieval.plane import Plane
from course_lib.applications.retrieval.search import Fusion, Hit, Search, asked, fuse
from course_lib.applications.retrieval.vectors import chunk_vectors

__all__ = [
    "Chunk", "Fusion", "Hit", "Plane", "Search", "SentenceEncoder", "VectorIndex", "WordIndex", "asked", "chunk_vectors",
    "cut", "cut_all", "fuse", "lessons", "open_chunk", "plays", "words",
]  # fmt: skip
