"""GRPO's advantages and loss, against `trl`'s on the same model and masks; and what the averages make of short and long."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer
from trl_peers import PROMPTS, gradients, grpo_trainer, log_probs_of

from course_lib.alignment import group_advantages, grpo_loss

REWARDS = torch.tensor([[1.0, 0.0, 2.5], [0.3, -1.0, 0.3]])
MAX_LENGTH = 5
KINDS = {"grpo": "row", "bnpo": "token", "dapo": "token", "dr_grpo": float(MAX_LENGTH)}


@pytest.mark.parametrize("scale", [True, False])
def test_advantages_equal_trls_for_the_rewards_of_its_own_samples(tmp_path, scale):
    trainer = grpo_trainer(tmp_path, REWARDS, scale_rewards="group" if scale else "none")
    inputs = [{"prompt": prompt} for prompt in PROMPTS for _ in range(REWARDS.shape[1])]
    theirs = trainer._generate_and_score_completions(inputs)["advantages"]
    torch.testing.assert_close(group_advantages(REWARDS, scale).flatten(), theirs)


class Batch(NamedTuple):
    """Rows of a prompt, padded on the left, and what was written, padded on the right; in `trl`'s form and in ours."""

    inputs: dict[str, Tensor]
    ids: Tensor
    attention_mask: Tensor
    written: Tensor
    old_log_probs: Tensor
    reference_log_probs: Tensor
    advantages: Tensor


