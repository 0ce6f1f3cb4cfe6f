"""The spectral volume file: safetensors with the numbers needed to play it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Complex
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gidlite.errors import GidliteError, all_finite, check_shape, require_file, written
from gidlite.motion.spectral import pack_complex, unpack_complex

_FORMAT = "gidlite-spectral-volume"
_VERSION = "1"


@dataclass(frozen=True)
class SpectralVolume:
    """A spectral volume and what its numbers refer to.

    Attributes:
        spectral: ``(K, 2, H, W)`` complex64 in px of an (H, W) picture.
        num_frames: T, one period in frames.
        fps: Frames per second.
        seed: Seed it was sampled with, or -1.
        model: What made it.
    """

    spectral: Complex[Tensor, "freq 2 height width"]
    num_frames: int = 150
    fps: float = 30.0
    seed: int = -1
    model: str = "unknown"

    @property
    def period_seconds(self) -> float:
        """Duration of one period."""
        return self.num_frames / self.fps


def save_volume(path: str | Path, volume: SpectralVolume) -> None:
    """Write a volume atomically (packed float32, see the format in the README).

    Raises:
        GidliteError: If the folder cannot be written to.
    """
    path = Path(path)
    height, width = volume.spectral.shape[-2:]
    metadata = {
        "format": _FORMAT, "version": _VERSION, "num_frames": volume.num_frames,
        "fps": volume.fps, "width": width, "height": height,
        "seed": volume.seed, "model": volume.model,
    }  # fmt: skip
    with written(path) as hidden:
        packed = pack_complex(volume.spectral).contiguous()
        save_file({"packed": packed}, hidden, {k: str(v) for k, v in metadata.items()})


def load_volume(path: str | Path) -> SpectralVolume:
    """Read a volume file.

    Raises:
        GidliteError: If the file is missing, is not a volume of a known version, or its
            contents contradict its metadata.
    """
    path = require_file(path, what="a spectral volume (.safetensors)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            packed = file.get_tensor("packed").float() if "packed" in file.keys() else None
    except (OSError, SafetensorError):
        raise GidliteError(
            f"{path} is not a safetensors file; make one with gidlite predict"
        ) from None
    if metadata.get("format") != _FORMAT or packed is None:
        raise GidliteError(f"{path} is not a spectral volume; make one with gidlite predict")
    if metadata.get("version") != _VERSION:
        raise GidliteError(
            f"{path} has format version {metadata.get('version')}, but this gidlite reads "
            f"version {_VERSION}; make it again with gidlite predict"
        )
    return _checked(path, packed, metadata)


def _checked(path: Path, packed: Tensor, metadata: dict[str, str]) -> SpectralVolume:
    try:
        num_frames, fps = int(metadata["num_frames"]), float(metadata["fps"])
        size = (int(metadata["height"]), int(metadata["width"]))
        seed = int(metadata.get("seed", -1))
        check_shape("packed", packed, "freq 4 height width")
    except (KeyError, ValueError) as error:
        raise GidliteError(f"{path} is damaged ({error}); make it again") from None
    consistent = (
        packed.shape[-2:] == size
        and all_finite(packed)
        and fps > 0
        and 1 <= packed.shape[0] <= num_frames // 2 + 1
    )
    if not consistent:
        raise GidliteError(f"{path} contradicts its own metadata; make it again")
    return SpectralVolume(
        unpack_complex(packed), num_frames, fps, seed, metadata.get("model", "unknown")
    )
