"""Attention: a soft look-up of values by comparing queries with keys (Vaswani et al. 2017, arXiv 1706.03762, section 3.2).

Read from top to bottom: the masks, the look-up itself (once readable, once fused), positions in three ways, and multi-head
attention, which ties them together. Names of dimensions: `batch, head, query, key, d_model, d_head`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.architecture.cache import KVCache
from course_lib.checks import check, check_fields

__all__ = [
    "MultiHeadAttention",
    "RopeScaling",
    "alibi_bias",
    "causal_mask",
    "padding_mask",
    "predecessors",
    "rotary_angles",
    "rotate",
    "scaled_dot_product_attention",
    "sinusoidal_positions",
    "sliding_window_mask",
]

# ---------------------------------------------------------------- masks: True = may attend


def causal_mask(n_queries: int, n_keys: int | None = None, device: torch.device | None = None) -> Tensor:
    """Return the boolean mask (query, key) that lets each position see itself and the past.

    With more keys than queries the queries are the last positions: the last query sees every key.
    """
    n_keys = n_queries if n_keys is None else n_keys
    if n_keys < n_queries:
        raise ValueError(f"each query is also a key, so {n_queries} queries need at least as many keys, not {n_keys}")
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def sliding_window_mask(
    n_queries: int, window: int, n_keys: int | None = None, device: torch.device | None = None
) -> Tensor:
    """Return the causal mask (query, key) that lets each position see the last `window` ones, itself among them.

    Source: Mistral 7B, arXiv 2310.06825, section 2.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 (the position itself), not {window}")
    causal = causal_mask(n_queries, n_keys, device)
    return causal.triu(causal.shape[1] - n_queries - window + 1)


def padding_mask(lengths: Tensor, n_keys: int) -> Tensor:
    """Return the mask (batch, 1, 1, key) that hides what follows the first `lengths` (batch,) keys of each sequence."""
    return (torch.arange(n_keys, device=lengths.device) < lengths[:, None])[:, None, None, :]


def predecessors(n: int, batch: int, n_new: int, n_keys: int, mask: Tensor | None, device: torch.device) -> Tensor:
    """Return which keys (batch, new, n) are the nearest `n` before each of the last `n_new` positions, −1 for none.

    With `mask`, as attention is given it, only those count that a position may attend to: not the padding before a text, nor
    another text in the same row.
    """
    keys = torch.arange(n_keys, device=device)
    own = keys[n_keys - n_new :, None]
    _check_mask(mask)
    if mask is None:
        return (own - torch.arange(1, n + 1, device=device)).clamp(min=-1).expand(batch, -1, -1)
    may_see = mask.expand(batch, *mask.shape[-3:-2], n_new, n_keys).view(batch, -1, n_new, n_keys)[:, 0]
    return F.pad(torch.where(may_see & (keys < own), keys, -1), (n, 0), value=-1).topk(n).values


