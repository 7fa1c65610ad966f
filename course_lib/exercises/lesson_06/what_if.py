"""Exercise 06.7: what if the policy moves far away from its reference?"""

import math

import torch

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WHAT_IF", "estimates"]


def estimates(drift: float) -> list[tuple[float, float]]:
    """Return the mean and the standard deviation of k1, k2 and k3, in nats, at this drift: token by token, in plain numbers."""
    generator = torch.Generator().manual_seed(2)
    logits, direction = torch.randn(2, 100, generator=generator, dtype=torch.float64).tolist()
    policy = [math.exp(logit + drift * move) for logit, move in zip(logits, direction, strict=True)]
    reference = list(map(math.exp, logits))
    ps, rs = ([part / sum(parts) for part in parts] for parts in (policy, reference))
    kinds = (math.log, lambda ratio: math.log(ratio) ** 2 / 2, lambda ratio: 1 / ratio - 1 + math.log(ratio))
    found = []
    for kind in kinds:
        weighted = [(p, kind(p / r)) for p, r in zip(ps, rs, strict=True)]
        mean = sum(p * k for p, k in weighted)
        square = sum(p * k * k for p, k in weighted)
        found.append((mean, math.sqrt(square - mean * mean)))
    return found


def _spread_of_k3() -> float:
    (_, of_k1), _, (_, of_k3) = estimates(2)
    return of_k3 / of_k1


_EXPERIMENT = """\
# The next token's distribution, of 100 tokens: a policy moves away from its reference, by `drift`.
seeded = torch.Generator().manual_seed(2)
logits, direction = torch.randn(2, 100, generator=seeded, dtype=torch.float64)


def log_probs_at(drift):  # of the policy and of the reference, (vocab,) each
    return (logits + drift * direction).log_softmax(dim=-1), logits.log_softmax(dim=-1)


"""


def _measured(
    drift: str = "2",
    chances: str = "log_p.exp()",
    spread: str = "(chances * (estimates - mean) ** 2).sum().sqrt()",
    k3: str = "torch.exp(-d) - 1 + d",
    answer: str = "spread(k3) / spread(d)",
) -> str:
    """Return the cell of exercise 06.7 with its steps as given."""
    return f"""\
{_EXPERIMENT}def spread(estimates):
    mean = (chances * estimates).sum()
    return {spread}


log_p, log_r = log_probs_at({drift})
chances, d = {chances}, log_p - log_r
k3 = {k3}
spread_ratio = ({answer}).item()
"""


WHAT_IF = Exercise(
    id="06.7",
    kind="why",
    title="What if the policy moves far away?",
    section="The leash",
    answer="spread_ratio",
    results=("spread_ratio",),
    expected=_spread_of_k3,
    tolerance=0.002,
    stub=f"""\
{_EXPERIMENT}# A token that the policy draws gives an estimate of KL(policy ‖ reference), in nats. With
# d = log p − log r of that token: k1 = d, k2 = d² / 2, k3 = exp(−d) − 1 + d.
# At drift 2, how many times k1's spread is k3's? The spread is the standard deviation over what
# the policy draws. No sample is needed: each of the 100 tokens counts with its probability.
# Then try drift 0.1, and look at the three means as well. Which one would you trust, and when?
spread_ratio = ...
""",
    solution=_measured(),
    why="Near the reference, at drift 0.1, all three have the mean 0.004, and k3's spread is an eleventh of k1's: that is why "
    "GRPO takes k3. At drift 2 the KL is 1.34 nats, and k3's spread is 4.7 times k1's. Its mean is still right; the spread "
    "comes from tokens that the policy hardly ever draws and the reference draws far more often: there exp(−d) = r / p is in "
    "the hundreds, or the thousands. Of a thousand draws few or none hit one, so that k3's mean over them is too small more "
    "often than not, and now and then far too large. k2's spread is as small as k1's, and its mean is 2.04: small spread is "
    "no proof of being right. Where the whole distribution is at hand, as in training, the exact sum over the vocabulary has "
    "no spread at all: `course_lib.alignment.exact_kl`.",
    hints=(
        "You need d for all 100 tokens, k3 of them, and a standard deviation in which some tokens count more than others.",
        "Who draws the tokens? The mean is the sum of probability times estimate. The spread is measured from that mean.",
        "Variance: the sum of probability · (estimate − mean)². Its root, for k3 and for d, and one divided by the other.",
    ),
    mistakes=(
        Mistake(
            _measured(drift="0.1"),
            "That is the ratio at drift 0.1, worth comparing! The answer to put in is that at drift 2.",
        ),
        Mistake(
            _measured(drift="1"),
            "That is the ratio at drift 1, worth comparing! The answer to put in is that at drift 2.",
        ),
        Mistake(
            _measured(drift="3"),
            "That is the ratio at drift 3, worth comparing! The answer to put in is that at drift 2.",
        ),
        Mistake(
            _measured(answer="spread(d) / spread(k3)"),
            "That is k1's spread in units of k3's. It was asked the other way round.",
        ),
        Mistake(
            _measured(spread="(chances * (estimates - mean) ** 2).sum()"),
            "That is the ratio of the variances. A standard deviation is the root of a variance.",
        ),
        Mistake(
            _measured(spread="(chances * estimates**2).sum().sqrt()"),
            "The mean is not taken off: the spread is how far the estimates lie from their mean, not from 0.",
        ),
        Mistake(
            _measured(spread="(chances * (estimates - mean).abs()).sum()"),
            "That is the mean distance. The standard deviation is the root of the mean square.",
        ),
        Mistake(
            _measured(spread="estimates.std()"),
            "All 100 tokens count the same here. The policy draws some of them often and others hardly ever.",
        ),
        Mistake(
            _measured(chances="log_r.exp()"),
            "The tokens count as if the reference drew them. It is the policy that writes, and that is estimated from.",
        ),
        Mistake(
            _measured(k3="torch.exp(d) - 1 - d"),
            "The sign of d is wrong in k3: r / p is exp(−d). As it stands, it would do for tokens that the reference draws.",
        ),
        Mistake(
            _measured(k3="torch.exp(-d) - 1"),
            "That leaves out the last part of k3, + d. exp(−d) − 1 alone has the mean 0.",
        ),
        Mistake(
            _measured(answer="spread(d**2 / 2) / spread(d)"),
            "That is k2's spread in units of k1's. It was asked for that of k3.",
        ),
        Mistake(
            _measured(answer="spread(k3) / spread(d**2 / 2)"),
            "That is k3's spread in units of k2's. It was asked for in those of k1.",
        ),
        Mistake(
            _measured(answer="spread(k3)"),
            "That is k3's spread in nats. How many times k1's is it?",
        ),
        Mistake(
            _measured(answer="spread(d)"),
            "That is k1's spread in nats. How many times as large is k3's?",
        ),
        Mistake(
            _measured(answer="spread(k3) - spread(d)"),
            "That is by how many nats k3's spread is larger. How many times as large is it?",
        ),
        Mistake(
            _measured(answer="(chances * k3).sum() / (chances * d).sum()"),
            "That is the ratio of the *means*, and it is 1: both are right in the mean. How far do single estimates lie from "
            "it?",
        ),
        Mistake(
            _measured(answer="(chances * d).sum()"),
            "That is the KL itself, the mean of k1. How far do single estimates lie from it, with k3 and with k1?",
        ),
    ),
)
