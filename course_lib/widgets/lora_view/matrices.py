"""The matrices that an adapter adapts: each with its factors and singular values, and small enough to be looked at."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.architecture import TransformerLM
from course_lib.finetuning.lora import LoraLinear

__all__ = ["Adapted", "adapted_matrices", "pool", "trained_and_frozen"]


@dataclass(frozen=True)
class Adapted:
    """A frozen W (out, in), and A (rank, in) and B (out, rank), whose product, times `scale` = α/r, is added to it."""

    frozen: Tensor
    a: Tensor
    b: Tensor
    scale: float

    def in_float32(self) -> "Adapted":
        """Return the same in float32 on the CPU."""
        return Adapted(*(x.float().cpu() for x in (self.frozen, self.a, self.b)), self.scale)

    @property
    def update(self) -> Tensor:
        """What is added to W: α/r · B A (out, in)."""
        return self.scale * self.b @ self.a

    @property
    def change(self) -> float:
        """The update's Frobenius norm over that of W."""
        return (self.update.norm() / self.frozen.norm()).item()

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return U (out, n), the singular values (n,), largest first, and Vᵀ (n, in) of the update; n is the rank.

        Only small matrices are decomposed: B = Q R and Aᵀ = Q' R' make the update Q (α/r · R R'ᵀ) Q'ᵀ, and the middle has n
        rows and columns. (n is less than the rank where W has fewer rows or columns.)
        """
        q_b, r_b = torch.linalg.qr(self.b.double())
        q_a, r_a = torch.linalg.qr(self.a.double().T)
        u, values, v = torch.linalg.svd(self.scale * r_b @ r_a.T, full_matrices=False)
        return q_b @ u, values, v @ q_a.T


def adapted_matrices(model: TransformerLM) -> dict[tuple[int, str], Adapted]:
    """Return what the adapter of `model` adapts, by layer and published name, where it lies. ValueError without one."""
    found = {}
    for layer, block in enumerate(model.blocks):
        for module in block.modules():
            if isinstance(module, LoraLinear):
                parts = module.weight.split(list(module.sizes.values()))
                for name, frozen in zip(module.sizes, parts, strict=True):
                    if name in module.down:
                        tensors = (frozen, module.down[name], module.up[name])
                        found[layer, name] = Adapted(*(x.detach() for x in tensors), module.scale)
    if not found:
        raise ValueError("the model has no adapter to show: add_lora gives it one")
    return found


def trained_and_frozen(model: TransformerLM) -> tuple[int, int]:
    """Return how many numbers of `model` its adapter holds, and how many all its other matrices hold."""
    adapter = [module for module in model.modules() if isinstance(module, LoraLinear)]
    trained = sum(x.numel() for module in adapter for part in (module.down, module.up) for x in part.values())
    return trained, sum(x.numel() for x in model.parameters()) - trained


def pool(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """Return the mean of each `rows` × `columns` block of a matrix; those at the lower and right edge may be smaller.

    A mean keeps sums and products true: blocks of W and of the update add up to those of their sum, and the blocks of B times
    those of A are those of B A.
    """
    return F.avg_pool2d(matrix[None].float(), (rows, columns), ceil_mode=True, count_include_pad=False)[0]