# ---------------------------------------------------------------- the look-up


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    return_weights: bool = False,
    bias: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attend: softmax(q kᵀ / √d_head) v (arXiv 1706.03762, equation 1).

    Shapes: `q` (batch, head, query, d_head); `k` (batch, kv_head, key, d_head); `v` (batch, kv_head, key, d_value), where
    kv_head divides head and each key/value head serves head / kv_head query heads in turn (arXiv 2305.13245). `mask` is
    boolean, True = may attend, and broadcasts to (batch, head, query, key); `causal` also hides the future, the queries
    being the last of the key positions. `bias` is added to the scores and broadcasts as the mask does.

    Returns the output (batch, head, query, d_value), and with `return_weights` the weights (batch, head, query, key) too, in
    at least float32. A query that may attend to nothing gets zeros. With weights, every step is spelled out; without,
    PyTorch's fused kernel computes the same and, where it has one, never stores the query × key matrix (arXiv 2205.14135).
    """
    _check_shapes(q, k, v, mask)
    if not return_weights:
        return _fused(q, k, v, mask, causal, bias)
    wide = torch.promote_types(q.dtype, torch.float32)  # the three digits of bfloat16 are too few for a softmax
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1).to(wide) for x in (k, v))
    scores = q.to(wide) @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (batch, head, query, key)
    if bias is not None:
        scores = scores + bias
    if causal:
        visible = causal_mask(q.shape[-2], k.shape[-2], q.device)
        mask = visible if mask is None else mask & visible
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    hidden = scores.isneginf().all(dim=-1, keepdim=True)
    weights = scores.softmax(dim=-1).masked_fill(hidden, 0.0)  # softmax over nothing is 0/0
    return (weights @ v).to(q.dtype), weights


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, bias: Tensor | None) -> Tensor:
    n_heads, n_queries = q.shape[1:3]
    if n_queries == 1:
        causal = False  # one query, the last position: nothing lies in its future
        if bias is None and (mask is None or mask.ndim < 3 or mask.shape[-3] == 1):
            # the heads that share a key/value head, and their mask, can stand side by side as its queries
            grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1])  # (batch, kv_head, group, d_head)
            return F.scaled_dot_product_attention(grouped, k, v, mask).reshape(*q.shape[:-1], v.shape[-1])
    if causal and (mask is not None or bias is not None or k.shape[-2] != n_queries):
        visible = causal_mask(n_queries, k.shape[-2], q.device)
        mask, causal = visible if mask is None else mask & visible, False
    if bias is not None:  # the kernel takes one or the other: a bias of −∞ hides a key as a mask does
        bias = bias.to(q.dtype)
        mask = bias if mask is None else bias.masked_fill(~mask, -math.inf)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=k.shape[1] != n_heads)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
    if not q.ndim == k.ndim == v.ndim == 4 or k.shape[:3] != v.shape[:3]:
        raise ValueError(
            "wanted q (batch, head, query, d_head), k (batch, kv_head, key, d_head) and v (batch, kv_head, key, d_value); "
            f"got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"queries come in a batch of {q.shape[0]}, but keys and values in one of {k.shape[0]}")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"queries have d_head {q.shape[-1]} but keys {k.shape[-1]}: a dot product needs equal lengths")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads cannot be shared out evenly over {k.shape[1]} key/value heads")
    _check_mask(mask)


def _check_mask(mask: Tensor | None) -> None:
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(
            f"mask must be boolean with True = may attend, not {mask.dtype}; write `mask == 1` to convert one"
        )


# ---------------------------------------------------------------- positions: added to x, turned into q and k, or off the scores


def sinusoidal_positions(positions: Tensor, d_model: int) -> Tensor:
    """Return the vectors (position, d_model) that the Transformer of 2017 adds to its embeddings.

    Numbers 2i and 2i + 1 are the sine and the cosine of position · 10,000^(−2i / d_model) (arXiv 1706.03762, section 3.5).
    """
    cos, sin = rotary_angles(positions, d_model)
    return torch.stack([sin, cos], dim=-1).flatten(-2)


def alibi_bias(n_heads: int, n_queries: int, n_keys: int, device: torch.device | None = None) -> Tensor:
    """Return what ALiBi adds to the scores: (head, query, key), minus the head's slope times the distance of the key.

    The queries are the last of the key positions. The slopes of n heads are 2^(−8/n), 2^(−16/n) … 2^(−8); where n is no power
    of two, they are those of the next lower one, then every second one of twice as many (arXiv 2108.12409, section 3, and its
    published code).
    """
    power = 2 ** int(math.log2(n_heads))
    whole, half = torch.arange(1, power + 1, device=device), torch.arange(n_heads - power, device=device) + 0.5
    slopes = torch.exp2(torch.cat([whole, half]) * -8 / power)
    keys = torch.arange(n_keys, device=device)
    distance = (keys[n_keys - n_queries :, None] - keys).abs()  # (query, key)
    return -slopes[:, None, None] * distance


@dataclass(frozen=True)
class RopeScaling:
    """How Llama 3.1 stretches rotary positions to a longer context (`apply_scaling` in the code that Meta published).

    Pairs that turn `high_turns` times or more within the `original_context` tokens of the first training are left as they
    are; those that turn `low_turns` times or less turn `factor` times slower; between, it goes over gradually.
    """

    factor: float
    low_turns: float
    high_turns: float
    original_context: int

    def __post_init__(self):
        check_fields(self, factor=(1, math.inf))
        if not self.low_turns < self.high_turns:
            raise ValueError(f"low_turns must be less than high_turns, not {self.low_turns} and {self.high_turns}")


def rotary_angles(
    positions: Tensor, d_head: int, theta: float = 10_000.0, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Return cos and sin (…, query, d_head / 2) of the angles position · theta^(−2i / d_head), i = 0 … d_head / 2 − 1.

    Pair i of a head's numbers turns by its angle a position: pair 0 by one radian, the last by nearly 1 / theta (RoPE, arXiv
    2104.09864). `positions` is (…, query). Raises ValueError for an odd d_head.
    """
    if d_head % 2:
        raise ValueError(f"sines and cosines come in pairs of numbers, so their number must be even, not {d_head}")
    exponents = torch.arange(0, d_head, 2, device=positions.device, dtype=torch.float32) / d_head
    frequencies = theta**-exponents
    if scaling is not None:
        turns = scaling.original_context * frequencies / (2 * math.pi)
        kept = ((turns - scaling.low_turns) / (scaling.high_turns - scaling.low_turns)).clamp(0, 1)
        frequencies = kept * frequencies + (1 - kept) * frequencies / scaling.factor
    angles = positions[..., None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x[i], x[i + d_head / 2]) of `x` (…, query, d_head) by its angle.

    A turned query times a turned key depends on their positions only through the difference. The paper turns neighbours, x[2i]
    and x[2i + 1]; Llama's checkpoints in `transformers` order them as here, and the scores are the same.
    """
    cos, sin = (angle.to(x.dtype) for angle in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


# ---------------------------------------------------------------- multi-head attention


class MultiHeadAttention(nn.Module):
    """Attention with several heads (arXiv 1706.03762, section 3.2.2), optionally with fewer key/value heads.

    `n_kv_heads` equal to `n_heads` is multi-head, 1 is multi-query (arXiv 1911.02150), between is grouped-query attention
    (arXiv 2305.13245). The query, key and value projections lie in one matrix, so that the input is read once. With a
    `window`, each position sees only the last `window` ones. `q_norm` and `k_norm` normalise queries and keys, each head by
    itself if they are d_head wide (arXiv 2010.04245), all heads together if they are as wide as all heads (OLMo 2, arXiv
    2501.00656); give both or neither.

    With `induction_head`, the first key/value head's keys are those of the token before: a query that looks for its own token
    finds what followed it the last time. Other models need two layers for that (arXiv 2209.11895, which shifts keys too).
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        d_head: int | None = None,
        *,
        bias: bool = False,
        window: int | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        induction_head: bool = False,
    ):
        super().__init__()
        for name, number in {"d_model": d_model, "n_heads": n_heads}.items():
            check(name, number)
        for name, number in {"n_kv_heads": n_kv_heads, "d_head": d_head, "window": window}.items():
            check(name, number, int | None)
        self.n_heads = n_heads
        self.n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
        if d_head is None and d_model % n_heads:
            raise ValueError(f"{n_heads} heads do not divide d_model {d_model}; change one or give d_head")
        self.d_head = d_model // n_heads if d_head is None else d_head
        if n_heads % self.n_kv_heads:
            raise ValueError(f"{n_heads} query heads cannot be shared out evenly over {n_kv_heads} key/value heads")
        self.window, self.q_norm, self.k_norm, self.induction_head = window, q_norm, k_norm, induction_head
        self.qkv = nn.Linear(d_model, (n_heads + 2 * self.n_kv_heads) * self.d_head, bias=bias)
        self.output = nn.Linear(n_heads * self.d_head, d_model, bias=bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        causal: bool = True,
        rotation: tuple[Tensor, Tensor] | None = None,
        score_bias: Tensor | None = None,
        cache: KVCache | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Map `x` (batch, query, d_model) to the same shape; see `scaled_dot_product_attention` for masks and weights.

        `rotation` is what `rotary_angles` gave for these positions, and `score_bias` (head, query, key) is added to the scores.
        With `cache`, keys and values are added to it, and the queries attend to everything in it. With `memory`, what
        `keys_values` gave for another sequence, the queries attend to that instead of to `x`: cross-attention.
        """
        if memory is None:
            q, k, v = self._queries_keys_values(x, rotation)
        else:
            q, (k, v) = self._normalise(self._project(x, slice(self.n_heads * self.d_head)), self.q_norm), memory
        if self.induction_head:
            k, v = self._one_back(k, v, cache, mask)
        if cache is not None:
            k, v = (heads[:, : self.n_kv_heads] for heads in cache.append(k, v))
        if self.window is not None and not causal:
            raise ValueError("a window hides the future too, so it is for causal attention only")
        if self.window is not None and k.shape[2] > self.window:
            near = sliding_window_mask(q.shape[2], self.window, k.shape[2], x.device)
            mask = near if mask is None else mask & near
        attended = scaled_dot_product_attention(q, k, v, mask, causal, return_weights, score_bias)
        out, weights = attended if return_weights else (attended, None)
        out = self.output(out.transpose(1, 2).flatten(-2))  # heads side by side: (batch, query, head · d_head)
        return (out, weights) if return_weights else out

    @property
    def n_cached_heads(self) -> int:
        """How many heads' keys and values a cache holds: of an induction head, its keys where they stood as well."""
        return self.n_kv_heads + self.induction_head

    def match_tokens(self) -> None:
        """Make the induction head's keys with the matrix of its queries: equal vectors then find each other untrained."""
        weight, d_head, keys = self.qkv.weight.data, self.d_head, self.n_heads * self.d_head
        weight[keys : keys + d_head] = weight[:d_head]

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values (batch, kv_head, key, d_head) of another sequence's vectors (batch, key, d_model)."""
        k, v = self._project(memory, slice(self.n_heads * self.d_head, None)).chunk(2, dim=1)
        return self._normalise(k, self.k_norm), v

    def _queries_keys_values(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [n * self.d_head for n in (self.n_heads, self.n_kv_heads, self.n_kv_heads)]
        # split before cutting into heads, each (batch, head, query, d_head): then the backward pass joins them in one go
        q, k, v = (part.unflatten(-1, (-1, self.d_head)).transpose(1, 2) for part in self.qkv(x).split(sizes, dim=-1))
        q, k = self._normalise(q, self.q_norm), self._normalise(k, self.k_norm)
        return (q, k, v) if rotation is None else (rotate(q, rotation), rotate(k, rotation), v)

    def _one_back(self, k: Tensor, v: Tensor, cache: KVCache | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give each position the first key of the one before it, 0 if there is none. A cache gets its own as a last head."""
        own = k[:, :1]
        read = own if cache is None else torch.cat([cache.keys[:, -1:, : cache.length], own], dim=2)
        places = predecessors(1, len(k), k.shape[2], read.shape[2], mask, k.device)
        before = F.pad(read, (0, 0, 1, 0)).gather(2, (places + 1)[:, None].expand(-1, -1, -1, k.shape[-1]))
        if cache is None:
            return torch.cat([before, k[:, 1:]], dim=1), v
        return torch.cat([before, k[:, 1:], own], dim=1), F.pad(v, (0, 0, 0, 0, 0, 1))

    def _project(self, x: Tensor, rows: slice) -> Tensor:
        """Return the heads (batch, head, position, d_head) that some rows only of the merged matrix make of `x`."""
        heads = F.linear(x, self.qkv.weight[rows], None if self.qkv.bias is None else self.qkv.bias[rows])
        return heads.unflatten(-1, (-1, self.d_head)).transpose(1, 2)

    def _normalise(self, heads: Tensor, norm: nn.Module | None) -> Tensor:
        """Normalise (batch, head, position, d_head) in groups as wide as the norm: one head, or all side by side."""
        if norm is None:
            return heads
        wide = heads.transpose(1, 2).flatten(-2).unflatten(-1, (-1, len(norm.weight)))
        return norm(wide).flatten(-2).unflatten(-1, (-1, self.d_head)).transpose(1, 2)
