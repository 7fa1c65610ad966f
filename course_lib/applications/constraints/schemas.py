"""A JSON schema as a regular expression, as far as one can say it.

It cannot count open brackets, so what lies within what is written out, and has an end.
"""

import json
from collections.abc import Mapping
from typing import Any

from course_lib.applications.constraints.patterns import Chars, Either, Node, Ranges, Repeat, Then, all_but, parse
from course_lib.checks import check

__all__ = ["schema_pattern"]

_MAX_DEPTH = 10
_MAX_LENGTH = 200_000  # of a pattern: its automaton would be too large
_REMARKS = {
    "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$comment",
}  # fmt: skip
_KEYWORDS = {  # of each type: what Python reads it as, and what its schema may say
    "object": (dict, {"properties", "required", "additionalProperties"}),
    "array": (list, {"items", "minItems", "maxItems"}),
    "string": (str, {"minLength", "maxLength", "pattern"}),
    "integer": (int, {"minimum", "maximum"}),
    "number": (int | float, set()),
    "boolean": (bool, set()),
    "null": (type(None), set()),
}
_CHARACTER = r'(?:[^"\\\x00-\x1F]|\\["\\bfnrt])'  # of a string: control characters are not written as \u0001
_ESCAPED = {ord(character): json.dumps(character)[1:-1] for character in '"\\\b\f\n\r\t'}
_SIGNS = frozenset(r"\.^$*+?{}[]|()")


def schema_pattern(schema: Mapping[str, Any]) -> str:
    """Return a regular expression for JSON that fits `schema`, of a subset of JSON Schema, for `Constraint` and for `re`.

    Objects (`properties`, {} for none, and `required`; keys in the order in which the schema names them, and no others);
    arrays (`items`, `minItems`, `maxItems`); strings (`minLength` and `maxLength`, or `pattern`); integers of up to 18 digits
    (or `minimum` and `maximum`, at most 1,000 apart); numbers of up to 15 digits on either side of the point; booleans; null;
    a list of types; `enum` and `const`; ten deep. Between its signs may stand one space or line break.

    ValueError that names the place and the keyword for anything else: see `grammar` for what a regular expression cannot say.
    """
    return _SchemaWriter().value(schema, "#", 0)


