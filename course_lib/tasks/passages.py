"""Questions on the plays, each with the line that answers it: what retrieval, and answers from it, are measured on.

    Which fruit, grown by the prelate, does the tyrant request?      I saw good strawberries in your garden there:

More than half of the questions share no content word with their passage (`shared_words` is the rule): an index of words finds
those only by chance, one of meanings may find them. The text is that of the modern edition. How the questions were made, and
what they are not fit for, stands in `data/README.md`.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from course_lib.checks import check, read_json_lines
from course_lib.corpora.shakespeare import Work, fold_spelling

__all__ = [
    "Question", "holds", "is_right", "names_someone", "passage", "questions", "shared_words", "unanswerable",
]  # fmt: skip

# Lines on either side of the answer that belong to its passage: all that can stand in one chunk of twelve lines with it.
_MARGIN = 11
_DATA = Path(__file__).with_name("data") / "passages.jsonl"
_MOST_WORDS = 15  # of an answer that is right: whoever repeats the passage has not answered
_LITTLE_WORDS = """
    a about above after again against all along also although am among an and another any anybody anyone anything are
    art as at away be became because become been before behind being below beneath beside besides between beyond both
    but by can cannot canst could did didst do does done dost doth down during each either else enough ever every
    everyone everything few for from had hadst has hast hath have having he hence her here hers herself him himself his
    how however i if in into is it its itself just least less like many may me mine might mightst more most much must my
    myself near neither never no nobody none nor not nothing now o of off often on once only or other others our ours
    ourselves out over own per perhaps quite rather same shall shalt she should shouldst since so some somebody someone
    something still such than that the thee their theirs them themselves then thence there therefore these they thine
    this those thou though through throughout thus thy thyself till to together too toward towards under until unto up
    upon us very was wast we well were wert what whatever when whence where wherefore whether which while whilst whither
    who whoever whom whose why will wilt with within without would wouldst ye yea yes yet you your yours yourself
    yourselves
