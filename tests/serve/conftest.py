"""One server for all tests that leave it as it was."""

from collections.abc import Iterator

import pytest
from tiny_server import make_tiny, running

from course_lib.architecture import TransformerLM
from course_lib.serve import Engine
from course_lib.tokenization import Tokenizer


@pytest.fixture(scope="package")
def tiny() -> tuple[TransformerLM, Tokenizer]:
    return make_tiny()


@pytest.fixture(scope="package")
def served(tiny) -> Iterator[tuple[str, Engine]]:
    with running(*tiny) as address_and_engine:
        yield address_and_engine
