"""The divergence and its estimates, against sums over all that can be drawn."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.alignment import exact_kl, kl_estimates


def two_policies(distance: float) -> tuple[Tensor, Tensor]:
    """The logits (position, vocab) of a policy and of a reference, in float64."""
    generator = torch.Generator().manual_seed(0)
    logits, step = (torch.randn(3, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    return logits, logits + distance * step


def every_estimate(logits: Tensor, reference_logits: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The probability (position, vocab) of each token that may be drawn, and the three estimates that it then gives."""
    log_p, log_r = logits.log_softmax(dim=-1), reference_logits.log_softmax(dim=-1)
    return log_p.exp(), list(kl_estimates(log_p, log_r))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
def test_the_exact_one_is_torchs(shape):
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    expected = F.kl_div(reference.log_softmax(-1), logits.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(exact_kl(logits, reference), expected)
    assert not torch.allclose(exact_kl(reference, logits), expected, rtol=0.05)  # the direction matters
    assert exact_kl(logits, logits + 3).abs().max() < 1e-6
    assert exact_kl(logits.bfloat16(), reference.bfloat16()).dtype == torch.float32


def test_k1_and_k3_are_right_in_the_mean_and_k2_is_not():
    p, (k1, k2, k3) = every_estimate(*two_policies(1.0))
    exact = exact_kl(*two_policies(1.0))
    for right in (k1, k3):
        torch.testing.assert_close((p * right).sum(dim=-1).float(), exact)
    assert ((p * k2).sum(dim=-1) / exact - 1).abs().min() > 0.05
    near, near_exact = every_estimate(*two_policies(0.01)), exact_kl(*two_policies(0.01))
    assert ((near[0] * near[1][1]).sum(dim=-1) / near_exact - 1).abs().max() < 0.01  # its bias goes with the distance


def test_near_the_reference_k3_has_far_less_spread_than_k1_and_it_and_k2_are_never_negative():
    p, estimates = every_estimate(*two_policies(0.05))
    k1, k2, k3 = ((p * k.square()).sum(dim=-1) - (p * k).sum(dim=-1).square() for k in estimates)
    assert (k3 < 0.01 * k1).all() and (k2 < 0.01 * k1).all()
    assert estimates[0].min() < 0 <= min(estimates[1].min(), estimates[2].min())


def test_far_from_the_reference_k3_can_have_more_spread():
    p, (k1, _, k3) = every_estimate(torch.tensor([0.0, 5.0]), torch.tensor([5.0, 0.0]))  # r / p of the first is 148
    assert (p * k3.square()).sum() - (p * k3).sum().square() > 10 * ((p * k1.square()).sum() - (p * k1).sum().square())


def test_the_gradients_are_those_of_nothing_of_the_kl_and_of_the_other_direction():
    logits, reference = two_policies(0.5)
    logits.requires_grad_()

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value.sum(), logits, retain_graph=True)[0].float()

    p, (k1, k2, k3) = every_estimate(logits, reference)
    drawn = p.detach()  # sampling is not seen by the gradient
    kl = gradient(exact_kl(logits, reference))
    log_p, log_r = logits.log_softmax(dim=-1), reference.log_softmax(dim=-1)
    other_way = gradient(log_r.exp() * (log_r - log_p))
    assert gradient(drawn * k1).abs().max() < 1e-6
    torch.testing.assert_close(gradient(drawn * k2), kl)
    torch.testing.assert_close(gradient(drawn * k3), other_way)
    assert (kl - other_way).abs().max() > 0.01

    old = two_policies(-0.7)[1].softmax(
        dim=-1
    )  # drawn by a third policy and counted by the ratio, k3's is the KL's too
    torch.testing.assert_close(gradient(old * (p / old) * k3), kl)


def test_the_reference_has_no_gradient():
    policy, reference = (torch.rand(2, 3).requires_grad_() for _ in range(2))
    (sum(kl_estimates(policy, reference)).sum() + exact_kl(policy, reference).sum()).backward()
    assert policy.grad is not None and reference.grad is None


def test_k3_of_policies_that_hardly_differ_is_no_rounding_error():
    d = torch.tensor([1e-4, -1e-4])
    assert kl_estimates(d, torch.zeros(2)).k3.tolist() == pytest.approx([5e-9, 5e-9], rel=0.01)
