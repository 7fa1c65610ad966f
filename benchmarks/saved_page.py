"""A saved page in a bare Chromium: when its first picture is there, and what the renderer then holds in memory.

For pages too heavy for a tool that watches the browser. The page is served from this machine and says itself when it has
drawn; nothing else listens to it.
"""

import contextlib
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import DEVNULL, Popen

import psutil
from browser import QUIET_CHROMIUM

REPORT = """<script>
const seek = () => document.querySelector("[id^=bertviz] svg :is(rect, line, path, text)")
  ? fetch("/painted?" + performance.now()) : requestAnimationFrame(seek);
seek();
</script>"""


def open_saved(html: str, scripts: dict[str, Path], chromium: str, patience: float) -> tuple[float | None, float]:
    """Return the seconds until the first picture, None if there is none within `patience`, and the renderer's MiB."""
    painted: list[float] = []
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/").removesuffix(".js")
            if name.startswith("painted"):
                painted.append(float(name.split("?")[1]) / 1000)
                done.set()
            body = scripts[name].read_bytes() if name in scripts else (REPORT + html).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript" if name in scripts else "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the browser is gone, or was ended while it loaded
                self.wfile.write(body)

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        url = f"http://127.0.0.1:{server.server_port}/view"
        options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", *QUIET_CHROMIUM]
        browser = Popen([chromium, *options, url], stdout=DEVNULL, stderr=DEVNULL)
        try:
            start = time.monotonic()
            while not done.wait(1) and time.monotonic() - start < patience and renderers(browser):
                pass
            memory = max((process.memory_info().rss for process in renderers(browser)), default=0) / 2**20
        finally:
            for process in [*psutil.Process(browser.pid).children(recursive=True), browser]:
                process.kill()
            browser.wait()
            server.shutdown()
    return (painted[0] if painted else None), memory


def renderers(browser: Popen) -> list[psutil.Process]:
    children = psutil.Process(browser.pid).children(recursive=True)
    return [process for process in children if "--type=renderer" in process.cmdline()] or [psutil.Process(browser.pid)]
