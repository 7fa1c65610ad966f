"""SamplingPlayground: how temperature and filters reshape the next token's odds, and what texts the drawing leads to.

The browser asks for one token a message, so that the kernel is never busy for longer than one token takes and a stop needs
no message of its own. What is drawn comes from `generation.Sampling`, run here: the numbers shown are the library's.
"""

import math
from base64 import b64encode
from dataclasses import replace

import torch
from torch import Tensor
from traitlets import Dict, Float, Int, Unicode, observe, validate

from course_lib.architecture import TransformerLM
from course_lib.inference import Sampling
from course_lib.inference.generation import tokenless_ids
from course_lib.tokenization import Tokenizer
from course_lib.widgets.sampling_playground.picture import sampling_picture
from course_lib.widgets.sampling_playground.tree import FILTERS, Node, cut_by
from course_lib.widgets.shared.base import encode_text, module, style_sheet, token_of
from course_lib.widgets.shared.live import LiveWidget

__all__ = ["MAX_TOKENS", "SamplingPlayground"]

MAX_TOKENS = 1024  # of prompt and generated text
ROWS = 12
UNFILTERED = Sampling(temperature=1.0)


class SamplingPlayground(LiveWidget):
    """Draw the tokens that follow `prompt`, one at a time, with settings that can be moved, and branch at any of them.

    `temperature`, `top_k`, `top_p`, `min_p` (None: off) and `seed` can be read and set. A token depends on the settings, the
    seed, the text before it and its distance from the prompt alone: the same seed gives the same text, however it was asked
    for, and it is the text of `generation.stream_text` with a generator of that seed. Setting `text`, the prompt, starts over;
    it must have 1 to 1023 tokens, else ValueError.

        playground = SamplingPlayground(*load("smollm2-135m-instruct"), "Once upon a time", Sampling(temperature=0.8))
        playground.generate(20)
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    text = Unicode().tag(sync=True)
    temperature = Float().tag(sync=True)
    top_k = Int(None, allow_none=True).tag(sync=True)
    top_p = Float(None, allow_none=True).tag(sync=True)
    min_p = Float(None, allow_none=True).tag(sync=True)
    seed = Int().tag(sync=True)
    result = Dict().tag(sync=True)

    def __init__(
        self,
        model: TransformerLM,
        tokenizer: Tokenizer,
        prompt: str,
        sampling: Sampling = UNFILTERED,
        seed: int = 0,
    ):
        self._model, self._tokenizer = model, tokenizer
        self._banned = torch.tensor(tokenless_ids(model, tokenizer), dtype=torch.long)
        self._longest = min(MAX_TOKENS, model.config.context_length)
        self._give_back()
        self._latest: tuple[list[int], Tensor | None] = [], None  # a text, and the logits after it
        self._shown: dict = {}  # the traits that `result` belongs to
        self._states = []  # of the seed's generator after 0, 1, 2 … draws
        self._start_over(prompt)
        super().__init__(text=prompt, seed=seed, **vars(sampling))

    @property
    def sampling(self) -> Sampling:
        """The settings, as `generation.generate` takes them."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)

    @property
    def generated(self) -> str:
        """The text that follows the prompt."""
        return self._tokenizer.decode(node.token for node in self._place.end().path())

    def generate(self, n_tokens: int) -> None:
        """Draw up to `n_tokens` from the place that is looked at; a token that ends the text is the last.

        ValueError says when no more fit; those that did are shown.
        """
        try:
            for _ in range(n_tokens):
                self._draw()
                if self._place.token in self._tokenizer.end_ids:
                    break
        finally:
            self._show()

    def __repr__(self) -> str:
        n_prompt, n_generated = len(self._prompt), len(self._place.end().path())
        settings = [f"temperature {self.temperature:g}"]
        for name in ("top_k", "top_p", "min_p"):
            if (value := getattr(self, name)) is not None:
                settings.append(f"{name} {value:g}")
        return (
            f"SamplingPlayground: {n_prompt} prompt token{'s' * (n_prompt != 1)}, {n_generated} generated; "
            f"{', '.join(settings)}; seed {self.seed}"
        )

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = sampling_picture(self.result, [token_of(self._tokenizer, index) for index in self._prompt])
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata

    # ---------------------------------------------------------------- settings

    @validate("text")
    def _valid_text(self, proposal) -> str:
        self._encode(proposal["value"])
        return proposal["value"]

    @validate("temperature", "top_k", "top_p", "min_p")
    def _valid_sampling(self, proposal) -> float | int | None:
        replace(Sampling(), **{proposal["trait"].name: proposal["value"]})  # raises what Sampling raises
        return proposal["value"]

    def _encode(self, text: str) -> list[int]:
        return encode_text(self._tokenizer, text, self._longest - 1)

    @observe("text", "temperature", "top_k", "top_p", "min_p", "seed")
    def _update(self, change: dict) -> None:
        if change["name"] == "text" and self.text != self._shown.get("text"):
            with self._or_as_before(self._shown):
                self._start_over(self.text)
        self._shown = {"text": self.text}
        if change["name"] == "seed":
            self._states = []
        self._show()

    def _start_over(self, prompt: str) -> None:
        ids = self._encode(prompt)
        self._logits_after(ids)
        self._prompt = ids
        self._root = self._place = Node()  # the tree of texts, and the node whose next token is looked at

    # ---------------------------------------------------------------- the model

    # The model runs before anything is changed that the widget shows: an interrupt leaves all as it was.

    def _logits(self) -> Tensor:
        """Return the logits (vocab,) at the place that is looked at."""
        return self._logits_after([*self._prompt, *(node.token for node in self._place.path())])

    @torch.inference_mode()
    def _logits_after(self, ids: list[int]) -> Tensor:
        """Return the logits (vocab,) after `ids`, -∞ for what is no token. What the cache still holds is not computed again."""
        if ids == self._latest[0]:
            return self._latest[1]
        self._take_over()
        self._cache = self._cache or self._model.new_cache(1, self._longest)
        shared = 0
        while shared < min(len(self._cached), len(ids) - 1) and self._cached[shared] == ids[shared]:
            shared += 1
        self._cached = ids[:shared]
        for layer in self._cache:
            layer.length = shared
        new = torch.tensor([ids[shared:]], device=self._model.device)
        stream = self._model.residual(new, self._cache)
        logits = self._model.unembed(stream[0, -1]).float().cpu().index_fill(-1, self._banned, -torch.inf)
        self._cached, self._latest = ids, (ids, logits)
        return logits

    def _give_back(self) -> None:
        self._cache, self._cached = None, []

    def _look_at(self, place: Node) -> None:
        self._logits_after([*self._prompt, *(node.token for node in place.path())])
        self._place = place

    def _draw(self) -> None:
        depth = len(self._place.path())
        self._take(self.sampling.draw(self._logits(), self._generator(depth)))

    def _generator(self, depth: int) -> torch.Generator:
        """Return the seed's generator as it is after `depth` draws: each uses up as many random numbers as any other."""
        generator = torch.Generator().manual_seed(self.seed)
        if not self._states:
            self._states = [generator.get_state()]
        while len(self._states) <= depth:
            generator.set_state(self._states[-1])
            Sampling(temperature=1.0).draw(torch.zeros(self._model.config.vocab_size), generator)
            self._states.append(generator.get_state())
        return generator.set_state(self._states[depth])

    def _take(self, token: int) -> None:
        """Go on with `token` from the place that is looked at."""
        if len(self._prompt) + len(self._place.path()) == self._longest:
            raise ValueError(f"The text fills the {self._longest} tokens that fit: go on from an earlier place.")
        logits = self._logits()
        own, drawn = logits.softmax(-1)[token].item(), self.sampling.probabilities(logits)[token].item()
        self._logits_after([*self._prompt, *(node.token for node in self._place.path()), token])
        self._place = self._place.follow(token, own, drawn)

    # ---------------------------------------------------------------- the browser

    def _do(self, message: dict) -> None:
        """Do what the browser asks for, with the settings that it shows."""
        with self.hold_trait_notifications():
            for name, value in message["settings"].items():
                setattr(self, name, value)
        match message["type"]:
            case "run":
                self._start_over(message["text"])
                self.text = message["text"]
            case "draw":
                self._draw()
                if self._place.token in self._tokenizer.end_ids:
                    self.send({"type": "ended"})
            case "take":
                self._take(message["id"])
            case "look":
                self._look_at([self._root, *self._place.end().path()][message["depth"]])
            case "walk":
                self._look_at(list(self._root.branches())[message["branch"]].leaf)
                self._place.make_current()
        self._show()

    def _show(self) -> None:
        """Tell the browser the text, the odds at the place that is looked at, what is cut there, and all branches."""
        logits = self._logits()
        own, now, cut = logits.softmax(-1), self.sampling.probabilities(logits), cut_by(logits, self.sampling)
        reshaped = Sampling(self.temperature or 1.0).probabilities(logits)  # before anything is cut
        path, depth = self._place.end().path(), len(self._place.path())
        following = path[depth].token if depth < len(path) else None
        shown = logits.topk(min(ROWS, len(logits))).indices.tolist()
        if following is not None and following not in shown:
            shown.append(following)
        self.result = {
            "prompt": len(self._prompt),
            "path": [self._drawn_token(node) for node in path],
            "depth": depth,
            "next": [
                token_of(self._tokenizer, index)
                | {
                    "before": own[index].item(),
                    "now": now[index].item(),
                    "cut": cut[index].item(),
                    "rank": int((logits > logits[index]).sum()) + 1,
                    "is_tried": index in self._place.children,
                    "is_following": index == following,
                }
                for index in shown
            ],
            "filters": FILTERS,
            # for no filter and for each: how many tokens it leaves or cuts, and what part of the probability they had
            "shares": [[int(which.sum()), reshaped[which].sum().item()] for which in self._by_filter(now, cut)],
            "entropy": [_bits(own), _bits(now)],
            "branches": [
                {
                    "from": len(branch.leaf.path()) - len(branch.nodes),
                    "length": len(branch.nodes),
                    "text": "".join(token_of(self._tokenizer, node.token)["chip"] for node in branch.nodes),
                    "is_current": branch.leaf is path[-1] if path else True,
                }
                for branch in self._root.branches()
            ],
        }

    def _by_filter(self, now: Tensor, cut: Tensor) -> list[Tensor]:
        return [now > 0, *(cut == number for number in range(1, len(FILTERS) + 1))]

    def _drawn_token(self, node: Node) -> dict:
        forks = len(node.parent.children)
        return token_of(self._tokenizer, node.token) | {"own": node.own, "drawn": node.drawn, "forks": forks}


def _bits(probabilities: Tensor) -> float:
    """Return the entropy of a distribution (vocab,) in bits."""
    return torch.special.entr(probabilities).sum().item() / math.log(2)
