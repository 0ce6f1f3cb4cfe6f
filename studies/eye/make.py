"""Pairs of loops drawn by chance, the loops, the page that shows them, and the key."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gidlite.cli import WINDS, load_pipeline
from gidlite.errors import alone, check_output, require, written
from gidlite.media import IMAGE_SUFFIXES, VideoWriter, fit_size, read_image, resize
from gidlite.motion import SpectralVolume
from gidlite.pipeline import Sampling
from gidlite.render import close_for, farthest_motion, frame_times, render_frames

STILL = "still"
SIDES = ("left", "right")
FORMAT = {"format": "gidlite-eye-key", "version": 1}
_CATCH = 0.1  # share of the pairs that ask for attention alone
_SEEN = 4.0  # px at 256 wide: the least that the loop of such a pair moves
_LARGEST = 384  # px, of either side of a loop
Photo = Float[Tensor, "3 height width"]


@dataclass(frozen=True)
class Settings:
    """What a set is made of: two sources, and how many loops, how long, how drawn.

    A source is "still" or what ``GidPipeline.from_pretrained`` takes.

    Raises:
        GidliteError: If the sources are the same, or a number is out of its range.
    """

    first: str
    second: str
    pairs: int = 60
    seconds: float = 5.0
    fps: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        both = f"--first and --second are both {self.first}"
        require(self.first != self.second, f"{both}; give two sources that differ")
        require(2 <= self.pairs <= 500, f"--pairs is {self.pairs}; ask for 2 to 500")
        require(1 <= self.seconds <= 20, f"--seconds is {self.seconds}; ask for 1 to 20")
        require(15 <= self.fps <= 30, f"--fps is {self.fps}; ask for 15 to 30")


def find_photos(given: Iterable[Path]) -> list[Path]:
    """Return photos and the photos of folders, in order; refuse two of one name, and none."""
    found: list[Path] = []
    for path in given:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        found += [p for p in inside if p is path or p.suffix.lower() in IMAGE_SUFFIXES]
    require(bool(found), "no photo was found; give photos or a folder of them")
    names = [path.name for path in found]
    for name in names:
        require(names.count(name) == 1, f"two photos are called {name}; give each once")
    return found


def draw_pairs(photos: list[str], settings: Settings) -> list[dict]:
    """Return what the key says of every pair: id, kind, photo, seed, what is left and right.

    Photos come in turn, each turn in another order. Of both kinds, ``pair`` (sides "first" and
    "second") and ``catch`` ("moving" and "frozen", with the ``source`` of the loop), half of the
    pairs have the former on the left. Equal settings give equal pairs.
    """
    chance = random.Random(settings.seed)
    turns = math.ceil(settings.pairs / len(photos))
    shown = [p for _ in range(turns) for p in chance.sample(photos, len(photos))][: settings.pairs]
    caught = set(chance.sample(range(settings.pairs), round(_CATCH * settings.pairs)))
    kinds = {"pair": ("first", "second"), "catch": ("moving", "frozen")}
    moving = [name for name in ("first", "second") if getattr(settings, name) != STILL]
    count = {"catch": len(caught), "pair": settings.pairs - len(caught)}
    turned = {kind: [n % 2 for n in range(count[kind])] for kind in kinds}
    for values in turned.values():
        chance.shuffle(values)
    pairs = []
    for number, photo in enumerate(shown):
        kind = "catch" if number in caught else "pair"
        sides = kinds[kind][::-1] if turned[kind].pop() else kinds[kind]
        pair = {"id": f"p{number + 1:03d}", "kind": kind, "photo": photo}
        pair |= {"seed": settings.seed + number} | dict(zip(SIDES, sides, strict=True))
        pairs.append(pair | ({"source": chance.choice(moving)} if kind == "catch" else {}))
    return pairs


def make_set(
    photos: list[Path],
    folder: Path,
    settings: Settings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Make key, page and loops in a folder, and return how many loops were made now.

    Loops that are there are kept. ``progress`` gets (loops there, loops in all).

    Raises:
        GidliteError: If the folder holds another set, a photo or a source cannot be read, or
            something cannot be written.
    """
    pairs = draw_pairs([path.name for path in photos], settings)
    told = json.dumps([asdict(settings), [path.name for path in photos]])
    name = hashlib.sha256(told.encode()).hexdigest()[:12]
    key = FORMAT | {"set": name} | asdict(settings) | {"pairs": pairs}
    secret = json.dumps(key, indent=1) + "\n"
    shown = page(name, [pair["id"] for pair in pairs])
    check_output(folder, folder=True)
    with alone(folder, "loops"):
        old = folder / "key.json"
        same = not old.exists() or old.read_bytes() == secret.encode()
        require(same, f"{folder} holds a set of other photos or options; choose a new folder")
        wanted = {
            folder / "loops" / f"{pair['id']}_{side}.mp4": (pair, side)
            for pair in pairs for side in SIDES
        }  # fmt: skip
        missing = [path for path in wanted if not path.exists()]
        by_name = _checked(photos, settings) if missing else {}
        for path, text in ((old, secret), (folder / "index.html", shown)):
            with written(path) as hidden:
                hidden.write_text(text, encoding="utf-8")
        for number, path in enumerate(missing, start=1):
            pair, side = wanted[path]
            _make_loop(path, by_name[pair["photo"]], pair, pair[side], settings)
            if progress is not None:
                progress(len(wanted) - len(missing) + number, len(wanted))
    return len(missing)


