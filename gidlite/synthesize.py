"""Scenes of the synthetic world in bulk: contact sheets and training shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from gidlite._checks import GidliteError
from gidlite.media import write_image
from gidlite.shards import (
    SHARD_BYTES,
    Sample,
    finish_folder,
    sample_bytes,
    write_json,
    write_shard,
)
from gidlite.synthetic import Pieces, Scenes, make_scenes
from gidlite.viz import contact_sheet, scene_tiles

__all__ = ["collect_pieces", "write_scene_shards", "write_scene_sheet"]

_BATCH = 8
_TILE = (100, 160)


def collect_pieces(sprites: str | Path | None, *, seed: int = 0) -> list[Pieces]:
    """Return sources of scenes, to be used in turn: painted, or mostly photographic if given.

    Raises:
        GidliteError: If the folder of photographic pieces cannot be used.
    """
    # Photographs matter most; the painted world fills in what the folder lacks. A folder that
    # cannot be used is refused before anything is painted.
    photographic = [] if sprites is None else [Pieces.from_folder(sprites)] * 3
    return [*photographic, Pieces.painted(generator=torch.Generator().manual_seed(seed))]


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
