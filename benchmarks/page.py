"""The page to touch: frames per second while it swings, and what a frame takes, beside 60.

python -m benchmarks.page             # a painted scene, 512×320, 16 modes
python -m benchmarks.page PAGE...     # pages of `gidlite poke`

In Chromium without a screen or a graphics card: frames while wind moves it; CPU time of the whole
browser for one; median ms of a step of physics, of bending the meshes, of all of a frame's drawing.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

from benchmarks.rows import Row
from gidlite.dynamics import make_scene, write_page
from gidlite.motion import SpectralVolume

SOFTWARE = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
TARGET, SECONDS = 60, 4
PARTS = """() => {
  const explorer = document.querySelector("figure").explorer, { system, painter } = explorer;
  const { gl, front, back } = painter, byte = new Uint8Array(4);
  const median = (act, times) => Array.from({ length: 60 }, () => {
    const started = performance.now();
    for (let i = 0; i < times; i++) act();
    return (performance.now() - started) / times;
  }).sort((one, other) => one - other)[30];
  const copy = Object.assign(Object.create(system), {
    q: system.q.slice(), rate: system.rate.slice(), force: system.force.slice() });
  return [
    median(() => copy.step(1 / 60, 1), 50),
    median(() => [front, back].forEach((sheet) => sheet.move(system.q)), 10),
    median(() => {
      painter.paint(system.q);
      gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, byte);
    }, 1),
  ];
}"""


def painted(path: Path) -> None:
    """Write a page with a disc that sways on stripes."""
    y, x = torch.arange(320)[:, None] / 320 - 0.45, torch.arange(512) / 512 - 0.5
    disc = ((1.6 * x) ** 2 + y**2 < 0.3**2).float()
    photo = torch.lerp((0.3 + 0.1 * (90 * x).sin()).expand(3, 320, 512), torch.tensor(0.8), disc)
    turns = torch.exp(1j * torch.arange(19)) / (1 + torch.arange(19))
    volume = turns.view(-1, 1, 1, 1) * disc[::2, ::2] * torch.tensor([1, 0.3]).view(2, 1, 1)
    write_page(path, make_scene(photo, SpectralVolume(volume.to(torch.complex64)), modes=16))


def cpu_ms(ancestor: int) -> float:
    """Return the CPU time of all processes below one."""
    below, spent = {ancestor}, 0
    for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
        fields = stat.read_text().rsplit(")", 1)[1].split()
        if int(fields[1]) in below:
            below.add(int(stat.parent.name))
            spent += int(fields[11]) + int(fields[12])
    return 1000 * spent / os.sysconf("SC_CLK_TCK")


def measure(page: Page) -> list[float]:
    """Return frames per second, CPU ms a frame, and ms of physics, bending and drawing."""
    explorer = "document.querySelector('figure').explorer"
    while not page.evaluate(f"Boolean({explorer})"):
        page.wait_for_timeout(50)
    page.evaluate(f"{explorer}.apply({{ wind: 1 }})")
    page.wait_for_timeout(500)
    now = f"[{explorer}.frames, performance.now()]"
    (first, began), before = page.evaluate(now), cpu_ms(os.getpid())
    page.wait_for_timeout(1000 * SECONDS)
    (last, ended), spent = page.evaluate(now), cpu_ms(os.getpid()) - before
    frames = last - first
    return [1000 * frames / (ended - began), spent / frames, *page.evaluate(PARTS)]


def figures(pages: Sequence[Path]) -> Iterator[tuple[str, list[float]]]:
    """Yield the name of every page, by default of the painted one, and its figures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        painted(made := Path(folder, "painted.html"))
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=SOFTWARE)
        for path in pages or [made]:
            page = browser.new_page(viewport={"width": 544, "height": 700})
            page.goto(path.resolve().as_uri())
            yield path.stem, measure(page)
            page.close()
        browser.close()


def rows() -> Iterator[Row]:
    """Yield the row of the table of all benchmarks."""
    for _, (rate, _, _, _, drawn) in figures([]):
        # A browser shows 60 frames a second at most, and counts them over some seconds.
        yield Row("page, 512×320, 16 modes", round(rate), "frames per second", TARGET, most=False)
        yield Row("page, drawing of a frame", drawn, "ms", 1000 / TARGET)


def main() -> None:
    """Print a row for every page."""
    names = ("page", f"frames/s (target {TARGET})", "CPU ms", "physics", "bending", "drawn, all ms")
    table = Table(*names)
    for name, found in figures([Path(path) for path in sys.argv[1:]]):
        table.add_row(name, *(f"{value:.3g}" for value in found))
    Console().print(table)


if __name__ == "__main__":
    main()
