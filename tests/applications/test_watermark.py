"""The watermark: what it does to logits, what its detector counts, whether its p-values are probabilities, and attacks."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest

from course_lib.applications.watermark import Watermark, delete_tokens, replace_tokens, shared_runs
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.inference import Sampling, generate, roll_out

MARK = Watermark("secret", gamma=0.25, delta=2.0)
TINY = TransformerConfig(vocab_size=400, d_model=16, n_layers=1, n_heads=2, d_ff=16, context_length=256)


@pytest.fixture
def tiny():
    seed_everything(0)
    return TransformerLM(TINY).eval()


def random_text(n: int, seed: int) -> list[int]:
    return torch.randint(400, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_green_logits_gain_delta_and_nothing_else_changes():
    logits = torch.randn(1000)
    logits[7] = -torch.inf
    green = torch.from_numpy(MARK.is_green(3, np.arange(1000)))
    expected = torch.where(green, logits + 2.0, logits)
    assert torch.equal(MARK([9, 3], logits), expected)
    assert torch.equal(MARK([], logits), logits)
    assert MARK([3], logits.bfloat16()).dtype == torch.bfloat16


def test_lists_are_a_share_of_the_vocabulary_and_independent_of_each_other():
    tokens = np.arange(50_000)
    lists = np.stack([Watermark(key, 0.25).is_green(last, tokens) for key in "ab" for last in (0, 1, 49_151)])
    np.testing.assert_allclose(lists.mean(axis=1), 0.25, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(lists) - np.eye(6), 0, atol=0.02)
    assert np.array_equal(MARK.is_green(5, tokens)[[3, 40_000]], MARK.is_green(5, np.array([3, 40_000])))


def test_lists_are_the_same_on_every_machine_and_in_every_release():
    assert MARK.is_green(1, np.arange(40)).nonzero()[0].tolist() == [14, 20, 26, 28, 29, 30, 35, 39]


def test_a_pair_is_counted_once_and_p_is_the_binomial_tail():
    text = random_text(150, 1) * 2
    pairs = set(pairwise(text))
    n_green = sum(bool(MARK.is_green(last, np.arange(400))[token]) for last, token in pairs)
    found = MARK.detect(text)
    assert found[:2] == (len(pairs), n_green)
    assert found.z == pytest.approx((n_green - 0.25 * len(pairs)) / (0.1875 * len(pairs)) ** 0.5)
    assert found.p_value == pytest.approx(binom.sf(n_green - 1, len(pairs), 0.25), rel=1e-9)


@pytest.mark.parametrize("text", [[], [5]])
def test_where_there_is_no_pair_nothing_is_found(text):
    assert MARK.detect(text) == (0, 0, 0.0, 1.0)


def test_p_values_over_keys_are_probabilities_whatever_the_text():
    """A text that repeats itself too. Counts are whole, so p is made continuous by drawing within its steps."""
    text = random_text(40, 0) * 3 + [7] * 50 + random_text(60, 1)
    chance, spread = np.random.default_rng(0), []
    for key in range(2000):
        found = Watermark(str(key)).detect(text)
        spread.append(found.p_value - chance.random() * binom.pmf(found.n_green, found.n_pairs, 0.25))
    assert kstest(spread, "uniform").pvalue > 0.01


def test_what_a_model_writes_with_the_rule_is_found_with_its_key_alone(tiny):
    noise = torch.rand(20, 200, generator=torch.Generator().manual_seed(0))
    draw = {"sampling": Sampling(1.0), "noise": noise}
    marked = roll_out(tiny, [[1, 2]] * 20, 200, rules=[MARK] * 20, **draw).answers
    plain = roll_out(tiny, [[1, 2]] * 20, 200, **draw).answers
    assert all(MARK.detect(text).p_value < 1e-6 for text in marked)
    assert all(Watermark("another").detect(text).p_value > 1e-6 for text in marked)
    assert all(MARK.detect(text).p_value > 1e-6 for text in plain)
    # each green token is e² times as likely as before, and the tiny model has no preference of its own
    share = sum(MARK.detect(text).n_green for text in marked) / sum(MARK.detect(text).n_pairs for text in marked)
    assert share == pytest.approx(0.25 * np.e**2 / (0.25 * np.e**2 + 0.75), abs=0.02)


def test_alone_and_in_a_batch_the_mark_is_the_same(tiny):
    noise = torch.rand(1, 30, generator=torch.Generator().manual_seed(0))
    together = roll_out(tiny, [[1, 2]], 30, Sampling(1.0), rules=[MARK], noise=noise).answers[0]
    alone = generate(tiny, [1, 2], 30, Sampling(1.0), rule=MARK, generator=torch.Generator().manual_seed(0))
    assert list(alone) == together


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": ""},
        {"key": "é" * 33},
        {"key": 3},
        {"gamma": 0},
        {"gamma": 1.5},
        {"gamma": float("nan")},
        {"delta": -1},
        {"delta": float("inf")},
    ],
)
def test_nonsense_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Watermark(**{"key": "secret", **wrong})


def test_the_key_is_not_shown_with_the_mark():
    assert "secret" not in repr(Watermark("secret")) and Watermark("secret") != Watermark("other")


def test_a_detector_is_given_ids():
    for wrong in (-1, 2**63):
        with pytest.raises(ValueError, match="never negative"):
            MARK.detect([3, wrong])
    with pytest.raises(ValueError, match="previous"):
        MARK.is_green(-1, np.arange(3))
    assert MARK.detect(np.array(random_text(50, 0))) == MARK.detect(random_text(50, 0))
    with pytest.raises(TypeError):
        MARK.detect("text")


def test_attacks_change_as_much_as_they_say():
    text, generator = list(range(100)), torch.Generator().manual_seed(0)
    replaced = replace_tokens(text, 0.3, [500, 501], generator)
    assert sum(a != b for a, b in zip(text, replaced, strict=True)) == 30 and set(replaced) - set(text) == {500, 501}
    deleted = delete_tokens(text, 0.3, generator)
    assert len(deleted) == 70 and deleted == sorted(deleted) and set(deleted) < set(text)
    assert replace_tokens(text, 0, [1]) == delete_tokens(text, 0) == text == list(range(100))
    assert delete_tokens(text, 1) == replace_tokens([], 0.5, [1]) == []


def test_impossible_attacks_are_refused():
    with pytest.raises(ValueError, match="share"):
        delete_tokens([1], 1.5)
    with pytest.raises(ValueError, match="share"):
        replace_tokens([1], float("nan"), [1])
    with pytest.raises(ValueError, match="pool"):
        replace_tokens([1], 0.5, [])


def test_runs_of_four_are_looked_up_in_all_texts_of_the_log():
    log = [[1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert shared_runs([1, 2, 3, 4, 5], log) == shared_runs([6, 7, 8, 9], log) == 1.0
    assert shared_runs([2, 3, 4, 5, 6, 7, 8, 9], log) == 2 / 5  # none spans two texts
    assert shared_runs([1, 2, 3], log) == shared_runs([], log) == shared_runs([1, 2, 3, 5], []) == 0.0
