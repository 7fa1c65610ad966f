"""The whole life as the course has it: what is not in the cache yet is made, in some minutes, and used by the lessons too."""

import re
import sys

import pytest

from course_lib.life.__main__ import main


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> str:
    """The report of `python -m course_lib.life`."""
    out = tmp_path_factory.mktemp("life")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["life", "--out", str(out)])
        main()
    return (out / "report.md").read_text(encoding="utf-8")


def numbers(card: str, name: str) -> list[float]:
    """Return the numbers in the last row of a table that is called `name`."""
    *_, row = re.findall(rf"^\| {name} \|(.+)$", card, re.MULTILINE)
    return [float(number) for number in re.findall(r"-?\d[\d.]*", row.replace("−", "-").replace(",", ""))]


def test_it_predicts_plays_and_forgets_some_of_that(card):
    (first,), (second,), (third,) = (numbers(card, name) for name in ("pretraining", "supervised", "reinforcement"))
    assert 1.8 < first < 1.93 and first < second < third < 3  # 1.93: a compressor that counts bytes


def test_the_reward_model_expects_more_choices_than_chance(card):
    n, share, low, high = map(int, re.search(r"Of (\d+) .+ (\d+)% \[(\d+)%, (\d+)%\]", card).groups())
    assert n > 300 and 60 < low < share < high < 90
    assert float(re.search(r"([\d.]+) points away", card)[1]) < 12


def test_both_rewards_rise_by_more_than_the_interval_and_the_leash_holds(card):
    assert numbers(card, "learned reward")[-2] > 1  # the lower end of the difference
    assert numbers(card, "human rating")[-2] > 0.05
    assert 0.4 < numbers(card, "wins")[0] < 0.6 < numbers(card, "wins")[3]
    assert 0 < numbers(card, "KL, nats")[3] < 8
    assert 8 < numbers(card, "tokens")[3] < 16
