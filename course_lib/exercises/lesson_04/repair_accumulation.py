"""Exercise 04.5: the gradient of a batch that is too large for the memory."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR_ACCUMULATION"]


def _batches(generator: torch.Generator) -> list[tuple]:
    """Return weight (d_model, vocab), x (example, d_model), targets (example,) and the number of parts; not all are equal."""
    sizes = [(4, 3, 7, 3), (5, 6, 8, 3), (3, 4, 9, 2)]  # 7 in 3 parts are 3, 3 and 1
    return [
        (
            torch.randn(d_model, vocab, generator=generator),
            torch.randn(n, d_model, generator=generator),
            torch.randint(vocab, (n,), generator=generator),
            n_parts,
        )
        for d_model, vocab, n, n_parts in sizes
    ]


def _by_formula(weight: Tensor, x: Tensor, targets: Tensor, n_parts: int) -> Tensor:
    """The gradient of the mean cross-entropy is known: inputs times (probabilities − what came), over the whole batch."""
    came = torch.nn.functional.one_hot(targets, weight.shape[1])
    return x.T @ ((x @ weight).softmax(dim=-1) - came) / len(x)


def _accumulated(loss: str, before: str = "", after: str = "", result: str = "weight.grad") -> str:
    """Return the cell of exercise 04.5 with the loss of a part as given."""
    return f'''\
def gradient_in_parts(weight, x, targets, n_parts):
    """Return the gradient of the mean loss of a whole batch, of which only a part fits into memory at once.

    weight (d_model, vocab), x (example, d_model), targets (example). The logits are x @ weight.
    """
    weight.requires_grad_()
    weight.grad = None
    for x_part, targets_part in zip(x.chunk(n_parts), targets.chunk(n_parts)):
{before}        loss = {loss}
        loss.backward()  # adds to weight.grad
{after}    return {result}
'''


_ONE = "F.cross_entropy(x_part @ weight, targets_part)"

REPAIR_ACCUMULATION = Exercise(
    id="04.5",
    kind="repair",
    title="Gradient accumulation",
    section="Batches that do not fit",
    answer="gradient_in_parts",
    results=("gradient",),
    inputs=_batches,
    expected=_by_formula,
    stub=_accumulated(_ONE),
    solution=_accumulated(f"{_ONE} * len(x_part) / len(x)"),
    why="Gradients add up over the parts, so each part's loss must come in as its share of the whole batch's mean. "
    "Dividing by the number of parts is right only if all parts are equally large; here the last one is smaller. That is no "
    "pedantry: where texts have different lengths the tokens a part differ, and a widely used trainer averaged means of "
    "unequal parts for years (huggingface/transformers issue 34242, 2024).",
    hints=(
        "`backward` adds to what is there. What do n_parts means of the loss add up to?",
        "Print the sizes of the parts: are they all equal?",
        "Each example's loss must count 1 / len(x), whichever part it is in.",
    ),
    mistakes=(
        Mistake(
            _accumulated(f"{_ONE} / n_parts"),
            "Right for parts of equal size. Here the last part is smaller, so its examples count too much.",
        ),
        Mistake(
            _accumulated(f"{_ONE} / len(x)"),
            "Each part's mean is divided by the size of the whole batch: that makes the gradient too small. How many examples "
            "does the mean of a part speak for?",
        ),
        Mistake(
            _accumulated(f"{_ONE} * len(x_part)"),
            "That is the gradient of the sum. It grows with the batch, and the step with it.",
        ),
        Mistake(
            _accumulated(f"{_ONE} / len(x_part)"),
            "The mean of a part is divided by its size a second time.",
        ),
        Mistake(
            _accumulated(_ONE, before="        weight.grad = None\n"),
            "The gradient is wiped in every part, so only the last one is left.",
        ),
        Mistake(
            _accumulated(f"{_ONE} * len(x_part) / len(x)", before="        weight.grad = None\n"),
            "The shares are right, but the gradient is wiped in every part, so only the last share is left.",
        ),
    ),
)
