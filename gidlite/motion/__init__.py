"""What motion is: the spectral volume and its file.

The file is safetensors: tensor ``packed`` (K, 4, H, W), see ``spectral.pack_complex``, and metadata
``format``, ``version``, ``num_frames``, ``fps``, ``width``, ``height``, ``seed`` and ``model``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gidlite.errors import GidliteError, all_finite, check_shape, require, require_file, written
from gidlite.motion.spectral import pack_complex, unpack_complex

_FORMAT, _VERSION = "gidlite-spectral-volume", "1"


@dataclass(frozen=True)
class SpectralVolume:
    """A spectral volume and what its numbers refer to."""

    spectral: Complex[Tensor, "freq 2 height width"]  # px of an (H, W) picture
    num_frames: int = 150  # T, one period
    fps: float = 30.0
    seed: int = -1  # none known
    model: str = "unknown"  # what made it

    @property
    def period_seconds(self) -> float:
        return self.num_frames / self.fps

    @property
    def frequencies_hz(self) -> Float[Tensor, " freq"]:
        return torch.arange(len(self.spectral)) / self.period_seconds


@dataclass(frozen=True)
class ModalBasis:
    """Shapes by which a touched photo answers, each with a frequency of its own.

    A complex shape stands for two real ones of one frequency.
    """

    spectral: Complex[Tensor, "modes 2 height width"]  # px of an (H, W) picture
    frequencies_hz: Float[Tensor, " modes"]


def check_timing(path: Path, num_frames: object, fps: object) -> None:
    """Refuse a file whose period no video can have: 1 to a million frames, a positive rate."""
    good = isinstance(num_frames, int) and 1 <= num_frames <= 1_000_000
    good = good and isinstance(fps, int | float) and math.isfinite(fps) and fps > 0
    said = f"{num_frames} frames at {fps} a second"
    require(good, f"{path} says {said}, which no video has; make it again")


def save_volume(path: str | Path, volume: SpectralVolume) -> None:
    """Write a volume as packed float32, whole; refuse one that is not finite."""
    finite = all_finite(spectral := volume.spectral)
    require(finite, f"the volume for {path} holds NaN or infinite numbers; predict another")
    height, width = spectral.shape[-2:]
    metadata = {"format": _FORMAT, "version": _VERSION, "height": height, "width": width}
    metadata |= {name: getattr(volume, name) for name in ("num_frames", "fps", "seed", "model")}
    packed = pack_complex(spectral).contiguous()
    with written(path) as hidden:
        save_file({"packed": packed}, hidden, {k: str(v) for k, v in metadata.items()})


def load_volume(path: str | Path) -> SpectralVolume:
    """Read a volume file; refuse one that is damaged, not finite or contradicts its metadata."""
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
    version, ours = metadata.get("version"), f"but this gidlite reads version {_VERSION}"
    require(version == _VERSION, f"{path} has format version {version}, {ours}; {advice}")
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
