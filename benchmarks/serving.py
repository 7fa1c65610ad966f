"""Thirty clients at once on one server: how many tokens it writes a second, against one client, and how long they wait.

`python -m course_lib.serve` with SmolLM2-135M-Instruct in a process of its own, asked by the official `openai` client. Each
reply is compared with that of the model alone, and it is measured how soon the place of a client that goes away is another's.
Prints the table of benchmarks/README.md, in some four minutes on two cores.
"""

import asyncio
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import openai
import torch

from course_lib import checkpoints
from course_lib.inference import generate
from course_lib.inference.generation import chat_prompt, tokenless_ids

MODEL = "smollm2-135m-instruct"
N_ALONE, NEW_TOKENS = 6, 64
TOWNS = (
    "Rome", "Paris", "Athens", "Cairo", "Lima", "Oslo", "Kyoto", "Delhi", "Vienna", "Prague", "Lisbon", "Dublin", "Madrid",
    "Berlin", "Warsaw", "Havana", "Quito", "Nairobi", "Sydney", "Boston", "Venice", "Tunis", "Seoul", "Hanoi", "Bern",
    "Accra", "Riga", "Baku", "Doha", "Suva",
)  # fmt: skip
ASKED = (
    "Tell me what a traveller who comes to {} ought to see, and why.",
    "Write a short story that begins in {}, on a morning in spring, in the house of a clockmaker with three daughters.",
    "What is {} known for?",
)
PROMPTS = [ASKED[i % len(ASKED)].format(town) for i, town in enumerate(TOWNS)]
N_CLIENTS = len(PROMPTS)


@dataclass(frozen=True)
class Reply:
    """What one client got, and when it asked and saw the first token, on this process's clock, in seconds."""

    text: str
    n_tokens: int
    asked: float
    first: float

    @property
    def to_first(self) -> float:
        return self.first - self.asked


# ---------------------------------------------------------------- a server and its clients


@contextmanager
def server(*options: str) -> Iterator[str]:
    """Start a server, and yield its address when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-m", "course_lib.serve", "--model", MODEL, "--port", port, *options])
    address = f"http://127.0.0.1:{port}/v1"
    try:
        while not answers(address):
            if process.poll() is not None:
                raise RuntimeError("the server did not start")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/models").is_success
    except httpx.ConnectError:
        return False


def client(address: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0, timeout=600)


async def ask(address: str, prompt: str) -> Reply:
    """Ask as a client of its own, with a connection of its own."""
    asked, first, pieces, n_tokens = time.perf_counter(), 0.0, [], 0
    async with client(address) as own:
        stream = await own.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=NEW_TOKENS,
            stream=True, stream_options={"include_usage": True},
        )  # fmt: skip
        async for event in stream:
            n_tokens = event.usage.completion_tokens if event.usage else n_tokens
            if event.choices and event.choices[0].delta.content:
                first = first or time.perf_counter()
                pieces.append(event.choices[0].delta.content)
    return Reply("".join(pieces), n_tokens, asked, first)


async def one_by_one(address: str) -> list[Reply]:
    return [await ask(address, prompt) for prompt in PROMPTS[:N_ALONE]]


async def all_at_once(address: str) -> list[Reply | BaseException]:
    return await asyncio.gather(*(ask(address, prompt) for prompt in PROMPTS), return_exceptions=True)


async def until_free(address: str) -> float:
    """Return the seconds from when a client goes away in the middle of a story to the first token of the one that waited."""
    async with client(address) as goes:
        stream = await goes.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": PROMPTS[1]}], temperature=0, max_tokens=1000, stream=True
        )
        for _ in range(10):
            await anext(stream)
        waiting = asyncio.create_task(ask(address, PROMPTS[0]))
        await asyncio.sleep(0.5)  # until it stands in the line
        gone = time.perf_counter()
        await stream.close()
    return (await waiting).first - gone


# ---------------------------------------------------------------- the model alone


def differences(replies: list[Reply]) -> list[float]:
    """Return for each reply that the model alone writes otherwise by how many nats its two likeliest tokens are apart there.

    A batch adds numbers up in another order than a text alone. Where two tokens are as likely but for rounding, that decides.
    """
    model, tokenizer = checkpoints.load(MODEL)
    options = {"stop_ids": tokenizer.end_ids, "banned_ids": tokenless_ids(model, tokenizer)}
    gaps = []
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        ids = tokenizer.encode(chat_prompt(tokenizer, [{"role": "user", "content": prompt}]))
        own = list(generate(model, ids, NEW_TOKENS, **options))
        if tokenizer.decode(own) == reply.text:
            continue
        said = reply.text.encode()
        same = next((n for n in range(len(own)) if not said.startswith(tokenizer.decode_bytes(own[: n + 1]))), len(own))
        with torch.inference_mode():
            logits = model(torch.tensor([ids + own[:same]]))[0, -1].float()
        first, second = logits.topk(2).values.tolist()
        gaps.append(first - second)
    return gaps


def main() -> None:
    with server("--texts", "32") as address:
        asyncio.run(ask(address, PROMPTS[0]))  # warm
        start = time.perf_counter()
        alone = asyncio.run(one_by_one(address))
        alone_speed = sum(reply.n_tokens for reply in alone) / (time.perf_counter() - start)
        start = time.perf_counter()
        got = asyncio.run(all_at_once(address))
        seconds = time.perf_counter() - start
    replies = [reply for reply in got if isinstance(reply, Reply)]
    speed, firsts = sum(reply.n_tokens for reply in replies) / seconds, [reply.to_first for reply in replies]
    with server("--texts", "1") as address:
        freed = [asyncio.run(until_free(address)) for _ in range(3)]
    print(f"torch {torch.__version__}, openai {openai.__version__}; up to {NEW_TOKENS} tokens a reply, greedy\n")
    print("| clients | tokens/s, all together | first token, median | worst | refused |\n|---|---|---|---|---|")
    lone = [reply.to_first for reply in alone]
    print(f"| 1 | {alone_speed:.1f} | {statistics.median(lone):.2f} s | {max(lone):.2f} s | 0 |")
    print(
        f"| {N_CLIENTS} | {speed:.1f} ({speed / alone_speed:.2f} ×) | {statistics.median(firsts):.2f} s | {max(firsts):.2f} s "
        f"| {len(got) - len(replies)} |"
    )
    print(
        f"\nthe place of a client that goes away is another's, first token and all, after {statistics.median(freed):.2f} s"
    )
    gaps = differences(replies) if len(replies) == len(got) else None
    if gaps is not None:
        print(
            f"replies other than the model's alone: {len(gaps)} of {len(replies)}"
            + (f", where two tokens are at most {max(gaps):.1g} nats apart" if gaps else "")
        )


if __name__ == "__main__":
    main()
