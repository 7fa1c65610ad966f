"""One token through a Llama with as few operations as PyTorch can do it in: the fused path of generation.

A decoding step reads every weight once and computes next to nothing, so it should take as long as the reading. In
`TransformerLM` it takes half as long again: each of some 330 calls of a module and 900 small operations finds the caches
swept by the weights that streamed through since the last one, and costs about 10 µs instead of 1 (benchmarks/README.md).
Here the step is written out in one loop, without modules and with most buffers taken once. The values are the same; a
test holds both paths equal.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.attention import MultiHeadAttention, rotary_angles
from course_lib.architecture.cache import KVCache
from course_lib.architecture.quantised import QuantisedEmbedding, QuantisedLinear
from course_lib.architecture.transformer import Block, FeedForward, Residual, RMSNorm

__all__ = ["FusedStep"]

_LLAMA = {
    "positions": "rope", "norm": "rmsnorm", "norm_position": "pre", "feed_forward": "swiglu", "bias": False,
    "qk_norm": None, "window": None, "scaled_embeddings": False, "embedding_norm": False, "dropout": 0.0,
    "ngram_rows": None, "induction_head": False,
}  # fmt: skip
_MODULES = {
    TransformerLM, Block, Residual, RMSNorm, MultiHeadAttention, FeedForward,
    nn.Embedding, nn.Linear, QuantisedEmbedding, QuantisedLinear, nn.ModuleList, nn.Identity, nn.Dropout,
}  # fmt: skip


class FusedStep:
    """Continue one sequence token by token, on `cache` as `TransformerLM.new_cache(1, …)` makes it; gradients are off.

    Matrices are read where they lie, the weights of norms copied: make a new step after changing any, or the memory of `cache`.
    """

    def __init__(self, model: TransformerLM, cache: list[KVCache]):
        config, shape = model.config, model.blocks[0].attention
        options = {"device": model.device, "dtype": model.dtype}
        n_heads, n_kv_heads, d_head = shape.n_heads, shape.n_kv_heads, shape.d_head
        self.model, self.cache, self.n_turned = model, cache, n_heads + n_kv_heads
        self.final_norm = _norm_weight(model.final_norm)
        positions = torch.arange(cache[0].keys.shape[2], device=model.device)
        self.cos, self.sin = rotary_angles(positions, d_head, config.rope_theta, config.rope_scaling)
        # √(x · x + d_model · ε), which RMSNorm divides by, is the length of x with √(d_model · ε) behind it
        self.stream = torch.full((config.d_model + 1,), (config.d_model * config.norm_eps) ** 0.5, **options)
        self.normal = torch.empty(config.d_model, **options)
        # queries, keys and values lie as (head, half, d_head / 2); values get a cosine of 1: one operation for all
        halves = (n_heads + 2 * n_kv_heads, 2, d_head // 2)
        self.qkv, self.turned = torch.empty(halves, **options), torch.empty(halves, **options)
        self.cosines = torch.ones(halves, **options)
        self.scale = torch.ones(n_heads + n_kv_heads, 1, 1, **options)  # of scores, already on the queries
        self.scale[:n_heads] = d_head**-0.5
        self.up = torch.empty(2 * config.d_ff, **options)
        self.token = torch.empty(1, dtype=torch.long, device=model.device)
        heads = self.turned.view(1, -1, d_head)
        self.queries = heads[0, :n_heads].view(n_kv_heads, -1, d_head)  # those that share a key are its queries
        self.new = heads[:, n_heads:].view(2, 1, n_kv_heads, d_head)
        is_packed = isinstance(model.blocks[0].attention.qkv, QuantisedLinear)
        # to float32 before a sum, which of two dtypes takes twice as long as a copy and a sum
        self.widen = torch.empty(1, config.d_model, **options).copy_ if is_packed else nn.Identity()
        # what the matrices are multiplied with; packed ones take it in bfloat16
        options["dtype"] = torch.bfloat16 if is_packed else model.dtype
        self.inputs = torch.empty(config.d_model, **options)
        self.mixed, self.hidden = torch.empty(n_heads * d_head, **options), torch.empty(config.d_ff, **options)
        memories = [layer.keys_values for layer in cache]
        views = [(memory, memory[0, 0].transpose(1, 2), memory[1, 0]) for memory in memories]
        self.layers = [(*self._layer(block), *view) for block, view in zip(model.blocks, views, strict=True)]

    def _layer(self, block: Block) -> tuple[Tensor | Callable[[], Tensor], ...]:
        """Return the weights of its norms, and its products with what lies in the buffers."""
        attention, feed_forward = block.attention, block.feed_forward
        return (
            _norm_weight(block.attention_residual.input_norm),
            _product(attention.qkv, self.inputs),
            _product(attention.output, self.mixed),
            _norm_weight(block.feed_forward_residual.input_norm),
            _product(feed_forward.up, self.inputs),
            _product(feed_forward.down, self.hidden),
        )

    @staticmethod
    def fits(model: TransformerLM) -> bool:
        """Return whether `model` is a Llama in float32 of the library's own modules, with no hook that wants to be called."""
        config: TransformerConfig = model.config
        return (
            all(getattr(config, field) == choice for field, choice in _LLAMA.items())
            and model.dtype == torch.float32
            and all(type(part) in _MODULES for part in model.modules())
            and not {nn.Linear, QuantisedLinear} <= set(map(type, model.modules()))  # one buffer feeds all
            and not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
        )

    @torch.inference_mode()
    def __call__(self, token: int) -> Tensor:
        """Add `token` to the cache and return the normalised residual stream (d_model,) at its position.

        It lies in a buffer that the next call overwrites.
        """
        start, n_turned = self.cache[0].length, self.n_turned
        self.cosines[:n_turned] = self.cos[start] * self.scale
        sines = self.sin[start] * self.scale[:, 0]
        stream, inputs, hidden, mixed = self.stream, self.inputs, self.hidden, self.mixed.view_as(self.queries)
        qkv, turned, cosines, queries, new = self.qkv, self.turned, self.cosines, self.queries, self.new
        (left, right), (turned_left, turned_right) = (heads[:n_turned].unbind(1) for heads in (qkv, turned))
        qkv_row, up_row, (gate, value) = qkv.view(1, -1), self.up[None], self.up.chunk(2)
        x = stream[:-1].copy_(self.model.embedding(self.token.fill_(token))[0])
        row, widen = x[None], self.widen
        for norm, to_qkv, output, ff_norm, to_up, down, memory, keys, values in self.layers:
            # RMSNorm: what it divides by is one number, and may as well divide the product
            torch.mul(x, norm, out=inputs)
            qkv_row.copy_(to_qkv()).div_(torch.linalg.vector_norm(stream))
            torch.mul(qkv, cosines, out=turned)
            turned_left.addcmul_(right, sines, value=-1)
            turned_right.addcmul_(left, sines)
            memory.select(3, start).copy_(new)
            weights = torch.bmm(queries, keys.narrow(2, 0, start + 1)).softmax(dim=-1)
            mixed.copy_(torch.bmm(weights, values.narrow(1, 0, start + 1)))
            row.add_(widen(output()))
            torch.mul(x, ff_norm, out=inputs)
            up_row.copy_(to_up()).div_(torch.linalg.vector_norm(stream))
            torch.mul(F.silu(gate, inplace=True), value, out=hidden)
            row.add_(widen(down()))
        for layer in self.cache:
            layer.length = start + 1
        return torch.mul(x, self.final_norm, out=self.normal).div_(torch.linalg.vector_norm(stream))


def _product(matrix: nn.Linear | QuantisedLinear, x: Tensor) -> Callable[[], Tensor]:
    """Return a function that returns the matrix' product with what lies in `x` when it is called."""
    return matrix.bound(x[None]) if isinstance(matrix, QuantisedLinear) else partial(torch.mv, matrix.weight, x)


def _norm_weight(norm: RMSNorm) -> Tensor:
    return norm.weight.detach() * len(norm.weight) ** 0.5  # with the √d_model of the mean square
