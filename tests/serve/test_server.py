"""The official client against the server: the same texts as `generate` alone, in streams and whole, for many at once."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import jsonschema
import openai
import pytest
import torch
from tiny_server import N_COLUMNS, N_ROWS, make_tiny, running, wait_until

from course_lib.inference import Sampling, generate
from course_lib.inference.generation import chat_prompt, tokenless_ids
from course_lib.serve import Engine
from course_lib.serve.engine import Job
from course_lib.serve.protocol import ProtocolError
from course_lib.serve.writer import Writer

LONG = 150
GREEDY = Sampling()
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "is_nobler": {"type": "boolean"}},
    "required": ["name", "is_nobler"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def chat(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[turn % 2], "content": content} for turn, content in enumerate(contents)]


def alone(tiny, messages, max_tokens: int, sampling=GREEDY, seed: int = 0) -> tuple[str, int, list[int]]:
    """What `generate` writes: the text, the length of the prompt, the ids."""
    model, tokenizer = tiny
    prompt = tokenizer.encode(chat_prompt(tokenizer, messages))
    options = {"stop_ids": tokenizer.end_ids, "banned_ids": tokenless_ids(model, tokenizer)}
    generator = torch.Generator().manual_seed(seed)
    ids = list(generate(model, prompt, max_tokens, sampling, **options, generator=generator))
    return tokenizer.decode_bytes(ids).decode(errors="replace"), len(prompt), ids


def ask(client, messages, **options):
    return client.chat.completions.create(model="tiny", messages=messages, **options)


# ---------------------------------------------------------------- what is written


def test_an_answer_is_what_generate_writes(client, tiny):
    messages = chat("To be", "or not", "to be")
    answer = ask(client, messages, temperature=0, max_tokens=20)
    text, n_prompt, ids = alone(tiny, messages, 20)
    assert answer.choices[0].message.content == text and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == ("length" if len(ids) == 20 else "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (n_prompt, len(ids))
    assert answer.object == "chat.completion" and answer.model == "tiny" and answer.choices[0].logprobs is None


def test_choices_are_drawn_by_their_seeds(client, tiny):
    options = {"temperature": 0.8, "top_p": 0.9, "max_completion_tokens": 12, "n": 3, "seed": 5}
    answers = [ask(client, chat("To be"), **options) for _ in range(2)]
    texts = [[choice.message.content for choice in answer.choices] for answer in answers]
    sampling = Sampling(0.8, top_p=0.9)
    assert texts[0] == texts[1] == [alone(tiny, chat("To be"), 12, sampling, 5 + index)[0] for index in range(3)]
    assert len({*texts[0]}) > 1 and [choice.index for choice in answers[0].choices] == [0, 1, 2]
    unseeded = {ask(client, chat("To be"), max_tokens=12).choices[0].message.content for _ in range(4)}
    assert len(unseeded) > 1


def test_a_stream_brings_the_same_piece_by_piece(client, tiny):
    options = {"temperature": 0.8, "max_tokens": 30, "n": 2, "seed": 1}
    whole = ask(client, chat("the question"), **options)
    chunks = list(ask(client, chat("the question"), **options, stream=True, stream_options={"include_usage": True}))
    assert len(chunks) > 10 and len({chunk.id for chunk in chunks}) == 1
    *parts, last = chunks
    assert last.choices == [] and last.usage == whole.usage
    for choice in whole.choices:
        mine = [part.choices[0] for part in parts if part.choices[0].index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(part.delta.content or "" for part in mine) == choice.message.content
        assert [part.finish_reason for part in mine if part.finish_reason] == [choice.finish_reason]


def test_nothing_is_shown_from_a_stop_string_on(client, tiny):
    text, _, ids = alone(tiny, chat("nobler"), 40)
    stop = text[9:13]
    expected = text[: text.index(stop)]
    options = {"temperature": 0, "max_tokens": 40, "stop": ["never there", stop]}
    answer = ask(client, chat("nobler"), **options)
    assert answer.choices[0].message.content == expected and answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < len(ids)
    stream = list(ask(client, chat("nobler"), **options, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in stream) == expected


def test_log_probabilities_are_the_models(client, tiny):
    model, tokenizer = tiny
    messages = chat("To be")
    answer = ask(client, messages, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3)
    _, n_prompt, ids = alone(tiny, messages, 8)
    prompt = tokenizer.encode(chat_prompt(tokenizer, messages))
    with torch.no_grad():
        expected = model(torch.tensor([prompt + ids]))[0, n_prompt - 1 : -1].log_softmax(-1)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == len(ids)
    for entry, id, log_probs in zip(entries, ids, expected, strict=True):
        assert entry.logprob == pytest.approx(float(log_probs[id]), abs=1e-3)
        assert bytes(entry.bytes) == tokenizer.decode_bytes([id])
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(log_probs.topk(3).values.tolist(), abs=1e-3)
    stream = ask(client, messages, temperature=0, max_tokens=8, logprobs=True, stream=True)
    streamed = [entry for part in stream if part.choices[0].logprobs for entry in part.choices[0].logprobs.content]
    assert [entry.bytes for entry in streamed] == [entry.bytes for entry in entries]


def test_answers_keep_to_a_schema(client):
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA, "strict": True}}
    answer = ask(client, chat("To be"), response_format=wanted, n=8, temperature=1.5, max_tokens=100)
    for choice in answer.choices:
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
        assert choice.finish_reason == "stop"


def test_answers_are_an_object(client):
    answer = ask(client, chat("To be"), response_format={"type": "json_object"}, n=8, seed=0, max_tokens=200)
    whole = [choice.message.content for choice in answer.choices if choice.finish_reason == "stop"]
    assert whole and all(isinstance(json.loads(text), dict) for text in whole)
    assert any(choice.message.content.strip("{} \n") for choice in answer.choices)  # not the empty one alone


def test_the_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "course"
    with pytest.raises(openai.NotFoundError, match="this server has the model 'tiny'"):
        ask(client.with_options(), chat("a"), extra_body={"model": "gpt-4"})


# ---------------------------------------------------------------- many at once


def test_thirty_clients_at_once_each_get_their_own_text(served, tiny):
    def one(number: int) -> bool:
        messages, options = chat(f"To be {number}", "or", "not " * (number % 5)), {"temperature": number % 3 / 2}
        with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0, timeout=120) as client:
            answer = ask(client, messages, max_tokens=20 + number, seed=number, stream=number % 2 == 0, **options)
            text = (
                answer.choices[0].message.content
                if number % 2
                else "".join(part.choices[0].delta.content or "" for part in answer)
            )
        return text == alone(tiny, messages, 20 + number, Sampling(options["temperature"], top_p=1.0), number)[0]

    with ThreadPoolExecutor(30) as pool:
        assert all(pool.map(one, range(30)))
    wait_until(lambda: served[1].n_busy == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(served, tiny, stream):
    engine, body = served[1], {"model": "tiny", "messages": chat("a"), "max_tokens": LONG, "stream": stream, "n": 8}
    slow = threading.Event()
    step = engine._batch.step
    engine._batch.step = lambda: slow.wait(0.05) or step()  # so that it goes away in the middle
    try:
        with (
            httpx.Client(timeout=60 if stream else 0.5) as client,
            client.stream("POST", f"{served[0]}/v1/chat/completions", json=body) as answer,
        ):
            lines = answer.iter_lines()  # kept: the connection is closed with it
            next(lines)
            wait_until(lambda: len(engine._batch.texts) > 1)
    except httpx.ReadTimeout:
        assert not stream and engine.n_busy > 1  # one may have ended by itself
    wait_until(lambda: engine.n_busy == 0, seconds=LONG * 0.05 / 2)
    engine._batch.step = step
    assert not engine._batch.texts


def test_a_full_queue_is_said_and_does_not_last(tiny):
    with running(*tiny, max_waiting=2) as (address, engine):
        step, go_on = engine._batch.step, threading.Event()
        engine._batch.step = lambda: go_on.wait(20) and step()
        body = {"model": "tiny", "messages": chat("a"), "max_tokens": 3}
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(httpx.post, f"{address}/v1/chat/completions", json=body | {"n": 2}, timeout=60)
            wait_until(lambda: len(engine._batch.texts) == 2)
            second = pool.submit(httpx.post, f"{address}/v1/chat/completions", json=body | {"n": 2}, timeout=60)
            wait_until(lambda: len(engine._waiting) == 2)
            refused = httpx.post(f"{address}/v1/chat/completions", json=body)
            assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_limit_exceeded"
            go_on.set()
            assert first.result().status_code == second.result().status_code == 200
        assert httpx.post(f"{address}/v1/chat/completions", json=body).status_code == 200


def test_a_failing_step_is_said_to_those_whom_it_concerns_and_the_server_goes_on(tiny):
    with running(*tiny) as (address, engine):
        step = engine._batch.step

        def broken():
            raise FloatingPointError("the model's logits are no numbers")

        engine._batch.step = broken
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="logits are no numbers"):
            ask(client, chat("a"), max_tokens=3)
        with pytest.raises(openai.APIError, match="logits are no numbers"):
            list(ask(client, chat("a"), max_tokens=3, stream=True))
        engine._batch.step = step
        assert ask(client, chat("a"), max_tokens=3).choices
        client.close()


# ---------------------------------------------------------------- who is served, and the end


def test_with_a_token_only_those_who_send_it_are_served(tiny):
    token = "to be or not to be"
    with running(*tiny, token=token) as (address, _):
        for key in ("none", token[:-1], token + "x", "é"):
            answer = httpx.get(f"{address}/v1/models", headers={"authorization": f"Bearer {key}".encode()})
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{address}/v1/models").status_code == 401
        with openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                ask(client, chat("a"))
            assert ask(client.with_options(api_key=token), chat("a"), max_tokens=2).choices


def test_a_server_that_stops_lets_what_is_written_end(tiny):
    with running(*tiny) as (address, _), ThreadPoolExecutor(1) as pool:
        body = {"model": "tiny", "messages": chat("a"), "max_tokens": LONG, "temperature": 0}
        answer = pool.submit(httpx.post, f"{address}/v1/chat/completions", json=body, timeout=60)
        wait_until(lambda: answer.running())
    assert answer.exception() or answer.result().status_code == 200


def test_a_closed_engine_refuses_and_tells_those_who_wait(tiny):
    engine, got = Engine(*tiny, N_ROWS, N_COLUMNS), []
    jobs = [Job([1], {"max_new_tokens": 200}, Writer(tiny[1]), got.append) for _ in range(20)]
    engine.submit(jobs)
    engine.close()
    engine.close()
    assert sum(isinstance(piece.ended, ProtocolError) and piece.ended.status == 503 for piece in got) == 20
    with pytest.raises(ProtocolError, match="stopping"):
        engine.submit(jobs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "give a token"),
        (["--host", "example.com"], "give a token"),
        (["--host", "0.0.0.0", "--token", "short"], "at least 12"),
        (["--host", "0.0.0.0", "--token", ""], "at least 12"),
        (["--port", "70000"], "--port"),
        (["--texts", "0"], "must be positive"),
        (["--memory", "nan"], "must be positive"),
        (["--model", "no-such-model"], "neither a known model"),
    ],
)
def test_the_command_refuses_what_is_unsafe_or_cannot_be(options, message):
    environment = os.environ | {"COURSE_TOKEN": ""}  # as good as none
    run = subprocess.run(
        [sys.executable, "-m", "course_lib.serve", *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode and message in run.stderr and "Traceback" not in run.stderr


# ---------------------------------------------------------------- tokens to text


@pytest.mark.parametrize("stops", [(), ("be",), ("to be",), ("b", "to"), ("ququ", "estion"), ("é",), ("\ufffd",)])
def test_the_writer_shows_the_text_up_to_the_first_stop_whatever_the_tokens_are(stops):
    text = "or not to be: é, that is the ququestion"
    data = text.encode() + b"\xc3"
    tokenizer = make_tiny()[1]
    whole = data.decode(errors="replace")
    places = [place for stop in stops if (place := whole.find(stop)) >= 0]
    by_byte = {tokenizer.decode_bytes([id]): id for id in tokenizer.vocab.values()}
    writer, pieces = Writer(tokenizer, stops), []
    for byte in data:
        pieces.append(writer.write(by_byte[bytes([byte])]))
        if writer.stopped:
            break
    else:
        pieces.append(writer.end())
    assert "".join(pieces) == (whole[: min(places)] if places else whole)
    assert writer.stopped == bool(places)
