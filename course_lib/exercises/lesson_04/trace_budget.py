"""Exercise 04.11: the best size of a model for a budget, by hand."""

import math

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_BUDGET"]

_BUDGET, _TOKENS_A_WEIGHT = 1.08e23, 20


def _searched() -> float:
    """Try sizes, halving the interval in which the cost passes the budget; return billions of weights."""
    low, high = 1e6, 1e13
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        cost = 6 * middle * (_TOKENS_A_WEIGHT * middle)
        low, high = (middle, high) if cost < _BUDGET else (low, middle)
    return low / 1e9


TRACE_BUDGET = Exercise(
    id="04.11",
    kind="trace",
    title="The best size for a budget",
    section="How large, and how long",
    answer="billions",
    results=("billions",),
    expected=_searched,
    tolerance=0.005,
    stub="""\
# Your budget is 1.08 · 10²³ operations. Training takes 6 operations for each weight and token, and
# 20 tokens a weight are best. How many weights should the model have, in billions?
# By hand: write the cost with the number of weights alone.
billions = ...
""",
    solution="""\
# 6 · N · 20 N = 120 N² = 1.08 · 10²³, so N² = 9 · 10²⁰, and a billion is 10⁹
billions = (9 * 10**20) ** 0.5 / 10**9
""",
    why="The tokens grow with the weights, so the cost grows with the square of the weights: 120 N² operations. N is the root "
    "of 9 · 10²⁰: thirty billion weights, on 600 billion tokens. Ten times the budget buys a model only √10 = 3.2 times as "
    "large, on 3.2 times the tokens. Chinchilla's law says so with exponents of nearly ½ (arXiv 2203.15556); before it, models "
    "were grown faster than their data (arXiv 2001.08361).",
    hints=(
        "How many tokens does a model of N weights get? Put that into the cost.",
        "The cost is 6 times the weights times 20 times the weights. What is its root good for?",
        "120 N² = 1.08 · 10²³. Then divide by 10⁹.",
    ),
    mistakes=(
        Mistake(
            "billions = 9e20 / 1e9",
            "That is N² divided by a billion. The tokens grow with the weights, so the cost has N squared: take the "
            "root first.",
        ),
        Mistake("billions = 9e20", "That is N². Take its root, and divide by a billion."),
        Mistake("billions = 3e10", "That is the number of weights. It is asked for in billions."),
        Mistake("billions = 600", "That is the number of tokens, in billions. How many weights are they for?"),
        Mistake(
            "billions = (1.08e23 / 6) ** 0.5 / 1e9",
            "That takes one token a weight. A model is to read 20 for each of its weights.",
        ),
        Mistake(
            "billions = (1.08e23 / 20) ** 0.5 / 1e9",
            "That takes one operation for each weight and token. Training takes six: two forward, four backward.",
        ),
        Mistake(
            "billions = (1.08e23 / 40) ** 0.5 / 1e9",
            "That takes two operations for each weight and token, which is the way forward alone. Backward takes four more.",
        ),
        Mistake("billions = 1.08e23 ** 0.5 / 1e9", "That is the root of the budget. Divide it by 6 · 20 first."),
        Mistake(
            "billions = 1.08e23 / (6 * 20e9) / 1e9",
            "That takes 20 billion tokens whatever the size. 20 tokens *a weight* are best: they grow with the model.",
        ),
    ),
)
