"""Exercise 06.3: the reward of each token, with a leash that pulls the wrong way."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR_LEASH"]

_ANSWERS = (  # (first token, number of tokens) of each row's answer, and the number of positions
    (((2, 3), (4, 2), (1, 5)), 7),
    (((3, 4), (1, 1), (2, 6), (5, 3), (4, 5)), 9),
    (((1, 4), (3, 2)), 5),
)


def _answers(generator: torch.Generator) -> list[tuple]:
    """Return rewards (row,), log_probs, reference_log_probs and written (row, position), and the leash's length."""
    cases = []
    for (answers, n_positions), kl_weight in zip(_ANSWERS, (0.3, 0.05, 2.0), strict=True):
        log_probs, reference = -3 * torch.rand(2, len(answers), n_positions, generator=generator)
        written = torch.zeros(len(answers), n_positions, dtype=torch.bool)
        for row, (start, length) in enumerate(answers):
            written[row, start : start + length] = True
        cases.append((torch.randn(len(answers), generator=generator), log_probs, reference, written, kl_weight))
    return cases


def _token_by_token(
    rewards: Tensor, log_probs: Tensor, reference_log_probs: Tensor, written: Tensor, kl_weight: float
) -> Tensor:
    """Go from each answer's end to its beginning: the first token met is the last one written, and gets the reward."""
    found = [[0.0] * written.shape[1] for _ in rewards]
    for row, reward in enumerate(rewards.tolist()):
        to_give = reward
        for t in reversed(range(written.shape[1])):
            if written[row, t]:
                found[row][t] = to_give + kl_weight * (reference_log_probs[row, t] - log_probs[row, t]).item()
                to_give = 0.0
    return torch.tensor(found)


_DRIFT = "log_probs - reference_log_probs"
_LAST = "written & (written.flip(1).cumsum(dim=1).flip(1) == 1)"


def _leashed(
    per_token: str = "-kl_weight * drift * written",
    drift: str = _DRIFT,
    last: str = _LAST,
    give: str = "per_token + rewards[:, None] * last",
) -> str:
    """Return the cell of exercise 06.3 with its steps as given."""
    return f'''\
def token_rewards(rewards, log_probs, reference_log_probs, written, kl_weight):
    """The reward of each token (row, position): the leash, and at an answer's end its own reward.

    rewards (row,); the log-probabilities, in nats, that the policy and the reference give to the
    tokens (row, position); written (row, position), bool, is True at the answer's tokens, which
    the policy wrote: before them stands the prompt, and behind them padding, and both get 0.
    So a whole answer gets its own reward, less kl_weight times the estimate k1 of its KL.
    """
    drift = {drift}
    per_token = {per_token}
    last = {last}  # where the answer ends
    return {give}
'''


