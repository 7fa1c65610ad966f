"""Policies that learn: from a reward that can be reached, in pieces as in one go, on a leash, and never from nonsense."""

import copy
from dataclasses import replace
from itertools import islice

import pytest
import torch

from course_lib.alignment.dpo import dpo_loss
from course_lib.alignment.grpo import group_advantages, grpo_loss
from course_lib.alignment.policy import PreferencePairs, Prompts, answer_rows, preference_pair_loss, token_log_probs
from course_lib.alignment.reinforcement import GRPOTrainer, PolicyAndCritic, PolicyConfig, PPOTrainer
from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora.packing import IGNORED
from course_lib.devices import seed_everything
from course_lib.pretraining import PretrainingConfig, Trainer

CONFIG = TransformerConfig(vocab_size=20, d_model=24, n_layers=2, n_heads=3, d_ff=40, context_length=16)
TRAINING = PretrainingConfig(
    n_steps=12, batch_size=4, context_length=5, learning_rate=5e-3, muon_learning_rate=None, weight_decay=0.0, decay=0.0
)
POLICY = PolicyConfig(max_new_tokens=6, n_samples=8, kl_weight=0.0)
PROMPTS = [[3, 1, 4], [1, 5], [9, 2, 6, 5], [3, 5, 8, 9, 7], [2], [4, 4]]
ANSWERS = [[7, 7, 0], [1, 0], [5], [5, 8, 0], [6, 6, 6, 0], [12]]
REJECTED = [[4, 4], [9], [8, 8, 8, 0], [3], [2, 0], [1, 0]]


def sevens(prompts, answers):
    """The share of an answer's tokens that are a 7: what the policies shall find out."""
    return torch.tensor([answer.count(7) / len(answer) for answer in answers])


def model():
    seed_everything(0)
    return TransformerLM(CONFIG)


def grpo(folder=None, policy=POLICY, training=TRAINING, reward=sevens, **options):
    rows = Prompts(PROMPTS, 5, 20)
    return GRPOTrainer(model(), rows, reward, policy, training, folder, stop_ids=frozenset({0}), **options)


def ppo(folder=None, policy=POLICY, training=TRAINING, reward=sevens, **options):
    rows, both = Prompts(PROMPTS, 5, 20), PolicyAndCritic(model())
    return PPOTrainer(both, rows, reward, policy, training, folder, stop_ids=frozenset({0}), **options)


of_both = pytest.mark.parametrize("trainer", [grpo, ppo])


def told(reports):
    """What must be the same in every run: all that a report says but the clock's part."""
    return [vars(replace(report, seconds=0.0, tokens_per_second=0.0, mfu=None)) for report in reports]


# ---------------------------------------------------------------- rows of answers


@pytest.mark.parametrize(
    "choice",
    [{}, {"positions": "learned", "norm": "layernorm", "bias": True}, {"positions": "sinusoidal"}, {"n_kv_heads": 1}],
    ids=["rope", "learned", "sinusoidal", "grouped queries"],
)
def test_a_prompt_read_once_for_all_its_answers_gives_what_each_row_gives_alone(choice):
    seed_everything(0)
    policy = TransformerLM(replace(CONFIG, **choice))
    # three prompts of 4, 1 and 5 tokens, with answers of 1 to 6; side by side they are longer than the context
    prompts = [[3, 1, 4, 1]] * 3 + [[9]] * 3 + [[2, 6, 5, 3, 5]] * 3
    answers = [[7], [8, 9], [7, 9, 3, 2, 3, 8], [4, 6], [2, 6, 4], [3], [3, 8, 3], [2], [7, 9, 5, 0]]
    ids, targets = answer_rows(prompts, answers, 11)
    weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1))

    def gradients(n_samples):
        policy.zero_grad()
        found = token_log_probs(policy, ids, targets, n_samples)
        (found * weights).sum().backward()
        return found.detach(), [w.grad.clone() for w in policy.parameters() if w.grad is not None]

    (alone, wanted), (together, found) = gradients(1), gradients(3)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("choice", [{"positions": "alibi"}, {"window": 4}], ids=["alibi", "window"])
