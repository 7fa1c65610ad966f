"""The addresses of the server, and who may use them. Starlette brings routes, streams and disconnects; the rest is here.

(FastAPI would add checks of its own on top of it; but its errors are not those of the protocol, and its rules take "1" for 1.)
"""

import asyncio
import hmac
import ipaddress
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from course_lib.applications.constraints import Constraint, Grammar, grammar
from course_lib.inference.generation import chat_prompt
from course_lib.serve.engine import Engine, Job, Piece
from course_lib.serve.protocol import (
    ChatRequest,
    ProtocolError,
    as_json,
    chunk,
    completion,
    read_request,
    token_entries,
    usage,
)
from course_lib.serve.writer import Writer
from course_lib.tokenization import Tokenizer

__all__ = ["is_local", "make_app"]

LARGEST_BODY, BODY_SECONDS = 2**20, 30


def make_app(engine: Engine, model_name: str, token: str | None = None) -> Starlette:
    """Return the application that serves `engine` under `model_name`; it closes the engine when it ends.

    With `token`, only those who send it are served. Without, only those who call this machine by its local names: a page of
    the web that got itself another name for 127.0.0.1 is refused (DNS rebinding).
    """
    server = _Server(engine, model_name, token)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(engine.close)

    return Starlette(
        routes=[
            Route("/v1/models", server.models),
            Route("/v1/models/{name:path}", server.model),
            Route("/v1/chat/completions", server.chat, methods=["POST"]),
        ],
        exception_handlers={
            ProtocolError: _say,
            HTTPException: lambda request, error: _say(request, ProtocolError(str(error.detail), error.status_code)),
            ClientDisconnect: lambda _request, _error: Response(status_code=499),
            Exception: lambda request, _error: _say(request, ProtocolError("the server failed; its log says why", 500)),
        },
        lifespan=lifespan,
    )


def is_local(name: str) -> bool:
    """Return whether `name` is one that a machine has for itself alone: localhost, or an address such as 127.0.0.1 or [::1]."""
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _say(_request: Request, error: ProtocolError) -> Response:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}.get(error.status)
    return Response(as_json(error.body), error.status, headers, "application/json")


class _Server:
    def __init__(self, engine: Engine, model_name: str, token: str | None):
        self._engine, self._name, self._token = engine, model_name, token
        self._begun = int(time.time())

    async def models(self, request: Request) -> Response:
        self._admit(request)
        return Response(as_json({"object": "list", "data": [self._card()]}), media_type="application/json")

    async def model(self, request: Request) -> Response:
        self._admit(request)
        self._check_name(request.path_params["name"])
        return Response(as_json(self._card()), media_type="application/json")

    async def chat(self, request: Request) -> Response:
        self._admit(request)
        wish = await run_in_threadpool(read_request, await _body(request))
        self._check_name(wish.model)
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue()

        def deliver(index: int, piece: Piece) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody listens any more
                loop.call_soon_threadsafe(pieces.put_nowait, (index, piece))

        jobs = await run_in_threadpool(_jobs, wish, self._engine, deliver)
        answer = _Answer(self._engine, wish, jobs, pieces)
        self._engine.submit(jobs)
        return _Stream(answer) if wish.stream else await answer.whole(request)

    def _admit(self, request: Request) -> None:
        """Raise ProtocolError unless the request has the token, or no token is asked for and it comes from here."""
        if self._token is None:
            name = re.sub(r"(?<!:):\d*$", "", request.headers.get("host", ""))  # without the port
            if not is_local(name):
                raise ProtocolError(f"this server answers to localhost and 127.0.0.1 only, not to {name!r}", 403)
            return
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise ProtocolError("the token is missing or wrong: give it as api_key", 401, code="invalid_api_key")

    def _check_name(self, name: str) -> None:
        if name != self._name:
            raise ProtocolError(
                f"this server has the model {self._name!r}, not {name!r}", 404, param="model", code="model_not_found"
            )

    def _card(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": self._begun, "owned_by": "course"}


async def _body(request: Request) -> bytes:
    """Return the body of JSON. ProtocolError if it says that it is something else, is too large, or does not come."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page of the web may send other kinds to any address without asking
        raise ProtocolError(f"the content type must be application/json, not {kind!r}", 415)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > LARGEST_BODY:
                    raise ProtocolError(f"the body must have at most {LARGEST_BODY} bytes", 413)
    except TimeoutError:
        raise ProtocolError(f"the body did not come within {BODY_SECONDS} seconds", 408) from None
    return bytes(body)


# ---------------------------------------------------------------- from a request to jobs


def _jobs(wish: ChatRequest, engine: Engine, deliver: Any) -> list[Job]:
    tokenizer = engine.tokenizer
    prompt = _prompt(wish, tokenizer)
    room = engine.n_columns - len(prompt)
    max_tokens = wish.max_tokens or room
    if not prompt or room < max(max_tokens, 1):
        raise ProtocolError(
            f"the messages have {len(prompt)} tokens, and {max(max_tokens, 1)} are to be written; "
            f"together they must have at least 2 and at most {engine.n_columns}",
            param="messages",
            code="context_length_exceeded",
        )
    constraint = _constraint(json.dumps(wish.schema), tokenizer) if wish.schema is not None else None
    jobs = []
    for index in range(wish.n):
        options = {
            "max_new_tokens": max_tokens,
            "sampling": wish.sampling,
            "stop_ids": tokenizer.end_ids,
            "rule": _rule(constraint, max_tokens),
            "generator": _generator(wish.seed, index),
            "n_likeliest": wish.n_likeliest,
        }
        jobs.append(
            Job(prompt, options, Writer(tokenizer, wish.stop), lambda piece, index=index: deliver(index, piece))
        )
    return jobs


def _prompt(wish: ChatRequest, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of the chat, or of its bare text if the model was not made to chat."""
    if tokenizer.chat_template is None:
        return tokenizer.encode_prompt("\n".join(message["content"] for message in wish.messages))
    try:
        return tokenizer.encode(chat_prompt(tokenizer, wish.messages))
    except ValueError as error:
        raise ProtocolError(str(error), param="messages") from None


@lru_cache(maxsize=4)  # the masks of one may take 50 MB
def _constraint(schema: str, tokenizer: Tokenizer) -> Constraint | Grammar:
    """Compile a schema, by `llguidance` if `Constraint` refuses it, as it does any object, for which {} stands."""
    wanted = json.loads(schema) or {"type": "object"}
    with suppress(ValueError, RecursionError):
        return Constraint(wanted, tokenizer)
    try:
        return grammar(wanted, tokenizer)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the schema cannot be kept: {error}", param="response_format") from None


def _rule(constraint: Constraint | Grammar | None, max_tokens: int) -> Any:
    if constraint is None:
        return None
    try:
        return constraint.rule() if isinstance(constraint, Grammar) else constraint.rule(max_tokens)
    except ValueError as error:
        raise ProtocolError(f"no text of the schema fits: {error}", param="max_tokens") from None


def _generator(seed: int | None, index: int) -> torch.Generator:
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed + index)
    return generator


