"""The studio as a visitor uses it: any photo in, touched, painted on, saved, and offline."""

import base64
import io
import re
import struct
import threading
import time
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HOSTILE, shown
from PIL import Image

from gidlite.media import as_image, resize, sample_photo, to_bytes
from gidlite.media.video import read_video
from gidlite.motion.spectral import spectral_to_motion
from gidlite.pipeline import GidPipeline, Sampling

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "photos"
UNSEEN = (
    "commons_tulips", "commons_dandelion", "commons_bouquet", "candle_flame_001", "curtain_001",
    "bamboo_001", "gd_rose", "gd_tree_0", "lomiri_dragonfly_leaves", "flower_field",
)  # fmt: skip


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and remembers what was asked for."""

    asked: list[str]

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.asked.append(self.path.split("?")[0].lstrip("/"))
        super().do_GET()


@pytest.fixture
def served(studio):
    """Yield the address of a host and the list of what it is asked for."""
    kind = type("Host", (Quiet,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=studio))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", kind.asked
    server.shutdown()
    server.server_close()


class Visitor:
    """Does what a visitor does, and knows what the page complained of."""

    def __init__(self, page, address):
        self.page, self.complaints = page, []
        page.set_default_timeout(120_000)
        page.on("console", lambda said: self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda asked: self.complaints.append(asked.url)
                if not asked.url.startswith((address, "data:", "blob:")) else None)  # fmt: skip
        page.goto(address)
        self.until("window.studio?.explorer?.frames > 0")

    def until(self, expression, seconds=240):
        """Wait; Playwright's own waiting needs eval, which the policy forbids."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}"
            self.page.wait_for_timeout(50)

    def rest(self):
        self.until('!document.getElementById("studio").dataset.working')

    def choose(self, name, data, kind="image/png"):
        """Choose a file, wait, and return what the page objects to."""
        self.page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})
        self.page.wait_for_timeout(100)
        self.rest()
        error = self.page.locator("#error")
        return error.inner_text() if error.is_visible() else ""

    def saved(self, button):
        with self.page.expect_download() as waiting:
            self.page.click(button)
        self.rest()
        return waiting.value

    def pixels(self):
        """Return what is drawn now, (H, W, 3)."""
        shot = """() => { const { explorer } = studio;
            explorer.painter.paint(explorer.coordinates());
            return explorer.canvas.toDataURL().split(",")[1]; }"""
        data = io.BytesIO(base64.b64decode(self.page.evaluate(shot)))
        return np.asarray(Image.open(data).convert("RGB")).astype(float)


@pytest.fixture
def visitor(browser, served, request):
    address, _ = served
    options = {"viewport": {"width": 900, "height": 800}} | getattr(request, "param", {})
    context = browser.new_context(**options)
    visit = Visitor(context.new_page(), address)
    yield visit
    context.close()
    assert visit.complaints == []


def png(image):
    stream = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(stream, "PNG")
    return stream.getvalue()


def flower(height=160, width=256):
    image = as_image(sample_photo())
    side = min(image.shape[1] / height, image.shape[2] / width)
    return resize(image[:, -int(side * height) :, : int(side * width)], height=height, width=width)


def test_the_example_is_there_before_any_network(visitor, served):
    _, asked = served
    page = visitor.page
    box = page.locator(".gidlite-canvas").bounding_box()
    before = visitor.pixels()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 10, steps=4)
    held = visitor.pixels()
    page.mouse.up()
    assert np.abs(held - before).mean() > 1
    assert not [path for path in asked if path.endswith((".onnx", ".wasm"))]
    assert "MB, once" in page.inner_text("#size")
    assert "CC BY" in page.inner_text("#credit")


def test_a_loop_is_that_of_python_for_the_same_noise(visitor):
    photo = as_image(Image.open(io.BytesIO(png(flower()))))
    assert visitor.choose("flower.png", png(photo)) == ""
    generator = torch.Generator().manual_seed(3)
    noise = [torch.randn(1, generator=generator), torch.randn(15 * 2 * 96, generator=generator)]
    q = visitor.page.evaluate(
        """async (noise) => [...(await studio.engine.ask(
          { type: "draw", frames: 150, noise: Float32Array.from(noise) }, () => {})).q]""",
        torch.cat(noise).tolist(),
    )
    pipeline = GidPipeline.from_pretrained()
    shapes = pipeline.basis(photo).spectral
    q = torch.view_as_complex(torch.tensor(q).view(150, len(shapes), 2))
    times = torch.arange(0, 150, 10)
    found = torch.einsum("pchw,tp->tchw", shapes, q[times]).real
    told = pipeline(photo, generator=torch.Generator().manual_seed(3), sampling=Sampling()).spectral
    expected = spectral_to_motion(told, num_frames=150, times=times)
    assert expected.abs().max() > 0.5
    assert (found - expected).norm() < 1e-2 * expected.norm()


