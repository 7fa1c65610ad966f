"""Exercise 06.1: the loss of a reward model on two choices, by hand."""

import math

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_PREFERENCE"]

_PAIRS = ((0.8, 1.9), (5.9, 4.5))  # rewards of the answer that was chosen and of the other one


def _by_strengths() -> float:
    """Return the mean loss as Bradley and Terry have it: of two strengths, each is chosen by its share of their sum."""
    chances = [math.exp(chosen) / (math.exp(chosen) + math.exp(other)) for chosen, other in _PAIRS]
    return -math.log(math.prod(chances)) / len(chances)


TRACE_PREFERENCE = Exercise(
    id="06.1",
    kind="trace",
    title="Two choices and what they cost, by hand",
    section="A reward from choices",
    answer="loss",
    results=("loss",),
    expected=_by_strengths,
    tolerance=0.01,
    stub="""\
# The rewards that a model gives to the answers of two pairs, and which answer a person chose:
#            reward of A   reward of B   chosen
#     pair 1     1.9           0.8         B
#     pair 2     5.9           4.5         A
# What is the loss of the reward model: the mean over both pairs, in nats a choice?
# By hand: e^1.1 is about 3, and e^1.4 about 4. You may use math.log.
loss = ...
""",
    solution="""\
# pair 1: A is ahead by 1.1, so A is preferred with 3/4, and B, which was chosen, with 1/4: ln 4
# pair 2: A is ahead by 1.4, so A, which was chosen, is preferred with 4/5: ln 5/4
loss = (math.log(4) + math.log(5 / 4)) / 2
""",
    why="Only the difference of two rewards counts: σ(1.1) = 1 / (1 + e^−1.1), which is 3 to 1. The rewards of pair 2 are "
    "higher, and with 5 taken off both the probability would be the same 4/5, and so would the loss. That is why the rewards "
    "of answers to *different* prompts cannot be compared: no choice has ever compared them. The choice that the model did "
    "not expect costs 1.39 nats, the other one 0.22; a model without an opinion would pay ln 2 = 0.69 for each.",
    hints=(
        "For each pair: with which probability does the model expect the choice that was made? The loss is what that costs.",
        "By how much is one answer ahead of the other? σ of that is the probability that it is chosen: 3 to 1, or 4 to 1.",
        "What the model gave to the answers that were *chosen* is 1/4 and 4/5. The cost of a probability is its −ln.",
    ),
    mistakes=(
        Mistake(
            "loss = (math.log(4 / 3) + math.log(5)) / 2",
            "Both differences have the wrong sign: that is the loss on the answers that were *not* chosen.",
        ),
        Mistake(
            "loss = (math.log(4 / 3) + math.log(5 / 4)) / 2",
            "That is the loss if A had been chosen both times. In pair 1 the person chose B, which the model did not expect.",
        ),
        Mistake(
            "loss = (math.log(4) + math.log(5)) / 2",
            "That is the loss if B had been chosen both times. In pair 2 the person chose A, as the model expected.",
        ),
        Mistake(
            "loss = math.log(4) + math.log(5 / 4)",
            "That is what both choices cost together. The loss is their mean.",
        ),
        Mistake(
            "loss = math.log(4)",
            "That is pair 1 alone. The second choice has a cost, too, though the model expected it.",
        ),
        Mistake(
            "loss = math.log(5 / 4)",
            "That is pair 2 alone. What did the choice of B cost in pair 1?",
        ),
        Mistake(
            "loss = (math.log(4) + math.log(5 / 4)) / 2 / math.log(2)",
            "The right choices, but in bits. A nat is the unit of the natural logarithm, which the loss here is in.",
        ),
        Mistake(
            "loss = (1.1 - 1.4) / 2",
            "That is the mean *difference* of the rewards. Each goes through σ first, and then what the choice costs is −ln.",
        ),
        Mistake(
            "loss = (-1.1 + 1.4) / 2",
            "That is the mean difference of the rewards, chosen minus other. Each goes through σ first, and the cost is −ln.",
        ),
        Mistake(
            "loss = (1 / 4 + 4 / 5) / 2",
            "That is the mean *probability* of the choices. The loss is the mean of what each costs: −ln.",
        ),
        Mistake(
            "loss = 1 / 4 * 4 / 5",
            "That is the probability of both choices together. What does it cost in nats, and per choice?",
        ),
        Mistake(
            "loss = -math.log((1 / 4 + 4 / 5) / 2)",
            "The probabilities were averaged before the logarithm. Costs are averaged: the logarithm first, pair by pair.",
        ),
        Mistake(
            "loss = -math.log(1 / (1 + math.exp(1.1 - 1.4)))",
            "The differences were added before σ. Each pair is a choice of its own: its σ, its logarithm, and then the mean.",
        ),
        Mistake(
            "loss = -math.log(1 / (1 + math.exp((1.1 - 1.4) / 2)))",
            "The differences were averaged before σ. Each pair is a choice of its own: its σ, its logarithm, and then the "
            "mean.",
        ),
        Mistake(
            "loss = (math.log(1 + math.exp(-0.8)) + math.log(1 + math.exp(-5.9))) / 2",
            "That is σ of the chosen answer's own reward, as if each answer were judged alone. It is σ of how far it is "
            "*ahead* of the other one.",
        ),
        Mistake(
            "loss = (-math.log(0.8 / 2.7) - math.log(5.9 / 10.4)) / 2",
            "That is each reward's share of the two. It is their *exponentials* whose shares are the probabilities.",
        ),
        Mistake(
            "loss = (math.log(3) + math.log(1 / 4)) / 2",
            "3 and 4 are odds, 3 to 1 and 4 to 1. As probabilities they are 3/4 and 4/5, and what is left of 1.",
        ),
        Mistake(
            "loss = (math.log(3) + math.log(4 / 3)) / 2",
            "The choices cost what probabilities of 1/3 and 3/4 would. Odds of 3 to 1 are 3/4, so that 1/4 is left for the "
            "other.",
        ),
        Mistake(
            "loss = -(math.log(4) + math.log(5 / 4)) / 2",
            "The right size. But the logarithm of a probability is negative, and the loss is its opposite: a cost, above 0.",
        ),
    ),
)
