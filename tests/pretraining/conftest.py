"""What several tests of training begin with."""

from collections.abc import Iterator

import pytest
from small_corpus import write_small_corpus

from course_lib.corpora import TokenShards
from course_lib.devices import single_thread


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine, threads that wait for each other make a tiny model many times slower."""
    with single_thread():
        yield


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> TokenShards:
    return write_small_corpus(tmp_path_factory.mktemp("train") / "shards")
