"""What the library is given, checked where it is given: numbers, fields of a configuration, lists of texts, JSON files.

What is wrong there would else come out elsewhere: as a loop that never ends, as logits that are no numbers, or not at all.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["check", "check_fields", "check_names", "check_texts", "read_json", "read_json_lines"]

T = TypeVar("T")

_NUMBERS = {int: (Integral, 2**63 - 1), float: (Real, sys.float_info.max)}  # what counts as one, and the largest


def check(name: str, value: object, kind: Any = int, at_least: float | None = None, at_most: float = math.inf) -> None:
    """Raise ValueError that says `name` unless `value` is of `kind`: a class, `Literal[…]`, a class `| None`, or `tuple[…]`.

    A number must be positive, or `at_least` something, and finite, or `at_most` something; an int must fit into 64 bits. An int
    is as good as a float, and NumPy's numbers as Python's; but True, which Python counts as 1, is none.
    """
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{name} must be one of {get_args(kind)}, not {value!r}")
        return
    if isinstance(kind, UnionType) and value is None:
        return
    wanted = get_args(kind)[0] if isinstance(kind, UnionType) else get_origin(kind) or kind
    accepted, largest = _NUMBERS.get(wanted, (wanted, None))
    if not isinstance(value, accepted) or (largest and isinstance(value, bool)):
        raise ValueError(f"{name} must be {getattr(kind, '__name__', kind)}, not {value!r}")
    # of NumPy's, which would round the limits to its own kind
    number = value.item() if hasattr(value, "item") else value
    if largest and not ((number > 0 if at_least is None else number >= at_least) and number <= min(at_most, largest)):
        low = "positive" if at_least is None else f"at least {at_least:g}"
        high = "finite" if at_most == math.inf else f"at most {at_most:g}"
        raise ValueError(f"{name} must be {low} and {high}, not {value}")


def check_fields(config: object, **limits: tuple[float, float]) -> None:
    """Check each field of a dataclass against its annotation, as `check` does, within its (at_least, at_most) in `limits`."""
    for field, kind in get_type_hints(type(config)).items():
        check(field, getattr(config, field), kind, *limits.get(field, ()))


def check_names(what: str, given: Collection[str], known: Collection[str]) -> None:
    """Raise ValueError that says `what` if one of the names `given` is not `known`."""
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"unknown {what}: {', '.join(unknown)}; known are {', '.join(known)}")


def check_texts(name: str, texts: Iterable[str]) -> None:
    """Raise ValueError if `texts` is one string: Python takes that for a list of its characters."""
    if isinstance(texts, str):
        raise ValueError(f"{name} should hold strings, but is the single string {texts[:20]!r}; put it into a list")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises ValueError that says the path if it holds anything else."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"it holds no object, but {type(content).__name__}")
    except (ValueError, RecursionError) as error:  # brackets in brackets go deeper than Python can
        raise ValueError(f"{path} is no JSON file that can be read, or is damaged: {error}") from None
    return content


def read_json_lines(path: str | os.PathLike, make: Callable[..., T]) -> list[T]:
    """Return `make(**fields)` of the object on each line of a file, in order.

    Raises ValueError that says the path, and the line that holds no object or another one than `make` takes; also for a file
    of no line, and one whose last line has no end, as a copy that was cut short.
    """
    *lines, last = Path(path).read_bytes().split(b"\n")
    if last or not lines:
        raise ValueError(f"{path} is cut short: it does not end with the end of a line")
    made = []
    for number, line in enumerate(lines, 1):
        try:
            made.append(make(**json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}, cannot be read, or is damaged: {error}") from None
    return made
