"""How far a policy has moved from its reference: the Kullback-Leibler divergence, exact and estimated from samples.

KL(policy ‖ reference) is the mean, over what the policy writes, of log p − log r: how many nats likelier the policy finds its
own text than the reference does. The other direction is another number, with other texts to take the mean over.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["KlEstimates", "exact_kl", "kl_estimates"]


class KlEstimates(NamedTuple):
    """Three estimates of KL(policy ‖ reference) at each sampled token, in nats; d is log p − log r."""

    k1: Tensor  # d: right in the mean, but half of them may be negative
    k2: Tensor  # d² / 2: never negative, little spread, wrong in the mean by a term of third order
    k3: Tensor  # exp(−d) − 1 + d: right in the mean and never negative, with little spread where the policies are near


def kl_estimates(log_probs: Tensor, reference_log_probs: Tensor) -> KlEstimates:
    """Return three estimates of KL(policy ‖ reference), in nats, each in the shape of `log_probs`.

    Both hold the log-probabilities of the same tokens, which the *policy* has drawn: by the policy and by the reference, which
    gets no gradient. (J. Schulman, "Approximating KL divergence", 2020.)

    A right mean has not the right gradient, for the gradient does not see that the policy also chose the tokens. As losses, in
    the mean over samples, k1 has no gradient at all, k2 has that of KL(policy ‖ reference), and k3 that of the other direction,
    KL(reference ‖ policy).
    """
    d = log_probs - reference_log_probs.detach()
    return KlEstimates(d, d.square() / 2, torch.expm1(-d) + d)


def exact_kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Return KL(policy ‖ reference) of the next token (…), in nats and float32, from finite logits (…, vocab) of both.

    The sum over the whole vocabulary needs no sample, and has the right gradient. The reference gets none.
    """
    log_p = logits.float().log_softmax(dim=-1)
    log_r = reference_logits.detach().float().log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_r)).sum(dim=-1)
