"""Exercise 06.4: generalised advantages."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_ADVANTAGES"]

_ANSWERS = (  # (first token, number of tokens) of each row's answer, the number of positions, discount and smoothing
    (((2, 4), (1, 3)), 7, 0.9, 0.8),
    (((3, 2), (1, 5), (4, 1)), 8, 1.0, 0.95),
    (((1, 3), (3, 3), (2, 4), (4, 2)), 6, 0.7, 0.5),
)


def _answers(generator: torch.Generator) -> list[tuple]:
    """Return rewards, values and written (row, position), discount and smoothing; nothing is 0 outside of the answers."""
    cases = []
    for answers, n_positions, discount, smoothing in _ANSWERS:
        rewards, values = torch.randn(2, len(answers), n_positions, generator=generator)
        written = torch.zeros(len(answers), n_positions, dtype=torch.bool)
        for row, (start, length) in enumerate(answers):
            written[row, start : start + length] = True
        cases.append((rewards, values, written, discount, smoothing))
    return cases


def _error_by_error(
    rewards: Tensor, values: Tensor, written: Tensor, discount: float, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Take all errors of each answer first, and then each token's sum over those from it on: arXiv 1506.02438, eq. 16."""
    advantages, returns = torch.zeros(2, *values.shape).double()
    for row in range(len(written)):
        places = written[row].nonzero()[:, 0].tolist()
        v = [*values[row, places].tolist(), 0.0]
        errors = [rewards[row, t].item() + discount * v[i + 1] - v[i] for i, t in enumerate(places)]
        for i, t in enumerate(places):
            advantages[row, t] = sum((discount * smoothing) ** k * error for k, error in enumerate(errors[i:]))
            returns[row, t] = advantages[row, t] + v[i]
    return advantages.float(), returns.float()


_SIGNATURE = '''\
def generalised_advantages(rewards, values, written, discount, smoothing):
    """Advantages and returns, each (row, position), of answers whose rewards a critic foretold.

    rewards, values (row, position), in one unit: what each token brought, and what the critic
    expected the answer to bring from this token on. written (row, position), bool, is True at the
    answer's tokens, which follow one another; elsewhere both results are 0, and what stands there
    does not count. The critic's error at a token is δ = reward + discount · (value at the next
    token) − value; behind the last token the value is 0. The advantage is the sum of this and all
    later errors, each times discount · smoothing once for every token that it lies ahead.
    The return, which the critic is trained on, is advantage + value.
    """
'''


def _advantages(
    error: str = "rewards[:, t] + discount * next_value - values[:, t]",
    advantage: str = "written[:, t] * (error + discount * smoothing * advantage)",
    next_value: str = "written[:, t] * values[:, t]",
    returns: str = "written * (advantages + values)",
    order: str = "reversed(range(values.shape[1]))",
    result: str = "advantages, returns",
) -> str:
    """Return the cell of exercise 06.4 with its steps as given."""
    return f"""\
{_SIGNATURE}    advantages = torch.zeros_like(values)
    advantage = next_value = 0
    for t in {order}:
        error = {error}
        advantage = {advantage}
        next_value = {next_value}
        advantages[:, t] = advantage
    returns = {returns}
    return {result}
"""


