"""What the builds are rewarded with: the learner's own loss trains a policy, in a second.

The policy is a `TransformerLM` of one layer over eight letters. It begins as random numbers, and finds every letter about
as likely as another. What is good: an answer that repeats the prompt's last letter. Many of the known wrong versions learn
that, too: a curve that rises is no check of a loss.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.inference import Sampling, roll_out

__all__ = ["learn_from_pairs", "learn_from_rewards"]

_N_LETTERS, _LONGEST_PROMPT, _LONGEST_ANSWER = 8, 4, 3


def learn_from_pairs(dpo_loss: Callable[..., Tensor], n_steps: int = 40, beta: float = 0.1) -> list[float]:
    """Train a policy with `dpo_loss` (exercise 06.5) and return its margin on held-out pairs, before each step and at the end.

    The margin, in nats: how much likelier than under the reference the chosen answer has become, less the same of the
    rejected one; the mean over 64 pairs. It begins at 0.
    """
    policy, generator = _policy(), torch.Generator().manual_seed(0)
    reference, optimizer = copy.deepcopy(policy), torch.optim.AdamW(policy.parameters(), lr=0.005)
    held_out, margins = _pairs(64, generator), []
    for _ in range(n_steps):
        margins.append(_margin(policy, reference, *held_out))
        ids, written = _pairs(32, generator)
        with torch.no_grad():
            of_reference = _log_probs(reference, ids)
        loss = dpo_loss(*(x.unflatten(0, (2, -1)) for x in (_log_probs(policy, ids), of_reference, written)), beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*margins, _margin(policy, reference, *held_out)]


def learn_from_rewards(grpo_loss: Callable[..., Tensor], n_steps: int = 40, clip: float = 0.2) -> list[float]:
    """Train a policy with `grpo_loss` (exercise 06.6) and return the mean reward of what it wrote at each step.

    At each step it writes eight answers of three letters to eight prompts, and is updated twice with them. An answer's reward
    is how many of its letters are the prompt's last one: 3/8 by chance, and 3 at best. No answer is ever shown to it.
    """
    policy, generator = _policy(), torch.Generator().manual_seed(0)
    optimizer, means = torch.optim.AdamW(policy.parameters(), lr=0.005), []
    for _ in range(n_steps):
        prompts = [_letters(1 + row % _LONGEST_PROMPT, generator) for row in range(8)]
        noise = torch.rand(64, _LONGEST_ANSWER, generator=generator)
        rollouts = roll_out(policy, prompts, _LONGEST_ANSWER, Sampling(temperature=1.0), n_samples=8, noise=noise)
        right = [float(answer.count(prompts[row // 8][-1])) for row, answer in enumerate(rollouts.answers)]
        rewards, old = torch.tensor(right).view(8, 8), None
        for _ in range(2):
            now = F.pad(_log_probs(policy, rollouts.ids), (1, 0))  # nothing comes before the first token
            loss = grpo_loss(now, now if old is None else old, rewards, rollouts.written, clip)
            old = now.detach() if old is None else old
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        means.append(rewards.mean().item())
    return means


def _policy() -> TransformerLM:
    with torch.random.fork_rng():  # an exercise leaves the seed alone that the learner has set
        torch.manual_seed(0)
        return TransformerLM(TransformerConfig(_N_LETTERS, 32, 1, 2, 64, _LONGEST_PROMPT + _LONGEST_ANSWER))


def _letters(n: int, generator: torch.Generator) -> list[int]:
    return torch.randint(_N_LETTERS, (n,), generator=generator).tolist()


def _pairs(n_pairs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return ids and written (row, position), the chosen answers first: each behind its prompt, and padding behind it."""
    ids = torch.zeros(2 * n_pairs, _LONGEST_PROMPT + _LONGEST_ANSWER, dtype=torch.long)
    written = torch.zeros_like(ids, dtype=torch.bool)
    for pair in range(n_pairs):
        prompt = _letters(1 + pair % _LONGEST_PROMPT, generator)
        n_chosen, n_rejected = 1 + torch.randint(_LONGEST_ANSWER, (2,), generator=generator)
        answers = [prompt[-1]] * n_chosen, _letters(n_rejected.item(), generator)
        for row, answer in zip((pair, n_pairs + pair), answers, strict=True):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor([*prompt, *answer])
            written[row, len(prompt) : end] = True
    return ids, written


def _log_probs(policy: TransformerLM, ids: Tensor) -> Tensor:
    """Return the log-probability of each token but the first (row, position − 1)."""
    return -F.cross_entropy(policy(ids)[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")


@torch.no_grad()
def _margin(policy: TransformerLM, reference: TransformerLM, ids: Tensor, written: Tensor) -> float:
    drift = ((_log_probs(policy, ids) - _log_probs(reference, ids)) * written[:, 1:]).sum(dim=1)
    chosen, rejected = drift.chunk(2)
    return (chosen - rejected).mean().item()
