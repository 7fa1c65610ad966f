"""A chat with a server: the same as with its model, and a clear word for whatever a server may do."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tiny_server import make_tiny, running, wait_until

from course_lib.applications.chat import Chat
from course_lib.applications.endpoint import Endpoint, EndpointError
from course_lib.inference import Sampling

TOKEN = "a-token-for-tests"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def event(**choice) -> bytes:
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


HI = event(delta={"content": "Hi"})


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Serve each request by `answer`; yield the address and a list of the requests."""
    requests: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                requests.append(read(connection))
                answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def read(connection: socket.socket) -> bytes:
    """Return a whole request: what is left unread would reset the connection when it is closed."""
    request = b""
    while not request.endswith(b"}"):
        request += connection.recv(2**16)
    return request


def sends(*parts: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: [connection.sendall(part) for part in parts]


def say(chat: Chat, text: str = "Hi", n: int = 8, **how) -> str:
    return "".join(chat.reply(text, n, **how))


@pytest.fixture(scope="module")
def tiny():
    return make_tiny()


def test_the_tree_is_the_same_and_so_are_the_replies(tiny):
    with running(*tiny, TOKEN) as (url, engine):
        there, here = Chat(Endpoint(f"{url}/v1", "tiny"), system="Be é kind."), Chat(*tiny, system="Be é kind.")
        with pytest.raises(EndpointError, match=r"lets nobody in without its token.*COURSE_TOKEN"):
            say(there)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COURSE_TOKEN", "no\ntoken")
            with pytest.raises(EndpointError, match="what COURSE_TOKEN holds is no token") as caught:
                say(there)
            assert "no\ntoken" not in str(caught.value)
            patch.setenv("COURSE_TOKEN", TOKEN)
            there.turns.clear()
            there.last = None
            for seed, text in enumerate(("Hi é", "More")):
                how = {"sampling": Sampling(0.8, top_p=0.9), "seed": seed}
                assert say(there, text, **how) == say(here, text, **how)
            for mine, theirs in zip(here.path[1::2], there.path[1::2], strict=True):
                assert (mine.n_prompt, mine.n_tokens, mine.ending) == (theirs.n_prompt, theirs.n_tokens, theirs.ending)
                assert theirs.n_cached is None and 0 < theirs.seconds_to_first <= theirs.seconds
            there.edit(0, "Ho")
            assert "".join(there.answer(4)) and [turn.id for turn in there.siblings(0)] == [0, 4]
            with pytest.raises(EndpointError, match=r"HTTP 400.*messages have .* tokens"):
                say(there, "x" * 400)
            there.go_to(None)
            reply = there.reply("Tell me", 200)
            next(piece for piece in reply if piece)
            there.stop()
            assert there.path[-1].ending == "stopped" and there.path[-1].n_tokens >= 1
            wait_until(lambda: engine.n_busy == 0)  # the server has let go of it, too


def test_turns_are_left_out_where_the_context_is_told(tiny):
    with running(*tiny) as (url, _engine):
        chat = Chat(Endpoint(f"{url}/v1", "tiny", context_length=200))
        for number in range(6):
            say(chat, f"message {number}")
            assert chat.path[-1].n_prompt <= 200
        assert chat.forgotten and chat.forgotten == chat.path[: len(chat.forgotten)]


def test_a_stop_before_the_first_token(tiny):
    silence = threading.Event()
    with server(lambda connection: silence.wait(20)) as (address, requests):
        chat = Chat(Endpoint(address, "x"))
        reply = chat.reply("Hi")
        assert next(reply) == "" and requests  # nothing has come, and one can do something else
        start = time.monotonic()
        chat.stop()
        assert time.monotonic() - start < 1
        assert (chat.path[-1].content, chat.path[-1].ending, chat.path[-1].n_tokens) == ("", "stopped", 0)
        silence.set()


@pytest.mark.parametrize(
    ("parts", "complaint", "kept"),
    [
        ([], "broke off", None),
        ([HEAD, HI], "broke off in the middle of the reply", "Hi"),
        ([HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked"), b"99\r\n" + HI], "broke off", "Hi"),
        ([HEAD, HI, b'data: {"error": {"message": "the model failed"}}\n\n'], "broke off: the model failed", "Hi"),
        ([HEAD, HI, b"data: {no JSON\n\n"], "does not speak the protocol", "Hi"),
        ([HEAD, b"data: " + b"[" * 10**5 + b"\n\n"], "does not speak the protocol", None),
        ([HEAD, b"data: []\n\n"], "does not speak the protocol", None),
        ([HEAD, event(delta={"content": 3})], "no part of a chat's reply", None),
        ([HEAD, event(text="Hi")], "no part of a chat's reply", None),
        ([HEAD, HI, b'data: {"usage": {"prompt_tokens": -1, "completion_tokens": "x"}}\n\n'], "no part of", "Hi"),
        ([HEAD, HI, b'data: {"usage": {"prompt_tokens": null, "completion_tokens": 1}}\n\n'], "no part of", "Hi"),
        ([HEAD, b"<html>Sign in!</html>"], "broke off in the middle", None),
        ([b"SSH-2.0-OpenSSH_9.6\r\n"], "does not speak the protocol", None),
        ([b"HTTP/1.1 307 Moved\r\nLocation: http://elsewhere.example/v1\r\n\r\n"], "has moved to http://elsewhere", None),
        ([b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\n{}"], "HTTP 429.: it does not say why", None),
        ([b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\n<b>!"], "HTTP 502.: Bad Gateway", None),
    ],
)  # fmt: skip
def test_whatever_a_server_does_is_said_and_what_came_is_kept(parts, complaint, kept):
    with server(sends(*parts)) as (address, requests):
        chat = Chat(Endpoint(address, "x"))
        with pytest.raises(EndpointError, match=complaint):
            say(chat)
        assert [turn.content for turn in chat.path] == (["Hi", kept] if kept else ["Hi"])
        assert len(requests) == 1


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"500 Broken", b"500 Broken by a-token-for-tests"])
def test_a_token_that_a_server_quotes_is_not_repeated(monkeypatch, status):
    monkeypatch.setenv("COURSE_TOKEN", TOKEN)
    body = b"" if b"by" in status else json.dumps({"error": {"message": f"no such key: {TOKEN}"}}).encode()
    head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    with server(sends(head, body)) as (address, requests):
        with pytest.raises(EndpointError) as caught:
            say(Chat(Endpoint(address, "x")))
        assert TOKEN in requests[0].decode() and TOKEN not in str(caught.value)


def test_what_servers_leave_out_is_not_made_up():
    done = event(delta={}, finish_reason="stop")
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 7}}
    with server(sends(HEAD, b": a comment\n\n", event(delta={"role": "assistant"}), HI, HI, done)) as (address, _):
        chat = Chat(Endpoint(address, "x"))
        assert say(chat) == "HiHi"
        reply = chat.path[-1]
        assert (reply.ending, reply.n_tokens, reply.n_prompt, reply.n_cached) == ("end", 2, 0, None)
    told = f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode()
    with server(sends(HEAD, HI, event(delta={}, finish_reason="length"), told)) as (address, _):
        chat = Chat(Endpoint(address, "x"))
        say(chat)
        assert (chat.path[-1].ending, chat.path[-1].n_prompt, chat.path[-1].n_cached) == ("length", 9, 7)


def test_a_server_that_is_away_or_silent():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match=r"has sent nothing for 0\.3 seconds"):
            say(Chat(Endpoint(address, "x", patience=0.3)))
    with pytest.raises(EndpointError, match=r"nothing answers at http://127.*course_lib\.serve"):
        say(Chat(Endpoint(address, "x")))


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("127.0.0.1:8000", "must look like"),
        ("ftp://127.0.0.1/v1", "must look like"),
        ("http:///v1", "must look like"),
        ("http://127.0.0.1:99999/v1", "is no address"),
        ("http://me:secret@127.0.0.1/v1", "must hold no password"),
        ("http://127.0.0.1/v1?key=secret", "must hold no password"),
        (None, "endpoint must be str"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused(address, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        Endpoint(address, "x")
    assert "secret" not in str(caught.value)


def test_what_the_protocol_has_not_is_refused():
    chat = Chat(Endpoint("http://127.0.0.1:1/v1", "x"))
    for how in ({"sampling": Sampling(1.0, top_k=3)}, {"rule": lambda ids, logits: logits}):
        with pytest.raises(ValueError, match="neither rules nor top_k"):
            say(chat, **how)
    with pytest.raises(ValueError, match="lone surrogate"):
        say(chat, "\ud800")
