"""The studio in Chromium, without a graphics card: seconds until a photo can be touched, and more.

``python -m benchmarks.studio`` builds it, serves it from this machine to a browser whose cache is
empty, and gives it a photo of 12 megapixels. Memory is that of the page's process at its peak.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from rich.console import Console

from benchmarks.commands import large_photo
from benchmarks.page import SOFTWARE
from benchmarks.rows import Row

ROOT = Path(__file__).resolve().parent.parent
WATCH = """window.longest = 0; new PerformanceObserver((list) => list.getEntries().forEach(
  ({ duration }) => (longest = Math.max(longest, duration)))).observe({ type: "longtask" })"""
STEPS = """() => { window.steps = {};
studio.tell = new Proxy(studio.tell, { apply(tell, self, [step, ...rest]) {
  const now = performance.now();
  if (window.told) steps[window.told] = (steps[window.told] ?? 0) + now - window.since;
  Object.assign(window, { told: step, since: now });
  return tell.call(self, step, ...rest);
} }) }"""


class Host(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_) -> None:
        """Say nothing."""


def until(page: Page, expression: str) -> float:
    """Wait, and return the time."""
    while not page.evaluate(f"Boolean({expression})"):
        page.wait_for_timeout(10)
    return time.perf_counter()


def peak_gb(page: Page) -> float:
    """Return the largest memory that a page's process has had."""
    session = page.context.browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    told = [Path(f"/proc/{p['id']}/status") for p in processes if p["type"] == "renderer"]
    return max(int(re.search(r"VmHWM:\s+(\d+)", path.read_text())[1]) / 1e6 for path in told)


def measure(page: Page, address: str, photo: Path) -> Iterator[Row]:
    """Yield a row for each figure."""
    page.add_init_script(WATCH)
    started = time.perf_counter()
    page.goto(address)
    seconds = until(page, "window.studio?.explorer?.frames > 0") - started
    yield Row("studio: an example to touch", seconds, "s", 2)
    page.evaluate(STEPS)
    page.evaluate("longest = 0")
    started = time.perf_counter()
    page.set_input_files("#file", photo)
    seconds = until(page, "studio.seen && studio.explorer.frames > 0") - started
    yield Row("studio: own photo, 12 megapixels", seconds, "s", 25)
    yield Row("  and its motion drawn", until(page, "studio.drift") - started, "s")
    for step, ms in page.evaluate("steps").items():
        yield Row(f"  of it {step or 'reading the photo'}", ms / 1000, "s")
    yield Row("  longest task of the page", page.evaluate("longest"), "ms", 100)
    yield Row("  memory at the peak", peak_gb(page), "GB", 1.2)
    page.wait_for_timeout(1000)
    first = page.evaluate("[studio.explorer.frames, performance.now()]")
    page.wait_for_timeout(4000)
    last = page.evaluate("[studio.explorer.frames, performance.now()]")
    fps = 1000 * (last[0] - first[0]) / (last[1] - first[1])
    yield Row("  frames while it sways", fps, "per second", 40, most=False)


def rows() -> Iterator[Row]:
    """Yield all rows."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        output = Path(folder) / "studio"
        tool = [sys.executable, ROOT / "tools" / "build_studio.py", "-o", output]
        subprocess.run(tool, check=True, stdout=subprocess.DEVNULL)
        host = ThreadingHTTPServer(("127.0.0.1", 0), partial(Host, directory=output))
        threading.Thread(target=host.serve_forever, daemon=True).start()
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=SOFTWARE)
        page = browser.new_page(viewport={"width": 552, "height": 900})
        address = f"http://127.0.0.1:{host.server_port}/"
        yield from measure(page, address, large_photo(Path(folder), 12))
        browser.close()
        host.shutdown()


if __name__ == "__main__":
    for row in rows():
        Console().print("  ".join(row.cells()), highlight=False)
