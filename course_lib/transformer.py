"""The decoder-only Transformer: GPT-2 and Llama are two settings of one model.

Every block adds to a residual stream (batch, position, d_model): attention moves information between positions, the
feed-forward network works on each position alone, and a norm before each keeps the numbers in range.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.attention import KVCache, MultiHeadAttention, rotary_angles

__all__ = ["Block", "FeedForward", "LayerNorm", "RMSNorm", "TransformerConfig", "TransformerLM"]


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a `TransformerLM`. The defaults are Llama's choices; GPT-2's stand in brackets."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    context_length: int
    n_kv_heads: int | None = None  # None: as many as n_heads
    d_head: int | None = None  # None: d_model / n_heads
    positions: Literal["rope", "learned"] = "rope"  # [learned]
    rope_theta: float = 10_000.0
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"  # [layernorm]
    norm_eps: float = 1e-5
    feed_forward: Literal["swiglu", "gelu"] = "swiglu"  # [gelu, in its tanh approximation]
    bias: bool = False  # [True]
    tied_embeddings: bool = True  # the unembedding is the embedding matrix, read the other way

    def __post_init__(self):
        choices = {
            "positions": ("rope", "learned"),
            "norm": ("rmsnorm", "layernorm"),
            "feed_forward": ("swiglu", "gelu"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field} must be one of {allowed}, not {getattr(self, field)!r}")
        for field in ("vocab_size", "d_model", "n_layers", "n_heads", "d_ff", "context_length", "n_kv_heads", "d_head"):
            size = getattr(self, field)
            if size is not None and size < 1:
                raise ValueError(f"{field} must be at least 1, not {size}")
        for field in ("rope_theta", "norm_eps"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} must be positive, not {getattr(self, field)}")


class LayerNorm(nn.Module):
    """Shift and scale each position's vector to mean 0 and variance 1, then by learned weights (arXiv 1607.06450)."""

    def __init__(self, d_model: int, eps: float, bias: bool = True):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (…, d_model) over its last dimension, in float32."""
        wide = x.float()
        variance, mean = torch.var_mean(wide, dim=-1, correction=0, keepdim=True)
        normal = ((wide - mean) * torch.rsqrt(variance + self.eps)).to(x.dtype) * self.weight
        return normal if self.bias is None else normal + self.bias


class RMSNorm(nn.Module):
    """Scale each position's vector to a root mean square of 1, then by learned weights (arXiv 1910.07467)."""

    def __init__(self, d_model: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (…, d_model) over its last dimension, in float32."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class FeedForward(nn.Module):
    """Two matrices with a non-linearity between them, applied to each position alone.

    `gelu` is GPT-2's (arXiv 1606.08415); `swiglu` multiplies by a gate, SiLU(x W_gate) · x W_up (arXiv 2002.05202), both
    halves lying in the one matrix `up`, gate first.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gated = config.feed_forward == "swiglu"
        self.up = nn.Linear(config.d_model, config.d_ff * (2 if self.gated else 1), bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (batch, position, d_model) to the same shape."""
        if not self.gated:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + feed_forward(norm(x)) (pre-norm, arXiv 2002.04745)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = MultiHeadAttention(
            config.d_model, config.n_heads, config.n_kv_heads, config.d_head, bias=config.bias
        )
        self.feed_forward_norm = _norm(config)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor] | None, cache: KVCache | None
    ) -> Tensor:
        """Map the residual stream `x` (batch, position, d_model) to the same shape."""
        x = x + self.attention(self.attention_norm(x), mask, rotation=rotation, cache=cache)
        return x + self.feed_forward(self.feed_forward_norm(x))


class TransformerLM(nn.Module):
    """A decoder-only language model: token ids in, a score for every possible next token out."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embedding = _embedding(config.vocab_size, config.d_model)
        learned = config.positions == "learned"
        self.position_embedding = _embedding(config.context_length, config.d_model) if learned else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.final_norm = _norm(config)
        self.unembedding = None if config.tied_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)
        if not self.embedding.weight.is_meta:  # the meta device holds shapes only: there is nothing to fill
            self._initialise()

    def forward(self, ids: Tensor, cache: list[KVCache] | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the logits (batch, position, vocab) of the token that follows each position of `ids` (batch, position).

        With `cache` (see `new_cache`), `ids` continue what it holds. `mask` is boolean, True = may attend, broadcastable to
        (batch, head, query, key); the future is always hidden. To pad on the left, mask the padding; that needs rotary
        positions, which are relative: learned ones would count it.
        """
        return self.unembed(self.residual(ids, cache, mask))

    def residual(self, ids: Tensor, cache: list[KVCache] | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the residual stream (batch, position, d_model) after the last block and the final norm."""
        start = 0 if cache is None else cache[0].length
        end = start + ids.shape[1]
        if end > self.config.context_length:
            raise ValueError(f"position {end - 1} lies outside the context of {self.config.context_length} tokens")
        positions = torch.arange(start, end, device=ids.device)
        x = self.embedding(ids)
        rotation = None
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        else:
            rotation = rotary_angles(positions, self.blocks[0].attention.d_head, self.config.rope_theta)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, rotation, None if cache is None else cache[layer])
        return self.final_norm(x)

    def unembed(self, x: Tensor) -> Tensor:
        """Return the logits (…, vocab) of normalised residual vectors `x` (…, d_model)."""
        return F.linear(x, self.embedding.weight if self.unembedding is None else self.unembedding.weight)

    def new_cache(self, batch: int, capacity: int) -> list[KVCache]:
        """Return an empty key/value cache for each layer, for `batch` sequences of up to `capacity` tokens."""
        weight = self.embedding.weight
        return [
            KVCache(batch, a.n_kv_heads, capacity, a.d_head, device=weight.device, dtype=weight.dtype)
            for a in (block.attention for block in self.blocks)
        ]

    def _initialise(self) -> None:
        """GPT-2's initialisation: normal with 0.02, and 0.02 / √(2 n_layers) for what writes into the residual stream.

        2 n_layers independent terms are added to the stream, so their scale keeps its variance from growing with depth.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                (nn.init.zeros_ if name.endswith("bias") else nn.init.ones_)(parameter)
                continue
            writes = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            nn.init.normal_(parameter, std=0.02 / (2 * self.config.n_layers) ** 0.5 if writes else 0.02)


def _embedding(n: int, d_model: int) -> nn.Embedding:
    return nn.Embedding.from_pretrained(
        torch.empty(n, d_model), freeze=False
    )  # filled by _initialise, once and not twice


def _norm(config: TransformerConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return RMSNorm(config.d_model, config.norm_eps)
    return LayerNorm(config.d_model, config.norm_eps, bias=config.bias)
