"""Exercise 07.10: how many refusals are right, by hand."""

from fractions import Fraction

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_REFUSALS"]


def _question_by_question() -> float:
    """Return which share of the refused questions has no answer, from so many that every count is whole."""
    n_each = 17 * 35
    asked = [(False, 12, 17)] * n_each + [(True, 3, 35)] * 9 * n_each  # has it an answer; refused, of how many
    refused = {has_one: sum(Fraction(n, of) for has, n, of in asked if has == has_one) for has_one in (True, False)}
    return float(refused[False] / sum(refused.values()))


TRACE_REFUSALS = Exercise(
    id="07.10",
    kind="trace",
    title="How many refusals are right",
    section="Refuse",
    answer="refusals_right",
    results=("refusals_right",),
    expected=_question_by_question,
    tolerance=0.005,
    stub="""\
# With other plays for the choice of the threshold, 12 of 17 questions without an answer were
# refused, and 3 of 35 that have one: a precision of 12 of 15, or 80 %. But in the test every third
# question had no answer. If among a reader's questions every tenth has none, and the librarian errs
# as often with each kind: what is the precision of its refusals? Put in the share.
refusals_right = ...
""",
    solution="""\
# of 100 questions 10 have no answer, and 90 have one
rightly, wrongly = 10 * 12 / 17, 90 * 3 / 35
refusals_right = rightly / (rightly + wrongly)
""",
    why="0.48: more than half of what is refused has an answer, though the librarian is the same. Recall, and the share of "
    "the answerable that is refused, belong to one kind of question each, so they do not change with the mixture. Precision "
    "mixes both kinds: the rarer the questions without an answer, the more of the refusals are false alarms. So a precision "
    "means nothing without the mixture that it was measured on. `course_lib.applications.answers.refusals` computes both.",
    hints=(
        "Take a hundred questions of such a reader. How many of them have no answer?",
        "Of each kind, how many are refused? The shares are those that were measured.",
        "Precision is of what is refused: those without an answer, divided by all that were refused.",
    ),
    mistakes=(
        Mistake(
            "refusals_right = 12 / 15",
            "That is the precision in the test, where every third question has no answer. Here it is every tenth.",
        ),
        Mistake("refusals_right = 12 / 17", "That is the recall: of the questions without an answer, those refused."),
        Mistake(
            "refusals_right = 3 / 15",
            "That is the share of the test's refusals that is wrong. Asked for is the right part, among other questions.",
        ),
        Mistake(
            "refusals_right = 90 * 3 / 35 / (10 * 12 / 17 + 90 * 3 / 35)",
            "That is the share of the refusals that is wrong. The precision is the other part.",
        ),
        Mistake(
            "refusals_right = (12 / 17) / (12 / 17 + 3 / 35)",
            "That is the precision if half of the questions have no answer. Here it is every tenth.",
        ),
        Mistake(
            "refusals_right = 10 * 12 / (10 * 12 + 90 * 3)",
            "12 and 3 are counts, of 17 and of 35 questions. What carries over to other questions is the shares.",
        ),
        Mistake(
            "refusals_right = 10 * 12 / 17 / 100",
            "That is how many of *all* questions are rightly refused. Precision is of what is refused.",
        ),
        Mistake(
            "refusals_right = (10 * 12 / 17 + 90 * 3 / 35) / 100",
            "That is the share of all questions that is refused. How many of those have no answer?",
        ),
        Mistake(
            "refusals_right = 90 * 12 / 17 / (90 * 12 / 17 + 10 * 3 / 35)",
            "The kinds are exchanged: it is every tenth question that has *no* answer.",
        ),
        Mistake(
            "refusals_right = 0.1 * 12 / 15",
            "The precision of the test is not simply scaled: count what is refused of each kind, and divide.",
        ),
        Mistake(
            "refusals_right = 0.1", "That is the share of questions without an answer, before anything is refused."
        ),
    ),
)
