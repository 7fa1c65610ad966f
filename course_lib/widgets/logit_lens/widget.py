"""LogitLens: what the residual stream of a running model would predict after every layer, at every position.

The browser gets the likeliest token of every layer and position with its probability. The ten likeliest of one position, and
its way through the layers, are sent when that position is first looked at.
"""

from base64 import b64encode

import torch
from traitlets import Dict, Int, TraitError, Unicode, observe, validate

from course_lib.architecture import TransformerLM
from course_lib.inference.interpret import logit_lens
from course_lib.tokenization import Tokenizer
from course_lib.widgets.logit_lens.picture import lens_picture
from course_lib.widgets.shared.base import encode_text, module, style_sheet, token_of
from course_lib.widgets.shared.live import LiveWidget, Reply

__all__ = ["MAX_TOKENS", "LogitLens"]

MAX_TOKENS = 128


class LogitLens(LiveWidget):
    """Show the likeliest next token after every layer of `model` on `text`, and one position's way through the layers.

    The widget runs the model again when the learner types another text, and so does setting `text`, which must have 1 to
    128 tokens, else ValueError. `pinned` is the position whose way is kept in view, or None: it can be read and set.

        lens = LogitLens(*load("smollm2-135m-instruct"), "The capital of France is Paris, and the capital of Italy is")
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    text = Unicode().tag(sync=True)
    pinned = Int(None, allow_none=True).tag(sync=True)
    result = Dict().tag(sync=True)

    def __init__(self, model: TransformerLM, tokenizer: Tokenizer, text: str):
        self._model, self._tokenizer = model, tokenizer
        self._shown: dict = {}  # the traits that `result` belongs to
        self._encode(text)
        super().__init__(text=text)

    def __repr__(self) -> str:
        n_tokens = len(self.result["tokens"])
        predicted = token_of(self._tokenizer, self._lens.answer[-1].item())["piece"]
        return (
            f"LogitLens: {self.result['layers']} layers, {n_tokens} token{'s' * (n_tokens != 1)}; "
            f"the last one predicts {predicted!r}"
        )

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        position = len(self.result["tokens"]) - 1 if self.pinned is None else self.pinned
        picture = lens_picture(self._lens, self.result, position)
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata

    def _encode(self, text: str) -> list[int]:
        return encode_text(self._tokenizer, text, min(MAX_TOKENS, self._model.config.context_length))

    @validate("text")
    def _valid_text(self, proposal) -> str:
        self._encode(proposal["value"])
        return proposal["value"]

    @validate("pinned")
    def _valid_pinned(self, proposal) -> int | None:
        position = proposal["value"]
        if position is None:
            return None
        last = len(self.result["tokens"]) - 1
        if not 0 <= position <= last:
            raise TraitError(f"pinned must be None or a position 0 … {last} of this text, not {position}")
        return position

    @observe("text")
    def _update(self, _change: dict) -> None:
        def progress(done: int, total: int) -> None:
            self.send({"type": "progress", "done": done - 1, "total": total - 1})  # the embedding is no layer

        if self._shown == {"text": self.text}:
            return
        with self._or_as_before(self._shown):
            ids = self._encode(self.text)
            self._lens = logit_lens(self._model, torch.tensor(ids), on_layer=progress)
        self._shown, self.pinned = {"text": self.text}, None
        likeliest = self._lens.top_ids[..., 0]
        self.result = {
            "tokens": [token_of(self._tokenizer, index) for index in ids],
            "layers": len(self._model.blocks),
            "ids": likeliest.int().numpy().tobytes(),  # (depth, position), as are the probabilities
            "probabilities": self._lens.top_probabilities[..., 0].contiguous().numpy().tobytes(),
            "vocabulary": self._vocabulary(likeliest),
        }

    def _vocabulary(self, ids: torch.Tensor) -> dict[str, dict]:
        return {str(index): token_of(self._tokenizer, index) for index in ids.unique().tolist()}

    def _do(self, message: dict) -> Reply | None:
        """Do what the browser asks for: send one position in full, or show another text."""
        if message["type"] == "column":
            return self._column(min(message["position"], len(self._lens.answer) - 1))  # the text may be shorter by now
        self.text = message["text"]
        return None

    def _column(self, position: int) -> Reply:
        """Return the likeliest tokens of one position at every depth, and how the two tokens that matter rise there.

        The second buffer is float32 (5, depth): the entropy in bits, the whole model's answer's probability and rank, and
        those of the token that comes next in the text, which are 0 at the last position.
        """
        lens = self._lens
        ids, probabilities = lens.top_ids[:, position], lens.top_probabilities[:, position]
        is_last = position == len(lens.answer) - 1
        curves = [lens.entropy[:, position], lens.answer_probability[:, position], lens.answer_rank[:, position]]
        for actual in (lens.actual_probability, lens.actual_rank):
            curves.append(torch.zeros(len(ids)) if is_last else actual[:, position])
        buffers = [ids.int(), probabilities, torch.stack([curve.float() for curve in curves])]
        message = {"type": "column", "position": position, "vocabulary": self._vocabulary(ids)}
        return message, [buffer.contiguous().numpy().tobytes() for buffer in buffers]
