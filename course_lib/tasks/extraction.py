"""Sixty short texts, and what stands in them as a JSON object: what an application reads out of a notice, an order or a letter.

    Reminder: the book A Short History of Rope must be returned by 2031-04-17. We are open until six.
    {"title": "A Short History of Rope", "due": "2031-04-17"}

The texts are of nine kinds, and each kind has one JSON schema, so that what is compiled from it is used again. An answer is
scored for its form, whether it parses and fits the schema, and apart from that for its content, the share of right fields:
constrained decoding warrants the one, and may cost the other. What the set is not fit for is in data/README.md.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from os import PathLike
from types import MappingProxyType
from typing import Any

from course_lib.checks import check, check_fields, check_names, read_json_lines

__all__ = [
    "SCHEMAS", "ExtractionTask", "Score", "by_rules", "extraction_tasks", "first_object", "read_extraction_tasks", "request",
    "score",
]  # fmt: skip

_TEXT = {"type": "string", "maxLength": 40}
_TEXTS = {"type": "array", "items": _TEXT, "maxItems": 6}
_INTEGER, _NUMBER, _YES_OR_NO = {"type": "integer"}, {"type": "number"}, {"type": "boolean"}
_DATE = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DAY = {"type": "string", "pattern": f"^[1-9][0-9]? ({_MONTHS})$"}
_TIME = {"type": "string", "pattern": "^[0-9]{2}:[0-9]{2}$"}


def _one_of(*words: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(words)}


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


SCHEMAS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "library": _object(title=_TEXT, due=_DATE),
        "lost": _object(
            item=_TEXT, place=_TEXT, colour=_one_of("black", "blue", "green", "red", "white"), is_lost=_YES_OR_NO
        ),
        "weather": _object(
            place=_TEXT,
            sky=_one_of("sunny", "clouds", "fog", "rain", "snow"),
            high_celsius=_INTEGER,
            low_celsius=_INTEGER,
        ),
        "letter": _object(
            sender=_TEXT,
            recipient=_TEXT,
            purpose=_one_of("invitation", "thanks", "complaint", "apology"),
            wants_reply=_YES_OR_NO,
        ),
        "match": _object(winner=_TEXT, loser=_TEXT, winner_goals=_INTEGER, loser_goals=_INTEGER, extra_time=_YES_OR_NO),
        "playbill": _object(play=_TEXT, theatre=_TEXT, date=_DAY, time=_TIME, price=_NUMBER),
        "course": _object(
            title=_TEXT,
            teacher=_TEXT,
            room=_TEXT,
            weekday=_one_of("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
            places=_INTEGER,
        ),
        "recipe": _object(dish=_TEXT, serves=_INTEGER, minutes=_INTEGER, vegetarian=_YES_OR_NO, ingredients=_TEXTS),
        "order": _object(customer=_TEXT, articles=_TEXTS, date=_DATE, total=_NUMBER, is_gift=_YES_OR_NO),
    }
)
"""Kind of text -> the schema of what is read out of it: two to five fields, all required, and no others."""


@cache
def _validator(kind: str) -> Any:
    """Return jsonschema's validator of `SCHEMAS[kind]`."""
    from jsonschema import Draft202012Validator  # here, for it takes as long as PyTorch

    return Draft202012Validator(SCHEMAS[kind])


