"""Exercise 07.8: the score of two rankings' fusion, by hand."""

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_FUSION"]

_RANKINGS = "DABC", "ECA"


def _passage_by_passage() -> float:
    """Return the largest score: each passage is looked up in both rankings."""
    places = {passage: [ranking.find(passage) for ranking in _RANKINGS] for passage in "ABCDE"}
    return max(sum(1 / (61 + place) for place in found if place >= 0) for found in places.values())


TRACE_FUSION = Exercise(
    id="07.8",
    kind="trace",
    title="Which passage comes first?",
    section="Words and meaning together",
    answer="fused_score",
    results=("fused_score",),
    expected=_passage_by_passage,
    tolerance=2e-4,
    stub="""\
# Two indexes are asked the same question. These are the passages that they find, the best first:
#     by words:     D  A  B  C
#     by meaning:   E  C  A
# Reciprocal rank fusion gives each passage the sum of 1 / (60 + rank) over the rankings that it
# stands in; the first of a ranking has rank 1. What score has the passage that comes first then?
# Put in the sum itself, or four digits of it.
fused_score = ...
""",
    solution="""\
# A has the ranks 2 and 3, C has 4 and 2; D and E are first in one ranking, and not in the other
fused_score = 1 / 62 + 1 / 63
""",
    why="A has 0.0320, C 0.0318, and D and E, each the best of one index, only 0.0164. With the 60 ranks count nearly alike, "
    "so to stand in both rankings is worth twice as much as to be first in one. What both indexes find, by different roads, is "
    "rarely found by accident. The scores of the indexes themselves are not needed: those of words have no upper limit, and "
    "those of meaning are cosines, and how many of the one make one of the other nobody knows.",
    hints=(
        "Each passage has a score; some stand in both rankings, and their score is a sum of two parts.",
        "1/61 is less than 1/62 + 1/63: so D and E are not first. Compare those that stand in both.",
        "A has the ranks 2 and 3, and C has 4 and 2. Whose sum is larger?",
    ),
    mistakes=(
        Mistake("fused_score = 1 / 64 + 1 / 62", "That is C's score. A has a larger one: its ranks are better in sum."),
        Mistake(
            "fused_score = 1 / 61",
            "That is what a passage has that is first in one ranking and missing in the other. One that is in both has more.",
        ),
        Mistake("fused_score = 1 / 61 + 1 / 62", "The ranks are counted from 0. The first of a ranking has rank 1."),
        Mistake("fused_score = 1 / 2 + 1 / 3", "The right passage and the right ranks, but without the 60."),
        Mistake("fused_score = (1 / 62 + 1 / 63) / 2", "That is the mean of the two parts. The score is their sum."),
        Mistake("fused_score = 1 / (60 + 2 + 3)", "The ranks are added first. Each ranking gives a part of its own."),
        Mistake("fused_score = 1 / 62", "That is A's part from one ranking. It stands in the other one, too."),
        Mistake(
            "fused_score = 1 / 63", "That is A's part from the meaning alone. It stands among the words' passages, too."
        ),
        Mistake("fused_score = 1 / 62 * 1 / 63", "The two parts are multiplied. They are added."),
        Mistake(
            "fused_score = 1 / 61 + 1 / 64",
            "That gives D a rank in a ranking that it does not stand in. There it gets nothing.",
        ),
        Mistake(
            "fused_score = 1 / 60 + 2 + 1 / 60 + 3", "1 is divided by the whole of 60 + rank: put it into brackets."
        ),
        Mistake(
            "fused_score = 1 / 61 + 1 / 61", "No passage is first in both. Which ranks has the one that has the most?"
        ),
        Mistake("fused_score = 62 + 63", "The parts are the *inverses* of 60 + rank: to be far down is worth less."),
        Mistake(
            "fused_score = 1 / 63 + 1 / 64", "That gives A the ranks 3 and 4. In one of the rankings it is second."
        ),
    ),
)
