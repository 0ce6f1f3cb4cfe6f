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

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gidlite._checks import GidliteError
from gidlite.normalize import FrequencyStats, stats_of_variant
from gidlite.spectral import pack_complex, unpack_complex

__all__ = [
    "SHARD_BYTES",
    "DiskFullError",
    "Sample",
    "ShardFolder",
    "finish_folder",
    "magnitude_histogram",
    "magnitude_percentile",
    "sample_bytes",
    "write_json",
    "write_shard",
]

SHARD_BYTES = 256_000_000
_FORMAT, _VERSION = "gidlite-shard", "1"
# Magnitudes are counted on a logarithmic scale, about 3.7 % wide, from 1e-5 to 1e3 px.
_DECADES, _PER_DECADE = (-5, 3), 64


class DiskFullError(GidliteError):
    """There is no space left where shards are written; no other sample could be saved either."""


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


def _atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no space left for {path}; free some and run the same command again, "
                "it goes on where it stopped"
            ) from None
        raise GidliteError(f"cannot write {path} ({error}); choose a writable folder") from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically.

    Raises:
        DiskFullError: If there is no space left.
        GidliteError: If it cannot be written for another reason.
    """
    _atomically(path, json.dumps(content, indent=1).encode())


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
    _atomically(path, save({k: v.contiguous() for k, v in tensors.items()}, metadata))


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
