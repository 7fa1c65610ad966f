"""OpenAI's protocol for chats, as far as it is spoken here: requests read and checked, and what answers and errors look like.

What a request may hold stands at https://platform.openai.com/docs/api-reference/chat. What would change the answer and is not
to be had here is refused, with its name; nothing is left out in silence but what only OpenAI's own business needs.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from course_lib.checks import check
from course_lib.inference import Sampling, Token
from course_lib.tokenization import Tokenizer

__all__ = ["ChatRequest", "ProtocolError", "as_json", "chunk", "completion", "read_request", "token_entries", "usage"]

MOST_CHOICES, MOST_STOPS, LONGEST_STOP, MOST_LIKELIEST = 8, 4, 200, 20
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_READ = {
    "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens", "n",
    "seed", "stop", "logprobs", "top_logprobs", "response_format",
}  # fmt: skip
_UNUSED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}  # change no answer
# not to be had here; these values say that they are not wanted either
_NEUTRAL = {
    "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "tools": [], "functions": [], "tool_choice": "none",
    "parallel_tool_calls": True, "modalities": ["text"],
}  # fmt: skip


class ProtocolError(Exception):
    """What a client is told: a message, the HTTP status, the field that is wrong, and a word that programs can read."""

    def __init__(self, message: str, status: int = 400, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The error as the protocol writes it."""
        kind = {429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        message = str(self)
        message = message if len(message) <= 500 else message[:500] + " …"  # it may quote what was sent
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class ChatRequest:
    """A request for `n` answers to a chat. `schema`: what JSON they must be, {} for any object, None for no JSON."""

    model: str
    messages: tuple[dict[str, str], ...]
    sampling: Sampling
    max_tokens: int | None
    n: int
    seed: int | None
    stop: tuple[str, ...]
    n_likeliest: int | None
    schema: Mapping[str, Any] | None
    stream: bool
    include_usage: bool


def read_request(body: bytes) -> ChatRequest:
    """Return the request that `body` holds as JSON. ProtocolError that says what is wrong with it."""
    try:
        return _request(_Fields(_parse(body)))
    except RecursionError:
        raise ProtocolError("the request's brackets are nested too deeply") from None


def _parse(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body.decode(), parse_constant=_refuse_constant)
    except ValueError as error:
        raise ProtocolError(f"the body is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError(f"the body must be a JSON object, not {type(fields).__name__}")
    for name, value in fields.items():
        if value is None or name in _READ | _UNUSED or (name in _NEUTRAL and value == _NEUTRAL[name]):
            continue
        if name in _NEUTRAL:
            raise ProtocolError(f"{name} is not supported by this server", param=name, code="unsupported_parameter")
        raise ProtocolError(f"unknown field {name[:100]!r}", param=name[:100], code="unknown_parameter")
    return fields


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


class _Fields:
    """The fields of a request, or of an object in it; null is as good as none."""

    def __init__(self, fields: Mapping[str, Any], path: str = ""):
        self._fields, self._path = fields, path

    def get(self, name: str, kind: Any, default: Any = None, at_least: float | None = None, at_most: float = math.inf):
        """Return a field, or `default`. ProtocolError unless it is of `kind`, see `check`, and text is whole text."""
        value, path = self._fields.get(name), self._path + name
        if value is None:
            return default
        try:
            check(path, value, kind, at_least, at_most)
        except ValueError as error:
            raise ProtocolError(str(error), param=path) from None
        return _whole(path, value) if isinstance(value, str) else value

    def need(self, name: str, kind: Any) -> Any:
        """Return a field that must be there."""
        value = self.get(name, kind)
        if value is None:
            path = self._path + name
            raise ProtocolError(f"{path} is missing", param=path, code="missing_required_parameter")
        return value

    def inside(self, name: str) -> "_Fields":
        """Return the fields of an object, none if it is not there."""
        return _Fields(self.get(name, dict, {}), f"{self._path}{name}.")


def _whole(path: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ProtocolError(
            f"{path} holds half a character, the lone surrogate {text[error.start]!a}", param=path
        ) from None
    return text


def _request(fields: _Fields) -> ChatRequest:
    messages = fields.need("messages", list)
    if not messages:
        raise ProtocolError("messages is empty: give at least one", param="messages")
    sampling = Sampling(fields.get("temperature", float, 1.0, 0, 2), top_p=fields.get("top_p", float, 1.0, None, 1))
    limits = [fields.get(name, int) for name in ("max_completion_tokens", "max_tokens")]
    if None not in limits:
        raise ProtocolError("give max_completion_tokens or max_tokens, not both", param="max_tokens")
    n_likeliest = fields.get("top_logprobs", int, None, 0, MOST_LIKELIEST)
    if not fields.get("logprobs", bool, False):
        if n_likeliest is not None:
            raise ProtocolError("top_logprobs needs logprobs to be true", param="top_logprobs")
    elif n_likeliest is None:
        n_likeliest = 0
    return ChatRequest(
        fields.need("model", str),
        tuple(_message(f"messages[{number}]", message) for number, message in enumerate(messages)),
        sampling,
        limits[0] or limits[1],
        fields.get("n", int, 1, 1, MOST_CHOICES),
        fields.get("seed", int, None, -(2**63)),
        _stops(fields),
        n_likeliest,
        _schema(fields.inside("response_format")),
        fields.get("stream", bool, False),
        fields.inside("stream_options").get("include_usage", bool, False),
    )


def _message(path: str, message: object) -> dict[str, str]:
    if not isinstance(message, dict):
        raise ProtocolError(f"{path} must be an object, not {type(message).__name__}", param=path)
    fields = _Fields(message, f"{path}.")
    role = fields.need("role", str)
    if role not in _ROLES:
        raise ProtocolError(f"{path}.role must be one of {', '.join(_ROLES)}, not {role!r}", param=f"{path}.role")
    for name, value in message.items():
        if value is not None and name not in ("role", "content", "name"):
            raise ProtocolError(f"{path} holds {name[:100]!r}, which is not supported by this server", param=path)
    return {"role": _ROLES[role], "content": _content(fields, f"{path}.content", message.get("content"))}


def _content(fields: _Fields, path: str, content: object) -> str:
    """Return a message's text: a string, or a list of parts that are text."""
    if not isinstance(content, list):
        return fields.need("content", str)
    texts = []
    for number, part in enumerate(content):
        place = f"{path}[{number}]"
        if not isinstance(part, dict) or part.get("type") != "text":
            raise ProtocolError(f"{place} must be a part of the type text: this server reads nothing else", param=place)
        texts.append(_Fields(part, f"{place}.").need("text", str))
    return "".join(texts)


def _stops(fields: _Fields) -> tuple[str, ...]:
    stops = fields.get("stop", object)
    if stops is None:
        return ()
    stops = [stops] if isinstance(stops, str) else stops
    if (
        not isinstance(stops, list)
        or len(stops) > MOST_STOPS
        or not all(isinstance(stop, str) and 0 < len(stop) <= LONGEST_STOP for stop in stops)
    ):
        raise ProtocolError(
            f"stop must be a string or up to {MOST_STOPS}, of 1 to {LONGEST_STOP} characters each", param="stop"
        )
    return tuple(_whole("stop", stop) for stop in stops)


def _schema(fields: _Fields) -> Mapping[str, Any] | None:
    kind = fields.get("type", Literal["text", "json_object", "json_schema"], "text")
    if kind == "json_schema":
        return fields.inside("json_schema").need("schema", dict)
    return {} if kind == "json_object" else None


# ---------------------------------------------------------------- what is sent back


def as_json(content: Mapping[str, Any]) -> bytes:
    """Return JSON in ASCII alone, so that half a character that an error quotes can be sent too."""
    return json.dumps(content, allow_nan=False).encode()


def token_entries(tokenizer: Tokenizer, tokens: Sequence[Token]) -> dict[str, Any]:
    """Return the log-probabilities of `tokens` as the protocol writes them; −9999 stands for what cannot be."""

    def entry(id: int, log_prob: float) -> dict[str, Any]:
        data = tokenizer.decode_bytes([id])
        return {"token": data.decode(errors="replace"), "logprob": max(log_prob, -9999.0), "bytes": list(data)}

    return {
        "content": [
            entry(token.id, token.log_prob) | {"top_logprobs": [entry(*pair) for pair in token.likeliest]}
            for token in tokens
        ]
    }


def usage(n_prompt: int, n_written: int) -> dict[str, int]:
    """Return how many tokens were read and written."""
    return {"prompt_tokens": n_prompt, "completion_tokens": n_written, "total_tokens": n_prompt + n_written}


def completion(head: Mapping[str, Any], choices: Sequence[Mapping[str, Any]], used: Mapping[str, int]) -> dict:
    """Return a whole answer. `head` has its id, the time and the model."""
    return {**head, "object": "chat.completion", "choices": choices, "usage": used}


def chunk(head: Mapping[str, Any], choices: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Return a piece of an answer in a stream."""
    return {**head, "object": "chat.completion.chunk", "choices": choices, **more}
