"""Terms: each is defined once, before it is used, and stands in the glossary."""

import ast
import io
import re
import tokenize
from collections import Counter

import nbformat
import pytest
from glossary import GLOSSARY, NO_PROSE, Term, blocks, definitions, glossary, singular, terms
from store_notebooks import LESSONS

# Terms that are everyday words as well, or words of another trade ("turn the page", "the rank of a token"). Only a reader can
# tell the senses apart, so it is not checked where these are used before their definition.
EVERYDAY = {"advantage", "block", "merged", "precision", "rank", "recall", "turn"}

LINK = re.compile(r"\]\([^)]*\)")


def pattern_of(name: str) -> re.Pattern[str]:
    """Match a term as whole words, in the singular and the plural, in either case, hyphened or not."""
    words = [re.escape(word) for word in re.split(r"[\s-]+", singular(name))]
    last = words.pop()
    last = rf"(?:{last}(?:e?s)?|{last[:-1]}ies)" if last.endswith("y") else rf"{last}(?:e?s)?"
    term = r"[\s-]+".join([*words, last])
    return re.compile(rf"(?<!\w){term}(?!\w)", re.IGNORECASE)


def prose_of(cell: nbformat.NotebookNode) -> str:
    """Return what a learner reads as text in a cell: markdown, or comments, docstrings and questions to predict.

    Left out: the cell of the objectives, which names what the lesson is about; headings, which name what is defined below;
    what is code or a formula; addresses; and the titles of the sources.
    """
    if cell.cell_type == "markdown":
        if "**Objectives.**" in cell.source:
            return ""
        text = re.sub(r"^## Sources$.*", "", cell.source, flags=re.MULTILINE | re.DOTALL)
        return LINK.sub("]", NO_PROSE.sub(" ", "\n".join(b for b in blocks(text) if not b.startswith("#"))))
    tokens = tokenize.generate_tokens(io.StringIO(cell.source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    nodes = list(ast.walk(ast.parse(cell.source)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    questions = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "Predict"]
    asked = [part.value for node in questions for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return "\n".join([*comments, *(ast.get_docstring(node) or "" for node in functions), *map(str, asked)])


def early(course: list[Term]) -> list[str]:
    """Return where terms are used in an earlier cell or lesson than that which defines them."""
    found = []
    for path in LESSONS:
        for index, cell in enumerate(nbformat.read(path, as_version=4).cells):
            prose = prose_of(cell)
            for term in course:
                later = (term.path.stem, term.cell) > (path.stem, index)
                if later and singular(term.name) not in EVERYDAY and (use := pattern_of(term.name).search(prose)):
                    around = " ".join(prose[max(0, use.start() - 40) : use.end() + 40].split())
                    found.append(f"{path.stem}, cell {index}: {around!r} (defined in {term.path.stem}, {term.cell})")
    return found


@pytest.fixture(scope="module")
def course() -> list[Term]:
    return terms()


def test_the_glossary_is_what_the_lessons_define():
    assert GLOSSARY.read_text(encoding="utf-8") == glossary(), "run `make notebooks`, or tests/glossary.py alone"


def test_each_term_is_marked_once(course):
    marks = Counter(singular(term.name) for term in course)
    twice = {term.name: term.path.stem for term in course if marks[singular(term.name)] > 1}
    assert not twice


def test_no_term_is_used_before_its_definition(course):
    assert not early(course)


def test_what_is_not_checked_is_a_term(course):
    assert {singular(term.name) for term in course} >= EVERYDAY


def test_a_link_opens_the_heading_that_it_means(course):
    """Where two headings of a lesson have one text, a link opens the first."""
    for path in LESSONS:
        cells = nbformat.read(path, as_version=4).cells
        lines = [line for cell in cells if cell.cell_type == "markdown" for line in blocks(cell.source)]
        headings = Counter(line.lstrip("#").strip() for line in lines if line.startswith("#"))
        linked = {term.heading for term in course if term.path == path}
        assert not [heading for heading in linked if headings[heading] > 1]


@pytest.mark.parametrize(
    ("markdown", "found"),
    [
        ("It ends. A **policy** is a rule. So it is.", [("policy", "A policy is a rule.")]),
        (
            "**Over-fitting** is this (Li et al. 2020). More.",
            [("Over-fitting", "Over-fitting is this (Li et al. 2020).")],
        ),
        ("One. (A **nat** is 1.44 bits.) Two.", [("nat", "A nat is 1.44 bits.")]),
        ("- **query** $q. X$: what it *looks* for;", [("query", "query $q. X$: what it *looks* for.")]),
        ("It is `a.b`. $x$ is the **rank**. B.", [("rank", "$x$ is the rank.")]),
        ("The **key** and the **value**.", [("key", "The key and the value."), ("value", "The key and the value.")]),
        ("**Objectives.** You can. **Time.** 90 minutes.", []),
        ("> **Sitting 1 in brief.** A mask hides.", []),
        ("**You can now** read it.", []),
        ("`x**2`, and `y**2`", []),
        ("# A **bold** heading", []),
        ("| **pre-norm** | the norm is first |", []),
        ("| $W$ | a **projection** | x |", [("projection", "a projection.")]),
    ],
)
def test_what_marks_a_term(markdown, found):
    assert [term for block in blocks(markdown) for term in definitions(block)] == found


@pytest.mark.parametrize(
    ("name", "text", "used"),
    [
        ("policy", "two policies", True),
        ("baselines", "a Baseline", True),
        ("loss", "the losses", True),
        ("key/value cache", "the key/value caches", True),
        ("chat template", "the chat-template", True),
        ("pass@k", "pass@k is", True),
        ("logit", "logitech", False),
        ("nat", "natural", False),
    ],
)
def test_a_term_is_found_as_a_whole_word(name, text, used):
    assert bool(pattern_of(name).search(text)) == used


def test_blocks_are_paragraphs_items_and_rows():
    text = "# A\nb\nc\n\n- d\n  e\n- f\n1. g\n| h | i |\n|---|---|\n\n> j\n> k\n>\n> - l"
    found = ["# A", "b c", "- d e", "- f", "1. g", "| h | i |", "|---|---|", "j k", "- l"]
    assert list(blocks(text)) == found
