"""Texts and their chunks, which know where they stand, so that they can be opened.

Texts are `plays()`, the modern edition, or `lessons(folder)`, what stands between the cells of code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from course_lib.checks import check, read_json
from course_lib.corpora import shakespeare

__all__ = ["Chunk", "cut", "cut_all", "lessons", "open_chunk", "plays"]


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
