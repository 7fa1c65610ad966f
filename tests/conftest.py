"""Fixtures that several test files share."""

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from course_lib import checkpoints

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def smollm2():
    """The real model and its tokenizer, in float32."""
    return checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, as it does in a kernel: the processes of pytest-xdist ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
