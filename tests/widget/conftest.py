"""A photo of a disc on a stripy wall that sways on its own, and a browser to touch it in."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from gidlite.errors import GidliteError
from gidlite.motion import ModalBasis, SpectralVolume

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "gidlite" / "dynamics" / "explorer.js"
sys.path.insert(0, str(ROOT / "tools"))


def disc(height: int, width: int, *, radius: float = 0.2) -> torch.Tensor:
    y, x = torch.arange(height)[:, None] / height - 0.45, torch.arange(width) / width - 0.5
    return ((x * width / height) ** 2 + y**2 < radius**2).float()


def blossom(height: int, width: int, grown: float = 1.0) -> torch.Tensor:
    y, x = torch.arange(height)[:, None] / height - 0.45, torch.arange(width) / width - 0.5
    distance, angle = torch.hypot(x * width / height, y), torch.atan2(y, x * width / height)
    return (distance < grown * (0.2 + 0.08 * (6 * angle).cos())).float()


@pytest.fixture(scope="session")
def photo() -> torch.Tensor:
    """A bright disc on a dark wall with stripes, 320×512."""
    x = torch.arange(512)
    wall = (0.2 + 0.1 * (x / 7).sin()).expand(3, 320, 512) * torch.tensor([0.5, 1, 0.8]).view(
        3, 1, 1
    )
    inside = disc(320, 512)
    spots = 0.8 + 0.2 * (x / 9).sin() * (torch.arange(320)[:, None] / 9).cos()
    return wall * (1 - inside) + inside * spots * torch.tensor([1, 0.6, 0.2]).view(3, 1, 1)


@pytest.fixture(scope="session")
def volume() -> SpectralVolume:
    """19 bins, of which 16 lie at 0.5 Hz or more; the disc sways to and fro, a little up."""
    inside = disc(160, 256)
    direction = torch.tensor([1.0, 0.3 + 0.2j])[None, :, None, None]
    turns = torch.exp(1j * torch.arange(19)).view(-1, 1, 1, 1) / (1 + torch.arange(19)).view(
        -1, 1, 1, 1
    )
    return SpectralVolume((turns * direction * inside).to(torch.complex64))


@pytest.fixture(scope="session")
def basis() -> ModalBasis:
    """The disc along x and y, a small thing in a corner, and a little more of the disc."""
    corner = torch.zeros(160, 256)
    corner[120:140, 20:40] = 0.5
    bodies = torch.stack([disc(160, 256), corner, 0.3 * disc(160, 256)])
    axes = torch.tensor([1.0, 1j])[None, :, None, None]
    return ModalBasis((bodies[:, None] * axes).to(torch.complex64), torch.full((3,), 1.5))


@contextmanager
def chromium():
    """Yield Chromium with software rendering, or skip loudly."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = "chromium", "chromium-browser", "google-chrome"
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium on this machine: install it (Debian: apt-get install chromium)")
    software = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=found, args=software)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def browser():
    """A browser for the tests of one file: pages of others, still drawing, would slow it down."""
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="session")
def vendor(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function: the name of a file of others, as in ``vendor/`` → its path.

    Where npm or the network is missing, it skips loudly.
    """
    import npm

    folder = tmp_path_factory.mktemp("vendor")

    def find(name: str) -> Path:
        named = {Path(f).name: (p, f) for p in npm.pinned("page") for f in p["files"]}
        package, path = named[name]
        try:
            (folder / name).write_bytes(npm.members(npm.fetch(package))[path])
        except GidliteError as error:
            if "npm" not in str(error):
                raise
            pytest.skip(f"NOT CHECKED: {error}")
        return folder / name

    return find


@pytest.fixture(scope="session")
def studio(vendor, tmp_path_factory) -> Path:
    """Return the folder of `make studio`; graphs are exported once, a minute, and kept."""
    pytest.importorskip("onnxscript", reason="NOT CHECKED: no onnxscript, install gidlite[dev]")
    vendor("ort.wasm.min.mjs")
    folder = tmp_path_factory.mktemp("studio") / "new"
    # In a process of its own: checks of types do not trace.
    command = [sys.executable, str(ROOT / "tools" / "build_studio.py"), "-o", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    assert "MB" in done.stdout
    return folder


# Names of files, titles and descriptions that would do harm if they were taken for HTML,
# JavaScript, a template or UTF-8.
HOSTILE = (
    '"><script>alert(1)</script>', "'><img src=x onerror=alert(1)>", "</title><script>alert(1)",
    "</script><script>alert(1)</script>", "</h1><iframe src=https://example.org>", "<!--", "-->",
    '" autofocus onfocus="alert(1)', "`${alert(1)}`", "$title", "${style}", "$", "$$figures",
    "&lt;b&gt; &amp;", "\\u003cscript>", "two\nlines", "tab\tand\x1b[31m", "\u202egnp.exe",
    "\u2028line", "not \udcff UTF-8", "n" * 255, "🌷👩\u200d🔬", "javascript:alert(1)", "../../etc",
)  # fmt: skip


def shown(name: str) -> str:
    """Return how a page shows a name: as it is, but for what no encoding knows."""
    return name.encode(errors="replace").decode()
