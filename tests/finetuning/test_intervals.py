"""The bootstrap's interval, against a formula and against the definition of coverage."""

import math

import pytest
import torch

from course_lib.finetuning.intervals import bootstrap_interval


def test_of_many_items_it_is_the_normal_approximation():
    right = torch.tensor([True] * 280 + [False] * 120)
    low, high = bootstrap_interval(right)
    half = 1.96 * math.sqrt(0.7 * 0.3 / 400)
    assert low == pytest.approx(0.7 - half, abs=0.006) and high == pytest.approx(0.7 + half, abs=0.006)


def test_it_holds_the_true_mean_about_nineteen_times_out_of_twenty():
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(300, 80, generator=generator) < 0.6
    held = sum(low <= 0.6 <= high for low, high in map(bootstrap_interval, draws))
    assert 0.90 < held / 300 < 0.98


def test_differences_on_the_same_items_have_a_narrower_one_than_the_scores():
    first = torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.5
    second = first.clone()
    second[:10] = True  # the same but for ten items
    low, high = bootstrap_interval(second.float() - first.float())
    whole_low, whole_high = bootstrap_interval(first)
    assert 0 <= low <= (second.float() - first.float()).mean() <= high and high - low < (whole_high - whole_low) / 2


def test_of_equal_items_it_is_a_point_and_of_one_item_there_is_none():
    assert bootstrap_interval([1, 1, 1]) == (1, 1)
    with pytest.raises(ValueError, match="two items, not 1"):
        bootstrap_interval([1.0])
