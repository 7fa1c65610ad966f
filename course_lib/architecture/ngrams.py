"""Embeddings of short runs of tokens: what the first layer would have to compute, looked up instead.

That "th" is mostly followed by "e" is a fact about two tokens. A Transformer stores it in the weights of an attention head that
looks one token back and of the network behind it. A table with a row for each run of two or three tokens holds such facts
as they are, costs no multiplication, and leaves the layers to what reaches further. Small models gain most.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.checks import check

__all__ = ["NgramEmbedding"]

_MODULUS, _MULTIPLIER = 2**31 - 1, 48_271  # of Park and Miller's "minimal standard" generator: it stays within int64


class NgramEmbedding(nn.Module):
    """The embedding of each token, plus one of the last two tokens and one of the last three.

    It takes the place of a `TransformerLM`'s own: `model.embedding = NgramEmbedding(model.embedding, n_rows=8192)`. There are
    far more runs of tokens than rows, so a hash function chooses the row, and runs that share one share its vector (arXiv
    1709.03933; for language models arXiv 2412.09871, section 3.2.1, and arXiv 2501.16975). All rows begin at zero: before the
    first step, the model says what it said without them.

    The token before the first of `ids` counts as none. So they must be the whole text: a key/value cache, with which a model
    is given only what is new, gives other results.
    """

    def __init__(self, embedding: nn.Embedding, n_rows: int):
        super().__init__()
        check("n_rows", n_rows)
        self.weight = embedding.weight
        self.n_rows = n_rows
        # pairs, then triples
        self.table = nn.Parameter(embedding.weight.new_zeros(2 * n_rows, embedding.weight.shape[1]))

    def forward(self, ids: Tensor) -> Tensor:
        """Map `ids` (batch, position) to vectors (batch, position, d_model)."""
        return F.embedding(ids, self.weight) + F.embedding(self.rows(ids), self.table).sum(dim=0)

    def rows(self, ids: Tensor) -> Tensor:
        """Return the rows (2, batch, position) of the table for the last two and the last three tokens at each position.

        With t the token's id plus 1, and 0 where there is none, two tokens make the number t₀ · m + t₋₁, and three that one
        times m, plus t₋₂, modulo a prime; what remains when `n_rows` divides it is the row.
        """
        now, one_back, two_back = (F.pad(ids + 1, (back, 0))[:, : ids.shape[1]] for back in range(3))
        pair = (now * _MULTIPLIER + one_back) % _MODULUS
        triple = (pair * _MULTIPLIER + two_back) % _MODULUS
        return torch.stack([pair % self.n_rows, triple % self.n_rows + self.n_rows])
