"""Exercise 04.5: the training loop, with micro-batches, a limit on the gradient and a schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from course_lib.corpora.packing import IGNORED
from course_lib.exercises.registry import Exercise, Mistake, Stage

__all__ = ["BUILD_LOOP", "MARK", "real_losses"]

MARK = 3.5  # bits a character: what the best table of Hamlet's own pairs of characters comes to


class _Bigrams(nn.Module):
    """A bigram model: a token's row, with what all rows share added, holds the logits of the next one."""

    def __init__(self, table: Tensor, shared: Tensor):
        super().__init__()
        self.table, self.shared = nn.Parameter(table), nn.Parameter(shared)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids] + self.shared

    def __repr__(self) -> str:
        return f"a bigram model of {len(self.shared)} tokens"


class _Sgd(torch.optim.SGD):
    """Plain gradient descent, which hides neither the length of a gradient nor the rate; named shortly in a report."""

    def __repr__(self) -> str:
        return f"SGD with the learning rates {[group['lr'] for group in self.param_groups]}"


@dataclass(frozen=True)
class _Factors:
    """A schedule: the factor of each step, counted from 0."""

    factors: tuple[float, ...]

    def __call__(self, step: int) -> float:
        return self.factors[step]


def _runs(generator: torch.Generator) -> list[tuple]:
    """Return a model, its optimizer, batches of ids and targets, n_parts, clip and schedule: a run for each stage."""
    cases = []
    for n_rows, length, vocab, n_parts, clip, factors in (
        (4, 5, 6, 1, 1e6, (1.0, 1.0)),
        (3, 7, 5, 1, 1e6, (1.0, 1.0, 1.0, 1.0)),
        (7, 4, 8, 3, 1e6, (1.0, 1.0, 1.0)),  # 7 rows are 3 + 3 + 1
        (5, 6, 9, 2, 0.2, (1.0, 1.0, 1.0)),
        (6, 8, 7, 2, 0.25, (0.5, 1.0, 0.25, 0.75)),
    ):
        model = _Bigrams(*(2 * torch.randn(*size, vocab, generator=generator) for size in ((vocab,), ())))
        groups = [{"params": [model.table], "lr": 2.0}, {"params": [model.shared], "lr": 0.5}]
        batches = []
        for _ in factors:
            ids, targets = torch.randint(vocab, (2, n_rows, length), generator=generator)
            if n_parts > 1:
                n_real = 1 + torch.arange(n_rows) % length  # rows, and so parts, with different numbers of targets
                targets[torch.arange(length) >= n_real[:, None]] = IGNORED
            batches.append((ids, targets))
        cases.append((model, _Sgd(groups), batches, n_parts, clip, _Factors(factors)))
    return cases


def _by_formula(
    model: _Bigrams, optimizer: _Sgd, batches: list, n_parts: int, clip: float, schedule: Callable[[int], float]
) -> Tensor:
    """Take each batch at once. The gradient of a cross-entropy is known: the probabilities, less 1 at what came."""
    weights = [weight.detach().double() for weight in (model.table, model.shared)]
    rates, losses = [group["lr"] for group in optimizer.param_groups], []
    for step, (ids, targets) in enumerate(batches):
        real = targets != IGNORED
        gradients, loss = [torch.zeros_like(weight) for weight in weights], 0.0
        for token, target in zip(ids[real].tolist(), targets[real].tolist(), strict=True):
            probabilities = (weights[0][token] + weights[1]).softmax(dim=0)
            loss -= math.log(probabilities[target]) / real.sum().item()
            probabilities[target] -= 1
            gradients[0][token] += probabilities / real.sum()
            gradients[1] += probabilities / real.sum()
        length = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
        for weight, gradient, rate in zip(weights, gradients, rates, strict=True):
            weight -= rate * schedule(step) * min(1, clip / length) * gradient
        losses.append(loss)
    return torch.tensor(losses)


def real_losses(train: Callable[..., Tensor], n_steps: int = 100) -> list[float]:
    """Return the losses, in bits a character, of a small Transformer that `train` trains on Shakespeare for some seconds."""
    from course_lib.architecture import TransformerConfig, TransformerLM  # imported here: not in lesson 01
    from course_lib.corpora import shakespeare
    from course_lib.devices import single_thread
    from course_lib.pretraining import optim

    text = next(work.text for work in shakespeare.split()[0] if work.name == "hamlet")
    characters = sorted(set(text))
    text_ids = torch.tensor([characters.index(character) for character in text])
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(len(text_ids) - 65, (n_steps, 16, 1), generator=generator)
    rows = text_ids[starts + torch.arange(65)]  # (step, row, position)
    with torch.random.fork_rng(), single_thread():
        torch.manual_seed(0)
        model = TransformerLM(
            TransformerConfig(len(characters), 64, 2, 2, 256, 64, feed_forward="relu2", qk_norm="head")
        )
        (adamw,) = optim.for_model(model, learning_rate=0.005, muon_learning_rate=None, weight_decay=0.0)
        batches = [(batch[:, :-1], batch[:, 1:]) for batch in rows]
        losses = train(model, adamw, batches, 2, 1.0, lambda step: optim.warmup_stable_decay(step, n_steps, warmup=10))
    return (losses / math.log(2)).tolist()


