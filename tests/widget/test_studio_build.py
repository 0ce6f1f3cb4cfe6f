"""The folder of the studio is what its list says, refused or whole, and works offline."""

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import build_studio
import npm
import pytest
from conftest import ROOT

from gidlite.errors import GidliteError

WEB = ROOT / "gidlite" / "web"


def pack(folder: Path, name: str, **files: bytes) -> dict:
    """Write a .tgz as npm does, and return how it would be pinned."""
    package = {"name": name, "version": "1.0.0", "licence": "MIT", "notice": "LICENSE"}
    path = folder / npm.file_name(package)
    with tarfile.open(path, "w:gz") as archive:
        for key, data in files.items():
            item = tarfile.TarInfo("package/" + key.replace("__", "/").replace("_", "."))
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return package | {"integrity": f"sha512-{digest}", "files": ["dist/one.mjs"]}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder with two packages, of which one has no licence of its own, and graphs made up."""
    folder, source = tmp_path / "packages", tmp_path / "made"
    for path in (folder, source / "graphs", source / "example"):
        path.mkdir(parents=True)
        (path / "x.onnx").write_bytes(b"weights")
    one = pack(folder, "one", dist__one_mjs=b"// one", dist__more_mjs=b"//", LICENSE=b"Be kind.")
    two = pack(folder, "two", dist__two_wasm=b"\0asm")
    two |= {"notice": "Copyright (c) Two", "files": ["dist/two.wasm"]}
    monkeypatch.setattr(npm, "pinned", lambda kind: [one, two])
    monkeypatch.setattr(build_studio, "made", lambda cache: source)
    return folder


def check_listed(folder: Path) -> dict:
    told = json.loads((folder / "files.json").read_text())
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {file["path"] for file in told["files"]} | {"files.json"}
    for file in told["files"]:
        data = (folder / file["path"]).read_bytes()
        assert len(data) == file["bytes"], file
        assert hashlib.sha256(data).hexdigest() == file["sha256"], file
    assert told["total"] == sum(file["bytes"] for file in told["files"])
    assert f'const VERSION = "{told["version"]}";' in (folder / "sw.js").read_text()
    return told


def test_the_folder_is_what_its_list_says(packages, tmp_path):
    folder = tmp_path / "studio"
    told = build_studio.build(folder, packages=packages)
    assert check_listed(folder) == told
    names = {"one.mjs", "one.LICENSE.txt", "two.wasm", "two.LICENSE.txt"}
    assert {path.name for path in (folder / "vendor").iterdir()} == names
    assert "Be kind." in (folder / "vendor" / "one.LICENSE.txt").read_text()
    notice = (folder / "vendor" / "two.LICENSE.txt").read_text()
    assert "Copyright (c) Two" in notice and "WITHOUT WARRANTY" in notice
    for path in (*WEB.glob("*.css"), *WEB.glob("*.js"), WEB / "app.webmanifest", WEB / "icon.svg"):
        if path.name != "sw.js":
            assert (folder / path.name).read_bytes() == path.read_bytes()
    for name in ("explorer.js", "explorer.css", "page.html", "page.css"):
        expected = (ROOT / "gidlite" / "dynamics" / name).read_bytes()
        assert (folder / name).read_bytes() == expected
    assert (folder / "index.html").exists() == (WEB / "studio.html").exists()
    assert str(tmp_path) not in (folder / "files.json").read_text()


def test_building_again_replaces_what_was_built_and_nothing_else(packages, tmp_path):
    folder = tmp_path / "studio"
    before = build_studio.build(folder, packages=packages)
    (folder / "vendor" / "old.mjs").write_text("left from another version")
    (folder / "CNAME").write_text("example.org")
    again = build_studio.build(folder, packages=packages)
    assert again == before, "equal contents have an equal version"
    assert (folder / "CNAME").read_text() == "example.org"
    (folder / "CNAME").unlink()
    check_listed(folder)
    (tmp_path / "made" / "graphs" / "x.onnx").write_bytes(b"other weights")
    assert build_studio.build(folder, packages=packages)["version"] != before["version"]


def break_hash(folder):
    (folder / "two-1.0.0.tgz").write_bytes((folder / "two-1.0.0.tgz").read_bytes() + b" ")


REFUSED = {
    "has not the sha512": lambda folder, _: break_hash(folder),
    "has no two-1.0.0.tgz": lambda folder, _: (folder / "two-1.0.0.tgz").unlink(),
    "has no dist/lost.mjs": lambda folder, _: npm.pinned("page")[0]["files"].append(
        "dist/lost.mjs"
    ),
    "MB; 0 are the most": lambda _, patch: patch.setattr(build_studio, "MOST_BYTES", 10),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_leaves_all_as_it_was(packages, tmp_path, monkeypatch, message):
    folder, held = tmp_path / "studio", {p.name for p in tmp_path.iterdir()}
    REFUSED[message](packages, monkeypatch)
    with pytest.raises(GidliteError, match=message):
        build_studio.build(folder, packages=packages)
    assert {path.name for path in tmp_path.iterdir()} == held


def test_a_folder_of_others_is_left_alone(packages, tmp_path):
    mine = tmp_path / "site" / "vendor" / "mine.js"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(GidliteError, match="is not a studio"):
        build_studio.build(tmp_path / "site", packages=packages)
    assert [p for p in (tmp_path / "site").rglob("*") if p.is_file()] == [mine]


def test_without_npm_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(npm, "CACHE", tmp_path)
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    with pytest.raises(GidliteError, match="npm is not on this machine; install Node"):
        npm.fetch(npm.pinned("page")[0])
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_with_exit_2(tmp_path):
    (tmp_path / "empty").mkdir()
    command = [sys.executable, str(ROOT / "tools" / "build_studio.py"), "-o", "new"]
    done = subprocess.run(
        [*command, "--packages", "empty"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "has no onnxruntime-web-1.30.0.tgz" in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_graphs_are_made_anew_for_other_code_or_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(build_studio, "PACKAGE", tmp_path)
    files = ["prior/drawer.py", "weights/modes/drawer/config.json", "cli/photo.py"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("before")
    keys = [build_studio.key()]
    for name in files:
        (tmp_path / name).write_text("after")
        keys.append(build_studio.key())
    assert keys[0] != keys[1] != keys[2] == keys[3], "commands make no graphs"


def test_every_module_of_the_page_is_checked_for_types():
    for path in WEB.glob("*.js"):
        assert path.read_text().startswith("// @ts-check\n"), path.name


def test_pinned_packages_are_what_npm_brings(vendor):
    for package in npm.pinned("page"):
        for path in package["files"]:
            assert vendor(Path(path).name).stat().st_size > 1000


@pytest.mark.browser
def test_the_real_folder(studio):
    told = check_listed(studio)
    assert told["total"] <= 45e6
    graphs = json.loads((studio / "graphs" / "manifest.json").read_text())["graphs"]
    for graph in graphs.values():
        data = (studio / "graphs" / graph["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == graph["sha256"]
    scene = json.loads((studio / "example" / "scene.json").read_text())
    assert "CC BY 2.0" in scene["credit"] and scene["width"] == 640
    assert len(scene["frequencies"]) == 48
    for name in ("photo.jpg", "back.jpg", "alpha.jpg"):
        assert (studio / "example" / name).read_bytes()[:3] == b"\xff\xd8\xff"
    assert len(list((studio / "vendor").glob("*.LICENSE.txt"))) == 3


# ------------------------------------------------------------------ the service worker

INDEX = """<!doctype html><title>A page</title><link rel="icon" href="icon.svg">
<script type="module">navigator.serviceWorker.register("sw.js");</script>"""
CONTROLLED = "navigator.serviceWorker.controller?.state === 'activated'"


class Host:
    """A host that can go away; it keeps what was asked for."""

    def __init__(self, folder: Path) -> None:
        asked = self.asked = []

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *args) -> None:
                asked.append(self.path.removeprefix("/deep/down/"))

        handler = partial(Handler, directory=folder)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/deep/down/"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site(tmp_path):
    """A small page at a path of its host, with a large file of each kind."""
    folder = tmp_path / "host" / "deep" / "down"
    for name, data in {
        "index.html": INDEX, "icon.svg": (WEB / "icon.svg").read_text(), "small.js": "1",
        "sw.js": (WEB / "sw.js").read_text(), "graphs/a.onnx": "weights", "graphs/b.onnx": "more",
        "graphs/manifest.json": "{}", "vendor/x.wasm": "code",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(data)
    build_studio.seal(folder)
    return folder


@pytest.fixture
def host(site):
    running = Host(site.parents[1])
    yield running
    running.stop()


@pytest.fixture
def page(browser, host):
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(120_000)  # a busy machine is slow
    page.goto(host.address)
    yield page
    context.close()


def until(page, expression: str, *, seconds: float = 120) -> None:
    from playwright.sync_api import Error

    end, found = time.monotonic() + seconds, False
    while not found:
        assert time.monotonic() < end, f"not within {seconds} s: {expression}"
        page.wait_for_timeout(50)
        with suppress(Error):  # a page that is being loaded answers nothing
            found = page.evaluate(f"(async () => Boolean({expression}))()")


def fetched(page, path: str) -> str | None:
    return page.evaluate(f"fetch('{path}').then((found) => found.text(), () => null)")


def kept(path: str) -> str:
    return f"await caches.match('{path}')"


@pytest.mark.browser
def test_only_small_files_come_first_and_the_page_is_isolated(page, host):
    until(page, CONTROLLED)
    assert {"small.js", "graphs/manifest.json", "files.json"} <= set(host.asked)
    assert not [path for path in host.asked if path.endswith((".onnx", ".wasm"))]
    assert not page.evaluate("crossOriginIsolated")
    page.reload()
    assert page.evaluate("crossOriginIsolated")
    assert page.evaluate("new SharedArrayBuffer(8).byteLength") == 8


@pytest.mark.browser
def test_what_was_used_is_there_without_the_host(page, host):
    until(page, CONTROLLED)
    assert fetched(page, "graphs/a.onnx") == "weights"
    until(page, kept("graphs/a.onnx"))
    host.stop()
    page.reload()
    assert page.title() == "A page" and page.evaluate("crossOriginIsolated")
    assert fetched(page, "graphs/a.onnx") == "weights"
    assert fetched(page, "small.js?later#now") == "1"
    assert "version" in json.loads(fetched(page, "files.json"))
    assert fetched(page, "graphs/b.onnx") is None
    page.goto(host.address + "index.html")
    assert page.title() == "A page"


@pytest.mark.browser
def test_all_is_kept_on_request(page, host):
    until(page, CONTROLLED)
    told = page.evaluate("""new Promise((done) => {
      navigator.serviceWorker.onmessage = ({ data }) => done(data);
      navigator.serviceWorker.controller.postMessage({ type: "keep" });
    })""")
    assert told == {"type": "kept", "whole": True}
    host.stop()
    for path, text in {"graphs/b.onnx": "more", "vendor/x.wasm": "code"}.items():
        assert fetched(page, path) == text


def publish(site: Path, **files: str) -> None:
    (site / "files.json").unlink()
    (site / "sw.js").write_text((WEB / "sw.js").read_text())
    for name, text in files.items():
        (site / name.replace("__", "/").replace("_", ".")).write_text(text)
    build_studio.seal(site)
    for path in site.rglob("*"):  # browsers ask for what is newer, in whole seconds
        os.utime(path, (later := time.time() + 60, later))


@pytest.mark.browser
def test_a_new_version_comes_on_reload_and_brings_only_what_changed(page, site, host):
    until(page, CONTROLLED)
    for name in ("graphs/a.onnx", "graphs/b.onnx"):
        fetched(page, name)
        until(page, kept(name))
    publish(site, small_js="2", graphs__b_onnx="other")
    host.asked.clear()
    registered = "(await navigator.serviceWorker.getRegistration())"
    page.evaluate("navigator.serviceWorker.getRegistration().then((one) => one.update())")
    until(page, f"{registered}.waiting")
    assert fetched(page, "small.js") == "1", "an open page keeps its version"
    page.reload()
    until(page, f"!{registered}.waiting && {CONTROLLED} && (await caches.keys()).length === 1")
    assert fetched(page, "small.js") == "2"
    assert fetched(page, "graphs/a.onnx") == "weights"
    assert "small.js" in host.asked and "graphs/manifest.json" not in host.asked
    assert not [path for path in host.asked if path.endswith(".onnx")]
    assert fetched(page, "graphs/b.onnx") == "other"


@pytest.mark.browser
def test_what_is_not_as_listed_is_not_kept(page, site, host):
    until(page, CONTROLLED)
    (site / "graphs" / "a.onnx").write_text("damaged")
    assert fetched(page, "graphs/a.onnx") == "damaged"  # whoever asks knows its hash
    page.wait_for_timeout(500)
    assert page.evaluate("caches.match('graphs/a.onnx').then((found) => found === undefined)")
    publish(site, small_js="2")
    (site / "small.js").write_text("damaged")
    os.utime(site / "small.js", (later := time.time() + 60, later))
    ended = page.evaluate("""async () => {
      const one = await navigator.serviceWorker.getRegistration();
      await one.update().catch(() => 0);
      const { installing } = one;
      while (installing && installing.state === "installing") {
        await new Promise((done) => setTimeout(done, 50));
      }
      return installing?.state ?? "redundant";
    }""")
    assert ended == "redundant"
    page.reload()
    assert fetched(page, "small.js") == "1"
