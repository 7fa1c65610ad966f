"""Automata: machines with finitely many states that read a text byte by byte, here those of regular expressions.

A pattern becomes a table in three steps, after `patterns.py` has made a tree of it:

1. `_Machine`: the tree becomes states, joined by bytes and by steps that read nothing (Thompson, "Regular Expression Search
   Algorithm", 1968). One byte may lead from a state to several others, so this automaton is called nondeterministic.
2. `_determinise`: where it may be after each byte is a *set* of states; each set that can occur becomes one state of a
   deterministic automaton (Rabin and Scott, "Finite Automata and Their Decision Problems", 1959).
3. `_minimise`: states that no further text tells apart become one (Hopcroft, "An n log n Algorithm for Minimizing States in
   a Finite Automaton", 1971).

It reads bytes, not characters, because a language model's tokens are bytes, and may end within a character.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from course_lib.applications.constraints.patterns import Chars, Either, Node, Ranges, Repeat, Then, parse

__all__ = ["MAX_STATES", "Automaton", "byte_label", "compile_pattern"]

MAX_STATES = 50_000
"""An automaton that needs more is refused; this many take some seconds and 100 MB."""

_MAX_MEMBERS = 10 * MAX_STATES  # of all sets of states together: a set of a thousand takes as long as a thousand sets

ByteRanges = tuple[tuple[int, int], ...]
"""A range of bytes for each byte of a character: é and ê are ((0xC3, 0xC3), (0xA9, 0xAA))."""

# ---------------------------------------------------------------- from a tree to states


def _utf8(low: int, high: int) -> list[ByteRanges]:
    """Cut a range of code points until in each piece every byte can be chosen without regard to the others."""
    for limit in (0x7F, 0x7FF, 0xFFFF):  # beyond each a character takes one byte more
        if low <= limit < high:
            return _utf8(low, limit) + _utf8(limit + 1, high)
    for bits in (6, 12, 18):  # of the last bytes, which hold 6 bits each
        size = 1 << bits
        if low // size != high // size:
            if low % size:
                return _utf8(low, low | (size - 1)) + _utf8((low | (size - 1)) + 1, high)
            if (high + 1) % size:
                return _utf8(low, high // size * size - 1) + _utf8(high // size * size, high)
    return [tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))]


class _Machine:
    """A nondeterministic automaton: of each state the steps that read nothing, and the moves (low byte, high byte, state)."""

    def __init__(self, tree: Node):
        self.steps: list[list[int]] = []
        self.moves: list[list[tuple[int, int, int]]] = []
        self._paths: dict[Ranges, list[ByteRanges]] = {}
        self.start, self.end = self.new(), self.new()
        self.join(self.start, tree, self.end)

    def new(self) -> int:
        if len(self.steps) == MAX_STATES:
            raise ValueError(f"the pattern is too large: it needs more than {MAX_STATES:,} states; repeat less in it")
        self.steps.append([])
        self.moves.append([])
        return len(self.steps) - 1

    def join(self, start: int, node: Node, end: int) -> None:
        """Add states and edges so that what `node` matches, and nothing else, leads from `start` to `end`."""
        match node:
            case Chars(ranges):
                tails = {(): end}
                for path in self.paths(ranges):
                    self.moves[start].append((*path[0], self.tail(path[1:], tails)))
            case Then(parts):
                for part in parts:
                    start = self.append(start, part)
                self.steps[start].append(end)
            case Either(options):
                for option in options:
                    self.join(start, option, end)
            case Repeat(part, low, high):
                for _ in range(low):
                    start = self.append(start, part)
                for _ in range(low, high or low):
                    self.steps[start].append(end)
                    start = self.append(start, part)
                if high is None:  # a state of its own to come back to
                    self.steps[start].append(loop := self.new())
                    self.join(loop, part, loop)
                    start = loop
                self.steps[start].append(end)

    def paths(self, ranges: Ranges) -> list[ByteRanges]:
        if ranges not in self._paths:  # a repeated part is built many times
            self._paths[ranges] = [path for low, high in ranges for path in _utf8(low, high)]
        return self._paths[ranges]

    def tail(self, path: ByteRanges, tails: dict[ByteRanges, int]) -> int:
        """Return where a character goes on with `path`: those of one class that end alike share the states of their `tails`."""
        if path not in tails:
            tails[path] = state = self.new()
            self.moves[state].append((*path[0], self.tail(path[1:], tails)))
        return tails[path]

    def append(self, start: int, node: Node) -> int:
        self.join(start, node, end := self.new())
        return end

    def closed(self, states: Iterable[int]) -> frozenset[int]:
        """Return where the automaton may be without reading on; states that do no more than step are left out."""
        reached = set(states)
        new = list(reached)
        while new:
            fresh = [state for state in self.steps[new.pop()] if state not in reached]
            reached.update(fresh)
            new += fresh
        return frozenset(state for state in reached if self.moves[state] or state == self.end)


# ---------------------------------------------------------------- from states to a table

Edges = list[dict[int, int]]
"""Of each state: the state that follows -> the bytes that lead there, byte b being bit 1 << b."""


def _determinise(machine: _Machine) -> tuple[Edges, list[int]]:
    """Return the edges of the deterministic automaton and its accepting states; it starts in state 0."""
    sets = [machine.closed([machine.start])]
    number, edges, n_members = {sets[0]: 0}, [], 0
    for members in sets:  # which grows meanwhile
        n_members += len(members)
        if len(sets) > MAX_STATES or n_members > _MAX_MEMBERS:
            raise ValueError(
                f"the pattern is too large: its deterministic automaton needs more than {MAX_STATES:,} states, or sets of "
                f"more than {_MAX_MEMBERS:,} in all; repeat less, or less that can begin in many places"
            )
        moves = [move for state in members for move in machine.moves[state]]
        cuts = sorted({low for low, _, _ in moves} | {high + 1 for _, high, _ in moves})
        after = defaultdict(int)
        for low, high in pairwise(cuts):  # the bytes low to high - 1 all lead to the same states
            if targets := {state for first, last, state in moves if first <= low and high <= last + 1}:
                target = machine.closed(targets)
                if target not in number:
                    number[target] = len(sets)
                    sets.append(target)
                after[number[target]] |= (1 << high) - (1 << low)
        edges.append(after)
    return edges, [i for i, members in enumerate(sets) if machine.end in members]


def _backwards(edges: Edges) -> list[list[tuple[int, int]]]:
    """Return for each state those before it, with the bytes that lead from there."""
    into = [[] for _ in edges]
    for state, after in enumerate(edges):
        for target, label in after.items():
            into[target].append((state, label))
    return into


def _minimise(edges: Edges, accepting: list[int]) -> list[int]:
    """Return a number for each state: equal where no text tells two apart, −1 where no text leads to acceptance any more.

    Begins with two blocks, accepting and not, and splits a block where the same byte leads its states into different ones.
    A split block is looked at from all its parts but the largest: what does not lead into the others leads into that.
    """
    into, block_of = _backwards(edges), [-1] * len(edges)
    live, new = set(accepting), list(accepting)
    while new:
        fresh = {state for state, _ in into[new.pop()]} - live
        live |= fresh
        new += fresh
    blocks = [set(accepting), live - set(accepting)]
    for number, block in enumerate(blocks):
        for state in block:
            block_of[state] = number
    waiting = {0, 1}
    while waiting:
        leads = defaultdict(int)  # of each state before this block: the bytes that lead into it
        for target in blocks[waiting.pop()]:
            for state, label in into[target]:
                leads[state] |= label
        parts = defaultdict(lambda: defaultdict(set))
        for state, label in leads.items():
            parts[block_of[state]][label].add(state)
        for number, split in parts.items():
            rest, pieces = blocks[number], list(split.values())
            rest.difference_update(*pieces)
            pieces = sorted([rest, *pieces] if rest else pieces, key=len)
            blocks[number] = pieces.pop()  # the largest keeps its number
            for piece in pieces:
                for state in piece:
                    block_of[state] = len(blocks)
                waiting.add(len(blocks))
                blocks.append(piece)
    return block_of


# ---------------------------------------------------------------- the table


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton with as few states as can be; it starts in state 0. Made by `compile_pattern`."""

    table: np.ndarray  # (state, 256) int32: the state that a byte leads to; −1 where nothing that matches goes on so
    accepting: np.ndarray  # (state,) bool: whether a text may end here

    def __len__(self) -> int:
        return len(self.table)

    def walk(self, data: bytes, state: int = 0) -> int:
        """Return the state after `data`, read from `state` on; −1 if no text that matches goes on so."""
        for byte in data:
            if state < 0:
                break
            state = int(self.table[state, byte])
        return state

    def matches(self, text: str) -> bool:
        """Return whether the whole `text` matches; one with lone surrogates, which have no UTF-8 bytes, never does."""
        state = self.walk(text.encode(errors="surrogatepass"))
        return state >= 0 and bool(self.accepting[state])

    def edges(self, state: int) -> list[tuple[str, int]]:
        """Return a label, see `byte_label`, and a state for each edge that leaves `state`, in the order of their bytes."""
        row = self.table[state]
        targets = dict.fromkeys(row[row >= 0].tolist())
        return [(byte_label(np.flatnonzero(row == target).tolist()), target) for target in targets]


