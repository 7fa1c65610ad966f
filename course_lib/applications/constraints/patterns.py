"""What a text must be, said as a regular expression.

`parse` reads one, of a subset of Python's `re`, as a tree: this, then that; either this or that; this so many times.
`automata.py` makes a machine of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Chars", "Either", "Node", "PatternError", "Ranges", "Repeat", "Then", "all_but", "parse"]

_MAX_GROUPS = 100  # in each other: Python's own stack ends at ten times as many calls

Ranges = tuple[tuple[int, int], ...]  # of code points, both ends included; sorted, with gaps between, no surrogates


def all_but(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the code points that are in none of `ranges`, which may overlap, surrogates never: they are half characters."""
    gaps, start = [], 0
    for low, high in sorted([*ranges, (0xD800, 0xDFFF), (0x110000, 0x110000)]):
        if start < low:
            gaps.append((start, low - 1))
        start = max(start, high + 1)
    return tuple(gaps)


@dataclass(frozen=True)
class Chars:
    """One character out of `ranges` of code points."""

    ranges: Ranges


@dataclass(frozen=True)
class Then:
    """All `parts`, one after the other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Either:
    """One of `options`."""

    options: tuple["Node", ...]


@dataclass(frozen=True)
class Repeat:
    """`part`, `low` to `high` times; None: any number of times."""

    part: "Node"
    low: int
    high: int | None


Node = Chars | Then | Either | Repeat


class PatternError(ValueError):
    """A pattern that cannot be read; `at` is the character where it ceases to be one."""

    def __init__(self, message: str, at: int):
        super().__init__(message)
        self.at = at


_CLASSES = {"d": ((48, 57),), "w": ((48, 57), (65, 90), (95, 95), (97, 122)), "s": ((9, 13), (32, 32))}
_CONTROLS = {"a": 7, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


def parse(pattern: str) -> Node:
    r"""Return the tree of a pattern: a subset of Python's `re`, as it reads it with `re.ASCII`.

    Characters; `.` (all but the newline); classes `[a-z]` and `[^a-z]`; `\d \w \s \D \W \S`; the escapes
    `\n \r \t \f \v \a \xhh \uhhhh \Uhhhhhhhh` and `\` before a sign; groups `(…)` and `(?:…)`; `|`; and the quantifiers
    `? * + {m} {m,} {,n} {m,n}`.

    PatternError, a ValueError, names the place of anything else: anchors, as the whole text has to match anyway; lazy
    quantifiers, as they change nothing about which texts do; backreferences, which no finite number of states can follow;
    lookarounds.
    """
    if not isinstance(pattern, str):
        raise ValueError(f"a pattern must be str, not {pattern!r}")
    parser = _Parser(pattern)
    tree = parser.either()
    if parser.peek():
        parser.refuse("this ) closes no group; the sign itself is \\)", parser.at)
    return tree


class _Parser:
    """Recursive descent: one method for each kind of part, from the loosest binding, `|`, to the tightest."""

    def __init__(self, pattern: str):
        self.pattern, self.at, self.depth = pattern, 0, 0

    def refuse(self, what: str, at: int) -> None:
        before, after = self.pattern[max(at - 20, 0) : at], self.pattern[at : at + 20]
        raise PatternError(f"{what}; at character {at} of the pattern, between {before!r} and {after!r}", at)

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]  # "" at the end

    def take(self, wanted: str | None = None) -> str:
        """Return the next character and go past it; "" at the end, and where another one is `wanted`."""
        character = self.peek() if wanted in (None, self.peek()) else ""
        self.at += len(character)
        return character

    def either(self) -> Node:
        options = [self.then()]
        while self.take("|"):
            options.append(self.then())
        return options[0] if len(options) == 1 else Either(tuple(options))

    def then(self) -> Node:
        parts = []
        while self.peek() not in {"", "|", ")"}:
            parts.append(self.repeat())
        return parts[0] if len(parts) == 1 else Then(tuple(parts))

    def repeat(self) -> Node:
        part, at = self.atom(), self.at
        sign = self.peek()
        if sign not in {"?", "*", "+", "{"}:
            return part
        self.at += 1
        limits = self.limits(at) if sign == "{" else {"?": (0, 1), "*": (0, None), "+": (1, None)}[sign]
        if self.peek() in {"?", "*", "+", "{"}:
            self.refuse("a quantifier cannot follow a quantifier, and none is lazy or possessive here", self.at)
        return Repeat(part, *limits)

    def limits(self, at: int) -> tuple[int, int | None]:
        inside, closed, _ = self.pattern[self.at : self.at + 20].partition("}")
        low, comma, high = inside.partition(",")
        if not closed or inside == "" or not all(n == "" or (n.isascii() and n.isdecimal()) for n in (low, high)):
            self.refuse("{ begins a number of times, {2}, {2,}, {,5} or {2,5}; the sign itself is \\{", at)
        if low and high and int(low) > int(high):
            self.refuse(f"at least {low} and at most {high} times cannot be", at)
        self.at += len(inside) + 1
        return int(low or 0), (int(high) if high else None) if comma else int(low)

    def atom(self) -> Node:
        at = self.at
        match self.take():
            case "(":
                return self.group(at)
            case "[":
                return self.char_class(at)
            case ".":
                return Chars(all_but([(10, 10)]))
            case "^" | "$" as sign:
                self.refuse(f"no anchors: the whole text has to match anyway; the sign itself is \\{sign}", at)
            case "?" | "*" | "+" | "{" as sign:
                self.refuse(f"{sign} has nothing before it to repeat; the sign itself is \\{sign}", at)
        self.at = at
        return Chars(all_but(all_but(self.character())))  # without surrogates

    def group(self, at: int) -> Node:
        if self.take("?") and not self.take(":"):
            self.refuse("(? only begins (?:…) here, no lookaround, name, flag or comment", at)
        self.depth += 1
        if self.depth > _MAX_GROUPS:
            self.refuse(f"more than {_MAX_GROUPS} groups are open", at)
        inside = self.either()
        if not self.take(")"):
            self.refuse("this ( is never closed", at)
        self.depth -= 1
        return inside

    def char_class(self, at: int) -> Node:
        is_negated, ranges = self.take("^"), []
        while not ranges or self.peek() != "]":  # a ] right at the start is a character
            start, item = self.at, self.class_item(at)
            if self.peek() == "-" and self.pattern[self.at + 1 : self.at + 2] not in {"", "]"}:
                self.at += 1
                (low, end), (other, high) = item[0], self.class_item(at)[0]
                if low != end or other != high or low > high:
                    self.refuse("this is no range from a character to a later one", start)
                item = ((low, high),)
            ranges += item
        self.at += 1
        return Chars(all_but(ranges if is_negated else all_but(ranges)))

    def class_item(self, at: int) -> Ranges:
        if not self.peek():
            self.refuse("this [ is never closed", at)
        return self.character()

    def character(self) -> Ranges:
        at, character = self.at, self.take()
        if character != "\\":
            return ((ord(character), ord(character)),)
        letter = self.take()
        if letter.lower() in _CLASSES:
            ranges = _CLASSES[letter.lower()]
            return ranges if letter.islower() else all_but(ranges)
        code = _CONTROLS.get(letter)
        if letter in _HEX_DIGITS:
            digits = self.pattern[self.at : self.at + _HEX_DIGITS[letter]]
            self.at += len(digits)
            if len(digits) == _HEX_DIGITS[letter] and all(digit in "0123456789abcdefABCDEF" for digit in digits):
                code = int(digits, 16)
        elif letter and not (letter.isascii() and letter.isalnum()):
            code = ord(letter)
        if code is None or code > 0x10FFFF:
            self.refuse(f"\\{letter} is no escape that is known here: no backreference, no boundary", at)
        return ((code, code),)