def _trained(train: Callable[..., Tensor]) -> str:
    """Train a Transformer with the learner's own loop, and say what came of it."""
    losses = real_losses(train)
    last = sum(losses[-10:]) / 10
    return (
        f"Your loop has trained a Transformer on Hamlet, in {len(losses)} steps from {losses[0]:.1f} bits a character to "
        f"{last:.1f}" + (f": the mark, {MARK}, is reached." if last < MARK else f". The mark was {MARK}.")
    )


_SIGNATURE = '''\
def train(model, optimizer, batches, n_parts, clip, schedule):
    """Train the model, one step for each batch; return the losses, a tensor (step,), in nats.

    batches: a list of ids and targets, (row, position) each. A batch's loss is the mean over all
    its targets but those of -100, before its step. Its rows go through in n_parts parts, as
    `chunk` makes them, so that only what one part computes is in memory at a time. A gradient
    longer than clip, that of all weights together, is shortened to it. schedule(step), counted
    from 0, is the factor of the learning rate, or rates: each of optimizer.param_groups, a list of
    dictionaries, has its own "lr". model(ids) gives logits (row, position, vocab).
    """
'''
_LOSS = 'F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") / n_targets'
_CLIP = "torch.nn.utils.clip_grad_norm_(model.parameters(), clip)"
_RATE = 'group["lr"] = rate * schedule(step)'


def _loop(
    loss: str = _LOSS,
    zero: str = "optimizer.zero_grad()",
    n_targets: str = "(targets != -100).sum()",
    total: str = "total += loss.item()",
    clip: str = _CLIP,
    rate: str = _RATE,
    part: str = "loss.backward()",
    after: str = "optimizer.step()",
    result: str = "torch.tensor(losses)",
) -> str:
    """Return the cell of exercise 04.5 with its steps as given."""
    of_part = "".join(f"            {line}\n" for line in part.splitlines())
    ending = "".join(f"        {line}\n" for line in (*clip.splitlines(), *after.splitlines()))
    return f"""\
{_SIGNATURE}    rates, losses = [group["lr"] for group in optimizer.param_groups], []
    for step, (ids, targets) in enumerate(batches):
        for group, rate in zip(optimizer.param_groups, rates):
            {rate}
        {zero}
        n_targets, total = {n_targets}, 0.0
        for x, y in zip(ids.chunk(n_parts), targets.chunk(n_parts)):
            loss = {loss}
{of_part}            {total}
{ending}        losses.append(total)
    return {result}
"""


_MEAN = "F.cross_entropy(model(x).flatten(0, 1), y.flatten())"

