"""Training shards: many photos with their spectral volumes in safetensors files, and an index.

A folder holds ``settings.json``, what every sample has in common; ``shards/*.safetensors``, at most
256 MB each; ``index.json``: shard files, which of their samples to use, why others were left out;
``statistics.json``: percentiles of magnitude per frequency bin, from histograms.

A shard holds, for its N samples, ``image`` (N, 3, H, W) uint8, ``packed`` (N, K, 4, h, w) float16
in px of the (h, w) grid, ``reliable`` (N, h, w) uint8 (1 where the motion can be trusted) and
``magnitudes`` (K, bins) int64, a histogram over trusted pixels; its metadata hold ``format``,
``version`` and ``samples``, a JSON list with the ``info`` of each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from gidlite.data.splits import check_seed, seeded
from gidlite.data.world import Scenes, make_scenes
from gidlite.data.world.pieces import Pieces, collect_pieces
from gidlite.errors import GidliteError, alone, check_output, require, to_safetensors, written
from gidlite.media import IMAGE_SUFFIXES, write_image
from gidlite.motion.spectral import pack_complex, unpack_complex
from gidlite.viz import contact_sheet, liveliest_row, motion_tile

SHARD_BYTES = 256_000_000
# Magnitudes are counted on a logarithmic scale, about 3.7 % wide, from 1e-5 to 1e3 px.
_LOWEST, _PER_DECADE = -5, 64
_BINS = (3 - _LOWEST) * _PER_DECADE
_BATCH = 8  # scenes made together
_SHEET_SCENES = 2000  # on the largest sheet, which is held in memory
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sample:
    """One photo with the motion of its pixels."""

    image: UInt8[Tensor, "3 height width"]
    spectral: Complex[Tensor, "freq 2 rows columns"]  # px of its own grid
    reliable: Bool[Tensor, "rows columns"]  # where the motion can be trusted
    # ``source``, and of videos ``start`` (s), what ``checks`` measured, ``loop``: repeats after T.
    info: dict[str, Any]


def sample_bytes(num_frequencies: int, size: tuple[int, int]) -> int:
    """Return the bytes of a sample in a shard, its photo and motion of (height, width)."""
    return (3 + 8 * num_frequencies + 1) * size[0] * size[1]


def _histogram(sample: Sample) -> Int[Tensor, "freq bins"]:
    """Count the magnitudes of every frequency at trusted pixels, on a logarithmic scale."""
    values = sample.spectral[..., sample.reliable].abs().flatten(1).clamp(min=1e-30).log10()
    place = ((values - _LOWEST) * _PER_DECADE).long().clamp(0, _BINS - 1)
    return torch.stack([row.bincount(minlength=_BINS) for row in place])


def _percentile(histogram: Int[Tensor, "freq bins"], percentile: float) -> Float[Tensor, " freq"]:
    """Return a percentile of magnitude per frequency, interpolated within bins."""
    below = histogram.double().cumsum(1)
    rank = percentile / 100 * below[:, -1:]
    place = torch.searchsorted(below, rank)
    inside = histogram.gather(1, place).clamp(min=1)
    share = (rank - (below.gather(1, place) - inside)) / inside
    return 10 ** ((place + share.clamp(0, 1)) / _PER_DECADE + _LOWEST)[:, 0].float()


def _durably(path: Path, content: bytes) -> None:
    """Write a file that is still whole after the machine goes down."""
    with written(path) as hidden, hidden.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; errors as ``written``."""
    _durably(path, json.dumps(content, indent=1).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a folder of shards; anything else is a GidliteError."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        content = None
    finished = "that gidlite extract or synthesize has finished writing"
    require(isinstance(content, dict), f"{path} is no JSON object; give a folder {finished}")
    return content


def write_shard(path: Path, samples: list[Sample]) -> None:
    """Write samples of one size to a shard, atomically; errors as ``written``."""
    tensors = {
        "image": torch.stack([sample.image for sample in samples]),
        # One at a time, because complex64 takes twice the memory of what is kept.
        "packed": torch.stack([pack_complex(sample.spectral).half() for sample in samples]),
        "reliable": torch.stack([sample.reliable for sample in samples]).byte(),
        "magnitudes": torch.stack([_histogram(sample) for sample in samples]).sum(0),
    }
    infos = json.dumps([sample.info for sample in samples])
    told = {"format": "gidlite-shard", "version": "1", "samples": infos}
    _durably(path, to_safetensors(tensors, told))


class ShardFolder:
    """The samples of a folder of shards, read one at a time.

    A folder without a finished index and a shard that cannot be read, or does not hold what the
    index says, are a ``GidliteError``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = read_json(self.folder / "index.json")
        self.settings = read_json(self.folder / "settings.json")
        advice = f"is damaged; extract {self.folder} again"
        try:
            shards = [(shard["file"], list(shard["samples"])) for shard in index["shards"]]
        except (KeyError, TypeError):
            raise GidliteError(f"{self.folder / 'index.json'} {advice}") from None
        held, path = self.settings.get("num_frequencies"), self.folder / "settings.json"
        require(type(held) is int and held > 0, f"{path} {advice}")
        self._places = [(name, row) for name, rows in shards for row in rows]
        # (height, width) of every sample
        self.sizes = {check_shard(self.folder / "shards" / str(n), r, held) for n, r in shards}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Sample:
        """Read one sample; only its bytes are read from the disk."""
        name, row = self._places[number]
        file = _opened(self.folder / "shards" / name)
        image, packed, reliable = (file.get_slice(k)[row] for k in ("image", "packed", "reliable"))
        info = json.loads(file.metadata()["samples"])[row]
        return Sample(image, unpack_complex(packed.float()), reliable.bool(), info)


def check_shard(path: Path, rows: Iterable[Any], num_frequencies: int) -> tuple[int, int]:
    """Return (height, width) of a shard's samples; refuse it if damaged or without these rows."""
    file = _opened(path)
    try:
        slices = {name: file.get_slice(name) for name in ("image", "packed", "reliable")}
        found = {name: (s.get_dtype(), s.get_shape()) for name, s in slices.items()}
        count, _, height, width = found["image"][1]
        whole = found == {
            "image": ("U8", [count, 3, height, width]),
            "packed": ("F16", [count, num_frequencies, 4, height, width]),
            "reliable": ("U8", [count, height, width]),
        }
        infos = json.loads(file.metadata()["samples"])
        whole = whole and len(infos) == count and all(isinstance(info, dict) for info in infos)
        whole = whole and all(type(row) is int and 0 <= row < count for row in rows)
    except (SafetensorError, ValueError, TypeError, KeyError):
        whole = False
    what = "does not hold the samples that its folder says"
    require(whole, f"{path} {what}; delete its record and extract again")
    return height, width


def _opened(path: Path) -> Any:
    """Return a shard, opened anew: they may be more than can stay open."""
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        advice = "delete its record and extract again"
        raise GidliteError(f"{path} cannot be read ({error!s:.200}); {advice}") from None


def finish_folder(folder: Path, shards: list[dict], *, report: dict[str, Any]) -> int:
    """Write the index, of ``shards`` and a report, and statistics; return the number of samples."""
    total = sum(len(shard["samples"]) for shard in shards)
    write_json(folder / "index.json", {"samples": total, "shards": shards} | report)
    used = [folder / "shards" / shard["file"] for shard in shards if shard["samples"]]
    if used:
        counts = sum(_opened(path).get_tensor("magnitudes") for path in used)
        ranks = (50, 90, 95, 99)
        statistics = {f"percentile_{p}_px": _percentile(counts, p).tolist() for p in ranks}
        write_json(folder / "statistics.json", statistics)
    return total


def _batches(
    sources: list[Pieces], count: int, seed: int, size: tuple[int, int], progress
) -> Iterator[Scenes]:
    """Yield ``count`` scenes in batches, each batch of the next source of pieces."""
    for number, first in enumerate(range(0, count, _BATCH)):
        some, pieces = min(_BATCH, count - first), sources[number % len(sources)]
        generator = seeded(seed, number)
        yield make_scenes(some, pieces, height=size[0], width=size[1], generator=generator)
        if progress is not None:
            progress(first + some, count)


def write_scene_sheet(
    path: str | Path, *, count: int = 48, seed: int = 0, sprites: str | Path | None = None,
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Write a contact sheet of scenes: photo, motion, X-t slice of the row that moves most.

    Pieces that cannot be read and a file that cannot be written are a ``GidliteError``.
    """
    known = Path(path).suffix.lower() in IMAGE_SUFFIXES
    require(known, f"cannot write {path}: use one of the suffixes {', '.join(IMAGE_SUFFIXES)}")
    limits = f"count is {count}; a sheet shows 1 to {_SHEET_SCENES} scenes"
    require(1 <= count <= _SHEET_SCENES, limits)
    check_seed(seed)
    check_output(path)
    tiles = []
    for scenes in _batches(collect_pieces(sprites), count, seed, (100, 160), progress):
        volumes, (height, width) = scenes.spectral(16), scenes.grid
        rows = [liveliest_row(volume, height=height) for volume in volumes]
        times = range(0, scenes.coords.shape[-1], 2)
        lines = [scenes.frame(t)[range(len(rows)), :, rows] for t in times]
        slices = functional.interpolate(torch.stack(lines, dim=2), scenes.grid, mode="area")
        for photo, volume, xt in zip(scenes.photo, volumes, slices, strict=True):
            tiles += [photo, motion_tile(volume, height=height, width=width), xt]
    write_image(path, contact_sheet(tiles, columns=12, gap=2))


def write_scene_shards(
    folder: str | Path, *, count: int, seed: int = 0, sprites: str | Path | None = None,
    num_frequencies: int = 16, size: tuple[int, int] = (160, 256), progress: Progress | None = None,
) -> int:  # fmt: skip
    """Write scenes of (height, width) like ``gidlite extract``; return the number of shards.

    A folder that is not new or cannot be written, and pieces that cannot be read, are a
    ``GidliteError``.
    """
    folder, each = Path(folder), sample_bytes(num_frequencies, size)
    require(count >= 1, f"count is {count}; it must be at least 1")
    check_seed(seed)
    check_output(folder, folder=True)
    free, needed = shutil.disk_usage(folder.parent).free, count * each
    space = f"{count} scenes need {needed:.1e} bytes and {folder.parent} has {free:.1e} left"
    require(needed < free, f"{space}; ask for fewer with --count")
    origin, sure = {"source": "synthetic", "seed": seed}, torch.ones(size, dtype=torch.bool)
    form = {"num_frequencies": num_frequencies, "height": size[0], "width": size[1]}
    form |= {"num_frames": 150, "fps": 30.0} | origin
    with alone(folder):
        path = folder / "settings.json"
        begun = path.exists() and not (folder / "index.json").exists() and read_json(path) == form
        fresh = begun or not path.exists()
        require(fresh, f"{folder} already holds samples; choose another folder")
        sources = collect_pieces(sprites)  # refused before the folder is begun
        write_json(path, form)
        scenes = (
            scene
            for batch in _batches(sources, count, seed, size, progress)
            for scene in zip(batch.photo, batch.spectral(num_frequencies), strict=True)
        )
        samples = (
            Sample((photo * 255).round().byte(), volume, sure, origin | {"number": number})
            for number, (photo, volume) in enumerate(scenes)
        )
        shards: list[dict] = []
        while some := list(islice(samples, max(1, SHARD_BYTES // each - 1))):
            name = f"scenes_{len(shards):05d}.safetensors"
            write_shard(folder / "shards" / name, some)
            shards.append({"file": name, "samples": list(range(len(some)))})
        finish_folder(folder, shards, report={})
    return len(shards)
