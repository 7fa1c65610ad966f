"""The quality rules, counted by hand."""

import re

import numpy as np
import pytest

from course_lib import assets
from course_lib.corpora import quality_failures, shakespeare
from course_lib.corpora.quality import QUALITY_RULES, measure_quality

PROSE = """The ship lay at anchor in the bay, and nobody had come ashore for a week. Old Tom watched her from the wall.

"They have the fever," said his wife. Was she right? He thought of the year when it took half of the village, and went to
see what could be done. That night a boat left the harbour with bread, water and a doctor who did not ask to be paid."""


def test_prose_breaks_no_rule_and_every_rule_has_its_own_name():
    assert quality_failures(PROSE) == []
    assert len({rule.name for rule in QUALITY_RULES}) == len(QUALITY_RULES) == 23


MENU = "\n".join(f"- Buy the {name} that you have and want to be. " for name in "abcdefghijklmn")
REPEATED = "the offer that you have to see and be of. "


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (" ".join(PROSE.split()[:49]), {"number of words"}),
        (f"{PROSE}\n" + "# " * 15, {"hashes or ellipses per word"}),
        (MENU, {"lines that begin with a bullet"}),
        (PROSE.replace(". ", "...\n"), {"lines that end in an ellipsis"}),
        (f"{PROSE} " + " ".join(map(str, range(100, 130))), {"words with a letter"}),
        (re.sub(r"\b(the|be|to|of|and|that|have|with)\b", "der", PROSE.lower()), {"different English stop words"}),
        (f"{PROSE} lorem ipsum", {"“lorem ipsum”"}),
        (f"{PROSE} if (x) {{ }}", {"curly brackets"}),
        (PROSE.translate(str.maketrans(".?!", ",,,")), {"sentences"}),
        (f"{PROSE}\n" + "Home\n" * 4, {"repeated lines"}),
        (" ".join("a" if len(word) < 9 else word for word in PROSE.split()), {"mean length of a word"}),
    ],
)
def test_a_text_breaks_the_rule_that_it_was_made_to_break(text, broken):
    assert broken <= set(quality_failures(text))


def test_a_text_at_the_limit_passes():
    assert "number of words" not in quality_failures(" ".join(PROSE.split()[:50]))
    five, four = "Go there. See it! Is it good? (It is.) Stay.", "Go there, see it! Is it good? (It is.) Stay."
    assert "sentences" not in quality_failures(five) and "sentences" in quality_failures(four)


def test_repetition_by_hand():
    found = measure_quality("aa b ccc d e\n\naa b ccc d e\n\nf")  # 8 letters in each of the two, and one more
    assert found["repeated lines"] == found["repeated paragraphs"] == pytest.approx(1 / 3)
    assert found["characters in repeated lines"] == pytest.approx(12 / 25)  # here with the spaces in them
    assert found["characters in the commonest 2 words in a row"] == pytest.approx(
        2 * 3 / 17
    )  # "aa b", the first of four
    assert found["characters in the commonest 3 words in a row"] == pytest.approx(2 * 6 / 17)
    assert found["characters in repeated runs of 5 words"] == pytest.approx(8 / 17)
    assert found["characters in repeated runs of 6 words"] == 0
    overlapping = measure_quality("x " * 12)
    assert overlapping["characters in repeated runs of 10 words"] == pytest.approx(11 / 12)


def test_an_empty_text_breaks_rules_and_divides_by_nothing():
    assert "number of words" in quality_failures("")
    assert all(np.isfinite(list(measure_quality("").values())))


def test_rules_for_the_web_throw_out_a_list_of_files_and_plays_for_a_brace():
    folder = assets.fetch("shakespeare")
    assert {"words with a letter", "repeated lines"} < set(quality_failures((folder / "metadata.txt").read_text()))
    texts = {(work.edition, work.name): work.text for work in shakespeare.works()}
    assert sum("{" in text or "}" in text for text in texts.values()) == 10
    assert quality_failures(texts["modern", "as_you_like_it"]) == ["curly brackets"]  # "{CELIA and ROSALIND retire.]"
    assert "repeated lines" in quality_failures(texts["modern", "merry_wives_of_windsor"])  # with the speakers' names
    for fit in (("modern", "sonnets"), ("modern", "macbeth"), ("folio", "macbeth")):
        assert quality_failures(texts[fit]) == []
