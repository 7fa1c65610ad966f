"""Is a text what was wanted? Asked of those who know nothing of automata: `regex`, `json` and `jsonschema`."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import regex

__all__ = ["verdict_on_json", "verdict_on_match"]

_SECONDS = 1  # a pattern may send those who match by trying on a search without end


def verdict_on_match(text: str, pattern: str) -> tuple[bool | None, str]:
    """Return whether the whole `text` matches, as the library `regex` has it, None if it does not come to an end; in words."""
    try:
        matches = regex.fullmatch(pattern, text, regex.ASCII, timeout=_SECONDS) is not None
    except TimeoutError:
        return None, f"The library regex has tried for {_SECONDS} s and given up."
    except regex.error as error:
        return None, f"The library regex reads the pattern otherwise: {error}."
    return matches, f"The library regex says: {'it matches as a whole' if matches else 'no match'}."


def verdict_on_json(text: str, schema: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Return whether `text` is JSON that fits `schema`, as the library `jsonschema` has it; and that in words."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return False, f"json cannot read it: {error}."
    try:
        faults = [*_validator()(schema).iter_errors(value)]
    except (TimeoutError, RecursionError, regex.error) as error:
        return None, f"jsonschema gives up: {error}."
    if faults:
        return False, f"json reads it, but jsonschema says: {faults[0].message[:200]}."
    return True, "json reads it, and jsonschema says: it fits the schema."


@cache
def _validator() -> type:
    """Return the class of validators that give up a pattern after `_SECONDS`."""
    from jsonschema import Draft202012Validator, ValidationError  # here, for it takes as long as PyTorch
    from jsonschema.validators import extend

    def search(_validator, pattern: str, value: Any, _schema) -> Iterator[ValidationError]:
        if isinstance(value, str) and not regex.search(pattern, value, timeout=_SECONDS):
            yield ValidationError(f"{value!r} does not match {pattern!r}")

    return extend(Draft202012Validator, {"pattern": search})
