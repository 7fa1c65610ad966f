"""A watermark in what a model writes: some tokens are drawn a little more often, and who has the key can count them.

Before each token a hash of the key and the last token divides the vocabulary: a share γ of it is green, and δ is added to the
logits of the green tokens (arXiv 2301.10226, algorithm 2). A text that was written without the key has about γ of its tokens
on green; a marked one has more. To count, neither the model nor the prompt is needed.

The authors draw a list of γ · vocab tokens by a random generator that the hash seeds. Here each pair of tokens has a hash of
its own, so that a list has γ · vocab tokens on average only. In return the count in any text that does not depend on the key
is binomial exactly, and a pair is looked up without the rest of its list.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from operator import index
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from course_lib.applications.evaluation import binomial_tail
from course_lib.checks import check, check_fields

__all__ = ["Detection", "Watermark", "delete_tokens", "replace_tokens", "shared_runs"]


class Detection(NamedTuple):
    """What the key tells of a text."""

    n_pairs: int  # different pairs of a token and the next
    n_green: int  # those whose second token is green
    z: float  # how many standard deviations that is above γ · n_pairs; 0 without pairs
    p_value: float  # the probability of as many or more, over all keys, in a text that does not depend on the key


@dataclass(frozen=True)
class Watermark:
    """A mark with a secret `key`, 1 to 64 bytes in UTF-8: a `Rule` for `generate` and `roll_out`, and its detector.

    It marks the tokens that are written, from the second one on: a rule does not see the prompt.
    """

    key: str = field(repr=False)
    gamma: float = 0.25  # the share that is green
    delta: float = 2.0  # what their logits gain

    def __post_init__(self):
        check_fields(self, gamma=(None, 1), delta=(0,))
        if not 1 <= len(self.key.encode()) <= blake2b.MAX_KEY_SIZE:
            raise ValueError(f"key must have 1 to {blake2b.MAX_KEY_SIZE} bytes, not {len(self.key.encode())}")

    def __call__(self, written: Sequence[int], logits: Tensor) -> Tensor:
        """Return `logits` (vocab,) with `delta` more for the tokens that are green after the last of `written`."""
        if not written:
            return logits
        green = self.is_green(written[-1], np.arange(len(logits)))
        return logits + self.delta * torch.from_numpy(green).to(logits)

    def is_green(self, previous: int, tokens: np.ndarray) -> np.ndarray:
        """Return which of `tokens` (token,) are green after the id `previous`: bool (token,). ValueError for a negative one."""
        check("previous", previous, int, 0)
        return _uniform(np.array([self._seed(previous)], dtype=np.uint64), tokens) < self.gamma

    def detect(self, ids: Sequence[int]) -> Detection:
        """Return what the key tells of the text `ids`, without its prompt.

        A pair that comes again is counted once (section 4.1 of the paper): it is green again for sure, and says nothing new.
        ValueError for an id that is negative, or above 2⁶³ − 1.
        """
        if not all(0 <= id < 2**63 for id in ids):
            raise ValueError("a token id is never negative, nor above 2**63 - 1")
        pairs = set(pairwise(map(index, ids)))
        seeds = np.array([self._seed(previous) for previous, _ in pairs], dtype=np.uint64)
        tokens = np.array([token for _, token in pairs], dtype=np.int64)
        n_pairs, n_green = len(pairs), int((_uniform(seeds, tokens) < self.gamma).sum())
        spread = (n_pairs * self.gamma * (1 - self.gamma)) ** 0.5
        z = (n_green - self.gamma * n_pairs) / spread if spread else 0.0
        return Detection(n_pairs, n_green, z, binomial_tail(n_green, n_pairs, self.gamma))

    def _seed(self, previous: int) -> int:
        digest = blake2b(index(previous).to_bytes(8, "little"), digest_size=8, key=self.key.encode()).digest()
        return int.from_bytes(digest, "little")


def _uniform(seeds: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return a number from [0, 1) for each of `tokens` (token,): the one at its place in SplitMix64's sequence from its seed.

    `seeds` is uint64 (token,), or (1,) for all. The constants are of Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom
    Number Generators", in 64 bits that wrap.
    """
    state = seeds + (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((state ^ (state >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def replace_tokens(
    ids: Sequence[int], share: float, pool: Sequence[int], generator: torch.Generator | None = None
) -> list[int]:
    """Return `ids` with a `share` of them, at random places, replaced by tokens drawn from `pool`: an attack.

    ValueError for a share outside 0 to 1, and for an empty pool.
    """
    check("share", share, float, 0, 1)
    if not pool:
        raise ValueError("the pool of tokens to replace others by is empty")
    changed = list(ids)
    for place in torch.randperm(len(changed), generator=generator)[: round(share * len(changed))].tolist():
        changed[place] = pool[int(torch.randint(len(pool), (), generator=generator))]
    return changed


def delete_tokens(ids: Sequence[int], share: float, generator: torch.Generator | None = None) -> list[int]:
    """Return `ids` without a `share` of them, at random places: an attack. ValueError for a share outside 0 to 1."""
    check("share", share, float, 0, 1)
    kept = torch.randperm(len(ids), generator=generator)[round(share * len(ids)) :].sort().values
    return [ids[place] for place in kept.tolist()]


def shared_runs(ids: Sequence[int], log: Iterable[Sequence[int]]) -> float:
    """Return which share of the runs of four tokens in `ids` stand in a text of `log`: 0 to 1; 0 if there are none.

    The peer of every watermark: who writes the texts keeps them all, and looks up.
    """
    kept = {run for text in log for run in _runs(text)}
    runs = _runs(ids)
    return sum(run in kept for run in runs) / max(1, len(runs))


def _runs(ids: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[at : at + 4]) for at in range(len(ids) - 3)]