"""
_FUNCTION_WORDS = frozenset(_LITTLE_WORDS.split())
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
_ENDING = re.compile(r"(?<=\w{3})(?:'s|'d|e[drs]|e?st|eth|ing|li|nes|s|e)$")  # of a word whose spelling is folded
_SHORTEST = 4  # letters of a stem that another one may begin with: "marri" and "marriage", but not "her" and "hermit"
_ARTICLES = frozenset(("a", "an", "the"))


@dataclass(frozen=True)
class Question:
    """A question in today's English, and the place that answers it.

    `work` is the name of a modern work in `shakespeare.works()`; `lines` are the lines of it, one or two that follow each
    other, in which the answer stands. `answers` are short, the plainest first, all equally right. `shares_words` says whether
    a content word of the question stands in the passage, too.
    """

    text: str
    work: str
    lines: tuple[str, ...]
    answers: tuple[str, ...]
    shares_words: bool


def questions() -> tuple[Question, ...]:
    """Return the questions that a play answers, play by play. Raises ValueError that says where if the file is damaged."""
    return _read(_DATA)[0]


def unanswerable() -> tuple[str, ...]:
    """Return questions that no play answers, though they sound as if one might: a good system refuses them.

    They are as long as those that a play answers. Those that name someone (`names_someone`) are as long as the questions that
    share words with their passage, the others as long as those that share none.
    """
    return _read(_DATA)[1]


def names_someone(question: str) -> bool:
    """Return whether `question` has a word with a capital letter behind its first one: a person, a place, a nation."""
    return any(word[0].isupper() for word in question.split()[1:])


def passage(question: Question, work: Work) -> str:
    """Return the answer's lines and the 11 lines before and after them, speakers' names too, empty lines left out.

    ValueError if the lines do not stand in `work` exactly once.
    """
    lines = [line.strip() for line in work.text.splitlines() if line.strip()]
    length = len(question.lines)
    starts = [i for i in range(len(lines)) if tuple(lines[i : i + length]) == question.lines]
    if len(starts) != 1:
        raise ValueError(f"{work.name} ({work.edition}) holds {question.lines} {len(starts)} times, not once")
    return "\n".join(lines[max(starts[0] - _MARGIN, 0) : starts[0] + length + _MARGIN])


def holds(question: Question, chunk: str) -> bool:
    """Return whether all lines of the answer stand in `chunk`, one after the other, however it breaks its lines."""
    return f" {' '.join(question.lines)} " in f" {' '.join(chunk.split())} "


def shared_words(question: str, passage: str) -> set[str]:
    """Return the stems of the content words in `question` that stand in `passage`, too, in the spelling of 1623 or ours.

    Content words are those of two letters and more that are not in a list of pronouns, auxiliaries, prepositions and the
    like. A stem is a word in folded spelling without its endings. Two are the same word if they are equal, or if one has at
    least four letters and the other begins with it: some are found equal that are not ("king", "kingdom"), and "slay" is not
    found in "slew".
    """
    theirs = _stems(passage)
    return {stem for stem in _stems(question) if any(_alike(stem, other) for other in theirs)}


def is_right(question: Question, answer: str) -> bool:
    """Return whether `answer` is short, at most 15 words, and one of `question.answers` stands in it as whole words.

    Case, punctuation, hyphens and articles do not count: "It was a Looking-Glass!" has "looking glass" in it. What else is
    said does not count either: "not Yorick" is as right as "Yorick". ValueError if `answer` is no string.
    """
    check("answer", answer, str)
    words = _plain(answer)
    if len(words) > _MOST_WORDS:
        return False
    return any(f" {' '.join(_plain(right))} " in f" {' '.join(words)} " for right in question.answers)


def _plain(text: str) -> list[str]:
    letters = re.sub(r"['’]", "", text.lower())
    return [word for word in re.findall(r"[^\W_]+", letters) if word not in _ARTICLES]


def _stems(text: str) -> set[str]:
    words = _WORD.findall(text.lower().replace("’", "'"))
    return {_stem(word) for word in words if len(word) > 1 and word not in _FUNCTION_WORDS}


def _stem(word: str) -> str:
    stem = fold_spelling(word)
    while (shorter := _ENDING.sub("", stem)) != stem:
        stem = shorter
    return stem


def _alike(first: str, second: str) -> bool:
    short, long = sorted((first, second), key=len)
    return short == long or (len(short) >= _SHORTEST and long.startswith(short))


@cache
def _read(path: Path) -> tuple[tuple[Question, ...], tuple[str, ...]]:
    """Return the questions in a file that have an answer, and the texts of those that have none."""
    rows = read_json_lines(path, _row)
    answered = tuple(row for row in rows if isinstance(row, Question))
    unanswered = tuple(row for row in rows if isinstance(row, str))
    if len({*(question.text for question in answered), *unanswered}) < len(rows):
        raise ValueError(f"{path} is damaged: a question stands in it twice")
    return answered, unanswered


def _row(**row: Any) -> Question | str:
    if set(row) == {"text"} and _is_text(row["text"]):
        return row["text"]
    return _question(row)


def _question(row: dict[str, Any]) -> Question:
    fields = Question.__dataclass_fields__
    if set(row) != set(fields):
        raise ValueError(f"a question has the fields {', '.join(fields)}, or text alone")
    lists = row["lines"], row["answers"]
    if not all(isinstance(texts, list) and texts and all(map(_is_text, texts)) for texts in lists):
        raise ValueError("lines and answers must be lists of texts that are not empty")
    if not (_is_text(row["text"]) and _is_text(row["work"]) and isinstance(row["shares_words"], bool)):
        raise ValueError("text and work must be texts that are not empty, and shares_words true or false")
    return Question(row["text"], row["work"], tuple(row["lines"]), tuple(row["answers"]), row["shares_words"])


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
