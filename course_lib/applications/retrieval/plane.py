"""A map of vectors: the plane in which they differ most."""

import torch
from torch import Tensor

__all__ = ["Plane"]


class Plane:
    """The plane in which `vectors` (item, d_model) differ most: a map of them, by principal components.

    `points` (item, 2) are the vectors on it; `share` of the variance is seen there, for sentences little: what lies together on
    the map may be far apart. Others, such as a question's, are put on it by a call.
    """

    def __init__(self, vectors: Tensor):
        """Find the plane. ValueError for fewer than 3 vectors, one that is not finite, or none that differs from another."""
        if vectors.ndim != 2 or min(vectors.shape) < 2 or len(vectors) < 3 or not vectors.isfinite().all():
            raise ValueError(f"a map needs vectors (item, d_model), at least 3, all finite, not {tuple(vectors.shape)}")
        self._centre = vectors.double().mean(dim=0)
        away = vectors.double() - self._centre
        if not away.any():
            raise ValueError("the vectors are all alike: there is nothing to see on a map")
        variances, axes = torch.linalg.eigh(away.T @ away)  # in ascending order
        axes = axes[:, -2:].flip(1)
        largest = axes.abs().argmax(dim=0)
        self._axes = axes * axes[largest, [0, 1]].sign()  # else each machine has its own left and right
        self.points, self.share = self(vectors), (variances[-2:].sum() / variances.sum()).item()

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return the points (…, 2) of `vectors` (…, d_model), float32."""
        return ((vectors.double() - self._centre) @ self._axes).float()
