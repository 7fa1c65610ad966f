"""Exercise 06.2: how far the best of two is from the model that drew them, by hand."""

import math
from collections import Counter
from itertools import product

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_BEST_OF_TWO"]


def _by_counting() -> float:
    """Return the KL from all pairs that may be drawn, one of which is as likely as another."""
    kept = Counter(map(max, product((0, 1), repeat=2)))
    chances = {quality: n / kept.total() for quality, n in kept.items()}
    return sum(chance * (math.log(chance) - math.log(1 / 2)) for chance in chances.values())


TRACE_BEST_OF_TWO = Exercise(
    id="06.2",
    kind="trace",
    title="How far is the best of two?",
    section="Best of n",
    answer="kl",
    results=("kl",),
    expected=_by_counting,
    tolerance=0.01,
    stub="""\
# Of a model's answers to a prompt, half are good and half are bad. Best of two is a policy, too: it
# draws two answers from the model, and gives the better one; of two that are equally good, either.
# How far is it from the model? KL(policy ‖ model), in nats, over the two kinds of answer.
# By hand: ln 2 is 0.693, and ln 3 is 1.099. You may use math.log.
kl = ...
""",
    solution="""\
# of the four pairs that it may draw, one is bad and bad: the policy is good with 3/4, bad with 1/4
# the model says 1/2 of both, so that the policy finds good 3/2 times as likely, and bad half
kl = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
""",
    why="The mean is over what the *policy* writes, so the good kind counts with 3/4: 0.304 nats for it, less 0.173 for the "
    "bad kind, which has become rarer. Good answers go from 1/2 to 3/4 for 0.13 nats, without training. The formula ln n − (n "
    "− 1) / n gives 0.19: that is for rewards of which no two are equal. Here the policy does not care which of two good "
    "answers it gives, so it stays nearer. Every method is asked for more reward than best of n *at the same KL*.",
    hints=(
        "First the policy: two answers are drawn and the better one is kept. How often is a bad one given?",
        "For each kind of answer: how many nats likelier does the policy find it than the model does? One of the two is "
        "negative.",
        "Then the mean of these two, with the probabilities of the one who writes: that is the policy.",
    ),
    mistakes=(
        Mistake(
            "kl = 1 / 2 * math.log(2 / 3) + 1 / 2 * math.log(2)",
            "That is the other direction, KL(model ‖ policy): the mean over what the model writes, of log π₀ − log π.",
        ),
        Mistake(
            "kl = 1 / 2 * math.log(3 / 2) + 1 / 2 * math.log(1 / 2)",
            "The log-ratios are right, but their mean is taken over what the model writes. It is the policy that writes.",
        ),
        Mistake(
            "kl = 3 / 4 * math.log(2 / 3) + 1 / 4 * math.log(2)",
            "The right size with the wrong sign: the ratio is policy to model. A KL is never below 0.",
        ),
        Mistake(
            "kl = math.log(2) - 1 / 2",
            "That is the formula, and it holds where no two answers have the same reward. Here half are equally good: count.",
        ),
        Mistake(
            "kl = math.log(3 / 2) + math.log(1 / 2)",
            "The log-ratios are added as they are. Each counts as often as the policy writes that kind of answer.",
        ),
        Mistake(
            "kl = math.log(3 / 2)",
            "That is by how much likelier a good answer has become. A KL is the mean over all that the policy writes: it gives "
            "bad ones, too.",
        ),
        Mistake(
            "kl = 3 / 4 * math.log(3 / 2)",
            "The bad answers are missing. The policy still gives one in a quarter of all cases, and that it does so more "
            "rarely than the model has a negative part in the mean.",
        ),
        Mistake(
            "kl = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(2)",
            "The two log-ratios have different signs: bad answers have become *rarer*. The KL is not the mean of their sizes.",
        ),
        Mistake(
            "kl = 3 / 4 * math.log2(3 / 2) + 1 / 4 * math.log2(1 / 2)",
            "The right mean, but in bits. A nat is the unit of the natural logarithm.",
        ),
        Mistake(
            "kl = math.log(2)",
            "That is what it would be if the policy gave only good answers, and also what any answer costs under the model. "
            "The policy gives a bad one in a quarter of all cases, and finds it less likely than the model does.",
        ),
        Mistake(
            "kl = 1 / 4 * math.log(1 / 2) + 3 / 4 * math.log(3 / 4)",
            "In the ratio of the good answers the model's probability is missing: it is 1/2 for them, too.",
        ),
        Mistake(
            "kl = 3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4)",
            "That is the policy's negative entropy: the mean of log π alone. Take the model's log-probability off each.",
        ),
        Mistake(
            "kl = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))",
            "That is the policy's entropy. A KL compares it with the model: the mean of log π − log π₀.",
        ),
        Mistake(
            "kl = 1 / 4 * math.log(1 / 2)",
            "That is the part of the bad answers alone. The good ones, three quarters of all, have become likelier.",
        ),
        Mistake(
            "kl = 3 / 4 * 3 / 2 + 1 / 4 * 1 / 2",
            "That is the mean of the ratios themselves. A KL is the mean of their logarithms.",
        ),
        Mistake(
            "kl = 3 / 4 - 1 / 2",
            "That is by how much more often it is good. How far the policy has moved is counted in nats: the mean of log π − "
            "log π₀.",
        ),
    ),
)
