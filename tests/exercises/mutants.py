"""Mutants of a piece of source: each version of it with one small change, as a slip of the pen would make it.

`mutmut` and `cosmic-ray` mutate the files of a package and run its tests; neither swaps arguments or drops any
line, and both bring a dozen packages along.
"""

import ast
import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from typing import NamedTuple

__all__ = ["Mutant", "mutants"]

_OPERATORS = {
    **dict.fromkeys((ast.Add, ast.Sub, ast.Mult, ast.Div), (ast.Add, ast.Sub, ast.Mult, ast.Div)),
    **dict.fromkeys((ast.Lt, ast.LtE, ast.Gt, ast.GtE), (ast.Lt, ast.LtE, ast.Gt, ast.GtE)),
    **{ast.Pow: (ast.Mult,), ast.MatMult: (ast.Mult,), ast.FloorDiv: (ast.Mult,), ast.Mod: (ast.FloorDiv,)},
    **{ast.BitAnd: (ast.BitOr, ast.BitXor), ast.BitOr: (ast.BitAnd,), ast.And: (ast.Or,), ast.Or: (ast.And,)},
    **{ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,)},
}
_COMMUTATIVE = ast.Add, ast.Mult, ast.BitAnd, ast.BitOr  # as numbers and tensors are
_METHODS = {
    **{"cos": "sin", "sin": "cos", "sqrt": "square", "log": "exp", "cumsum": "cumprod", "silu": "sigmoid"},
    **{"sum": "mean", "mean": "sum", "min": "max", "cat": "stack", "zeros_like": "ones_like", "softmax": "log_softmax"},
}


class Mutant(NamedTuple):
    """A mutant's `source`, and the first line of it that is `new`, with the `old` one in its place ("pass": dropped)."""

    old: str
    new: str
    source: str


def mutants(source: str) -> list[Mutant]:
    """Return the mutants of `source`, all different: one change in an operator, a condition, a constant, an index, …

    Operands, arguments and elements of tuples are swapped and left out, names are taken for other names of the source,
    and statements are dropped. Docstrings are left out beforehand.
    """
    tree = _SignedNumbers().visit(ast.parse(source))
    for definition in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)):
        if ast.get_docstring(definition):
            del definition.body[0]
    names = sorted(_bound(tree))
    lines = ast.unparse(tree).splitlines()
    found = {}
    for node, put in list(_places(tree)):
        for changed in _changes(node, names):
            put(changed)
            new = ast.unparse(tree)
            found.setdefault(new, _first_change(lines, new))
            put(node)
    return [Mutant(*change, new) for new, change in found.items() if change]


class _SignedNumbers(ast.NodeTransformer):
    """Makes one number of a minus and a number, so that -1 has the neighbours -2 and 0."""

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        signed = isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)
        return ast.Constant(-node.operand.value) if signed else node


def _bound(tree: ast.AST) -> set[str]:
    """Return the names that the source gives: its arguments and what it stores."""
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, Callable[[ast.AST], None]]]:
    """Yield every node below `tree` with the function that puts another in its place."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                yield value, partial(setattr, parent, field)
            for i, item in enumerate(value if isinstance(value, list) else ()):
                if isinstance(item, ast.AST):
                    yield item, partial(value.__setitem__, i)


def _changes(node: ast.AST, names: list[str]) -> Iterator[ast.AST]:
    """Yield what may stand in the place of `node`."""
    if type(node) in _OPERATORS:
        yield from (other() for other in _OPERATORS[type(node)])
    match node:
        case ast.BinOp():
            yield from (node.left, node.right)
            if not isinstance(node.op, _COMMUTATIVE):
                yield _with(node, left=node.right, right=node.left)
        case ast.BoolOp():
            yield from node.values
        case ast.UnaryOp():
            yield node.operand
        case ast.If() | ast.IfExp():
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield from map(ast.Constant, (node.value + 1, node.value - 1, -node.value))
        case ast.Constant(value=str()):
            yield ast.Constant("")
        case ast.Name(ctx=ast.Load()) if node.id in names:
            yield from (_with(node, id=name) for name in names)
        case ast.Attribute() if node.attr in _METHODS:
            yield _with(node, attr=_METHODS[node.attr])
        case ast.Call():
            yield from (_with(node, args=args) for args in _shuffled(node.args))
            yield from (_with(node, keywords=_without(node.keywords, i)) for i in range(len(node.keywords)))
            yield from node.args
            if isinstance(node.func, ast.Attribute):
                yield node.func.value
        case ast.Subscript(ctx=ast.Load()):
            yield node.value
        case ast.Slice():
            yield from (_with(node, **{end: None}) for end in ("lower", "upper", "step"))
        case ast.Tuple() | ast.List():
            yield from (_with(node, elts=elements) for elements in _shuffled(node.elts))
    if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef):
        yield ast.Pass()


def _shuffled(items: list) -> Iterator[list]:
    """Yield `items` without each one, and with each two of them exchanged."""
    yield from (_without(items, i) for i in range(len(items)))
    for i, j in combinations(range(len(items)), 2):
        swapped = list(items)
        swapped[i], swapped[j] = items[j], items[i]
        yield swapped


def _without(items: list, i: int) -> list:
    return [*items[:i], *items[i + 1 :]]


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _first_change(old: list[str], new: str) -> tuple[str, str] | None:
    pairs = zip(old, new.splitlines(), strict=False)
    return next(((a.strip(), b.strip()) for a, b in pairs if a != b), None)