def _checked(photos: list[Path], settings: Settings) -> dict[str, Path]:
    """Return photos by name; what cannot be read is refused before minutes are spent."""
    for source in {settings.first, settings.second} - {STILL}:
        _pipeline(source)
    for path in photos:
        read_image(path)
    return {path.name: path for path in photos}


@functools.cache
def _pipeline(source: str):
    return load_pipeline(Path(source))


def _make_loop(path: Path, photo: Path, pair: dict, shows: str, settings: Settings) -> None:
    """Write the loop of one side, which shows "first", "second", "moving" or "frozen"."""
    image = _shrunk(read_image(photo))
    source = {"first": settings.first, "second": settings.second, "frozen": STILL}.get(shows)
    source = source or getattr(settings, pair["source"])
    count = round(settings.seconds * settings.fps)
    with VideoWriter(path, fps=settings.fps, loop=count) as video:
        if source == STILL:
            for _ in range(count):
                video.write(image)
            return
        volume = _imagine(source, image, pair["seed"])
        times = frame_times(volume, seconds=settings.seconds, fps=settings.fps)
        volume = close_for(volume, times)
        if shows == "moving":  # attention is asked for where there is something to see
            lively = max(1.0, _SEEN / max(farthest_motion(volume), 1e-3))
            volume = replace(volume, spectral=volume.spectral * lively)
        for frame in render_frames(image, volume, times):
            video.write(frame)


def _shrunk(image: Photo) -> Photo:
    height, width = image.shape[-2:]
    widest = max(16, min(_LARGEST, _LARGEST * width // height))
    height, width = fit_size(height, width, max_width=widest)
    return resize(image, height=height, width=width)


def _imagine(source: str, image: Photo, seed: int) -> SpectralVolume:
    """Return a volume, drawn as ``gidlite animate`` does if it is asked for nothing else."""
    pipeline = _pipeline(source)
    wind = WINDS["breeze"] if pipeline.representation == "modes" else None
    generator = torch.Generator().manual_seed(seed)
    return pipeline(image, generator=generator, sampling=Sampling(wind=wind)).volume


def page(name: str, ids: list[str]) -> str:
    """Return the page of a set: it knows the name of the set and the ids of its pairs, no more."""
    text = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    for kind in ("script", "style"):
        content = re.search(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        text = text.replace(f"{{{{{kind}-hash}}}}", f"'sha256-{digest}'")
    return text.replace("{{set}}", json.dumps({"set": name, "ids": ids}))
