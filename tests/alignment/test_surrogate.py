"""The clipped ratio and the three means, by hand. (`test_grpo` holds them equal to `trl`'s.)"""

import pytest
import torch

from course_lib.alignment import clipped_surrogate, masked_mean

WRITTEN = torch.tensor([[True, True, True], [False, True, False]])
VALUES = torch.tensor([[1.0, 2.0, 6.0], [100.0, 7.0, torch.nan]])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "pull"),  # pull: the gradient with respect to log p
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # far enough up already
        (0.5, 2.0, -1.0, -1.0),  # moved the wrong way: the whole pull
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 3.0),
        (1.1, -2.0, 2.2, 2.2),
    ],
)
def test_the_clip_stops_only_what_has_moved_far_enough_the_right_way(ratio, advantage, loss, pull):
    old = torch.tensor([[-1.0]], requires_grad=True)
    log_probs = (old.detach() + torch.tensor([[ratio]]).log()).requires_grad_()
    advantages = torch.tensor([[advantage]], requires_grad=True)
    losses = clipped_surrogate(log_probs, old, advantages, 0.2)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert log_probs.grad.item() == pytest.approx(pull) and old.grad is advantages.grad is None


def test_at_the_first_step_the_gradient_is_that_of_the_policy_gradient():
    log_probs = torch.randn(2, 3, requires_grad=True)
    advantages = torch.randn(2, 1)
    clipped_surrogate(log_probs, log_probs, advantages, 0.2).sum().backward()
    torch.testing.assert_close(log_probs.grad, -advantages.expand(2, 3))


def test_advantages_of_rows_may_not_pass_for_those_of_positions():
    square = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="advantages must be"):
        clipped_surrogate(square, square, torch.ones(3), 0.2)


@pytest.mark.parametrize(
    ("over", "mean", "count"), [("token", 16 / 4, 4), ("row", (9 / 3 + 7) / 2, 2), (10, 16 / 20, 2)]
)
def test_the_three_means(over, mean, count):
    assert masked_mean(VALUES, WRITTEN, over).item() == pytest.approx(mean)
    assert masked_mean(VALUES, WRITTEN, over, reduction="sum").item() == pytest.approx(mean * count)


@pytest.mark.parametrize(("over", "share"), [("token", 1.0), ("row", 2 / 3), (10, 2 / 3)])
def test_a_row_with_nothing_written_adds_nothing_and_counts_as_a_row(over, share):
    values, written = torch.cat([VALUES, torch.ones(1, 3)]), torch.cat([WRITTEN, torch.zeros(1, 3, dtype=torch.bool)])
    expected = share * masked_mean(VALUES, WRITTEN, over)
    torch.testing.assert_close(masked_mean(values, written, over), expected)
    values.requires_grad_()
    masked_mean(values, written, over).backward()
    assert values.grad[~written].eq(0).all() and values.grad[written].gt(0).all()
    assert masked_mean(values, torch.zeros_like(written), over) == 0


@pytest.mark.parametrize("over", ["tokens", 0, -1.0, torch.nan, torch.inf, None, True])
def test_another_mean_is_refused(over):
    with pytest.raises(ValueError, match="over"):
        masked_mean(VALUES, WRITTEN, over)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        masked_mean(VALUES, WRITTEN[:1])
