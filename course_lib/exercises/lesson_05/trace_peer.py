"""Exercise 05.1: how far a classifier is ahead of the best of three simple peers, by hand."""

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_PEER"]

_SAID = {("bad", "bad"): 25, ("bad", "good"): 5, ("good", "bad"): 3, ("good", "good"): 7}  # (is, said) -> reviews
_BAG, _FROZEN = 26, 29


def _review_by_review() -> float:
    """Return the lead in points, from a list of all reviews."""
    reviews = [pair for pair, count in _SAID.items() for _ in range(count)]
    right = sum(is_ == said for is_, said in reviews)
    always_the_same = max(sum(is_ == label for is_, _ in reviews) for label in ("bad", "good"))
    return 100 * (right - max(always_the_same, _BAG, _FROZEN)) / len(reviews)


TRACE_PEER = Exercise(
    id="05.1",
    kind="trace",
    title="Ahead of which peer?",
    section="A task",
    answer="points_ahead",
    results=("points_ahead",),
    expected=_review_by_review,
    tolerance=0.004,
    stub="""\
# Reviews are to be sorted into bad ones and good ones. A model was trained on some. Of 40 others,
#     30 are bad:     it says "bad" of 25 and "good" of 5;
#     10 are good:    it says "bad" of 3 and "good" of 7.
# Of the same 40, a bag of words gets 26 right, and frozen features 29.
# By how many points, that is percent of the 40, is the model ahead of the best of the three
# baselines?
points_ahead = ...
""",
    solution="""\
# the model is right on 25 + 7, and who always says "bad" on 30: more than 26 and 29
points_ahead = 100 * (25 + 7 - 30) / 40
""",
    why="The model is right on 32 of 40: 80 % sounds like much. But who says *bad* of every review, without reading one, is "
    "right on 30, which is 75 %, and beats both of the other baselines. Five points are two reviews. A score says "
    "something only beside that of the best simple peer; where one label is much more frequent than the other, that may be the "
    "majority. (Section 1's pairs are half and half, so there it gets 50 %.)",
    hints=(
        "Three scores are needed: the model's, and those of three baselines, of which the text gives two.",
        "The third baseline looks at no review. What does it always say, and how often is that right?",
        "Take the best baseline's number from the model's, and see what that is in percent of the 40.",
    ),
    mistakes=(
        Mistake(
            "points_ahead = 100 * (32 - 29) / 40",
            "That is the lead on the frozen features. There is a third baseline, which needs no features at all.",
        ),
        Mistake(
            "points_ahead = 100 * (32 - 26) / 40",
            "That is the lead on the bag of words, the weakest of the three. It is the best one that has to be beaten.",
        ),
        Mistake(
            "points_ahead = 80 - 50",
            "That takes a half for the majority. So it would be if both labels were as frequent; here 30 of 40 are bad.",
        ),
        Mistake(
            "points_ahead = 100 * 32 / 40",
            "That is how many the model gets right. What does a baseline get?",
        ),
        Mistake(
            "points_ahead = 100 * 30 / 40",
            "That is what the best baseline gets. How far is the model ahead of it?",
        ),
        Mistake(
            "points_ahead = 32 - 30",
            "That is the lead in reviews. In points, it is percent of the 40.",
        ),
        Mistake(
            "points_ahead = (32 - 30) / 40",
            "That is the lead as a share of 1. A point is a hundredth of that.",
        ),
        Mistake(
            "points_ahead = 100 * (32 - 28) / 40",
            "That takes how often the *model* says bad, 28 times, for the majority. The baseline is right as often as reviews "
            "*are* bad.",
        ),
        Mistake(
            "points_ahead = 100 * (32 / 30 - 1)",
            "That is by what percentage the model's number is larger than the baseline's. Points are a difference of two "
            "percentages.",
        ),
        Mistake(
            "points_ahead = 100 * (30 - 32) / 40",
            "The right size with the wrong sign: the model's score comes first.",
        ),
        Mistake(
            "points_ahead = 100 * (32 - (30 + 26 + 29) / 3) / 40",
            "That is the lead on the mean of the three. It is the best one that has to be beaten.",
        ),
        Mistake(
            "points_ahead = 100 * (25 / 30 + 7 / 10) / 2 - 50",
            "That gives both labels the same weight, which is called balanced accuracy. Here each review counts once.",
        ),
    ),
)
