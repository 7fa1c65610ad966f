"""Malformed, oversized and hostile requests: each gets the protocol's error, and the server goes on as before."""

import json
import socket

import httpx
import pytest

from course_lib.serve.app import LARGEST_BODY

HELLO = [{"role": "user", "content": "Hello"}]
GOOD = {"model": "tiny", "messages": HELLO, "max_tokens": 2}


def changed(**fields) -> bytes:
    return json.dumps(GOOD | fields).encode()


def with_schema(schema) -> bytes:
    return changed(response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}})


def nested(depth: int) -> object:
    inner: object = {"type": "integer"}
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    return inner


CASES = {
    "nothing": (b"", 400, None),
    "no JSON": (b"{", 400, None),
    "a list": (b"[]", 400, None),
    "a string": (b'"hello"', 400, None),
    "null": (b"null", 400, None),
    "no UTF-8": (b'{"model": "\xff\xfe"}', 400, None),
    "UTF-16": (changed().decode().encode("utf-16"), 400, None),
    "a byte order mark": (b"\xef\xbb\xbf" + changed(), 400, None),
    "zeros": (b"\0" * 100, 400, None),
    "NaN": (changed(temperature=float("nan")), 400, None),
    "infinity": (changed(top_p=float("inf")), 400, None),
    "1e999": (changed(temperature=12345).replace(b"12345", b"1e999"), 400, "temperature"),
    "an integer of 10,000 digits": (changed(seed=12345).replace(b"12345", b"9" * 10_000), 400, None),
    "an integer of 100 digits": (changed(seed=10**100), 400, "seed"),
    "100,000 brackets": (b"[" * 100_000, 400, None),
    "100,000 objects": (b'{"a":' * 100_000, 400, None),
    "brackets where a number should be": (
        changed(temperature=5).replace(b": 5", b": " + b"[" * 500 + b"]" * 500),
        400, "temperature",
    ),
    "a megabyte and more": (changed(user="x" * LARGEST_BODY), 413, None),
    "no model": (json.dumps({"messages": HELLO}).encode(), 400, "model"),
    "another model": (changed(model="gpt-4"), 404, "model"),
    "a model of half a character": (changed(model="\ud800"), 400, "model"),
    "a model that is a number": (changed(model=1), 400, "model"),
    "no messages": (json.dumps({"model": "tiny"}).encode(), 400, "messages"),
    "no message": (changed(messages=[]), 400, "messages"),
    "messages that are a text": (changed(messages="Hello"), 400, "messages"),
    "a message that is a text": (changed(messages=["Hello"]), 400, "messages[0]"),
    "a message without a role": (changed(messages=[{"content": "a"}]), 400, "messages[0].role"),
    "an unknown role": (changed(messages=[{"role": "king", "content": "a"}]), 400, "messages[0].role"),
    "a role that is a list": (changed(messages=[{"role": [], "content": "a"}]), 400, "messages[0].role"),
    "a tool's message": (changed(messages=[{"role": "tool", "content": "a"}]), 400, "messages[0].role"),
    "no content": (changed(messages=[{"role": "user"}]), 400, "messages[0].content"),
    "content that is null": (changed(messages=[{"role": "user", "content": None}]), 400, "messages[0].content"),
    "content that is an object": (changed(messages=[{"role": "user", "content": {}}]), 400, "messages[0].content"),
    "half a character": (changed(messages=[{"role": "user", "content": "\udc00"}]), 400, "messages[0].content"),
    "a picture": (
        changed(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        400, "messages[0].content[0]",
    ),
    "tool calls in a message": (
        changed(messages=[{"role": "assistant", "content": "a", "tool_calls": [{}]}]), 400, "messages[0]",
    ),
    "a prompt longer than the context": (changed(messages=[{"role": "user", "content": "word " * 9000}]), 400, "messages"),
    "more tokens than the context": (changed(max_tokens=10_000), 400, "messages"),
    "no tokens": (changed(max_tokens=0), 400, "max_tokens"),
    "fewer than no tokens": (changed(max_completion_tokens=-1), 400, "max_completion_tokens"),
    "half a token": (changed(max_tokens=1.5), 400, "max_tokens"),
    "tokens as text": (changed(max_tokens="2"), 400, "max_tokens"),
    "both limits": (changed(max_completion_tokens=2), 400, "max_tokens"),
    "a negative temperature": (changed(temperature=-1), 400, "temperature"),
    "too hot": (changed(temperature=2.1), 400, "temperature"),
    "a temperature that is true": (changed(temperature=True), 400, "temperature"),
    "top_p of 0": (changed(top_p=0), 400, "top_p"),
    "top_p above 1": (changed(top_p=1.1), 400, "top_p"),
    "no choice": (changed(n=0), 400, "n"),
    "a million choices": (changed(n=1_000_000), 400, "n"),
    "a seed that is text": (changed(seed="1"), 400, "seed"),
    "stream as a text": (changed(stream="yes"), 400, "stream"),
    "stream options that are a list": (changed(stream_options=[]), 400, "stream_options"),
    "an empty stop": (changed(stop=""), 400, "stop"),
    "five stops": (changed(stop=["a"] * 5), 400, "stop"),
    "a stop that is a number": (changed(stop=[1]), 400, "stop"),
    "a stop that is an object": (changed(stop={"a": 1}), 400, "stop"),
    "a stop of half a character": (changed(stop="\ud800"), 400, "stop"),
    "a stop as long as a book": (changed(stop="x" * 10_000), 400, "stop"),
    "logprobs as a number": (changed(logprobs=5), 400, "logprobs"),
    "top_logprobs alone": (changed(top_logprobs=5), 400, "top_logprobs"),
    "a thousand top_logprobs": (changed(logprobs=True, top_logprobs=1000), 400, "top_logprobs"),
    "an unknown format": (changed(response_format={"type": "xml"}), 400, "response_format.type"),
    "a format that is a text": (changed(response_format="json"), 400, "response_format"),
    "a schema that is missing": (changed(response_format={"type": "json_schema"}), 400, "response_format.json_schema.schema"),
    "a schema that is a list": (with_schema([]), 400, "response_format.json_schema.schema"),
    "a schema of an unknown type": (with_schema({"type": "king"}), 400, "response_format"),
    "a schema that nothing meets": (with_schema({"enum": []}), 400, "response_format"),
    "a schema with a broken pattern": (with_schema({"type": "string", "pattern": "("}), 400, "response_format"),
    "a schema that refers to nothing": (with_schema({"$ref": "#/nowhere"}), 400, "response_format"),
    "a schema from the network": (with_schema({"$ref": "http://127.0.0.1:1/schema"}), 400, "response_format"),
    "a schema that needs more tokens": (with_schema({"type": "string", "minLength": 50}), 400, "max_tokens"),
    "a schema 300 deep": (with_schema(nested(300)), 400, "response_format"),
    "tools": (changed(tools=[{"type": "function"}]), 400, "tools"),
    "a penalty": (changed(presence_penalty=1), 400, "presence_penalty"),
    "a bias": (changed(logit_bias={"1": 100}), 400, "logit_bias"),
    "an unknown field": (changed(colour="blue"), 400, "colour"),
    "an unknown field of half a character": (changed(**{"\ud800": 1}), 400, "\ud800"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request_gets_the_protocols_error_and_nothing_dies(served, name):
    body, status, param = CASES[name]
    answer = httpx.post(
        f"{served[0]}/v1/chat/completions", content=body, headers={"content-type": "application/json"}, timeout=60
    )
    check_error(answer, status)
    assert answer.json()["error"]["param"] == param
    assert is_alive(served[0])


def check_error(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] and len(error["message"]) < 600
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")


def is_alive(address: str) -> bool:
    answer = httpx.post(f"{address}/v1/chat/completions", json=GOOD, timeout=60)
    return answer.status_code == 200 and answer.json()["choices"][0]["finish_reason"] in ("length", "stop")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 404),
        ("GET", "/v1/../../etc/passwd", {}, 404),
        ("GET", "/v1/models/another", {}, 404),
        ("GET", "/v1/chat/completions", {}, 405),
        ("DELETE", "/v1/models", {}, 405),
        ("POST", "/v1/chat/completions", {"content-type": "text/plain"}, 415),
        ("POST", "/v1/chat/completions", {"content-type": "multipart/form-data; boundary=x"}, 415),
        ("GET", "/v1/models", {"host": "evil.example"}, 403),
        ("GET", "/v1/models", {"host": ""}, 403),
        ("GET", "/v1/models", {"host": "127.0.0.1.evil.example:80"}, 403),
        ("GET", "/v1/models", {"host": "127.0.0.1:80:80"}, 403),
        ("GET", "/v1/models", {"host": "192.168.0.1"}, 403),
    ],
)
def test_other_addresses_methods_and_names_are_refused(served, method, path, headers, status):
    check_error(httpx.request(method, served[0] + path, headers=headers), status)
    assert is_alive(served[0])


