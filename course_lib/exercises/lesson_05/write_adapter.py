"""Exercise 05.7: an adapter as `peft` stores it, added to the weights that it was trained beside."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_ADAPTER"]

_BEFORE = "base_model.model."


def _models(generator: torch.Generator) -> list[tuple]:
    """Return weights by published names, an adapter for some of them by `peft`'s, and alpha."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    cases = []
    for d_model, width, narrow, d_ff, ranks, alpha in ((7, 9, 4, 11, (2, 3, 5), 6.0), (5, 8, 6, 13, (3, 4, 2), 0.5)):
        weights, adapter = {"model.embed_tokens.weight": draw(23, d_model), "model.norm.weight": draw(d_model)}, {}
        for layer in range(2):
            block = f"model.layers.{layer}"
            weights |= {
                f"{block}.self_attn.q_proj.weight": draw(width, d_model),
                f"{block}.self_attn.v_proj.weight": draw(narrow, d_model),
                f"{block}.mlp.down_proj.weight": draw(d_model, d_ff),
                f"{block}.input_layernorm.weight": draw(d_model),
            }
            adapted = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")[: 3 - layer]  # not all everywhere
            for name, rank in zip(adapted, ranks, strict=False):
                rows, columns = weights[f"{block}.{name}.weight"].shape
                adapter |= {
                    f"{_BEFORE}{block}.{name}.lora_A.weight": draw(rank, columns),
                    f"{_BEFORE}{block}.{name}.lora_B.weight": draw(rows, rank),
                }
        cases.append((weights, adapter, alpha))
    return cases


def _by_outer_products(weights: dict[str, Tensor], adapter: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Add, for each weight that the adapter has matrices for, one outer product after the other."""
    whole = {}
    for name, weight in weights.items():
        place = _BEFORE + name.removesuffix(".weight")
        sum_of_products = weight.double()
        if f"{place}.lora_A.weight" in adapter:
            a, b = (adapter[f"{place}.lora_{letter}.weight"].double() for letter in "AB")
            for row, column in zip(a, b.unbind(1), strict=True):
                sum_of_products = sum_of_products + alpha / len(a) * torch.outer(column, row)
        whole[name] = sum_of_products.float()
    return whole


_SIGNATURE = '''\
def merged(weights, adapter, alpha):
    """Add an adapter to the weights that it was trained beside: a new dictionary of all weights.

    weights: name -> tensor, such as "model.layers.0.self_attn.q_proj.weight" (out, in).
    adapter: peft's name -> tensor, for some of them, such as
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" (rank, in) and
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight" (out, rank).
    The rank may differ from one weight to the next; alpha is the same for all.
    """
'''
_PLACE = '"base_model.model." + name.removesuffix(".weight")'
_A, _B = 'adapter[place + ".lora_A.weight"]', 'adapter[place + ".lora_B.weight"]'
_SUM = "weight + alpha / len(a) * b @ a"


def _merged(
    place: str = _PLACE,
    a: str = _A,
    b: str = _B,
    summed: str = _SUM,
    start: str = "dict(weights)",
    condition: str = 'place + ".lora_A.weight" in adapter',
    result: str = "whole",
    before: str = "",
) -> str:
    """Return the cell of exercise 05.7 with its steps as given."""
    return f"""\
{_SIGNATURE}    whole = {start}
{before}    for name, weight in weights.items():
        place = {place}
        if {condition}:
            a, b = {a}, {b}
            whole[name] = {summed}
    return {result}
"""


WRITE_ADAPTER = Exercise(
    id="05.7",
    kind="write",
    title="Load an adapter that peft trained",
    section="LoRA",
    answer="merged",
    results=("merged",),
    inputs=_models,
    expected=_by_outer_products,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_merged(),
    why="An adapter's file holds nothing but the small matrices: two for each weight that was adapted, under the weight's own "
    "name with a prefix in front and `lora_A` or `lora_B` behind it. The weight that they belong to is told by the name, the "
    "rank by the shape, and alpha by the `adapter_config.json` beside the file. Once B A is added, nothing is left of LoRA: "
    "the model is a plain one, as fast as before. `course_lib.finetuning.load_adapter` keeps them apart instead, so that they "
    "can be trained further, and taken out again.",
    hints=(
        "Go over the weights. From a weight's name, how do you get the names of its A and B in the adapter?",
        "Most weights have none: they go into the result as they are. For the others, how large is the rank of this pair?",
        'Strip ".weight" from the name, put the prefix in front, and look for ".lora_A.weight" behind it. Then W + α/r · B A.',
    ),
    mistakes=(
        Mistake(
            _merged(summed="weight + alpha * b @ a"),
            "The correction is not divided by the rank: the scale is alpha over the rank.",
        ),
        Mistake(
            _merged(summed="weight + b @ a / len(a)"),
            "Alpha is left out: the scale is alpha over the rank.",
        ),
        Mistake(_merged(summed="weight + b @ a"), "The correction is not scaled: it is times alpha over the rank."),
        Mistake(
            _merged(summed="weight + alpha / a.shape[1] * b @ a"),
            "The scale divides by the width of the input. The rank is the number of rows of A.",
        ),
        Mistake(
            _merged(summed="weight + alpha / len(b) * b @ a"),
            "The scale divides by the rows of B, which is the width of the output. The rank is the number of rows of A.",
        ),
        Mistake(
            _merged(summed="weight + alpha / len(a) ** 0.5 * b @ a"),
            "The scale divides by the square root of the rank, as rsLoRA does. `peft`'s plain LoRA divides by the rank.",
        ),
        Mistake(
            _merged(summed="alpha / len(a) * b @ a"),
            "The weight itself is lost: what is stored there is the correction alone. Add it to the weight.",
        ),
        Mistake(
            _merged(summed="weight - alpha / len(a) * b @ a"),
            "The correction is subtracted. That takes an adapter out again, where it had been merged.",
        ),
        Mistake(
            _merged(start="{}"),
            "Weights that the adapter does not touch are missing: embeddings, norms, and the matrices that were not adapted. "
            "The result holds every weight.",
        ),
        Mistake(
            _merged(start="weights"),
            "It writes into `weights` itself: the base model is lost, and the second adapter is added to the first. Make a new "
            "dictionary.",
        ),
        Mistake(
            _merged(place="name.removesuffix('.weight')"),
            'No weight was found in the adapter: its names have "base_model.model." in front, so nothing was changed.',
        ),
        Mistake(
            _merged(condition='place + ".lora_A.weight" in adapter and "self_attn" in name'),
            "Only the attention's matrices were changed. Which ones an adapter changes is told by its names, not known "
            "beforehand.",
        ),
        Mistake(
            _merged(condition='place + ".lora_A.weight" in adapter and "layers.0." in name'),
            "Only layer 0 was changed. Every layer has small matrices of its own.",
        ),
        Mistake(
            _merged(summed="weight + alpha / rank * b @ a", before="    rank = len(next(iter(adapter.values())))\n"),
            "The rank of the first pair was taken for all of them. Each pair has its own: the number of rows of its A.",
        ),
        Mistake(
            _merged(condition='place + ".lora_A.weight" in adapter and "q_proj" in name'),
            "Only the queries' matrices were changed. Go by the names in the adapter.",
        ),
        Mistake(
            _merged(result="whole | adapter"),
            "The small matrices are in the result as well. Once they are added to the weights, nothing is left of them.",
        ),
    ),
)
