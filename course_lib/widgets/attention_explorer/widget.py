"""AttentionExplorer: every attention head of a running model on the learner's own sentence.

The browser gets one small picture of every head (max-pooled to 32 × 32 at most, so that a thin line survives) and, for the
head being looked at, the whole map. All of them are uint8, weight = byte / 255, and travel as binary: 270 heads on 512
tokens are 270 KB and one map 256 KB, where the maps as JSON text would be half a gigabyte.
"""

from base64 import b64encode
from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from torch import Tensor
from traitlets import Bytes, Dict, Int, List, Tuple, Unicode, observe, validate

from course_lib.architecture import TransformerLM
from course_lib.inference.interpret import Capture, capture_attention
from course_lib.plots import attention_ramp
from course_lib.tokenization import Tokenizer
from course_lib.widgets.attention_explorer.picture import attention_picture
from course_lib.widgets.shared.attention_maps import pool_maps, whole_map
from course_lib.widgets.shared.base import encode_text, module, style_sheet, token_of
from course_lib.widgets.shared.live import LiveWidget, Reply

__all__ = ["MAX_TOKENS", "AttentionExplorer"]

MAX_TOKENS = 512
NEXT_TOKENS = 10


class AttentionExplorer(LiveWidget):
    """Show all attention heads of `model` on `text`, one of them as a matrix or as arcs, and the next token's odds.

    The widget runs the model again when the learner types another text or switches heads off, and so does setting `text`
    or calling `switch` from Python. `text` must have 1 to 512 tokens, else ValueError. The learner's choice can be read
    back: `layer`, `head` (ints, from 0), `off` (a sorted list of (layer, head) pairs).

        explorer = AttentionExplorer(*load("smollm2-135m-instruct"), "The cat sat on the mat")
        explorer.select(layer=5, head=3)
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    text = Unicode().tag(sync=True)
    layer = Int().tag(sync=True)
    head = Int().tag(sync=True)
    off = List(Tuple(Int(), Int())).tag(sync=True)
    result = Dict().tag(sync=True)
    ramps = Bytes(attention_ramp("light").tobytes() + attention_ramp("dark").tobytes()).tag(sync=True)

    def __init__(self, model: TransformerLM, tokenizer: Tokenizer, text: str, layer: int = 0, head: int = 0):
        self._model, self._tokenizer = model, tokenizer
        self._shown: dict = {}  # the traits that `result` belongs to
        self._kept: dict[tuple, Capture] = {}
        self._encode(text)
        self._check(layer, head)
        super().__init__(text=text, layer=layer, head=head)

    def select(self, layer: int, head: int) -> None:
        """Show the head `head` of layer `layer`, both counted from 0."""
        self._check(layer, head)
        self.layer, self.head = layer, head

    def switch(self, layer: int, head: int, on: bool) -> None:
        """Switch one head on or off: what it would write to the residual stream is left out while it is off."""
        others = [pair for pair in self.off if pair != (layer, head)]
        self.off = others if on else [*others, (layer, head)]

    @property
    def summary(self) -> str:
        """What is shown, in one line: '30 layers × 9 heads, 12 tokens', and how many heads are off, if any."""
        config, n_tokens = self._model.config, len(self.result["tokens"])
        parts = [f"{config.n_layers} layers × {config.n_heads} heads", f"{n_tokens} token{'s' * (n_tokens != 1)}"]
        return ", ".join([*parts, f"{len(self.off)} off"] if self.off else parts)

    def __repr__(self) -> str:
        likeliest = max(self.result["next"], key=lambda token: token["now"])
        return f"AttentionExplorer: {self.summary}; layer {self.layer}, head {self.head}; next token {likeliest['piece']!r}"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        weights = self._capture(**self._shown).weights(self.layer, self.head)
        picture = attention_picture(self.result, weights, self.layer, self.head)
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata

    @validate("text")
    def _valid_text(self, proposal) -> str:
        self._encode(proposal["value"])
        return proposal["value"]

    @validate("layer", "head")
    def _valid_index(self, proposal) -> int:
        self._check(**{proposal["trait"].name: proposal["value"]})
        return proposal["value"]

    @validate("off")
    def _valid_off(self, proposal) -> list[tuple[int, int]]:
        for layer, head in proposal["value"]:
            self._check(layer, head)
        return sorted(set(proposal["value"]))

    def _check(self, layer: int = 0, head: int = 0) -> None:
        config = self._model.config
        for name, index, count in (("layer", layer, config.n_layers), ("head", head, config.n_heads)):
            if not 0 <= index < count:
                raise ValueError(f"{name} must be 0 … {count - 1} in this model, not {index}")

    def _encode(self, text: str) -> list[int]:
        return encode_text(self._tokenizer, text, min(MAX_TOKENS, self._model.config.context_length))

    @observe("text", "off")
    def _update(self, _change: dict) -> None:
        """Run the model for a new text or for other heads off; switching all back on needs no new run."""
        wanted = {"text": self.text, "off": self.off}
        if wanted == self._shown:
            return
        with self._or_as_before(self._shown):
            all_on = self._capture(self.text, [], self._progress)
            capture = self._capture(**wanted, on_layer=self._progress)
        self._kept = {key: kept for key, kept in self._kept.items() if kept is all_on or kept is capture}
        thumbnails = pool_maps(capture.maps)
        self._shown = wanted
        self.result = {
            "tokens": [token_of(self._tokenizer, index) for index in self._encode(self.text)],
            "layers": thumbnails.shape[0],
            "heads": thumbnails.shape[1],
            "side": thumbnails.shape[2],
            "thumbnails": thumbnails.numpy().tobytes(),
            "next": self._next_tokens(all_on.logits[-1].softmax(-1), capture.logits[-1].softmax(-1)),
            "off": len(self.off),
        }

    def _capture(
        self, text: str, off: Collection[tuple[int, int]], on_layer: Callable[[int, int], None] | None = None
    ) -> Capture:
        """Return what the model shows on `text` with the heads `off`; run it unless that is kept from the last time."""
        self._take_over()
        key = (text, *off)
        if key not in self._kept:
            capture = capture_attention(self._model, torch.tensor(self._encode(text)), off, on_layer)
            self._kept[key] = replace(capture, logits=capture.logits[-1:].clone())  # all of them are ten times the maps
        return self._kept[key]

    def _give_back(self) -> None:
        self._kept = {}

    def _progress(self, done: int, total: int) -> None:
        self.send({"type": "progress", "done": done, "total": total})

    def _next_tokens(self, before: Tensor, now: Tensor) -> list[dict]:
        """Return the ten likeliest next tokens, likeliest first, with their probabilities now and with all heads on.

        A token that was likely before the heads were switched off stays in the list, so that its fall can be seen.
        """
        shown = torch.maximum(before, now).topk(min(NEXT_TOKENS, len(now))).indices
        shown = shown[now[shown].argsort(descending=True, stable=True)]
        return [
            token_of(self._tokenizer, index) | {"before": before[index].item(), "now": now[index].item()}
            for index in shown.tolist()
        ]

    def _do(self, message: dict) -> Reply | None:
        """Do what the browser asks for: send one head's map, or run the model again."""
        if message["type"] == "map":
            return whole_map(self._capture(**self._shown), message)
        self._encode(message["text"])
        with self.hold_trait_notifications():
            self.text, self.off = message["text"], [tuple(pair) for pair in message["off"]]
        return None
