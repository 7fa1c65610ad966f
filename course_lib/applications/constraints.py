"""Constrained decoding: before each token is drawn, those are ruled out after which the text could not become valid any more.

An automaton (`automata.py`) says which bytes may follow; a token is several bytes. So from the state that the text has reached
every token of the vocabulary is walked through the automaton, all at once along their common beginnings, and those that end in
a state stay. Which they are depends on the state alone: a mask is computed once a state, and then only looked up (arXiv
2307.09702). A JSON schema is first written as a regular expression; what none can say is left to the library `llguidance`, see
`grammar`.

What a mask leaves of the model's distribution is stretched to 1 again. Token for token that is not how the model distributes
valid texts: led to where it would not have gone, it may go on badly. `removed_mass` says how much would have gone elsewhere.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.applications.automata import compile_pattern
from course_lib.applications.patterns import schema_pattern
from course_lib.checks import check
from course_lib.tokenization import Tokenizer

__all__ = ["Constraint", "ConstraintRule", "Grammar", "grammar", "removed_mass"]

_NEVER = np.iinfo(np.int32).max  # tokens to the end, from where there is none
_CACHED_MASKS = 1000  # 50 MB of SmolLM2's 49,152 tokens

# ---------------------------------------------------------------- a vocabulary, walked all at once


class _Vocabulary:
    """The tokens of a tokenizer as a tree of their bytes: tokens that begin alike share the nodes of that beginning.

    Node 0 is the root. The nodes of each depth follow those of the depth before; `parents` and `bytes` say how each is reached.
    """

    def __init__(self, tokenizer: Tokenizer):
        ids = {
            id: tokenizer.decode_bytes([id])
            for token, id in tokenizer.vocab.items()
            if token not in tokenizer.special_tokens
        }
        self.data = {id: data for id, data in ids.items() if data}  # a token without bytes would never come to an end
        self.size = max([*tokenizer.vocab.values(), *tokenizer.special_tokens.values()]) + 1
        self.ids = np.array(sorted(self.data, key=self.data.get), dtype=np.int64)
        in_order = [self.data[id] for id in self.ids.tolist()]
        lengths = np.array([len(data) for data in in_order], dtype=np.int64)
        table = np.zeros((len(in_order), lengths.max(initial=0)), np.uint8)
        table[np.arange(table.shape[1]) < lengths[:, None]] = np.frombuffer(b"".join(in_order), np.uint8)
        differs = np.ones_like(table, dtype=bool)  # from the token before, in this byte or one before it
        differs[1:] = np.logical_or.accumulate(table[1:] != table[:-1], axis=1)

        self.levels, parents, letters = [], [], []
        nodes, n_nodes = np.zeros(len(in_order), dtype=np.int64), 1  # of each token: where it has come to
        for depth in range(table.shape[1]):
            there = lengths > depth
            ends_before = np.append(True, lengths[:-1] <= depth)
            begins = there & (differs[:, depth] | ends_before)
            self.levels.append(slice(n_nodes, n_nodes + begins.sum()))
            parents.append(nodes[begins])
            letters.append(table[begins, depth])
            nodes = np.where(there, n_nodes - 1 + np.cumsum(begins), nodes)
            n_nodes = self.levels[-1].stop
        self.parents, self.bytes = np.concatenate([[0], *parents]), np.concatenate([[0], *letters])
        self.nodes, self.n_nodes = nodes, n_nodes
        self.single = sorted({data[0] for data in in_order if len(data) == 1})

    def walk(self, table: np.ndarray, state: int) -> np.ndarray:
        """Return for each of `ids` the state that it leads to from `state` in `table` (state, 256)."""
        reached = np.empty(self.n_nodes, dtype=table.dtype)
        reached[0] = state
        for level in self.levels:
            reached[level] = table[reached[self.parents[level]], self.bytes[level]]
        return reached[self.nodes]


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer) -> _Vocabulary:
    return _Vocabulary(tokenizer)


# ---------------------------------------------------------------- constraints, and the rule of one text


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
        self._vocabulary = _vocabulary(tokenizer)
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


class Grammar:
    """What a text must be, in words of the library `llguidance`; made by `grammar`. Its states are the library's matchers."""

    def __init__(self, text: str, tokenizer: Tokenizer):
        from llguidance import LLMatcher

        if not tokenizer.end_ids:
            raise ValueError("this tokenizer has no token that ends a text: give it end_tokens")
        self.tokenizer = tokenizer
        self._start = LLMatcher(_peer_tokenizer(tokenizer), text, log_level=0)
        if self._start.is_error():
            raise ValueError(f"llguidance refuses the grammar: {self._start.get_error()}")

    def step(self, state: Any, id: int) -> Any:
        """Return the matcher after the token `id`. ValueError if it is not allowed there."""
        after = state.deep_copy()
        if not after.consume_token(id):
            raise ValueError(f"the token {id}, {self.tokenizer.piece(id)!r}, is not allowed where it stands")
        return after

    def allowed(self, state: Any, max_new_tokens: int | None = None) -> Tensor:
        """Return which tokens (vocab,) may follow."""
        mask = np.frombuffer(state.compute_logit_bias(), np.uint8) > 0  # the library's way to say it: 0 or 200
        if state.is_error():
            raise ValueError(f"llguidance gives up: {state.get_error()}")
        return torch.from_numpy(mask)

    def rule(self) -> "ConstraintRule":
        """Return the rule of one text, as `Constraint.rule` does; the text may be cut off in its middle."""
        return ConstraintRule(self, self._start, None)


def grammar(wanted: str | Mapping[str, Any], tokenizer: Tokenizer) -> Grammar:
    """Return what `wanted` asks of a text: a grammar in the notation of Lark, as llguidance reads it, or any JSON schema.

    For what `Constraint` refuses: recursion, references, formats, alternatives. ValueError with llguidance's words if that
    refuses it too.
    """
    from llguidance import LLMatcher

    if isinstance(wanted, Mapping):
        return Grammar(LLMatcher.grammar_from_json_schema(json.dumps(wanted)), tokenizer)
    check("wanted", wanted, str)
    return Grammar(LLMatcher.grammar_from_lark(wanted), tokenizer)


class _PeerTokenizer:
    """A tokenizer with the names that `llguidance` asks for."""

    def __init__(self, tokenizer: Tokenizer):
        ids = {*tokenizer.vocab.values(), *tokenizer.special_tokens.values()}
        self.tokens = [tokenizer.decode_bytes([id]) if id in ids else b"" for id in range(max(ids) + 1)]
        self.special_token_ids = sorted(tokenizer.special_tokens.values())
        self.eos_token_id, self.bos_token_id = min(tokenizer.end_ids), None
        self._tokenizer = tokenizer

    def __call__(self, data: bytes) -> list[int]:
        return self._tokenizer.encode(data.decode(errors="replace"))


@lru_cache(maxsize=4)
def _peer_tokenizer(tokenizer: Tokenizer) -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_PeerTokenizer(tokenizer)), eos_token=sorted(tokenizer.end_ids))


class ConstraintRule:
    """A rule, see `inference.Rule`, that leaves of the logits those of allowed tokens as they are and makes the others −∞.

    It keeps the state that its text has reached, so each text gets a rule of its own; asked about another, it begins anew.
    """

    def __init__(self, constraint: Constraint | Grammar, start: Any, max_new_tokens: int | None):
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
