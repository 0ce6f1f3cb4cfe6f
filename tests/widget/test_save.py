"""What the studio gives to take home: loops, pages and their names, in a real browser."""

import base64
import json
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from shutil import copy

import av
import numpy as np
import pytest
import torch
from conftest import HOSTILE, MODULE, shown
from PIL import Image
from test_browser import until

import gidlite.web
from gidlite.dynamics import make_scene, write_page
from gidlite.evaluate import loop_seam
from gidlite.media import read_video

pytestmark = pytest.mark.browser

COUNT, FPS = 24, 30
NAMES = ("mediabunny.min.mjs", "gifenc.esm.js")
EXPLORER = "document.querySelector('figure').explorer"

# A disc that swings over a slope, or two bars drawn by WebGL, whose pictures last for one task.
PAINT = """
const base64 = async (blob) => {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
};
function painter(kind, width, height, count) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext(kind);
  const place = (i) => 0.5 + 0.2 * Math.sin((2 * Math.PI * i) / count + 0.8);  // as fast as usual
  const paint2d = (i) => {
    const slope = context.createLinearGradient(0, 0, width, height);
    slope.addColorStop(0, "#264");
    slope.addColorStop(1, "#db8");
    context.fillStyle = slope;
    context.fillRect(0, 0, width, height);
    context.fillStyle = "#e52";
    context.beginPath();
    context.arc(place(i) * width, 0.5 * height, 0.2 * height, 0, 7);
    context.fill();
  };
  const paintGl = (i) => {
    const bars = [[0, width, 0.2], [Math.round(place(i) * width), 9, 0.9], [4, 7, 0.6]];
    for (const [left, wide, shade] of bars) {
      context.enable(context.SCISSOR_TEST);
      context.scissor(left, 0, wide, height);
      context.clearColor(shade, shade, shade, 1);
      context.clear(context.COLOR_BUFFER_BIT);
    }
  };
  return { canvas, paint: kind === "2d" ? paint2d : paintGl };
}
async function painted({ canvas, paint }, count) {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  const all = [];
  for (let i = 0; i < count; i++) {
    paint(i);
    copy.drawImage(canvas, 0, 0);
    all.push(copy.getImageData(0, 0, canvas.width, canvas.height).data);
  }
  return base64(new Blob(all));
}
"""
SAVE = """async ([what, kind, width, height, count, fps]) => {
  const module = await import("./save.js");
  const drawn = painter(kind, width, height, count);
  const told = [];
  const progress = (done, total) => told.push([done, total]);
  const saved = await module[what]({ ...drawn, count, fps, progress });
  const { blob, ...rest } = saved instanceof Blob ? { blob: saved } : saved;
  const data = await base64(blob);
  return { ...rest, type: blob.type, data, told, painted: await painted(drawn, count) };
}"""
ABORT = """async (what) => {
  const module = await import("./save.js");
  const made = [];
  const Encoder = window.VideoEncoder;
  window.VideoEncoder = class extends Encoder {
    constructor(options) {
      super(options);
      made.push(this);
    }
  };
  const { canvas, paint } = painter("2d", 64, 48, 20);
  const control = new AbortController();
  let last = 0;
  const paints = (i) => {
    last = Math.max(last, i);
    paint(i);
  };
  const progress = (done) => done === 5 && control.abort();
  const loop = { canvas, paint: paints, count: 20, fps: 30, progress, signal: control.signal };
  const error = await module[what](loop).then(() => "none", ({ name }) => name);
  window.VideoEncoder = Encoder;
  return { error, last, states: made.map(({ state }) => state) };
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the studio's modules and what they read, and its address."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "vendor").mkdir()
    (folder / "index.html").write_text(f"<!doctype html><script>{PAINT}</script>")
    files = [gidlite.web.FOLDER / "save.js", gidlite.web.FOLDER / "files.js", MODULE]
    for file in (*files, *(MODULE.parent / f for f in ("explorer.css", "page.css", "page.html"))):
        copy(file, folder)

    class Quiet(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(browser, site):
    opened = browser.new_page()
    opened.set_default_timeout(120_000)  # a busy machine is slow
    opened.goto(site[1])
    yield opened
    opened.close()


@pytest.fixture
def whole(page, site, vendor):
    """The same page, with what others wrote."""
    for name in NAMES:
        copy(vendor(name), site[0] / "vendor")
    return page


def bytes_and_frames(saved: dict, height: int, width: int) -> tuple[bytes, torch.Tensor]:
    """Return a file, and the frames as they were painted."""
    pixels = np.frombuffer(base64.b64decode(saved["painted"]), np.uint8).reshape(
        -1, height, width, 4
    )
    return base64.b64decode(saved["data"]), torch.from_numpy(pixels[..., :3].copy()).movedim(-1, 1)


def peak_ratio(frames: torch.Tensor, others: torch.Tensor) -> float:
    """Return the PSNR in dB of the worst frame."""
    errors = (frames.float() - others.float()).square().mean((1, 2, 3))
    return float(10 * torch.log10(255**2 / errors.max()))


@pytest.mark.parametrize("kind, width, height", [("2d", 160, 96), ("webgl2", 161, 97)])
def test_a_loop_becomes_a_film_that_begins_again_unseen(whole, tmp_path, kind, width, height):
    saved = whole.evaluate(SAVE, ["saveLoop", kind, width, height, COUNT, FPS])
    assert saved["kind"] in ("MP4", "WebM") and saved["extension"] == saved["kind"].lower()
    assert saved["type"] == f"video/{saved['extension']}"
    assert saved["told"] == [[n + 1, COUNT] for n in range(COUNT)]
    data, painted = bytes_and_frames(saved, height, width)
    path = tmp_path / f"loop.{saved['extension']}"
    path.write_bytes(data)
    clip = read_video(path)
    even = painted[..., : height // 2 * 2, : width // 2 * 2]
    assert clip.frames.shape == even.shape and clip.fps == FPS
    assert peak_ratio(clip.frames, even) > 28
    assert loop_seam(clip.frames) < 1.2 * loop_seam(even)
    with av.open(path) as film:
        (stream,) = film.streams
        packets = [packet for packet in film.demux(stream) if packet.size]
        assert [packet.is_keyframe for packet in packets] == [True] + [False] * (COUNT - 1)
        tick = packets[0].time_base
        rounding = 0 if saved["kind"] == "MP4" else 1e-3  # WebM counts in ms
        times = [float(packet.pts * tick) for packet in packets]
        assert times == pytest.approx([n / FPS for n in range(COUNT)], abs=rounding + 1e-9)
        assert film.duration / 1e6 == pytest.approx(COUNT / FPS, abs=rounding + 1e-6)


def check_gif(data: bytes, painted: torch.Tensor, size: tuple[int, int]) -> None:
    with Image.open(BytesIO(data)) as film:
        assert film.size == size and film.info["loop"] == 0
        delays, frames = [], []
        for n in range(film.n_frames):
            film.seek(n)
            delays.append(film.info["duration"])
            frames.append(np.asarray(film.convert("RGB")))
    assert len(frames) == (len(painted) + 1) // 2
    assert sum(delays) == round(1000 * len(painted) / FPS, -1) and set(delays[:-1]) <= {60, 70}
    found = torch.from_numpy(np.stack(frames)).movedim(-1, 1)
    expected = torch.nn.functional.interpolate(
        painted[::2].float(), size=size[::-1], mode="bilinear", antialias=True
    )
    assert peak_ratio(found, expected) > 28
    still = found[:, :, :4]  # rows above all that moves
    assert (still == still[:1]).all(), "nothing dances"


@pytest.mark.parametrize("width, height, size", [(161, 97, (161, 97)), (961, 601, (480, 300))])
def test_a_gif(whole, width, height, size):
    saved = whole.evaluate(SAVE, ["saveGif", "2d", width, height, COUNT + 1, FPS])
    data, painted = bytes_and_frames(saved, height, width)
    assert saved["type"] == "image/gif" and saved["told"][-1] == [13, 13]
    check_gif(data, painted, size)


def test_without_an_encoder_a_loop_is_a_gif(whole):
    whole.evaluate("() => { delete window.VideoEncoder; }")
    saved = whole.evaluate(SAVE, ["saveLoop", "2d", 80, 60, 12, FPS])
    assert (saved["kind"], saved["extension"]) == ("GIF", "gif")
    data, painted = bytes_and_frames(saved, 60, 80)
    check_gif(data, painted, (80, 60))


@pytest.mark.parametrize("what", ["saveLoop", "saveGif"])
def test_who_gives_up_leaves_nothing_behind(whole, what):
    found = whole.evaluate(ABORT, what)
    assert found["error"] == "AbortError"
    if what == "saveLoop":
        assert found["states"] == ["closed"] and found["last"] == 4, "and no frame more"


PAGE = """async ([data, header, title]) => {
  const { savePage } = await import("./save.js");
  const scene = { header };
  for (const name in data) {
    scene[name] = Uint8Array.from(atob(data[name]), (letter) => letter.charCodeAt(0));
  }
  return (await savePage(scene, { title })).text();
}"""


def parts(text: str) -> tuple[str, dict]:
    """Return a page without its data, and the data."""
    found = re.search(r'application/json">(.*?)</script>', text, re.S)
    return text.replace(found[1], ""), json.loads(found[1])


@pytest.mark.parametrize("title", ["Disc", "<b> & \"$style\" '${figures}'", HOSTILE[0]])
def test_a_page_is_the_one_that_python_writes(page, browser, photo, volume, tmp_path, title):
    scene = make_scene(photo, volume, modes=4, width=256, alt=f"</script>{title}")
    write_page(tmp_path / "python.html", scene, title=title)
    names = ("photo", "back", "alpha", "front_modes", "back_modes")
    data = {name: base64.b64encode(getattr(scene, name)).decode() for name in names}
    text = page.evaluate(PAGE, [data, scene.header, title])
    assert parts(text) == parts((tmp_path / "python.html").read_text(encoding="utf-8"))
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    opened, complaints = browser.new_page(), []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto((tmp_path / "page.html").as_uri())
    until(opened, EXPLORER)
    box = opened.locator(".gidlite-stage").bounding_box()
    x, y = box["x"] + 0.5 * box["width"], box["y"] + 0.45 * box["height"]
    opened.mouse.move(x, y)
    opened.mouse.down()
    opened.mouse.move(x + 12, y, steps=3)
    until(opened, f"{EXPLORER}.held?.target[0] > 1")
    opened.mouse.up()
    opened.close()
    assert complaints == []


def test_names(page):
    known = {
        "rose.jpg": "rose", "v1.5 rose.jpeg": "v1.5 rose", "../../etc/passwd": "passwd",
        "C:\\photos\\a:b*.png": "ab", "...": "photo", "": "photo", "   ": "photo",
        ".hidden": "hidden", "con.jpg": "photo", "two\nlines\tand\x1b[31m": "two lines and[31m",
        "\u202egnp.exe": "gnp", "🌷👩\u200d🔬.heic": "🌷👩\u200d🔬", "a\u2028b": "a b",
        "rosé über 花.png": "rosé über 花", "a. . ": "a", "n" * 400: "n" * 120,
        "🌷" * 99: "🌷" * 30,
    }  # fmt: skip
    given = [*known, *map(shown, HOSTILE)]
    run = 'async (names) => { const { fileName } = await import("./files.js"); return names.map('
    found = page.evaluate(run + '(name) => fileName(name, "_loop.mp4")); }', given)
    assert found[: len(known)] == [f"{name}_loop.mp4" for name in known.values()]
    for name in found:
        assert name.endswith("_loop.mp4") and 10 <= len(name.encode()) <= 129
        assert not re.search(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u200e\u200f\u202a-\u202e]', name)


def test_a_lone_surrogate_is_no_name(page):
    run = 'async () => (await import("./files.js")).fileName("a\\ud800b.jpg", ".gif")'
    assert page.evaluate(run) == "ab.gif"


def test_a_download_is_offered(page, tmp_path):
    with page.expect_download() as download:
        page.evaluate(
            'async () => (await import("./files.js")).offer(new Blob(["loop"]), "🌷_loop.txt")'
        )
    assert download.value.suggested_filename == "🌷_loop.txt"
    download.value.save_as(tmp_path / "kept")
    assert (tmp_path / "kept").read_text() == "loop"
