"""Scenes made once, that all rows learn from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gidlite.data import Example, MotionDataset, seeded
from gidlite.data.splits import STATISTICS
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import collect_pieces
from gidlite.errors import GidliteError, check_output, written
from gidlite.motion.spectral import pack_complex, unpack_complex
from studies.ablation.rows import Preset

# Bins of the row that has most.
_MOST_BINS = 24
_GRID_STRIDE = 2
_SEED = 17
_BATCH = 8


def scene_settings(preset: Preset, sprites: str | Path | None) -> dict:
    """Return what the scenes of a preset are a function of, but for the device."""
    return {
        "scenes": preset.scenes, "held_out": preset.held_out, "width": preset.width,
        "height": preset.height, "seed": _SEED, "sprites": sprites is not None,
    }  # fmt: skip


def store_scenes(
    path: str | Path,
    preset: Preset,
    *,
    sprites: str | Path | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make the scenes of a preset and write them as one file, unless it is there.

    Args:
        path: Safetensors file: photos uint8, volumes of 24 bins float16, in px of the grid.
        preset: How many and how large.
        sprites: Folder of photographic pieces.
        device: Where they are made; another device makes other scenes of the same kind.
        progress: Called with (scenes done, scenes in all).

    Raises:
        GidliteError: If the file holds other scenes, or cannot be written.
    """
    path, settings = Path(path), scene_settings(preset, sprites)
    if path.is_file():
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {}).get("settings", "{}"))
        if found != settings:
            raise GidliteError(f"{path} holds scenes of another preset; remove it or change --out")
        return
    check_output(path)
    sources = [pieces.to(device) for pieces in collect_pieces(sprites, seed=_SEED)]
    count = preset.scenes + preset.held_out
    photos, volumes = [], []
    for number, first in enumerate(range(0, count, _BATCH)):
        scenes = make_scenes(
            min(_BATCH, count - first), sources[number % len(sources)], height=preset.height,
            width=preset.width, grid_stride=_GRID_STRIDE, generator=seeded(_SEED, number, device),
        )  # fmt: skip
        photos.append((scenes.photo * 255).round().byte().cpu())
        volumes.append(pack_complex(scenes.spectral(_MOST_BINS)).half().cpu())
        if progress is not None:
            progress(min(first + _BATCH, count), count)
    with written(path) as hidden:
        tensors = {"image": torch.cat(photos), "packed": torch.cat(volumes)}
        save_file(tensors, hidden, {"settings": json.dumps(settings)})


class StoredScenes:
    """Scenes of a file as a source of examples, kept on a device.

    Args:
        path: Of ``store_scenes``.
        num_frequencies: K, at most 24.
        device: Where examples are wanted.

    Attributes:
        count: Scenes to learn from.
        held_out: Scenes that are not learned from, for numbers of 10⁹ and above.

    Raises:
        GidliteError: If there is no such file or it has fewer bins.
    """

    def __init__(self, path: str | Path, *, num_frequencies: int = 16, device="cpu") -> None:
        if not Path(path).is_file():
            raise GidliteError(f"{path} does not exist; run the study's command scenes")
        with safe_open(path, "pt") as file:
            settings = json.loads(file.metadata()["settings"])
            self._images = file.get_tensor("image").to(device)
            packed = file.get_slice("packed")
            if packed.get_shape()[1] < num_frequencies:
                raise GidliteError(f"{path} has fewer than {num_frequencies} frequencies")
            self._packed = packed[:, :num_frequencies].to(device)
        self.count, self.held_out = settings["scenes"], settings["held_out"]

    def example(self, number: int, seed: int = 0) -> Example:
        """Return scene ``number``, in turn; the seed changes nothing."""
        if number >= STATISTICS.start:
            place = self.count + (number - STATISTICS.start) % self.held_out
        else:
            place = number % self.count
        spectral = unpack_complex(self._packed[place].float())
        reliable = torch.ones(spectral.shape[-2:], dtype=torch.bool, device=spectral.device)
        return Example(self._images[place].float() / 255, spectral, reliable)

    def dataset(self) -> MotionDataset:
        """Return the scenes as what training takes."""
        return MotionDataset([self], length=1 << 40)
