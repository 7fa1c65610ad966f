"""What no regular expression can say, left to the library `llguidance`: recursion, references, formats, alternatives."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.applications.constraints.masks import ConstraintRule
from course_lib.checks import check
from course_lib.tokenization import Tokenizer

__all__ = ["Grammar", "grammar", "peer_tokenizer"]


class Grammar:
    """What a text must be, in words of the library `llguidance`; made by `grammar`. Its states are the library's matchers."""

    def __init__(self, text: str, tokenizer: Tokenizer):
        from llguidance import LLMatcher

        if not tokenizer.end_ids:
            raise ValueError("this tokenizer has no token that ends a text: give it end_tokens")
        self.tokenizer = tokenizer
        self._start = LLMatcher(peer_tokenizer(tokenizer), text, log_level=0)
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
def peer_tokenizer(tokenizer: Tokenizer) -> Any:
    """Return the tokenizer as the library reads it: made once, kept for the next grammar."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_PeerTokenizer(tokenizer)), eos_token=sorted(tokenizer.end_ids))
