"""Fixtures that several test files share."""

import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from browser import Notebooks, Server, jupyter_server, launch_chromium, no_request_leaves
from hypothesis import settings
from playwright.sync_api import Page, sync_playwright

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


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator[Server]:
    """A Jupyter server for the whole session; it serves JupyterLab and Notebook 7."""
    with jupyter_server(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def open_notebook(lab: Server) -> Iterator[Callable[..., Page]]:
    """`open_notebook(cells)` runs a new notebook in JupyterLab and returns its page, see `Notebooks.open`.

    At the module's end the pages are closed, their kernels ended, and it is asserted that no request left the machine.
    """
    with sync_playwright() as playwright:
        notebooks = Notebooks(lab, launch_chromium(playwright, lab.folder.with_name("chromium")))
        yield notebooks.open
        notebooks.close()
        no_request_leaves(notebooks.requests)