@pytest.mark.parametrize("host", ["[::1]", "[::1]:8000", "::1", "LocalHost:8000", "localhost:", "127.0.0.2"])
def test_every_name_of_this_machine_for_itself_is_answered(served, host):
    assert httpx.get(f"{served[0]}/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\xff\x01\x00",
        b"GET\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\n\r\n{",
    ],
    ids=["TLS", "no version", "a negative length", "a broken chunk", "an endless header", "a body that stops"],
)
def test_what_is_no_http_and_what_breaks_off_does_no_harm(served, data):
    host, port = served[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(data)
    assert is_alive(served[0])


def test_what_looks_odd_but_is_fine_is_answered(served):
    fine = [
        changed(messages=[{"role": "user", "content": "\0"}]),
        changed(messages=[{"role": "user", "content": ""}]),
        changed(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]),
        changed(messages=[{"role": "developer", "content": "Be brief."}, *HELLO]),
        changed(messages=[{"role": "assistant", "content": "a", "tool_calls": None, "refusal": None}, *HELLO]),
        changed(seed=-(2**63)), changed(seed=2**63 - 1, n=8), changed(temperature=0), changed(temperature=1e-300),
        changed(stop=None, tools=[], presence_penalty=0.0, user="me", stream_options=None),
    ]  # fmt: skip
    for body in fine:
        answer = httpx.post(
            f"{served[0]}/v1/chat/completions", content=body, headers={"content-type": "application/json"}, timeout=60
        )
        assert answer.status_code == 200, answer.text
