"""What lesson 04's learner builds holds in real runs: the loop reaches its mark, and the plan is the published one."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from course_lib.corpora import shakespeare
from course_lib.exercises import find
from course_lib.exercises.lesson_04.build_loop import MARK, real_losses
from course_lib.pretraining import scaling


@pytest.fixture(scope="module")
def losses():
    build = find("04.5")
    return real_losses(build.run(build.solution))


def test_mark_is_what_the_best_table_of_pairs_of_the_same_text_comes_to():
    text = next(work.text for work in shakespeare.split()[0] if work.name == "hamlet")
    pairs, first = Counter(pairwise(text)), Counter(text[:-1])
    bits = -sum(n * math.log2(n / first[pair[0]]) for pair, n in pairs.items()) / (len(text) - 1)
    assert round(bits, 1) == MARK


def test_right_loop_reaches_the_mark_in_a_real_run(losses):
    assert losses[0] > 5.5
    assert sum(losses[-10:]) / 10 < MARK - 0.1


def test_reward_says_whether_the_mark_was_reached():
    reward = find("04.5").reward
    assert reward(lambda *arguments: torch.full((20,), 3.6 * math.log(2))).endswith(f"to 3.6. The mark was {MARK}.")
    assert reward(lambda *arguments: torch.full((20,), 3.4 * math.log(2))).endswith(f"the mark, {MARK}, is reached.")


def test_numbers_that_the_explanation_of_the_plan_names_are_those_of_the_answer():
    run = scaling.PUBLISHED["Llama 3 405B"].run
    copies = run.n_gpus // (run.tensor * run.pipeline)
    plan = find("04.12")
    held, _, sent = plan.run(plan.solution)(run.parameters, run.tensor, run.pipeline, copies, run.stage, 32)
    why = plan.why
    assert f"holds {held / 1e9:.1f} GB" in why and f"sends {sent / 1e9:.1f} GB" in why
    assert f"instead of {16 * run.parameters / run.tensor / run.pipeline / 1e9:.0f}" in why
