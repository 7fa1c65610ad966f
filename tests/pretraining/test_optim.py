"""The optimizers against torch's own, the schedules by hand, and what orthogonalising promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.pretraining import optim
from course_lib.pretraining.optim import (
    AdamW,
    Muon,
    clip_gradients,
    cosine,
    for_model,
    orthogonalise,
    warmup_stable_decay,
)

SHAPES = st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)
MATRICES = [(6, 6), (6, 6), (4, 9), (9, 4), (1, 5)]


def twins(shapes, dtype=torch.float64):
    first = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    return first, [weight.detach().clone().requires_grad_() for weight in first]


def train(optimizers, sides, n_steps=6):
    """Give both sides the same gradients, one of them none, and return the largest difference of their weights."""
    for step in range(n_steps):
        for ours, theirs in zip(*sides, strict=True):
            ours.grad = torch.randn_like(ours) * 10.0 ** (step - 3)
            theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    return max(float((ours - theirs).detach().abs().max()) for ours, theirs in zip(*sides, strict=True))


@settings(max_examples=25)
@given(SHAPES, st.sampled_from([0.0, 0.1]), st.sampled_from([(0.9, 0.95), (0.0, 0.5), (0.9, 0.999)]))
def test_adamw_equals_torch(shapes, weight_decay, betas):
    seed_everything(0)
    ours, theirs = twins(shapes)
    options = {"lr": 0.03, "betas": betas, "eps": 1e-6, "weight_decay": weight_decay}
    assert train([AdamW(ours, **options), torch.optim.AdamW(theirs, **options)], (ours, theirs)) < 1e-12


def test_adamw_moves_the_rows_of_a_table_that_were_used_as_torch_does():
    seed_everything(0)
    ours, theirs = twins([(7, 3)])
    options = {"lr": 0.03, "betas": (0.9, 0.95), "eps": 1e-12}  # which they add before and after a division
    pair = (
        AdamW([{"params": ours, "is_table": True}], weight_decay=0.0, **options),
        torch.optim.SparseAdam(theirs, **options),
    )
    for used in ([0, 3], [3, 6], [5], [0, 1, 2, 3, 4, 5, 6]):
        gradient = torch.zeros_like(ours[0])
        gradient[used] = torch.randn(len(used), 3, dtype=gradient.dtype)
        ours[0].grad, theirs[0].grad = gradient, gradient.to_sparse(1)
        before = ours[0].detach().clone()
        for optimizer in pair:
            optimizer.step()
        assert (ours[0] != before).any(dim=1).nonzero()[:, 0].tolist() == used
    torch.testing.assert_close(ours[0], theirs[0])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_muon_equals_torch(weight_decay, monkeypatch):
    monkeypatch.setattr(optim, "pick_dtype", lambda device: torch.bfloat16)  # torch always orthogonalises in bfloat16
    seed_everything(0)
    ours, theirs = twins(MATRICES, torch.float32)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": weight_decay}
    # bfloat16 has 3 digits, and a batch of products rounds elsewhere than single ones
    assert train([Muon(ours, **options), torch.optim.Muon(theirs, **options)], (ours, theirs)) < 0.02


def test_muon_in_float64_follows_its_definition(monkeypatch):
    monkeypatch.setattr(optim, "pick_dtype", lambda device: torch.float64)
    seed_everything(0)
    ours, theirs = twins(MATRICES)
    gradients = [[torch.randn_like(weight) for weight in ours] for _ in range(3)]
    muon = Muon(ours, lr=0.1, momentum=0.9, weight_decay=0.2)
    momenta = [torch.zeros_like(weight) for weight in ours]
    for step in gradients:
        for weight, gradient in zip(ours, step, strict=True):
            weight.grad = gradient.clone()
        muon.step()
        for i, (weight, gradient) in enumerate(zip(theirs, step, strict=True)):
            momenta[i] = 0.9 * momenta[i] + 0.1 * gradient
            u, s, vh = torch.linalg.svd(0.1 * gradient + 0.9 * momenta[i], full_matrices=False)
            s = s / s.norm()
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            rows, columns = weight.shape
            with torch.no_grad():
                weight -= 0.1 * 0.2 * weight + 0.1 * max(1, rows / columns) ** 0.5 * (u * s) @ vh
    for weight, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(weight, expected)


def test_muon_is_for_matrices():
    with pytest.raises(ValueError, match=r"\(3,\): give it to AdamW"):
        Muon([torch.zeros(3, requires_grad=True)])


@pytest.mark.parametrize("shape", [(20, 20), (8, 40), (40, 8), (3, 2, 16, 12)])
def test_orthogonalised_matrices_change_every_direction_about_equally(shape):
    seed_everything(0)
    matrices = torch.randn(shape)
    orthogonal = orthogonalise(1000 * matrices)
    singular = torch.linalg.svdvals(matrices)
    kept = singular > 0.03 * singular[..., :1]
    now = torch.linalg.svdvals(orthogonal)
    assert now[kept].min() > 0.5 and now.max() < 1.3
    torch.testing.assert_close(orthogonal, orthogonalise(matrices), atol=1e-4, rtol=1e-3)  # the length does not matter
    assert orthogonalise(torch.zeros(4, 3)).abs().max() == 0


def test_matrices_of_one_shape_together_are_as_if_alone():
    seed_everything(0)
    matrices = torch.randn(5, 12, 7)
    torch.testing.assert_close(orthogonalise(matrices), torch.stack([orthogonalise(matrix) for matrix in matrices]))


@given(st.sampled_from([0.1, 1.0, 1e6]), SHAPES)
@settings(max_examples=25)
def test_clipping_equals_torch(max_norm, shapes):
    seed_everything(0)
    ours, theirs = twins(shapes)
    for a, b in zip(ours, theirs, strict=True):
        a.grad = torch.randn_like(a)
        b.grad = a.grad.clone()
    without = torch.zeros(3, requires_grad=True)  # a parameter that got no gradient
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(clip_gradients([*ours, without], max_norm), expected)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_no_limit_leaves_the_gradient_alone():
    weight = torch.zeros(2, requires_grad=True)
    weight.grad = torch.tensor([3e8, 4e8])
    assert float(clip_gradients([weight], math.inf)) == 5e8 and weight.grad.tolist() == [3e8, 4e8]


def test_cosine_equals_torch_and_warms_up():
    weight = torch.zeros(1, requires_grad=True)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([weight], lr=1.0), T_max=20, eta_min=0.1)
    for step in range(20):
        assert cosine(step, 20, lowest=0.1) == pytest.approx(theirs.get_last_lr()[0])
        theirs.optimizer.step()
        theirs.step()
    assert [cosine(step, 10, warmup=3) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_warmup_stable_decay_by_hand():
    factors = [warmup_stable_decay(step, 10, warmup=1, decay=0.4) for step in range(11)]
    assert factors == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    assert [warmup_stable_decay(step, 3, decay=0.0) for step in range(3)] == [1, 1, 1]


CONFIG = TransformerConfig(
    vocab_size=20, d_model=8, n_layers=2, n_heads=2, d_ff=12, context_length=8, qk_norm="head", ngram_rows=30
)


def test_every_weight_of_a_model_has_one_optimizer():
    model = TransformerLM(CONFIG)
    model.blocks[0].feed_forward.down.weight.requires_grad_(False)
    muon, adamw = for_model(model, learning_rate=0.001, muon_learning_rate=0.02, weight_decay=0.1)
    names = {weight: name for name, weight in model.named_parameters()}
    by_muon = {names[weight] for group in muon.param_groups for weight in group["params"]}
    matrices = ("attention.qkv.weight", "attention.output.weight", "feed_forward.up.weight", "feed_forward.down.weight")
    expected = {f"blocks.{layer}.{matrix}" for layer in (0, 1) for matrix in matrices}
    assert by_muon == expected - {"blocks.0.feed_forward.down.weight"}
    decays = {names[w]: group["weight_decay"] for group in adamw.param_groups for w in group["params"]}
    assert decays.keys() == set(names.values()) - expected
    assert {name for name, decay in decays.items() if decay} == {"embedding.weight"}
    rates = {names[w]: group["lr"] for group in adamw.param_groups for w in group["params"]}
    assert rates.pop("ngrams.table") == 0.0005 and set(rates.values()) == {0.001}
    (alone,) = for_model(model, learning_rate=0.001, muon_learning_rate=None, weight_decay=0.1)
    assert sum(len(group["params"]) for group in alone.param_groups) == len(names) - 1


def test_both_train_a_model():
    for muon_learning_rate in (0.02, None):
        seed_everything(0)
        model = TransformerLM(CONFIG)
        optimizers = for_model(model, learning_rate=0.01, muon_learning_rate=muon_learning_rate, weight_decay=0.0)
        ids = torch.randint(20, (4, 9))
        losses = []
        for _ in range(100):
            loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 < 2.5 < losses[0]
