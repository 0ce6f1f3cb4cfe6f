"""Film the studio as README shows it: python tools/film_studio.py outputs/studio docs/studio.webp

A hand takes the flower, pulls it aside and lets go. Time is the browser's own, and stands still
between two pictures, so the film does not depend on how busy the machine is.
"""

import io
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright

FPS, SIZE = 12, {"width": 700, "height": 706}
BEFORE, PULL, AFTER = 4, 10, 34  # frames
FROM, TO = (0.5, 0.45), (0.42, 0.48)  # shares of the photo
SOFTWARE = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def pictures(page) -> list[Image.Image]:
    """Return the page at every frame of the film."""
    box = page.locator(".gidlite-canvas").bounding_box()
    made = []

    def at(share: float) -> tuple[float, float]:
        x, y = (a + share * (b - a) for a, b in zip(FROM, TO, strict=True))
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    page.mouse.move(*at(0))
    for frame in range(BEFORE + PULL + AFTER):
        if frame == BEFORE:
            page.mouse.down()
        if BEFORE <= frame < BEFORE + PULL:
            page.mouse.move(*at((frame - BEFORE + 1) / PULL))
        if frame == BEFORE + PULL:
            page.mouse.up()
        page.clock.run_for(1000 // FPS)
        made.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        share = min(max((frame - BEFORE + 1) / PULL, 0), 1)
        draw_finger(made[-1], *at(share), down=BEFORE <= frame < BEFORE + PULL)
    return made


def draw_finger(picture: Image.Image, x: float, y: float, *, down: bool) -> None:
    """Show where the pointer is, which no screenshot does: a ring, filled while it holds."""
    pen, radius = ImageDraw.Draw(picture, "RGBA"), 11 if down else 14
    fill = (255, 255, 255, 150) if down else None
    for grow, colour in ((2, (0, 0, 0, 160)), (0, (255, 255, 255, 230))):
        corners = [x - radius - grow, y - radius - grow, x + radius + grow, y + radius + grow]
        pen.ellipse(corners, fill=None if grow else fill, outline=colour, width=2)


def main(folder: str, output: str) -> None:
    """Serve the folder, film the page and write an animation."""
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=browser_path, args=SOFTWARE)
        page = browser.new_page(viewport=SIZE, service_workers="block")
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator(".gidlite-canvas").wait_for()
        page.clock.install()
        page.clock.pause_at("2100-01-01")
        first, *rest = pictures(page)
        browser.close()
    server.shutdown()
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    options = {"duration": 1000 // FPS, "loop": 0, "quality": 60, "method": 4}
    first.save(output, save_all=True, append_images=rest, **options)
    print(f"{output}  {Path(output).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
