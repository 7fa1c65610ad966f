"""Embeddings of short runs of tokens: what the first layer would have to compute, looked up instead.

That "th" is mostly followed by "e" is a fact about two tokens. A Transformer stores it in the weights of an attention head that
looks one token back and of the network behind it. A table with a row for each run of two or three tokens holds such facts
as they are, costs no multiplication, and leaves the layers to what reaches further. Small models gain most.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture.attention import predecessors
from course_lib.architecture.cache import KVCache
from course_lib.checks import check

__all__ = ["NgramEmbedding"]

_MODULUS, _MULTIPLIER = 2**31 - 1, 48_271  # of Park and Miller's "minimal standard" generator: it stays within int64


class NgramEmbedding(nn.Module):
    """A vector of the last two tokens at each position, plus one of the last three; `TransformerLM` adds it to the token's.

    There are far more runs of tokens than rows, so a hash function chooses the row, and runs that share one share its vector
    (arXiv 1709.03933; for language models arXiv 2412.09871, section 3.2.1, and arXiv 2501.16975). All rows begin at zero:
    before the first step, the model says what it says without them.

    Which tokens come before one is what attention may see of them, the nearest two: not the padding before a text, nor
    another text in the same row.
    """

    def __init__(self, n_rows: int, d_model: int):
        super().__init__()
        check("n_rows", n_rows)
        self.n_rows = n_rows
        self.table = nn.Parameter(torch.zeros(2 * n_rows, d_model))  # pairs, then triples

    def forward(self, ids: Tensor, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        """Map `ids` (batch, position) to vectors (batch, position, d_model).

        With `cache` (one of a single head and d_head 1, in int64), `ids` continue those that it holds and are added to it.
        `mask` is the one that attention is given.
        """
        read = ids if cache is None else cache.append(*2 * [ids[:, None, :, None]])[0][:, 0, :, 0]
        return F.embedding(self.rows(ids, _before(read, ids.shape[1], mask)), self.table).sum(dim=0)

    def rows(self, ids: Tensor, before: Tensor) -> Tensor:
        """Return the rows (2, batch, position) of the table for the last two and the last three tokens at each position.

        `before` (2, batch, position) is one more than the ids one and two back. With t the token's id plus 1, and 0 where there
        is none, two tokens make the number t₀ · m + t₋₁, and three that one times m, plus t₋₂, modulo a prime; what remains
        when `n_rows` divides it is the row.
        """
        one_back, two_back = before
        pair = ((ids + 1) * _MULTIPLIER + one_back) % _MODULUS
        triple = (pair * _MULTIPLIER + two_back) % _MODULUS
        return torch.stack([pair % self.n_rows, triple % self.n_rows + self.n_rows])


def _before(read: Tensor, n_new: int, mask: Tensor | None) -> Tensor:
    """Return one more than the ids one and two back (2, batch, new) of the last `n_new` of `read` (batch, key), 0 for none."""
    nearest = predecessors(2, len(read), n_new, read.shape[1], mask, read.device)
    numbers = F.pad(read + 1, (1, 0))  # so that key −1 is nothing
    return numbers.gather(1, (nearest + 1).flatten(1)).unflatten(1, (n_new, 2)).permute(2, 0, 1)
