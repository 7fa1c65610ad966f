"""Exercise 04.7: what a rule about repeated lines does to a good page, by hand."""

from course_lib.corpora.quality import measure_quality
from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_FILTER"]


def _measured() -> float:
    """Write the page, and let the rule count."""
    article = [f"line {number:2} of an article".ljust(60, ".") for number in range(10)]
    return measure_quality("\n".join([*article, *["Read more"] * 6]))["repeated lines"]


TRACE_FILTER = Exercise(
    id="04.7",
    kind="trace",
    title="Six links under an article",
    section="Data matters",
    answer="repeated",
    results=("repeated",),
    expected=_measured,
    tolerance=0.01,
    stub="""\
# A page is an article of 10 different lines, 60 characters each, and "Read more" six times, on
# lines of its own. Gopher's filter throws a page out if more than 0.3 of its lines repeat an
# earlier line of it. What is that share here?
repeated = ...
""",
    solution="""\
# 16 lines, of which 10 + 1 are different: the other 5 repeat an earlier one
repeated = 5 / 16
""",
    why="Of 16 lines 11 are different, so 5 repeat an earlier one: 0.31, just above the limit. The page is thrown out, for "
    "six links under a good article. A second rule, on the share of *characters* in repeated lines, would keep it: 45 of 654, "
    "or 7 %, where 20 % are allowed. Each rule throws out what another keeps, so each has to be looked at with pages that it "
    "alone throws out. C4 also cuts single lines, those that do not end in a full stop or another mark: the links would go, "
    "and of the article the lines that end so would stay.",
    hints=(
        "How many lines has the page? How many of them say what an earlier line has said?",
        "The first “Read more” repeats nothing: no line before it says that.",
        "Divide the lines that repeat an earlier one by all lines of the page.",
    ),
    mistakes=(
        Mistake(
            "repeated = 6 / 16",
            "The first “Read more” is counted, too. It repeats nothing: only the ones after it do.",
        ),
        Mistake(
            "repeated = 5 / 11", "That divides by the *different* lines. The share is one of all lines of the page."
        ),
        Mistake("repeated = 5 / 10", "That divides by the lines of the article. The links are lines of the page, too."),
        Mistake(
            "repeated = 6 / 10", "Links against lines of the article: count repeated lines, and divide by all lines."
        ),
        Mistake("repeated = 11 / 16", "That is the share of lines that are different. How many are not?"),
        Mistake("repeated = 1 / 11", "That is how many *kinds* of line come twice. The rule counts lines."),
        Mistake("repeated = 1 / 16", "Five lines repeat an earlier one: each “Read more” after the first."),
        Mistake(
            "repeated = 45 / 654",
            "Those are characters: 5 times 9, of 654. That is another of Gopher's rules. This one counts lines.",
        ),
        Mistake("repeated = 54 / 654", "That is the share of characters in links. This rule counts lines."),
        Mistake("repeated = 5", "That is how many lines repeat an earlier one. What share of all lines are they?"),
        Mistake("repeated = 4 / 16", "“Read more” stands six times, and all but the first repeat an earlier line."),
    ),
)
