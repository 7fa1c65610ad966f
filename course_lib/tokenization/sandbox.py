"""Jinja's sandbox, in which a template cannot run on for ever or fill the memory either.

Jinja's own keeps a template from Python's insides, but `{{ 'a' * 10**9 }}` is a gigabyte, and loops may lie in loops. Here
every loop, call, filter and operator is charged to one account, and what could be too large is refused before it is made.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps

from jinja2 import TemplateRuntimeError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.runtime import str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["BoundedSandbox"]

_MOST = 50_000_000  # characters, of all that a template makes: ten times the longest context that a model has
_STEP = 250  # what a step costs besides, in characters: 200,000 steps take some seconds
_WIDE = re.compile(r"\d{6}|%[^%]*\*")  # in a format: a width, or one that is given beside it


class _Generator(CodeGenerator):
    def visit_Concat(self, node, frame):  # `~`, the one operator that Jinja does not let an environment intercept
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """An environment for one rendering. Raises TemplateRuntimeError where a template goes beyond the bounds."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _Generator

    def __init__(self, **options):
        super().__init__(**options)
        self._left = _MOST
        del self.globals["lipsum"], self.filters["format"]  # make text of any length
        self.filters = _Filters(self, self.filters)

    def _parse(self, source, name, filename) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in template.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return template

    def counted(self, things: Iterable) -> Iterator:
        """Yield `things`, charged one by one; in a template every loop is over such."""
        for thing in things:
            self._charge(None)
            yield thing

    def bounded(self, function: Callable) -> Callable:
        """Return a filter that does what `function` does, and is charged for it."""

        @wraps(function)  # with the marks by which Jinja knows what to hand it
        def charged(*args, **options):
            _refuse_large(*args, *options.values())
            return self._charge(function(*args, **options))

        return charged

    def call(self, context, function, *args, **options):
        """Call what a template calls; of a method, what it belongs to counts as an argument."""
        _refuse_large(getattr(function, "__self__", None), *args, *options.values())
        return self._charge(super().call(context, function, *args, **options))

    def call_binop(self, context, operator, left, right):
        """Compute `left operator right`."""
        if operator in ("*", "**"):
            _refuse_large(left, right)
        if operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise TemplateRuntimeError(f"the format {left[:60]!r} has too large a width")
        return self._charge(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value):
        """Return what `text.format` is in a template, or None if `value` is something else."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _WIDE.search(value.__self__):
            raise TemplateRuntimeError(f"the format {value.__self__[:60]!r} has too large a width")
        return wrapped

    def joined(self, parts: tuple) -> str:
        """Return what `~` makes of `parts`."""
        return self._charge(str_join(parts))

    def concat(self, pieces: Iterable[str]) -> str:
        """Return what a template, a macro or a block has written."""
        return "".join(map(self._charge, pieces))

    def _charge(self, made: object) -> object:
        self._left -= _STEP + _size(made)
        if self._left < 0:
            raise TemplateRuntimeError(f"it makes more than a template may, {_MOST:,} characters in all")
        return made


class _Filters(dict):
    """The filters of a sandbox, each bounded when a template asks for it: to bound all takes longer than to write a chat."""

    def __init__(self, sandbox: BoundedSandbox, filters: Mapping[str, Callable]):
        super().__init__(filters, counted=sandbox.counted)
        self.sandbox = sandbox

    def __getitem__(self, name: str) -> Callable:
        function = super().__getitem__(name)
        return function if name == "counted" else self.sandbox.bounded(function)

    def get(self, name: str, default: None = None) -> Callable | None:
        """Return a filter as `[]` does, None if there is none."""
        found = super().get(name)
        return default if found is None else self[name]


def _refuse_large(*arguments: object) -> None:
    """Raise TemplateRuntimeError if what is made of `arguments` could be too large: in size the product of all at most."""
    sizes = [abs(argument) if isinstance(argument, int) else _size(argument) for argument in arguments]
    if math.prod(max(size, 1) for size in sizes) > _MOST:
        raise TemplateRuntimeError(f"it would make something of more than {_MOST:,} characters")


def _size(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.keys())) + sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 1
