"""Exercise 05.6: a linear map with a small correction beside it."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_LORA"]


def _maps(generator: torch.Generator) -> list[tuple]:
    """Return x (batch, position, in), weight (out, in), a (rank, in), b (out, rank) and alpha."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return [
        (draw(batch, position, n_in), draw(n_out, n_in), draw(rank, n_in), draw(n_out, rank), alpha)
        for batch, position, n_in, n_out, rank, alpha in (
            (2, 3, 7, 5, 4, 8.0),
            (1, 6, 5, 8, 2, 3.0),
            (4, 2, 9, 6, 3, 0.5),
        )
    ]


def _number_by_number(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """Add the correction to each entry of the weight, in plain numbers, and apply that."""
    whole = weight.double().clone()
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            update = sum(b[row, r].item() * a[r, column].item() for r in range(len(a)))
            whole[row, column] += alpha * update / len(a)
    return torch.einsum("...i,oi->...o", x.double(), whole).float()


_SIGNATURE = '''\
def lora(x, weight, a, b, alpha):
    """A frozen linear map and its low-rank correction: (batch, position, out).

    x (batch, position, in), weight (out, in), a (rank, in), b (out, rank). The correction is
    scaled by alpha over the rank.
    """
'''
_OUT, _NARROW, _WIDE, _SCALE = "x @ weight.T", "x @ a.T", "narrow @ b.T", "alpha / a.shape[0]"


def _lora(
    out: str = _OUT, narrow: str = _NARROW, wide: str = _WIDE, scale: str = _SCALE, result: str = "out + scale * wide"
) -> str:
    """Return the cell of exercise 05.6 with its steps as given."""
    return f"""\
{_SIGNATURE}    out = {out}
    narrow = {narrow}  # (batch, position, rank)
    wide = {wide}
    scale = {scale}
    return {result}
"""


WRITE_LORA = Exercise(
    id="05.6",
    kind="write",
    title="A linear map with a small correction",
    section="LoRA",
    answer="lora",
    results=("out",),
    inputs=_maps,
    expected=_number_by_number,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_lora(),
    why="The input goes through a bottleneck of `rank` numbers and out again, and the result is added to what the frozen map "
    "says. Written so, B A (out, in) is never formed: for a token that takes rank · (in + out) multiplications instead of "
    "in · out. Formed once and added to the weight, it costs nothing afterwards: that is merging. The scale α / rank keeps "
    "the correction about as large when the rank is changed, so that the learning rate need not be searched anew "
    "(arXiv 2106.09685, section 4.1).",
    hints=(
        "Two roads lead from x to the output, and their results are added. What has the shape (batch, position, rank)?",
        "A maps down, from in to rank numbers; B maps up, from rank to out. PyTorch keeps a map's matrix as (out, in).",
        "One road is x @ weight.T. The other is x @ a.T and then what b does, times alpha over the rank.",
    ),
    mistakes=(
        Mistake(
            _lora(result="out + alpha * wide"),
            "The correction is scaled by alpha alone. Divided by the rank, it stays about as large whatever the rank is.",
        ),
        Mistake(
            _lora(scale="alpha / a.shape[0] ** 0.5"),
            "The correction is divided by the square root of the rank. That is a variant (rsLoRA, arXiv 2312.03732); LoRA, and "
            "what `peft` does unless told otherwise, divides by the rank.",
        ),
        Mistake(_lora(result="out + wide"), "The correction is not scaled. It is multiplied by alpha over the rank."),
        Mistake(
            _lora(scale="1 / a.shape[0]"), "The correction is divided by the rank, and alpha is left out of the scale."
        ),
        Mistake(
            _lora(scale="a.shape[0] / alpha"),
            "The scale is the wrong way round: alpha over the rank.",
        ),
        Mistake(
            _lora(scale="alpha * a.shape[0]"),
            "The scale multiplies by the rank, so the correction grows with it. Divide.",
        ),
        Mistake(
            _lora(scale="alpha / a.shape[1]"),
            "The scale divides by the width of the input. The rank is the number of rows of a.",
        ),
        Mistake(
            _lora(scale="alpha / b.shape[0]"),
            "The scale divides by the width of the output. The rank is the number of columns of b.",
        ),
        Mistake(
            _lora(result="scale * wide"),
            "That is the correction alone. What the frozen map says is still there: it is added to.",
        ),
        Mistake(
            _lora(result="out"),
            "That is the frozen map alone. Add the correction.",
        ),
        Mistake(
            _lora(result="scale * (out + wide)"),
            "The scale acts on the frozen map as well. Only the correction is scaled.",
        ),
        Mistake(
            _lora(result="out - scale * wide"),
            "The correction is subtracted. It is added; training has given it its sign.",
        ),
        Mistake(
            _lora(result="out * (1 + scale * wide)"),
            "The correction multiplies. It is added to what the frozen map says.",
        ),
        Mistake(
            _lora(narrow="torch.relu(x @ a.T)"),
            "There is a non-linearity in the bottleneck. Without one, B A is a matrix that can be added to the weight; an "
            "adapter with one cannot be merged (arXiv 1902.00751 has such).",
        ),
        Mistake(
            _lora(wide="narrow @ b.T / a.shape[0]"),
            "Divided by the rank twice: once in the correction and once in the scale.",
        ),
    ),
)
