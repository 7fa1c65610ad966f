"""Sums are right, two ways to answer are judged alike, and what is held out is never asked in training."""

import pytest

from course_lib.tasks.sums import END, is_right, question, sums, tokenizer, work_out


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
