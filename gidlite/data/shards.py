"""Training shards: many photos with their spectral volumes in safetensors files, and an index.

A folder of shards holds

    settings.json    what every sample has in common
    shards/*.safetensors, at most 256 MB each
    index.json       shard files, which of their samples to use, and why others were left out
    statistics.json  per frequency bin: RMS and percentiles of magnitude, from histograms

A shard holds, for its N samples, ``image`` (N, 3, H, W) uint8, ``packed`` (N, K, 4, h, w) float16
in px of the (h, w) grid, ``reliable`` (N, h, w) uint8 (1 where the motion can be trusted) and
``magnitudes`` (K, bins) int64, a histogram; its metadata hold ``format``, ``version`` and
``samples``, a JSON list with the source of each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from gidlite.data.world import Scenes, make_scenes
from gidlite.data.world.pieces import Pieces, collect_pieces
from gidlite.errors import GidliteError, written
from gidlite.media import write_image
from gidlite.motion.normalize import FrequencyStats, stats_of_variant
from gidlite.motion.spectral import pack_complex, unpack_complex
from gidlite.viz import contact_sheet, liveliest_row, motion_tile

SHARD_BYTES = 256_000_000
_FORMAT, _VERSION = "gidlite-shard", "1"
# Magnitudes are counted on a logarithmic scale, about 3.7 % wide, from 1e-5 to 1e3 px.
_DECADES, _PER_DECADE = (-5, 3), 64


@dataclass(frozen=True)
class Sample:
    """One photo with the motion of its pixels.

    Attributes:
        image: ``(3, H, W)`` uint8.
        spectral: ``(K, 2, h, w)`` complex64, px of the (h, w) grid.
        reliable: ``(h, w)`` bool, where the motion can be trusted.
        info: Where it comes from: ``source``, ``start`` in seconds, ``checks``.
    """

    image: UInt8[Tensor, "3 height width"]
    spectral: Complex[Tensor, "freq 2 rows columns"]
    reliable: Bool[Tensor, "rows columns"]
    info: dict[str, Any]


def sample_bytes(*, num_frequencies: int, size: tuple[int, int], grid: tuple[int, int]) -> int:
    """Return the bytes one sample takes in a shard; sizes are (height, width)."""
    return 3 * size[0] * size[1] + (8 * num_frequencies + 1) * grid[0] * grid[1]


def magnitude_histogram(
    spectral: Complex[Tensor, "*batch freq 2 rows columns"],
) -> Int[Tensor, "freq bins"]:
    """Count coefficient magnitudes of every bin on the logarithmic scale of the shards."""
    bins = (_DECADES[1] - _DECADES[0]) * _PER_DECADE
    values = spectral.abs().movedim(-4, 0).flatten(1).clamp(min=1e-30).log10()
    place = ((values - _DECADES[0]) * _PER_DECADE).long().clamp(0, bins - 1)
    return torch.stack([row.bincount(minlength=bins) for row in place])


def magnitude_percentile(
    histogram: Int[Tensor, "freq bins"], percentile: float
) -> Float[Tensor, " freq"]:
    """Return a percentile of magnitude per frequency, interpolated within the histogram's bins."""
    counts = histogram.double()
    below = counts.cumsum(1)
    rank = percentile / 100 * below[:, -1:]
    place = torch.searchsorted(below, rank).clamp(max=counts.shape[1] - 1)
    inside = counts.gather(1, place).clamp(min=1)
    share = (rank - (below.gather(1, place) - inside)) / inside
    return 10 ** ((place + share.clamp(0, 1)) / _PER_DECADE + _DECADES[0])[:, 0].float()