def new_batch(trainer: GRPOTrainer) -> Batch:
    """Four rows of 3 + 5 tokens, of which 5, 1, 0 and 3 were written by a policy that is some way off by now."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(trainer.model.config.vocab_size, (4, 8), generator=generator)
    prompt_mask = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 1, 1]])
    written = torch.arange(MAX_LENGTH) < torch.tensor([[5], [1], [0], [3]])
    attention_mask = torch.cat([prompt_mask, written.long()], dim=1)
    advantages = torch.tensor([1.5, -0.5, 2.0, -1.0])
    with torch.no_grad():
        log_probs = log_probs_of(trainer.model, ids, attention_mask)
        reference = log_probs_of(trainer.ref_model, ids, attention_mask)
    ratio = torch.tensor([0.5, 1.1, 2.0]).repeat(3)[
        :8
    ]  # each meets advantages of both signs, in the first row and the last
    old = log_probs - ratio.log()
    inputs = {
        **{"prompt_ids": ids[:, :3], "prompt_mask": prompt_mask},
        **{"completion_ids": ids[:, 3:], "completion_mask": written.long(), "advantages": advantages},
        **{"old_per_token_logps": old[:, 3:], "ref_per_token_logps": reference[:, 3:]},
        "num_items_in_batch": written.sum(),
    }
    written = torch.cat([torch.zeros(4, 3, dtype=torch.bool), written], dim=1)
    return Batch(inputs, ids, attention_mask, written, old, reference, advantages)


def our_loss(model: torch.nn.Module, batch: Batch, rows: slice = slice(None), **options) -> Tensor:
    log_probs = log_probs_of(model, batch.ids[rows], batch.attention_mask[rows])
    given = (part[rows] for part in (batch.old_log_probs, batch.advantages, batch.written))
    return grpo_loss(log_probs, *given, reference_log_probs=batch.reference_log_probs[rows], **options)


@pytest.mark.parametrize(("kl_weight", "corrected"), [(0.0, True), (0.3, True), (0.3, False)])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_trls(tmp_path, kind, kl_weight, corrected):
    options = {"loss_type": kind, "epsilon": 0.25, "epsilon_high": 0.25, "use_bias_correction_kl": corrected}
    trainer = grpo_trainer(tmp_path, REWARDS, **options)
    trainer.beta = kl_weight  # with 0 from the start it would have no reference
    batch, model = new_batch(trainer), trainer.model
    theirs = trainer._compute_loss(model, batch.inputs)
    ours = our_loss(model, batch, clip=0.25, over=KINDS[kind], kl_weight=kl_weight, corrected=corrected)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients(model, ours), gradients(model, theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("over", ["token", "row", 7])
def test_a_batch_in_parts_is_the_batch(tmp_path, over):
    trainer = grpo_trainer(tmp_path, REWARDS)
    batch = new_batch(trainer)
    options = {"over": over, "kl_weight": 0.3}
    parts = [our_loss(trainer.model, batch, rows, reduction="sum", **options) for rows in (slice(0, 3), slice(3, 4))]
    n = batch.written.sum() if over == "token" else len(batch.written)
    torch.testing.assert_close(sum(parts) / n, our_loss(trainer.model, batch, **options))


def test_a_group_of_equal_rewards_teaches_exactly_nothing():
    rewards = torch.tensor([[0.1] * 7, [0.0] * 3 + [1.0] * 4])
    for scale in (True, False):
        advantages = group_advantages(rewards, scale)
        assert advantages[0].tolist() == [0.0] * 7
        torch.testing.assert_close(advantages[1].sum(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert group_advantages(rewards, False)[1, -1] == pytest.approx(3 / 7)
    assert group_advantages(rewards, True)[1, -1] == pytest.approx(3 / 7 / (2 / 7) ** 0.5, rel=1e-3)


def test_advantages_go_with_their_samples_and_prompts():
    rewards = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    prompts, samples = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 1, 0, 3, 2])
    advantages, moved = group_advantages(rewards), group_advantages(rewards[prompts][:, samples])
    torch.testing.assert_close(moved, advantages[prompts][:, samples])
    other = rewards.clone()
    other[0] += torch.randn(5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(group_advantages(other)[1:], advantages[1:])  # a prompt's depend on its own rewards alone


def test_dividing_by_the_deviation_makes_nearly_solved_and_nearly_failed_prompts_count_more():
    half, nearly = [0.0] * 4 + [1.0] * 4, [0.0] + [1.0] * 7
    scaled, plain = (group_advantages(torch.tensor([half, nearly]), scale) for scale in (True, False))
    pull_of_the_rare = scaled.abs().amax(dim=1) / plain.abs().amax(dim=1)
    assert pull_of_the_rare[1] > 1.4 * pull_of_the_rare[0]


def test_a_wrong_answers_token_weighs_less_in_a_long_row_only_if_rows_are_averaged():
    written = torch.arange(8) < torch.tensor([[8], [2]])
    log_probs = torch.full((2, 8), -1.0, requires_grad=True)
    pulls = {}
    for over in ("row", "token", 8):
        loss = grpo_loss(log_probs, log_probs, torch.tensor([-1.0, -1.0]), written, over=over)
        pulls[over] = torch.autograd.grad(loss, log_probs)[0]
    assert pulls["row"][:, 0].tolist() == pytest.approx([1 / 16, 1 / 4])
    assert pulls["token"][:, 0].tolist() == pytest.approx([1 / 10] * 2)
    assert pulls[8][:, 0].tolist() == pytest.approx([1 / 16] * 2)


def test_what_stands_where_nothing_was_written_never_counts():
    generator = torch.Generator().manual_seed(0)
    written = torch.arange(6) < torch.tensor([[6], [2], [0], [4]])
    log_probs, old, reference = (-torch.rand(4, 6, generator=generator) for _ in range(3))
    advantages = torch.randn(4, generator=generator)

    def loss_and_gradient(fillings: list[float]) -> tuple[Tensor, Tensor]:
        filled = [
            x.masked_fill(~written, value) for x, value in zip((log_probs, old, reference), fillings, strict=True)
        ]
        policy = filled[0].requires_grad_()
        loss = grpo_loss(policy, filled[1], advantages, written, kl_weight=0.2, reference_log_probs=filled[2])
        return loss.detach(), torch.autograd.grad(loss, policy)[0]

    expected = loss_and_gradient([0.0, 0.0, 0.0])
    for fillings in ([torch.nan] * 3, [0.0, -1000.0, 1000.0], [-torch.inf, 0.0, -torch.inf]):
        assert all(map(torch.equal, loss_and_gradient(fillings), expected))


def test_only_the_policy_has_a_gradient():
    tensors = [torch.rand(2, 3, requires_grad=True) for _ in range(3)]
    advantages = torch.randn(2, requires_grad=True)
    log_probs, old, reference = tensors
    written = torch.ones(2, 3, dtype=torch.bool)
    grpo_loss(log_probs, old, advantages, written, kl_weight=0.1, reference_log_probs=reference).backward()
    assert log_probs.grad is not None and [x.grad for x in (old, reference, advantages)] == [None] * 3
    assert not group_advantages(torch.rand(2, 3, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clip": 0}, "clip must be positive"),
        ({"clip": torch.nan}, "clip"),
        ({"over": "rows"}, "over"),
        ({"over": -3}, "over"),
        ({"over": torch.nan}, "over"),
        ({"kl_weight": -0.1}, "kl_weight"),
        ({"kl_weight": torch.nan}, "kl_weight"),
        ({"kl_weight": 0.1}, "reference_log_probs"),
        ({"reduction": "none"}, "reduction"),
        ({"written": torch.ones(3, 3, dtype=torch.bool)}, "one shape"),
        ({"advantages": torch.zeros(3, 1)}, "advantages"),
    ],
)
def test_nonsense_is_refused(wrong, message):
    given = {"log_probs": torch.zeros(3, 2), "old_log_probs": torch.zeros(3, 2), "advantages": torch.zeros(3)}
    given |= {"written": torch.ones(3, 2, dtype=torch.bool)}
    with pytest.raises(ValueError, match=message):
        grpo_loss(**given | wrong)


@pytest.mark.parametrize("shape", [(6,), (3, 1), (2, 2, 2)])
def test_a_group_is_two_samples_or_more(shape):
    with pytest.raises(ValueError, match="two samples"):
        group_advantages(torch.zeros(shape))
