"""JupyterLab and Notebook 7 in a real browser, for the widgets' tests.

One server and one browser serve all tests; every notebook gets its own page and its own kernel. Nothing may leave the machine:
`no_request_leaves` fails the test otherwise.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import urllib3
from playwright.sync_api import BrowserContext, Locator, Page, Playwright, expect

SCREENSHOTS = Path(__file__).parents[1] / "artifacts" / "screenshots"
QUIET_CHROMIUM = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_TIMEOUT = 60_000  # ms: two busy cores need a while to start a kernel and import PyTorch
expect.set_options(timeout=20_000)  # for all else: another browser, and its kernel, run beside this one


@dataclass(frozen=True)
class Server:
    """A running Jupyter server: its address, its token, and the folder of its notebooks."""

    url: str
    token: str
    folder: Path


@contextmanager
def jupyter_server(folder: Path, **environment: str) -> Iterator[Server]:
    """Run a Jupyter server on a free local port, with settings of its own and without JupyterLab's news."""
    settings = folder / "settings"
    (settings / "labconfig").mkdir(parents=True)
    disabled = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (settings / "labconfig" / "page_config.json").write_text(json.dumps(disabled))
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}", secrets.token_hex(16), notebooks)
    names = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
        "IPYTHONDIR",
    )
    own_folders = {name: str(settings if name == "JUPYTER_CONFIG_DIR" else folder / name.lower()) for name in names}
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": notebooks,
        "ServerApp.allow_root": True,
        "LabApp.extension_manager": "readonly",
        "IdentityProvider.token": server.token,
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | own_folders | environment, stdout=log, stderr=log)
        try:
            patience = urllib3.Retry(total=200, backoff_factor=0.1, backoff_max=0.5)
            urllib3.request("GET", f"{server.url}/api", retries=patience)
            yield server
        finally:
            process.terminate()  # the server ends its kernels first
            process.wait(timeout=30)


def launch_chromium(playwright: Playwright, profile: Path | str = "") -> BrowserContext:
    """Start the system's Chromium, quiet on the network.

    It begins with what lies in the folder `profile`, and leaves there what it fetched and compiled: a later page of JupyterLab
    opens in two thirds of the time. Without one, it begins and ends with nothing.
    """
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        raise RuntimeError(
            "The widgets' tests need a browser, and there is no `chromium` on the PATH: install it, as README says."
        )
    return playwright.chromium.launch_persistent_context(profile, executable_path=executable, args=QUIET_CHROMIUM)


@dataclass
class Notebooks:
    """Opens notebooks in new pages, runs them, and remembers every request that the pages made."""

    server: Server
    browser: BrowserContext
    requests: list[str] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)
    count: int = 0

    def open(
        self, cells: list[str], *, app: str = "lab", width: int = 1400, height: int = 1100, wait: bool = True, **emulate
    ) -> Page:
        """Write a notebook of code `cells`, open it in `app` ("lab" or "notebook"), run it all; return its page when done.

        With `wait` off, return it as soon as the cells are told to run. `emulate` goes to the page's `emulate_media`:
        `reduced_motion="reduce"`, `color_scheme="dark"`, ...
        """
        theme = f"{self.server.url}/lab/api/settings/@jupyterlab/apputils-extension:themes"
        urllib3.request("PUT", theme, headers=self.headers, json={"raw": "{}"})  # forgets what an earlier page chose
        self.count += 1
        path = f"test_{self.count}.ipynb"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.server.folder / path)
        page = self.browser.new_page()
        self.pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(**emulate)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))
        place = f"doc/workspaces/{self.count}/tree/{path}" if app == "lab" else f"notebooks/{path}"
        with page.expect_websocket(lambda socket: "/channels" in socket.url, timeout=START_TIMEOUT):  # to the kernel
            page.goto(f"{self.server.url}/{place}?token={self.server.token}")
        start_all(page)
        if wait:
            wait_for_all(page)
        return page

    def close(self) -> None:
        """Close every page and end every kernel."""
        for page in self.pages:
            page.close()
        kernels = urllib3.request("GET", f"{self.server.url}/api/kernels", headers=self.headers).json()
        for kernel in kernels:
            urllib3.request("DELETE", f"{self.server.url}/api/kernels/{kernel['id']}", headers=self.headers)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"token {self.server.token}"}


def start_all(page: Page) -> None:
    """Run every cell of the open notebook, once its kernel is ready."""
    expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_attached(timeout=START_TIMEOUT)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def wait_for_all(page: Page) -> None:
    """Wait until every cell of the open notebook has ended."""
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt")
    expect(prompts).to_have_text([re.compile(r"\[\d+\]:")] * prompts.count(), timeout=START_TIMEOUT)


def use_theme(page: Page, name: str) -> None:
    """Switch the page to JupyterLab's theme called `name` through the menu."""
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.get_by_text("Theme", exact=True).hover()
    page.get_by_text(name, exact=True).click()
    expect(page.locator(f"body[data-jp-theme-name='{name}']")).to_be_attached()
    expect(page.locator("#jupyterlab-splash")).to_have_count(0)


def shut_down_kernel(page: Page) -> None:
    """End the open notebook's kernel through the menu; return when it is gone: until then it may still answer."""
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
    expect(page.get_by_role("button", name="No Kernel", exact=True)).to_be_visible()


def cut_off(parts: list[Locator]) -> list[Locator]:
    """Return those of `parts` that are wider inside than they show."""
    return [part for part in parts if part.evaluate("part => part.scrollWidth > part.clientWidth")]


def check_looks(page: Page, widget: Locator, name: str, parts: str) -> None:
    """Assert that a widget's first canvas follows the theme, and that at no width anything of `parts` (CSS) is cut off.

    Pictures of it in the dark theme and at each width are kept under `name`.
    """
    canvas = widget.locator("canvas").first
    light = canvas.evaluate("canvas => canvas.toDataURL()")
    use_theme(page, "JupyterLab Dark")
    page.wait_for_function("([canvas, light]) => canvas.toDataURL() !== light", arg=[canvas.element_handle(), light])
    screenshot(widget, f"{name}_dark")
    use_theme(page, "JupyterLab Light")
    for width in (860, 1110, 1560):
        page.set_viewport_size({"width": width, "height": 1700})
        screenshot(widget, f"{name}_{width}")
        assert cut_off([widget, *widget.locator(parts).all()]) == []


def no_request_leaves(requests: list[str]) -> None:
    """Assert that every address asked for lies on this machine."""
    hosts = {urlsplit(url).hostname for url in requests if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts <= {"127.0.0.1", "localhost"}, hosts


def screenshot(target: Page | Locator, name: str) -> None:
    """Keep a picture under artifacts/screenshots/."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    target.screenshot(path=SCREENSHOTS / f"{name}.png")
