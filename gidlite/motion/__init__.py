"""What motion is: the spectral volume and its file, safetensors with all that playing it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Complex
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gidlite.errors import GidliteError, all_finite, check_shape, require, require_file, written
from gidlite.motion.spectral import pack_complex, unpack_complex

_FORMAT, _VERSION = "gidlite-spectral-volume", "1"
_MOST_FRAMES = 1_000_000


@dataclass(frozen=True)
class SpectralVolume:
    """A spectral volume and what its numbers refer to.

    Attributes:
        spectral: In px of an (H, W) picture, complex64.
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


def check_timing(path: Path, num_frames: object, fps: object) -> None:
    """Refuse a file whose period no video can have: 1 to a million frames, a positive rate."""
    number = isinstance(num_frames, int) and 1 <= num_frames <= _MOST_FRAMES
    rate = isinstance(fps, int | float) and math.isfinite(fps) and fps > 0
    require(
        number and rate,
        f"{path} says {num_frames} frames at {fps} a second, which no video has; make it again",
    )


def save_volume(path: str | Path, volume: SpectralVolume) -> None:
    """Write a volume as packed float32, whole or not at all (format: see the README).

    Raises:
        GidliteError: If the folder cannot be written to.
    """
    height, width = volume.spectral.shape[-2:]
    metadata = {
        "format": _FORMAT, "version": _VERSION, "num_frames": volume.num_frames,
        "fps": volume.fps, "width": width, "height": height,
        "seed": volume.seed, "model": volume.model,
    }  # fmt: skip
    packed = pack_complex(volume.spectral).contiguous()
    with written(path) as hidden:
        save_file({"packed": packed}, hidden, {k: str(v) for k, v in metadata.items()})


def load_volume(path: str | Path) -> SpectralVolume:
    """Read a volume file.

    Raises:
        GidliteError: If the file is missing, is not a volume of a known version, holds numbers
            that are not finite, or contradicts its metadata.
    """
    path = require_file(path, what="a spectral volume (.safetensors)")
    advice = "make one with gidlite predict"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            packed = file.get_tensor("packed").float() if "packed" in file.keys() else None
    except (OSError, SafetensorError):
        raise GidliteError(f"{path} is not a safetensors file; {advice}") from None
    known = metadata.get("format") == _FORMAT and packed is not None
    require(known, f"{path} is not a spectral volume; {advice}")
    require(
        metadata.get("version") == _VERSION,
        f"{path} has format version {metadata.get('version')}, but this gidlite reads version "
        f"{_VERSION}; {advice}",
    )
    try:
        num_frames, fps = int(metadata["num_frames"]), float(metadata["fps"])
        size = (int(metadata["height"]), int(metadata["width"]))
        seed, model = int(metadata.get("seed", -1)), metadata.get("model", "unknown")
        check_shape("packed", packed, "freq 4 height width")
    except (KeyError, ValueError) as error:
        raise GidliteError(f"{path} is damaged ({error}); make it again") from None
    check_timing(path, num_frames, fps)
    consistent = packed.shape[-2:] == size and len(packed) <= num_frames // 2 + 1
    require(consistent, f"{path} contradicts its own metadata; make it again")
    require(all_finite(packed), f"{path} holds NaN or infinite numbers; make it again")
    return SpectralVolume(unpack_complex(packed), num_frames, fps, seed, model)
