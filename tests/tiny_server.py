"""A server of a tiny model of random weights, which can chat in ChatML and has a token for every byte."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import uvicorn

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.finetuning import add_chat_format
from course_lib.serve import Engine, make_app
from course_lib.tokenization import Tokenizer, train_bpe

N_ROWS, N_COLUMNS = 8, 256


def make_tiny() -> tuple[TransformerLM, Tokenizer]:
    torch.manual_seed(0)
    tokenizer = train_bpe(
        ["To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer."], 290
    )
    model = TransformerLM(TransformerConfig(290, 32, 2, 4, 48, context_length=512)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)  # so that the likeliest token leads by more than rounding
    return add_chat_format(model, tokenizer)


@contextmanager
def running(model, tokenizer, token: str | None = None, **options) -> Iterator[tuple[str, Engine]]:
    """Run a server in a thread, and yield its address and its engine; at the end it has stopped in good order."""
    engine = Engine(model, tokenizer, N_ROWS, N_COLUMNS, **options)
    config = uvicorn.Config(
        make_app(engine, "tiny", token), port=0, log_level="warning", timeout_graceful_shutdown=5, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", engine
    finally:
        server.should_exit = True
        thread.join(timeout=20)
    assert not thread.is_alive() and not engine._thread.is_alive()


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