def test_what_is_held_still_stands_still_and_can_be_undone(visitor):
    assert visitor.choose("flower.png", png(flower(320, 512))) == ""
    page = visitor.page
    box = page.locator(".gidlite-canvas").bounding_box()
    page.get_by_role("button", name="Hold still").click()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        page.mouse.move(box["x"] + 2, box["y"] + share * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 2, box["y"] + share * box["height"], steps=8)
        page.mouse.up()
    gain = "Math.min(...studio.explorer.data.gain.values)"
    assert page.evaluate(gain) == 0
    undo = page.get_by_role("button", name="Undo")
    for _ in range(5):
        undo.click()
    assert page.evaluate(gain) == 1 and undo.is_disabled()


def test_what_hardly_moves_can_be_told_to(visitor):
    assert visitor.choose("flower.png", png(flower(320, 512))) == ""
    page = visitor.page
    # The calmest place that lies well inside the front.
    calmest = """() => { const e = studio.explorer, { data: { front }, mobility } = e;
        const away = [-40, -20, 0, 20, 40];
        const cells = [...mobility.keys()].filter((cell) => {
          const [x, y] = front.pixel(cell);
          const inside = x > 40 && y > 40 && x < front.width - 40 && y < front.height - 40;
          return inside && away.every((i) => away.every((j) => e.sheet(x + i, y + j) === front));
        });
        const cell = cells.reduce((a, b) => mobility[a] < mobility[b] ? a : b);
        return [...front.pixel(cell), Math.sqrt(e.wanted / mobility[cell])]; }"""
    x, y, times = page.evaluate(calmest)
    far = f"Math.hypot(...studio.explorer.data.front.shape({x}, {y}))"
    before = page.evaluate(far)
    box = page.locator(".gidlite-canvas").bounding_box()
    scale = box["width"] / 512
    page.get_by_role("button", name="Let move").click()
    page.mouse.move(box["x"] + scale * (x + 0.5), box["y"] + scale * (y + 0.5))
    page.mouse.down()
    page.mouse.move(box["x"] + scale * (x + 2), box["y"] + scale * (y + 0.5))
    page.mouse.up()
    # A place that is told to goes as far as it is told, but for what the brush rounds.
    assert times > 1.2 and page.evaluate(far) == pytest.approx(times * before, rel=0.15)
    assert page.evaluate("studio.explorer.wanted >= 0.48 * studio.explorer.lively")
    page.get_by_role("button", name="Undo").click()
    assert page.evaluate(far) == pytest.approx(before)


def test_what_was_cancelled_can_be_asked_for_again(visitor):
    assert visitor.choose("a.png", png(flower())) == ""
    page = visitor.page
    page.evaluate("() => { studio.another(); studio.abort.abort(); }")
    visitor.rest()
    page.evaluate("studio.drift = null")
    page.click("#another")
    page.wait_for_timeout(100)
    visitor.rest()
    assert page.locator("#error").is_hidden()
    assert page.evaluate("studio.drift.frames") == 150


def test_videos_and_pictures_to_take_home(visitor, tmp_path):
    assert visitor.choose("my flower.png", png(flower(320, 512))) == ""
    video = visitor.saved("#video")
    assert re.fullmatch(r"my.flower.*\.(mp4|webm)", video.suggested_filename)
    path = tmp_path / video.suggested_filename
    video.save_as(path)
    clip = read_video(path)
    frames = clip.frames
    assert len(frames) == 150 and clip.fps == pytest.approx(30, abs=0.1)
    assert frames.shape[-2:] == (320, 512)
    steps = (frames.float() - frames.float().roll(1, 0)).abs().mean((1, 2, 3))
    assert steps[0] < 2.5 * steps[1:].median()
    first = torch.from_numpy(to_bytes(flower(320, 512))).float()
    assert (frames[0].movedim(0, -1).float() - first).abs().mean() < 6
    moving = Image.open(visitor.saved("#gif").path())
    assert moving.n_frames > 40 and moving.info["loop"] == 0
    page = visitor.saved("#page")
    text = Path(page.path()).read_text()
    assert page.suggested_filename.endswith(".html") and "data-gidlite" in text


