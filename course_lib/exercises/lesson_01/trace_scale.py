"""Exercise 01.2: what dot products have to be divided by."""

import math

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_SCALE"]


def _spread() -> float:
    """Go through all sums of 16 products, of +3 or −3 with +2 or −2: numbers of just these variances."""
    n = 16
    sums = [(math.comb(n, plus) / 2**n, 6 * (plus - (n - plus))) for plus in range(n + 1)]
    return math.sqrt(sum(chance * total**2 for chance, total in sums))


TRACE_SCALE = Exercise(
    id="01.2",
    kind="trace",
    title="What to divide by",
    section="Why divide by √d",
    answer="divisor",
    results=("divisor",),
    expected=_spread,
    tolerance=0.01,
    stub="""\
# Queries and keys have d = 16 independent numbers of mean 0. A badly started model has made them
# too large: those in queries have variance 9, and those in keys have variance 4.
# Dividing the scores by √16 = 4 is then too little. By what would the scores q·k have to be
# divided, so that their variance is 1? By hand.
divisor = ...
""",
    solution="""\
# one product has variance 9 · 4 = 36; the sum of 16 has 16 · 36; what divides is its square root
divisor = (16 * 9 * 4) ** 0.5
""",
    why="Each product of two independent numbers of mean 0 has the product of their variances, 36, and 16 of them add up to "
    "576. To divide by c divides the variance by c², so c = √576 = 24. Of it, √d = 4 is what the formula takes care of. The "
    "other 6 is the size of the numbers themselves: √d alone brings the scores to variance 1 only if these start with "
    "variance 1, and a model whose queries grow in training can saturate its softmax all the same.",
    hints=(
        "Go from the inside out: one product, the sum of sixteen, and then the number that divides.",
        "For independent numbers of mean 0, the variance of a product is the product of the variances; those of a sum add up.",
        "Dividing by c divides the variance by c². Which c turns the variance of the sum into 1?",
    ),
    mistakes=(
        Mistake("divisor = 4", "That is √d, as in the formula. It is enough where the numbers have variance 1."),
        Mistake("divisor = 16 * 36", "That is the variance of the scores. Dividing by c divides the variance by c²."),
        Mistake("divisor = 36", "That is the variance of one product. A score is the sum of 16 of them."),
        Mistake("divisor = 6", "That is the spread of one product. A score is the sum of 16 of them."),
        Mistake(
            "divisor = 16", "That is d. Variances add up, but what divides is a spread; and these numbers are larger."
        ),
        Mistake("divisor = 4 * 36", "The root of 16, but not of 36: both are part of the variance."),
        Mistake("divisor = 16 * 6", "That adds up spreads. It is variances that add up, and the root comes last."),
        Mistake(
            "divisor = (16 * (9 + 4)) ** 0.5",
            "That adds the variances of query and key. A score multiplies the two, and so do their variances.",
        ),
        Mistake("divisor = (16 * 9) ** 0.5", "That leaves out the keys: their variance is 4, not 1."),
        Mistake("divisor = (16 * 4) ** 0.5", "That leaves out the queries: their variance is 9, not 1."),
        Mistake(
            "divisor = 16 * 9 * 16", "9 and 4 are variances already; 4 is not to be squared. And the root is missing."
        ),
        Mistake("divisor = 1 / 24", "The other way round: that is what the scores would be multiplied by."),
    ),
)
