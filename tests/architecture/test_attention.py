"""Attention against torch's own, hand-computed cases and the properties that the lessons claim."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from course_lib.architecture.attention import (
    MultiHeadAttention,
    RopeScaling,
    alibi_bias,
    causal_mask,
    padding_mask,
    rotary_angles,
    rotate,
    scaled_dot_product_attention,
    sliding_window_mask,
)
from course_lib.architecture.cache import KVCache


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def random_qkv(batch=2, heads=6, kv_heads=3, queries=5, keys=5, d_head=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, queries, d_head, generator=generator)
    k, v = (torch.randn(batch, kv_heads, keys, d_head, generator=generator) for _ in range(2))
    return q, k, v


def test_two_keys_by_hand():
    q = torch.tensor([[[[2.0, 0.0, 0.0, 0.0]]]])
    k = torch.tensor([[[[math.log(3), 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]]])
    v = torch.tensor([[[[4.0, 0.0, 0.0, 0.0], [0.0, 8.0, 0.0, 0.0]]]])
    out, weights = scaled_dot_product_attention(q, k, v, return_weights=True)
    torch.testing.assert_close(weights, torch.tensor([[[[0.75, 0.25]]]]))  # scores ln 3 and 0 after division by √4
    torch.testing.assert_close(out, torch.tensor([[[[3.0, 2.0, 0.0, 0.0]]]]))


@given(
    st.integers(1, 3),
    st.sampled_from([(1, 1), (6, 6), (6, 3), (6, 1)]),
    st.integers(1, 7),
    st.integers(0, 5),
    st.booleans(),
)
def test_both_paths_equal_torch(batch, heads, queries, past, causal):
    q, k, v = random_qkv(batch, *heads, queries, queries + past)
    mask = torch.ones(queries, queries + past, dtype=torch.bool).tril(past) if causal else None
    k_all, v_all = (x.repeat_interleave(heads[0] // heads[1], dim=1) for x in (k, v))
    expected = F.scaled_dot_product_attention(q.double(), k_all.double(), v_all.double(), mask).float()
    fused = scaled_dot_product_attention(q, k, v, causal=causal)
    explicit, weights = scaled_dot_product_attention(q, k, v, causal=causal, return_weights=True)
    torch.testing.assert_close(fused, expected)
    torch.testing.assert_close(explicit, expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_mask_and_causality_combine_in_both_paths():
    q, k, v = random_qkv(queries=4, keys=7)
    mask = torch.rand(2, 1, 4, 7, generator=torch.Generator().manual_seed(1)) > 0.3
    both = mask & causal_mask(4, 7)
    explicit, weights = scaled_dot_product_attention(q, k, v, mask, causal=True, return_weights=True)
    assert (weights[~both.expand_as(weights)] == 0).all()
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, mask, causal=True), explicit)
    torch.testing.assert_close(explicit, scaled_dot_product_attention(q, k, v, both, return_weights=True)[0])


def test_weights_are_precise_even_in_bfloat16():
    q, k, v = (x.bfloat16() for x in random_qkv(queries=40, keys=40))
    exact = scaled_dot_product_attention(q.double(), k.double(), v.double(), causal=True, return_weights=True)
    out, weights = scaled_dot_product_attention(q, k, v, causal=True, return_weights=True)
    assert out.dtype == torch.bfloat16 and weights.dtype == torch.float32
    torch.testing.assert_close(weights.double(), exact[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.double(), exact[0], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(
        scaled_dot_product_attention(q, k, v, causal=True).double(), exact[0], atol=2e-2, rtol=2e-2
    )


def test_values_may_have_a_size_of_their_own():
    q, k, v = random_qkv(queries=4, keys=7)
    explicit, weights = scaled_dot_product_attention(q, k, v[..., :3], return_weights=True)
    assert explicit.shape == (2, 6, 4, 3) and weights.shape == (2, 6, 4, 7)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v[..., :3]), explicit)


def test_a_query_that_may_attend_to_nothing_gets_zeros():
    q, k, v = random_qkv(queries=3, keys=3)
    mask = torch.tensor([[True, False, False], [False, False, False], [True, True, True]])
    fused = scaled_dot_product_attention(q, k, v, mask)
    explicit, weights = scaled_dot_product_attention(q, k, v, mask, return_weights=True)
    assert (weights[:, :, 1] == 0).all() and (explicit[:, :, 1] == 0).all() and (fused[:, :, 1] == 0).all()
    torch.testing.assert_close(fused, explicit)


def test_gradients_of_both_paths_agree():
    q, k, v = (x.double().requires_grad_() for x in random_qkv())
    fused = torch.autograd.grad(scaled_dot_product_attention(q, k, v, causal=True).sin().sum(), (q, k, v))
    explicit = scaled_dot_product_attention(q, k, v, causal=True, return_weights=True)[0]
    torch.testing.assert_close(torch.autograd.grad(explicit.sin().sum(), (q, k, v)), fused)


def test_masks_by_hand():
    t, f = True, False
    assert causal_mask(2, 3).tolist() == [[t, t, f], [t, t, t]]
    assert sliding_window_mask(4, 2).tolist() == [[t, f, f, f], [t, t, f, f], [f, t, t, f], [f, f, t, t]]
    assert sliding_window_mask(2, 2, n_keys=4).tolist() == [[f, t, t, f], [f, f, t, t]]
    assert padding_mask(torch.tensor([1, 3]), 3)[:, 0, 0].tolist() == [[t, f, f], [t, t, t]]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "boolean", lambda q, k, v: scaled_dot_product_attention(q, k, v, torch.zeros(5, 5))),
        (ValueError, "shared out", lambda q, k, v: scaled_dot_product_attention(q[:, :4], k, v)),
        (ValueError, "batch, head, query", lambda q, k, v: scaled_dot_product_attention(q[0], k, v)),
        (ValueError, "equal lengths", lambda q, k, v: scaled_dot_product_attention(q[..., :4], k, v)),
        (ValueError, "do not divide", lambda q, k, v: MultiHeadAttention(10, 3)),
        (ValueError, "shared out", lambda q, k, v: MultiHeadAttention(12, 6, n_kv_heads=4)),
        (ValueError, "window", lambda q, k, v: sliding_window_mask(4, 0)),
        (ValueError, "batch of 1", lambda q, k, v: scaled_dot_product_attention(q[:1], k, v)),
        (ValueError, "even", lambda q, k, v: rotary_angles(torch.arange(3), 5)),
    ],
)
def test_misuse_is_named(error, message, call):
    with pytest.raises(error, match=message):
        call(*random_qkv())


def test_rotary_scores_depend_on_the_difference_of_positions_only():
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0)).double()

    def score(query_at: int, key_at: int) -> float:
        at = [tuple(a.double() for a in rotary_angles(torch.tensor([p]), 16)) for p in (query_at, key_at)]
        return float((rotate(q, at[0]) * rotate(k, at[1])).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-2)
    assert score(0, 0) == pytest.approx(float((q * k).sum()))


def test_rotation_keeps_lengths():
    x = torch.randn(1, 2, 7, 16)
    turned = rotate(x, rotary_angles(torch.arange(7), 16))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("causal", [True, False])
def test_multi_head_equals_torch_on_the_same_weights(causal):
    ours = MultiHeadAttention(12, 3, bias=True)
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(2, 5, 12)
    hidden = (
        ~causal_mask(5) if causal else None
    )  # nn.MultiheadAttention's masks mean the opposite: True = may not attend
    expected, expected_weights = theirs(x, x, x, attn_mask=hidden, average_attn_weights=False)
    out, weights = ours(x, causal=causal, return_weights=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(weights, expected_weights)
    torch.testing.assert_close(ours(x, causal=causal), expected)


@pytest.mark.parametrize("steps", [[6], [1] * 6, [4, 2], [2, 1, 3]])
def test_cached_attention_equals_uncached(steps):
    layer = MultiHeadAttention(12, 6, n_kv_heads=2)
    x = torch.randn(2, 6, 12)
    rotation = rotary_angles(torch.arange(6), 2)
    cache = KVCache(2, 2, 6, 2, device=x.device, dtype=x.dtype)
    start, out = 0, []
    for step in steps:
        at = slice(start, start + step)
        out.append(layer(x[:, at], rotation=tuple(angle[at] for angle in rotation), cache=cache))
        start += step
    torch.testing.assert_close(torch.cat(out, dim=1), layer(x, rotation=rotation))
    with pytest.raises(ValueError, match="room for 6"):
        cache.append(torch.zeros(2, 2, 1, 2), torch.zeros(2, 2, 1, 2))
    with pytest.raises(ValueError, match="made for batch 2"):
        cache.append(torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2))


def test_attention_without_positions_knows_no_order():
    layer = MultiHeadAttention(12, 3)
    x, order = torch.randn(1, 5, 12), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(layer(x[:, order], causal=False), layer(x, causal=False)[:, order])


# ---------------------------------------------------------------- positions, windows, norms and cross-attention


def test_bias_is_added_to_the_scores_in_both_paths():
    q, k, v = random_qkv(queries=4, keys=7)
    bias = torch.randn(6, 4, 7)
    mask = torch.rand(2, 1, 4, 7, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[1, :, 2] = False
    for options in ({}, {"causal": True}, {"mask": mask}, {"mask": mask, "causal": True}):
        explicit, weights = scaled_dot_product_attention(q, k, v, return_weights=True, bias=bias, **options)
        torch.testing.assert_close(scaled_dot_product_attention(q, k, v, bias=bias, **options), explicit)
        if not options:
            without = scaled_dot_product_attention(q, k, v, return_weights=True)[1]
            torch.testing.assert_close(weights, (without.log() + bias).softmax(-1))
    nowhere = bias.masked_fill(torch.tensor([False, True, False, False])[:, None], -math.inf)
    explicit, _ = scaled_dot_product_attention(q, k, v, return_weights=True, bias=nowhere)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, bias=nowhere), explicit)
    assert (explicit[:, :, 1] == 0).all()
    one = scaled_dot_product_attention(q[:, :, :1], k, v, bias=bias[:, :1])
    torch.testing.assert_close(one, scaled_dot_product_attention(q, k, v, bias=bias)[:, :, :1])


@pytest.mark.parametrize("n_heads", [1, 4, 6, 8, 9, 12])
def test_alibi_equals_transformers_bloom(n_heads):
    attended = torch.ones(1, 7, dtype=torch.long)
    theirs = build_alibi_tensor(attended, n_heads, torch.float32).reshape(n_heads, 1, 7)
    ours = alibi_bias(n_heads, 3, 7)
    visible = causal_mask(3, 7)
    # BLOOM leaves out what is equal for all keys of a query, which the softmax does not see.
    ours, theirs = ((bias - bias[..., :1]).expand(n_heads, 3, 7)[:, visible] for bias in (ours, theirs))
    torch.testing.assert_close(ours, theirs)
    assert (alibi_bias(n_heads, 3, 7)[:, [0, 1, 2], [4, 5, 6]] == 0).all()  # the key at the query's own place


def test_llama_3_stretches_slow_turns_only():
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=1, max_position_embeddings=1024,
        rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 128},
    )  # fmt: skip
    positions = torch.arange(1000)
    cos, sin = rotary_angles(positions, 64, 1e4, RopeScaling(8.0, 1.0, 4.0, 128))
    expected = LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])
    torch.testing.assert_close(cos, expected[0][0, :, :32], atol=1e-4, rtol=0)
    torch.testing.assert_close(sin, expected[1][0, :, :32], atol=1e-4, rtol=0)
    plain, slow = rotary_angles(positions, 64, 1e4), rotary_angles(positions / 8, 64, 1e4)
    torch.testing.assert_close(cos[:, 0], plain[0][:, 0])
    torch.testing.assert_close(cos[:, -1], slow[0][:, -1])


def test_a_window_in_the_module_is_the_windows_mask():
    torch.manual_seed(0)
    windowed, plain = MultiHeadAttention(24, 4, 2, window=3), MultiHeadAttention(24, 4, 2)
    plain.load_state_dict(windowed.state_dict())
    x = torch.randn(2, 9, 24)
    expected = plain(x, sliding_window_mask(9, 3))
    torch.testing.assert_close(windowed(x), expected)
    cache = KVCache(2, 2, 9, 6, device=x.device, dtype=x.dtype)
    parts = [windowed(part, cache=cache) for part in x.split([2, 1, 1, 4, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected)


def test_a_window_is_for_causal_attention_only():
    with pytest.raises(ValueError, match="hides the future too"):
        MultiHeadAttention(24, 4, window=3)(torch.randn(1, 5, 24), causal=False)


def test_cross_attention_equals_torch():
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(24, 4, bias=True), nn.MultiheadAttention(24, 4, batch_first=True)
    ours.qkv.weight.data, ours.qkv.bias.data = theirs.in_proj_weight.data, theirs.in_proj_bias.data
    ours.output = theirs.out_proj
    x, memory = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    expected, expected_weights = theirs(x, memory, memory, average_attn_weights=False)
    out, weights = ours(x, causal=False, memory=ours.keys_values(memory), return_weights=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(weights, expected_weights)
