"""Kind replies, on a small recipe: what is kept is read, what is compared fits, and a reply is worth what it should be."""

from dataclasses import replace

import pytest
import torch

from course_lib.alignment import Comparison, rewards
from course_lib.life import kind_replies
from course_lib.pretraining import list_checkpoints

pytestmark = pytest.mark.usefixtures("place")
SHORT = replace(kind_replies.TRAINING, n_steps=2, warmup=0)


def ended(text: str) -> list[int]:
    """Return the ids of a reply and of what ends it."""
    tokenizer = kind_replies.supervised()[1]
    return [*tokenizer.encode(text), min(tokenizer.end_ids)]


@pytest.mark.parametrize("method", ["dpo", "GRPO", ""])
def test_an_unknown_method_is_refused(method):
    with pytest.raises(ValueError, match=f"method must be grpo or ppo, not {method!r}"):
        kind_replies.policy_trainer(method)


def test_a_policy_against_another_reward_is_not_kept_in_the_place_of_the_usual_one():
    with pytest.raises(ValueError, match="leave kept or reward out"):
        kind_replies.policy_trainer("grpo", reward=kind_replies.human_reward, kept=True)


def test_lines_are_used_once_and_those_of_the_test_are_of_plays_that_were_held_out():
    taught, *others = kind_replies.lines()
    of_training = {line for line, _ in taught} | set(others[0]) | set(others[1])
    assert not of_training & {line for lines in others[2:] for line in lines if len(line) > 25}
    assert [kind_replies.ask(line) for line in kind_replies.lines().test] == kind_replies.test_prompts()
    assert max(map(len, kind_replies.test_prompts())) <= kind_replies._PROMPT


def test_a_reply_is_read_as_it_was_written():
    assert kind_replies.read_reply(ended("Ay, my lord.")) == "Ay, my lord."
    assert kind_replies.read_reply(kind_replies.ask("Who's there?")[:0]) == ""


def test_what_is_compared_fits_the_rows_and_is_kept(place):
    said = kind_replies.comparisons()
    assert said and said == kind_replies.comparisons()
    model, tokenizer = kind_replies.supervised()
    rows = kind_replies.compared(said, model.config.vocab_size)
    first, choices, lengths, second, _ = rows.parts
    assert first.shape == second.shape == (len(said), kind_replies.ROW)
    assert choices.tolist() == [one.choice for one in said]
    text = tokenizer.decode(first[0, : lengths[0]].tolist())
    assert said[0].prompt in text and text.endswith(f"{said[0].first}<|im_end|>")
    fresh = kind_replies.fresh_comparisons()
    assert fresh and not {one.prompt for one in fresh} & {one.prompt for one in said}


def test_the_longest_prompt_and_a_reply_that_was_cut_off_fit():
    asked = max(kind_replies.test_prompts(), key=len)
    assert len(asked) + kind_replies.LIMIT + 1 <= kind_replies.ROW


def test_a_reply_that_does_not_end_is_worth_one_less():
    asked, answer = kind_replies.test_prompts()[0], ended("Good my lord")
    found = kind_replies.learned_reward([asked, asked], [answer, answer[:-1]])
    plain = rewards(kind_replies.reward_model(), [[*asked, *answer], [*asked, *answer[:-1]]])
    torch.testing.assert_close(found, plain + torch.tensor([0.0, -1.0]))


def test_what_people_think_of_a_reply_is_what_they_think_of_its_words():
    human = kind_replies.human_reward([[1], [1], [1]], [ended("good"), ended("the table"), ended("good, good")])
    torch.testing.assert_close(human, torch.tensor([1.9, 0.0, 0.95], dtype=human.dtype))


def test_probabilities_of_two_choices_the_other_way_round_sum_to_one():
    one = Comparison("Who's there?", "Ay, my lord.", "No, sweet lady.", 0, "rater 0")
    other = replace(one, first=one.second, second=one.first)
    there, back = kind_replies.choice_probabilities([one, other])
    assert there + back == pytest.approx(1) and there != pytest.approx(0.5, abs=1e-6)
    assert kind_replies.choice_probabilities([one], hasty=True) != pytest.approx(there.item(), abs=1e-6)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_policy_that_is_kept_goes_on_and_one_that_is_not_leaves_nothing(place, method):
    kind_replies.reward_model()
    before = set(place.iterdir())
    assert len(list(kind_replies.policy_trainer(method, training=SHORT))) == 2
    assert set(place.iterdir()) == before
    run = kind_replies.policy_trainer(method, training=SHORT, kept=True)
    assert [report.step for report in run] == [1, 2] and run.history[-1].true_reward is not None
    again = kind_replies.policy_trainer(method, training=SHORT, kept=True)
    assert again.folder == run.folder and list(again) == [] and again.history == run.history
    other = kind_replies.policy_trainer(method, seed=1, training=SHORT, kept=True)
    assert other.folder != run.folder and other.step == 0


def test_the_reward_model_begins_as_the_supervised_one_and_is_kept(place):
    model = kind_replies.reward_model()
    (folder,) = place.glob("replies-reward-*")
    assert list_checkpoints(folder)[-1].name == "step-000006"
    assert model is kind_replies.reward_model() and not any(weight.requires_grad for weight in model.parameters())
    run = kind_replies.reward_trainer()
    assert list(run) == [] and [one.step for one in run.history] == [1, 2, 3, 4, 5, 6]
