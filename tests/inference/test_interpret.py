"""Attention maps and switched-off heads, against the model's own layers."""

from dataclasses import replace

import pytest
import torch

from course_lib.architecture import EncoderDecoder, TransformerConfig, TransformerLM
from course_lib.architecture.attention import padding_mask
from course_lib.devices import seed_everything
from course_lib.inference.interpret import (
    capture_attention,
    capture_cross_attention,
    changed,
    gate_slopes,
    heads_off,
    largest_tensor,
    value_norms,
)

CONFIG = TransformerConfig(vocab_size=50, d_model=24, n_layers=3, n_heads=6, n_kv_heads=2, d_ff=40, context_length=16)


@pytest.fixture
def model():
    seed_everything(0)
    model = TransformerLM(CONFIG).eval()
    for block in model.blocks:
        block.attention.qkv.weight.data.mul_(30)  # freshly initialised heads attend evenly; make them choose
    return model


@pytest.fixture
def ids():
    return torch.randint(50, (9,), generator=torch.Generator().manual_seed(1))


def test_maps_are_the_weights_that_the_layers_use(model, ids):
    inputs = []
    hook = model.blocks[1].attention.register_forward_pre_hook(
        lambda _m, args, kw: inputs.append((args, kw)), with_kwargs=True
    )
    logits = model(ids[None])[0]
    hook.remove()
    args, kwargs = inputs[0]
    _, weights = model.blocks[1].attention(*args, **kwargs, return_weights=True)
    capture = capture_attention(model, ids)
    assert capture.maps.shape == (3, 6, 9, 9)
    torch.testing.assert_close(capture.maps[1].float() / 255, weights[0], atol=0.5 / 255 + 1e-5, rtol=0)
    torch.testing.assert_close(capture.weights(1, 2), capture.maps[1, 2] / 255)
    torch.testing.assert_close(capture.logits, logits)


def test_the_model_is_as_before(model, ids):
    before = model(ids[None])
    seen = []
    capture_attention(model, ids, off=[(0, 1)], on_layer=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(model(ids[None]), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_hooks_are_gone_after_an_error(model):
    with pytest.raises(IndexError):
        capture_attention(model, torch.tensor([50]), off=[(0, 1)])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_switching_heads_off_equals_zero_columns_in_the_output_projection(model, ids):
    with heads_off(model, [(0, 1), (2, 5), (2, 0)]):
        switched = model(ids[None])
    assert not torch.allclose(switched, model(ids[None]))
    for layer, head in [(0, 1), (2, 5), (2, 0)]:
        model.blocks[layer].attention.output.weight.data[:, head * 4 : head * 4 + 4] = 0
    torch.testing.assert_close(switched, model(ids[None]))


def test_output_that_is_changed_is_what_the_next_module_gets(model, ids):
    output, kept = model.blocks[1].attention.output, []
    with changed(kept.append, output):
        assert torch.equal(model(ids[None]), before := model(ids[None]))
    assert torch.equal(kept[0], kept[1]) and not output._forward_hooks
    with changed(torch.zeros_like, output):
        without = model(ids[None])
    with heads_off(model, [(1, head) for head in range(6)]):
        torch.testing.assert_close(without, model(ids[None]))
    with changed(lambda out: kept[0], output):
        assert torch.equal(model(ids[None]), before)


def test_slopes_of_gates_are_those_of_the_output_projection(model, ids):
    slopes = gate_slopes(model.double(), ids)

    def bits(layer, head, gate):
        weight = model.blocks[layer].attention.output.weight
        columns, kept = weight.data[:, head * 4 : head * 4 + 4], weight.data.clone()
        columns.mul_(gate)
        loss = torch.nn.functional.cross_entropy(model(ids[None])[0, :-1], ids[1:]).item() / 0.6931471805599453
        weight.data.copy_(kept)
        return loss

    for layer, head in [(0, 1), (1, 3), (2, 5)]:
        rise = (bits(layer, head, 1.01) - bits(layer, head, 0.99)) / 0.02
        assert slopes[layer, head].item() == pytest.approx(rise, rel=0.01)
    assert slopes.shape == (3, 6)


def test_unknown_head_is_named(model, ids):
    with pytest.raises(ValueError, match="no head 6 in layer 0"):
        capture_attention(model, ids, off=[(0, 6)])


def test_value_norms_are_the_lengths_of_the_projected_values(model, ids):
    inputs = []
    hook = model.blocks[2].attention.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    model(ids[None])
    hook.remove()
    values = inputs[0] @ model.blocks[2].attention.qkv.weight[-8:].T  # two key/value heads of four numbers stand last
    norms = value_norms(model, ids)
    assert norms.shape == (3, 2, 9)
    torch.testing.assert_close(norms[2], values[0].unflatten(-1, (2, 4)).norm(dim=-1).T)


def test_value_norms_are_of_the_heads_alone_whatever_else_a_cache_holds(ids):
    model = TransformerLM(replace(CONFIG, ngram_rows=7, induction_head=True)).eval()
    assert value_norms(model, ids).shape == (3, 2, 9)


def test_largest_tensor_counts_bytes():
    assert largest_tensor(lambda: torch.ones(3, 5) @ torch.ones(5, 7, dtype=torch.float32)) == 4 * 5 * 7
    assert largest_tensor(lambda: None) == 0


@torch.no_grad()
def test_cross_attention_is_shown_as_it_is_and_leaves_no_trace():
    config = TransformerConfig(vocab_size=20, d_model=24, n_layers=2, n_heads=4, d_ff=32, context_length=16)
    torch.manual_seed(0)
    model = EncoderDecoder(config).eval()
    source, target = torch.randint(20, (3, 7)), torch.randint(20, (3, 5))
    mask = padding_mask(torch.tensor([7, 4, 6]), 7)
    before = model(source, target, mask)
    maps = capture_cross_attention(model, source, target, mask)
    assert maps.shape == (2, 3, 4, 5, 7)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3, 4, 5))
    assert (maps[:, 1, :, :, 4:] == 0).all()
    assert torch.equal(model(source, target, mask), before)
