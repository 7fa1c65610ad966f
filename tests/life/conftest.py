"""Fixtures that several test files of this folder share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_life import forget, shrink

from course_lib.devices import single_thread


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """The folder in which a small recipe keeps its stages."""
    place = tmp_path_factory.mktemp("replies")
    with pytest.MonkeyPatch.context() as patch, single_thread():
        shrink(patch, place)
        yield place
    forget()
