"""Make the vectors of all plays that come with the course anew: `python -m course_lib.applications.retrieval`.

MiniLM reads all works for some six minutes of one thread, unless the cache has their exact vectors. The same texts and the same
encoder give the same file, but for numbers that a processor rounds to the other side of a level.
"""

import torch

from course_lib.applications.retrieval.chunks import cut_all, plays
from course_lib.applications.retrieval.encoder import SentenceEncoder
from course_lib.applications.retrieval.packed import write_packed
from course_lib.applications.retrieval.vectors import by_work, chunk_vectors


def main() -> None:
    """Write the file, and print what it holds."""
    encoder = SentenceEncoder(dtype=torch.float32)
    works = by_work(cut_all(plays()))
    path = write_packed(works, [chunk_vectors(work, encoder, exact=True) for work in works], encoder)
    print(f"{sum(map(len, works))} chunks of {len(works)} works, {path.stat().st_size / 1e6:.2f} MB: {path}")


if __name__ == "__main__":
    main()
