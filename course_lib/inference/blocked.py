"""The matrices of a model, laid out anew for products with a few rows: what writing many texts at once consists of.

`nn.Linear` keeps a matrix row after row, and the processor's library sorts it into blocks that fit its caches at every
product. For a thousand rows that is a small part of the work; for sixteen it is half of it. oneDNN, which PyTorch has on
board, keeps the blocks.
"""

import copy

import torch
from torch import Tensor, nn

from course_lib.architecture import TransformerLM
from course_lib.devices import keeps_blocks

__all__ = ["blocked", "twin"]


class BlockedLinear(nn.Module):
    """x Wᵀ + b as `nn.Linear` computes it, of a matrix in oneDNN's blocks. It has no gradients."""

    def __init__(self, weight: Tensor, bias: Tensor | None, n_rows: int):
        super().__init__()
        self.blocks = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), n_rows)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (…, d_in) to (…, d_out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.blocks, self.bias, "none", [], "")


def blocked(model: TransformerLM, n_rows: int) -> TransformerLM:
    """Return `model` with its matrices in blocks for products with some `n_rows` rows; where that is not to be had, as it is.

    The rest is shared with `model`, hooks too, and a matrix with a hook is left as it is. The copies of the matrices are those
    of now, and take as much memory again.
    """
    if not keeps_blocks(model.device, model.dtype):
        return model
    model = twin(model)
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if type(part) is nn.Linear and not (part._forward_hooks or part._forward_pre_hooks):
                setattr(parent, name, BlockedLinear(part.weight, part.bias, n_rows))
    if model.unembedding is None:
        model.unembedding = BlockedLinear(model.embedding.weight, None, n_rows)
    return model


def twin(model: TransformerLM) -> TransformerLM:
    """Return a model that shares the weights of `model` and the hooks it has; hooks and modules that it gets are its own."""
    hooks = (
        h for part in model.modules() for kept in (part._forward_hooks, part._forward_pre_hooks) for h in kept.values()
    )
    return copy.deepcopy(model, {id(shared): shared for shared in (*model.parameters(), *model.buffers(), *hooks)})
