"""Rows of tokens, ready for a Trainer: what examples and labelled texts have in common."""

import hashlib
from collections.abc import Iterator

from torch import Tensor

__all__ = ["Rows"]


class Rows:
    """Tensors (row, …) side by side: the ids (row, context_length), the targets, and what else a loss asks for.

    Where a text's windows lie elsewhere in each epoch, rows are what they are; only their order changes. `origin` tells what
    floats among the parts were computed by.
    """

    def __init__(self, parts: tuple[Tensor, ...], vocab_size: int, origin: str = ""):
        self.parts, self.vocab_size, self.origin = parts, vocab_size, origin
        self.context_length = parts[0].shape[1]

    def __len__(self) -> int:
        """The number of tokens, with what pads them."""
        return self.parts[0].numel()

    def n_windows(self, context_length: int) -> int:
        """Return how many rows there are. ValueError if they are not of `context_length`."""
        if context_length != self.context_length:
            raise ValueError(
                f"the rows have {self.context_length} tokens, not {context_length}: give that context_length"
            )
        return len(self.parts[0])

    def window(self, number: int, shift: int, context_length: int) -> tuple[Tensor, ...]:
        """Return row `number` of each part. `shift` moves nothing."""
        return tuple(part[number] for part in self.parts)

    def windows(self, context_length: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield every row, in order."""
        for number in range(self.n_windows(context_length)):
            yield self.window(number, 0, context_length)

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that tell these rows from others.

        Another processor computes floats with other last bits, so `origin` counts in their place.
        """
        digest = hashlib.blake2b(self.origin.encode(), digest_size=16)
        for part in self.parts:
            if not part.is_floating_point():
                digest.update(part.numpy().tobytes())
        return digest.hexdigest()
