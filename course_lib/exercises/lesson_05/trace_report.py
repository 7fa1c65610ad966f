"""Exercise 05.10: what is left of a lead once the leaked questions are out and all seeds count, by hand."""

from statistics import mean

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_REPORT"]

_N_QUESTIONS, _N_LEAKED = 120, 20
_OURS = ((99, 20), (90, 19), (90, 18))  # of each seed: right of all, right of those that leaked
_THEIRS = ((84, 14), (89, 15), (85, 13))


def _seed_by_seed() -> float:
    """Return the mean of the leads of one seed each, in points."""
    n = _N_QUESTIONS - _N_LEAKED
    clean = ([(right - leaked) / n for right, leaked in runs] for runs in (_OURS, _THEIRS))
    return 100 * mean(ours - theirs for ours, theirs in zip(*clean, strict=True))


TRACE_REPORT = Exercise(
    id="05.10",
    kind="trace",
    title="What is left of a lead?",
    section="How an evaluation misleads",
    answer="points_left",
    results=("points_left",),
    expected=_seed_by_seed,
    tolerance=0.01,
    stub="""\
# A report: "Our method is right on 99 of 120 questions, the old one on 84." From its appendix:
#                                             seed 0   seed 1   seed 2
#     ours       of all 120                       99       90       90
#                of the 20 that had leaked        20       19       18
#     the old    of all 120                       84       89       85
#                of the same 20                   14       15       13
# The 20 had leaked into our training data. By how many points is ours ahead on the questions that
# had not, as a mean over the seeds? (A point is one percent of those questions.)
points_left = ...
""",
    solution="""\
# of the 100 others, ours is right on 79, 71 and 72, and the old one on 70, 74 and 72
points_left = (79 + 71 + 72 - 70 - 74 - 72) / 3
""",
    why="The report claims 15 of 120 questions, 12.5 points. Without the leaked ones, ours is right on 79, 71 and 72 of 100, "
    "and the old method on 70, 74 and 72: means of 74 and 72. Two points are left, and the seeds of one method lie farther "
    "apart than that; an interval on a hundred questions is wider still. The report is true in every number. What misleads is "
    "which questions were counted, and which seed. What another wording or another measure would say, the appendix does not "
    "tell.",
    hints=(
        "Two things are to be undone: some questions were trained on, and one seed of three was reported.",
        "Which questions remain, and how many of them does each run get right? Take them out for both methods.",
        "A mean over three seeds for each method. As 100 questions are left, one question is one point.",
    ),
    mistakes=(
        Mistake(
            "points_left = 100 * (99 - 84) / 120",
            "That is what the report claims: leaked questions count, and one seed is taken for all.",
        ),
        Mistake(
            "points_left = 79 - 70",
            "The leaked questions are out. But that is seed 0 alone, the best of ours and the worst of the other.",
        ),
        Mistake(
            "points_left = 100 * (93 - 86) / 120",
            "All seeds count. But so do the leaked questions, of which ours had seen the answers.",
        ),
        Mistake(
            "points_left = 93 - 86",
            "Those are questions of 120, with the leaked ones among them. Leave these out; then one question is one point.",
        ),
        Mistake(
            "points_left = 99 - 84",
            "That is the report's claim, counted in questions: with the leaked ones, and with one seed.",
        ),
        Mistake(
            "points_left = 79 - 74",
            "That compares each method's best seed. Which one is best was seen on the test; take the mean.",
        ),
        Mistake(
            "points_left = 79 + 71 + 72 - 70 - 74 - 72",
            "That is the sum over three seeds. Their mean was asked for.",
        ),
        Mistake(
            "points_left = 100 * (74 - 72) / 120",
            "The right two questions. But 100 are left, and not 120.",
        ),
        Mistake(
            "points_left = (74 - 72) / 100",
            "That is the lead as a share of 1. A point is a hundredth of that.",
        ),
        Mistake(
            "points_left = 74 - 86",
            "The leaked questions were taken from ours alone. Both methods are compared on the same questions.",
        ),
        Mistake(
            "points_left = 74 - 100 * 86 / 120",
            "Ours is measured on the 100 questions here, and the old method on all 120. Compare them on the same ones.",
        ),
        Mistake(
            "points_left = 72 - 74",
            "The right size with the wrong sign: ours is ahead, if by little.",
        ),
        Mistake(
            "points_left = 100 * (19 - 14) / 20",
            "That is the lead on the leaked questions alone. Those are the ones to leave out.",
        ),
        Mistake(
            "points_left = 74",
            "That is how many ours gets right of the 100. How far is it ahead?",
        ),
        Mistake(
            "points_left = 72 - 72",
            "Those are the medians. The means were asked for.",
        ),
    ),
)
