"""What a score on some hundred items is worth: an interval around it, by the bootstrap (Efron 1979, Annals of Statistics 7)."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["bootstrap_interval"]

_N_DRAWS = 2000


def bootstrap_interval(values: Tensor | Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `values`, one number an item.

    Other items could have been drawn: as many are drawn from those that there are, again and again, and the means of 95 % of
    the draws lie within. The difference of two systems on the same items has its interval too: give the items' differences.
    Where nearly all items are alike it is too narrow, and where all are, a point: of none right in n, 3/n may be in truth.
    Raises ValueError for fewer than two items.
    """
    items = torch.as_tensor(values).cpu().double().flatten()
    if len(items) < 2:
        raise ValueError(f"an interval needs at least two items, not {len(items)}")
    generator = torch.Generator().manual_seed(0)
    means = items[torch.randint(len(items), (_N_DRAWS, len(items)), generator=generator)].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
