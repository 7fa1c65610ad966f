"""The fused step of generation against the model's own forward pass."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.attention import RopeScaling
from course_lib.devices import seed_everything
from course_lib.inference import generate
from course_lib.inference.fused_step import FusedStep
from course_lib.inference.interpret import heads_off

LLAMA = TransformerConfig(vocab_size=50, d_model=24, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=40, context_length=32)
OTHERS = [
    {"positions": "learned"}, {"norm": "layernorm"}, {"norm_position": "sandwich"}, {"feed_forward": "geglu"},
    {"bias": True}, {"qk_norm": "head"}, {"window": 4}, {"scaled_embeddings": True}, {"embedding_norm": True},
]  # fmt: skip


def model_of(config):
    seed_everything(0)
    model = TransformerLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms too: a weight of 1 could be forgotten unseen
            parameter.add_(torch.randn_like(parameter) / 5)
    return model


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        replace(LLAMA, n_kv_heads=6, d_head=10, tied_embeddings=False, norm_eps=0.1),
        replace(LLAMA, n_kv_heads=1, rope_theta=500.0, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8)),
    ],
    ids=["grouped", "wide heads, untied", "multi-query, scaled rotation"],
)
def test_every_step_equals_the_forward_pass(config):
    model, ids = model_of(config), torch.randint(50, (1, 20), generator=torch.Generator().manual_seed(1))
    cache = model.new_cache(1, 20)
    with torch.inference_mode():
        assert FusedStep.fits(model)
        model.residual(ids[:, :6], cache)  # what the forward pass put into the cache is continued
        step = FusedStep(model, cache)
        streams = [step(int(token)).clone() for token in ids[0, 6:]]
        torch.testing.assert_close(torch.stack(streams), model.residual(ids)[0, 6:], atol=1e-4, rtol=0)
        assert {layer.length for layer in cache} == {20}


@pytest.mark.parametrize("change", OTHERS, ids=[next(iter(change)) for change in OTHERS])
def test_another_architecture_goes_through_its_own_forward_pass(change):
    model = model_of(replace(LLAMA, **change))
    assert not FusedStep.fits(model)
    assert list(generate(model, [3, 1, 4], 10)) == list(generate(model, [3, 1, 4], 10, cached=False))


def test_a_hook_or_a_module_put_in_is_not_passed_over():
    model = model_of(LLAMA)
    plain = list(generate(model, [3, 1, 4], 10))
    with heads_off(model, [(0, 1), (1, 0), (1, 4)]):
        assert not FusedStep.fits(model)
        silenced = list(generate(model, [3, 1, 4], 10))
        assert silenced == list(generate(model, [3, 1, 4], 10, cached=False)) != plain
    assert FusedStep.fits(model)
    model.blocks[0].feed_forward.down = nn.Sequential(model.blocks[0].feed_forward.down)
    assert not FusedStep.fits(model)


def test_half_precision_goes_through_the_forward_pass():
    assert not FusedStep.fits(model_of(LLAMA).bfloat16())
