"""What motion is: the spectral volume and its file.

The file is safetensors: tensor ``packed`` (K, 4, H, W), see ``spectral.pack_complex``, and metadata
``format``, ``version``, ``num_frames``, ``fps``, ``width``, ``height``, ``seed`` and ``model``.
"""

from __future__ import annotations

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
_MOST_NUMBERS = 1 << 27  # in a file; 16 frequencies of 1920×1080 px have fewer


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


def check_timing(path: str | Path, num_frames: object, fps: object) -> None:
    """Refuse a period that no video has: 1 to a million frames, a rate of 0.001 to a million."""
    good = type(num_frames) is int and 1 <= num_frames <= 1_000_000
    good = good and type(fps) in (int, float) and 0.001 <= fps <= 1_000_000
    said = f"{num_frames!s:.40} frames at {fps!s:.40} a second"
    require(good, f"{path} says {said}, which no video has; make it again")


def check_aspect(image: Float[Tensor, "3 _rows _columns"], volume: SpectralVolume | ModalBasis):
    """Refuse motion of another aspect than the photo's, by over 2 % more than rounding explains.

    ``pipeline.working_size`` rounds sides to 32 px, and shortens what is longer than 12 to 1.
    """
    (height, width), (rows, columns) = image.shape[-2:], volume.spectral.shape[-2:]
    step = 16 if rows % 32 == columns % 32 == 0 and rows * columns > 20_000 else 1
    low = max(rows - step, 0.5) / (columns + step) / 1.02
    high = (rows + step) / max(columns - step, 0.5) * 1.02
    least, most = (height - 1) / (width + 1), (height + 1) / max(width - 1, 0.5)
    sizes = f"the volume is {columns}×{rows} and the photo {width}×{height}"
    fit = min(low, 12) <= max(most, 1 / 12) and min(least, 12) <= max(high, 1 / 12)
    require(fit, f"{sizes}, another aspect; give the photo that the volume was made of")


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
    metadata |= {name: getattr(volume, name) for name in ("num_frames", "fps", "seed", "model")}
    packed = pack_complex(volume.spectral).contiguous()
    _check_numbers(path, packed, volume.num_frames, volume.fps)
    with written(path) as hidden:
        save_file({"packed": packed}, hidden, {k: str(v) for k, v in metadata.items()})


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
        check_shape("packed", packed, "freq 4 height width")
    except (KeyError, ValueError) as error:
        raise GidliteError(f"{path} is damaged ({error!s:.200}); make it again") from None
    consistent = packed.is_floating_point() and packed.shape[-2:] == size
    require(consistent, f"{path} contradicts its own metadata; make it again")
    _check_numbers(path, packed, num_frames, fps)
    return SpectralVolume(unpack_complex(packed.float()), num_frames, fps, seed, model)
