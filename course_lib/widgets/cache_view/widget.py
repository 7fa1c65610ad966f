"""CacheView: what a model computes and what it reads at every step of writing a text, with and without a key/value cache."""

import time
from base64 import b64encode
from collections.abc import Sequence

import torch
from traitlets import Dict

from course_lib.architecture import TransformerLM
from course_lib.architecture.accounting import cache_bytes, forward_flops, weight_bytes
from course_lib.architecture.cache import KVCache
from course_lib.inference import Sampling
from course_lib.inference.generation import tokenless_ids
from course_lib.tokenization import Tokenizer
from course_lib.widgets.cache_view.picture import cache_picture
from course_lib.widgets.shared.base import encode_text, module, style_sheet, token_of
from course_lib.widgets.shared.live import LiveWidget

__all__ = ["MAX_PROMPT", "NEW_TOKENS", "SIDES", "CacheView"]

MAX_PROMPT, NEW_TOKENS = 24, 20  # what stays legible side by side
SIDES = ("uncached", "cached")


class CacheView(LiveWidget):
    """Let `model` continue `prompt` token by token, each token computed without the cache and with it.

    `prompt` must have 1 to 24 tokens, else ValueError; 20 are generated, the likeliest each time. The learner steps, plays
    and starts over in the widget; `step` and `start` do so from Python. `steps` holds what each step cost.

        view = CacheView(*load("smollm2-135m-instruct"), "The paintings on the wall")
        view.step()
        view.steps[0]["cached"]["flops"]
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    run = Dict().tag(sync=True)

    def __init__(self, model: TransformerLM, tokenizer: Tokenizer, prompt: str):
        self._model, self._tokenizer = model, tokenizer
        device = model.device
        self._banned = torch.tensor(tokenless_ids(model, tokenizer), dtype=torch.long, device=device)
        super().__init__()
        self.start(prompt)

    @property
    def steps(self) -> list[dict[str, dict]]:
        """What each step cost on each side that ran it, "uncached" and "cached".

        `n_new` positions were computed and `n_past` read from the cache; `flops` are operations, `cache_read`, `cache_size`
        (after the step) and `weights_read` bytes, `ms` milliseconds; `chip` is the token chosen.
        """
        return self.run["steps"]

    @property
    def text(self) -> str:
        """The prompt and what has been generated."""
        return self._tokenizer.decode(self._ids)

    def start(self, prompt: str) -> None:
        """Begin anew with `prompt` and an empty cache."""
        longest = min(MAX_PROMPT, self._model.config.context_length - NEW_TOKENS)
        ids = self._ids = encode_text(self._tokenizer, prompt, longest)
        self._cache, self._n_cached = self._model.new_cache(1, len(ids) + NEW_TOKENS), 0
        self.run = {
            "text": prompt,
            "n_prompt": len(ids),
            "n_steps": NEW_TOKENS,
            "tokens": [token_of(self._tokenizer, index) for index in ids],
            "steps": [],
            "ended": False,
        }

    def step(self, sides: Sequence[str] = SIDES) -> None:
        """Compute the next token on each of `sides`; nothing happens once the text has ended.

        A cache that was left out for some steps catches up: it computes all positions that it does not hold.
        """
        if not sides or not set(sides) <= set(SIDES):
            raise ValueError(f"sides must be some of {SIDES}, not {sides!r}")
        if self.run["ended"]:
            return
        if not self.steps:  # the first pass of all also pays for starting up, which is no side's fault
            self._next_token(self._ids[:1], None)
        chosen = {side: self._compute(side) for side in SIDES if side in sides}
        token = chosen[max(chosen, key=SIDES.index)][0]
        self._ids = [*self._ids, token]
        steps = [*self.steps, {side: cost for side, (_, cost) in chosen.items()}]
        ended = len(steps) == NEW_TOKENS or token in self._tokenizer.end_ids
        tokens = [*self.run["tokens"], token_of(self._tokenizer, token)]
        self.run = self.run | {"tokens": tokens, "steps": steps, "ended": ended}

    def __repr__(self) -> str:
        n_prompt, n_steps = self.run["n_prompt"], len(self.steps)
        return f"CacheView: {n_prompt} token{'s' * (n_prompt != 1)} of prompt, {n_steps} of {NEW_TOKENS} generated"

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        n_prompt = self.run["n_prompt"]
        lengths = range(n_prompt, n_prompt + NEW_TOKENS)
        schedules = {
            "uncached": [self._cost(length, 0) for length in lengths],
            "cached": [self._cost(*(1, length - 1) if length > n_prompt else (length, 0)) for length in lengths],
        }
        return data | {"image/png": b64encode(cache_picture(schedules)).decode("ascii")}, metadata

    def _compute(self, side: str) -> tuple[int, dict]:
        """Return the next token and what it cost."""
        cache = self._cache if side == "cached" else None
        n_past = self._n_cached if cache else 0
        for layer in cache or ():
            layer.length = n_past  # a step that was interrupted has filled some layers further than others
        start = time.perf_counter()
        token = self._next_token(self._ids[n_past:], cache)
        milliseconds = 1000 * (time.perf_counter() - start)
        cost = self._cost(len(self._ids) - n_past, n_past)
        if cache:
            self._n_cached = len(self._ids)
        kept = self._bytes(len(self._ids)) if cache else 0
        return token, cost | {"cache_size": kept, "ms": milliseconds, "chip": token_of(self._tokenizer, token)["chip"]}

    @torch.inference_mode()
    def _next_token(self, ids: list[int], cache: list[KVCache] | None) -> int:
        """Return the likeliest token after `ids`, as an int: when it is here, the device has finished."""
        stream = self._model.residual(torch.tensor([ids], device=self._model.device), cache)
        return Sampling().draw(self._model.unembed(stream[0, -1]).index_fill_(-1, self._banned, -torch.inf))

    def _cost(self, n_new: int, n_past: int) -> dict[str, int]:
        config = self._model.config
        return {
            "n_new": n_new,
            "n_past": n_past,
            "flops": sum(forward_flops(config, n_new, n_past, n_logits=1).values()),
            "cache_read": self._bytes(n_past),
            "weights_read": self._weight_bytes(),
        }

    def _weight_bytes(self) -> int:
        stored = sum(matrix.nbytes for matrix in self._model.buffers())  # of few bits; other models have no buffers
        return stored or weight_bytes(self._model.config, self._model.dtype)

    def _bytes(self, n_positions: int) -> int:
        return cache_bytes(self._model.config, n_positions, self._model.dtype)

    def _do(self, message: dict) -> None:
        """Do what the browser asks for: one more token, or a new start."""
        if message["type"] == "step":
            self.step(message["sides"])
        else:
            self.start(message["text"])