def test_where_distances_in_a_row_count_each_answer_has_its_own(choice):
    seed_everything(0)
    policy = TransformerLM(replace(CONFIG, **choice))
    run = GRPOTrainer(policy, Prompts(PROMPTS, 5, 20), sevens, POLICY, TRAINING, stop_ids=frozenset({0}))
    [report] = islice(run, 1)
    assert report.kl == pytest.approx(0, abs=1e-5)  # what was written and what is trained are one policy


def test_log_probs_are_those_of_the_tokens_of_the_answers():
    policy = model()
    ids, targets = answer_rows(PROMPTS, ANSWERS, 8)
    found = token_log_probs(policy, ids, targets)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected = policy(torch.tensor([prompt + answer])).log_softmax(-1)[0, len(prompt) - 1 : -1]
        expected = expected[torch.arange(len(answer)), torch.tensor(answer)]
        torch.testing.assert_close(found[row][targets[row] != IGNORED], expected)
        assert found[row].count_nonzero() == len(answer)


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [([], [], "there must be prompts"), ([[1]], [[2], [3]], "got 1 and 2"), ([[1], []], [[2], [3]], "answer 1 have 0 and 1"),
     ([[1]], [[]], "1 and 0"), ([[1, 2]], [[3, 4, 5, 6]], "2 and 4 tokens")],
)  # fmt: skip
def test_rows_that_cannot_be_are_refused(prompts, answers, message):
    with pytest.raises(ValueError, match=message):
        answer_rows(prompts, answers, 4)


def test_dpo_on_the_trainer_is_dpo_of_each_pair_and_prefers_what_was_chosen():
    policy = model()
    reference = copy.deepcopy(policy).eval()
    rows = PreferencePairs(PROMPTS, ANSWERS, REJECTED, 9, reference)
    with torch.no_grad():
        policy.embedding.weight.mul_(1.5)  # away from the reference

    def summed(of, prompt, answer):
        log_probs = of(torch.tensor([prompt + answer])).log_softmax(-1)[0, len(prompt) - 1 : -1]
        return log_probs[torch.arange(len(answer)), torch.tensor(answer)].sum()

    four = [torch.stack([summed(of, *pair) for pair in zip(PROMPTS, answers, strict=True)])
            for of in (policy, reference) for answers in (ANSWERS, REJECTED)]  # fmt: skip
    torch.testing.assert_close(preference_pair_loss(policy, *rows.parts, beta=0.3), dpo_loss(*four, 0.3))
    training = replace(TRAINING, batch_size=6, context_length=9, n_steps=40)
    losses = [report.loss for report in Trainer(policy, rows, None, training, loss=preference_pair_loss)]
    assert losses[-1] < 0.5 * losses[0]


def dpo(folder, chosen=ANSWERS, reference_scale=1.0, rounding=0.0):
    """DPO for six steps; the reference's log-probabilities have a relative error of `rounding`."""
    reference = model()
    with torch.no_grad():
        reference.embedding.weight.mul_(reference_scale)
    rows = PreferencePairs(PROMPTS, chosen, REJECTED, 9, reference)
    rows.parts = tuple(part * (1 + rounding) if part.is_floating_point() else part for part in rows.parts)
    training = replace(TRAINING, batch_size=6, context_length=9, n_steps=6, checkpoint_every=3)
    return Trainer(model(), rows, None, training, folder, loss=preference_pair_loss)


def test_preferences_go_on_where_the_reference_is_rounded_otherwise(tmp_path):
    """As on another processor, or with another number of threads."""
    whole = list(dpo(None))
    list(islice(dpo(tmp_path), 4))
    resumed = dpo(tmp_path, rounding=1e-6)
    assert resumed.step == 3
    list(resumed)
    assert [report.loss for report in resumed.history] == pytest.approx([report.loss for report in whole], abs=1e-4)


