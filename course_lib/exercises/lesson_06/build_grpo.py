"""Exercise 06.6: the loss of group relative policy optimisation."""

import math
from collections.abc import Callable
from statistics import fmean

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake, Stage

__all__ = ["BUILD_GRPO"]


def _groups(generator: torch.Generator) -> list[tuple]:
    """Return log_probs and old_log_probs (row, position), rewards (prompt, sample), written (row, position) and clip."""

    def draw(n_prompts: int, n_samples: int, n_positions: int, least: float, most: float, clip: float) -> list:
        n_rows = n_prompts * n_samples
        old = -3 * torch.rand(n_rows, n_positions, generator=generator)
        moved = least + (most - least) * torch.rand(n_rows, n_positions, generator=generator)
        signs = 1 - 2 * (torch.arange(n_positions) % 2)  # of every answer some tokens have become likelier, others not
        rewards = torch.stack([torch.randperm(n_samples, generator=generator) for _ in range(n_prompts)])
        rewards = 8 * rewards + 3 * torch.randn(n_prompts, 1, generator=generator)
        rewards = rewards + 3 * torch.rand(n_prompts, n_samples, generator=generator)
        return [old + signs * moved, old, rewards, torch.ones(n_rows, n_positions, dtype=torch.bool), clip]

    near = draw(2, 3, 4, 0.01, 0.08, 0.1)
    far = draw(3, 2, 5, 0.3, 0.9, 0.2)
    masked = draw(2, 5, 7, 0.0, 0.6, 0.15)
    first = draw(2, 4, 6, 0.0, 0.0, 0.2)
    equal = draw(3, 4, 5, 0.0, 0.5, 0.25)
    for case in (masked, first, equal):
        written = case[3]
        n_positions = written.shape[1]
        for row in range(len(written)):
            written[row, : 1 + row % 2] = False
            written[row, n_positions - row % 3 :] = False
    first[1] = first[0]
    equal[2][1] = 1.0
    return [tuple(case) for case in (near, far, masked, first, equal)]


def _token_by_token(log_probs: Tensor, old_log_probs: Tensor, rewards: Tensor, written: Tensor, clip: float) -> float:
    """Ask of each token whether its move is stopped: up where that pays, down where it does not; plain numbers."""
    now, then, rows, losses = log_probs.tolist(), old_log_probs.tolist(), written.tolist(), []
    advantages = []
    for group in rewards.tolist():
        centred = [reward - fmean(group) for reward in group]
        spread = math.hypot(*centred) / math.sqrt(len(group) - 1)
        advantages += [distance / (spread + 1e-4) for distance in centred]
    for row, advantage in enumerate(advantages):
        for t, counts in enumerate(rows[row]):
            if counts:
                ratio = math.exp(now[row][t] - then[row][t])
                losses.append(-advantage * (min(ratio, 1 + clip) if advantage > 0 else max(ratio, 1 - clip)))
    return sum(losses) / len(losses)


def _trained(grpo_loss: Callable[..., Tensor]) -> str:
    """Train a policy with the learner's own loss, and say what became of it."""
    from course_lib.exercises.lesson_06.tiny_policy import learn_from_rewards  # imported here: not in lesson 01

    means = learn_from_rewards(grpo_loss)
    return (
        f"Your loss has trained a small policy, which was never shown an answer. Of three letters {means[0]:.1f} were right in "
        f"what it wrote first, and {means[-1]:.1f} after {len(means)} steps."
    )


_SIGNATURE = '''\
def grpo_loss(log_probs, old_log_probs, rewards, written, clip):
    """The loss of GRPO: the mean over all written tokens, as a scalar with a gradient.

    rewards (prompt, sample): a row is a group. The answers are the rows of the others, those of
    the first prompt first. log_probs (row, position), in nats: what the policy, as it is now, gives
    each token. old_log_probs: the same when it wrote them, and constants: before the first update
    it is the very same tensor as log_probs, so detach it. written (row, position), bool: True at
    answers' tokens. The leash is left out here: its kl_weight is 0.
    (a) An answer's advantage A: its reward minus its group's mean, divided by the group's standard
        deviation (with n - 1) + 1e-4. All of its tokens have the same.
    (b) A token's ratio: its probability now to that then. Its loss: the smaller one of ratio · A
        and (ratio, held between 1 - clip and 1 + clip) · A, with a minus.
    """
'''
_CENTRED = "rewards - rewards.mean(dim=1, keepdim=True)"
_SCALED = "centred / (rewards.std(dim=1, keepdim=True) + 1e-4)"


