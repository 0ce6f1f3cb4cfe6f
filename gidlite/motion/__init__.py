"""What motion is: the spectral volume and its file.

The file is safetensors: tensor ``packed`` (K, 4, H, W), see ``spectral.pack_complex``, and metadata
``format``, ``version``, ``num_frames``, ``fps``, ``width``, ``height``, ``seed``, ``model`` and
``aspect``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gidlite.errors import (
    GidliteError,
    all_finite,
    check_shape,
    require,
    require_file,
    to_safetensors,
    written,
)  # fmt: skip
from gidlite.motion.spectral import pack_complex, unpack_complex

_FORMAT, _VERSION = "gidlite-spectral-volume", "1"
_TOLD = ("num_frames", "fps", "seed", "model", "aspect")
_MOST_NUMBERS = 1 << 27  # in a file; 16 frequencies of 1920×1080 px have fewer


@dataclass(frozen=True)
class SpectralVolume:
    """A spectral volume and what its numbers refer to."""

    spectral: Complex[Tensor, "freq 2 height width"]  # px of an (H, W) picture
    num_frames: int = 150  # T, one period
    fps: float = 30.0
    seed: int = -1  # none known
    model: str = "unknown"  # what made it
    aspect: float | None = None  # width over height of its photo, if known

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


def check_timing(path: str | Path, num_frames: object, fps: object) -> None:
    """Refuse a period that no video has: 1 to a million frames, a rate of 0.001 to a million."""
    good = type(num_frames) is int and 1 <= num_frames <= 1_000_000
    good = good and type(fps) in (int, float) and 0.001 <= fps <= 1_000_000
    said = f"{num_frames!s:.40} frames at {fps!s:.40} a second"
    require(good, f"{path} says {said}, which no video has; make it again")


def check_aspect(image: Float[Tensor, "3 _rows _columns"], volume: SpectralVolume | ModalBasis):
    """Refuse motion of another aspect than the photo's, by over 2 % and a pixel.

    A volume that does not know its photo tells by its grid. If that is a prior's, of sides rounded
    to 32 px and never longer than 12 to 1, 25 % pass.
    """
    (height, width), (rows, columns) = image.shape[-2:], volume.spectral.shape[-2:]
    known = getattr(volume, "aspect", None)
    pair = (known or columns / rows, width / height)
    first, second = pair if known else (min(max(aspect, 1 / 12), 12) for aspect in pair)
    coarse = not known and rows % 32 == columns % 32 == 0
    slack = (0.25 if coarse else 0.02) + 1 / min(height, width, rows, columns)
    said = f"the volume is for {pair[0]:.2f} to 1 and the photo has {pair[1]:.2f} to 1"
    advice = "give the photo that the volume was made of"
    require(abs(math.log(first / second)) <= slack, f"aspects differ: {said}; {advice}")


def _check_numbers(path: str | Path, packed: Tensor, num_frames: int, fps: float) -> None:
    check_timing(path, num_frames, fps)
    said = f"{num_frames} frames do not hold {len(packed)} frequencies"
    require(len(packed) <= num_frames // 2 + 1, f"{path} contradicts itself: {said}")
    require(packed.numel() <= _MOST_NUMBERS, f"{path} is too large; keep fewer frequencies")
    require(all_finite(packed.float()), f"{path} holds NaN or infinite numbers; make it again")


def save_volume(path: str | Path, volume: SpectralVolume) -> None:
    """Write a volume as packed float32, whole or with a refusal of what could not be read back."""
    height, width = volume.spectral.shape[-2:]
    metadata = {"format": _FORMAT, "version": _VERSION, "height": height, "width": width}
    metadata |= {name: getattr(volume, name) for name in _TOLD if getattr(volume, name) is not None}
    packed = pack_complex(volume.spectral).contiguous()
    _check_numbers(path, packed, volume.num_frames, volume.fps)
    with written(path) as hidden:
        hidden.write_bytes(to_safetensors({"packed": packed}, metadata))


def load_volume(path: str | Path) -> SpectralVolume:
    """Read a volume file; refuse one that is damaged, not finite or contradicts its metadata."""
    path = require_file(path, what="a spectral volume (.safetensors)")
    advice = "make one with gidlite predict"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            packed = file.get_tensor("packed") if "packed" in file.keys() else None
    except (OSError, RuntimeError, SafetensorError):
        raise GidliteError(f"{path} is not a safetensors file; {advice}") from None
    known = metadata.get("format") == _FORMAT and packed is not None
    require(known, f"{path} is not a spectral volume; {advice}")
    version, ours = metadata.get("version"), f"but this gidlite reads version {_VERSION}"
    require(version == _VERSION, f"{path} has format version {version!s:.40}, {ours}; {advice}")
    try:
        num_frames, fps = int(metadata["num_frames"]), float(metadata["fps"])
        size = (int(metadata["height"]), int(metadata["width"]))
        seed, model = int(metadata.get("seed", -1)), metadata.get("model", "unknown")
        aspect = float(metadata["aspect"]) if "aspect" in metadata else None
        if aspect is not None and not 1e-4 <= aspect <= 1e4:
            raise ValueError(f"an aspect of {aspect}")
        check_shape("packed", packed, "freq 4 height width")
    except (KeyError, ValueError) as error:
        raise GidliteError(f"{path} is damaged ({error!s:.200}); make it again") from None
    consistent = packed.is_floating_point() and packed.shape[-2:] == size
    require(consistent, f"{path} contradicts its own metadata; make it again")
    _check_numbers(path, packed, num_frames, fps)
    return SpectralVolume(unpack_complex(packed.float()), num_frames, fps, seed, model, aspect)