WRITE_ADVANTAGES = Exercise(
    id="06.4",
    kind="write",
    title="Generalised advantages",
    section="PPO",
    answer="generalised_advantages",
    results=("advantages", "returns"),
    inputs=_answers,
    expected=_error_by_error,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_advantages(),
    why="From the end to the beginning, each advantage is its own error plus discount · smoothing times the next advantage: "
    "one pass. With smoothing 0 a token is judged by the critic's word on the next one: little spread, and wrong where the "
    "critic is. With 1 the values in between cancel, and what is left is all that came, less what was expected: right in the "
    "mean, with the spread of everything that happened after. In between, late errors count less. The mask matters twice: "
    "behind the last token nothing is expected, and no advantage comes back from the padding. "
    "`course_lib.alignment.generalised_advantages` is this function, and lets a tool's words stand inside an answer.",
    hints=(
        "Each sum holds the sum of the token after it. From which end is it easiest to compute them?",
        "Two things go from a token to the one before it: its advantage and its value. What are they behind the last token?",
        "Go backwards over the positions, all rows at once. Where nothing was written, what is passed on is 0.",
    ),
    mistakes=(
        Mistake(
            _advantages(advantage="written[:, t] * (error + discount * advantage)"),
            "Smoothing is left out: that is what it is for a smoothing of 1, in which the critic's later values cancel.",
        ),
        Mistake(
            _advantages(advantage="written[:, t] * (error + smoothing * advantage)"),
            "Later errors are multiplied by smoothing alone. Each token farther ahead they count discount · smoothing.",
        ),
        Mistake(
            _advantages(advantage="written[:, t] * error"),
            "Those are the errors alone, as for a smoothing of 0. The advantage is the sum of this one and all later ones.",
        ),
        Mistake(
            _advantages(advantage="written[:, t] * (error + advantage)"),
            "The later errors are added as they are. They count discount · smoothing for each token that they lie ahead.",
        ),
        Mistake(
            _advantages(advantage="written[:, t] * ((1 - smoothing) * error + discount * smoothing * advantage)"),
            "The error is multiplied by 1 − smoothing, as in a running mean. It is a sum: this error counts in full.",
        ),
        Mistake(
            _advantages(error="rewards[:, t] + next_value - values[:, t]"),
            "The discount is missing in the error: the value at the next token is multiplied by it.",
        ),
        Mistake(
            _advantages(error="rewards[:, t] + discount * smoothing * next_value - values[:, t]"),
            "Smoothing is in the error itself. There the next value is multiplied by discount alone.",
        ),
        Mistake(
            _advantages(error="rewards[:, t] - values[:, t]"),
            "The value at the next token is missing in the error. The critic foretold the whole rest, and a token's reward is "
            "but its first part.",
        ),
        Mistake(
            _advantages(error="rewards[:, t] + discount * next_value"),
            "What the critic expected at this token is not taken off. An error is what came, minus what was expected.",
        ),
        Mistake(
            _advantages(error="values[:, t] - rewards[:, t] - discount * next_value"),
            "The error has the wrong sign: it is positive where things came *better* than expected.",
        ),
        Mistake(
            _advantages(error="rewards[:, t] + values[:, t] - discount * next_value"),
            "The two values are exchanged: the next one is added, and this one is taken off.",
        ),
        Mistake(
            _advantages(order="range(values.shape[1])"),
            "It runs from the beginning to the end, so that each token is judged by those *before* it. Later errors count.",
        ),
        Mistake(
            _advantages(next_value="values[:, t]"),
            "What stands in the padding is taken for the value behind the last token. Nothing is expected there: 0.",
        ),
        Mistake(
            _advantages(advantage="error + discount * smoothing * advantage"),
            "Errors of the padding come back into the answer, and the prompt has advantages. Only what was written counts.",
        ),
        Mistake(
            _advantages(
                advantage="error + discount * smoothing * advantage",
                next_value="values[:, t]",
                returns="advantages + values",
            ),
            "The mask is not used at all: prompt and padding count as if the policy had written them.",
        ),
        Mistake(
            _advantages(
                advantage="error + discount * smoothing * advantage",
                next_value="values[:, t]",
                result="written * advantages, returns",
            ),
            "The results are masked, but only when all is over: errors and values of the padding have come into the answer "
            "before.",
        ),
        Mistake(
            _advantages(returns="advantages + values"),
            "The advantages are right. But the returns are not 0 where nothing was written: values stand there.",
        ),
        Mistake(
            _advantages(returns="written * (rewards + values)"),
            "The advantages are right. But a return is advantage + value: what the critic should have said.",
        ),
        Mistake(
            _advantages(returns="written * (advantages - values)"),
            "The advantages are right. But for the returns the value is taken off once more. It is added back: what the critic "
            "said, plus by how much it was wrong.",
        ),
        Mistake(
            _advantages(returns="written * (rewards.flip(1).cumsum(dim=1).flip(1))"),
            "The advantages are right. But the returns are the sums of the rewards to come. They are advantage + value, which "
            "is that only if discount and smoothing are 1.",
        ),
        Mistake(
            _advantages(returns="advantages"),
            "The advantages are right, and are given twice. The return is advantage + value.",
        ),
        Mistake(
            _advantages(result="returns, advantages"),
            "Both are right, but in the wrong order: advantages first, then returns.",
        ),
        Mistake(
            _advantages(result="(advantages - advantages[written].mean()) / advantages[written].std(), returns"),
            "The advantages are brought to mean 0 and variance 1. PPO does that too, but afterwards: here they are asked for "
            "as they are.",
        ),
    ),
)
