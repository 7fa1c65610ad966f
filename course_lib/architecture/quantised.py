"""Matrices of four or eight bits a weight, multiplied as they are stored.

Decoding reads every weight once for each token and computes next to nothing: bytes are time. Here a group of neighbours in a
row shares two numbers, a scale and a middle, and each weight is one of sixteen steps around the middle:

    w = scale · (q − 8) + middle,  q in 0 … 15

So are the blocks of GGUF's Q4_1, whose steps are taken as they are; scale and middle are rounded to bfloat16, which PyTorch's
kernel wants, as it does the vectors. A weight of eight bits is two of four, 16 · high + low: all high halves and then all low
ones make a matrix twice as wide, which is multiplied with the vector written twice.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture.transformer import TransformerConfig, TransformerLM
from course_lib.checks import check
from course_lib.devices import lanes

__all__ = ["QuantisedEmbedding", "QuantisedLinear", "assemble", "quantise"]

_FEW = 64  # vectors for which the packed product is faster than to write the matrix out first
_PACKED = ".packed"  # ends the name of a matrix' bytes
_TILES = 2  # of 16 columns, which a thread of a GPU reads at once
_AT_ONCE = 4096  # rows that are packed or written out at once: whole lanes, and little memory


class QuantisedLinear(nn.Module):
    """x Wᵀ + b as `nn.Linear` computes it, of a matrix of 4 or 8 bits a weight; in a model of float32, and without gradients.

    `packed` (rows, columns) uint8 and `scales` (groups, rows, 2) bfloat16, scale and middle, lie as PyTorch's kernel wants
    them, in whole lanes; the first `n_rows` rows count. Of 8 bits, the high halves of all groups come before the low ones.
    """

    def __init__(self, packed: Tensor, scales: Tensor, n_rows: int, bits: int):
        super().__init__()
        self.register_buffer("packed", packed)
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None)
        self.n_rows, self.bits, self.lanes = n_rows, bits, lanes(packed.device)
        self.group = 2 * packed.shape[1] // len(scales)

    @classmethod
    def of_steps(cls, steps: Tensor, scale: Tensor, middle: Tensor) -> "QuantisedLinear":
        """Pack w = scale · (q − 8) + middle, `steps` q (rows, columns) in 0 … 15, the others (rows, groups)."""
        n_rows = len(steps)
        padding = (0, 0, 0, -n_rows % _lanes(steps.device))
        steps, numbers = F.pad(steps, padding), F.pad(torch.stack([scale, middle]), padding)
        packed = torch.cat([_pack(some) for some in steps.split(_AT_ONCE)])
        return cls(packed, numbers.permute(2, 1, 0).contiguous().bfloat16(), n_rows, 4)

    @classmethod
    def of_bytes(cls, steps: Tensor, scale: Tensor) -> "QuantisedLinear":
        """Pack w = scale · q, `steps` q (rows, columns) in −128 … 127 and `scale` (rows, groups)."""
        high, low = steps >> 4, steps & 15  # q = 16 · high + low, and both halves are one of sixteen
        halves = cls.of_steps(
            torch.cat([high + 8, low], dim=1), torch.cat([16 * scale, scale], 1), torch.cat([0 * scale, 8 * scale], 1)
        )
        halves.bits = 8
        return halves

    @classmethod
    def of(cls, weight: Tensor, bits: int, group: int) -> "QuantisedLinear":
        """Round `weight` (rows, columns): 4 bits reach from a group's least to its largest, 8 as far below 0 as above."""
        groups = weight.detach().float().unflatten(1, (-1, group))
        if bits == 8:
            scale = _kept(groups.abs().amax(dim=2) / 127)
            steps = _nearest(groups, scale).clamp(-128, 127)
            return cls.of_bytes(steps.flatten(1).int(), scale)
        least, largest = groups.aminmax(dim=2)
        scale = _kept((largest - least) / 15)
        middle = _kept(least + 8 * scale)
        steps = (_nearest(groups - middle[..., None], scale) + 8).clamp(0, 15)
        return cls.of_steps(steps.flatten(1).int(), scale, middle)

    @property
    def weight(self) -> Tensor:
        """There is none, and what asks for it wants to train, to change or to cut it: ValueError says how to get one."""
        raise ValueError(
            "this model keeps its weights in few bits, for inference alone: to train or change it, load it without "
            "weights='stored', or take the one that was given to `quantise`"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (…, d_in) to (…, d_out). RuntimeError if `x` wants gradients."""
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "no gradient goes through weights of few bits: load the model without weights='stored', or take the one that "
                "was given to `quantise`"
            )
        vectors = x.reshape(-1, x.shape[-1])
        few = x.shape[-1] if x.is_cuda else _FEW  # a GPU writes a matrix out by as many products as it has columns
        product = (self.product if len(vectors) <= few else self._large_product)(vectors.bfloat16())
        product = product.reshape(*x.shape[:-1], self.n_rows)
        return (product if self.bias is None else product + self.bias).to(x.dtype)

    def product(self, x: Tensor) -> Tensor:
        """Return x Wᵀ (vector, d_out) of bfloat16 vectors `x` (vector, d_in), in bfloat16."""
        x = torch.cat([x, x], dim=1) if self.bits == 8 else x.contiguous()
        product = _multiply(x, self.packed, self.group, self.scales)
        return product if product.shape[1] == self.n_rows else product[:, : self.n_rows]

    def bound(self, x: Tensor) -> Callable[[], Tensor]:
        """Return a function that returns `product` of what lies in `x` when it is called, as fast as can be."""
        if x.is_cuda or self.bits == 8 or self.n_rows < len(self.packed):
            return partial(self.product, x)
        return partial(torch._weight_int4pack_mm_for_cpu, x, self.packed, self.group, self.scales)

    def _large_product(self, x: Tensor) -> Tensor:
        parts = [x @ self._columns(at) for at in range(0, len(self.packed), _AT_ONCE)]
        return torch.cat(parts, dim=1)[:, : self.n_rows]

    def rows(self, indices: Tensor) -> Tensor:
        """Return rows of the matrix (row, d_in) in float32. RuntimeError for a row that it has not."""
        numbers = self.scales.narrow(1, 0, self.n_rows).index_select(1, indices).float()
        if indices.is_cuda:
            tiles, at = (indices // self.lanes).unique(return_inverse=True)
            near = self.packed.unflatten(0, (-1, self.lanes))[tiles].flatten(0, 1)
            return self._weights(_steps(near, self.lanes)[:, at * self.lanes + indices % self.lanes], numbers).T
        half = self.lanes // 2
        pairs = _pairs(self.packed, self.lanes)[indices // self.lanes, :, indices % half]
        shifts = ((indices & half) // (half // 4)).to(torch.uint8)
        return self._weights((pairs >> shifts[:, None] & 15).T, numbers).T

    def _columns(self, start: int) -> Tensor:
        """Return `_AT_ONCE` rows from `start` on, as columns (d_in, row)."""
        some = slice(start, start + _AT_ONCE)
        return self._weights(_steps(self.packed[some], self.lanes), self.scales[:, some])

    def _weights(self, steps: Tensor, numbers: Tensor) -> Tensor:
        """Return weights (d_in, row) of q (column, row) in 0 … 15, uint8, and scale and middle (group, row, 2)."""
        if self.bits == 8:  # of high halves, then low ones, whose scale is that of the whole
            high, low = steps.chunk(2)
            whole = (high << 4 | low).bitwise_xor_(128).view(torch.int8)  # from 0 … 255 to −128 … 127
            scale = numbers[len(numbers) // 2 :, None, :, 0].contiguous()
            return (whole.to(scale.dtype).unflatten(0, (len(scale), -1)) * scale).flatten(0, 1)
        scale, middle = (part[:, None].contiguous() for part in numbers.unbind(-1))
        around = (steps.view(torch.int8) - 8).to(scale.dtype)
        return torch.addcmul(middle, around.unflatten(0, (len(scale), -1)), scale).flatten(0, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantisedLinear":
        """Move what the module holds, as `to` and `float` ask; scales stay bfloat16, whatever the model becomes.

        Each kind of device has its own layout, in which the matrix is packed anew there. ValueError if one has no kernel.
        """
        scales, packed = self.scales, self.packed
        n_lanes = _lanes(fn(packed[:0]).device)
        super()._apply(fn, recurse)
        self.scales = fn(scales.view(torch.int16)).view(torch.bfloat16)
        if self.packed.device.type != packed.device.type:
            steps = torch.cat([_steps(some, self.lanes).T for some in packed.split(_AT_ONCE)])
            self.lanes = n_lanes
            padding = self.n_rows + -self.n_rows % self.lanes - len(steps)  # below 0 where lanes are smaller
            steps = F.pad(steps.to(self.packed.device), (0, 0, 0, padding))
            self.packed = torch.cat([_pack(some) for some in steps.split(_AT_ONCE)])
            self.scales = F.pad(self.scales, (0, 0, 0, padding)).contiguous()
        return self


class QuantisedEmbedding(nn.Module):
    """Rows of a `QuantisedLinear`, looked up by token ids."""

    def __init__(self, matrix: QuantisedLinear):
        super().__init__()
        self.matrix = matrix

    weight = QuantisedLinear.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Map `ids` (…) to vectors (…, d_model)."""
        rows = self.matrix.rows(ids.flatten())
        return rows.view(*ids.shape, rows.shape[-1])


# ---------------------------------------------------------------- PyTorch's kernels, which bring their layouts


def _pack(steps: Tensor) -> Tensor:
    """Return bytes (row, column / 2) of `steps` q (row, column) in 0 … 15, whole lanes, as the device's kernel wants them."""
    if not steps.is_cuda:
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps.int(), 1)
    pairs = steps[:, ::2] << 4 | steps[:, 1::2]
    tiles = torch.ops.aten._convert_weight_to_int4pack(pairs.to(torch.uint8), _TILES)
    return tiles.view(torch.uint8).view(pairs.shape)


