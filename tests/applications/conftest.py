"""Fixtures for the tests of the sandbox."""

import tempfile

import pytest
from hostile import processes_with

from course_lib.applications import sandbox

WAYS = {"bubblewrap": True, "fences": False}


@pytest.fixture(params=WAYS)
def way(request) -> bool:
    if reason := sandbox._trial(request.param):
        pytest.skip(reason)
    return WAYS[request.param]


@pytest.fixture
def nothing_is_left(tmp_path, monkeypatch):
    """No process of a sandbox, and no folder, is there after the test that was not there before."""
    home = tmp_path / "temporary"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    yield
    assert list(home.iterdir()) == []
    assert processes_with(str(home)) == {}


@pytest.fixture
def forgotten():
    """What has been tried is forgotten before the test and after it."""
    caches = (sandbox._trial, sandbox._has_landlock, sandbox.contained_by)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()
