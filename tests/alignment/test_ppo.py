"""PPO by hand, by its definitions in plain Python, and by finite differences: no library that people trust has it any more."""

import pytest
import torch
from torch import Tensor

from course_lib.alignment import generalised_advantages, penalised_rewards, ppo_loss, value_loss

# A prompt of two tokens and answers of 3, 1, 0 and 5; in the last row a tool's reply of one token stands within the answer.
WRITTEN = torch.tensor(
    [[0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0], [0] * 8, [0, 0, 1, 1, 0, 1, 1, 1]], dtype=torch.bool
)


def numbers(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """n tensors (row, position)."""
    return torch.randn(n, *WRITTEN.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_hand_computed_case():
    written = torch.tensor([[False, True, True, False]])
    log_probs, reference = torch.tensor([[9.0, -1.0, -2.0, 9.0]]), torch.tensor([[0.0, -1.5, -1.0, 0.0]])
    rewards = penalised_rewards(torch.tensor([3.0]), log_probs, reference, written, 0.2)
    # the leash: −0.2 · (−1 + 1.5) and −0.2 · (−2 + 1)
    torch.testing.assert_close(rewards, torch.tensor([[0.0, -0.1, 3.2, 0.0]]))
    values = torch.tensor([[50.0, 1.0, 2.0, 50.0]])
    advantages, returns = generalised_advantages(rewards, values, written, discount=0.9, smoothing=0.5)
    # errors: 3.2 − 2 = 1.2, and −0.1 + 0.9 · 2 − 1 = 0.7; the first token's advantage is 0.7 + 0.9 · 0.5 · 1.2 = 1.24
    torch.testing.assert_close(advantages, torch.tensor([[0.0, 1.24, 1.2, 0.0]]))
    torch.testing.assert_close(returns, torch.tensor([[0.0, 2.24, 3.2, 0.0]]))
    now = log_probs + torch.tensor([[0.0, 1.5, 0.8, 0.0]]).clamp(min=0.1).log()
    # −min(1.5, 1.2) · 1.24 and −min(0.8, 0.8) · 1.2, over two tokens
    assert ppo_loss(now, log_probs, advantages, written, 0.2).item() == pytest.approx(-(1.488 + 0.96) / 2)
    critic = torch.tensor([[0.0, 1.9, 2.1, 0.0]])
    # (1.9 − 2.24)² is less than (1.2 − 2.24)², of 1.9 held at 1.2; 2.1 is within the clip
    assert value_loss(critic, values, returns, written, 0.2).item() == pytest.approx((1.0816 + 1.21) / 4)


def test_the_leash_is_on_each_written_token_and_the_reward_on_the_last():
    log_probs, reference = numbers(2)
    rewards = torch.tensor([1.0, 2.0, 4.0, 8.0])
    found = penalised_rewards(rewards, log_probs, reference, WRITTEN, 0.3)
    expected = torch.where(WRITTEN, -0.3 * (log_probs - reference), 0)
    for row, last in ((0, 4), (1, 2), (3, 7)):
        expected[row, last] += rewards[row]
    torch.testing.assert_close(found, expected)
    assert penalised_rewards(rewards, log_probs, reference, WRITTEN, 0).sum() == 1 + 2 + 8


def by_definition(rewards: Tensor, values: Tensor, discount: float, smoothing: float) -> Tensor:
    """The advantages of one episode (step,): sums of all errors to come."""
    following = torch.cat([values[1:], torch.zeros(1)])
    errors = rewards + discount * following - values
    return torch.stack(
        [sum((discount * smoothing) ** (k - t) * errors[k] for k in range(t, len(errors))) for t in range(len(errors))]
    )


@pytest.mark.parametrize(("discount", "smoothing"), [(1.0, 0.95), (0.9, 0.6), (0.8, 0.0), (0.7, 1.0), (0.0, 0.5)])
def test_advantages_are_those_of_the_definition_in_each_episode(discount, smoothing):
    rewards, values = numbers(2)
    advantages, returns = generalised_advantages(rewards, values, WRITTEN, discount, smoothing)
    assert advantages[~WRITTEN].eq(0).all() and returns[~WRITTEN].eq(0).all()
    for row in (0, 1, 3):
        mine = WRITTEN[row]
        expected = by_definition(rewards[row, mine], values[row, mine], discount, smoothing)
        torch.testing.assert_close(advantages[row, mine], expected)
        torch.testing.assert_close(returns[row, mine], expected + values[row, mine])


def test_with_smoothing_1_it_is_the_discounted_return_less_the_value_and_with_0_the_critics_error():
    rewards, values = numbers(2)
    whole, returns = generalised_advantages(rewards, values, WRITTEN, 0.9, 1)
    discounted = sum(0.9**k * rewards[0, 2 + k] for k in range(3))
    torch.testing.assert_close(whole[0, 2], discounted - values[0, 2])
    torch.testing.assert_close(returns[0, 2], discounted)
    step, _ = generalised_advantages(rewards, values, WRITTEN, 0.9, 0)
    torch.testing.assert_close(step[0, 2], rewards[0, 2] + 0.9 * values[0, 3] - values[0, 2])
    torch.testing.assert_close(step[0, 4], rewards[0, 4] - values[0, 4])  # no value after the last


def test_a_critic_that_is_right_leaves_no_advantage():
    rewards = torch.zeros(4, 8).masked_fill(WRITTEN, 0.5)
    to_come = rewards.flip(1).cumsum(dim=1).flip(1)
    advantages, returns = generalised_advantages(rewards, to_come, WRITTEN)
    torch.testing.assert_close(advantages, torch.zeros(4, 8))
    torch.testing.assert_close(returns[WRITTEN], to_come[WRITTEN])


def test_gradients_equal_finite_differences():
    log_probs, shift, advantages, values, value_shift, returns = numbers(6, dtype=torch.float64)
    old, old_values = log_probs + 0.4 * shift, values + 0.4 * value_shift
    clipped = ((log_probs - old).exp() - 1).abs()[WRITTEN] > 0.2
    assert clipped.any() and not clipped.all() and ((values - old_values).abs()[WRITTEN] > 0.2).any()
    for reduction in ("mean", "sum"):
        options = {"clip": 0.2, "reduction": reduction}
        for moved, loss in (
            (log_probs, lambda x, o=options: ppo_loss(x, old, advantages, WRITTEN, **o)),
            (values, lambda x, o=options: value_loss(x, old_values, returns, WRITTEN, **o)),
        ):
            assert torch.autograd.gradcheck(loss, moved.clone().requires_grad_())


@pytest.mark.parametrize("loss", [ppo_loss, value_loss])
def test_a_batch_in_parts_is_the_batch_and_only_what_is_trained_has_a_gradient(loss):
    given = [x.clone().requires_grad_() for x in numbers(3)]
    whole = loss(*given, WRITTEN)
    parts = [loss(*(x[rows] for x in (*given, WRITTEN)), reduction="sum") for rows in (slice(1), slice(1, 4))]
    torch.testing.assert_close(sum(parts) / WRITTEN.sum(), whole)
    whole.backward()
    assert [x.grad is None for x in given] == [False, True, True]


def test_rewards_and_advantages_have_no_gradient():
    log_probs, reference, values = (x.clone().requires_grad_() for x in numbers(3))
    rewards = penalised_rewards(torch.ones(4), log_probs, reference, WRITTEN, 0.1)
    found = (rewards, *generalised_advantages(rewards, values, WRITTEN))
    assert not any(x.requires_grad for x in found)


def test_what_stands_where_nothing_was_written_never_counts():
    policy, old, reference, values, old_values = numbers(5)

    def results(filling: float) -> list[Tensor]:
        parts = [x.masked_fill(~WRITTEN, filling) for x in (policy, old, reference, values, old_values)]
        trained, critic = parts[0].requires_grad_(), parts[3].requires_grad_()
        rewards = penalised_rewards(torch.arange(4.0), parts[1], parts[2], WRITTEN, 0.1)
        advantages, returns = generalised_advantages(rewards, parts[4], WRITTEN)
        losses = ppo_loss(trained, parts[1], advantages, WRITTEN), value_loss(critic, parts[4], returns, WRITTEN)
        return [rewards, advantages, returns, *losses, *torch.autograd.grad(sum(losses), (trained, critic))]

    for filling in (torch.nan, -torch.inf, 1e30):
        assert all(map(torch.equal, results(filling), results(0.0)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: penalised_rewards(x[:, 0], x, x, WRITTEN, -0.1), "kl_weight"),
        (lambda x: penalised_rewards(x[:, 0], x, x, WRITTEN, torch.nan), "kl_weight"),
        (lambda x: generalised_advantages(x, x, WRITTEN, 1.1), "discount"),
        (lambda x: generalised_advantages(x, x, WRITTEN, 1, -0.1), "smoothing"),
        (lambda x: generalised_advantages(x, x, WRITTEN, torch.nan), "discount"),
        (lambda x: ppo_loss(x, x, x, WRITTEN, 0), "clip"),
        (lambda x: ppo_loss(x, x, x[:, 0], WRITTEN), "advantages must be"),
        (lambda x: value_loss(x, x, x, WRITTEN, torch.nan), "clip"),
        (lambda x: value_loss(x, x, x, WRITTEN[:1]), "one shape"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(numbers(1)[0])
