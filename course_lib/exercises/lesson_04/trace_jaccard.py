"""Exercise 04.8: how alike two texts are that differ in one word, by hand."""

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["TRACE_JACCARD"]


def _counted() -> float:
    """Write both texts out, and count the runs of three words that they share and those that either has."""
    ours = list(range(30))
    theirs = [*ours[:14], "another", *ours[15:]]
    first, second = (set(zip(words, words[1:], words[2:], strict=False)) for words in (ours, theirs))
    return len(first & second) / len(first | second)


TRACE_JACCARD = Exercise(
    id="04.8",
    kind="trace",
    title="One word in thirty",
    section="Data matters",
    answer="jaccard",
    results=("jaccard",),
    expected=_counted,
    tolerance=0.005,
    stub="""\
# A text of 30 words, all different, and a copy of it in which one word in the middle is another.
# What is their Jaccard similarity, over runs of three words? Is it above the usual threshold, 0.8?
jaccard = ...
""",
    solution="""\
# 28 runs in each; the changed word stands in 3 of them, so 25 are shared; either has 28 + 3
jaccard = 25 / (28 + 3)
""",
    why="30 words make 28 runs of three, and a word in the middle stands in three of them: as the first, the "
    "second and the third. "
    "So 25 runs are in both texts, and 31 in either: 0.81. One word in thirty brings a copy down to the usual "
    "threshold of 0.8, "
    "and with runs of five words below it (21/31). In old spelling every second word is another. So a threshold belongs to a "
    "length of runs and to a kind of copy, and is chosen by looking at the pairs that lie around it.",
    hints=(
        "How many runs of three words has a text of five words? And one of thirty?",
        "In how many runs does the changed word stand? Those are in one text only.",
        "Shared runs, divided by the runs that are in the one text or in the other. A shared run counts once.",
    ),
    mistakes=(
        Mistake(
            "jaccard = 25 / 28",
            "That is the share of *one* text's runs that the other has. The Jaccard similarity divides by the runs of either, "
            "those of the other text alone among them.",
        ),
        Mistake(
            "jaccard = 29 / 31",
            "That counts single words, or takes the changed word for part of one run only. It stands in three runs of three.",
        ),
        Mistake(
            "jaccard = 29 / 30",
            "That is the share of words that agree. Count runs of three, and divide by the runs that either text has.",
        ),
        Mistake(
            "jaccard = 27 / 33",
            "30 words make fewer than 30 runs of three: the last two words begin none.",
        ),
        Mistake(
            "jaccard = 9 / 10",
            "Those are runs that do not overlap. A run begins at every word but the last two.",
        ),
        Mistake(
            "jaccard = 25 / 56",
            "The shared runs are counted twice in the divisor, once for each text. In the union a run counts once.",
        ),
        Mistake("jaccard = 6 / 31", "That is the share of runs that differ. How many are shared?"),
        Mistake("jaccard = 25", "That is how many runs are shared. Divide by the runs that are in either text."),
        Mistake("jaccard = 31 / 25", "The other way round: a similarity is 1 at most."),
        Mistake(
            "jaccard = 25 / 30",
            "The shared runs are right. Divide by the number of runs that are in the one text or in the other, not of words.",
        ),
        Mistake(
            "jaccard = 28 / 34",
            "28 is the number of runs in one text. Those with the changed word are not shared.",
        ),
    ),
)
