"""Gather the terms that the lessons define into `notebooks/glossary.md`: part of `make notebooks`.

A term is bold where it is defined, once in the course: `A **policy** is …`. Its entry is the sentence around it, so that
sentence has to say by itself what the term means. Nothing else in a lesson is bold but run-in heads, which open a
paragraph or a list item and end in a stop (`**Objectives.**`), the "You can now" of a summary, and the first cell of a row.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import nbformat
from store_notebooks import LESSONS, NOTEBOOKS

GLOSSARY = NOTEBOOKS / "glossary.md"
HEADER = """# Glossary

Each term with the sentence that defines it, and the place where it stands. `make notebooks` writes this file.

"""
SAFE = "?!'():;,/&+@$*~"
NO_PROSE = re.compile(r"`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL)
BOLD = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
HEAD = re.compile(r".*[.:?!]|You can now")
ITEM = re.compile(r"[-*] |\d+\. ")
BEGINS_A_BLOCK = re.compile(rf"#+ |\||$|{ITEM.pattern}")
END = re.compile(r"""(?<!et al)(?<!\be\.g)(?<!\bi\.e)[.?!][)"'*]*\s+(?=["'(*]*[A-Z0-9]|\*+\w)""")


@dataclass(frozen=True)
class Term:
    """A term, the sentence that defines it, and where: the lesson, the cell, and the nearest heading above."""

    name: str
    sentence: str
    path: Path
    cell: int
    heading: str

    @property
    def entry(self) -> str:
        """The term as it stands in the glossary, with a link that JupyterLab follows.

        There the anchor of a heading is its text with hyphens for spaces. It is compared as it stands in the address, where
        browsers write some signs otherwise (·, √, braces): such headings are found by their cell.
        """
        anchor = self.heading.replace(" ", "-")
        if quote(anchor, safe=SAFE) != anchor:
            anchor = f"cell-id=cell-{self.cell:03}"
        section = re.sub(r"^\d+(?:\.| ·) ", "", self.heading)
        name = re.sub(r"^[a-z]{2,}(?![\w@])", lambda word: word[0].capitalize(), self.name)  # not p-value, pass@k
        return f"- **{name}**: {self.sentence} [{self.path.stem[:2]} · {section}]({self.path.name}#{anchor})\n"


def blocks(markdown: str) -> Iterator[str]:
    """Yield headings, paragraphs, list items and the rows of tables, quoted or not, each as one text."""
    block: list[str] = []
    for line in [*(line.strip().removeprefix(">").strip() for line in markdown.splitlines()), ""]:
        if block and (BEGINS_A_BLOCK.match(line) or block[0].startswith("#")):
            yield " ".join(block)
            block.clear()
        if line:
            block.append(line)


def definitions(block: str) -> Iterator[tuple[str, str]]:
    """Yield the terms that a block marks, each with its sentence."""
    if block.startswith("#"):
        return
    if block.startswith("|"):
        for cell in block.split("|")[2:]:
            yield from definitions(cell.strip())
        return
    text = ITEM.sub("", block, count=1) if ITEM.match(block) else block
    prose = NO_PROSE.sub(lambda match: "X" * len(match[0]), text)
    edges = [0, *(match.end() for match in END.finditer(prose)), len(text)]
    for mark in BOLD.finditer(prose):
        if mark.start() in edges and HEAD.fullmatch(mark[1]):
            continue
        start = max(edge for edge in edges if edge <= mark.start())
        stop = min(edge for edge in edges if edge > mark.start())
        yield text[slice(*mark.span(1))], plain(text[start:stop])


def plain(sentence: str) -> str:
    """Return a sentence without marks of terms, without brackets around it, and with a full stop at its end."""
    sentence = BOLD.sub(r"\1", sentence.strip())
    if sentence.startswith("(") and sentence.endswith(")"):
        sentence = sentence[1:-1]
    sentence = re.sub(r"[:;,]$", ".", sentence)
    return sentence if sentence.endswith((".", "?", "!", '."', ".)")) else f"{sentence}."


def terms() -> list[Term]:
    """Return all marked terms in the order of the course."""
    found, heading = [], ""
    for path in LESSONS:
        for index, cell in enumerate(nbformat.read(path, as_version=4).cells):
            for block in blocks(cell.source) if cell.cell_type == "markdown" else ():
                if block.startswith("#"):
                    heading = block.lstrip("#").strip()
                found += [Term(name, sentence, path, index, heading) for name, sentence in definitions(block)]
    return found


def singular(name: str) -> str:
    """Return the term in lower case and, as far as its ending tells, in the singular."""
    name = name.casefold()
    if name.endswith("ies"):
        return f"{name[:-3]}y"
    # not "loss", "bias", "analysis", "corpus"
    return name[:-1] if re.search(r"[^suia]s$", name) else name


def glossary() -> str:
    """Return the text of the glossary; a term that is marked twice has the first place."""
    first = {singular(term.name): term for term in reversed(terms())}
    return HEADER + "".join(first[name].entry for name in sorted(first))


if __name__ == "__main__":
    GLOSSARY.write_text(glossary(), encoding="utf-8")
