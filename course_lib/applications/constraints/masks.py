"""From an automaton to a mask on the logits, and the rule that applies it while a text is written."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from course_lib.applications.constraints.automata import compile_pattern
from course_lib.applications.constraints.schemas import schema_pattern
from course_lib.applications.constraints.vocabulary import vocabulary
from course_lib.checks import check
from course_lib.tokenization import Tokenizer

__all__ = ["Constraint", "ConstraintRule", "removed_mass"]

_NEVER = np.iinfo(np.int32).max  # tokens to the end, from where there is none
_CACHED_MASKS = 1000  # 50 MB of SmolLM2's 49,152 tokens


class Constraint:
    """What a text must be, compiled for a tokenizer: `wanted` is a regular expression, see `parse`, or a JSON schema.

    A text is a sequence of the tokenizer's ordinary tokens; one of its `end_ids` may follow where it matches as a whole. Other
    special tokens are never allowed. What no sequence of tokens could finish is not begun: SmolLM2 has no token for some bytes.
    (A byte counts as one that can be written if it is a token by itself, as in every vocabulary that BPE has trained.)

    ValueError if `wanted` is neither, cannot be read, is too large, or matches no text that could be written; or if the
    tokenizer has no token that ends a text.
    """

    def __init__(self, wanted: str | Mapping[str, Any], tokenizer: Tokenizer):
        if not tokenizer.end_ids:
            raise ValueError("this tokenizer has no token that ends a text: give it end_tokens")
        self.pattern = schema_pattern(wanted) if isinstance(wanted, Mapping) else wanted
        self.automaton, self.tokenizer = compile_pattern(self.pattern), tokenizer
        self._vocabulary = vocabulary(tokenizer)
        self.distances = self._distances()
        if self.distances[0] == _NEVER:
            raise ValueError(f"no text that this tokenizer can write matches {self.pattern[:200]!r}")
        n_states = len(self.automaton)
        table = np.where(self.automaton.table < 0, n_states, self.automaton.table)
        self._table = np.vstack([table, np.full(256, n_states)])  # where nothing follows is one more state
        self._masks: dict[int, np.ndarray] = {}

    def _distances(self) -> np.ndarray:
        """Return how many bytes at least are missing to a whole text, of each state, and of −1 `_NEVER`: (state + 1,)."""
        after = np.sort(self.automaton.table[:, self._vocabulary.single], axis=1)
        is_edge = (after >= 0) & (np.diff(after, axis=1, prepend=-1) != 0)
        states, targets = is_edge.nonzero()[0], after[is_edge]
        distances = np.append(np.where(self.automaton.accepting, 0, _NEVER), _NEVER)
        for distance in range(len(self.automaton)):
            nearer = states[distances[targets] == distance]
            if not len(nearer):
                break
            distances[nearer] = np.minimum(distances[nearer], distance + 1)
        return distances

    def step(self, state: int, id: int) -> int:
        """Return the state after the token `id` in `state`; it begins in 0. ValueError if the token is not allowed there."""
        data = self._vocabulary.data.get(id)
        after = -1 if data is None else self.automaton.walk(data, state)
        if self.distances[after] == _NEVER:
            raise ValueError(f"the token {id}, {self.tokenizer.piece(id)!r}, is not allowed where it stands")
        return after

    def allowed(self, state: int, max_new_tokens: int | None = None) -> Tensor:
        """Return which tokens (vocab,) may follow in `state`; with `max_new_tokens`, after which the text can be whole in time.

        So many tokens are left, this one included; each is counted as one byte, so there may be room for more.
        """
        if max_new_tokens is None or max_new_tokens > self._longest_way:
            mask = self._masks.get(state)
            if mask is None:
                mask = self._mask(state, _NEVER)
                if len(self._masks) < _CACHED_MASKS:
                    self._masks[state] = mask
        else:
            mask = self._mask(state, max_new_tokens)
        return torch.from_numpy(mask.copy())  # of the cached one, the caller may change it

    @cached_property
    def _longest_way(self) -> int:
        return int(self.distances[self.distances < _NEVER].max())

    def _mask(self, state: int, within: int) -> np.ndarray:
        mask = np.zeros(self._vocabulary.size, dtype=bool)
        mask[self._vocabulary.ids] = self.distances[self._vocabulary.walk(self._table, state)] < within
        mask[list(self.tokenizer.end_ids)] = self.automaton.accepting[state]
        return mask

    def rule(self, max_new_tokens: int | None = None) -> "ConstraintRule":
        """Return the rule of one text, for `generate` and its kind, with the tokenizer's `end_ids` as its stop ids.

        Give it the same `max_new_tokens` as there, and no more than the context has room for: then the text is whole by then
        in any case. Without, a text may be cut off in its middle. ValueError if even the shortest text needs more.
        """
        check("max_new_tokens", max_new_tokens, int | None, 0)
        if max_new_tokens is not None and self.distances[0] > max_new_tokens:
            raise ValueError(
                f"max_new_tokens must be at least {self.distances[0]}, the bytes of the shortest text, not {max_new_tokens}"
            )
        return ConstraintRule(self, 0, max_new_tokens)


class Steps(Protocol):
    """What a rule asks of `Constraint` and of `Grammar`, each with states of its own kind."""

    tokenizer: Tokenizer

    def step(self, state: Any, id: int) -> Any: ...

    def allowed(self, state: Any, max_new_tokens: int | None = None) -> Tensor: ...


class ConstraintRule:
    """A rule, see `inference.Rule`, that leaves of the logits those of allowed tokens as they are and makes the others −∞.

    It keeps the state that its text has reached, so each text gets a rule of its own; asked about another, it begins anew.
    """

    def __init__(self, constraint: Steps, start: Any, max_new_tokens: int | None):
        self.constraint, self.max_new_tokens = constraint, max_new_tokens
        self._start = self._state = start
        self._written: list[int] = []

    def state(self, written: Sequence[int]) -> Any:
        """Return the state after the ids `written`. ValueError that says which one is not allowed."""
        if list(written[: len(self._written)]) != self._written:
            self._written, self._state = [], self._start
        for id in written[len(self._written) :]:
            if id in self.constraint.tokenizer.end_ids:
                raise ValueError(
                    f"the text has ended with the token {id}; are the tokenizer's end_ids among the stop_ids?"
                )
            self._state = self.constraint.step(self._state, id)
            self._written.append(id)
        return self._state

    def allowed(self, written: Sequence[int]) -> Tensor:
        """Return which tokens (vocab,) may follow the ids `written`."""
        left = None if self.max_new_tokens is None else self.max_new_tokens - len(written)
        return self.constraint.allowed(self.state(written), left)

    def __call__(self, written: Sequence[int], logits: Tensor) -> Tensor:
        """Return the logits (vocab,) with −∞ for what is not allowed. ValueError if there are fewer than tokens."""
        allowed = self.allowed(written)
        if len(allowed) > len(logits):
            raise ValueError(
                f"the tokenizer has ids up to {len(allowed) - 1}, the model {len(logits)} logits; do they belong together?"
            )
        changed = torch.full_like(logits, -torch.inf)  # many models have more rows than there are tokens
        changed[: len(allowed)] = logits[: len(allowed)].where(allowed.to(logits.device), -torch.inf)
        return changed


def removed_mass(logits: Tensor, allowed: Tensor) -> Tensor:
    """Return which share (…) of the probability of `logits` (…, vocab), at temperature 1, a mask takes away.

    `allowed` (…, vocab), bool, is what remains; it may be shorter than the logits, whose other tokens are taken away too.
    ValueError if it is longer.
    """
    missing = logits.shape[-1] - allowed.shape[-1]
    if missing < 0:
        raise ValueError(f"allowed must be at most as long as the {logits.shape[-1]} logits, not {allowed.shape[-1]}")
    taken = torch.nn.functional.pad(~allowed.to(logits.device), (0, missing), value=True)
    return logits.float().softmax(dim=-1).where(taken, 0.0).sum(dim=-1)
