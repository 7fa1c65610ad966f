"""Questions and answers made from the plays."""

from collections import Counter

import pytest

from course_lib.corpora import shakespeare
from course_lib.corpora.shakespeare import Work
from course_lib.tasks.instructions import KINDS, instructions, speeches

PLAY = Work(
    "small",
    "modern",
    "ACT I.\n\nHAMLET.\nWhere is my old friend, Horatio?\n[Enter Horatio.]\nWho calls so loud, and late?\n\n"
    "HORATIO.\nHere, sweet lord, at your service.\n\nHAMLET.\nGood.\n\nExeunt",
)


def test_speeches_are_lines_without_directions_and_names():
    assert speeches(PLAY) == [
        ["Where is my old friend, Horatio?", "Who calls so loud, and late?"],
        ["Here, sweet lord, at your service."],
        ["Good."],
    ]


def test_answers_by_hand():
    found = {(made.kind, made.question): made.answer for made in instructions([PLAY], 200)}
    assert found["first", "What is the first word of this line? Here, sweet lord, at your service."] == "Here"
    assert found["last", "What is the last word of this line? Where is my old friend, Horatio?"] == "Horatio"
    assert found["repeat", "Repeat this line. Who calls so loud, and late?"] == "Who calls so loud, and late?"
    assert found["reply", "Answer this. Who calls so loud, and late?"] == "Here, sweet lord, at your service."
    assert len(found) == 3 * 3 + 1  # lines of four to nine words, of which one is answered by such a line


def test_kinds_come_in_equal_parts_and_a_seed_decides():
    _, held_out = shakespeare.split()
    made = instructions(held_out, 400, seed=1)
    assert Counter(one.kind for one in made) == dict.fromkeys(KINDS, 100)
    assert made == instructions(held_out, 400, seed=1) != instructions(held_out, 400, seed=2)
    texts = " ".join(" ".join(work.text.split()) for work in held_out)
    assert all(one.answer in texts for one in made)
    assert made[0].chat == [
        {"role": "user", "content": made[0].question},
        {"role": "assistant", "content": made[0].answer},
    ]


def test_no_instruction_is_no_number_of_them():
    with pytest.raises(ValueError, match="n must be positive"):
        instructions([PLAY], 0)


def test_works_in_which_nobody_answers_are_refused():
    with pytest.raises(ValueError, match="no line that another one answers"):
        instructions([Work("poem", "modern", "From fairest creatures we desire increase,\n")], 8)
