"""The key/value cache: what attention keeps of the positions that it has seen, so that none is computed twice."""

import copy

import torch
from torch import Tensor

__all__ = ["KVCache"]


class KVCache:
    """The keys and values of one layer for the positions seen so far, in memory taken once.

    `keys_values` is (2, batch, kv_head, capacity, d_head), of which the first `length` positions are filled. Queries are not
    kept: a past query is never used again.
    """

    def __init__(
        self, batch: int, n_kv_heads: int, capacity: int, d_head: int, *, device: torch.device, dtype: torch.dtype
    ):
        self.keys_values = torch.empty(2, batch, n_kv_heads, capacity, d_head, device=device, dtype=dtype)
        self.length = 0

    @property
    def keys(self) -> Tensor:
        """The keys (batch, kv_head, capacity, d_head)."""
        return self.keys_values[0]

    @property
    def values(self) -> Tensor:
        """The values (batch, kv_head, capacity, d_head)."""
        return self.keys_values[1]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (batch, kv_head, new, d_head) and return all keys and values so far as views, without a copy."""
        _, batch, n_kv_heads, capacity, _ = self.keys_values.shape
        if keys.shape[:2] != (batch, n_kv_heads):
            raise ValueError(
                f"the cache was made for batch {batch} and {n_kv_heads} key/value heads; "
                f"got batch {keys.shape[0]} and {keys.shape[1]} heads"
            )
        start, end = self.length, self.length + keys.shape[2]
        if end > capacity:
            raise ValueError(f"the cache has room for {capacity} positions, and {end} are needed")
        self.keys_values[0, :, :, start:end] = keys
        self.keys_values[1, :, :, start:end] = values
        self.length = end
        return self.keys_values[0, :, :, :end], self.keys_values[1, :, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Make this the cache of `rows` (row,) of its batch, each as often as it is named there."""
        self.keys_values = self.keys_values[:, rows]

    def part(self, rows: slice, columns: slice, length: int = 0) -> "KVCache":
        """Return a cache in the memory of some `rows` and positions of this one, of which the first `length` are filled."""
        part = copy.copy(self)
        part.keys_values, part.length = self.keys_values[:, rows, :, columns], length
        return part
