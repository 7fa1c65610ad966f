"""Which texts are fit to learn from: rules that judge a text from itself alone, by what is easy to count in it."""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

__all__ = ["QUALITY_RULES", "Rule", "measure_quality", "quality_failures"]


class _Document:
    """A text and what the rules count in it."""

    def __init__(self, text: str):
        self.text = text
        self.words = text.split()
        self.lines = [line.strip() for line in text.splitlines() if line.strip()]
        self.paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]

    @cached_property
    def n_characters(self) -> int:
        """Characters of the words, without the white space between them."""
        return sum(map(len, self.words))


def _share(things: list[str], fits: Callable[[str], object]) -> float:
    return sum(map(bool, map(fits, things))) / max(len(things), 1)


def _mean_word_length(document: _Document) -> float:
    return document.n_characters / max(len(document.words), 1)


def _symbols(document: _Document) -> float:
    n_symbols = max(document.text.count("#"), document.text.count("...") + document.text.count("…"))
    return n_symbols / max(len(document.words), 1)


def _stop_words(document: _Document) -> int:
    return len(_STOP_WORDS & {word.strip(".,;:!?'\"()[]").lower() for word in document.words})


def _repeated(parts: list[str]) -> float:
    return 1 - len(set(parts)) / max(len(parts), 1)


def _repeated_characters(parts: list[str]) -> float:
    return 1 - sum(map(len, set(parts))) / max(sum(map(len, parts)), 1)


def _top_ngram(document: _Document, n: int) -> float:
    """Share of the characters that lie in the `n` words that stand together most often, at least twice."""
    counts = Counter(zip(*(document.words[i:] for i in range(n)), strict=False))
    ngram, count = max(counts.items(), key=lambda item: item[1], default=((), 0))
    return sum(map(len, ngram)) * count / document.n_characters if count > 1 else 0.0


def _repeated_ngrams(document: _Document, n: int) -> float:
    """Share of the characters that lie in `n` words that stood together before; each character counts once."""
    seen, lengths, repeated, counted = set(), [len(word) for word in document.words], 0, 0
    for i, ngram in enumerate(zip(*(document.words[i:] for i in range(n)), strict=False)):
        if ngram in seen:
            repeated += sum(lengths[max(i, counted) : i + n])
            counted = i + n
        seen.add(ngram)
    return repeated / max(document.n_characters, 1)


def _sentences(document: _Document) -> int:
    return len(re.findall(r"[.!?]+[\"'”’)\]]*(?=\s|$)", document.text))


_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
_BULLETS = ("•", "‣", "◦", "●", "▪", "-", "*")
_GOPHER, _REPETITION = "arXiv 2112.11446, appendix A.1.1", "arXiv 2112.11446, table A1"
_C4 = "arXiv 1910.10683, section 2.2"


@dataclass(frozen=True)
class Rule:
    """A text passes if what `measure` counts in it is no less than `lowest` and no more than `highest`."""

    name: str
    source: str
    measure: Callable[[_Document], float]
    lowest: float = -math.inf
    highest: float = math.inf


QUALITY_RULES = (
    Rule("number of words", _GOPHER, lambda d: len(d.words), 50, 100_000),
    Rule("mean length of a word", _GOPHER, _mean_word_length, 3, 10),
    Rule("hashes or ellipses per word", _GOPHER, _symbols, highest=0.1),
    Rule(
        "lines that begin with a bullet",
        _GOPHER,
        lambda d: _share(d.lines, lambda s: s.startswith(_BULLETS)),
        highest=0.9,
    ),
    Rule(
        "lines that end in an ellipsis",
        _GOPHER,
        lambda d: _share(d.lines, lambda s: s.endswith(("...", "…"))),
        highest=0.3,
    ),
    Rule("words with a letter", _GOPHER, lambda d: _share(d.words, lambda s: re.search(r"[^\W\d_]", s)), lowest=0.8),
    Rule("different English stop words", _GOPHER, _stop_words, lowest=2),
    Rule("repeated lines", _REPETITION, lambda d: _repeated(d.lines), highest=0.3),
    Rule("repeated paragraphs", _REPETITION, lambda d: _repeated(d.paragraphs), highest=0.3),
    Rule("characters in repeated lines", _REPETITION, lambda d: _repeated_characters(d.lines), highest=0.2),
    Rule("characters in repeated paragraphs", _REPETITION, lambda d: _repeated_characters(d.paragraphs), highest=0.2),
    *(
        Rule(f"characters in the commonest {n} words in a row", _REPETITION, partial(_top_ngram, n=n), highest=limit)
        for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16))
    ),
    *(
        Rule(f"characters in repeated runs of {n} words", _REPETITION, partial(_repeated_ngrams, n=n), highest=limit)
        for n, limit in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    ),
    Rule("sentences", _C4, _sentences, lowest=5),
    Rule("curly brackets", _C4, lambda d: d.text.count("{") + d.text.count("}"), highest=0),
    Rule("“lorem ipsum”", _C4, lambda d: d.text.lower().count("lorem ipsum"), highest=0),
)
"""The rules by which Gopher's corpus and C4 chose whole pages of English out of the web. (C4 also cuts single lines.)"""


def measure_quality(text: str) -> dict[str, float]:
    """Return what each of the QUALITY_RULES, by name, counts in `text`."""
    document = _Document(text)
    return {rule.name: rule.measure(document) for rule in QUALITY_RULES}


def quality_failures(text: str) -> list[str]:
    """Return the names of the QUALITY_RULES that `text` breaks, none if it is fit. They judge English prose from the web."""
    found = measure_quality(text)
    return [rule.name for rule in QUALITY_RULES if not rule.lowest <= found[rule.name] <= rule.highest]
