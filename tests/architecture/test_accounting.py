"""The counts equal what the real model holds, computes and keeps."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.accounting import cache_bytes, forward_flops, parameter_count, weight_bytes

SMALL = TransformerConfig(vocab_size=101, d_model=24, n_layers=3, n_heads=6, d_ff=40, context_length=64)
CONFIGS = {
    "Llama's choices": {},
    "GPT-2's choices": {"positions": "learned", "norm": "layernorm", "feed_forward": "gelu_tanh", "bias": True},
    "layer norm without bias": {"norm": "layernorm"},
    "the norms of 2017": {
        "norm": "layernorm",
        "norm_position": "post",
        "positions": "sinusoidal",
        "feed_forward": "relu",
    },
    "BERT's norms": {"norm": "layernorm", "norm_position": "post", "embedding_norm": True, "bias": True},
    "output norms, one over all heads": {"norm_position": "output", "qk_norm": "projection", "n_kv_heads": 2},
    "sandwich norms, one a head": {"norm_position": "sandwich", "qk_norm": "head", "n_kv_heads": 1},
    "untied, wide heads": {"tied_embeddings": False, "d_head": 10, "n_kv_heads": 3, "feed_forward": "geglu"},
    "windows": {"window": 4, "full_attention_every": 2, "scaled_embeddings": True},
    "ALiBi": {"positions": "alibi", "feed_forward": "gelu"},
    "squared ReLU": {"qk_norm": "head", "feed_forward": "relu2"},
    "no positions": {"positions": "none", "n_kv_heads": 2},
    "an induction head": {"induction_head": True, "n_kv_heads": 2},
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def model(request) -> TransformerLM:
    return TransformerLM(replace(SMALL, **request.param)).eval()


def counted(compute) -> int:
    """The operations that PyTorch's own counter sees; its list lacks the CPU's fused attention, so that is spelled out."""
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def test_parameters_are_those_that_the_model_holds(model):
    parts = parameter_count(model.config)
    assert sum(parts.values()) == sum(parameter.numel() for parameter in model.parameters())
    held = {
        "embedding": [model.embedding],
        "attention": [layer for block in model.blocks for layer in (block.attention.qkv, block.attention.output)],
        "feed-forward": [block.feed_forward for block in model.blocks],
    }
    for part, modules in held.items():
        assert parts[part] == sum(parameter.numel() for module in modules for parameter in module.parameters()), part


@pytest.mark.parametrize(("n_past", "n_new"), [(0, 1), (0, 7), (7, 1), (5, 3)])
def test_operations_are_those_that_pytorch_counts(model, n_past, n_new):
    ids = torch.arange(n_past + n_new)[None]
    cache = model.new_cache(1, n_past + n_new)
    if n_past:
        model(ids[:, :n_past], cache)
    assert sum(forward_flops(model.config, n_new, n_past).values()) == counted(lambda: model(ids[:, n_past:], cache))


def test_logits_of_the_last_position_alone_cost_less():
    model = TransformerLM(SMALL)
    ids = torch.arange(9)[None]
    flops = forward_flops(SMALL, 9, n_logits=1)
    assert sum(flops.values()) == counted(lambda: model.unembed(model.residual(ids)[:, -1]))
    assert flops["unembedding"] * 9 == forward_flops(SMALL, 9)["unembedding"]


def test_one_query_with_one_key_by_hand():
    config = TransformerConfig(vocab_size=5, d_model=2, n_layers=1, n_heads=1, d_ff=3, context_length=8)
    assert forward_flops(config, n_new=1, n_past=3) == {
        "projections": 2 * 4 * (2 * 2),  # four matrices of 2 × 2
        "scores and mixture": 2
        * (4 * 2 + 4 * 2),  # four dot products of 2 numbers, then four values of 2 numbers added up
        "feed-forward": 2 * 3 * (2 * 3),  # three matrices of 2 × 3
        "unembedding": 2 * (2 * 5),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cache_bytes_are_the_tensors_sizes(model, dtype):
    cache = model.to(dtype).new_cache(1, 13)
    assert cache_bytes(model.config, 13, dtype) == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache)


def test_every_weight_but_looked_up_rows_is_read(model):
    every = sum(parameter.nbytes for parameter in model.parameters())
    looked_up = 0 if model.config.tied_embeddings else model.embedding.weight.nbytes
    if model.position_embedding is not None:
        looked_up += model.position_embedding.weight.nbytes
    assert weight_bytes(model.config) == every - looked_up


def test_the_real_model(smollm2):
    model, _ = smollm2
    parts = parameter_count(model.config)
    assert sum(parts.values()) == sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    ids = torch.arange(6)[None]
    assert sum(forward_flops(model.config, 6).values()) == counted(lambda: model(ids))
    cache = model.new_cache(1, 6)
    assert cache_bytes(model.config, 6) == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache)


def test_an_empty_step_is_refused():
    with pytest.raises(ValueError, match="n_new must be at least 1 and n_past at least 0, not 0 and 3"):
        forward_flops(SMALL, 0, 3)
