"""A style as a direction in the residual stream, and a slider along it: nothing is trained, and no word of a prompt changes.

The model reads texts in a style and in its opposite. What its residual stream is in the one more than in the other, in the mean
at one layer, is a vector; added to that layer's stream while the model writes, it turns the text towards the style (arXiv
2308.10248; with means over many texts 2312.06681).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.inference.blocked import twin
from course_lib.inference.generation import known_ids
from course_lib.pretraining.evaluation import as_in_use

__all__ = ["mean_stream", "steered", "style_vector"]


def style_vector(
    model: TransformerLM, towards: Sequence[Sequence[int]], away: Sequence[Sequence[int]], layer: int
) -> Tensor:
    """Return the mean stream of the texts `towards` less that of the texts `away` (ids) behind `layer`: (d_model,).

    Errors as of `mean_stream`.
    """
    return mean_stream(model, towards, layer) - mean_stream(model, away, layer)


def mean_stream(model: TransformerLM, texts: Sequence[Sequence[int]], layer: int) -> Tensor:
    """Return the mean residual stream (d_model,), in float32, behind `layer` over the tokens of `texts` (ids).

    A text counts as much as any other, however long it is. Its first token does not count: its stream is many times as long
    as all others', whatever it says (attention sinks, arXiv 2309.17453). ValueError for no text, one of fewer than two tokens
    or more than the context has, an id or a `layer` that the model has not.
    """
    _check_layer(model, layer)
    if not texts:
        raise ValueError("there is no text to take the mean stream of")
    context, streams = model.config.context_length, []
    reader = twin(model)
    reader.blocks[layer].register_forward_hook(
        lambda _block, _args, stream: streams.append(stream[0, 1:].float().mean(0))
    )
    with as_in_use(reader):
        for number, text in enumerate(texts):
            if not 2 <= len(text) <= context:
                raise ValueError(f"text {number} must have 2 to {context} tokens, not {len(text)}")
            ids = known_ids(model, f"text {number}", text)
            reader.residual(torch.tensor([ids], device=model.device))
    return torch.stack(streams).mean(dim=0)


def steered(model: TransformerLM, vector: Tensor, layer: int, strength: float) -> TransformerLM:
    """Return a model with the weights of `model` that adds `strength` times `vector` (d_model,) to the stream behind `layer`.

    It adds it at every position, of the prompt too. `model` is as before, so nothing has to be undone, and as many sliders as
    one likes may be in use at once; steer a steered model, and both vectors are added. ValueError for a vector of another
    size, where the product is not finite in the model's dtype, and for a `layer` that the model has not.
    """
    _check_layer(model, layer)
    check("strength", strength, float, -math.inf)
    if vector.shape != (model.config.d_model,):
        raise ValueError(f"vector must have the shape ({model.config.d_model},), not {tuple(vector.shape)}")
    step = (strength * vector).detach().to(model.device, model.dtype)
    if not step.isfinite().all():
        raise ValueError(f"{strength} times vector is not finite in {step.dtype}")
    pushed = twin(model)
    pushed.blocks[layer].register_forward_hook(lambda _block, _args, stream: stream + step)
    return pushed


def _check_layer(model: TransformerLM, layer: int) -> None:
    check("layer", layer, int, 0, len(model.blocks) - 1)