# ---------------------------------------------------------------- from pieces to an answer


class _Answer:
    """The answer to one request, while it is written: `pieces` brings (choice, Piece)."""

    def __init__(self, engine: Engine, wish: ChatRequest, jobs: list[Job], pieces: asyncio.Queue):
        self._engine, self._wish, self._jobs, self._pieces = engine, wish, jobs, pieces
        self._n_written = 0
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": wish.model}

    def cancel(self) -> None:
        self._engine.cancel(self._jobs)

    async def whole(self, request: Request) -> Response:
        """Return the answer when it is whole, and let go of it as soon as the client goes away."""
        answer, gone = asyncio.ensure_future(self._collected()), asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                return Response(status_code=499)  # which nobody reads
            return Response(as_json(answer.result()), media_type="application/json")
        finally:
            self.cancel()
            answer.cancel()
            gone.cancel()

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the answer as server-sent events, and an error, if there is one, as the last."""
        try:
            for index in range(len(self._jobs)):
                yield self._event(index, {"role": "assistant", "content": ""})
            async for index, piece in self._run():
                if piece.text or (piece.tokens and self._wish.n_likeliest is not None):
                    yield self._event(index, {"content": piece.text}, piece)
                if piece.ended:
                    yield self._event(index, {}, reason=piece.ended)
            if self._wish.include_usage:
                yield _event(chunk(self._head, [], usage=self._usage()))
        except ProtocolError as error:
            yield _event(error.body)
        yield b"data: [DONE]\n\n"

    async def _run(self) -> AsyncIterator[tuple[int, Piece]]:
        n_left = len(self._jobs)
        while n_left:
            index, piece = await self._pieces.get()
            if isinstance(piece.ended, ProtocolError):
                raise piece.ended
            self._n_written += len(piece.tokens)
            n_left -= piece.ended is not None
            yield index, piece

    async def _collected(self) -> Mapping[str, Any]:
        pieces: list[list[Piece]] = [[] for _ in self._jobs]
        async for index, piece in self._run():
            pieces[index].append(piece)
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(piece.text for piece in written)},
                "logprobs": self._log_probs([token for piece in written for token in piece.tokens]),
                "finish_reason": written[-1].ended,
            }
            for index, written in enumerate(pieces)
        ]
        return completion(self._head, choices, self._usage())

    def _event(
        self, index: int, delta: Mapping[str, str], piece: Piece | None = None, reason: str | None = None
    ) -> bytes:
        log_probs = self._log_probs(piece.tokens) if piece and piece.tokens else None
        return _event(
            chunk(self._head, [{"index": index, "delta": delta, "logprobs": log_probs, "finish_reason": reason}])
        )

    def _log_probs(self, tokens: Any) -> Mapping[str, Any] | None:
        return None if self._wish.n_likeliest is None else token_entries(self._engine.tokenizer, tokens)

    def _usage(self) -> dict[str, int]:
        return usage(len(self._jobs[0].prompt), self._n_written)


class _Stream(StreamingResponse):
    """A stream of events; however it ends, the engine lets go of its texts."""

    def __init__(self, answer: _Answer):
        super().__init__(answer.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + as_json(content) + b"\n\n"


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
