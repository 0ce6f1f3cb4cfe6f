"""What a user waits for: whole commands, on an idle machine and beside two busy processes.

The peer of a command is the same command with threads that spin while they wait, OpenMP's default:
``gidlite`` sets OMP_WAIT_POLICY=PASSIVE before torch is loaded. Rounds are interleaved and the
fastest counts. ``--help`` and the imports stand beside those of Python and of diffusers alone.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from benchmarks.rows import GIDLITE, Cost, Row, busy, run
from gidlite.media import sample_photo

ROUNDS = 2
MEGAPIXELS = 12
_IMPORTS = "from gidlite.media import read_image; from gidlite import cli; cli.load_pipeline(None)"
_THEIRS = "import torch; from diffusers import DPMSolverMultistepScheduler, UNet2DModel"
SPINNING = {"OMP_WAIT_POLICY": "ACTIVE"}
PEER = "with spinning threads"


def large_photo(folder: Path, megapixels: float = MEGAPIXELS) -> Path:
    """Write a photo of so many million pixels and return its path."""
    path = folder / f"{megapixels:g}mp.jpg"
    with Image.open(sample_photo()) as photo:
        scale = (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5
        size = round(photo.width * scale), round(photo.height * scale)
        photo.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(path, quality=92)
    return path


def both(command: tuple, rounds: int = ROUNDS) -> tuple[Cost, Cost]:
    """Return the cost of a command, and with spinning threads."""
    ours = theirs = None
    for _ in range(rounds):
        ours = run(command).fastest(ours)
        theirs = run(command, **SPINNING).fastest(theirs)
    return ours, theirs


def commands(folder: Path) -> dict[str, tuple[tuple, float | None]]:
    """Return what is measured: by name, the command and the most seconds it may take."""
    photo, small = sample_photo(), ("--width", 512)
    out = {end: folder / f"out.{end}" for end in ("safetensors", "mp4", "html")}
    animate = (*GIDLITE, "animate", photo, *small, "-o", out["mp4"])
    return {
        "predict": ((*GIDLITE, "predict", photo, "-o", out["safetensors"]), 7),
        "animate, 5 s, 512 wide": (animate, 12),
        "poke": ((*GIDLITE, "poke", photo, "-o", out["html"]), None),
        "animate --renderer neural": ((*animate, "--renderer", "neural"), 22),
        f"animate, {MEGAPIXELS} megapixels": (
            (*GIDLITE, "animate", large_photo(folder), "-o", out["mp4"]), 25,
        ),
    }  # fmt: skip


def beside_load(named: Mapping[str, tuple], idle: Mapping[str, Cost]) -> Iterator[Row]:
    """Yield how many times its idle time each of three commands takes beside two busy processes."""
    for name in list(named)[:3]:
        with busy():
            ours, theirs = both(named[name][0], rounds=1)
        ratio, theirs = (cost.seconds / idle[name].seconds for cost in (ours, theirs))
        work = f"{name.split(',')[0]} beside two busy processes"
        yield Row(work, ratio, "× idle", 2.5, peer=PEER, beside=theirs)


def rows() -> Iterator[Row]:
    """Yield the rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        python = (sys.executable, "-c")
        pairs = {
            "gidlite --help": ((*GIDLITE, "--help"), (*python, "pass"), 0.4, "Python alone"),
            "imports of predict, and its weights": (
                (*python, _IMPORTS), (*python, _THEIRS), 2.5, "torch and what diffusers needs",
            ),
        }  # fmt: skip
        for work, (ours, theirs, target, peer) in pairs.items():
            best = [min(run(command).seconds for _ in range(3)) for command in (ours, theirs)]
            yield Row(work, best[0], "s", target, peer=peer, beside=best[1])
        named, idle = commands(Path(folder)), {}
        for name, (command, target) in named.items():
            idle[name], spinning = both(command)
            yield Row(name, idle[name].seconds, "s", target, peer=PEER, beside=spinning.seconds)
        yield Row(f"{name}: memory", idle[name].gigabytes, "GB", 1.5)
        yield from beside_load(named, idle)
