"""DPO and its kin, against `trl`'s on the same model and masks."""

import math

import pytest
import torch
from trl_peers import dpo_trainer, gradients, log_probs_of

from course_lib.alignment import answer_log_probs, dpo_loss, implicit_rewards

KINDS = [("sigmoid", 0.0), ("robust", 0.2), ("ipo", 0.0)]


@pytest.mark.parametrize(("kind", "label_noise"), KINDS)
def test_loss_gradients_and_rewards_equal_trls(tmp_path, kind, label_noise):
    trainer = dpo_trainer(tmp_path, beta=0.3, loss_type=kind, label_smoothing=label_noise)
    model, batch = trainer.model, trainer.data_collator(list(trainer.train_dataset))
    theirs = trainer._compute_loss(model, batch, return_outputs=False)

    ids, attention_mask, written = batch["input_ids"], batch["attention_mask"], batch["completion_mask"].bool()
    assert len(written.sum(dim=1).unique()) > 3  # answers of many lengths
    with torch.no_grad():
        reference = answer_log_probs(log_probs_of(trainer.ref_model, ids, attention_mask), written)
    policy = answer_log_probs(log_probs_of(model, ids, attention_mask), written)
    if kind == "ipo":  # there trl takes the mean over an answer's tokens
        policy, reference = policy / written.sum(dim=1), reference / written.sum(dim=1)
    ours = dpo_loss(*policy.chunk(2), *reference.chunk(2), 0.3, kind, label_noise=label_noise)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients(model, ours), gradients(model, theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)
    if kind != "ipo":
        rewards = implicit_rewards(policy, reference, 0.3).chunk(2)
        for name, reward in zip(("chosen", "rejected"), rewards, strict=True):
            assert reward.mean().item() == pytest.approx(trainer._metrics["eval"][f"rewards/{name}"][0], rel=1e-5)


def four(n: int = 5) -> list[torch.Tensor]:
    return list(-20 * torch.rand(4, n, generator=torch.Generator().manual_seed(0)))


def test_at_the_reference_it_is_log_2_and_pulls_both_answers_equally():
    chosen, rejected = (x.requires_grad_() for x in four()[:2])
    for kind, label_noise in KINDS[:2]:
        loss = dpo_loss(chosen, rejected, chosen, rejected, 0.4, kind, label_noise=label_noise)
        assert loss.item() == pytest.approx(math.log(2))
        up, down = torch.autograd.grad(loss, (chosen, rejected))
        assert torch.equal(up, -down) and (up < 0).all()  # a step down makes the chosen answer likelier
    ipo = dpo_loss(chosen, rejected, chosen, rejected, 0.4, "ipo")
    assert ipo.item() == pytest.approx((1 / 0.8) ** 2)


@pytest.mark.parametrize(("kind", "label_noise"), KINDS)
def test_the_sum_is_over_pairs_and_the_reference_has_no_gradient(kind, label_noise):
    given = [x.requires_grad_() for x in four()]
    options = {"kind": kind, "label_noise": label_noise}
    whole = dpo_loss(*given, **options, reduction="sum")
    parts = [dpo_loss(*(x[rows] for x in given), **options, reduction="sum") for rows in (slice(2), slice(2, 5))]
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(dpo_loss(*given, **options), whole / 5)
    whole.backward()
    assert [x.grad is None for x in given] == [False, False, True, True]


def test_robust_is_in_the_mean_over_noisy_labels_the_loss_of_the_right_ones():
    a, b, reference_a, reference_b = four()
    right = dpo_loss(a, b, reference_a, reference_b)
    as_labelled = dpo_loss(a, b, reference_a, reference_b, kind="robust", label_noise=0.3)
    turned_round = dpo_loss(b, a, reference_b, reference_a, kind="robust", label_noise=0.3)
    torch.testing.assert_close(0.7 * as_labelled + 0.3 * turned_round, right)


def test_ipo_has_a_target_where_the_sigmoid_drives_on():
    zero = torch.zeros(1)
    pulls = {}
    for kind in ("sigmoid", "ipo"):
        for margin in (2.4, 2.6):  # in nats; 1 / (2 · 0.2) = 2.5 is IPO's target
            chosen = torch.tensor([margin], requires_grad=True)
            pulls[kind, margin] = torch.autograd.grad(dpo_loss(chosen, zero, zero, zero, 0.2, kind), chosen)[0].item()
    assert pulls["ipo", 2.4] < 0 < pulls["ipo", 2.6]
    assert pulls["sigmoid", 2.4] < pulls["sigmoid", 2.6] < 0


def test_neither_prompt_nor_padding_counts_in_an_answers_log_probability():
    log_probs = torch.tensor([[torch.nan, -1.0, -2.0, -4.0], [-8.0, -torch.inf, -3.0, torch.nan]])
    written = torch.tensor([[False, True, True, False], [False, False, True, False]])
    assert answer_log_probs(log_probs, written).tolist() == [-3.0, -3.0]


def test_a_far_margin_is_no_overflow():
    far = torch.tensor([1e6], requires_grad=True)
    loss = dpo_loss(-far, far, torch.zeros(1), torch.zeros(1), 1.0)
    assert loss.item() == 2e6 and torch.autograd.grad(loss, far)[0].isfinite()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta": 0}, "beta must be positive"),
        ({"beta": math.nan}, "beta"),
        ({"kind": "hinge"}, "kind"),
        ({"kind": "robust", "label_noise": 0.5}, "label_noise must be below 0.5"),
        ({"kind": "robust", "label_noise": -0.1}, "label_noise"),
        ({"kind": "robust", "label_noise": math.nan}, "label_noise"),
        ({"kind": "ipo", "label_noise": 0.1}, "label_noise is for"),
        ({"reduction": "none"}, "reduction"),
        ({"chosen": torch.zeros(5, 1)}, "one shape"),
    ],
)
def test_nonsense_is_refused(wrong, message):
    names = ("chosen", "rejected", "reference_chosen", "reference_rejected")
    with pytest.raises(ValueError, match=message):
        dpo_loss(**dict(zip(names, four(), strict=True)) | wrong)