@pytest.mark.parametrize("changes", [{"chosen": [*ANSWERS[:-1], [13]]}, {"reference_scale": 1.01}])
def test_a_folder_of_other_preferences_or_of_another_reference_is_refused(tmp_path, changes):
    list(islice(dpo(tmp_path), 1))
    with pytest.raises(ValueError, match="another run: train_fingerprint"):
        dpo(tmp_path, **changes)


# ---------------------------------------------------------------- learning


@of_both
def test_a_policy_finds_out_what_is_rewarded(trainer):
    reports = list(trainer(training=replace(TRAINING, n_steps=60)))
    assert reports[0].reward < 0.2 and reports[-1].reward > 0.7
    assert reports[0].kl == pytest.approx(0, abs=1e-4) and reports[-1].kl > 1
    assert reports[-1].entropy < reports[0].entropy


@of_both
def test_the_leash_holds_it_back(trainer):
    kl = {}
    for weight in (0.0, 1.0):
        *_, last = trainer(policy=replace(POLICY, kl_weight=weight), training=replace(TRAINING, n_steps=40))
        kl[weight] = last.kl
    assert kl[1.0] < 0.3 * kl[0.0]


@of_both
def test_an_interrupted_run_goes_on_with_the_same_numbers(trainer, tmp_path):
    policy, training = replace(POLICY, kl_weight=0.1, n_updates=2), replace(TRAINING, checkpoint_every=3)
    whole = list(trainer(policy=policy, training=training))
    list(islice(trainer(tmp_path, policy, training), 7))
    resumed = trainer(tmp_path, policy, training)
    assert resumed.step == 6
    list(resumed)
    assert told(resumed.history) == told(whole)
    assert list(trainer(tmp_path, policy, training)) == []


def test_a_leash_changed_on_the_way_is_reported_and_kept(tmp_path):
    training = replace(TRAINING, n_steps=4)
    run = grpo(tmp_path, training=training)
    next(iter(run))
    run.kl_weight = 0.5
    run.save_now()
    assert next(iter(run)).kl_weight == 0.5
    run.save_now()
    assert grpo(tmp_path, training=training).kl_weight == 0.5


@of_both
@pytest.mark.parametrize("over", ["token", "row", "limit"])
def test_micro_batches_change_nothing(trainer, over):
    policy = replace(POLICY, over=over, kl_weight=0.1, n_updates=2)
    runs = [list(trainer(policy=policy, training=replace(TRAINING, n_steps=3, accumulation=n))) for n in (1, 4)]
    for one, other in zip(*runs, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-5) and one.reward == pytest.approx(other.reward, abs=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-3)


def test_the_first_update_follows_the_gradient_of_log_p_times_the_advantage():
    run = grpo()
    batch, _, measured = run._next_batch()
    ids, targets, *_, advantages = batch
    run._fill_gradients(batch)
    found = run.model.embedding.weight.grad.clone()
    policy = model()
    answers = [row[row != IGNORED].tolist() for row in targets]
    expected = group_advantages(sevens([], answers).unflatten(0, (-1, 8))).flatten()
    torch.testing.assert_close(advantages, expected)
    log_probs = token_log_probs(policy, ids, targets)
    (-(log_probs * expected[:, None]).sum() / (targets != IGNORED).sum()).backward()
    torch.testing.assert_close(found, policy.embedding.weight.grad)
    assert measured["reward"] == pytest.approx(sevens([], answers).mean().item())


@pytest.mark.parametrize("over", ["token", "row", "limit"])
def test_the_loss_is_the_mean_over_what_was_asked_for(over):
    run = grpo(policy=replace(POLICY, over=over, kl_weight=0.1))
    batch, *_ = run._next_batch()
    ids, targets, old, reference, advantages = batch
    with torch.no_grad():
        run.model.embedding.weight.mul_(1.1)  # else the advantages of a group add up to 0
    expected = grpo_loss(
        token_log_probs(run.model, ids, targets), old, advantages, targets != IGNORED, POLICY.clip,
        6.0 if over == "limit" else over, kl_weight=0.1, reference_log_probs=reference,
    )  # fmt: skip
    loss, _ = run._fill_gradients(batch)
    torch.testing.assert_close(loss, expected.detach())


