"""LoraView: what an adapter adds to a weight, how much of it each rank keeps, and how the model answers with and without it."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Literal

from torch import Tensor
from traitlets import Bytes

from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.devices import single_thread
from course_lib.finetuning.lora import at_scale
from course_lib.inference import stream_reply, stream_text
from course_lib.plots import diverging_ramp
from course_lib.tokenization import Tokenizer
from course_lib.widgets.lora_view.matrices import Adapted, adapted_matrices, pool, trained_and_frozen
from course_lib.widgets.lora_view.picture import lora_picture
from course_lib.widgets.shared.base import encode_text, module, style_sheet
from course_lib.widgets.shared.settings import SettingsWidget

__all__ = ["NEW_TOKENS", "SIDE", "LoraView"]

NEW_TOKENS = 40
SIDE = 96  # cells at most along a side of a drawn matrix


class LoraView(SettingsWidget):
    """Show the adapter of `model`: matrix by matrix, and in the model's answers to `prompt`.

    `model` must have an adapter, as `add_lora` or `load_adapter` gives it one, else ValueError. The answers are greedy, of at
    most 40 tokens: the reply to `prompt` as a user's message if the tokenizer has a chat template, else what follows it. The
    model itself stays as it is. `settings` can be moved in the widget and by `set`:

    - `layer` and `matrix`: what is looked at; at first the matrix that the adapter changes most
    - `rank`, 1 … r: how many singular directions of the update are kept in the picture, not in the answers
    - `scale`, 0 … 2: how many times the update counts in the second answer; the first one is the base model's
    - `prompt`

        view = LoraView(model, tokenizer, "What is the capital of Italy?")
        view.set(layer=3, matrix="v_proj", rank=2, scale=0.5)
        view.kept, view.answers
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    ramps = Bytes(diverging_ramp("light").tobytes() + diverging_ramp("dark").tobytes()).tag(sync=True)

    def __init__(self, model: TransformerLM, tokenizer: Tokenizer, prompt: str):
        self._model, self._tokenizer = model, tokenizer
        self._written: dict[tuple[str, float], str] = {}  # answers, by prompt and scale
        matrices = adapted_matrices(model)
        layer, matrix = max(matrices, key=lambda place: matrices[place].in_float32().change)
        super().__init__(layer=layer, matrix=matrix, rank=len(matrices[layer, matrix].a), scale=1.0, prompt=prompt)

    @property
    def answers(self) -> tuple[str, str]:
        """The base model's answer, and the one at `scale`."""
        return tuple(self.result["answers"])

    @property
    def kept(self) -> float | None:
        """The share of the update's squared Frobenius norm that `rank` directions hold; None where the update is zero."""
        return self.result["kept"]

    def answer(self, prompt: str) -> None:
        """Answer `prompt` with the model as it is now, which may have been trained further since it answered last."""
        self._written = {}
        self.set(prompt=prompt)

    def __repr__(self) -> str:
        n_layers, matrices, r = self.result["layers"], ", ".join(self.result["matrices"]), self.result["r"]
        trained, frozen = self.result["model"]
        return f"LoraView: rank {r} in {matrices} of {n_layers} layers, {100 * trained / frozen:.2g} % of the weights"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return data | {"image/png": b64encode(lora_picture(self.settings, self.result)).decode("ascii")}, metadata

    # ---------------------------------------------------------------- what follows from the settings

    def _compute(self, settings: dict) -> dict:
        layer, matrix, rank, scale, prompt = (settings[name] for name in ("layer", "matrix", "rank", "scale", "prompt"))
        adapted = adapted_matrices(self._model)
        layers, matrices = ({place[i]: None for place in adapted} for i in (0, 1))  # in order, each once
        check("layer", layer, int, 0, len(layers) - 1)
        check("matrix", matrix, Literal[tuple(matrices)])
        chosen = adapted[layer, matrix].in_float32()
        check("rank", rank, int, 1, len(chosen.a))
        check("scale", scale, float, 0, 2)
        check("prompt", prompt, str)
        encode_text(self._tokenizer, prompt, self._model.config.context_length - 1)  # for what it says of a bad one
        return {
            "layers": len(layers),
            "matrices": list(matrices),
            "model": trained_and_frozen(self._model),
            "answers": self._answers_to(prompt, scale),
            **_seen(chosen, rank),
        }

    def _answers_to(self, prompt: str, scale: float) -> list[str]:
        """Return the base model's answer and the one at `scale`, which stream to the browser unless they are known."""
        answers = []
        for times in (0.0, scale):
            if (prompt, times) not in self._written:
                with at_scale(self._model, times), single_thread():  # a second one brings nothing for a token at a time
                    text = ""
                    for n, piece in enumerate(self._stream(prompt)):
                        text += piece
                        progress = {"done": n + 1, "total": NEW_TOKENS, "unit": "piece", "answers": [*answers, text]}
                        self.send({"type": "progress"} | progress)
                self._written[prompt, times] = text
            answers.append(self._written[prompt, times])
        return answers

    def _stream(self, prompt: str) -> Iterator[str]:
        if self._tokenizer.chat_template is None:
            return stream_text(self._model, self._tokenizer, prompt, NEW_TOKENS)
        messages = [{"role": "user", "content": prompt}]
        return stream_reply(self._model, self._tokenizer, messages, NEW_TOKENS)

    def _do(self, message: dict) -> None:
        """Do what the browser asks for: answer a prompt, or change settings."""
        if message["type"] == "run":
            return self.answer(message["text"])
        return super()._do(message)


def _seen(adapted: Adapted, rank: int) -> dict:
    """Return what is shown of a matrix: float32 maps of means of square blocks, and what the first `rank` directions keep."""
    if not adapted.update.isfinite().all():
        raise ValueError("the update holds numbers that are not finite: the training has diverged")
    u, values, v = adapted.svd()
    squares = values.square()
    block = -(-max(adapted.frozen.shape) // SIDE)
    maps = {
        "frozen": adapted.frozen,
        "update": adapted.update,
        "sum": adapted.frozen + adapted.update,
        "approximation": u[:, :rank] * values[:rank] @ v[:rank],
    }
    pooled = {name: pool(matrix, block, block) for name, matrix in maps.items()}
    pooled |= {"a": pool(adapted.a, 1, block), "b": pool(adapted.b, block, 1)}
    weights = max(_largest(pooled["frozen"]), _largest(pooled["sum"]))
    limits = {name: _largest(pooled[name]) for name in ("update", "a", "b")}
    return {
        "r": len(adapted.a),
        "alpha": adapted.scale * len(adapted.a),
        "shape": list(adapted.frozen.shape),
        "block": block,
        "cells": list(pooled["frozen"].shape),
        "maps": {name: matrix.contiguous().numpy().tobytes() for name, matrix in pooled.items()},
        "limits": limits | {"frozen": weights, "sum": weights, "approximation": limits["update"]},
        "change": adapted.change,
        "singular": values.tolist(),
        "kept": (squares[:rank].sum() / squares.sum()).item() if squares.any() else None,
    }


def _largest(matrix: Tensor) -> float:
    return matrix.abs().max().item()
