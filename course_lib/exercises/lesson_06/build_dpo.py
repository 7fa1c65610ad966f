"""Exercise 06.5: the loss of direct preference optimisation."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake, Stage

__all__ = ["BUILD_DPO"]


def _written(answers: list[list[tuple[int, int]]], n_positions: int) -> Tensor:
    """Return (2, pair, position): True at the answers, of which the first token and the number of tokens are given."""
    written = torch.zeros(2, len(answers[0]), n_positions, dtype=torch.bool)
    for side, of_side in enumerate(answers):
        for pair, (start, length) in enumerate(of_side):
            written[side, pair, start : start + length] = True
    return written


def _pairs(generator: torch.Generator) -> list[tuple]:
    """Return log_probs and reference_log_probs (2, pair, position − 1), written (2, pair, position) and beta: a stage each.

    What stands at prompts and padding is drawn as well, for each answer by itself: it may not count.
    """
    cases = []
    for answers, n_positions, beta in (
        ([[(3, 3)], [(3, 3)]], 6, 0.5),
        ([[(2, 5)], [(2, 5)]], 7, 0.2),
        ([[(3, 2)], [(3, 4)]], 8, 0.4),
        ([[(2, 3), (1, 5), (4, 1)], [(2, 4), (1, 2), (4, 3)]], 8, 0.3),
        ([[(1, 4), (3, 2), (2, 2), (2, 4)], [(1, 3), (3, 3), (2, 1), (2, 3)]], 7, 2.0),
    ):
        written = _written(answers, n_positions)
        size = 2, len(answers[0]), n_positions - 1
        cases.append((*(-2 * torch.rand(2, *size, generator=generator)), written, beta))
    reference = cases[0][1]  # its last tokens are those of the answers: let their sums be equal
    reference[1, 0, -1] += (reference[0, 0, 2:].sum() - reference[1, 0, 2:].sum()).item()
    cases[4][0][0, 0] -= 60  # the policy finds a chosen answer unlikely, token for token
    return cases


def _by_odds(log_probs: Tensor, reference_log_probs: Tensor, written: Tensor, beta: float) -> float:
    """Go from token to token; of each pair, take the odds against the choice: its loss is log(1 + odds)."""
    policy, reference, rows, losses = log_probs.tolist(), reference_log_probs.tolist(), written.tolist(), []
    for pair in range(written.shape[1]):
        log_odds = 0.0
        for side, sign in ((0, -1), (1, 1)):
            for t, counts in enumerate(rows[side][pair]):
                if counts:
                    log_odds += sign * beta * (policy[side][pair][t - 1] - reference[side][pair][t - 1])
        losses.append(math.log1p(math.exp(log_odds)))
    return sum(losses) / len(losses)


def _trained(dpo_loss: Callable[..., Tensor]) -> str:
    """Train a policy with the learner's own loss, and say what became of it."""
    from course_lib.exercises.lesson_06.tiny_policy import learn_from_pairs  # imported here: not in lesson 01

    margins = learn_from_pairs(dpo_loss)
    return (
        f"Your loss has trained a small policy. On pairs that it never saw, the chosen answer is now {margins[-1]:.1f} nats "
        f"further ahead of the rejected one than it was {len(margins) - 1} steps ago."
    )


_SIGNATURE = '''\
def dpo_loss(log_probs, reference_log_probs, written, beta):
    """The loss of DPO: the mean over pairs of answers, in nats, as a scalar with a gradient.

    log_probs (2, pair, position - 1), in nats, of the policy: [0] are the chosen answers, [1] the
    rejected ones; what stands at i is for token i + 1. reference_log_probs: the same of the
    reference. written (2, pair, position), bool, is True at an answer's tokens: not at those of
    the prompt before it, nor at the padding behind it.
    (a) The log-probability of an answer is the sum over its tokens.
    (b) Its implicit reward is beta times how many nats likelier the policy finds it than the
        reference does.
    (c) A pair's loss is -log of the probability that the chosen answer is preferred, which is σ of
        how far its reward is ahead of the rejected one's.
    """
'''