def compile_pattern(pattern: str) -> Automaton:
    """Return the smallest automaton that accepts what `pattern` matches. ValueError if it cannot be read, or is too large."""
    edges, accepting = _determinise(_Machine(parse(pattern)))
    block_of = _minimise(edges, accepting)
    number, first = {block_of[0]: 0}, [0]  # of a block; and a state of each, the nearest to the start first
    for state in first:
        for target in edges[state]:
            if block_of[target] not in number and block_of[target] >= 0:
                number[block_of[target]] = len(first)
                first.append(target)
    number[-1] = -1
    table = np.full((len(first), 256), -1, np.int32)
    for row, state in zip(table, first, strict=True):
        for target, label in edges[state].items():
            bits = np.frombuffer(label.to_bytes(32, "little"), np.uint8)
            row[np.unpackbits(bits, bitorder="little").astype(bool)] = number[block_of[target]]
    return Automaton(table, np.isin([block_of[state] for state in first], [block_of[state] for state in accepting]))


def byte_label(chosen: list[int]) -> str:
    """Return sorted bytes as a class to read: `a`, `[0-9A-F]`, `[<0x80>-<0xBF>]`; `[^"]` is ASCII but `"`; · is a space."""
    ascii, others = [byte for byte in chosen if byte < 0x80], [byte for byte in chosen if byte >= 0x80]
    if 64 < len(ascii) < 128:
        return f"[^{_spans(sorted({*range(0x80)} - {*ascii}))}]" + (f" or {byte_label(others)}" if others else "")
    return _spans(chosen) if len(chosen) == 1 else f"[{_spans(chosen)}]"


def _spans(chosen: list[int]) -> str:
    shown = ["·" if byte == 32 else chr(byte) if 32 < byte < 127 else f"<0x{byte:02X}>" for byte in range(256)]
    starts = [byte for byte in chosen if byte - 1 not in chosen]
    ends = [byte for byte in chosen if byte + 1 not in chosen]
    return "".join(
        shown[low] + ("" if low == high else shown[high] if high == low + 1 else f"-{shown[high]}")
        for low, high in zip(starts, ends, strict=True)
    )
