"""CheckpointScrubber: one model at every point of its training: what it writes, what surprises it, where its heads look."""

from base64 import b64encode
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from traitlets import Bytes, Dict, Int, List, Unicode, observe, validate

from course_lib.inference.interpret import Capture, capture_attention, induction_scores
from course_lib.plots import attention_ramp
from course_lib.pretraining import load_model, read_history
from course_lib.pretraining.checkpoints import read_state
from course_lib.tokenization import Tokenizer
from course_lib.widgets.checkpoint_scrubber.picture import scrubber_picture
from course_lib.widgets.shared.attention_maps import pool_maps, whole_map
from course_lib.widgets.shared.base import encode_text, module, style_sheet, token_of
from course_lib.widgets.shared.curves import CURVES, curve_blocks, divergence, write
from course_lib.widgets.shared.live import LiveWidget, Reply

__all__ = ["CheckpointScrubber"]

MAX_TOKENS = 128


class CheckpointScrubber(LiveWidget):
    """Move through `checkpoints`, as `pretraining.list_checkpoints(folder)` lists them, and see what each model does.

    Of the checkpoint looked at, the widget shows the loss on every token of `text` (1 to 128 tokens, else ValueError), the
    attention maps of all heads on it, and what the model writes after `prompt`, always with the same seed. Over all steps
    it draws the losses, and every head's induction score (`interpret.induction_scores`): where that rises, induction heads
    form. What was chosen can be read back: `at` (index of the checkpoint), `layer`, `head`. It begins with the last
    checkpoint and its strongest induction head.

        scrubber = CheckpointScrubber(list_checkpoints("runs/shakespeare"), tokenizer, "To be, or not to be, that is")
        scrubber.at = 0
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    text = Unicode().tag(sync=True)
    at = Int().tag(sync=True)
    layer = Int().tag(sync=True)
    head = Int().tag(sync=True)
    result = Dict().tag(sync=True)
    steps = List(Int()).tag(sync=True)
    curves = Bytes().tag(sync=True)  # float32 (len(CURVES), block), of the whole run
    scores = Bytes().tag(sync=True)  # float32 (checkpoint, layer, head)
    trouble = Unicode().tag(sync=True)  # of a run that has diverged
    prompt = Unicode().tag(sync=True)
    ramps = Bytes(attention_ramp("light").tobytes() + attention_ramp("dark").tobytes()).tag(sync=True)

    def __init__(self, checkpoints: Sequence[Path], tokenizer: Tokenizer, text: str, prompt: str = "The king"):
        if not checkpoints:
            raise ValueError("there are no checkpoints: give the Trainer a folder and it saves some")
        self._paths, self._tokenizer = [Path(path) for path in checkpoints], tokenizer
        self._shown: dict = {}  # the traits that `result` belongs to
        self._seen: dict[int, tuple[Capture, dict]] = {}  # of the present text, by checkpoint
        self._samples: dict[int, str] = {}
        scores = []
        for path in self._paths:
            model = load_model(path)
            scores.append(induction_scores(model))
        self._config, self._scores = model.config, torch.stack(scores)
        self._encode(text)
        losses = [vars(report) for report in read_history(self._paths[-1])]
        names = ("loss", "validation_loss", "learning_rate")
        columns = {name: [np.nan if row[name] is None else row[name] for row in losses] for name in names}
        self._curves = curve_blocks(columns)
        layer, head = divmod(int(self._scores[-1].argmax()), self._config.n_heads)
        super().__init__(
            steps=[read_state(path)["step"] for path in self._paths],
            curves=self._curves.tobytes(),
            trouble=divergence(columns["loss"]),
            scores=self._scores.numpy().tobytes(),
            prompt=prompt,
            layer=layer,
            head=head,
        )
        with self.hold_trait_notifications():
            self.text, self.at = text, len(self._paths) - 1

    @property
    def losses(self) -> list[float]:
        """The loss on each token of the text but the first, in nats, of the checkpoint looked at; NaN if it has diverged."""
        return [np.nan if token["loss"] is None else token["loss"] for token in self.result["tokens"][1:]]

    @property
    def induction(self) -> np.ndarray:
        """The induction scores, 0 to 1, of all checkpoints: float32 (checkpoint, layer, head)."""
        return self._scores.numpy()

    def __repr__(self) -> str:
        n, n_tokens = len(self.steps), len(self.result["tokens"])
        steps = f"steps {self.steps[0]:,} to {self.steps[-1]:,}"
        shown = f"CheckpointScrubber: {n} checkpoint{'s' * (n != 1)}, {steps}, {n_tokens} token{'s' * (n_tokens != 1)}"
        return f"{shown}. {self.trouble}" if self.trouble else shown

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = scrubber_picture(
            dict(zip(CURVES, self._curves, strict=True)),
            self.steps,
            self.induction,
            (self.layer, self.head),
            self._capture.weights(self.layer, self.head),
            [token["chip"] for token in self.result["tokens"]],
            self.trouble,
        )
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata

    @validate("text")
    def _valid_text(self, proposal) -> str:
        self._encode(proposal["value"])
        return proposal["value"]

    @validate("at", "layer", "head")
    def _valid_index(self, proposal) -> int:
        name, index = proposal["trait"].name, proposal["value"]
        count = {"at": len(self._paths), "layer": self._config.n_layers, "head": self._config.n_heads}[name]
        if not 0 <= index < count:
            raise ValueError(f"{name} must be 0 … {count - 1} here, not {index}")
        return index

    def _encode(self, text: str) -> list[int]:
        return encode_text(self._tokenizer, text, min(MAX_TOKENS, self._config.context_length))

    @observe("text", "at")
    def _update(self, _change) -> None:
        wanted = {"text": self.text, "at": self.at}
        if not self.text or wanted == self._shown:  # not set yet, or set back
            return
        seen = self._seen if self.text == self._shown.get("text") else {}
        with self._or_as_before(self._shown):
            if self.at not in seen:
                seen[self.at] = self._look()
        self._seen, self._shown = seen, wanted
        self._capture, self.result = seen[self.at]

    def _look(self) -> tuple[Capture, dict]:
        """Load the model of the checkpoint and return where it looks in the text, and all that the browser shows."""
        model = load_model(self._paths[self.at])
        if self.at not in self._samples:
            self._samples[self.at] = write(model, self._tokenizer, self.prompt)
        ids = torch.tensor(self._encode(self.text))
        capture = capture_attention(model, ids)
        losses = F.cross_entropy(capture.logits[:-1], ids[1:], reduction="none").tolist()
        losses = [loss if isfinite(loss) else None for loss in losses]  # JSON holds no NaN
        thumbnails = pool_maps(capture.maps)
        tokens = [token_of(self._tokenizer, index) for index in ids.tolist()]
        return capture, {
            "at": self.at,
            "tokens": [token | {"loss": loss} for token, loss in zip(tokens, [None, *losses], strict=True)],
            "layers": thumbnails.shape[0],
            "heads": thumbnails.shape[1],
            "side": thumbnails.shape[2],
            "thumbnails": thumbnails.numpy().tobytes(),
            "sample": self._samples[self.at],
        }

    def _do(self, message: dict) -> Reply | None:
        """Do what the browser asks for: send one head's whole map, or show another checkpoint or text."""
        if message["type"] == "map":
            return whole_map(self._capture, message)
        if message["type"] == "look":
            self.at = message["at"]
        else:
            self._encode(message["text"])
            self.text = message["text"]
        return None
