"""The tokens of a tokenizer as a tree of bytes, all of which an automaton reads at once."""

from functools import lru_cache

import numpy as np

from course_lib.tokenization import Tokenizer

__all__ = ["Vocabulary", "vocabulary"]


class Vocabulary:
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
def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Return the tree of a tokenizer's tokens: made once, kept for the next constraint."""
    return Vocabulary(tokenizer)