BUILD_LOOP = Exercise(
    id="04.5",
    kind="build",
    title="The training loop",
    section="The whole loop",
    answer="train",
    results=("losses",),
    inputs=_runs,
    expected=_by_formula,
    tolerance=2e-5,
    reward=_trained,
    stages=(
        Stage(
            "two batches, in one part each: the second loss shows what the first step did",
            "Loss, gradient, step: for each batch once, in this order. What is returned is the loss before the step.",
        ),
        Stage(
            "four batches",
            "From the second step on there are gradients of the step before. Look at what `backward` does with those.",
        ),
        Stage(
            "batches in parts, with different numbers of targets",
            "All parts make one gradient and one step. Each target counts the same, in whichever part it is.",
        ),
        Stage(
            "gradients that are too long",
            "The length is that of all weights' gradients together, as one vector, and of the whole batch.",
        ),
        Stage(
            "a learning rate that changes from step to step",
            "The factor belongs to the rates that the optimizer had at first, and each group has its own.",
        ),
    ),
    stub=f"{_SIGNATURE}    ...\n",
    solution=_loop(),
    why="Six things in one order: set the rates, wipe the gradients, add the parts' shares up, shorten, step, note the loss. "
    "Each has a place that only it can have: wiping comes before the first part, clipping after the last (the length of a sum "
    "is not known before), and the rates come from what they were at first, or the factors would multiply from step to step. "
    "`Trainer._make_step` and `_fill_gradients` in `course_lib/pretraining/trainer.py` are this loop. What they have besides "
    "is sums over processes, a smaller number format for matrix products, and a report.",
    hints=(
        "Write it for one part, without clip and schedule, and check; then add one thing at a time, in the order "
        "of the stages.",
        "A part's share of the loss is the sum over its targets, divided by the number of real targets of the whole batch.",
        "Note each group's rate before the first step. `torch.nn.utils` has a function that clips the norm of gradients.",
    ),
    mistakes=(
        Mistake(
            _loop(after=""),
            "The losses are those of a model that never moves. `backward` fills in the gradient, and the optimizer "
            "steps along it.",
        ),
        Mistake(
            _loop(loss=_LOSS.replace("model(x)", "model(y.clamp(min=0))")),
            "The model is shown the targets themselves. It reads `ids`, and the targets are what it should say.",
        ),
        Mistake(
            _loop(part="(-loss).backward()"),
            "The weights walk up the gradient, so the loss grows: is the sign right?",
        ),
        Mistake(
            _loop(zero="pass"),
            "The gradients of earlier steps are never wiped, so every step goes along the sum of all so far.",
        ),
        Mistake(
            _loop(loss=_MEAN),
            "The parts' means are added up: with n parts, both the loss and the gradient come out about n times too large.",
        ),
        Mistake(
            _loop(loss=f"{_MEAN} / n_parts"),
            "That is the mean of the parts' means. Parts hold different numbers of targets, so a target in a small part counts "
            "for more.",
        ),
        Mistake(
            _loop(loss=f"{_MEAN} * len(x) / len(ids)"),
            "Each part counts by its rows. Rows hold different numbers of targets: count the targets.",
        ),
        Mistake(
            _loop(n_targets="targets.numel()"),
            "The sum is divided by all places, those of −100 too. They have no loss, and do not count.",
        ),
        Mistake(
            _loop(part="optimizer.zero_grad()\nloss.backward()"),
            "The gradient is wiped in every part, so only the last part moves the weights.",
        ),
        Mistake(
            _loop(part=f"loss.backward()\n{_CLIP}\noptimizer.step()\noptimizer.zero_grad()", clip="", after=""),
            "Every part makes a step of its own. The parts are one batch, and it makes one step, behind the loop over parts.",
        ),
        Mistake(
            _loop(part=f"loss.backward()\n{_CLIP}", clip=""),
            "The gradient is shortened in every part, before it is whole. How long it is shows only after the last part.",
        ),
        Mistake(
            _loop(clip=""),
            "The gradient is never shortened, or only after the step that it should have shortened.",
        ),
        Mistake(
            _loop(clip="for weight in model.parameters():\n    torch.nn.utils.clip_grad_norm_([weight], clip)"),
            "Each weight tensor's gradient is shortened by itself. That changes the direction of the step: take the length of "
            "all of them together, and one factor.",
        ),
        Mistake(
            _loop(clip="torch.nn.utils.clip_grad_value_(model.parameters(), clip)"),
            "Each number of the gradient is cut off at ± clip. Wanted is a vector that is as long as clip and points where it "
            "did.",
        ),
        Mistake(
            _loop(
                clip="norm = sum(w.grad.square().sum() for w in model.parameters()).sqrt()\n"
                "for w in model.parameters():\n    w.grad *= clip / norm"
            ),
            "Every gradient is brought to the length clip, short ones too. Only one that is longer is to be changed.",
        ),
        Mistake(
            _loop(rate="pass"),
            "The learning rate stays as it was: the schedule is not asked.",
        ),
        Mistake(
            _loop(rate='group["lr"] *= schedule(step)'),
            "The factors multiply from step to step. Each is a factor of the rate that the optimizer had at *first*.",
        ),
        Mistake(
            _loop(rate='group["lr"] = schedule(step)'),
            "The factor is taken for the rate itself. It multiplies the rate that the group had at first.",
        ),
        Mistake(
            _loop(rate='group["lr"] = rates[0] * schedule(step)'),
            "All groups get the first one's rate. Each has its own.",
        ),
        Mistake(
            _loop(rate='group["lr"] = rate * schedule(max(step - 1, 0))'),
            "The schedule is one step late: it counts from 0, as the steps do.",
        ),
        Mistake(
            _loop(rate='group["lr"] = rate * schedule(min(step + 1, len(batches) - 1))'),
            "The schedule is one step early: it counts from 0, as the steps do.",
        ),
        Mistake(
            _loop(total="total = loss.item()"),
            "What is noted is the last part's share of the loss. The loss of the batch is the sum of all shares.",
        ),
        Mistake(
            _loop(total="total += loss.item() / math.log(2)"),
            "The losses are right, but in bits. They are asked for in nats, as `cross_entropy` gives them.",
        ),
        Mistake(
            _loop(result="torch.tensor(losses[-1])"),
            "That is the last loss alone. All of them are wanted, one a step.",
        ),
        Mistake(
            _loop(result="torch.tensor(losses).mean()"),
            "That is the mean of the losses. All of them are wanted, one a step.",
        ),
        Mistake(
            _loop(result="torch.tensor(losses) / n_parts"),
            "The losses are divided by the number of parts. The shares of one mean add up to it as they are.",
        ),
    ),
)
