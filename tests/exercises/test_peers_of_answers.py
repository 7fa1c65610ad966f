"""The right answers of lesson 07 are what the library computes, and the mask that was built guides the real model."""

import re

import pytest
import torch

from course_lib.applications.constraints import Constraint
from course_lib.applications.evaluation import mcnemar
from course_lib.applications.programs import pass_at_k
from course_lib.applications.retrieval import fuse
from course_lib.applications.watermark import Watermark
from course_lib.exercises import find
from course_lib.exercises.real_model import lesson_names


def answer(number):
    return find(number).run(find(number).solution)


def inputs(number):
    return find(number).inputs(torch.Generator().manual_seed(0))


def test_values_to_put_in_are_the_librarys():
    assert answer("07.6") == pytest.approx(pass_at_k(8, 2, 3))
    assert answer("07.8") == pytest.approx(max(fuse(["DABC", "ECA"]).values()))
    assert answer("07.12") == pytest.approx(mcnemar(9, 2))


def test_functions_to_be_written_are_the_librarys():
    for n, c in inputs("07.7"):
        shares = answer("07.7")(n, c)
        assert len(shares) == n
        for k in (1, n // 2, n):
            assert shares[k - 1].item() == pytest.approx(pass_at_k(n, c, k))
    for rankings, n_items, k in inputs("07.9"):
        scores, order = answer("07.9")(rankings, n_items, k)
        found = fuse(rankings, k)
        assert {item: scores[item].item() for item in found} == pytest.approx(found)
        assert sorted(order.tolist()) == list(range(n_items))
        assert set(order[: len(found)].tolist()) == set(found)


def test_watermark_is_found_with_the_same_z_and_p_value():
    mark, ids = (
        Watermark("key", gamma=0.3),
        torch.randint(20, (60,), generator=torch.Generator().manual_seed(0)).tolist(),
    )
    tokens = torch.arange(20).numpy()
    green = {(a, b) for a in range(20) for b in tokens[mark.is_green(a, tokens)].tolist()}
    found = mark.detect(ids)
    assert answer("07.5")(ids, green, mark.gamma) == pytest.approx((found.z, found.p_value))


def test_formula_with_replacement_says_too_little_in_the_mean_as_07_1_explains():
    n, k, p = 8, 3, 0.3
    chances = torch.distributions.Binomial(n, p).log_prob(torch.arange(n + 1.0)).exp().tolist()
    exact = 1 - (1 - p) ** k
    assert sum(chance * pass_at_k(n, c, k) for c, chance in enumerate(chances)) == pytest.approx(exact, rel=1e-5)
    assert sum(chance * (1 - (1 - c / n) ** k) for c, chance in enumerate(chances)) < exact - 0.02


def test_mask_that_was_built_is_that_of_the_library_over_the_whole_vocabulary():
    tokenizer = lesson_names()["tokenizer"]
    constraint = Constraint("[0-9]{4}-[0-9]{2}-[0-9]{2}", tokenizer)
    (end,) = tokenizer.end_ids
    ordinary = [id for token, id in tokenizer.vocab.items() if token not in tokenizer.special_tokens]
    tokens = {id: tokenizer.decode_bytes([id]) for id in ordinary}
    written = [tokenizer.encode("1969-07-20"[:n]) for n in (0, 3, 4, 10)]
    logits = torch.randn(len(written), len(constraint.allowed(0)) + 7)
    rule = constraint.rule()
    wanted = torch.stack([rule(ids, row) for ids, row in zip(written, logits, strict=True)])
    assert torch.equal(answer("07.3")(written, logits, tokens, end), wanted)


def test_real_model_writes_a_date_under_the_mask_that_was_built():
    build = find("07.3")
    outcome = build.check(answer("07.3"))
    assert outcome.status == "passed"
    assert re.search(r"'[0-9]{4}-[0-9]{2}-[0-9]{2}'\. Without it: 'The first human", outcome.message)
    right = answer("07.3")

    def narrow(written, logits, tokens, end, automaton=None):
        if len(tokens) > 100:
            raise ValueError("too many tokens")
        return right(written, logits, tokens, end, automaton)

    assert build.check(narrow).message == "But in a real run it stopped: ValueError: too many tokens"
