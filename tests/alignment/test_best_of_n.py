"""Best of n, against all subsets and against the distribution that it draws from."""

import math
from itertools import combinations, permutations

import pytest
import torch

from course_lib.alignment import best_of_n, best_of_n_kl
from course_lib.alignment.kl import exact_kl


@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_its_kl_is_that_of_the_distribution_of_the_best(n):
    m = 200_000  # answers, equally likely, each with its own reward: of rank k, it is the best with (k/m)ⁿ − ((k−1)/m)ⁿ
    ranks = torch.arange(m + 1, dtype=torch.float64) / m
    best = (ranks**n).diff()
    kl = torch.special.xlogy(best, best * m).sum()
    assert best_of_n_kl(n) == pytest.approx(kl.item(), abs=1e-3)


def test_with_answers_that_share_a_reward_the_kl_is_less():
    p = torch.tensor([0.5, 0.2, 0.3])  # from the lowest reward to the highest
    best = torch.cat([torch.zeros(1), p.cumsum(0)]).pow(4).diff()
    assert 0 < exact_kl(best.log(), p.log()) < 0.9 * best_of_n_kl(4)
    assert best_of_n_kl(1) == 0


def by_all_subsets(rewards: list[float], scores: list[float], n: int) -> float:
    """The mean over all subsets, and in each over its best samples."""
    found = []
    for subset in combinations(range(len(rewards)), n):
        top = max(rewards[i] for i in subset)
        best = [scores[i] for i in subset if rewards[i] == top]
        found.append(sum(best) / len(best))
    return sum(found) / len(found)


@pytest.mark.parametrize("n", range(1, 8))
def test_it_is_the_mean_over_all_subsets_ties_shared(n):
    generator = torch.Generator().manual_seed(0)
    rewards = torch.stack(
        [torch.randn(7, generator=generator), torch.randint(3, (7,), generator=generator), torch.ones(7)]
    )
    scores = torch.randn(3, 7, generator=generator)
    for given in (scores, None):
        wanted = rewards if given is None else given
        expected = [by_all_subsets(r, s, n) for r, s in zip(rewards.tolist(), wanted.tolist(), strict=True)]
        assert best_of_n(rewards, n, given).tolist() == pytest.approx(expected)


def test_of_all_samples_it_is_the_best_and_of_one_the_mean():
    rewards = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(best_of_n(rewards, 9), rewards.amax(dim=1).double())
    torch.testing.assert_close(best_of_n(rewards, 1), rewards.double().mean(dim=1))


def test_the_order_of_samples_does_not_matter():
    rewards, scores = torch.tensor([1.0, 0.0, 1.0, -2.0]), torch.tensor([5.0, 7.0, 1.0, 3.0])
    orders = torch.tensor(list(permutations(range(4))))
    found = best_of_n(rewards[orders], 2, scores[orders])
    torch.testing.assert_close(found, found[:1].expand(24))


def test_it_is_pass_at_k_for_right_and_wrong():
    right = torch.tensor([[True] * 3 + [False] * 17])
    assert best_of_n(right, 5).item() == pytest.approx(1 - math.comb(17, 5) / math.comb(20, 5))


def test_many_samples_are_no_trouble():
    rewards = torch.arange(2000.0)[None]
    assert best_of_n(rewards, 1000).item() == pytest.approx(1000 * 2001 / 1001 - 1)  # the largest of 1000 of 1 to 2000


def test_a_right_score_may_fall_while_the_reward_that_chooses_rises():
    rewards = torch.arange(8.0)[None]
    learned, true = (torch.cat([best_of_n(rewards, n, s) for n in range(1, 9)]) for s in (None, -((rewards - 5) ** 2)))
    assert learned.diff().gt(0).all() and true.argmax() == 2


@pytest.mark.parametrize("n", [0, -1, 1.5, True, math.nan, None])
def test_nonsense_is_refused(n):
    for call in (lambda: best_of_n_kl(n), lambda: best_of_n(torch.zeros(2, 3), n)):
        with pytest.raises(ValueError, match="n must be"):
            call()


@pytest.mark.parametrize(
    ("rewards", "n", "scores", "message"),
    [
        (torch.zeros(2, 3), 4, None, "n must be at least 1 and at most 3"),
        (torch.tensor([[0.0, math.nan]]), 1, None, "finite"),
        (torch.tensor([[0.0, -math.inf]]), 1, None, "finite"),
        (torch.zeros(2, 3), 2, torch.zeros(3), "one shape"),
    ],
)
def test_what_cannot_be_compared_is_refused(rewards, n, scores, message):
    with pytest.raises(ValueError, match=message):
        best_of_n(rewards, n, scores)
