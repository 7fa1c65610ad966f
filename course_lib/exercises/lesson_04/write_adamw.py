"""Exercise 04.4: one step of AdamW."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_ADAMW"]


def _states(generator: torch.Generator) -> list[tuple]:
    """Return weight, gradient, mean and square, all of one shape, the number of the step and the learning rate."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    cases = []
    for shape, step, rate in (((3, 5), 1, 0.1), ((4, 2), 2, 0.02), ((7,), 9, 0.05)):
        memory = (0.3 * draw(*shape), draw(*shape).square()) if step > 1 else torch.zeros(2, *shape)
        cases.append((draw(*shape), draw(*shape), *memory, step, rate))
    return cases


def _torch_adamw(weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, rate: float) -> tuple:
    """Let PyTorch's own optimizer make the step, from the same memory."""
    weight = weight.clone().requires_grad_()
    optimizer = torch.optim.AdamW([weight], lr=rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    optimizer.state[weight] = {"step": torch.tensor(step - 1.0), "exp_avg": mean.clone(), "exp_avg_sq": square.clone()}
    weight.grad = gradient.clone()
    optimizer.step()
    memory = optimizer.state[weight]
    return weight.detach(), memory["exp_avg"], memory["exp_avg_sq"]


_SIGNATURE = '''\
def adamw_step(weight, gradient, mean, square, step, rate):
    """One step of AdamW, with β₁ = 0.9, β₂ = 0.95, ε = 1e-8 and weight decay 0.1; return (weight, mean, square), all new.

    mean and square are the running means so far, of the gradient and of its square, 0 at first.
    step is the number of this step, counted from 1. All tensors have one shape.
    """
'''
_MEAN = "0.9 * mean + 0.1 * gradient"
_SQUARE = "0.95 * square + 0.05 * gradient**2"
_DIRECTION = "(mean / (1 - 0.9**step)) / ((square / (1 - 0.95**step)).sqrt() + 1e-8)"
_WEIGHT = "weight - rate * 0.1 * weight - rate * direction"


def _adamw(mean: str = _MEAN, square: str = _SQUARE, direction: str = _DIRECTION, weight: str = _WEIGHT) -> str:
    """Return the cell of exercise 04.4 with its steps as given."""
    return f"""\
{_SIGNATURE}    mean = {mean}
    square = {square}
    direction = {direction}
    weight = {weight}
    return weight, mean, square
"""


WRITE_ADAMW = Exercise(
    id="04.4",
    kind="write",
    title="One step of AdamW",
    section="Optimizers",
    answer="adamw_step",
    results=("weight", "mean", "square"),
    inputs=_states,
    expected=_torch_adamw,
    tolerance=1e-3,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_adamw(),
    why="Divided by the root of its mean square, a gradient loses its size and keeps its sign: each number moves by about the "
    "learning rate if its gradients agree, and by less if they alternate. Both means begin at 0, so after t steps they hold "
    "only 1 − βᵗ of a whole mean, and are divided by that. The decay shrinks the weight itself and does not pass through the "
    "division, which would undo it: that is the W in AdamW (arXiv 1711.05101).",
    hints=(
        "Three things in a row: bring both means up to date, make a direction of them, move the weight.",
        "The means begin at 0: how much of a whole mean is in them after one step? After t? Divide by that.",
        "The decay is a move of its own: rate · 0.1 of the weight, besides the step along the direction.",
    ),
    mistakes=(
        Mistake(
            _adamw(direction="mean / (square.sqrt() + 1e-8)"),
            "The means are used as if they were whole. They began at 0 and lack a part, most of all in the first steps.",
        ),
        Mistake(
            _adamw(direction="(mean / (1 - 0.9**step)) / (square.sqrt() + 1e-8)"),
            "The mean is corrected for its start at 0, but the mean of the squares is not.",
        ),
        Mistake(
            _adamw(direction="mean / ((square / (1 - 0.95**step)).sqrt() + 1e-8)"),
            "The mean of the squares is corrected for its start at 0, but the mean is not.",
        ),
        Mistake(
            _adamw(direction=_DIRECTION.replace("**step", "**(step + 1)")),
            "The correction takes one step too many: `step` counts from 1, and the first step's means hold one gradient.",
        ),
        Mistake(
            _adamw(direction="(mean / (1 - 0.9**step)) / (square / (1 - 0.95**step) + 1e-8)"),
            "The root is missing: the direction is divided by the mean square, so a small gradient makes a huge step.",
        ),
        Mistake(
            _adamw(direction="mean / (1 - 0.9**step)"),
            "The division by the root mean square is missing: that is gradient descent with momentum.",
        ),
        Mistake(
            _adamw(direction=_DIRECTION.replace("(mean /", "(gradient /").replace(" / (1 - 0.9**step)", "")),
            "The step follows the last gradient alone: that is RMSProp. Take the mean in its place.",
        ),
        Mistake(
            "def adamw_step(weight, gradient, mean, square, step, rate):\n    gradient = gradient + 0.1 * weight\n"
            f"    mean = {_MEAN}\n    square = {_SQUARE}\n    return weight - rate * {_DIRECTION}, mean, square\n",
            "The decay is added to the gradient, so it is divided like the rest: that is Adam with an L2 penalty, not AdamW.",
        ),
        Mistake(
            _adamw(weight="weight - 0.1 * weight - rate * direction"),
            "The weight decays by 0.1 of itself in each step. It is rate · 0.1, which fades as the learning rate does.",
        ),
        Mistake(
            _adamw(weight="weight - rate * direction"),
            "The step is right, but the weight does not decay.",
        ),
        Mistake(
            _adamw(weight="weight - rate * 0.1 * weight + rate * direction"),
            "The weight moves up the gradient, so the loss grows. Subtract.",
        ),
        Mistake(
            _adamw(mean="0.1 * mean + 0.9 * gradient", square="0.05 * square + 0.95 * gradient**2"),
            "The means forget at once: β is the share of the old mean that is kept, not of the new gradient.",
        ),
        Mistake(
            _adamw(mean="0.95 * mean + 0.05 * gradient", square="0.9 * square + 0.1 * gradient**2"),
            "β₁ and β₂ have changed places: β₁ = 0.9 belongs to the mean.",
        ),
        Mistake(
            _adamw(square="0.95 * square + 0.05 * mean**2"),
            "That is the square of the mean. Wanted is the mean of the gradient's square.",
        ),
        Mistake(
            _adamw(mean="0.9 * mean + gradient", square="0.95 * square + gradient**2"),
            "Those are running sums: the new gradient needs its share, 1 − β, so that mean and share make a whole.",
        ),
    ),
)