def _multiply(x: Tensor, packed: Tensor, group: int, scales: Tensor) -> Tensor:
    """Return x Wᵀ (vector, row) of `x` (vector, column)."""
    if not x.is_cuda:
        return torch._weight_int4pack_mm_for_cpu(x, packed, group, scales)
    tiles = packed.view(torch.int32).view(len(packed) // 8, -1, 32, _TILES // 2)
    return torch._weight_int4pack_mm(x, tiles, group, scales)


def _steps(packed: Tensor, n_lanes: int) -> Tensor:
    """Return q (column, row) in uint8 of what `_pack` gave."""
    n_rows, n_columns = len(packed), 2 * packed.shape[1]
    if packed.is_cuda:  # q − 8, times the identity, with a scale of 1 and a middle of 8
        one = torch.ones(n_columns // 32, n_rows, 1, dtype=torch.bfloat16, device=packed.device)
        identity = torch.eye(n_columns, dtype=torch.bfloat16, device=packed.device)
        return _multiply(identity, packed, 32, torch.cat([one, 8 * one], dim=2)).to(torch.uint8)
    pairs = _pairs(packed, n_lanes).transpose(0, 1).contiguous()
    return torch.stack([pairs & 15, pairs >> 4], dim=2).flatten(1)


def _pairs(packed: Tensor, n_lanes: int) -> Tensor:
    """Return a processor's bytes (lanes, column, place): q of row `place` is low, that of the row half the lanes on high."""
    return packed.view(-1, 2 * packed.shape[1], n_lanes // 2)


def _lanes(device: torch.device) -> int:
    if not (n_lanes := lanes(device)):
        raise ValueError(
            f"there is no kernel for weights of few bits on {device} of this machine: leave the model as it is"
        )
    return n_lanes


def _kept(numbers: Tensor) -> Tensor:
    return numbers.bfloat16().float()


def _nearest(distances: Tensor, scale: Tensor) -> Tensor:
    return (distances / scale[..., None].where(scale[..., None] > 0, 1)).round()


def quantise(model: TransformerLM, bits: Literal[4, 8] = 8, group: int = 32) -> TransformerLM:
    """Return `model` for inference with matrices of `bits` a weight, each `group` neighbours of which share their scale.

    Each weight becomes the nearest of its group's steps ("round to nearest"); the embedding, which is read twice where it is
    tied, keeps 8 bits, as in llama.cpp's files. Norms and biases are shared with `model`. ValueError for a matrix whose rows
    are no whole groups or that holds NaN, for a model that is no plain decoder, and where `devices.lanes` has no kernel.
    """
    check("bits", bits, Literal[4, 8])
    check("group", group, Literal[32, 64, 128, 256])
    _lanes(model.device)
    if any(isinstance(part, QuantisedLinear) for part in model.modules()):
        raise ValueError("the model is quantised already: load it anew in float")
    if type(model) is not TransformerLM or any(block.cross_attention for block in model.blocks):
        raise ValueError("only a decoder-only TransformerLM can be quantised")
    if any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
        raise ValueError(
            "the model has hooks, which its twin of few bits would lack: quantise first, then steer or switch off"
        )
    weights = dict(model.named_parameters())
    for name, part in model.named_modules():
        if type(part) is not nn.Linear and name != "embedding":
            continue
        weight = weights.pop(f"{name}.weight")
        if weight.shape[1] % group:
            raise ValueError(
                f"{name} has rows of {weight.shape[1]} weights, which are no whole groups of {group}: choose a smaller group, "
                "or leave the model as it is"
            )
        if not weight.isfinite().all():
            raise ValueError(f"{name} holds numbers that are NaN or infinite")
        matrix = QuantisedLinear.of(weight, 8 if name in ("embedding", "unembedding") else bits, group)
        weights |= matrix.state_dict(prefix=f"{name}.")
    return assemble(model.config, weights)


def assemble(config: TransformerConfig, weights: Mapping[str, Tensor]) -> TransformerLM:
    """Return a model for inference of `weights` by their names, as `QuantisedLinear.state_dict` has them where they are packed.

    Packed ones stay on the kind of device that packed them: move the model, not its tensors.

    Nothing is copied but what is not float32. ValueError for a weight that has no place.
    """
    weights = dict(weights)
    with torch.device("meta"):
        model = TransformerLM(config)
    for name in [name.removesuffix(_PACKED) for name in weights if name.endswith(_PACKED)]:
        packed, (n_rows, d_in) = weights.pop(name + _PACKED), model.get_submodule(name).weight.shape
        matrix = QuantisedLinear(packed, weights.pop(f"{name}.scales"), n_rows, bits=8 * packed.shape[1] // d_in)
        parent, _, part = name.rpartition(".")
        setattr(model.get_submodule(parent), part, QuantisedEmbedding(matrix) if name == "embedding" else matrix)
        if f"{name}.bias" in weights:
            matrix.bias = weights.pop(f"{name}.bias").detach().float()
    if config.tied_embeddings and isinstance(model.embedding, QuantisedEmbedding):
        model.unembedding = model.embedding.matrix
    rest = {name: weights.pop(name).detach().float() for name, _ in model.named_parameters()}
    if weights:
        raise ValueError(
            f"{min(weights)} has no place in the model; an adapter has to be merged first (finetuning.lora.merge)"
        )
    model.load_state_dict(rest, strict=False, assign=True)
    return model.requires_grad_(False).eval()
