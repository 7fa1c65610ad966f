"""The numbers that the explanations of the *what if* exercises name are those that are measured."""

import math

import pytest
import torch

from course_lib.applications.constraints import Constraint
from course_lib.exercises import find
from course_lib.exercises.lesson_03.what_if import bits_without
from course_lib.exercises.lesson_04.what_if import bits_a_character
from course_lib.exercises.lesson_05.what_if import bits_after
from course_lib.exercises.lesson_06.what_if import estimates
from course_lib.exercises.lesson_07.what_if import FORM, QUESTION, allowed_share
from course_lib.exercises.real_model import lesson_names
from course_lib.inference.generation import chat_prompt, generate


def test_explanation_of_01_7_says_what_is_measured():
    exercise = find("01.7")
    assert f"takes {exercise.expected():.1f} bits off" in exercise.why


def test_explanation_of_02_10_says_what_is_measured():
    exercise = find("02.10")
    assert f"costs {exercise.expected():.1f} bits" in exercise.why


def test_explanation_of_03_8_says_what_is_measured():
    why, whole = find("03.8").why, bits_without(None)
    rises = [bits_without(layer) - whole for layer in range(30)]
    assert f"the model needs {whole:.1f} bits" in why
    for layer in (0, 11, 15, 29):
        assert f"layer {layer} costs {rises[layer]:.1f} bits" in why
    assert sum(rise < 0.5 for rise in rises) >= 20  # two thirds of the layers
    assert whole + rises[0] > math.log2(49_152)  # worse than guessing blindly


def test_explanation_of_04_9_says_what_is_measured():
    why, unseen = find("04.9").why, bits_a_character(0)
    saved = [unseen - bits_a_character(times) for times in (1, 4, 16)]
    assert "about 2.9 bits a character" in why
    assert unseen == pytest.approx(2.9, abs=0.2)
    assert "once costs 0.4 less" in why
    assert "four times 1.3 less" in why
    assert "sixteen times 2.2 less: less than a bit is left" in why
    assert saved == pytest.approx(
        [0.4, 1.3, 2.2], abs=0.25
    )  # other processors round otherwise, and training magnifies it
    assert unseen - saved[-1] < 1


def test_explanation_of_05_9_says_what_is_measured():
    why, before = find("05.9").why, bits_after(None)
    assert f"needs {before:.1f} bits" in why and "by about 2.0" in why
    assert 1.7 < bits_after(0.0) - before < 2.3  # on other processors; seeds differ by 0.15


def test_explanation_of_06_7_says_what_is_measured():
    why, near, ((kl, of_k1), k2, k3) = find("06.7").why, estimates(0.1), estimates(2)
    assert "the mean 0.004" in why and all(round(mean, 3) == 0.004 for mean, _ in near)
    assert "an eleventh of k1's" in why and near[2][1] / near[0][1] == pytest.approx(1 / 11, rel=0.05)
    assert f"the KL is {kl:.2f} nats" in why and f"{k3[1] / of_k1:.1f} times k1's" in why
    assert k3[0] == pytest.approx(kl)
    assert f"its mean is {k2[0]:.2f}, half as much again" in why and k2[0] / kl == pytest.approx(1.5, abs=0.05)
    assert k2[1] == pytest.approx(of_k1, rel=0.05)


def test_a_thousand_draws_mostly_miss_the_tail_of_k3_as_the_explanation_of_06_7_says():
    exercise = find("06.7")
    cell = {"torch": torch}
    exec(exercise.solution, cell)
    policy = (cell["logits"] + 2 * cell["direction"]).log_softmax(dim=-1)
    ratio = (cell["reference"] - policy).exp()
    generator = torch.Generator().manual_seed(0)
    draws = torch.multinomial(policy.exp().expand(300, -1), 1000, replacement=True, generator=generator)
    means = (ratio - 1 - ratio.log())[draws].mean(dim=1)
    kl = estimates(2)[0][0]
    assert (means < kl).double().mean() > 0.55
    assert means.max() > 1.5 * kl
    assert ratio.topk(5).values[[0, -1]].tolist() == pytest.approx([3391, 112], rel=0.01)


def test_explanation_of_07_8_says_what_is_measured():
    why, without, with_form = find("07.4").why, allowed_share(QUESTION), allowed_share(QUESTION + FORM)
    assert (
        f"have {without:.1%} of".replace("%", " %") in why and f"they have {with_form:.0%},".replace("%", " %") in why
    )
    assert "seven times as much" in why and with_form / without == pytest.approx(7, abs=0.5)
    assert f"the {1 - without:.0%}, or {1 - with_form:.0%},".replace("%", " %") in why
    others = (
        "On which day was the Declaration of Independence of the United States adopted?",
        "When did the Berlin Wall fall?",
        "When did the Second World War end in Europe?",
    )
    assert "it was 11, 44 and 11 times" in why
    rises = [allowed_share(question + FORM) / allowed_share(question) for question in others]
    assert rises == pytest.approx([11, 44, 11], rel=0.1)


def test_dates_that_the_explanation_of_07_8_names_are_written_under_the_mask():
    model, tokenizer = lesson_names()["model"].whole, lesson_names()["tokenizer"]
    date, written = Constraint("[0-9]{4}-[0-9]{2}-[0-9]{2}", tokenizer), []
    for message in (QUESTION, QUESTION + FORM):
        prompt = tokenizer.encode(chat_prompt(tokenizer, [{"role": "user", "content": message}]))
        written.append(
            tokenizer.decode(list(generate(model, prompt, 12, stop_ids=tokenizer.end_ids, rule=date.rule(12))))
        )
    why = find("07.4").why
    assert f"one prompt gives {written[0]}, and the other {written[1]}," in why
    assert written[1] in FORM  # copied
