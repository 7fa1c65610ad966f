"""An automaton on a plane: which states are drawn, in which column and row, and the edges between them.

Columns are the bytes that a text needs at least to reach a state, so an edge leads at most one column on; within a column,
states stand near those that lead to them (the layers and barycentres of Sugiyama, Tagawa and Toda, "Methods for Visual
Understanding of Hierarchical System Structures", 1981).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from course_lib.applications.constraints.automata import Automaton

__all__ = ["MAX_NEAR", "MAX_WHOLE", "drawing_of"]

MAX_WHOLE = 60  # states: of a larger automaton only the neighbourhood of one state is drawn
MAX_NEAR = 20
_DEPTH = 2  # bytes on from there
_SWEEPS = 4


def drawing_of(automaton: Automaton, state: int) -> dict:
    """Return what is drawn of an automaton while a text is in `state`: all of it, or what lies around that state.

    `states` are {id, column, row, accepting, hidden}, the last being how many states that follow are left out; rows have their
    middle at 0. `edges` are {source, target, label}.
    """
    is_whole = len(automaton) <= MAX_WHOLE
    columns = _distances(automaton, [0], MAX_WHOLE, MAX_WHOLE) if is_whole else _near(automaton, state)
    leaving = {id: automaton.edges(id) for id in columns}
    edges = [
        {"source": source, "target": target, "label": label}
        for source in columns
        for label, target in leaving[source]
        if target in columns
    ]
    rows = _rows(columns, edges)
    states = [
        {
            "id": id,
            "column": columns[id],
            "row": rows[id],
            "accepting": bool(automaton.accepting[id]),
            "hidden": sum(target not in columns for _, target in leaving[id]),
        }
        for id in columns
    ]
    return {"states": states, "edges": edges, "n_states": len(automaton), "is_whole": is_whole}


def _distances(automaton: Automaton, starts: Sequence[int], deepest: int, most: int) -> dict[int, int]:
    """Return up to `most` states that up to `deepest` bytes lead to from `starts`, the nearest first, with that number."""
    distances = dict.fromkeys(starts, 0)
    queue = list(distances)
    for source in queue:  # which grows meanwhile
        if distances[source] == deepest:
            break
        for _, target in automaton.edges(source):
            if target not in distances and len(distances) < most:
                distances[target] = distances[source] + 1
                queue.append(target)
    return distances


def _near(automaton: Automaton, state: int) -> dict[int, int]:
    """Return the columns of a state, of what up to two bytes lead to from there, and of some that lead to it."""
    columns = {id: column + 1 for id, column in _distances(automaton, [state], _DEPTH, MAX_NEAR).items()}
    before = np.flatnonzero((automaton.table == state).any(axis=1)).tolist()
    room = max(MAX_NEAR - len(columns), 3)
    return columns | {id: 0 for id in [id for id in before if id not in columns][:room]}


def _rows(columns: Mapping[int, int], edges: Sequence[Mapping]) -> dict[int, float]:
    """Return the row of each state: within its column, by the mean of the rows that it is joined to in the one beside it."""
    layers = {column: [id for id in columns if columns[id] == column] for column in sorted(set(columns.values()))}
    rows = {}
    for layer in layers.values():
        rows |= _centred(layer)
    joined = {id: ([], []) for id in columns}  # to states one column before, and one after
    for edge in edges:
        if columns[edge["target"]] == columns[edge["source"]] + 1:
            joined[edge["target"]][0].append(edge["source"])
            joined[edge["source"]][1].append(edge["target"])
    for sweep in range(_SWEEPS):
        side = sweep % 2
        for layer in reversed(layers.values()) if side else layers.values():
            means = {id: np.mean([rows[other] for other in joined[id][side] or [id]]) for id in layer}
            layer.sort(key=means.get)
            rows |= _centred(layer)
    return rows


def _centred(layer: Sequence[int]) -> dict[int, float]:
    return {id: place - (len(layer) - 1) / 2 for place, id in enumerate(layer)}
