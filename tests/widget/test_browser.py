"""The page in a real browser: drag it, let go, watch it ring and settle."""

import base64
import io
import os
import re
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HOSTILE, MODULE, shown
from PIL import Image

from gidlite.dynamics import make_scene, write_page
from gidlite.dynamics.layers import split_layers

pytestmark = pytest.mark.browser

EXPLORER = "document.querySelector('figure').explorer"


@pytest.fixture(scope="module")
def page_path(photo, volume, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "disc.html"
    scenes = [make_scene(photo, volume, modes=16), make_scene(photo, volume, modes=2, width=256)]
    write_page(path, scenes, title="Disc")
    return path


def until(page, expression: str, *, seconds: float = 120) -> None:
    """Wait for an expression; Playwright's own waiting needs eval, which the policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(f"Boolean({expression})"):
        assert time.monotonic() < end, f"not within {seconds} s: {expression}"
        page.wait_for_timeout(50)


@pytest.fixture
def opened(browser, page_path, request):
    """A page with its complaints and requests recorded; there must be none at the end."""
    options = getattr(request, "param", {})
    query = options.pop("query", "") if "query" in options else ""
    page = browser.new_page(viewport={"width": 544, "height": 700}, **options)
    page.set_default_timeout(120_000)  # a busy machine is slow
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url)
            if not re.match("file:|data:|blob:", asked.url) else None)  # fmt: skip
    page.goto(page_path.as_uri() + query)
    until(page, "[...document.querySelectorAll('figure')].every((figure) => figure.explorer)")
    yield page
    page.close()
    assert complaints == []


def look(page, name: str) -> np.ndarray:
    """Return the stage as pixels; kept as an artefact where GIDLITE_ARTEFACTS says."""
    data = page.locator(".gidlite-stage").first.screenshot()
    if folder := os.environ.get("GIDLITE_ARTEFACTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.png").write_bytes(data)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)


def centre(picture: np.ndarray) -> float:
    """Return the column of the bright disc's middle."""
    bright = picture[..., 0] > 110
    return float(np.nonzero(bright)[1].mean())


def press(page, dx: int) -> None:
    box = page.locator(".gidlite-stage").first.bounding_box()
    x, y = box["x"] + 0.5 * box["width"], box["y"] + 0.45 * box["height"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y, steps=5)


def middle(page) -> float:
    return page.evaluate(f"{EXPLORER}.system.at({EXPLORER}.find(256, 144).shape)[0]")


def drawn(page) -> None:
    """Wait until what the pointer did is on the screen."""
    frames = page.evaluate(f"{EXPLORER}.wake() ?? {EXPLORER}.frames")
    until(page, f"{EXPLORER}.frames > {frames} + 1 || !{EXPLORER}.pending")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def follow(page) -> None:
    """Keep where the middle of the disc is in every frame, however slowly they are drawn."""
    page.evaluate(f"""() => {{
      const explorer = {EXPLORER}, paint = explorer.painter.paint;
      window.path = [];
      explorer.painter.paint = function (q) {{
        window.path.push(explorer.system.at(explorer.find(256, 144).shape)[0]);
        return paint.call(this, q);
      }};
    }}""")


def drag_and_release(page, name: str) -> None:
    rest = look(page, f"{name}_rest")
    press(page, 24)
    drawn(page)
    held = look(page, f"{name}_held")
    assert abs(centre(held) - centre(rest) - 24) < 2.5, "the disc is at the pointer"
    wall = np.abs(held - rest)[:, :60]
    assert wall.max() < 12, "the wall stays"
    follow(page)
    page.mouse.up()
    until(page, "Math.min(...path) < -2")  # it swings to the other side, and back
    until(page, "path.slice(path.findIndex((x) => x < -2)).some((x) => x > 0.2)")
    look(page, f"{name}_ringing")
    page.evaluate(f"{EXPLORER}.apply({{damping: 0.5, stiffness: 4}})")
    until(page, f"!{EXPLORER}.busy")
    drawn(page)
    settled = look(page, f"{name}_settled")
    inner = (slice(6, -6), slice(6, -6))  # the focus ring is drawn around
    assert np.abs(settled[inner] - rest[inner]).max() < 6, "it settles where it began"


def test_drag_release_ring_settle(opened):
    assert opened.evaluate(f"{EXPLORER}.painter.name") == "WebGL2"
    drag_and_release(opened, "webgl")


@pytest.mark.parametrize("opened", [{"query": "?canvas"}], indirect=True)
def test_the_same_without_webgl(opened):
    assert opened.evaluate(f"{EXPLORER}.painter.name") == "2D canvas"
    drag_and_release(opened, "canvas")


def test_at_rest_it_is_the_photo(opened, photo):
    picture = look(opened, "rest")
    assert opened.locator("figure > img").first.is_hidden()
    expected = photo.movedim(0, -1).numpy() * 255
    shown = np.asarray(Image.fromarray(picture.astype(np.uint8)).resize((512, 320)))
    assert np.abs(shown - expected).mean() < 4


def test_a_lost_context_goes_on_without_webgl(opened, photo):
    """Browsers take the oldest context away from a page with many photos."""
    before = look(opened, "before_loss")
    opened.evaluate(f"{EXPLORER}.painter.gl.getExtension('WEBGL_lose_context').loseContext()")
    until(opened, f"{EXPLORER}.painter.name === '2D canvas'")
    drawn(opened)
    assert np.abs(look(opened, "after_loss") - before).mean() < 6
    press(opened, 24)
    drawn(opened)
    assert abs(centre(look(opened, "held_after_loss")) - centre(before) - 24) < 2.5
    opened.mouse.up()


def test_pushing_often_does_not_push_further(opened):
    opened.locator(".gidlite-canvas").first.focus()
    follow(opened)
    for _ in range(12):
        opened.keyboard.press("ArrowRight")
        drawn(opened)
    farthest = opened.evaluate("Math.max(...path.map(Math.abs))")
    assert 5 < farthest < 1.05 * 0.07 * 512


def test_keyboard_poke_reset_and_sliders(opened):
    opened.locator(".gidlite-canvas").first.focus()
    follow(opened)
    opened.keyboard.press("ArrowLeft")
    until(opened, "path.find((x) => Math.abs(x) > 0.5) < 0")  # first to the left
    opened.keyboard.press("Escape")
    drawn(opened)
    assert middle(opened) == 0
    opened.get_by_role("button", name="Poke").first.click()
    until(opened, f"{EXPLORER}.system.energy() > 0")
    opened.get_by_label("Wind").first.fill("2")
    assert opened.evaluate(f"{EXPLORER}.wind") == 2
    opened.get_by_role("combobox").first.select_option(index=1)
    arrows = opened.evaluate(
        f"{EXPLORER}.overlay.getContext('2d').getImageData(0, 0, 512, 320).data.some(v => v)"
    )
    assert arrows, "arrows are drawn"
    second = "document.querySelectorAll('figure')[1].explorer.system.energy()"
    assert opened.evaluate(second) == 0, "the other photo of the page was left alone"


def test_the_pointer_attracts_what_it_hovers_by_if_asked_to(opened):
    box = opened.locator(".gidlite-stage").first.bounding_box()
    beside = box["x"] + 0.5 * box["width"] + 80, box["y"] + 0.45 * box["height"]
    opened.mouse.move(*beside, steps=5)
    opened.wait_for_timeout(200)
    assert middle(opened) == 0, "off unless asked for"
    opened.get_by_label("Attraction").first.fill("2")
    opened.evaluate(f"{EXPLORER}.apply({{damping: 0.5}})")
    opened.mouse.move(*beside, steps=5)
    until(opened, f"!{EXPLORER}.busy")
    leaning = middle(opened)
    assert 2 < leaning < 1.01 * 0.07 * 512, "towards the pointer, and no further than by hand"
    look(opened, "attracted")
    frames = opened.evaluate(f"{EXPLORER}.frames")
    opened.wait_for_timeout(200)
    assert opened.evaluate(f"{EXPLORER}.frames") == frames, "leaning, it rests"
    opened.mouse.move(box["x"] + 5, box["y"] + box["height"] + 60)
    until(opened, f"!{EXPLORER}.busy")
    assert middle(opened) == 0, "and back"


@pytest.mark.parametrize("opened", [{"has_touch": True}], indirect=True)
def test_touch_and_nothing_to_hold(opened):
    box = opened.locator(".gidlite-stage").first.bounding_box()
    opened.touchscreen.tap(box["x"] + 12, box["y"] + 12)
    assert "Nothing moves here" in opened.locator(".gidlite-status").first.inner_text()
    session = opened.context.new_cdp_session(opened)
    x, y = box["x"] + box["width"] / 2, box["y"] + 0.45 * box["height"]
    for kind, points in (
        ("touchStart", [{"x": x, "y": y}]), ("touchMove", [{"x": x + 20, "y": y}]),
    ):  # fmt: skip
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    drawn(opened)
    moved = opened.evaluate(
        f"{EXPLORER}.system.at({EXPLORER}.held.shape, {EXPLORER}.coordinates())[0]"
    )
    assert moved == pytest.approx(20, abs=1.5)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    until(opened, f"{EXPLORER}.held === null")


def test_a_hand_beside_the_disc_holds_the_disc_and_far_away_it_is_shown(opened):
    box = opened.locator(".gidlite-stage").first.bounding_box()
    status = opened.locator(".gidlite-status").first
    ringed = f"{EXPLORER}.overlay.getContext('2d').getImageData(0, 0, 512, 320).data.some(v => v)"
    opened.mouse.click(box["x"] + 20, box["y"] + 20)
    assert "inside the ring" in status.inner_text() and opened.evaluate(ringed)
    beside = box["x"] + 0.5 * box["width"] + 0.19 * box["height"] + 40
    opened.mouse.move(beside, box["y"] + 0.45 * box["height"])
    opened.mouse.down()
    opened.mouse.move(beside + 20, box["y"] + 0.45 * box["height"], steps=4)
    drawn(opened)
    assert "moves beside it" in status.inner_text()
    moved = f"{EXPLORER}.system.at({EXPLORER}.held.shape, {EXPLORER}.coordinates())[0]"
    assert opened.evaluate(moved) == pytest.approx(20, abs=1.5)
    opened.mouse.up()


@pytest.mark.parametrize("opened", [{"reduced_motion": "reduce"}], indirect=True)
def test_reduced_motion_means_no_wind_and_a_short_ring(opened):
    opened.evaluate(f"{EXPLORER}.apply({{wind: 3}})")
    assert opened.evaluate(f"[{EXPLORER}.wind, {EXPLORER}.system.damping, {EXPLORER}.busy]") == [
        0, 0.3, False,
    ]  # fmt: skip


def test_removal_leaves_nothing_behind(opened):
    opened.evaluate(f"window.kept = {EXPLORER}; kept.apply({{wind: 1}}); kept.destroy()")
    frames = opened.evaluate("kept.frames")
    assert opened.locator(".gidlite-box").count() == 1
    opened.evaluate("window.dispatchEvent(new Event('resize')); kept.wake(); kept.canvas.click()")
    opened.wait_for_timeout(200)
    assert opened.evaluate("kept.frames") == frames


def test_speed_is_reported(opened, page_path, record_property):
    opened.evaluate(f"{EXPLORER}.apply({{wind: 1}})")
    before, started = opened.evaluate(f"{EXPLORER}.frames"), time.monotonic()
    until(opened, f"{EXPLORER}.frames > {before} + 20")
    rate = (opened.evaluate(f"{EXPLORER}.frames") - before) / (time.monotonic() - started)
    report = {
        "frames_per_second": round(rate, 1),
        "first_frame_ms": round(opened.evaluate(f"{EXPLORER}.firstFrame")),
        "page_bytes": page_path.stat().st_size,
    }
    for name, value in report.items():
        record_property(name, value)
    print(report)


COUNTED = """() => {
  const { painter, system, data } = document.querySelector('figure').explorer, { gl } = painter;
  const calls = { draws: 0, cells: 0, uploads: [] };
  const spy = (name, note) => {
    const real = gl[name];
    gl[name] = (...given) => (note(...given), real.apply(gl, given));
  };
  spy("drawElements", (_, size) => (calls.draws++, calls.cells += size / 6));
  spy("bufferData", (_, { byteLength }) => calls.uploads.push(byteLength));
  for (const name of ["texImage2D", "texImage3D", "texSubImage2D"]) {
    spy(name, () => { throw new Error("no texture goes to the card twice"); });
  }
  painter.paint(system.q);
  return { ...calls, modes: data.count, all: painter.front.near.length + painter.back.near.length };
}"""


def test_a_frame_is_three_draws_of_points_already_moved(opened):
    """However many modes there are, and without the cells in which the front is clear."""
    frame = opened.evaluate(COUNTED)
    assert frame["modes"] == 16 and frame["draws"] == 3
    assert sum(frame["uploads"]) == 20 * frame["all"] + 24 * frame["cells"] < 64_000
    shown, front = frame["cells"] - 20 * 12, 39 * 24
    # The disc covers π 0.2² of 1.6; its rim makes it larger by a cell or two.
    assert 0.08 * front < shown < 0.2 * front


def test_points_of_the_mesh_move_as_in_python(opened, photo, volume):
    scene = make_scene(photo, volume, modes=16)
    layers = split_layers(photo, volume.spectral[3:])
    generator = torch.Generator().manual_seed(0)
    q = 20 * torch.randn(16, dtype=torch.complex128, generator=generator)
    order = [round(5 * hertz) - 3 for hertz in scene.header["frequencies"]]
    for name, modes in (("front", layers.front_modes), ("back", layers.back_modes)):
        points = opened.evaluate(
            f"(q) => ({EXPLORER}.painter.paint(q), [...{EXPLORER}.painter.{name}.points])",
            torch.view_as_real(q).flatten().tolist(),
        )
        points = torch.tensor(points, dtype=torch.float64).view(-1, 5)
        field = torch.einsum("k,kcij->cij", q, modes[order].to(q)).real
        at = 2 * points[:, :2] - 1
        options = {"padding_mode": "border", "align_corners": False}
        expected = torch.nn.functional.grid_sample(field[None], at[None, None], **options)[0, :, 0]
        size = torch.tensor([512.0, 320.0], dtype=torch.float64)
        moved = ((points[:, 2:4] * torch.tensor([1, -1]) + 1) / 2 - points[:, :2]) * size
        assert expected.abs().max() > 2 or name == "back", "the wall rests"
        assert (moved - expected.T).abs().max() < 0.02


def test_at_rest_it_asks_for_no_frames_and_nothing_lies_over_it(opened):
    asked = f"{EXPLORER}.pending || {EXPLORER}.busy"
    until(opened, f"!({asked})")
    opened.evaluate(
        "window.asked = 0; const real = requestAnimationFrame;"
        "window.requestAnimationFrame = (then) => (asked++, real(then)); null"
    )
    opened.wait_for_timeout(200)
    assert opened.evaluate("asked") == 0
    assert opened.evaluate(f"{EXPLORER}.overlay.hidden"), "or it would be blended every frame"
    press(opened, 24)
    until(opened, "asked > 0")
    opened.mouse.up()
    opened.get_by_role("combobox").first.select_option(index=1)
    assert not opened.evaluate(f"{EXPLORER}.overlay.hidden")
    opened.evaluate(f"{EXPLORER}.apply({{damping: 0.5, stiffness: 4}})")
    until(opened, f"!({asked})")
    frames = opened.evaluate("asked")
    opened.wait_for_timeout(200)
    assert opened.evaluate("asked") == frames, "settled, it rests again"


def test_slow_frames_cost_one_bounded_step_each(opened):
    """In real time up to 0.1 s a frame, then slower: a busy machine never has more to do."""
    steps = opened.evaluate(f"""() => {{
      const explorer = {EXPLORER}, {{ system }} = explorer, steps = [];
      const step = system.step.bind(system);
      system.step = (dt, wind) => (steps.push(dt), step(dt, wind));
      explorer.wake = () => {{}};
      explorer.poke();
      for (const time of [1000, 1016, 1096, 9096, 9000]) explorer.frame(time);
      return steps;
    }}""")
    assert steps == pytest.approx([0, 0.016, 0.08, 0.1, 0])


def screen(page, x: float, y: float) -> tuple[float, float]:
    """Return where a place, as shares of the photo, is on the page."""
    box = page.locator(".gidlite-stage").first.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def pull(page, x: float, y: float, *, to: tuple[float, float], key: str | None = None) -> None:
    """Press at a place and move to another; the button stays down."""
    page.mouse.move(*screen(page, x, y))
    if key:
        page.keyboard.down(key)
    page.mouse.down()
    page.mouse.move(*screen(page, *to))
    if key:
        page.keyboard.up(key)


def paint_disc(page, *, key: str | None = None) -> None:
    for row in range(24, 67, 6):
        pull(page, 0.36, row / 100, to=(0.64, row / 100), key=key)
        page.mouse.up()


@pytest.fixture(scope="module")
def pair_path(photo, basis, tmp_path_factory):
    """The disc, and a small thing in a corner that moves on its own."""
    path = tmp_path_factory.mktemp("page") / "pair.html"
    write_page(path, make_scene(photo, basis), title="Disc and corner")
    return path


@pytest.mark.parametrize("query", ["", "?canvas"])
def test_what_is_painted_holds_still(opened, pair_path, query, tmp_path):
    page, inner = opened, (slice(6, -6), slice(6, -6))  # the focus ring is drawn around
    page.goto(pair_path.as_uri() + query)
    until(page, "document.querySelector('figure').explorer")
    rest, status = look(page, "brush_rest")[inner], page.locator(".gidlite-status")
    hold, save = (page.get_by_role("button", name=name) for name in ("Hold still", "Save mask"))
    assert hold.get_attribute("aria-pressed") == "false" and save.is_disabled()
    hold.focus()
    page.keyboard.press("Enter")
    assert hold.get_attribute("aria-pressed") == "true"
    paint_disc(page)
    drawn(page)
    tinted = look(page, f"brush_tint{query[1:]}")[inner] - rest
    assert tinted[135:150, 240:260, 2].mean() > 10 > abs(tinted[:30]).max(), "only what is held"
    hold.click()
    assert hold.get_attribute("aria-pressed") == "false"
    page.evaluate(f"{EXPLORER}.overlay.style.display = 'none'")  # the ring is no motion
    drawn(page)
    # The mesh is finer now, which moves single pixels of sharp edges by a rounding error.
    assert abs(look(page, "brush_still")[inner] - rest).mean() < 0.5
    rest = look(page, "brush_still")[inner]

    def apart(name: str) -> np.ndarray:
        drawn(page)
        return abs(look(page, f"{name}{query[1:]}")[inner] - rest).max(-1)

    disc, corner = (slice(60, 230), slice(150, 350)), (slice(235, 285), slice(30, 90))
    pull(page, 0.5, 0.45, to=(0.56, 0.45))
    assert "held still" in status.inner_text() and apart("brush_held").max() < 4
    page.mouse.up()
    pull(page, 0.12, 0.81, to=(0.16, 0.81))
    others = apart("brush_other")
    assert others[corner].max() > 20 and others[disc].max() < 4, "what is not painted moves"
    page.mouse.up()
    page.evaluate(f"{EXPLORER}.apply({{wind: 3, attraction: 3}})")
    page.mouse.move(*screen(page, 0.6, 0.45))
    until(page, f"{EXPLORER}.system.q.some((value) => Math.abs(value) > 3)")
    page.evaluate(f"{EXPLORER}.poke()")
    assert apart("brush_wind")[disc].max() < 4, "in wind, attraction and pokes too"
    with page.expect_download() as download:
        save.click()
    assert download.value.suggested_filename == "mask.png"
    download.value.save_as(tmp_path / "mask.png")
    mask = np.asarray(Image.open(tmp_path / "mask.png").convert("L")).astype(float)
    assert mask.shape == (80, 128) and mask[36, 64] == 0 and mask[:, :20].min() == 255
    steps = max(abs(np.diff(mask, axis=axis)).max() for axis in (0, 1))
    assert steps < 128, "soft"
    page.get_by_role("button", name="Reset").click()
    assert save.is_disabled() and apart("brush_reset").max() < 4
    pull(page, 0.5, 0.45, to=(0.56, 0.45))
    assert apart("brush_freed")[disc].max() > 40, "and what was held moves again"


def test_shift_and_the_other_brush_paint_back(opened):
    least = f"Math.min(...{EXPLORER}.data.gain.values)"
    hold, release = (
        opened.get_by_role("button", name=name).first for name in ("Hold still", "Release")
    )
    hold.click()
    paint_disc(opened)
    assert opened.evaluate(least) == 0
    paint_disc(opened, key="Shift")
    assert opened.evaluate(least) == 1
    paint_disc(opened)
    release.click()
    pressed = [button.get_attribute("aria-pressed") for button in (hold, release)]
    assert pressed == ["false", "true"]
    paint_disc(opened)
    assert opened.evaluate(f"{EXPLORER}.data.gain.free && {EXPLORER}.mask.length === 0")


@pytest.fixture(scope="module")
def small(photo, volume):
    return make_scene(photo, volume, modes=2, width=64)


def tags(page) -> str:
    return page.evaluate("[...document.querySelectorAll('*')].map(({tagName}) => tagName).join()")


@pytest.fixture(scope="module")
def watched(browser):
    """A page, and whatever it asked for, complained of or ran that it should not."""
    page, found = browser.new_page(), []
    page.set_default_timeout(120_000)
    page.on("console", lambda message: found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda asked: found.append(asked.url)
            if not re.match("file:|data:|blob:", asked.url) else None)  # fmt: skip
    page.on("dialog", lambda dialog: (found.append(dialog.message), dialog.dismiss()))
    yield page, found
    page.close()


@pytest.fixture(scope="module")
def ordinary(watched, small, tmp_path_factory):
    """The elements of a page with ordinary names."""
    path = tmp_path_factory.mktemp("page") / "ordinary.html"
    write_page(path, small)
    watched[0].goto(path.as_uri())
    until(watched[0], "document.querySelector('figure').explorer")
    return tags(watched[0])


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_is_shown_as_text(watched, small, ordinary, name, tmp_path):
    page, found = watched
    header = small.header | {"alt": shown(name)}
    write_page(tmp_path / "page.html", replace(small, header=header), title=name)
    page.goto((tmp_path / "page.html").as_uri())
    until(page, "document.querySelector('figure').explorer")
    for tag in ("h1", "title"):
        assert page.evaluate(f"document.querySelector('{tag}').textContent") == shown(name)
    assert page.evaluate("document.querySelector('img').alt") == shown(name)
    label = page.locator(".gidlite-canvas").get_attribute("aria-label")
    assert label.startswith(f"{shown(name)} Interactive:")
    assert tags(page) == ordinary and found == []


@pytest.fixture
def server():
    """Address of a server, and the paths that it was asked for."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *_):
            pass

        do_POST = do_GET

    running = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


# What a page could do with the network, and with scripts that are not its own.
ATTEMPTS = """async (to) => {
  window.broken = [];
  document.addEventListener("securitypolicyviolation", (event) =>
    window.broken.push(event.effectiveDirective));
  const add = (tag, properties, attributes = {}) => {
    const element = Object.assign(document.createElement(tag), properties);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    document.body.append(element);
    return element;
  };
  await fetch(to + "/fetch").catch(() => {});
  navigator.sendBeacon(to + "/beacon", "x");
  try { new WebSocket(to.replace("http", "ws") + "/socket"); } catch {}
  try { new Worker(URL.createObjectURL(new Blob(["1"]))); } catch {}
  // Later: the tools of developers, which run this, may use eval.
  setTimeout(() => { eval("window.ran = 'eval'"); }, 100);
  await import(to + "/module").catch(() => {});
  new Image().src = to + "/image";
  add("script", { src: to + "/script" });
  add("script", { textContent: "window.ran = 'inline'" });
  add("a", {}, { onclick: "window.ran = 'handler'" }).click();
  add("a", { href: "javascript:window.ran = 'address'" }).click();
  add("iframe", { src: to + "/frame" });
  add("video", { src: to + "/video" });
  add("object", { data: to + "/object" });
  add("link", { rel: "stylesheet", href: to + "/sheet" });
  add("style", { textContent: "body { color: red }" });
  add("p", {}, { style: "color: red" });
  document.head.append(Object.assign(document.createElement("base"), { href: to }));
  add("form", { action: to + "/form", method: "post" }).submit();
  await new FontFace("x", `url(${to}/font)`).load().catch(() => {});
}"""
REFUSED = {
    "connect-src", "worker-src", "script-src", "script-src-elem", "script-src-attr", "img-src",
    "frame-src", "media-src", "object-src", "style-src-elem", "style-src-attr", "base-uri",
    "form-action", "font-src",
}  # fmt: skip


def test_the_policy_lets_nothing_out_and_no_other_script_run(browser, page_path, server):
    address, asked = server
    page = browser.new_page()
    page.goto(page_path.as_uri())
    until(page, "document.querySelector('figure').explorer")
    page.evaluate(ATTEMPTS, address)
    until(page, f"{sorted(REFUSED)}.every((kind) => broken.includes(kind))")
    assert page.evaluate("window.ran ?? null") is None and asked == []
    page.goto(f"{address}/proof")  # the server would have been reached
    assert "/proof" in asked
    page.close()


def test_the_widget_shows_a_hostile_description_as_text(watched, small):
    """Its module, with a stand-in for the notebook's model."""
    page, found = watched
    page.goto("about:blank")
    names = ("photo", "back", "alpha", "front_modes", "back_modes")
    data = {name: base64.b64encode(getattr(small, name)).decode() for name in names}
    run = """async ([source, data, header]) => {
      const script = new Blob([source], { type: "text/javascript" });
      const module = await import(URL.createObjectURL(script));
      const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      const settings = { stiffness: 1, damping: 0.05, gain: 1, wind: 0, attraction: 0 };
      const state = { header, mask: new DataView(new ArrayBuffer(0)), ...settings };
      for (const name in data) state[name] = new DataView(bytes(data[name]).buffer);
      const model = { get: (name) => state[name], set() {}, on() {}, off() {}, save_changes() {} };
      const remove = await module.default.render({ model, el: document.body });
      const all = [...document.body.querySelectorAll("*")].map(({ tagName }) => tagName).join();
      const label = document.querySelector("canvas").getAttribute("aria-label");
      remove();
      return [label, all];
    }"""
    kinds = set()
    for name in HOSTILE:
        header = small.header | {"alt": shown(name)}
        label, elements = page.evaluate(run, [MODULE.read_text(), data, header])
        assert label.startswith(f"{shown(name)} Interactive:")
        kinds.add(elements)
    assert len(kinds) == 1 and "SCRIPT" not in kinds.pop() and found == []
