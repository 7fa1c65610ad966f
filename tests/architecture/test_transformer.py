"""The decoder-only model: its settings, its cache, what it may see, and where its tensors live."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from on_meta import OnMeta
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.architecture.attention import scaled_dot_product_attention
from course_lib.architecture.transformer import FeedForward, LayerNorm, RMSNorm
from course_lib.devices import seed_everything
from course_lib.inference.interpret import heads_off

LLAMA = TransformerConfig(vocab_size=50, d_model=24, n_layers=3, n_heads=6, n_kv_heads=2, d_ff=40, context_length=16)
GPT2 = replace(LLAMA, n_kv_heads=None, positions="learned", norm="layernorm", feed_forward="gelu_tanh", bias=True)
CONFIGS = pytest.mark.parametrize(
    "config", [LLAMA, GPT2, replace(LLAMA, tied_embeddings=False)], ids=["llama", "gpt2", "untied"]
)


def build(config: TransformerConfig) -> tuple[TransformerLM, torch.Tensor]:
    generator = seed_everything(0)
    return TransformerLM(config).eval(), torch.randint(config.vocab_size, (2, 9), generator=generator)


@CONFIGS
def test_the_past_does_not_depend_on_the_future(config):
    model, ids = build(config)
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % config.vocab_size
    torch.testing.assert_close(model(changed)[:, :5], model(ids)[:, :5])
    assert not torch.allclose(model(changed)[:, 5:], model(ids)[:, 5:])


@CONFIGS
def test_cached_equals_uncached(config):
    model, ids = build(config)
    cache = model.new_cache(2, 9)
    parts = [model(ids[:, :4], cache), model(ids[:, 4:7], cache), model(ids[:, 7:8], cache), model(ids[:, 8:], cache)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids))


def test_left_padding_masked_out_changes_nothing():
    model, ids = build(LLAMA)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(12) >= 3)[None, None, None]
    torch.testing.assert_close(model(padded, mask=mask)[:, 3:], model(ids))  # rotary positions are relative


def test_norms_equal_torch():
    x = torch.randn(2, 3, 24) * 5 + 1
    torch.testing.assert_close(LayerNorm(24, 1e-5)(x), F.layer_norm(x, (24,), eps=1e-5))
    torch.testing.assert_close(RMSNorm(24, 1e-5)(x), F.rms_norm(x, (24,), eps=1e-5))


def test_the_residual_stream_keeps_its_scale_with_depth_at_initialisation():
    """Each of 2 n_layers writes is scaled by 1 / √(2 n_layers), so depth hardly changes the stream's size."""
    sizes = []
    for n_layers in (2, 32):
        model, ids = build(replace(LLAMA, d_model=96, d_ff=384, n_layers=n_layers))
        x = []
        model.final_norm.register_forward_pre_hook(lambda _module, args, x=x: x.append(args[0].detach().std()))
        model(ids)
        sizes.append(float(x[0]))
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.25)


def test_too_long_input_is_named():
    model, _ = build(LLAMA)
    with pytest.raises(ValueError, match="context of 16 tokens"):
        model(torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "batchnorm"},
        {"positions": "absolute"},
        {"feed_forward": "reglu"},
        {"qk_norm": "layer"},
        {"norm_position": "none"},
        {"n_layers": 0},
        {"rope_theta": -1.0},
    ],
)
def test_config_rejects_what_it_does_not_know(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(LLAMA, **change)


@CONFIGS
def test_every_tensor_lives_on_the_models_device(config):
    with FakeTensorMode():
        with torch.device("meta"):
            model = TransformerLM(config)
            ids = torch.zeros(2, 9, dtype=torch.long)
            mask = torch.ones(5, 9, dtype=torch.bool)
            q = torch.zeros(2, 6, 9, 4)
        with OnMeta(), heads_off(model, [(0, 1)]):
            model(ids)
            cache = model.new_cache(2, 9)
            model(ids[:, :4], cache)
            model(ids[:, 4:], cache, mask=mask)
            scaled_dot_product_attention(q, q, q, causal=True, return_weights=True)


def test_only_devices_names_a_device():
    literal = re.compile(r"""\.cuda\(|["'](?:cpu|cuda|mps|xpu)(?::\d+)?["']""")
    for path in Path(__file__).parents[2].glob("course_lib/**/*.py"):
        if path.name != "devices.py":
            assert not literal.search(path.read_text()), f"{path.name} names a device"


def test_squared_relu():
    feed_forward = FeedForward(replace(LLAMA, feed_forward="relu2", d_model=2, n_heads=1, d_ff=2))
    with torch.no_grad():
        feed_forward.up.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
        feed_forward.down.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 5.0]]))
    assert feed_forward(torch.tensor([[1.0, 1.0]])).tolist() == [[9.0, 0.0]]  # relu([3, −1])² = [9, 0]
