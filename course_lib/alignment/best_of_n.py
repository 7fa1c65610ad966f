"""Best of n: draw n answers and keep the one with the highest reward. No training; every method has to beat it.

Its reward and its distance from the reference are both known without a run, so that it is a curve to draw in any figure of
reward against KL.
"""

from math import comb, log

import torch
from torch import Tensor

from course_lib.checks import check

__all__ = ["best_of_n", "best_of_n_kl"]


def best_of_n_kl(n: int) -> float:
    """Return KL(best of n ‖ one drawn), ln n − (n − 1) / n, in nats.

    Exact if no two answers have the same reward, whatever the model and the reward; else the KL is smaller (arXiv 2112.09332;
    2401.01879). Raises ValueError for an `n` below 1.
    """
    check("n", n)
    return log(n) - (n - 1) / n


def best_of_n(rewards: Tensor, n: int, scores: Tensor | None = None) -> Tensor:
    """Return, for each prompt, the expected score (prompt,), in float64, of the best of `n` of its samples.

    The best has the highest of `rewards` (prompt, sample); what is asked is its value in `scores` (prompt, sample), by default
    the rewards themselves: with a learned reward to choose by and a true one as the score, over-optimisation shows. The mean
    is over all sets of `n` of the prompt's samples, so it is unbiased, as pass@k is (arXiv 2107.03374), and uses every sample.
    Where several have the highest reward, each is as likely to be the one.

    Raises ValueError for an `n` below 1 or above the number of samples, infinite rewards or NaN, and scores of another shape.
    """
    n_samples = rewards.shape[1]
    check("n", n, int, 1, n_samples)
    rewards = rewards.detach().cpu().double()
    scores = rewards if scores is None else scores.detach().cpu()
    if not rewards.isfinite().all():
        raise ValueError("rewards must be finite: a NaN is neither more nor less than another")
    if scores.shape != rewards.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and rewards {tuple(rewards.shape)} must have one shape")
    # All n of a set are among the m least rewards in comb(m, n) of comb(n_samples, n) sets.
    within = torch.tensor([comb(m, n) / comb(n_samples, n) for m in range(n_samples + 1)], dtype=torch.float64)
    in_order = rewards.sort(dim=1).values
    n_less, n_up_to = (torch.searchsorted(in_order, rewards, right=equal_too) for equal_too in (False, True))
    chosen = (within[n_up_to] - within[n_less]) / (n_up_to - n_less)  # the probability of each sample to be the best
    return (chosen * scores).sum(dim=1)
