"""Exercise 04.3: one step of AdamW."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_ADAMW"]


def _states(generator: torch.Generator) -> list[tuple]:
    """Return weight, gradient, mean and square, all of one shape, the number of the step, and AdamW's five settings."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    cases = []
    for shape, step, *settings in (
        ((3, 5), 1, 0.1, 0.9, 0.95, 1e-8, 0.2),
        ((4, 2), 2, 0.02, 0.8, 0.999, 0.3, 1.5),  # with an ε that is large enough to be seen
        ((7,), 9, 0.05, 0.9, 0.99, 0.01, 0.5),
    ):
        memory = (0.3 * draw(*shape), draw(*shape).square()) if step > 1 else torch.zeros(2, *shape)
        cases.append((draw(*shape), draw(*shape), *memory, step, *settings))
    return cases


def _as_in_torch(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Let PyTorch's own optimizer make the step, from the same memory."""
    weight = weight.clone().requires_grad_()
    optimizer = torch.optim.AdamW([weight], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    optimizer.state[weight] = {"step": torch.tensor(step - 1.0), "exp_avg": mean.clone(), "exp_avg_sq": square.clone()}
    weight.grad = gradient.clone()
    optimizer.step()
    memory = optimizer.state[weight]
    return weight.detach(), memory["exp_avg"], memory["exp_avg_sq"]


_SIGNATURE = '''\
def adamw_step(weight, gradient, mean, square, step, lr, beta1, beta2, eps, weight_decay):
    """One step of AdamW on one weight tensor: weight, mean and square, new and of the same shape.

    mean and square are the running means of the gradient (β₁) and of its square (β₂), both 0
    before the first step. step is the number of this step, counted from 1.
    """
'''
_MEAN = "beta1 * mean + (1 - beta1) * gradient"
_SQUARE = "beta2 * square + (1 - beta2) * gradient**2"
_UPDATE = "whole_mean / (whole_square.sqrt() + eps)"
_WHOLE = ("mean / (1 - beta1**step)", "square / (1 - beta2**step)")
_WEIGHT = "(1 - lr * weight_decay) * weight - lr * update"


def _adamw(
    mean: str = _MEAN,
    square: str = _SQUARE,
    whole: tuple[str, str] = _WHOLE,
    update: str = _UPDATE,
    weight: str = _WEIGHT,
    result: str = "weight, mean, square",
    first: str = "",
) -> str:
    """Return the cell of exercise 04.3 with its steps as given."""
    return f"""\
{_SIGNATURE}{first}    mean = {mean}
    square = {square}
    whole_mean, whole_square = {", ".join(whole)}
    update = {update}
    weight = {weight}
    return {result}
"""


WRITE_ADAMW = Exercise(
    id="04.3",
    kind="write",
    title="One step of AdamW",
    section="Optimizers",
    answer="adamw_step",
    results=("weight", "mean", "square"),
    inputs=_states,
    expected=_as_in_torch,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_adamw(),
    why="Divided by its usual size, a gradient loses its scale: each number moves by about the learning rate if its gradients "
    "agree, and by less if they alternate. Both means begin at 0, so after t steps they hold only 1 − βᵗ of a whole mean, and "
    "are divided by that; what is stored stays undivided. The decay acts on the weight and does not pass through the division, "
    "which would undo it where gradients are large: that is the W in AdamW (arXiv 1711.05101).",
    hints=(
        "Three things in a row: bring both means up to date, make an update of them, move the weight.",
        "The means begin at 0: how much of a whole mean is in them after one step, and after t? Divide by that.",
        "The decay is a move of its own: the weight loses the share lr · weight_decay of what it was, besides the step.",
    ),
    mistakes=(
        Mistake(
            _adamw(whole=("mean", "square")),
            "The means are used as if they were whole. They began at 0 and lack a part, most of all in the first steps.",
        ),
        Mistake(
            _adamw(whole=(_WHOLE[0], "square")),
            "The mean is corrected for its start at 0, but the mean of the squares is not.",
        ),
        Mistake(
            _adamw(whole=("mean", _WHOLE[1])),
            "The mean of the squares is corrected for its start at 0, but the mean is not.",
        ),
        Mistake(
            _adamw(whole=tuple(part.replace("step", "(step - 1)") for part in _WHOLE)),
            "The correction counts steps from 0, so in the first one it divides by 0. `step` is 1 then: one gradient is in.",
        ),
        Mistake(
            _adamw(whole=tuple(part.replace("step", "(step + 1)") for part in _WHOLE)),
            "The correction takes one step too many: `step` counts from 1, and the first step's means hold one gradient.",
        ),
        Mistake(
            _adamw(whole=("mean / (1 - beta1)", "square / (1 - beta2)")),
            "The correction stays that of the first step. After t steps a mean lacks βᵗ of a whole, and in the end nothing.",
        ),
        Mistake(
            _adamw(whole=("mean / (1 - beta1 * step)", "square / (1 - beta2 * step)")),
            "β is multiplied by the number of steps. With each step the share of the start shrinks by the *factor* β: a power.",
        ),
        Mistake(
            _adamw(whole=tuple(part.replace("/", "*") for part in _WHOLE)),
            "The means are multiplied by what they hold of a whole, so they get smaller still. Divide.",
        ),
        Mistake(
            _adamw(whole=("mean / (1 - beta2**step)", "square / (1 - beta1**step)")),
            "The means are right, but each is corrected with the other's β.",
        ),
        Mistake(
            _adamw(result="weight, whole_mean, whole_square"),
            "The weight is right, but the corrected means are kept. In the next step they would be corrected again: store "
            "the means as they are.",
        ),
        Mistake(
            _adamw(update="whole_mean / (whole_square + eps).sqrt()"),
            "ε stands inside the root, where it is far larger: the root of 1e-8 is 1e-4. It is added to the root.",
        ),
        Mistake(
            _adamw(update="whole_mean / whole_square.sqrt()"),
            "ε is missing: where a gradient was always 0, that is 0 divided by 0.",
        ),
        Mistake(
            _adamw(update="whole_mean / (square.sqrt() + eps) * (1 - beta2**step) ** 0.5"),
            "ε is added to the root before the correction, so it shrinks in the first steps. Correct first, then take the "
            "root, then add ε.",
        ),
        Mistake(
            _adamw(update="whole_mean / (whole_square + eps)"),
            "The root is missing: divided by the mean *square*, small gradients make the largest steps.",
        ),
        Mistake(
            _adamw(update="whole_mean"),
            "The division by the usual size is missing: that is gradient descent with momentum.",
        ),
        Mistake(
            _adamw(update="gradient / (whole_square.sqrt() + eps)"),
            "The step follows the last gradient alone: that is RMSProp. Take the running mean in its place.",
        ),
        Mistake(
            _adamw(update="whole_mean / (gradient.abs() + eps)"),
            "The mean is divided by the size of the last gradient alone. Its *usual* size is the root of the mean square.",
        ),
        Mistake(
            _adamw(update="whole_mean.sign()"),
            "Only the sign of the mean is left: that is near to what Lion does. AdamW divides by the gradient's usual size.",
        ),
        Mistake(
            _adamw(first="    gradient = gradient + weight_decay * weight\n", weight="weight - lr * update"),
            "The decay is added to the gradient, and is divided by its size like the rest: that is Adam with an L2 penalty, "
            "not AdamW.",
        ),
        Mistake(
            _adamw(first="    gradient = gradient + weight_decay * weight\n"),
            "The weight decays twice: through the gradient, and by itself. In AdamW it does so by itself only.",
        ),
        Mistake(
            _adamw(weight="(1 - weight_decay) * weight - lr * update"),
            "The decay is not multiplied by the learning rate. It is lr · weight_decay, and fades as the learning rate does.",
        ),
        Mistake(
            _adamw(weight="weight - lr * update"),
            "The step is right, but the weight does not decay.",
        ),
        Mistake(
            _adamw(weight="(1 + lr * weight_decay) * weight - lr * update"),
            "The weight grows by what it should lose: decay makes it smaller.",
        ),
        Mistake(
            _adamw(weight="(1 - lr * weight_decay) * (weight - lr * update)"),
            "Nearly: the decay also takes its share of the new step. It acts on the weight as it was before.",
        ),
        Mistake(
            _adamw(weight="(1 - lr * weight_decay) * weight + lr * update"),
            "The weight moves up the gradient, so the loss grows. Subtract.",
        ),
        Mistake(
            _adamw(weight="weight - lr * update - lr * weight_decay * weight.sign()"),
            "The weight shrinks by the same amount, however large it is: an L1 penalty. It loses a *share* of itself.",
        ),
        Mistake(
            _adamw(weight="(1 - lr * weight_decay) * weight - update"),
            "The update is not multiplied by the learning rate.",
        ),
        Mistake(
            _adamw(mean="(1 - beta1) * mean + beta1 * gradient", square="(1 - beta2) * square + beta2 * gradient**2"),
            "The means forget nearly all at once: β is the share of the old mean that is kept, not that of the new gradient.",
        ),
        Mistake(
            _adamw(mean="beta2 * mean + (1 - beta2) * gradient", square="beta1 * square + (1 - beta1) * gradient**2"),
            "β₁ and β₂ have changed places: β₁ belongs to the mean, and β₂ to the mean of the squares.",
        ),
        Mistake(
            _adamw(mean="beta1 * mean + gradient", square="beta2 * square + gradient**2"),
            "Those are running sums. The new gradient comes in with the share 1 − β, so that the shares make a whole.",
        ),
        Mistake(
            _adamw(square="beta2 * square + (1 - beta2) * mean**2"),
            "That averages the square of the mean. Averaged is the square of the gradient, which does not cancel out.",
        ),
        Mistake(
            _adamw(square="beta2 * square + (1 - beta2) * gradient.abs()"),
            "That averages the size of the gradient, and takes a root of it later. Averaged is its *square*.",
        ),
        Mistake(
            _adamw(square="beta2 * square + (1 - beta2) * (gradient - mean) ** 2"),
            "That averages how far the gradient lies from its mean, a variance, as AdaBelief does. AdamW measures from 0.",
        ),
        Mistake(
            _adamw(result="weight"),
            "The weight is right. The two means are wanted as well, for the next step begins from them.",
        ),
        Mistake(
            _adamw(result="mean, square, weight"),
            "All three are right, but in another order than the docstring's: the weight comes first.",
        ),
    ),
)
