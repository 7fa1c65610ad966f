"""Sums are right, two ways to answer are judged alike, and what is held out is never asked in training."""

import re
from collections import Counter

import pytest

from course_lib.tasks.sums import (
    END,
    is_right,
    plain_problems,
    question,
    read_problems,
    story_problems,
    sums,
    tokenizer,
    work_out,
)


@pytest.mark.parametrize(
    ("a", "b", "answer"),
    [(478, 356, "8+6=14,7+5+1=13,4+3+1=8:834"), (500, 500, "0+0=0,0+0=0,5+5=10:1000"), (7, 95, "7+5=12,0+9+1=10:102")],
)
def test_working_is_what_one_does_on_paper(a, b, answer):
    assert work_out(a, b) == answer


@pytest.mark.parametrize("n_digits", [1, 2, 3, 5])
def test_the_working_of_every_sum_is_right(n_digits):
    for a, b in sums(200, n_digits):
        assert is_right(question(a, b), work_out(a, b) + END) and is_right(question(a, b), str(a + b) + END)
        for step in work_out(a, b).split(":")[0].split(","):
            asked, _, total = step.partition("=")
            assert eval(asked) == int(total)


@pytest.mark.parametrize(
    "answer", ["834", "833" + END, "0834" + END, "834:" + END, "", END, "8+6=14:835" + END, "834" + END + "1"]
)
def test_what_is_wrong_or_does_not_end_is_not_right(answer):
    assert not is_right("478+356=", answer)


def test_any_working_is_allowed():
    assert is_right("478+356=", "400+300:78+56:834" + END)


def test_a_tenth_is_held_out_and_never_among_the_others():
    training, held_out = sums(20_000, 2), sums(2_000, 2, held_out=True)
    assert not {*training} & {*held_out}
    assert len({*held_out}) / (len({*training}) + len({*held_out})) == pytest.approx(0.1, abs=0.02)
    assert sums(50, 3, 1) == sums(50, 3, 1) != sums(50, 3, 2)


def test_every_text_is_a_token_a_sign():
    letters = tokenizer()
    text = question(478, 356) + work_out(478, 356) + END
    ids = letters.encode(text)
    assert letters.decode(ids) == text and len(ids) == len(text) - len(END) + 1 and letters.end_ids == {ids[-1]}


def test_plain_problems_ask_for_what_their_expression_is():
    problems = plain_problems(40, seed=3)
    assert problems == plain_problems(40, seed=3) != plain_problems(40, seed=4) and len({*problems}) == 40
    for problem in problems:
        assert problem.text == f"What is {problem.expression}?"
        assert eval(problem.expression.translate(str.maketrans("−×÷", "-*/"))) == problem.answer


def test_there_are_sixty_story_problems_and_each_expression_is_the_answer():
    problems = story_problems()
    kinds = Counter(problem.kind for problem in problems)
    assert kinds == {"one step": 24, "two steps": 20, "misleading": 16} and len({p.text for p in problems}) == 60
    for problem in problems:
        assert eval(problem.expression) == problem.answer and problem.text.endswith("?")
        assert len(re.findall(r"[-+*/]", problem.expression)) in ((1,) if problem.kind != "two steps" else (2, 3, 4))


@pytest.mark.parametrize("text", ["912", "It is 912.", "38 × 24 = 912", "912.0 seats", "-1, no: 912", "912,"])
def test_the_last_number_is_what_is_answered(text):
    assert story_problems()[0].is_right(text)


@pytest.mark.parametrize("text", ["", "none", "911", "−912", "912 of 913", "9 12", "91.2", "٩١٢", "9" * 400])
def test_another_number_is_not_right(text):
    assert not story_problems()[0].is_right(text)


def test_a_damaged_file_of_problems_is_named(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"kind": "hard", "text": "?", "expression": "1", "answer": 1}\n')
    with pytest.raises(ValueError, match=r"problems.jsonl, line 1.*kind must be one of"):
        read_problems(path)
