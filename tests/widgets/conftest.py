"""A browser, and JupyterLab and Notebook 7 in it, for all tests of widgets."""

from collections.abc import Callable, Iterator

import pytest
from browser import Notebooks, Server, jupyter_server, launch_chromium, no_request_leaves
from forked_kernels import forked_kernels
from playwright.sync_api import BrowserContext, Page, sync_playwright


@pytest.fixture(scope="package")
def lab(tmp_path_factory) -> Iterator[Server]:
    """A Jupyter server, which serves JupyterLab and Notebook 7; its kernels have imported the course."""
    folder = tmp_path_factory.mktemp("lab")
    with forked_kernels(folder / "share"), jupyter_server(folder, JUPYTER_PATH=str(folder / "share")) as server:
        yield server


@pytest.fixture(scope="package")
def chromium(tmp_path_factory) -> Iterator[BrowserContext]:
    """A browser, in which a later page of JupyterLab opens sooner than the first."""
    with sync_playwright() as playwright, launch_chromium(playwright, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def open_notebook(lab: Server, chromium: BrowserContext) -> Iterator[Callable[..., Page]]:
    """`open_notebook(cells)` runs a new notebook in JupyterLab and returns its page, see `Notebooks.open`.

    At the module's end the pages are closed, their kernels ended, and it is asserted that no request left the machine.
    """
    notebooks = Notebooks(lab, chromium)
    yield notebooks.open
    notebooks.close()
    no_request_leaves(notebooks.requests)