def _grpo(
    centred: str = _CENTRED,
    scaled: str = _SCALED,
    rows: str = "advantages.flatten()[:, None]",
    ratio: str = "(log_probs - old_log_probs.detach()).exp()",
    held: str = "ratio.clamp(1 - clip, 1 + clip)",
    losses: str = "-torch.minimum(ratio * advantages, held * advantages)",
    loss: str = "losses[written].mean()",
) -> str:
    """Return the cell of exercise 06.6 with its steps as given."""
    return f"""\
{_SIGNATURE}    centred = {centred}
    advantages = {scaled}  # (prompt, sample)
    advantages = {rows}  # (row, 1)
    ratio = {ratio}
    held = {held}
    losses = {losses}  # (row, position)
    return {loss}
"""


BUILD_GRPO = Exercise(
    id="06.6",
    kind="build",
    title="The loss of GRPO",
    section="GRPO",
    answer="grpo_loss",
    results=("loss",),
    inputs=_groups,
    expected=_token_by_token,
    learned="log_probs",
    reward=_trained,
    stages=(
        Stage(
            "two groups, in which no token has moved far",
            "Advantages first: those of each group have the mean 0. Which axis of `rewards` is a group? Then a ratio for each "
            "token, times the advantage of its answer.",
        ),
        Stage(
            "tokens that have moved beyond the clip",
            "Four cases: likelier or less likely than before, in a good answer or a bad one. In which two has a token already "
            "gone where its advantage pushes it?",
        ),
        Stage(
            "prompts before the answers, and padding behind them",
            "The policy did not write these. They are neither in the sum nor in what it is divided by.",
        ),
        Stage(
            "the first update, before which every ratio is 1",
            "The ratio is 1, but its gradient is not 0: only the numerator moves.",
        ),
        Stage(
            "a group whose rewards are all equal",
            "Nothing is to be learned from such a group, and its standard deviation is 0. Watch what it is divided by.",
        ),
    ),
    stub=f"{_SIGNATURE}    ...\n",
    solution=_grpo(),
    why="The group's mean stands where PPO has a critic: it is what an answer to this prompt brings on the average. Prompts "
    "are not alike, so a mean over all of them would reward answers for the ease of their prompt. At the first update the "
    "loss itself is near 0 and says nothing; its gradient is that of advantage · log π, but only if the old probability does "
    "not move with the new one. The minimum stops a token that has already gone far enough where its advantage pushes it, and "
    "never one that went the other way. Two choices are disputed: division by the standard deviation lets prompts that are "
    "nearly always or nearly never answered well count more, and a mean over each answer's tokens first, as in the first "
    "paper, lets a long wrong answer cost less a token (arXiv 2503.20783). `course_lib.alignment.grpo_loss` offers them.",
    hints=(
        "In this order: advantages (prompt, sample), the same as a column of rows, ratios, two products, a minimum, a mean.",
        "Means and deviations of a group run along axis 1, and have to keep it to be taken off. Who gets a gradient: then or "
        "now?",
        "The ratio is exp(now − then), of which `then` is detached. Clamp it; torch.minimum of both products, not of the "
        "ratios; pick by `written`.",
    ),
    mistakes=(
        Mistake(
            _grpo(centred="rewards - rewards.mean(dim=0, keepdim=True)", scaled=_SCALED.replace("dim=1", "dim=0")),
            "The advantages are normalised along the wrong axis: over the prompts, for each number of a sample. Samples of "
            "different prompts are no group.",
        ),
        Mistake(
            _grpo(centred="rewards - rewards.mean()", scaled="centred / (rewards.std() + 1e-4)"),
            "Mean and deviation are those of the whole batch, so that an answer is praised for the ease of its prompt. They "
            "are those of the group.",
        ),
        Mistake(
            _grpo(centred="rewards - rewards.mean()"),
            "The mean is that of the whole batch. An answer is compared with those to its own prompt.",
        ),
        Mistake(
            _grpo(scaled="centred / (rewards.std() + 1e-4)"),
            "The mean is the group's, but the standard deviation is that of the whole batch.",
        ),
        Mistake(
            _grpo(centred="rewards"),
            "The group's mean is not taken off: if all rewards are positive, every answer is made likelier.",
        ),
        Mistake(
            _grpo(scaled="centred"),
            "The advantages are not divided by the group's standard deviation. That is Dr. GRPO (arXiv 2503.20783), which "
            "leaves it out on purpose; here it is asked for.",
        ),
        Mistake(
            _grpo(scaled="centred / (rewards.std(dim=1, keepdim=True, correction=0) + 1e-4)"),
            "The standard deviation is taken with n. It is asked for with n − 1, as `Tensor.std` has it unless told otherwise.",
        ),
        Mistake(
            _grpo(scaled="centred / (rewards.var(dim=1, keepdim=True) + 1e-4)"),
            "That divides by the variance. The standard deviation is its root.",
        ),
        Mistake(
            _grpo(scaled="centred / rewards.std(dim=1, keepdim=True)"),
            "Right, until a group's rewards are all equal: then it is 0 divided by 0, and one NaN spoils the whole batch.",
        ),
        Mistake(
            _grpo(rows="advantages.T.flatten()[:, None]"),
            "The advantages come to the wrong rows: the rows are all samples of the first prompt, then those of the second.",
        ),
        Mistake(
            _grpo(ratio="(log_probs - old_log_probs).exp()"),
            "At the first update both log-probabilities are one tensor: numerator and denominator move together, the ratio "
            "stays 1, and its gradient is 0. Detach the old ones.",
        ),
        Mistake(
            _grpo(ratio="(log_probs - old_log_probs).exp().detach()"),
            "The loss is right, but it has no gradient: the ratio is detached. It is all that depends on the policy.",
        ),
        Mistake(
            _grpo(ratio="log_probs - old_log_probs.detach()"),
            "That is the *logarithm* of the ratio, which is 0 where nothing has moved.",
        ),
        Mistake(
            _grpo(ratio="(old_log_probs.detach() - log_probs).exp()"),
            "The ratio is upside down: the probability now, divided by that then.",
        ),
        Mistake(
            _grpo(ratio="log_probs.exp()"),
            "That is the probability now. Divide it by the one with which the token was drawn: rare tokens were drawn rarely.",
        ),
        Mistake(
            _grpo(ratio="log_probs.exp() / log_probs.exp().detach()"),
            "The ratio is to the probability as it is *now*, so it is always 1. That is right at the first update only; "
            "afterwards nothing would be clipped.",
        ),
        Mistake(
            _grpo(losses="-(log_probs * advantages)"),
            "That is the policy gradient without a ratio. From the second update on, the answers are not those of the policy "
            "as it is now: the ratio makes up for that.",
        ),
        Mistake(
            _grpo(losses="-(ratio * advantages)"),
            "Nothing is clipped: a token may move as far as one batch pushes it.",
        ),
        Mistake(
            _grpo(losses="-(held * advantages)"),
            "Only the clipped ratio is used. A token that went the *wrong* way beyond the clip gets no gradient then, and "
            "is not brought back: take the smaller one of both products.",
        ),
        Mistake(
            _grpo(losses="-torch.maximum(ratio * advantages, held * advantages)"),
            "The clip is on the wrong side: the larger product is taken, which stops what is to be brought back and lets run "
            "what has gone far enough.",
        ),
        Mistake(
            _grpo(losses="-torch.minimum(ratio, held) * advantages"),
            "The smaller *ratio* is taken. Where the advantage is negative, the smaller product has the larger ratio: minimum "
            "of the products.",
        ),
        Mistake(
            _grpo(losses="torch.minimum(ratio * advantages, held * advantages)"),
            "The minus is missing: a loss is made small, and this is to become large.",
        ),
        Mistake(
            _grpo(held="ratio.clamp(max=1 + clip)"),
            "The ratio is held from above only. In a bad answer, a token that has become rarer than 1 − clip has gone far "
            "enough, too.",
        ),
        Mistake(
            _grpo(held="ratio.clamp(min=1 - clip)"),
            "The ratio is held from below only. In a good answer, a token that has become likelier than 1 + clip has gone far "
            "enough, too.",
        ),
        Mistake(
            _grpo(held="ratio.clamp(-clip, clip)"),
            "The ratio is held around 0. It is 1 where nothing has moved.",
        ),
        Mistake(
            _grpo(held="(log_probs - old_log_probs.detach()).clamp(-clip, clip).exp()"),
            "The *logarithm* of the ratio is held within clip of 0. It is the ratio itself that is held within clip of 1.",
        ),
        Mistake(
            _grpo(loss="losses.mean()"),
            "The mean is over everything: prompts and padding count as if the policy had written them.",
        ),
        Mistake(
            _grpo(loss="(losses * written).mean()"),
            "The sum is right, but it is divided by all positions, those of prompts and padding too. Divide by what was "
            "written.",
        ),
        Mistake(
            _grpo(loss="((losses * written).sum(dim=1) / written.sum(dim=1)).mean()"),
            "That is the mean over each answer's tokens first, as in the first paper: in a long answer a token counts less. "
            "Here each token counts the same.",
        ),
        Mistake(
            _grpo(loss="(losses * written).sum(dim=1).mean()"),
            "That is the mean sum of an *answer*, which grows with its length. Divide by the number of tokens.",
        ),
        Mistake(
            _grpo(loss="losses[written].sum()"),
            "That is the sum over all tokens. Return their mean.",
        ),
        Mistake(
            _grpo(loss="losses[~written].mean()"),
            "The mask is the wrong way round: that is the mean over prompts and padding.",
        ),
    ),
)
