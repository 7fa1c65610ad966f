"""The ratings of words are those in VADER's file, and those of texts their means, against VADER's words by hand."""

import numpy as np
import pytest

from course_lib.tasks.ratings import rate, word_ratings

GOOD, BAD = (2, 1, 1, 3, 2, 4, 2, 2, 1, 1), (-3, -2, -4, -3, -2, -2, -3, -2, -2, -2)


def test_words_are_plain_and_have_ten_ratings_from_minus_four_to_four():
    ratings = word_ratings()
    assert len(ratings) == 7209
    assert all(word.isalpha() and word.isascii() and word.islower() for word in ratings)
    assert {len(given) for given in ratings.values()} == {10}
    assert {rating for given in ratings.values() for rating in given} == set(range(-4, 5))
    assert ratings["good"] == GOOD and ratings["bad"] == BAD
    assert not {":)", "gr8", "fed up", "cover-up", "thee", "the"} & ratings.keys()


def test_nobody_can_change_them():
    with pytest.raises(TypeError):
        word_ratings()["good"] = (0,) * 10


def test_a_word_listed_twice_has_its_later_ratings():
    assert sum(word_ratings()["lol"]) == 18 and sum(word_ratings()["ok"]) == 12


@pytest.mark.parametrize("text", ["", " \n", "...", "—", "the table", "12"])
def test_without_a_rated_word_a_text_rates_zero(text):
    assert rate(text).tolist() == [0.0] * 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("good", [GOOD]),
        ("GOOD, bad!", [GOOD, BAD]),
        ("a good day", [None, GOOD, None]),
        ("Good's good’s 'good' \"good\"", [GOOD, None, None, None]),
        ("won't", [None]),
        ("good-bad_good—bad", [GOOD, BAD, None, None]),
        ("7 good2 thou", [None] * 3),
        ("goodé good", [None, GOOD]),
        ("good good\n\tbad 👍", [GOOD, None, BAD]),
    ],
)
def test_a_text_has_the_mean_of_its_words_and_one_unrated_or_said_again_counts_zero(text, words):
    expected = np.mean([given or (0,) * 10 for given in words], axis=0)
    assert rate(text) == pytest.approx(expected)
