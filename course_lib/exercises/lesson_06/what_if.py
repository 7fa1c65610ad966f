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


def _three_ratios() -> tuple[float, float, float]:
    """Return k3's spread in units of k1's at drift 0.1 and at drift 2, and k2's mean in units of k1's at drift 2."""
    (_, near_k1), _, (_, near_k3) = estimates(0.1)
    (mean, far_k1), (mean_of_k2, _), (_, far_k3) = estimates(2)
    return near_k3 / near_k1, far_k3 / far_k1, mean_of_k2 / mean


_EXPERIMENT = """\
# The next token's distribution, of 100 tokens: a policy moves away from its reference, by `drift`.
seeded = torch.Generator().manual_seed(2)
logits, direction = torch.randn(2, 100, generator=seeded, dtype=torch.float64)
reference = logits.log_softmax(dim=-1)  # log π₀


def mean_and_spread(estimates, policy):  # over what is drawn with log π = policy; (vocab,) each
    mean = (policy.exp() * estimates).sum()
    return mean, (policy.exp() * (estimates - mean) ** 2).sum().sqrt()


"""


def _measured(
    near: str = "0.1",
    far: str = "2",
    drawn: str = "policy",
    k2: str = "d**2 / 2",
    k3: str = "torch.exp(-d) - 1 + d",
    ratios: str = "spread_3 / spread_1, mean_2 / mean_1",
    answer: str = "near, far, too_far",
) -> str:
    """Return the cell of exercise 06.7 with its steps as given."""
    return f"""\
{_EXPERIMENT}def compared(drift):
    policy = (logits + drift * direction).log_softmax(dim=-1)
    d = policy - reference
    mean_1, spread_1 = mean_and_spread(d, {drawn})
    mean_2 = mean_and_spread({k2}, {drawn})[0]
    spread_3 = mean_and_spread({k3}, {drawn})[1]
    return {ratios}


(near, _), (far, too_far) = compared({near}), compared({far})
ratios = {answer}
"""


WHAT_IF = Exercise(
    id="06.7",
    kind="why",
    title="What if the policy moves far away?",
    section="The leash",
    answer="ratios",
    results=("k3's spread at 0.1", "k3's spread at 2", "k2's mean at 2"),
    expected=_three_ratios,
    tolerance=0.002,
    stub=f"""\
{_EXPERIMENT}# With the policy log π = (logits + drift * direction).log_softmax(dim=-1) and d = log π − log π₀,
# a token estimates the KL, in nats: k1 = d, k2 = d² / 2, k3 = exp(−d) − 1 + d. Put in: how many
# times k1's spread is k3's at drift 0.1, and at drift 2; how many times k1's mean is k2's at 2.
ratios = ...
""",
    solution=_measured(),
    why="Near the reference, at drift 0.1, all three have the mean 0.004, and k3's spread is an eleventh of k1's: that is why "
    "GRPO takes k3. At drift 2 the KL is 1.34 nats, and k3's spread is 4.7 times k1's. Its mean is still right; the spread "
    "comes from tokens that the policy hardly ever draws and the reference draws far more often: there exp(−d) = π₀ / π is in "
    "the hundreds, or the thousands. Of a thousand draws few or none hit one, so that k3's mean over them is too small more "
    "often than not, and now and then far too large. k2's spread is as small as k1's, and its mean is 2.04, half as much "
    "again as the KL: small spread is no proof of being right. Where the whole distribution is at hand, as in training, the "
    "exact sum over the vocabulary has no spread at all: `course_lib.alignment.exact_kl`.",
    hints=(
        "Make the policy at a drift, then d for all 100 tokens; `mean_and_spread` does the rest. Look at all six numbers.",
        "Who draws the tokens? `mean_and_spread` takes the log-probabilities of the one who writes.",
        "At each drift: the spread of exp(−d) − 1 + d divided by the spread of d, and the mean of d² / 2 divided by that of d.",
    ),
    mistakes=(
        Mistake(
            _measured(near="2"),
            "The first number is that at drift 2 as well. Near the reference, at drift 0.1, k3 does better.",
        ),
        Mistake(
            _measured(far="0.1"),
            "All three are those at drift 0.1. The second and the third are asked for at drift 2, where the policy is far "
            "away.",
        ),
        Mistake(
            _measured(near="2", far="0.1"),
            "The drifts are exchanged: the first number is that at drift 0.1, the others are those at drift 2.",
        ),
        Mistake(
            _measured(answer="far, near, too_far"),
            "The first two numbers are exchanged: drift 0.1 comes first.",
        ),
        Mistake(
            _measured(answer="near, far, compared(0.1)[1]"),
            "The spreads are right. But k2's mean is that at drift 0.1, where it is nearly right. It is asked for at drift 2.",
        ),
        Mistake(
            _measured(ratios="spread_1 / spread_3, mean_2 / mean_1"),
            "Those are k1's spreads in units of k3's. It was asked the other way round.",
        ),
        Mistake(
            _measured(ratios="spread_3 / spread_1, mean_1 / mean_2"),
            "The spreads are right. But the last number is k1's mean in units of k2's. It was asked the other way round.",
        ),
        Mistake(
            _measured(ratios="spread_1 / spread_3, mean_1 / mean_2"),
            "All three are upside down: they are asked for in units of k1's.",
        ),
        Mistake(
            _measured(ratios="(spread_3 / spread_1) ** 2, mean_2 / mean_1"),
            "The first two are ratios of variances. A spread is the root of a variance, and `mean_and_spread` has taken it.",
        ),
        Mistake(
            _measured(ratios="spread_3, mean_2"),
            "Those are k3's spreads and k2's mean in nats. How many times k1's are they?",
        ),
        Mistake(
            _measured(ratios="spread_3, mean_2 / mean_1"),
            "The first two are k3's spreads in nats. How many times k1's are they?",
        ),
        Mistake(
            _measured(ratios="spread_3 / spread_1, mean_2"),
            "The spreads are right. But the last number is k2's mean in nats. How many times the KL, k1's mean, is it?",
        ),
        Mistake(
            _measured(ratios="spread_3 - spread_1, mean_2 - mean_1"),
            "Those are differences in nats. How many times as large are they?",
        ),
        Mistake(
            _measured(drawn="reference"),
            "The tokens count as if the reference drew them. It is the policy that writes, and that is estimated from.",
        ),
        Mistake(
            _measured(drawn="torch.full_like(d, 0.01).log()"),
            "All 100 tokens count the same here. The policy draws some of them often and others hardly ever.",
        ),
        Mistake(
            _measured(k3="torch.exp(d) - 1 - d"),
            "The sign of d is wrong in k3: π₀ / π is exp(−d). As it stands, it would do for tokens that the reference draws.",
        ),
        Mistake(
            _measured(k3="torch.exp(-d) - 1"),
            "That leaves out the last part of k3, + d. exp(−d) − 1 alone has the mean 0.",
        ),
        Mistake(
            _measured(k3="d**2 / 2"),
            "The first two are k2's spreads in units of k1's. They were asked for of k3.",
        ),
        Mistake(
            _measured(k2="torch.exp(-d) - 1 + d"),
            "The spreads are right. But the last number is k3's mean in units of k1's, and it is 1: both are right in the "
            "mean. It was asked for k2's.",
        ),
        Mistake(
            _measured(k2="d**2"),
            "The spreads are right. But k2 is *half* the square of d.",
        ),
    ),
)
