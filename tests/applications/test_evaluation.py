"""Scores of answers against sums taken by hand, biases of judges made to have them, and tests against scipy and simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from course_lib.applications.evaluation import (
    HOW,
    OptionScores,
    answer_log_probs,
    binomial_tail,
    first_verified,
    items_needed,
    judge,
    length_bias,
    mcnemar,
    mcnemar_power,
    paired_difference,
    position_bias,
    score_options,
)
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.devices import seed_everything
from course_lib.inference.generation import chat_prompt
from course_lib.tokenization import Tokenizer

CONFIG = TransformerConfig(vocab_size=128, d_model=16, n_layers=2, n_heads=2, d_ff=16, context_length=128)
LETTERS = Tokenizer(
    {"Ġ" if chr(i) == " " else "Ċ" if chr(i) == "\n" else chr(i): i for i in (10, *range(32, 127))},
    [],
    {},
    chat_template="{{ messages[0].content }}:",
)


@pytest.fixture
def model():
    seed_everything(0)
    return TransformerLM(CONFIG).eval()


# ---------------------------------------------------------------- multiple choice


def test_log_probs_are_those_of_each_pair_alone(model):
    chance = np.random.default_rng(0)
    pairs = [tuple(chance.integers(0, 128, chance.integers(1, 60)).tolist() for _ in range(2)) for _ in range(40)]
    model.train()
    found = answer_log_probs(model, pairs)
    assert model.training and not any(part.requires_grad for part in found)
    for (prompt, answer), log_probs in zip(pairs, found, strict=True):
        with torch.no_grad():
            expected = model(torch.tensor([prompt + answer]))[0].log_softmax(-1)[len(prompt) - 1 : -1]
        torch.testing.assert_close(log_probs, expected[torch.arange(len(answer)), answer], atol=1e-5, rtol=1e-5)
    assert answer_log_probs(model, []) == []


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([], [1]), "pair 1 has a prompt of 0"),
        (([1], []), "an answer of 0"),
        (([1] * 100, [1] * 29), "at most 128"),
        (([1], [128]), "pair 1 holds the id 128"),
    ],
)
def test_pairs_that_cannot_be_scored_are_named(model, pair, message):
    with pytest.raises(ValueError, match=message):
        answer_log_probs(model, [([1], [2]), pair])


def test_a_model_that_has_diverged_is_not_scored(model):
    with torch.no_grad():
        model.embedding.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="no numbers"):
        answer_log_probs(model, [([1], [2])])


def test_options_are_scored_after_the_question_and_after_nothing(model):
    scores = score_options(model, LETTERS, " Why? ", ["so", " because it is "])
    question, nothing = map(LETTERS.encode, ("Question: Why?\nAnswer:", "Answer:"))
    for i, text in enumerate((" so", " because it is")):
        sums = [answer_log_probs(model, [(prompt, LETTERS.encode(text))])[0].sum() for prompt in (question, nothing)]
        torch.testing.assert_close(torch.stack([scores.log_probs[i], scores.prior[i]]), torch.stack(sums))
    assert scores.n_tokens.tolist() == [3, 14] and scores.n_bytes.tolist() == [2, 13]


def test_four_ways_to_compare_can_choose_four_answers():
    scores = OptionScores(
        log_probs=torch.tensor([-5.0, -6.0, -9.0, -20.0]),
        prior=torch.tensor([-4.0, -6.0, -9.0, -40.0]),
        n_tokens=torch.tensor([2, 6, 8, 10]),
        n_bytes=torch.tensor([4, 12, 36, 20]),
    )
    assert [scores.by(how).argmax().item() for how in HOW] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="per word"):
        scores.by("per word")


@pytest.mark.parametrize(
    ("options", "message"), [(["one"], "two options"), (["one", " "], "none empty"), ("ab", "single string")]
)
def test_options_that_are_no_choice_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        score_options(model, LETTERS, "Why?", options)


def test_an_answer_whose_first_token_the_prompt_would_swallow_is_refused(model):
    joined = Tokenizer(LETTERS.vocab | {":Ġ": 127}, [(":", "Ġ")], {}, words=r"[\s\S]+")
    with pytest.raises(ValueError, match="joins the end of the prompt"):
        score_options(model, joined, "Why?", ["so", "because"])


def test_the_real_model_knows_a_capital_but_not_token_by_token(smollm2):
    """After "Kuala" the rest of the name is all but certain, and lifts the mean."""
    scores = score_options(*smollm2, "What is the capital of France?", ["Kuala Lumpur", "Paris", "Rome"])
    assert [scores.by(how).argmax().item() for how in HOW] == [1, 0, 1, 1]
    assert scores.n_tokens.tolist()[1:] == [1, 1] and scores.n_bytes.tolist() == [12, 5, 4]


# ---------------------------------------------------------------- a verifier


def test_the_first_that_passes_is_returned_and_no_more_are_made():
    made = []

    def answers():
        for answer in (3, 8, 5, 10):
            made.append(answer)
            yield answer

    assert first_verified(answers(), lambda answer: answer % 5 == 0) == 5
    assert made == [3, 8, 5]
    assert first_verified([3, 8], lambda answer: answer % 5 == 0) is None


# ---------------------------------------------------------------- a model as judge


def test_a_judge_says_how_likely_each_letter_is(model):
    request = "Question: ?\n\nAnswer A: x\n\nAnswer B: yy\n\nWhich answer is better, A or B? Reply with one letter."
    prompt = chat_prompt(LETTERS, [{"role": "user", "content": request}])
    with torch.no_grad():
        both = model(torch.tensor([LETTERS.encode(prompt)]))[0, -1, [ord("A"), ord("B")]]
    assert judge(model, LETTERS, "?", "x", "yy") == pytest.approx(both.softmax(-1)[0].item(), abs=1e-6)


def test_a_judge_needs_room_and_a_chat_template(model):
    with pytest.raises(ValueError, match="context"):
        judge(model, LETTERS, "?", "x" * 100, "y")
    with pytest.raises(ValueError, match="no chat template"):
        judge(model, Tokenizer(LETTERS.vocab, [], {}), "?", "x", "y")


def test_the_real_model_judges_both_orders(smollm2):
    both = [judge(*smollm2, "What is two plus two?", *order) for order in (("four", "green"), ("green", "four"))]
    assert all(0 < probability < 1 for probability in both) and both[0] != both[1]


PAIRS = [(f"question {i}", "good" * i, "bad" * (2 * i)) for i in range(1, 41)]


def test_a_fair_judge_has_no_position_bias_and_one_that_looks_at_the_position_has_all():
    fair = position_bias(lambda question, a, b: 0.9 if "good" in a else 0.1, PAIRS)
    assert fair == (0.5, (0.5, 0.5), 0.0, (0.0, 0.0))
    blind = position_bias(lambda question, a, b: 0.6, PAIRS)
    assert blind == (1.0, (1.0, 1.0), 1.0, (1.0, 1.0))
    undecided = position_bias(lambda question, a, b: 0.5, PAIRS)
    assert undecided.first == 0.5 and undecided.contradicts == 0

    def half(question, a, b):
        return 0.2 if int(question.split()[1]) <= 10 else (0.9 if "good" in a else 0.1)

    assert position_bias(half, PAIRS)[::2] == (0.375, 0.25)


def test_a_length_bias_is_seen_through_a_position_bias():
    def likes_long(question, a, b):  # and what stands first, by as much again
        return 1 / (1 + math.exp(-0.5 - (0.5 if len(a) > len(b) else -0.5)))

    bias = length_bias(likes_long, PAIRS)
    assert bias.longer == 0.75 and bias.log_odds == pytest.approx(0.5)
    assert length_bias(lambda question, a, b: 0.6, PAIRS)[::2] == (0.5, pytest.approx(0))
    assert length_bias(lambda question, a, b: float(len(a) > len(b)), PAIRS).longer == 1
    with pytest.raises(ValueError, match="pair 1"):
        length_bias(likes_long, [PAIRS[0], ("?", "long", "long")])


@pytest.mark.parametrize("bias", [position_bias, length_bias])
def test_what_is_no_probability_and_too_few_pairs_are_refused(bias):
    for nonsense in (1.5, -0.1, math.nan, None, "A"):
        with pytest.raises(ValueError, match="what the judge says"):
            bias(lambda *_, nonsense=nonsense: nonsense, PAIRS[1:])
    with pytest.raises(ValueError, match="two pairs, not 1"):
        bias(lambda *_: 0.5, PAIRS[:1])


# ---------------------------------------------------------------- is a difference one?


def test_a_paired_difference_is_narrower_than_two_scores_apart():
    chance = torch.Generator().manual_seed(0)
    hardness = torch.randn(100, generator=chance)
    first, second = hardness + 0.1 * torch.randn(2, 100, generator=chance)
    found = paired_difference(first, second + 0.2)
    assert found.mean == pytest.approx((second + 0.2 - first).mean().item())
    assert 0 < found.interval[0] < found.mean < found.interval[1] < 0.3


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1, 2], [1, 2, 3], r"\(2,\) and \(3,\)"),
        ([[1, 2]], [[1, 2]], "one number an item"),
        ([1, math.nan], [1, 2], "finite"),
        ([1], [2], "two items"),
    ],
)
def test_scores_that_are_no_pairs_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(first, second)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_two_sided_binomial_test(only_first, only_second):
    n = only_first + only_second
    expected = binomtest(only_first, n, 0.5).pvalue if n else 1.0
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-9)


@given(st.integers(-2, 220), st.integers(0, 200), st.floats(0, 1))
def test_the_binomial_tail_is_scipys(at_least, n, p):
    assert binomial_tail(at_least, n, p) == pytest.approx(binom.sf(at_least - 1, n, p), rel=1e-8, abs=1e-300)


@pytest.mark.parametrize("wrong", [-1, 1.5, True, math.nan, 10**400])
def test_counts_are_counts(wrong):
    with pytest.raises(ValueError, match="only_second"):
        mcnemar(3, wrong)


@pytest.mark.parametrize(
    ("n", "only_first", "only_second", "level"),
    [(40, 0.1, 0.3, 0.05), (100, 0.05, 0.2, 0.01), (60, 0.2, 0.2, 0.05), (12, 0.0, 1.0, 0.05), (300, 0.02, 0.06, 0.1)],
)
def test_power_is_how_often_simulated_tests_find_the_difference(n, only_first, only_second, level):
    chance = np.random.default_rng(0)
    rest = 1 - only_first - only_second
    counts = chance.multinomial(n, [only_first, only_second, rest], size=20_000)[:, :2]
    splits, how_often = np.unique(counts, axis=0, return_counts=True)
    found = sum(often for split, often in zip(splits.tolist(), how_often, strict=True) if mcnemar(*split) <= level)
    assert mcnemar_power(n, only_first, only_second, level) == pytest.approx(found / 20_000, abs=0.012)


def test_the_items_needed_reach_the_power_and_fewer_do_not():
    for only_first, only_second in ((0.1, 0.3), (0.05, 0.1), (0.3, 0.2), (0.0, 0.5)):
        n = items_needed(only_first, only_second, power=0.8)
        assert mcnemar_power(n, only_first, only_second) >= 0.8 > mcnemar_power(n - 1, only_first, only_second)
        assert max(mcnemar_power(fewer, only_first, only_second) for fewer in range(max(1, n - 12), n)) < 0.83


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.2, 0.2), "as good as each other"),
        ((0.200, 0.2001), "more than 10,000"),
        ((0.6, 0.5), "at most 1 together"),
        ((0.1, math.nan), "only_second"),
        ((0.1, 0.3, 1.0), "power"),
        ((0.1, 0.3, 0.01), "power"),
        ((0.1, 0.3, 0.8, 0.0), "level"),
    ],
)
def test_plans_that_cannot_be_made_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        items_needed(*arguments)
