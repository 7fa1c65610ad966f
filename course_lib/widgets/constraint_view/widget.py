"""ConstraintView: a pattern as an automaton, and a model that writes under the mask that follows from it, token by token.

The browser asks for one token a message, so that the kernel is never busy for longer than one token takes and a stop needs
no message of its own. What is masked comes from `applications.constraints`, run here: the numbers shown are the library's.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from traitlets import Dict, List

from course_lib.applications.constraints import Constraint, ConstraintRule, removed_mass
from course_lib.applications.constraints.automata import byte_label
from course_lib.architecture import TransformerLM
from course_lib.checks import check
from course_lib.inference.generation import tokenless_ids
from course_lib.inference.prefix import PrefixCache
from course_lib.tokenization import Tokenizer
from course_lib.widgets.constraint_view.examples import EXAMPLES
from course_lib.widgets.constraint_view.layout import drawing_of
from course_lib.widgets.constraint_view.picture import constraint_picture
from course_lib.widgets.constraint_view.verdicts import verdict_on_json, verdict_on_match
from course_lib.widgets.shared.base import encode_text, module, style_sheet, token_of
from course_lib.widgets.shared.live import LiveWidget

__all__ = ["MAX_ROOM", "MAX_WANTED", "ConstraintView"]

MAX_ROOM, MAX_WANTED = 256, 20_000  # tokens to be written; characters of a pattern or schema
LIKELIEST, LIKELIEST_ALLOWED = 8, 5  # rows of tokens: so many, and the likeliest allowed ones that are not among them


@dataclass(frozen=True)
class _Text:
    """A text that is being written: its `ids`, the logits (vocab,) after them if they are asked for, and what ended it."""

    ids: tuple[int, ...] = ()
    logits: Tensor | None = None
    ended: str = ""  # "end": the model ended it; "room": no token is left


@dataclass(frozen=True)
class _Next:
    """What may come next: the logits (vocab,) that the mask leaves, probabilities before and after it, and without the room's
    part of it the tokens that are allowed."""

    masked: Tensor
    before: Tensor
    now: Tensor
    without_room: Tensor


class ConstraintView(LiveWidget):
    """Let `model` continue `prompt` with what is `wanted`: a regular expression or a JSON schema, see `Constraint`.

    Each `step` writes the likeliest token that the mask allows, and beside it the model's own likeliest for the text that it
    would write freely; `choose` takes another allowed token, `back` takes one away, `write` goes on to the end. At most
    `max_new_tokens` are written; the mask leaves none after which the text could not be whole by then. `set` starts over with
    other settings. `steps` holds what the mask did at each token.

    ValueError if the pattern cannot be compiled, or its shortest text has more bytes than there are tokens; if the prompt is
    empty or does not fit; or if the tokenizer has no token that ends a text. FloatingPointError if the model's logits are no
    numbers.

        view = ConstraintView(*load("smollm2-135m-instruct"), "Is Paris in France? Answer:", "(yes|no)")
        view.write()
        view.text
    """

    _esm = module(__file__)
    _css = style_sheet(__file__)

    settings = Dict().tag(sync=True)
    problem = Dict().tag(sync=True)  # of what is typed at the moment, if it does not compile: message, at
    drawing = Dict().tag(sync=True)
    result = Dict().tag(sync=True)
    examples = List(EXAMPLES).tag(sync=True)

    def __init__(
        self,
        model: TransformerLM,
        tokenizer: Tokenizer,
        prompt: str = EXAMPLES[0]["prompt"],
        wanted: str | Mapping[str, Any] = EXAMPLES[0]["wanted"],
        *,
        max_new_tokens: int = 48,
    ):
        check("model", model, TransformerLM)
        check("tokenizer", tokenizer, Tokenizer)
        self._model, self._tokenizer = model, tokenizer
        self._banned = torch.tensor(tokenless_ids(model, tokenizer), dtype=torch.long)
        self._give_back()
        settings = {"kind": "pattern", "wanted": wanted, "prompt": prompt, "max_new_tokens": max_new_tokens}
        if isinstance(wanted, Mapping):
            settings |= {"kind": "schema", "wanted": json.dumps(wanted, indent=1, ensure_ascii=False)}
        super().__init__()
        self._start(settings, self._compiled(settings))

    @property
    def text(self) -> str:
        """What is written under the mask, without the prompt."""
        return self._tokenizer.decode(self._own.ids)

    @property
    def free_text(self) -> str:
        """What the model has written without a mask."""
        return self._tokenizer.decode(self._free.ids)

    @property
    def steps(self) -> list[dict]:
        """What the mask did at each token: `piece`, its probability `before` and `now`, the share of the probability `removed`
        and by the room alone `removed_by_room`, `n_allowed`, and the `states` that its bytes lead through."""
        return self._steps

    def set(self, **changes) -> None:
        """Start over with other settings: `wanted`, of the `kind` "pattern" or "schema", `prompt`, `max_new_tokens`."""
        if unknown := set(changes) - set(self.settings):
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}; there are {', '.join(self.settings)}")
        settings = self.settings | changes
        self._start(settings, self._compiled(settings))

    def step(self) -> None:
        """Write the likeliest allowed token, and one of the free text; nothing happens where a text has ended."""
        free = self._free if self._free.ended else self._one_more(self._free, self._free_token(), self._free_cache)
        if self._own.ended:
            self._keep(self._own, free, self._steps)
        else:
            self._take(int(self._next.masked.argmax()), free, by_hand=False)

    def write(self) -> None:
        """Step until both texts have ended."""
        while not (self._own.ended and self._free.ended):
            self.step()

    def choose(self, id: int) -> None:
        """Go on with the token `id`. ValueError if the mask does not allow it."""
        check("id", id, int, 0, self._model.config.vocab_size - 1)
        if self._own.ended or self._next.masked[id] == -torch.inf:
            raise ValueError(f"The token {token_of(self._tokenizer, id)['piece']!r} is not allowed here.")
        self._take(id, self._free, by_hand=True)

    def back(self) -> None:
        """Take the last token away from the text under the mask; nothing happens where there is none."""
        if not self._steps:
            return
        ids = self._own.ids if self._own.ended == "end" else self._own.ids[:-1]
        logits = self._logits_after([*self._prompt, *ids], self._own_cache)
        self._keep(_Text(ids, logits), self._free, self._steps[:-1])

    def __repr__(self) -> str:
        n_states, n_steps = len(self._constraint.automaton), len(self._own.ids)
        return (
            f"ConstraintView: {n_states} state{'s' * (n_states != 1)}, {n_steps} token{'s' * (n_steps != 1)} written: "
            f"{self.text!r}"
        )

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = constraint_picture(self.drawing, self.result)
        return data | {"image/png": b64encode(picture).decode("ascii")}, metadata

    # ---------------------------------------------------------------- compiling

    def _compiled(self, settings: dict) -> tuple[Constraint, ConstraintRule]:
        kind, wanted, room = (settings[name] for name in ("kind", "wanted", "max_new_tokens"))
        check("kind", kind, Literal["pattern", "schema"])
        check("wanted", wanted, str)
        check("prompt", settings["prompt"], str)
        check("max_new_tokens", room, int, 1, min(MAX_ROOM, self._model.config.context_length - 1))
        if len(wanted) > MAX_WANTED:
            raise ValueError(f"the {kind} has {len(wanted):,} characters, and {MAX_WANTED:,} fit")
        if (kind, wanted) == (self.settings.get("kind"), self.settings.get("wanted")):
            return self._constraint, self._constraint.rule(room)
        constraint = Constraint(_schema(wanted) if kind == "schema" else wanted, self._tokenizer)
        return constraint, constraint.rule(room)

    def _start(self, settings: dict, compiled: tuple[Constraint, ConstraintRule]) -> None:
        longest = self._model.config.context_length - settings["max_new_tokens"]
        prompt = encode_text(self._tokenizer, settings["prompt"], longest)
        own = _Text((), self._logits_after(prompt, self._own_cache))
        self._prompt, (self._constraint, self._rule) = prompt, compiled
        with self.hold_sync():
            self.settings, self.problem = settings, {}
            self._keep(own, _Text(), [])

    # ---------------------------------------------------------------- writing

    # The model runs before anything is changed that the widget shows: an interrupt leaves all as it was.

    @torch.inference_mode()
    def _logits_after(self, ids: list[int], cache: PrefixCache) -> Tensor:
        """Return the logits (vocab,) after `ids`, −∞ for what is no token."""
        self._take_over()
        with cache.reading(ids, len(ids)) as read:
            logits = self._model.unembed(read(ids)).float().cpu().index_fill(-1, self._banned, -torch.inf)
        if not logits.max().isfinite():  # of numbers of which one is NaN, it is the largest
            raise FloatingPointError(
                "The model's logits are no numbers, as those of a model whose training has diverged."
            )
        return logits

    def _give_back(self) -> None:
        self._own_cache, self._free_cache = PrefixCache(self._model), PrefixCache(self._model)

    def _free_token(self) -> int:
        logits = self._free.logits
        return int((self._logits_after(self._prompt, self._free_cache) if logits is None else logits).argmax())

    def _one_more(self, text: _Text, token: int, cache: PrefixCache) -> _Text:
        """Return the text with one more token; where that ends it, nothing more is computed."""
        if token in self._tokenizer.end_ids:
            return replace(text, logits=None, ended="end")
        ids = (*text.ids, token)
        if len(ids) == self.settings["max_new_tokens"]:
            return _Text(ids, None, "room")
        return _Text(ids, self._logits_after([*self._prompt, *ids], cache))

    def _take(self, token: int, free: _Text, *, by_hand: bool) -> None:
        own = self._one_more(self._own, token, self._own_cache)
        kept = ("removed", "removed_by_room", "n_allowed", "left")
        step = {name: self.result[name] for name in kept} | {"by_hand": by_hand, "is_end": own.ended == "end"}
        self._keep(own, free, [*self._steps, self._row(token) | step])

    def _keep(self, own: _Text, free: _Text, steps: list[dict]) -> None:
        """Make these texts the ones that are shown, with what the mask does to the token that comes next."""
        state = self._rule.state(own.ids)
        self._own, self._free, self._steps = own, free, steps
        if not own.ended:
            masked = self._rule(own.ids, own.logits)
            now, before = masked.softmax(-1), own.logits.softmax(-1)
            self._next = _Next(masked, before, now, self._constraint.allowed(state))
        drawing = drawing_of(self._constraint.automaton, state)
        with self.hold_sync():
            if drawing != self.drawing:
                self.drawing = drawing
            self.result = self._shown(state)

    # ---------------------------------------------------------------- what the browser is told

    def _shown(self, state: int) -> dict:
        own, room = self._own, self.settings["max_new_tokens"]
        shown = {
            "n_prompt": len(self._prompt),
            "steps": self._steps,
            "state": state,
            "left": room - len(own.ids),
            "distance": int(self._constraint.distances[state]),
            "n_tokens": len({*self._tokenizer.vocab.values(), *self._tokenizer.special_tokens.values()}),
            "ended": own.ended,
            "verdict": self._verdict(own),
            "free": self._shown_free(),
            "next": [],
        }
        if own.ended:
            return shown
        allowed, without_room = self._rule.allowed(own.ids), self._next.without_room
        removed, by_automaton = (removed_mass(own.logits, mask).item() for mask in (allowed, without_room))
        best = own.logits.topk(min(LIKELIEST, len(own.logits))).indices.tolist()
        others = self._next.masked.topk(min(LIKELIEST + LIKELIEST_ALLOWED, len(own.logits))).indices.tolist()
        others = [id for id in others if self._next.masked[id] > -torch.inf and id not in best][:LIKELIEST_ALLOWED]
        return shown | {
            "removed": removed,
            "removed_by_room": max(removed - by_automaton, 0.0),
            "n_allowed": int(allowed.sum()),
            "n_allowed_without_room": int(without_room.sum()),
            "next": [self._row(id) for id in [*best, *others] if own.logits[id] > -torch.inf],
        }

    def _row(self, id: int) -> dict:
        """Return a token that may come next: its probability before and after the mask, and its way through the automaton.

        Its `states` begin with the one that the text is in, and end with −1 where nothing that matches goes on so; `bytes` are
        those between them. `out` says what rules it out: "end", as the text is not whole; "special"; "automaton"; "room".
        """
        state = self._rule.state(self._own.ids)
        is_special = id in self._tokenizer.special_tokens.values()
        data = b"" if is_special else self._tokenizer.decode_bytes([id])
        states = [state]
        for byte in data:
            if states[-1] < 0:
                break
            states.append(int(self._constraint.automaton.table[states[-1], byte]))
        return token_of(self._tokenizer, id) | {
            "before": self._next.before[id].item(),
            "now": self._next.now[id].item(),
            "out": self._out(id, is_special),
            "states": states,
            "bytes": [byte_label([byte]) for byte in data[: len(states) - 1]],
        }

    def _out(self, id: int, is_special: bool) -> str:
        if self._next.masked[id] > -torch.inf:
            return ""
        if id in self._tokenizer.end_ids:
            return "end"
        return "special" if is_special else "room" if self._next.without_room[id] else "automaton"

    def _shown_free(self) -> dict:
        """Return the free text: its tokens, of each whether what is wanted can still come of it, and the verdict on it."""
        tokens, state = [], 0
        for id in self._free.ids:
            data = self._tokenizer.decode_bytes([id])
            state = (
                -1 if id in self._tokenizer.special_tokens.values() else self._constraint.automaton.walk(data, state)
            )
            tokens.append(token_of(self._tokenizer, id) | {"fits": state >= 0})
        return {"tokens": tokens, "ended": self._free.ended, "verdict": self._verdict(self._free)}

    def _verdict(self, text: _Text) -> dict:
        """Return whether a text that has ended is `valid`, None if that is not known, and what is `said` of it; else {}."""
        if not text.ended:
            return {}
        valid, said = _judged(self._tokenizer.decode(text.ids), self.settings["kind"], self.settings["wanted"])
        return {"valid": valid, "said": said}

    def _do(self, message: dict) -> None:
        """Do what the browser asks for."""
        match message["type"]:
            case "wanted":
                self._try(message["settings"])
            case "set":
                self.set(**message["settings"])
            case "choose":
                self.choose(message["id"])
            case "back":
                self.back()
            case "step":
                self.step()

    def _try(self, changes: dict) -> None:
        """Take what is typed over if it compiles; if not, say why, and where."""
        settings = self.settings | changes
        try:
            compiled = self._compiled(settings)
        except ValueError as error:
            place = getattr(error, "pos", None) if settings["kind"] == "schema" else getattr(error, "at", None)
            self.problem = {"message": str(error), "wanted": settings["wanted"], "at": place}
        else:
            self._start(settings, compiled)


@lru_cache(maxsize=4)  # a text that has ended is asked about at each step of the other, and an answer may take a second
def _judged(written: str, kind: str, wanted: str) -> tuple[bool | None, str]:
    """Return whether a text is what was wanted, None if that is not known, and what is said of it."""
    return verdict_on_json(written, _schema(wanted)) if kind == "schema" else verdict_on_match(written, wanted)


def _schema(text: str) -> dict:
    """Return the JSON schema that `text` writes. ValueError if it is none; if it is no JSON, with its place, `pos`."""
    try:
        schema = json.loads(text)
    except RecursionError:
        raise ValueError("the schema is too deep to be read") from None
    if not isinstance(schema, dict):
        raise ValueError(f"a schema is an object, {{…}}, not {schema!r:.100}")
    return schema