def _durably(path: Path, content: bytes) -> None:
    """Write a file that is still whole after the machine goes down."""
    with written(path) as hidden, hidden.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically.

    Raises:
        DiskFullError: If there is no space left.
        GidliteError: If it cannot be written for another reason.
    """
    _durably(path, json.dumps(content, indent=1).encode())


def write_shard(path: Path, samples: list[Sample]) -> None:
    """Write samples of one size to a shard, atomically.

    Raises:
        DiskFullError: If there is no space left.
        GidliteError: If it cannot be written for another reason.
    """
    tensors = {
        "image": torch.stack([sample.image for sample in samples]),
        # One at a time, because complex64 takes twice the memory of what is kept.
        "packed": torch.stack([pack_complex(sample.spectral).half() for sample in samples]),
        "reliable": torch.stack([sample.reliable for sample in samples]).byte(),
        "magnitudes": sum(magnitude_histogram(sample.spectral) for sample in samples),
    }
    infos = json.dumps([sample.info for sample in samples])
    metadata = {"format": _FORMAT, "version": _VERSION, "samples": infos}
    _durably(path, save({k: v.contiguous() for k, v in tensors.items()}, metadata))


class ShardFolder:
    """The samples of a folder of shards, read one at a time.

    Args:
        folder: What ``gidlite extract`` or ``gidlite synthesize`` wrote.

    Raises:
        GidliteError: If the folder has no finished index.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "index.json"
        if not index.is_file():
            raise GidliteError(
                f"{folder} has no index.json; give a folder that gidlite extract or synthesize "
                "has finished writing"
            )
        self.index = json.loads(index.read_text())
        self.settings = json.loads((self.folder / "settings.json").read_text())
        self._places = [
            (shard["file"], number) for shard in self.index["shards"] for number in shard["samples"]
        ]
        self._open: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Sample:
        """Read one sample; only its bytes are read from the disk."""
        name, row = self._places[number]
        file = self._file(name)
        one = {key: file.get_slice(key)[row] for key in ("image", "packed", "reliable")}
        return Sample(
            image=one["image"],
            spectral=unpack_complex(one["packed"].float()),
            reliable=one["reliable"].bool(),
            info=json.loads(file.metadata()["samples"])[row],
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind when the folder travels to a worker process."""
        return self.__dict__ | {"_open": {}}

    def _file(self, name: str):
        if name not in self._open:
            if len(self._open) >= 32:  # open files are few, shards may be thousands
                self._open.pop(next(iter(self._open)))
            path = self.folder / "shards" / name
            try:
                self._open[name] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise GidliteError(
                    f"{path} cannot be read ({error}); delete its record and extract again"
                ) from None
        return self._open[name]

    def histogram(self) -> Int[Tensor, "freq bins"]:
        """Return the magnitude histogram of all samples in the shards."""
        names = [shard["file"] for shard in self.index["shards"] if shard["samples"]]
        if not names:
            raise GidliteError(f"{self.folder} holds no samples; extract more videos")
        return sum(self._file(name).get_tensor("magnitudes") for name in names)

    def frequency_stats(
        self, *, percentile: float = 95, variant: str = "adaptive"
    ) -> FrequencyStats:
        """Return normalization statistics of the whole folder without reading the volumes."""
        histogram = self.histogram()
        if variant == "global":
            histogram = histogram.sum(0, keepdim=True).expand(len(histogram), -1).contiguous()
        return stats_of_variant(magnitude_percentile(histogram, percentile), percentile, variant)


def finish_folder(folder: Path, shards: list[dict], *, report: dict[str, Any]) -> ShardFolder:
    """Write ``index.json`` and ``statistics.json`` and return the readable folder.

    Args:
        folder: With its settings and shards already written.
        shards: For each shard its ``file`` and the ``samples`` to use, as rows.
        report: What else to keep in the index.
    """
    total = sum(len(shard["samples"]) for shard in shards)
    write_json(folder / "index.json", {"samples": total, "shards": shards} | report)
    finished = ShardFolder(folder)
    if total:
        histogram = finished.histogram()
        statistics = {
            f"percentile_{p}_px": magnitude_percentile(histogram, p).tolist()
            for p in (50, 90, 95, 99)
        }
        write_json(folder / "statistics.json", statistics)
    return finished


_BATCH = 8
_TILE = (100, 160)


def _batches(pieces: list[Pieces], count: int, seed: int, **options) -> Iterator[Scenes]:
    """Yield ``count`` scenes in batches, each batch from the next source."""
    for number, first in enumerate(range(0, count, _BATCH)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        source = pieces[number % len(pieces)]
        yield make_scenes(min(_BATCH, count - first), source, generator=generator, **options)


def write_scene_sheet(
    path: str | Path,
    *,
    count: int = 48,
    seed: int = 0,
    sprites: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a contact sheet of scenes: photo, motion and X-t slice of each.

    Args:
        path: Image file.
        count: Number of scenes.
        seed: Equal seeds give equal scenes.
        sprites: Folder of photographic pieces; painted ones if not given.
        progress: Called with (scenes done, scenes in all).

    Raises:
        GidliteError: If the pieces cannot be read or the file not written.
    """
    if Path(path).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise GidliteError(f"cannot write {path}: use one of the suffixes .png, .jpg, .jpeg, .webp")
    tiles = []
    height, width = _TILE
    for scenes in _batches(collect_pieces(sprites), count, seed, height=height, width=width):
        tiles += scene_tiles(scenes)
        if progress is not None:
            progress(len(tiles) // 3, count)
    write_image(path, contact_sheet(tiles, columns=12, gap=2))


def write_scene_shards(
    folder: str | Path,
    *,
    count: int,
    seed: int = 0,
    sprites: str | Path | None = None,
    num_frequencies: int = 16,
    height: int = 160,
    width: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write scenes as training shards, in the format of ``gidlite extract``.

    Returns:
        The number of shards.

    Raises:
        GidliteError: If the folder already holds samples or cannot be written, or the pieces
            cannot be read.
    """
    folder = Path(folder)
    if (folder / "settings.json").exists():
        raise GidliteError(f"{folder} already holds samples; choose another folder")
    size = (height, width)
    settings = {
        "num_frequencies": num_frequencies, "height": height, "width": width,
        "num_frames": 150, "fps": 30.0, "seed": seed, "source": "synthetic",
    }  # fmt: skip
    write_json(folder / "settings.json", settings)
    each = sample_bytes(num_frequencies=num_frequencies, size=size, grid=size)
    per_shard = max(1, SHARD_BYTES // each - 1)
    waiting: list[Sample] = []
    shards: list[dict] = []
    done = 0

    def flush() -> None:
        name = f"scenes_{len(shards):05d}.safetensors"
        write_shard(folder / "shards" / name, waiting)
        shards.append({"file": name, "samples": list(range(len(waiting)))})
        waiting.clear()

    for scenes in _batches(collect_pieces(sprites), count, seed, height=height, width=width):
        volumes = scenes.spectral(num_frequencies)
        for photo, volume in zip(scenes.photo, volumes, strict=True):
            reliable = torch.ones(volume.shape[-2:], dtype=torch.bool)
            info = {"source": "synthetic", "seed": seed, "number": done}
            waiting.append(Sample((photo * 255).round().byte(), volume, reliable, info))
            done += 1
            if len(waiting) == per_shard:
                flush()
        if progress is not None:
            progress(done, count)
    if waiting:
        flush()
    finish_folder(folder, shards, report={})
    return len(shards)


def scene_tiles(scenes: Scenes, *, every: int = 2) -> list[Float[Tensor, "3 height width"]]:
    """Return three pictures per scene: the photo, its motion, and an X-t slice.

    Motion is drawn by ``motion_tile``; the slice goes through the row that moves most, time
    downwards.

    Args:
        scenes: Scenes with labels at full resolution.
        every: Take one frame in this many into the slice.
    """
    size = scenes.grid
    volumes = scenes.spectral(16)
    rows = [liveliest_row(volume, height=size[0]) for volume in volumes]
    count = scenes.coords.shape[-1]
    lines = [scenes.frame(t)[range(len(rows)), :, rows] for t in range(0, count, every)]
    slices = functional.interpolate(torch.stack(lines, dim=2), size, mode="area")
    tiles = []
    for photo, volume, xt in zip(scenes.photo, volumes, slices, strict=True):
        tiles += [photo, motion_tile(volume, height=size[0], width=size[1]), xt]
    return tiles