@dataclass(frozen=True)
class ExtractionTask:
    """A text of one of the kinds in `SCHEMAS`, and the object to be read out of it. ValueError unless it fits the schema."""

    kind: str
    text: str
    gold: dict[str, Any]

    def __post_init__(self) -> None:
        check_fields(self)
        check_names("kind of text", [self.kind], SCHEMAS)
        if error := next(_validator(self.kind).iter_errors(self.gold), None):
            raise ValueError(f"the gold object does not fit the schema of {self.kind}: {error.message}")

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the object: all tasks of a kind have the same."""
        return SCHEMAS[self.kind]


@cache
def extraction_tasks() -> tuple[ExtractionTask, ...]:
    """Return the sixty tasks, kind by kind."""
    with resources.as_file(resources.files("course_lib.tasks") / "data" / "extraction.jsonl") as path:
        return read_extraction_tasks(path)


def read_extraction_tasks(path: str | PathLike) -> tuple[ExtractionTask, ...]:
    """Return the tasks in a file with a task on each line. ValueError names the file, and the line that is none."""
    return tuple(read_json_lines(path, ExtractionTask))


def request(task: ExtractionTask) -> str:
    """Return what a chat model is asked: the text, and the names of the fields."""
    return f"{task.text}\n\nExtract {', '.join(task.schema['properties'])} as JSON."


_NAME = re.compile(r"(?<![.!?] )(?<!^)\b[A-Z][\w'’]*(?: (?:(?:of|the|and) )?[A-Z][\w'’]*)*")
_NUMBER = re.compile(r"(?<![\d:.-])-?\d+(?:\.\d+)?(?![\d:-])")


def by_rules(task: ExtractionTask) -> str:
    """Return what is found in the text without a model, as JSON: the peer that looks at the types in the schema alone.

    Names and numbers as they come in the text, names being words in capitals that begin no sentence; the first word of an
    `enum` that stands there; the first match of a `pattern`. Truths are false, and lists empty.
    """
    names, numbers = _NAME.findall(task.text), _NUMBER.findall(task.text)
    found: dict[str, Any] = {}
    for name, schema in task.schema["properties"].items():
        match schema:
            case {"enum": words}:
                found[name] = next((word for word in words if word.lower() in task.text.lower()), words[0])
            case {"pattern": pattern}:
                found[name] = next(re.finditer(pattern.strip("^$"), task.text), [""])[0]
            case {"type": "integer" | "number"}:
                found[name] = json.loads(numbers.pop(0)) if numbers else 0
            case {"type": "string"}:
                found[name] = names.pop(0) if names else ""
            case {"type": kind}:
                found[name] = [] if kind == "array" else False
    return json.dumps(found, ensure_ascii=False)


@dataclass(frozen=True)
class Score:
    """What an answer is worth, in form and in content."""

    parses: bool  # whether it is JSON
    valid: bool  # whether it fits the schema
    fields_right: float  # the share of the schema's fields, 0 to 1, that have the gold object's value


def score(task: ExtractionTask, text: str) -> Score:
    """Return what the answer `text` to `task` is worth. All of it must be JSON: see `first_object` for one with words around.

    Content does not ask for form: of an object that does not fit the schema, the right fields count, and fields beside the
    schema's do not. A field is right if its value is of the gold value's JSON type and equal to it: numbers as numbers, 9.50
    and 9.5; texts regardless of case, of how their characters are encoded (NFKC), of white space, of the signs .,;:!?'" at
    their ends and of an article (a, an, the) in front; lists regardless of order, all of it or nothing. Of a name that
    stands twice in the object the last counts.

    NaN and Infinity are no JSON. What is nested deeper, or has a number longer, than Python reads does not parse either.
    ValueError if `text` is no text.
    """
    check("text", text, str)
    try:
        found = json.loads(text, parse_constant=_refuse)
        valid = _validator(task.kind).is_valid(found)
    except (ValueError, RecursionError):
        return Score(parses=False, valid=False, fields_right=0.0)
    if not isinstance(found, dict):
        return Score(parses=True, valid=False, fields_right=0.0)
    right = [_agree(found.get(name), wanted) for name, wanted in task.gold.items()]
    return Score(parses=True, valid=valid, fields_right=sum(right) / len(right))


def first_object(text: str) -> str:
    """Return the JSON object that begins with the first brace in `text`, without what stands around it; "" if none does."""
    _, brace, rest = text.partition("{")
    try:
        _, end = json.JSONDecoder().raw_decode(brace + rest)
    except (ValueError, RecursionError):
        return ""
    return (brace + rest)[:end]


_SIGNS = " .,;:!?'\""
_ARTICLE = re.compile("^(?:a|an|the) ")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _agree(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        texts = isinstance(found, list) and all(isinstance(one, str) for one in found)
        return texts and sorted(map(_plain, found)) == sorted(map(_plain, wanted))
    if isinstance(wanted, str):
        return isinstance(found, str) and _plain(found) == _plain(wanted)
    if isinstance(wanted, bool) or isinstance(found, bool):
        return found is wanted  # in Python, True == 1
    return isinstance(found, int | float) and found == wanted


def _plain(text: str) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_SIGNS)
    return _ARTICLE.sub("", plain)
