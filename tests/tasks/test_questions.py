"""Two sentences, of which one is a question."""

from course_lib.corpora import shakespeare
from course_lib.corpora.shakespeare import Work
from course_lib.tasks.questions import question_pairs

PLAY = Work(
    "small",
    "modern",
    "\n\nCLOWN.\nWould not a pair of these\nhave bred, sir?\n\n"
    "VIOLA.\nYes, being kept together. Go! I understand you well, sir.\n\n"
    "CLOWN.\nWhat is it? Is it well begg'd? I know it not.\n\n",
)


def test_pairs_by_hand():
    found = set(question_pairs([PLAY]))
    # "Go!" stands between the next two, "I understand" and "What is it" are a pair, and so is what is left
    assert found <= {
        ("Would not a pair of these have bred, sir\nYes, being kept together", 0),
        ("I understand you well, sir\nWhat is it", 1),
        ("Is it well begg'd\nI know it not", 0),
    }
    assert sorted(label for _, label in found) == [0, 1]


def test_classes_are_equal_no_sign_is_left_and_a_seed_decides():
    for works in shakespeare.split():
        pairs = question_pairs(works, seed=1)
        assert len(pairs) > 200 and 2 * sum(label for _, label in pairs) == len(pairs)
        assert len({text for text, _ in pairs}) == len(pairs)
        for text, _ in pairs:
            lines = text.split("\n")
            assert (
                len(lines) == 2 and not set(text) & set(".?!") and all(3 <= len(line.split()) <= 14 for line in lines)
            )
        assert pairs == question_pairs(works, seed=1) != question_pairs(works, seed=2)
