"""Exercise 04.10: a run that goes on from a checkpoint, and should not show it."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["REPAIR_RESUME"]


def _checkpoints(generator: torch.Generator) -> list[tuple]:
    """Return what was saved, the batches (step, row, feature) of the whole run, and the highest rate."""
    cases = []
    for n_steps, n_made, n_rows, n_features, rate in ((7, 3, 4, 2, 0.9), (5, 2, 6, 3, 0.7), (9, 5, 3, 4, 0.8)):
        batches = torch.randn(n_steps, n_rows, n_features, generator=generator)
        weights, mean = torch.randn(2, n_features, generator=generator)
        cases.append(({"weights": weights, "mean": mean, "step": n_made}, batches, rate))
    return cases


def _number_by_number(saved: dict, batches: Tensor, rate: float) -> Tensor:
    """Make the steps that are left in plain Python numbers, counting down what is left of the rate."""
    weights, mean = saved["weights"].tolist(), saved["mean"].tolist()
    n_left = len(batches) - saved["step"]
    for left in range(n_left, 0, -1):
        rows = batches[-left].tolist()
        errors = [sum(x * w for x, w in zip(row, weights, strict=True)) - 1 for row in rows]
        for i in range(len(weights)):
            gradient = sum(error * row[i] for error, row in zip(errors, rows, strict=True)) / len(rows)
            mean[i] += (gradient - mean[i]) / 10
        weights = [w - rate * left / len(batches) * m for w, m in zip(weights, mean, strict=True)]
    return torch.tensor(weights)


def _going_on(
    steps: str = 'enumerate(batches[saved["step"] :], start=saved["step"])',
    mean: str = 'saved["mean"]',
    share: str = "1 - step / len(batches)",
    result: str = "weights",
) -> str:
    """Return the cell of exercise 04.10 with its steps as given."""
    return f'''\
def go_on(saved, batches, rate):
    """Go on from a checkpoint to the last batch; return the weights of a run that never stopped.

    batches (step, row, feature): one a step, of the whole run. saved: its "weights" (feature,), the
    "mean" of its gradients (feature,), and "step", how many steps it had made. The loss is the
    mean of (x @ weights - 1)² / 2 over rows x; the rate falls evenly, to 0 behind the last step.
    """
    weights, mean = saved["weights"], {mean}
    for step, x in {steps}:
        gradient = x.T @ (x @ weights - 1) / len(x)
        mean = 0.9 * mean + 0.1 * gradient
        weights = weights - rate * ({share}) * mean
    return {result}
'''


REPAIR_RESUME = Exercise(
    id="04.10",
    kind="repair",
    title="Going on from a checkpoint",
    section="The model of this course",
    answer="go_on",
    results=("weights",),
    inputs=_checkpoints,
    expected=_number_by_number,
    stub=_going_on('enumerate(batches[saved["step"] :])'),
    solution=_going_on(),
    why="The batches went on where they had stopped, but the schedule began anew: the rate was back at its "
    "highest, as if no step "
    "had been made. That shows as a jump in the loss, and often is all that shows. The state of a run is "
    "everything that the next "
    "step depends on: weights, the optimizer's running means, the number of the step, for the schedule *and* for the data, and "
    "the state of each random generator that is drawn from. `course_lib/pretraining/checkpoints.py` saves "
    "these, and a test kills "
    "a run and compares the numbers of the one that goes on: they are equal to the last digit.",
    hints=(
        "Go through the three lines of the loop. What in each of them depends on how far the run had come?",
        "What is `step` in the first round after going on, and what would it be in a run that never stopped?",
        "`enumerate` counts from 0 unless it is told where to start.",
    ),
    mistakes=(
        Mistake(
            _going_on(mean='torch.zeros_like(saved["mean"])'),
            "The mean of the gradients begins at 0 again. It was saved, too, for the next step depends on it.",
        ),
        Mistake(
            _going_on('enumerate(batches[: len(batches) - saved["step"]], start=saved["step"])'),
            "The rate goes on, but the data begin anew: the first batches are read a second time, and the last ones never.",
        ),
        Mistake(
            _going_on("enumerate(batches)"),
            "All batches are read again, from the first. Those before the checkpoint have been.",
        ),
        Mistake(
            _going_on('enumerate(batches[: len(batches) - saved["step"]])'),
            'Both begin anew, the data and the rate. The run is at step `saved["step"]`.',
        ),
        Mistake(
            _going_on('enumerate(batches[saved["step"] + 1 :], start=saved["step"] + 1)'),
            "One batch is skipped. If 3 steps have been made, counted from 0 the next one is step 3.",
        ),
        Mistake(
            _going_on('enumerate(batches[saved["step"] - 1 :], start=saved["step"] - 1)'),
            "One batch is read twice. If 3 steps have been made, counted from 0 the next one is step 3.",
        ),
        Mistake(
            _going_on('enumerate(batches[saved["step"] :], start=saved["step"] + 1)'),
            "The rate is one step ahead: it counts from 0, as the batches do.",
        ),
        Mistake(
            _going_on('enumerate(batches[saved["step"] :])', share='1 - step / (len(batches) - saved["step"])'),
            "The rate falls anew, from its highest, over the steps that are left. It goes on falling from where it was.",
        ),
        Mistake(
            _going_on(share="1"),
            "The rate no longer falls. It is to be what it would have been in a run that never stopped.",
        ),
        Mistake(
            _going_on(result="mean"),
            "That is the mean of the gradients. The weights are asked for.",
        ),
        Mistake(
            _going_on(
                'enumerate(batches[saved["step"] :], start=saved["step"])', mean='saved["mean"].clone() * 0', share="1"
            ),
            "The mean of the gradients begins at 0 again, and the rate no longer falls.",
        ),
    ),
)
