"""What a check says of answers that nobody foresaw: of another type, shape or gradient, failing, printing, or undone."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_exercises import seeded
from torch.nn import functional as F

from course_lib.exercises import find
from course_lib.exercises.real_model import lesson_names
from course_lib.exercises.registry import Exercise
from course_lib.widgets import check

ATTENTION = find("01.4")


def attend(q, k, v):
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return weights @ v, weights


def test_right_answer_written_otherwise_passes():
    def renormalised(q, k, v):
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).tril()
        return weights / weights.sum(-1, keepdim=True) @ v

    assert ATTENTION.check(attend).status == "passed"
    assert find("01.3").check(renormalised).status == "passed"
    assert find("01.1").check(torch.tensor(0.625)).status == "passed"
    assert find("01.1").check(0.63).status == "passed"


def test_exception_is_shown_as_the_learners_own_line():
    def unfinished(q, k, v):
        scores = q @ keys  # noqa: F821
        return scores

    outcome = ATTENTION.check(unfinished)
    assert outcome.status == "error"
    assert "scores = q @ keys" in outcome.message
    assert "NameError: name 'keys' is not defined" in outcome.message
    assert "q (2, 5, 3), k (2, 7, 3), v (2, 7, 4)" in outcome.message
    assert "Traceback" not in outcome.message
    assert "registry.py" not in outcome.message


def test_exception_inside_torch_names_the_learners_line_too():
    outcome = ATTENTION.check(lambda q, k, v: torch.cat([q, k], dim=0))
    assert outcome.status == "error"
    assert "ATTENTION.check(lambda" in outcome.message
    assert "RuntimeError: Sizes of tensors must match" in outcome.message


def test_missing_return_is_pointed_out():
    def forgetful(q, k, v):
        attend(q, k, v)

    outcome = ATTENTION.check(forgetful)
    assert outcome.status == "not attempted"
    assert "`return`" in outcome.message


@pytest.mark.parametrize(
    ("answer", "what", "got", "wanted"),
    [
        (
            lambda q, k, v: attend(q, k, v)[0],
            "It should return 2 things",
            "a tensor of shape (2, 5, 4)",
            "(output, weights)",
        ),
        (
            lambda q, k, v: (attend(q, k, v)[0].mT, None),
            "`output` has the wrong shape",
            "of shape (2, 4, 5)",
            "of shape (2, 5, 4)",
        ),
        (lambda q, k, v: (attend(q, k, v)[0], 3), "`weights` should be a tensor", "3", "a tensor of shape (2, 5, 7)"),
        (lambda q, k, v: attend(q, k, v)[0].tolist(), "`output` should be a tensor", "a list of length 5", None),
        (lambda q, k, v: (1, 2, None), "It should return 2 things", "(1, 2, None)", "(output, weights)"),
        (
            lambda q, k, v: (attend(q, k, v)[0], attend(q, k, v)[1] > 0.5),
            "`weights` has the wrong dtype",
            "torch.bool",
            None,
        ),
    ],
)
def test_wrong_type_or_shape_is_told_apart(answer, what, got, wanted):
    outcome = ATTENTION.check(answer)
    assert outcome.status == "wrong"
    assert what in outcome.message
    assert got is None or outcome.got == got
    assert wanted is None or outcome.wanted == wanted


def test_first_wrong_entry_is_named_with_both_numbers():
    def off_by_a_bit(q, k, v):
        output, weights = attend(q, k, v)
        weights[1, 2, 3] = 7.5
        return output, weights

    outcome = ATTENTION.check(off_by_a_bit, seeded(0))
    q, k, v = ATTENTION.inputs(seeded(0))[0]
    assert outcome.message.startswith("`weights[1, 2, 3]` is wrong.")
    assert outcome.got == "7.5"
    assert float(outcome.wanted) == pytest.approx(attend(q, k, v)[1][1, 2, 3].item(), rel=1e-3)


def test_value_where_a_function_is_wanted_and_the_reverse():
    assert f"without calling it: check('01.4', {ATTENTION.answer})" in ATTENTION.check(torch.ones(2)).message
    outcome = find("01.1").check(attend)
    assert outcome.message.startswith("`weight` should be a number.")
    assert outcome.got == "a value of type function"
    assert find("01.1").check("5/8").status == "wrong"


def test_wrong_strings_and_dicts_are_shown_as_they_are():
    outcome = find("04.6").check(lambda words: (("q", "q"), {}))
    assert outcome.message.startswith("`pair` differs.")
    assert outcome.got == "('q', 'q')"
    outcome = find("04.6").check(lambda words: (find("04.6").expected(words)[0], {("q",): 3}))
    assert outcome.message.startswith("`words` differs.")
    assert outcome.got == "{('q',): 3}"


def test_dictionaries_of_tensors_part_by_their_keys_or_by_their_first_wrong_number():
    merged = find("05.7")
    right = merged.run(merged.solution)

    def check(change):
        return merged.check(lambda *arguments: change(right(*arguments)), seeded(0))

    norm = "model.norm.weight"
    outcome = check(lambda weights: [*weights.values()])
    assert (
        outcome.message.startswith("`merged` should be a dictionary.")
        and outcome.wanted == "a dictionary of 10 tensors"
    )
    outcome = check(lambda weights: {name: weights[name] for name in weights if name != norm})
    assert outcome.message.startswith(f"`merged` lacks '{norm}'.") and (outcome.got, outcome.wanted) == (
        "9 keys",
        "10 keys",
    )
    assert check(lambda weights: weights | {"more": 1}).message.startswith("`merged` has 'more'.")
    assert check(lambda weights: weights | {norm: weights[norm] + 1}).message.startswith(
        f"`merged['{norm}'][0]` is wrong."
    )
    outcome = check(lambda weights: weights | {norm: "text"})
    assert outcome.message.startswith(f"`merged['{norm}']` should be a tensor.")


@pytest.mark.parametrize("number", ["01.6", "02.7", "02.9", "03.3", "03.6"])
def test_answer_in_numpy_counts_by_its_values(number):
    exercise = find(number)
    right, wrong = exercise.run(exercise.solution), exercise.run(exercise.mistakes[0].source)
    assert exercise.check(lambda *arguments: right(*arguments).numpy()).status == "passed"
    flipped = exercise.check(lambda *arguments: np.flip(right(*arguments).flip(0).numpy(), axis=0))
    assert flipped.status == "passed"
    assert exercise.mistakes[0].hint in exercise.check(lambda *arguments: wrong(*arguments).numpy()).message


def test_numpy_of_other_shape_or_values_is_described_like_a_tensor():
    window = find("01.6")
    outcome = window.check(lambda length, window: np.ones((2, 3), dtype=bool), seeded(0))
    assert outcome.message.startswith("`mask` has the wrong shape.")
    assert outcome.got == "of shape (2, 3)"
    assert window.check(lambda length, window: np.ones((length, length))).message.startswith(
        "`mask` has the wrong dtype."
    )
    outcome = window.check(lambda length, window: np.array(["no numbers"]))
    assert outcome.message.startswith("`mask` should be a tensor.")
    assert outcome.got == "a value of type ndarray"
    assert find("01.1").check(np.array(0.625)).status == find("01.1").check(np.float32(0.625)).status == "passed"


@pytest.mark.parametrize(
    "answer", [np.arange(3), torch.arange(3), (("a", "b"), np.arange(3)), (np.arange(3), {("a",): np.arange(3)})]
)
def test_arrays_where_pairs_and_words_are_wanted_are_wrong_and_no_crash(answer):
    outcome = find("04.6").check(lambda words: answer)
    assert outcome.status == "wrong"
    assert "It should return 2 things" in outcome.message or "differs" in outcome.message


def test_complex_numbers_are_not_taken_for_their_real_parts():
    turn = find("02.7")
    right = turn.run(turn.solution)
    outcome = turn.check(lambda x, theta: torch.complex(right(x, theta), torch.ones_like(x)))
    assert outcome.message.startswith("`turned` has the wrong dtype.")


# ---------------------------------------------------------------- losses, and what they train


def mean_square(x, y):
    return ((x - y) ** 2).mean()


LEARNED = Exercise(
    id="00.1", kind="write", title="", section="", answer="loss", stub="def loss(x, y): ...", solution="", why="", hints=(),
    mistakes=(), expected=lambda x, y: ((x.double() - y) ** 2).mean().item(), results=("loss",), learned="x",
    inputs=lambda generator: [tuple(torch.randn(2, 3, 2, generator=generator))],
)  # fmt: skip


def test_loss_with_the_right_gradient_passes():
    assert LEARNED.check(lambda x, y: mean_square(x, y.detach())).status == "passed"


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda x, y: mean_square(x.detach(), y), "0"),
        (lambda x, y: mean_square(x.detach(), y).item(), "0"),
        (lambda x, y: 2 * mean_square(x, y) - mean_square(x, y).detach(), None),
    ],
    ids=["detached", "number", "twice"],
)
def test_right_loss_with_a_wrong_gradient_is_told_so(loss, got):
    outcome = LEARNED.check(loss, seeded(0))
    x, y = LEARNED.inputs(seeded(0))[0]
    assert outcome.status == "wrong"
    assert outcome.message.startswith("`loss` is right, but its gradient is not: `gradient[0, 0]` is wrong.")
    assert outcome.wanted == f"{(x - y)[0, 0] / 3:.4g}"
    assert got is None or outcome.got == got


def test_one_tensor_given_twice_moves_in_both_places():
    exercise = replace(
        LEARNED,
        expected=lambda x, y: (x.double() * y).sum().item(),
        inputs=lambda generator: [(torch.arange(1.0, 4.0),) * 2],
    )
    assert exercise.check(lambda x, y: (x * y.detach()).sum()).status == "passed"
    outcome = exercise.check(lambda x, y: (x * y).sum())
    assert (outcome.status, outcome.got, outcome.wanted) == ("wrong", "2", "1")


@pytest.mark.parametrize("number", ["06.5", "06.6"])
def test_right_loss_trains_a_policy_as_its_reward(number):
    exercise = find(number)
    outcome = exercise.check(exercise.run(exercise.solution))
    assert outcome.status == "passed"
    assert outcome.message.startswith("Your loss has trained a small policy")


def test_answer_that_passes_and_stops_in_a_real_training_is_told_so():
    build = find("06.6")
    right = build.run(build.solution)

    def narrow(log_probs, old_log_probs, rewards, written, clip):
        if len(log_probs) > 50:
            raise ValueError("too many rows")
        return right(log_probs, old_log_probs, rewards, written, clip)

    outcome = build.check(narrow)
    assert outcome.status == "passed"
    assert outcome.message == "But in a real run it stopped: ValueError: too many rows"


def test_self_attention_that_was_built_stands_in_for_every_head_of_the_real_model():
    build, model = find("01.8"), lesson_names()["model"].whole
    outcome = build.check(build.run(build.solution))
    assert outcome.status == "passed"
    ours, theirs = re.findall(r"(?:goes on|write): “(.+?)”", outcome.message)
    assert ours == theirs == " wall are very old."
    assert float(re.search(r"by at most (\S+)", outcome.message)[1]) < 1e-3
    of_nothing = build.reward(lambda x, w_q, w_k, w_v, turn: torch.zeros_like(x @ w_v))
    assert "by at most 0 " not in of_nothing and f"goes on: “{ours}”" not in of_nothing
    assert not any(module._forward_pre_hooks for module in model.modules())


# ---------------------------------------------------------------- ties and old state


@pytest.mark.parametrize(
    "tie",
    [
        "''.join(pair)",
        "pair[0]",
        "pair[1]",
        "pair[::-1]",
        "len(''.join(pair))",
        "-len(''.join(pair))",
        "(len(''.join(pair)), pair)",
        "(-len(''.join(pair)), pair)",
    ],
)
@pytest.mark.parametrize("order", ["counts", "reversed(counts)"])
def test_ties_broken_by_another_rule_do_not_pass(tie, order):
    merge = find("04.6")
    rule = "min(counts, key=lambda pair: (-counts[pair], pair))"
    assert rule in merge.solution
    wrong = merge.solution.replace(rule, f"min({order}, key=lambda pair: (-counts[pair], {tie}))")
    for seed in range(20):
        assert merge.check(merge.run(wrong), seeded(seed)).status == "wrong"


def test_gradient_left_by_an_earlier_step_must_be_wiped():
    accumulate = find("04.4")

    def hoarding(model, optimizer, ids, targets, n_parts):
        for x, y in zip(ids.chunk(n_parts), targets.chunk(n_parts), strict=True):
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
            (loss / (targets != -100).sum()).backward()
        optimizer.step()
        return model.weight

    def wiped_by_the_model(model, *rest):
        model.zero_grad()
        return hoarding(model, *rest)

    def wiped_too_late(model, optimizer, *rest):
        weights = hoarding(model, optimizer, *rest)
        optimizer.zero_grad()
        return weights

    for seed in range(20):
        for late in (hoarding, wiped_too_late):
            outcome = accumulate.check(late, seeded(seed))
            assert outcome.status == "wrong"
            assert "wiped" in outcome.message
        assert accumulate.check(wiped_by_the_model, seeded(seed)).status == "passed"


def test_wrong_value_is_not_told_the_right_one():
    outcome = find("01.1").check(0.2)
    assert (outcome.status, outcome.got, outcome.wanted) == ("wrong", "0.2", "")
    assert "0.625" not in outcome.message


def test_printing_answer_passes_and_the_global_seed_is_left_alone(capsys):
    def chatty(q, k, v):
        print("scores")
        return attend(q, k, v)

    torch.manual_seed(7)
    untouched = torch.rand(3)
    torch.manual_seed(7)
    assert ATTENTION.check(chatty).status == "passed"
    assert torch.equal(torch.rand(3), untouched)


# ---------------------------------------------------------------- what the notebook stores


def test_text_of_a_check_can_be_compared():
    assert repr(check("01.4", ATTENTION.run(ATTENTION.stub))) == "Exercise 01.4: not attempted"
    assert repr(check("01.4", attend)) == "Exercise 01.4: passed"
    assert (
        repr(check("01.1", 0.2))
        == f"Exercise 01.1: wrong\n`weight` is wrong. Read again: {find('01.1').section}.\nYours: 0.2."
    )


def test_unknown_exercise_is_named_with_those_that_exist():
    with pytest.raises(ValueError, match=r"no exercise '9\.9'; there are 01\.1, 01\.2"):
        check("9.9", None)