@of_both
def test_another_judge_is_asked_and_not_obeyed(trainer):
    def judge(prompts, answers):
        assert all(prompt in PROMPTS for prompt in prompts)
        return torch.tensor([float(len(answer)) for answer in answers])

    with_judge, without = (list(trainer(true_reward=asked)) for asked in (judge, None))
    assert [report.reward for report in with_judge] == [report.reward for report in without]
    assert all(report.true_reward == pytest.approx(report.length) for report in with_judge)


# ---------------------------------------------------------------- nonsense


@pytest.mark.parametrize("wrong", [torch.tensor([torch.nan] * 32), torch.ones(31), torch.ones(32, 1), [torch.inf] * 32])
def test_a_judge_that_gives_no_numbers_is_named(wrong):
    with pytest.raises(ValueError, match="reward must give a number for each of 32 answers"):
        next(iter(grpo(reward=lambda *_: wrong)))


@pytest.mark.parametrize("leash", [-1.0, float("nan"), float("inf"), "short"])
def test_a_leash_that_is_no_length_is_refused(leash):
    run = grpo()
    run.kl_weight = leash
    with pytest.raises(ValueError, match="kl_weight"):
        next(iter(run))


@pytest.mark.parametrize(
    "wrong",
    [{"n_samples": 0}, {"max_new_tokens": 0}, {"kl_weight": -1.0}, {"clip": 0.0}, {"smoothing": 1.5}, {"over": "all"},
     {"n_updates": 0}, {"value_weight": float("nan")}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(POLICY, **wrong)


@pytest.mark.parametrize("changes", [{"policy": replace(POLICY, clip=0.3)}, {"training": replace(TRAINING, seed=1)}])
def test_a_folder_of_another_run_is_refused(tmp_path, changes):
    list(islice(grpo(tmp_path), 1))
    with pytest.raises(ValueError, match="another run"):
        grpo(tmp_path, **changes)


def test_a_run_from_another_reference_is_refused(tmp_path):
    list(islice(grpo(tmp_path), 1))
    other = model()
    with torch.no_grad():
        other.embedding.weight.mul_(1.01)
    with pytest.raises(ValueError, match="reference"):
        GRPOTrainer(other, Prompts(PROMPTS, 5, 20), sevens, POLICY, TRAINING, tmp_path, stop_ids=frozenset({0}))


def test_what_does_not_fit_is_refused_before_anything_is_written():
    with pytest.raises(ValueError, match="5 tokens and an answer of 12 do not fit into the context of 16"):
        grpo(policy=replace(POLICY, max_new_tokens=12))
    with pytest.raises(ValueError, match="n_samples must be at least 2"):
        grpo(policy=replace(POLICY, n_samples=1))


def test_dropout_is_for_training_and_not_for_writing():
    def first_two(seed):
        torch.manual_seed(seed)
        seeded = TransformerLM(replace(CONFIG, dropout=0.5))
        seeded.load_state_dict(model().state_dict())
        training = replace(TRAINING, learning_rate=1e-9)
        run = GRPOTrainer(seeded, Prompts(PROMPTS, 5, 20), sevens, POLICY, training, stop_ids=frozenset({0}))
        return [report.kl for report in islice(run, 2)]

    assert first_two(0) == first_two(1) == pytest.approx([0, 0], abs=1e-4)


def test_one_written_token_leaves_the_weights_numbers():
    run = ppo(
        policy=replace(POLICY, n_samples=1, max_new_tokens=1), training=replace(TRAINING, batch_size=1, n_steps=3)
    )
    assert all(report.loss == report.loss for report in run)
    assert all(weight.isfinite().all() for weight in run.model.parameters())