def test_names_of_files_are_only_names(visitor):
    for name in HOSTILE:
        told = visitor.choose(f"{shown(name)}.txt", b"hello", kind="text/plain")
        assert "cannot be read as a photo" in told
        assert visitor.page.evaluate("document.querySelectorAll('iframe, #error *').length") == 0


def large_png(width, height):
    """Return a small file of many white pixels."""

    def chunk(kind, data):
        head = struct.pack(">I", len(data)) + kind + data
        return head + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    row = b"\0" + b"\xff" * (width // 8)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_what_is_no_photo_is_refused_in_a_sentence(visitor):
    assert "is empty" in visitor.choose("a.png", b"")
    assert "cannot be read" in visitor.choose("a.png", b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert "cannot be read" in visitor.choose("a.svg", b"<svg/>", kind="image/svg+xml")
    assert "100 megapixels" in visitor.choose("a.png", large_png(10_000, 10_000))
    assert "16 or more" in visitor.choose("a.png", png(torch.rand(3, 8, 40)))
    assert "damaged" in visitor.choose("a.png", png(torch.rand(3, 200, 300))[:5000])
    assert visitor.choose("a.png", png(flower())) == "", "the page still works"
    assert visitor.page.get_attribute("canvas.gidlite-canvas", "aria-label").startswith("Photo: a.")


def test_offline_after_the_first_photo(visitor, served):
    assert visitor.choose("a.png", png(flower())) == ""
    visitor.until("navigator.serviceWorker.controller || navigator.serviceWorker.ready")
    page = visitor.page
    page.reload()
    visitor.until("window.studio?.explorer?.frames > 0")
    assert visitor.choose("a.png", png(flower())) == ""
    _, asked = served
    page.context.set_offline(True)
    before = len(asked)
    page.reload()
    visitor.until("window.studio?.explorer?.frames > 0")
    assert page.evaluate("crossOriginIsolated")
    assert visitor.choose("b.png", png(flower(256, 160))) == ""
    assert set(asked[before:]) <= {"sw.js"}  # a browser looks for a new one


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("visitor", [PHONE], indirect=True)
def test_a_thumb_reaches_everything(visitor):
    page = visitor.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for control in page.locator("button:visible, select:visible, input[type=range]:visible").all():
        box = control.bounding_box()
        assert box["height"] >= 44 and box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert page.locator("#camera").is_visible()


@pytest.mark.parametrize("visitor", [{"reduced_motion": "reduce"}], indirect=True)
def test_reduced_motion_is_obeyed(visitor):
    assert visitor.choose("a.png", png(flower())) == ""
    visitor.page.wait_for_timeout(1500)
    before = visitor.pixels()
    visitor.page.wait_for_timeout(500)
    assert np.abs(visitor.pixels() - before).max() == 0


def test_keyboard_and_screen_reader(visitor):
    page = visitor.page
    nameless = """[...document.querySelectorAll("button, select, input, canvas[role]")].filter(
        (e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).length"""
    assert page.evaluate(nameless) == 0
    assert page.evaluate("document.querySelector('#status').ariaLive") == "polite"
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"choose", "gidlite-canvas", "another", "video", "gif", "page"} <= reached
    page.focus(".gidlite-canvas")
    page.evaluate("studio.explorer.apply({ wind: 0 })")
    page.keyboard.press("ArrowRight")
    visitor.until("studio.explorer.system.unrest() > 0")


def renderer_mb(page):
    """Return the memory of all of the browser's pages and workers."""
    found = page.context.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")
    total = 0
    for process in found["processInfo"]:
        if process["type"] == "renderer":
            status = Path(f"/proc/{process['id']}/status").read_text()
            total += int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1e3
    return total


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photos beside the repository")
def test_ten_photos_are_touched_and_take_no_more_memory_than_two(visitor):
    sizes = []
    for name in UNSEEN:
        data = (PHOTOS / f"{name}.jpg").read_bytes()
        assert visitor.choose(f"{name}.jpg", data, kind="image/jpeg") == "", name
        assert visitor.page.evaluate("studio.drift.q.every(Number.isFinite)"), name
        moved = "Math.max(...studio.drift.q.map(Math.abs))"
        assert visitor.page.evaluate(moved) > 0, name
        sizes.append(renderer_mb(visitor.page))
    assert max(sizes[-3:]) < 1.25 * sizes[1] + 60, sizes
