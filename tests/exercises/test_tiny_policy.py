"""The learner's own losses of lesson 06 train a policy, and those that point the other way do not."""

import pytest
import torch

from course_lib.exercises import find
from course_lib.exercises.lesson_06.tiny_policy import learn_from_pairs, learn_from_rewards

DPO, GRPO = find("06.5"), find("06.6")


def answer(exercise, *changes):
    """Return the answer of the solution with the first text of each pair in the place of the second."""
    source = exercise.solution
    for new, old in changes:
        assert old in source
        source = source.replace(old, new)
    return exercise.run(source)


def test_margin_of_held_out_pairs_grows_with_the_dpo_that_was_built():
    margins = learn_from_pairs(answer(DPO))
    assert len(margins) == 41
    assert margins[0] == 0
    assert margins[-1] > 2 * margins[20] > 4  # nats; 11 here


def test_policy_finds_out_what_is_rewarded_with_the_grpo_that_was_built():
    rewards = learn_from_rewards(answer(GRPO))
    assert len(rewards) == 40
    assert sum(rewards[:3]) / 3 < 0.7  # of 3 letters; 3/8 by chance
    assert sum(rewards[-3:]) / 3 > 2.5


def test_wrong_signs_train_the_wrong_way():
    assert learn_from_pairs(answer(DPO, ("reference - policy", "policy - reference")))[-1] < -2
    assert learn_from_rewards(answer(GRPO, ("= torch.minimum", "= -torch.minimum")))[-1] < 1


def test_group_without_spread_stops_a_training_that_divides_by_it():
    with pytest.raises(FloatingPointError):
        learn_from_rewards(answer(GRPO, ("", " + 1e-4")), n_steps=10)


def test_training_leaves_the_seed_alone_and_is_the_same_again():
    torch.manual_seed(7)
    first = learn_from_pairs(answer(DPO), 3), learn_from_rewards(answer(GRPO), 3)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), drawn)
    assert first == (learn_from_pairs(answer(DPO), 3), learn_from_rewards(answer(GRPO), 3))


def test_builds_are_what_the_library_computes():
    from course_lib.alignment import answer_log_probs, dpo_loss, group_advantages, grpo_loss

    for log_probs, reference, written, beta in DPO.inputs(torch.Generator().manual_seed(0)):
        policy, of_reference = (
            answer_log_probs(x.flatten(0, 1), written[..., 1:].flatten(0, 1)).chunk(2) for x in (log_probs, reference)
        )
        wanted = dpo_loss(*policy, *of_reference, beta).item()
        assert answer(DPO)(log_probs, reference, written, beta).item() == pytest.approx(wanted)
    for log_probs, old, rewards, written, clip in GRPO.inputs(torch.Generator().manual_seed(0)):
        wanted = grpo_loss(log_probs, old, group_advantages(rewards).flatten(), written, clip, "token").item()
        assert answer(GRPO)(log_probs, old, rewards, written, clip).item() == pytest.approx(wanted, abs=1e-6)