class _SchemaWriter:
    """Writes the pattern of a value and of those inside it; `at` is the way to its schema, as a JSON pointer."""

    space = "[ \\n]?"
    comma = f",{space}"

    def value(self, schema: Any, at: str, depth: int) -> str:
        if not isinstance(schema, Mapping):
            raise ValueError(f"the schema at {at} must be an object, not {schema!r:.100}")
        if depth > _MAX_DEPTH:
            raise ValueError(f"the schema at {at[:100]} is more than {_MAX_DEPTH} deep; grammar() can go deeper")
        types = schema.get("type", [])
        types = [types] if isinstance(types, str) else types
        if not isinstance(types, list) or not all(isinstance(type, str) and type in _KEYWORDS for type in types):
            raise ValueError(f"the type at {at} must be of {', '.join(_KEYWORDS)}, not {schema['type']!r:.100}")
        if choice := schema.keys() & {"enum", "const"}:
            self.known(schema, {"type", *choice}, at)
            return self.enum(schema, types, at)
        if not types:
            raise ValueError(f"the schema at {at} needs a type, an enum or a const; grammar() knows more")
        self.known(schema, {"type"}.union(*(_KEYWORDS[type][1] for type in types)), at)
        options = [getattr(self, f"_{type}")(schema, at, depth) for type in types]
        pattern = options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
        if len(pattern) > _MAX_LENGTH:
            raise ValueError(
                f"the pattern of the schema at {at[:100]} is longer than {_MAX_LENGTH:,} characters; see grammar()"
            )
        return pattern

    def known(self, schema: Mapping[str, Any], keywords: set[str], at: str) -> None:
        if unknown := sorted(map(str, schema.keys() - keywords - _REMARKS)):
            raise ValueError(
                f"{', '.join(unknown)} at {at} has no regular expression here, where {', '.join(sorted(keywords))} have one; "
                "grammar() knows more"
            )

    def number_of(self, keyword: str, schema: Mapping[str, Any], at: str, default: int | None) -> int | None:
        if keyword not in schema:
            return default
        check(f"{keyword} at {at}", schema[keyword], int, 0)
        return schema[keyword]

    def times(self, least: str, most: str, schema: Mapping[str, Any], at: str) -> tuple[int, int | None]:
        low, high = self.number_of(least, schema, at, 0), self.number_of(most, schema, at, None)
        if high is not None and low > high:
            raise ValueError(f"{least} at {at} is {low}, more than {most}, {high}")
        return low, high

    def enum(self, schema: Mapping[str, Any], types: list[str], at: str) -> str:
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list) or not values:
            raise ValueError(f"the enum at {at} must be a list of values, not {values!r:.100}")
        if "const" in schema:
            values = [value for value in values if _same(value, schema["const"])]
        fitting = [value for value in values if not types or any(_is_of(value, type) for type in types)]
        if not fitting:
            raise ValueError(f"no value at {at} fits its type, {', '.join(types)}, and its enum and const")
        return f"(?:{'|'.join(_literal(json.dumps(value, ensure_ascii=False, allow_nan=False)) for value in fitting)})"

    def _object(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        if "properties" not in schema and schema.get("additionalProperties", True) is not False:
            raise ValueError(f"the object at {at} needs properties; grammar() can leave them open")
        properties, required = schema.get("properties", {}), schema.get("required", [])
        are_names = isinstance(required, list) and all(isinstance(name, str) for name in required)
        if not isinstance(properties, Mapping) or not are_names:
            raise ValueError(f"properties at {at} must be an object, and required a list of names")
        if missing := [name for name in required if name not in properties]:
            raise ValueError(f"required at {at} names {missing[0]!r}, which is not among the properties")
        fields = []
        for name, schema in properties.items():
            check(f"the name of a property at {at}", name, str)
            value = self.value(schema, f"{at}/properties/{name}", depth + 1)
            fields.append((f"{_literal(json.dumps(name, ensure_ascii=False))}:{self.space}{value}", name in required))
        return rf"\{{{self.space}{self.fields(fields)}{self.space}\}}"

    def fields(self, fields: list[tuple[str, bool]]) -> str:
        """Return the pattern of fields, required or not, in their order, with commas between those that are there."""
        after = [
            f"{self.comma}{field}" if is_required else f"(?:{self.comma}{field})?" for field, is_required in fields
        ]
        first = next((i for i, (_, is_required) in enumerate(fields) if is_required), None)
        if first is not None:
            before = [f"(?:{field}{self.comma})?" for field, _ in fields[:first]]
            return "".join([*before, fields[first][0], *after[first + 1 :]])
        # any may be the first one there
        starts = [field + "".join(after[i + 1 :]) for i, (field, _) in enumerate(fields)]
        return f"(?:{'|'.join(starts)})?" if starts else ""

    def _array(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        low, high = self.times("minItems", "maxItems", schema, at)
        if "items" not in schema:
            raise ValueError(f"the array at {at} needs items, the schema of what is in it")
        if high == 0:
            return rf"\[{self.space}\]"
        item = self.value(schema["items"], f"{at}/items", depth + 1)
        more = f"{item}(?:{self.comma}{item}){_times(max(low - 1, 0), None if high is None else high - 1)}"
        return rf"\[{self.space}{more if low else f'(?:{more})?'}{self.space}\]"

    def _string(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        if "pattern" not in schema:
            low, high = self.times("minLength", "maxLength", schema, at)
            return f'"{_CHARACTER}{_times(low, high)}"'
        if other := schema.keys() & {"minLength", "maxLength"}:
            raise ValueError(f"{min(other)} beside a pattern at {at}: write the length into the pattern")
        return f'"{self.inside(schema["pattern"], at)}"'

    def inside(self, pattern: Any, at: str) -> str:
        """Return the pattern of how JSON writes a string in which `pattern` is found; ^ and $ may stand at its ends."""
        check(f"pattern at {at}", pattern, str)
        n_slashes = len(pattern) - 1 - len(pattern[:-1].rstrip("\\"))
        is_begun, is_ended = pattern.startswith("^"), pattern.endswith("$") and n_slashes % 2 == 0
        tree = parse(pattern[is_begun : len(pattern) - is_ended])
        if isinstance(tree, Either) and (is_begun or is_ended):
            raise ValueError(f"the pattern at {at} has | beside ^ or $: put the alternatives into a group")
        anything = [Repeat(Chars(all_but([])), 0, None)]
        return _in_json(Then((*anything * (not is_begun), tree, *anything * (not is_ended))))

    def _integer(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        if not schema.keys() & {"minimum", "maximum"}:
            return "(?:0|-?[1-9][0-9]{0,17})"
        low, high = schema.get("minimum"), schema.get("maximum")
        if not _is_of(low, "integer") or not _is_of(high, "integer") or not 0 <= high - low <= 1000:
            raise ValueError(
                f"minimum and maximum at {at} must be two integers, at most 1,000 apart, not {low!r} and {high!r}"
            )
        return f"(?:{'|'.join(map(str, range(low, high + 1)))})"

    def _number(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        return r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?"

    def _boolean(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        return "(?:true|false)"

    def _null(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        return "null"


def _is_of(value: Any, type: str) -> bool:
    return isinstance(value, _KEYWORDS[type][0]) and (type == "boolean" or not isinstance(value, bool))


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _times(low: int, high: int | None) -> str:
    limits = {(0, 1): "?", (0, None): "*", (1, None): "+", (1, 1): ""}
    return limits.get((low, high), f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}")


def _literal(text: str) -> str:
    """Return the pattern that matches `text` alone."""
    return "".join(f"\\{character}" if character in _SIGNS else character for character in text)


def _in_json(node: Node) -> str:
    """Return the pattern of what JSON writes between quotes for the texts that `node` matches.

    Control characters for which JSON has no letter, such as \\x01, are left out.
    """
    match node:
        case Then(parts):
            return "".join(map(_in_json, parts))
        case Either(options):
            return f"(?:{'|'.join(map(_in_json, options))})"
        case Repeat(part, low, high):
            return f"(?:{_in_json(part)}){_times(low, high)}"
    escaped = [written for code, written in _ESCAPED.items() if any(low <= code <= high for low, high in node.ranges)]
    plain = all_but([*all_but(node.ranges), (0, 31), *((code, code) for code in _ESCAPED)])
    options = [*([_class(plain)] if plain or not escaped else []), *map(_literal, escaped)]
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


def _class(ranges: Ranges) -> str:
    """Return the pattern of one character out of `ranges`."""
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _literal(chr(ranges[0][0]))
    inside = "".join(_code(low) + (f"-{_code(high)}" if low < high else "") for low, high in ranges)
    return f"[{inside}]" if ranges else r"[^\s\S]"


def _code(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\u{code:04x}"