def _dpo(
    mask: str = "written[..., 1:]",
    total: str = "(x * mask).sum(dim=-1)",
    rewards: str = "beta * (policy - reference)",
    loss: str = "-F.logsigmoid(chosen - rejected).mean()",
) -> str:
    """Return the cell of exercise 06.5 with its steps as given."""
    return f"""\
{_SIGNATURE}    mask = {mask}
    policy, reference = ({total} for x in (log_probs, reference_log_probs))
    chosen, rejected = {rewards}  # (pair,) each
    return {loss}
"""


BUILD_DPO = Exercise(
    id="06.5",
    kind="build",
    title="The loss of DPO",
    section="DPO",
    answer="dpo_loss",
    results=("loss",),
    inputs=_pairs,
    expected=_by_odds,
    learned="log_probs",
    reward=_trained,
    stages=(
        Stage(
            "one pair, of which the reference finds both answers equally likely",
            "Get the log-probability of each answer first: one number for the chosen, one for the rejected. Mind which entry "
            "of `log_probs` belongs to which token.",
        ),
        Stage(
            "a reference that finds one answer likelier",
            "A reward is not how likely an answer is, but how much likelier than it was. Each side has its own reference.",
        ),
        Stage(
            "answers of different lengths, with padding behind them",
            "The chosen and the rejected answer end at different places, and what stands behind the end does not count.",
        ),
        Stage(
            "several pairs",
            "Each pair has a loss of its own; the mean is taken last.",
        ),
        Stage(
            "a pair that the policy has far the wrong way round",
            "Here σ is smaller than any number of float32, but its logarithm is an ordinary number. Nothing may overflow.",
        ),
    ),
    stub=f"{_SIGNATURE}    ...\n",
    solution=_dpo(),
    why="A reward model's loss, with the policy itself in the reward model's place: the reward for which a policy would be "
    "best under the leash beta · KL is beta · (log π − log π₀), up to a number that only the prompt decides, and which cancels "
    "in the difference. The reference is that leash: without it, the loss would be 0 for answers that were likely from the "
    "start, and drive others on for ever. What a mask leaves out cancels only if it is the same for both: two answers to one "
    "prompt share its log-probabilities, but not their padding. `logsigmoid` keeps the logarithm and the exponential "
    "together, so that neither overflows. `course_lib.alignment.dpo_loss` begins with (b).",
    hints=(
        "Three steps, as in the docstring: two sums for each pair, two rewards for each pair, one loss for each pair.",
        "There is no entry for token 0, so `log_probs` is one shorter than `written`: entry 0 belongs to token 1. Shift the "
        "mask.",
        "Policy minus reference, times beta; chosen minus rejected; then what PyTorch has for the logarithm of σ, and a mean.",
    ),
    mistakes=(
        Mistake(
            _dpo("written[..., :-1]"),
            "The mask is one position off: an answer's first token does not count, and what follows its last one does. Entry 0 "
            "belongs to token 1.",
        ),
        Mistake(
            _dpo("torch.ones_like(log_probs)"),
            "The sum is over the whole row: prompt and padding count as if they were the answer.",
        ),
        Mistake(
            _dpo("written.flip(-1).cumsum(dim=-1).flip(-1)[..., 1:] > 0"),
            "The prompt counts as well. It is given, and an answer's probability is that *after* its prompt. (Where both "
            "answers have the same prompt, it cancels in the loss, but not in the rewards.)",
        ),
        Mistake(
            _dpo("written.cumsum(dim=-1)[..., 1:] > 0"),
            "The padding counts as well. What a model would say of it has nothing to do with the answer, and the shorter "
            "answer has more of it.",
        ),
        Mistake(
            _dpo("~written[..., 1:]"),
            "The mask is the wrong way round: that is the log-probability of the prompt and the padding.",
        ),
        Mistake(
            _dpo("written[..., 1:] & written[..., :-1]"),
            "An answer's first token does not count. The prompt is read before it, so it has a log-probability, too.",
        ),
        Mistake(
            _dpo(total="(x * mask).sum(dim=-1) / mask.sum(dim=-1)"),
            "That is the mean over an answer's tokens. Its log-probability is their sum: probabilities multiply.",
        ),
        Mistake(
            _dpo(total="(x * mask).mean(dim=-1)"),
            "That is a mean, and even over the places that do not count. An answer's log-probability is a sum: probabilities "
            "multiply.",
        ),
        Mistake(
            _dpo(total="(x.exp() * mask).sum(dim=-1)"),
            "Probabilities are added up. Those of an answer's tokens multiply, which is to say that their *logarithms* add up.",
        ),
        Mistake(
            _dpo(total="(x * mask).sum(dim=-1).exp()"),
            "Those are probabilities. The reward is a difference of log-probabilities.",
        ),
        Mistake(
            _dpo(rewards="beta * policy"),
            "The reference is missing, or one is taken for both answers, so that it cancels. It is the leash: without it the "
            "loss cannot tell an answer that was likely from the start from one that has become so.",
        ),
        Mistake(
            _dpo(rewards="beta * (policy + reference)"),
            "The reference is added. How much likelier an answer has *become* is policy minus reference.",
        ),
        Mistake(
            _dpo(rewards="beta * policy - reference"),
            "Beta multiplies the policy alone. It multiplies the difference.",
        ),
        Mistake(
            _dpo(rewards="policy - reference"),
            "Beta is missing: the difference in nats is multiplied by it.",
        ),
        Mistake(
            _dpo(rewards="(policy - reference) / beta"),
            "The difference is divided by beta. The reward is beta times it: a strong leash makes much of a small drift.",
        ),
        Mistake(
            _dpo(rewards="beta * (reference - policy)"),
            "The margin has the wrong sign: reference minus policy, or rejected minus chosen. This trains the policy to give "
            "the answers that people did *not* choose.",
        ),
        Mistake(
            _dpo(loss="F.logsigmoid(chosen - rejected).mean()"),
            "That is the log-probability of the choices, which is to become large. A loss is its opposite.",
        ),
        Mistake(
            _dpo(loss="-(chosen - rejected).sigmoid().mean()"),
            "The logarithm is missing: that is the mean *probability* of the choices, with a minus.",
        ),
        Mistake(
            _dpo(loss="-(chosen - rejected).mean()"),
            "That is the margin with a minus. Without −log σ it never has enough: a pair that is right by far pulls as hard as "
            "one that is wrong.",
        ),
        Mistake(
            _dpo(loss="-(chosen - rejected).sigmoid().log().mean()"),
            "Right, until σ becomes 0 and its logarithm −∞. `F.logsigmoid` takes both in one step, and stays an ordinary "
            "number.",
        ),
        Mistake(
            _dpo(loss="-F.logsigmoid(chosen - rejected).sum()"),
            "The losses of the pairs are added up. Return their mean.",
        ),
        Mistake(
            _dpo(loss="-F.logsigmoid((chosen - rejected).mean())"),
            "The margins are averaged before −log σ. Each pair is a choice of its own: first its loss, then the mean.",
        ),
        Mistake(
            _dpo(loss="-F.logsigmoid(chosen - rejected)[0]"),
            "That is the loss of the first pair alone.",
        ),
        Mistake(
            _dpo(loss="-(F.logsigmoid(chosen) + F.logsigmoid(-rejected)).mean()"),
            "Each answer is judged by itself, as if its reward had a zero point. Only the difference of the two means "
            "something: one σ a pair.",
        ),
        Mistake(
            _dpo(loss="((chosen - rejected) / beta - 1 / (2 * beta)).square().mean()"),
            "That is IPO, which has a target for the margin. DPO's loss is −log σ of it.",
        ),
        Mistake(
            _dpo(loss="torch.relu(1 - (chosen - rejected)).mean()"),
            "That is a hinge loss, which asks for nothing more of a margin above 1. DPO's is −log σ of the margin.",
        ),
        Mistake(
            _dpo(loss="-F.logsigmoid(chosen - rejected).mean() / math.log(2)"),
            "The right loss, in bits. It is asked for in nats, the unit of the natural logarithm.",
        ),
        Mistake(
            _dpo(loss="-F.logsigmoid(chosen - rejected.detach()).mean()"),
            "The loss is right, but the rejected answers get no gradient, so that they are not made less likely.",
        ),
        Mistake(
            _dpo(rewards="beta * (policy - reference).detach()"),
            "The loss is right, but it has no gradient: the policy is detached. It is the one that learns.",
        ),
    ),
)
