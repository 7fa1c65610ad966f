"""Steering: the vector against streams taken apart by hand, what is added where, and that no slider touches another."""

from dataclasses import replace
from threading import Thread

import pytest
import torch

from course_lib.applications.steering import mean_stream, steered, style_vector
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.inference import Sampling, generate, roll_out

CONFIG = TransformerConfig(vocab_size=50, d_model=24, n_layers=3, n_heads=6, n_kv_heads=2, d_ff=40, context_length=32)
TEXTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3]]


@pytest.fixture
def model():
    seed_everything(0)
    return TransformerLM(CONFIG).eval()


def stream_behind(model: TransformerLM, ids: list[int], layer: int) -> torch.Tensor:
    """Return the stream (position, d_model) behind `layer`, by a model that ends there."""
    shorter = TransformerLM(replace(CONFIG, n_layers=layer + 1)).eval()
    shorter.load_state_dict({name: value for name, value in model.state_dict().items() if name in shorter.state_dict()})
    shorter.final_norm = torch.nn.Identity()
    with torch.no_grad():
        return shorter.residual(torch.tensor([ids]))[0]


@pytest.mark.parametrize("layer", range(3))
def test_the_mean_is_over_texts_and_in_each_over_all_but_the_first_token(model, layer):
    expected = torch.stack([stream_behind(model, ids, layer)[1:].mean(dim=0) for ids in TEXTS]).mean(dim=0)
    torch.testing.assert_close(mean_stream(model, TEXTS, layer), expected)
    difference = mean_stream(model, TEXTS[:1], layer) - mean_stream(model, TEXTS[1:], layer)
    torch.testing.assert_close(style_vector(model, TEXTS[:1], TEXTS[1:], layer), difference)


@pytest.mark.parametrize("layer", range(3))
def test_the_vector_is_added_behind_its_layer_at_every_position(model, layer):
    vector = torch.randn(24)
    for at in range(3):
        streams = stream_behind(steered(model, vector, layer, -2.0), TEXTS[0], at), stream_behind(model, TEXTS[0], at)
        assert torch.equal(*streams)  # the weights are the same: what is added is added by the hook alone
    seen = {}
    other = steered(model, vector, layer, -2.0)
    for name, each in (("steered", other), ("plain", model)):
        each.blocks[layer].register_forward_hook(lambda _b, _a, stream, name=name: seen.update({name: stream[0]}))
        with torch.no_grad():
            each(torch.tensor([TEXTS[0]]))
    torch.testing.assert_close(seen["steered"], seen["plain"] - 2 * vector)


def test_strength_zero_changes_nothing_and_two_vectors_add_up(model):
    ids, (one, other) = torch.tensor([TEXTS[0]]), torch.randn(2, 24)
    assert torch.equal(steered(model, one, 1, 0.0)(ids), model(ids))
    both = steered(steered(model, one, 1, 2.0), other, 1, 3.0)
    torch.testing.assert_close(both(ids), steered(model, 2 * one + 3 * other, 1, 1.0)(ids))


def test_the_model_itself_is_as_before_and_its_weights_are_shared(model):
    ids = torch.tensor([TEXTS[0]])
    before = model(ids)
    other = steered(model, torch.randn(24), 1, 5.0)
    mean_stream(model, TEXTS, 1)
    assert not torch.equal(other(ids), before) and torch.equal(model(ids), before)
    assert not any(part._forward_hooks for part in model.modules())
    assert all(mine is theirs for mine, theirs in zip(model.parameters(), other.parameters(), strict=True))


def test_sliders_do_not_touch_each_other_even_token_by_token_and_in_threads(model):
    vectors = {strength: steered(model, torch.ones(24), 1, strength) for strength in (-4.0, 0.0, 4.0)}
    alone = {strength: list(generate(each, [3, 1], 20)) for strength, each in vectors.items()}
    assert len({*map(tuple, alone.values())}) == 3
    streams = [generate(each, [3, 1], 20) for each in vectors.values()]
    assert list(map(list, zip(*zip(*streams, strict=True), strict=True))) == list(alone.values())
    together = {}
    threads = [
        Thread(target=lambda s=strength, m=each: together.update({s: list(generate(m, [3, 1], 20))}))
        for strength, each in vectors.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_batch_writes_what_one_writes_alone(model):
    other, noise = steered(model, torch.ones(24), 1, 3.0), torch.rand(1, 20, generator=torch.Generator().manual_seed(0))
    together = roll_out(other, [[3, 1]], 20, Sampling(1.0), noise=noise).answers[0]
    alone = generate(other, [3, 1], 20, Sampling(1.0), generator=torch.Generator().manual_seed(0))
    assert together == list(alone)


def test_the_model_goes_on_learning_and_stays_in_training(model):
    model.train()
    mean_stream(model, TEXTS, 0)
    assert model.training and all(part.training for part in model.modules())
    steered(model, torch.ones(24), 0, 1.0)(torch.tensor([TEXTS[0]])).sum().backward()
    assert model.embedding.weight.grad is not None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layer": 3}, "layer must be at least 0 and at most 2, not 3"),
        ({"layer": -1}, "layer"),
        ({"layer": True}, "layer"),
        ({"strength": float("nan")}, "strength"),
        ({"strength": float("-inf")}, "not finite"),
        ({"strength": 1e300}, "not finite"),
        ({"strength": "2"}, "strength"),
        ({"vector": torch.ones(23)}, r"the shape \(24,\), not \(23,\)"),
        ({"vector": torch.full((24,), torch.nan)}, "not finite"),
    ],
)
def test_nonsense_is_refused(model, wrong, message):
    with pytest.raises(ValueError, match=message):
        steered(**{"model": model, "vector": torch.ones(24), "layer": 1, "strength": 1.0, **wrong})


@pytest.mark.parametrize(
    ("texts", "message"),
    [([], "no text"), ([[3, 1], [4]], "text 1 must have 2 to 32"), ([[1] * 33], "not 33"), ([[3, 50]], "the id 50")],
)
def test_texts_without_a_mean_are_refused(model, texts, message):
    with pytest.raises(ValueError, match=message):
        mean_stream(model, texts, 1)