REPAIR_LEASH = Exercise(
    id="06.3",
    kind="repair",
    title="The reward of each token, with one planted bug",
    section="The leash",
    answer="token_rewards",
    results=("rewards",),
    inputs=_answers,
    expected=_token_by_token,
    stub=_leashed("kl_weight * drift * written"),
    solution=_leashed(),
    why="log π − log π₀ is positive where the policy writes what the reference would hardly write. That is to cost something, "
    "so it is taken off the reward. With a plus it is paid for: the policy is driven away from the reference, the faster the "
    "farther it is, and the reward rises all the way, so that the curve looks like success. Summed over an answer, the leash "
    "is −kl_weight times an estimate of the KL; a single token's part of it may well be positive, for the estimate is right "
    "only in the mean. `course_lib.alignment.penalised_rewards` is this function.",
    hints=(
        "Take a token with log π = −1 and log π₀ = −3. Has the policy moved away from the reference there? What does it get?",
        "The policy is trained to make the rewards *large*. What does it do if moving away is worth more?",
        "The answer's own reward is right, and so are its place and the mask. One sign is not.",
    ),
    mistakes=(
        Mistake(
            _leashed("-kl_weight * drift"),
            "The sign is right now, but the mask is gone: the prompt and the padding, which the policy did not write, get a "
            "leash as well.",
        ),
        Mistake(
            _leashed("-kl_weight * drift * (written.cumsum(dim=1) > 0)"),
            "The padding behind the answer is counted as well. The policy did not write it.",
        ),
        Mistake(
            _leashed("-kl_weight * drift * (written.flip(1).cumsum(dim=1).flip(1) > 0)"),
            "The prompt is counted as well. The policy did not write it: how likely it finds a question is no drift.",
        ),
        Mistake(
            _leashed("-kl_weight * drift * ~written"),
            "The mask is the wrong way round: the leash is on the prompt and the padding.",
        ),
        Mistake(
            _leashed("-kl_weight * drift.abs() * written"),
            "The *size* of the drift is taken off. Where the policy finds its token less likely than the reference does, the "
            "difference is negative, and in the mean these terms belong to the KL: without them it is far too large.",
        ),
        Mistake(
            _leashed("-kl_weight * drift.clamp(min=0) * written"),
            "Only the positive differences count. The negative ones belong to the KL, too; without them its mean is too large.",
        ),
        Mistake(
            _leashed("-kl_weight * drift**2 / 2 * written"),
            "Half the square is another estimate of the KL, k2, which is wrong in the mean. Here it is the difference itself.",
        ),
        Mistake(
            _leashed("-kl_weight * (torch.exp(-drift) - 1 + drift) * written"),
            "That is another estimate of the KL, k3: right in the mean, but not what is asked for. Here it is the difference "
            "itself.",
        ),
        Mistake(
            _leashed("-kl_weight * drift.exp() * written"),
            "That is the ratio of the two probabilities. The leash counts nats: its logarithm.",
        ),
        Mistake(
            _leashed("-kl_weight * drift.sum(dim=1, keepdim=True) * written"),
            "Each token pays for the drift of the whole row. It pays for its own only.",
        ),
        Mistake(
            _leashed("-kl_weight * drift * written / written.sum(dim=1, keepdim=True)"),
            "The leash is divided by the answer's length, so that long answers may drift farther. It is a sum over tokens.",
        ),
        Mistake(
            _leashed("-drift * written"),
            "The leash has the right sign, but its strength, kl_weight, is gone.",
        ),
        Mistake(
            _leashed("-drift * written / kl_weight"),
            "Divided by kl_weight, a larger one makes the leash weaker. Multiply.",
        ),
        Mistake(
            _leashed("kl_weight * drift * written", drift="-log_probs"),
            "The reference is gone: that pays for unlikely tokens, which is a bonus on entropy, and ties the policy to "
            "nothing.",
        ),
        Mistake(
            _leashed(last="torch.arange(written.shape[1]) == written.shape[1] - 1"),
            "The leash is right. But the answer's reward went to the last *position*, which may be padding. It belongs to "
            "the last token written, where it was.",
        ),
        Mistake(
            _leashed(give="per_token + rewards[:, None] * written"),
            "The leash is right. But each token gets the answer's reward now, so that long answers get it many times. It is "
            "given once, at the end.",
        ),
        Mistake(
            _leashed(give="per_token + rewards[:, None]"),
            "The leash is right. But every position gets the answer's reward now, the prompt's and the padding's too. It is "
            "given once, at the answer's end.",
        ),
        Mistake(
            _leashed(last="written & (written.cumsum(dim=1) == 1)"),
            "The leash is right. But the reward comes with the *first* token of the answer, before it is known what follows. "
            "It was given at the last one.",
        ),
        Mistake(
            _leashed(last="torch.arange(written.shape[1]) == written.sum(dim=1, keepdim=True) - 1"),
            "The leash is right. But the end was looked for as if the answer began at position 0. A prompt stands before it.",
        ),
        Mistake(
            _leashed(give="torch.where(last, rewards[:, None], per_token)"),
            "The answer's reward *replaces* the leash of its last token. It is added to it.",
        ),
        Mistake(
            _leashed(give="per_token"),
            "The leash is right. But the reward of the answer is gone: the policy would learn to be the reference, and no "
            "more.",
        ),
        Mistake(
            _leashed(give="per_token - rewards[:, None] * last"),
            "The leash is right. But now the answer's reward is taken off: it is what the policy is to make large.",
        ),
        Mistake(
            _leashed(give="per_token.sum(dim=1) + rewards"),
            "That is the sum over each answer. Which token the leash pulls is lost with it: return a reward for each token.",
        ),
    ),
)
