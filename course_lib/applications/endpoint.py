"""A model behind an address: a server that speaks OpenAI's protocol for chats writes the replies of a `Chat`.

`python -m course_lib.serve` starts such a server of the course's models; vLLM and llama.cpp start them of larger ones. Nothing
is sent anywhere before a reply is asked for. A thread of its own talks to the server, so that one can stop while waiting.
"""

import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection, IncompleteRead
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from course_lib.applications.writers import Draft, Prompt
from course_lib.checks import check
from course_lib.inference.generation import Rule, Sampling

__all__ = ["Endpoint", "EndpointError"]

_WAIT = 0.1  # seconds after which an empty piece says that nothing has come yet
_LONGEST_LINE, _LONGEST_REFUSAL = 2**20, 2**16  # bytes
_BYTES_PER_TOKEN = 3.0  # of an English text, somewhat less than most tokenizers reach


class EndpointError(Exception):
    """The server is away, refuses, breaks off, or does not speak the protocol; the message says which, and what to do."""


class Endpoint:
    """Writes replies with `model_name` of the server at `address`, as "http://127.0.0.1:8000/v1"; see `writers.Writer`.

        chat = Chat(Endpoint("http://127.0.0.1:8000/v1", "smollm2-135m-instruct"))

    The token, if the server wants one, is read from the environment variable `token_variable` for each request, and kept
    nowhere. Without a `context_length` no turn is ever left out, and the server says when the chat has become too long for it;
    with one, tokens are estimated from the bytes of the texts, as the server counted those of the last prompt. It is given up
    if nothing comes for `patience` seconds. ValueError for an address that cannot be one, or holds a password.
    """

    def __init__(
        self,
        address: str,
        model_name: str,
        *,
        token_variable: str = "COURSE_TOKEN",
        context_length: int | None = None,
        patience: float = 120.0,
    ):
        check("model_name", model_name, str)
        check("token_variable", token_variable, str)
        check("context_length", context_length, int | None)
        check("patience", patience, float)
        self._place = _parsed(address)
        self.address, self.model_name, self.context_length = address.rstrip("/"), model_name, context_length
        self.token_variable, self.patience = token_variable, patience
        self._bytes_per_token = _BYTES_PER_TOKEN

    def count(self, text: str) -> int:
        """Return 0: only the server knows how many tokens `text` has. ValueError if it holds half a character."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the text holds half a character, the lone surrogate {text[error.start]!a}") from None
        return 0

    def prompt(self, messages: list[dict[str, str]]) -> Prompt:
        """Return `messages` and about how many tokens they have."""
        return Prompt(messages, round(_size(messages) / self._bytes_per_token))

    def write(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        sampling: Sampling,
        draft: Draft,
        *,
        rule: Rule | None = None,
        seed: int | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[str]:
        """Yield the reply piece by piece, an empty one while nothing comes. EndpointError says what went wrong.

        `draft` has the numbers that the server gave; until then, and if it gives none, as many tokens as pieces came.
        ValueError for a `rule`, `top_k` and `min_p`, of which the protocol knows nothing.
        """
        if rule is not None or sampling.top_k is not None or sampling.min_p is not None:
            raise ValueError("the protocol has neither rules nor top_k nor min_p: use temperature and top_p")
        wish = {
            "model": self.model_name, "messages": prompt.content, "max_tokens": max_new_tokens, "seed": seed,
            "temperature": sampling.temperature, "top_p": sampling.top_p,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        draft.n_cached = None
        answer = _Answer(self, {name: value for name, value in wish.items() if value is not None}, draft.seconds)
        try:
            while not is_stopped():
                event = answer.next()
                if event is None:
                    yield ""
                    continue
                if event is _Answer.END:
                    return
                yield from self._read(*event, prompt, draft)
        finally:
            answer.close()

    def _read(self, chunk: dict[str, Any], seconds: float, prompt: Prompt, draft: Draft) -> Iterator[str]:
        """Note in `draft` what a chunk of the stream says, and yield its text, if it has any."""
        try:
            if "error" in chunk:
                raise EndpointError(f"{self.address} broke off: {self._said(chunk)}")
            text, reason = "", None
            if choices := chunk.get("choices"):
                text, reason = choices[0]["delta"].get("content") or "", choices[0].get("finish_reason")
            if reason is not None:
                draft.ending = "length" if reason == "length" else "end"
            check("content", text, str)
            draft.n_tokens += text != ""
            if usage := chunk.get("usage"):
                cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
                n_prompt, n_tokens = usage["prompt_tokens"], usage["completion_tokens"]
                check("prompt_tokens", n_prompt, int, 0)
                check("completion_tokens", n_tokens, int, 0)
                check("cached_tokens", cached, int | None, 0)
                draft.n_prompt, draft.n_tokens, draft.n_cached = n_prompt, n_tokens, cached
                self._bytes_per_token = _size(prompt.content) / max(draft.n_prompt, 1)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            raise EndpointError(f"{self.address} sent what is no part of a chat's reply: {chunk!r:.200}") from None
        if text:
            draft.seconds, draft.seconds_to_first = seconds, draft.seconds_to_first or seconds
            yield text

    def _said(self, body: Any) -> str:
        """Return what an error of the protocol says, in one line, with … for the token: a server may quote what it refuses."""
        error = body.get("error") if isinstance(body, dict) else None
        said = str((error.get("message") if isinstance(error, dict) else error) or "it does not say why")
        if token := os.environ.get(self.token_variable):
            said = said.replace(token, "…")
        return " ".join(said.split())[:500]


def _parsed(address: str) -> tuple[str, str, int | None, str]:
    """Return scheme, host, port and path of an address. ValueError says what is wrong with it."""
    check("endpoint", address, str)
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"the endpoint {address!r} is no address: {error}") from None
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("the endpoint must hold no password, no ? and no #: a token comes from the environment")
    if parts.scheme not in ("http", "https") or not parts.hostname or not address.isascii() or " " in address:
        raise ValueError(f"the endpoint must look like 'http://127.0.0.1:8000/v1', not {address!r}")
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")


def _size(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"].encode()) + 12 for message in messages)  # and about 4 tokens of form


class _Answer:
    """A request under way, `seconds` after the reply was asked for: a thread sends it, and queues what comes with its time."""

    END = object()

    def __init__(self, endpoint: Endpoint, wish: dict[str, Any], seconds: float):
        self._endpoint, self._wish, self._start = endpoint, wish, perf_counter() - seconds
        self._events: SimpleQueue = SimpleQueue()
        self._socket: socket.socket | None = None
        self._is_closed = False
        threading.Thread(target=self._talk, name="endpoint", daemon=True).start()

    def next(self) -> tuple[dict[str, Any], float] | object | None:
        """Return the next chunk and its time, END, or None if none has come for a moment. EndpointError if it failed."""
        try:
            event = self._events.get(timeout=_WAIT)
        except Empty:
            return None
        if isinstance(event, EndpointError):
            raise event
        return event

    def close(self) -> None:
        """Let go of the server, which so learns that nobody listens any more."""
        self._is_closed = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread; to close it would not

    def _talk(self) -> None:
        scheme, host, port, _ = self._endpoint._place
        kind = HTTPSConnection if scheme == "https" else HTTPConnection
        connection = kind(host, port, timeout=self._endpoint.patience)
        try:
            self._listen(connection)
            self._events.put(self.END)
        except EndpointError as error:
            self._events.put(error)
        except Exception as error:  # of this thread nobody else would hear
            self._events.put(EndpointError(self._explain(error)))
        finally:
            connection.close()

    def _listen(self, connection: HTTPConnection) -> None:
        """Send the request, and put the chunks of its answer into `events` until it is whole."""
        connection.connect()
        self._socket = connection.sock
        if self._is_closed:
            return
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if token := os.environ.get(self._endpoint.token_variable):
            # a header with it would be refused in words that quote it
            if not (token.isascii() and token.isprintable()):
                raise EndpointError(f"what {self._endpoint.token_variable} holds is no token: a letter in it is none")
            headers["Authorization"] = f"Bearer {token}"
        path = f"{self._endpoint._place[3]}/chat/completions"
        connection.request("POST", path, json.dumps(self._wish).encode(), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise EndpointError(self._refusal(response))
        is_whole = False
        while line := response.readline(_LONGEST_LINE):
            name, _, data = line.decode("utf-8", "replace").partition(":")
            if name != "data" or not data.strip():
                continue
            if data.strip() == "[DONE]":
                return
            chunk = json.loads(data)
            if not isinstance(chunk, dict):
                raise ValueError(f"no object: {data[:100]}")
            self._events.put((chunk, perf_counter() - self._start))
            is_whole = is_whole or any(
                isinstance(choice, dict) and choice.get("finish_reason") for choice in chunk.get("choices") or ()
            )
        if not is_whole:
            raise EndpointError(f"{self._endpoint.address} broke off in the middle of the reply; what had come is kept")

    def _refusal(self, response: HTTPResponse) -> str:
        address, variable = self._endpoint.address, self._endpoint.token_variable
        try:
            body = json.loads(response.read(_LONGEST_REFUSAL))
        except (ValueError, RecursionError):
            body = {"error": response.reason}
        said = self._endpoint._said(body)
        if response.status in (401, 403):
            return f"{address} lets nobody in without its token: {said}; put it into the variable {variable}"
        if 300 <= response.status < 400:
            return (
                f"{address} has moved to {response.getheader('Location', 'it does not say where')}: give that address"
            )
        return f"{address} refuses (HTTP {response.status}): {said}"

    def _explain(self, error: Exception) -> str:
        address = self._endpoint.address
        match error:
            case ConnectionRefusedError():
                return f"nothing answers at {address}: is the server running? `python -m course_lib.serve` starts one"
            case socket.gaierror():
                return f"there is no machine named {self._endpoint._place[1]}, or no network to ask for it"
            case TimeoutError():
                return f"{address} has sent nothing for {self._endpoint.patience:g} seconds: it is away, or too busy"
            case ssl.SSLError():
                return f"{address} cannot be trusted, or speaks no https: {error}"
            case OSError() | IncompleteRead():
                return f"the connection to {address} broke off: {error}; what had come is kept"
        return f"{address} does not speak the protocol of OpenAI's chats: {error!r:.200}"
