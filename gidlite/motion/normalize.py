"""Frequency-adaptive normalization: bring every bin of a spectral volume to the same scale.

Real plants move a hundred times more at 0.2 Hz than at 3 Hz, so a network that sees raw
coefficients learns the first bins and ignores the rest. Dividing bin k by s_k, a high percentile
of its magnitude over the training set, evens the bins out; the signed square root then spreads
the many small coefficients within a bin (Li et al. 2024, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Complex, Float
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
from gidlite.motion.spectral import Packed, Spectral, pack_complex, unpack_complex

# adaptive: the paper's. linear: a scale per bin, no root. global: one scale. none: raw px.
VARIANTS = ("adaptive", "linear", "global", "none")
_SMALLEST_SCALE = 1e-6  # px; keeps the division of a bin without motion finite


@dataclass(frozen=True)
class FrequencyStats:
    """One scale per frequency bin, fitted on training volumes, and what to do with it."""

    scale: Float[Tensor, " freq"]  # positive, px at the resolution of the training volumes
    percentile: float = 95.0  # of coefficient magnitude, where the scale was read
    power: float = 0.5  # of a scaled magnitude: the paper's root; 1 leaves it linear

    def __post_init__(self) -> None:
        good = self.scale.ndim == 1 and self.scale.is_floating_point() and all_finite(self.scale)
        good = good and bool((self.scale > 0).all())
        require(good, "FrequencyStats.scale must be a vector of positive finite numbers")
        require(0 < self.power <= 1, f"FrequencyStats.power is {self.power}; it must lie in (0, 1]")


def fit_frequency_stats(
    volumes: Iterable[Complex[Tensor, "freq 2 _ _"]],
    *,
    percentile: float = 95,
    variant: str = "adaptive",
    reliable: Iterable[Bool[Tensor, "_ _"]] | None = None,
) -> FrequencyStats:
    """Return scales for volumes in px, of any sizes: a percentile of the magnitudes in each bin.

    ``reliable`` says for each volume which pixels count; all do if not given. The percentile lies
    within 0–100 (paper: 95), the variant is one of ``VARIANTS``.

    Raises:
        GidliteError: If an option is out of range, or nothing counts, or it is not finite.
    """
    require(0 <= percentile <= 100, f"percentile is {percentile}; it must lie between 0 and 100")
    names = ", ".join(VARIANTS)
    require(variant in VARIANTS, f"normalization {variant!r} is unknown; use one of {names}")
    if reliable is None:
        magnitudes = [volume.abs().flatten(1) for volume in volumes]
    else:
        pairs = zip(volumes, reliable, strict=True)
        magnitudes = [volume[..., trusted].abs().flatten(1) for volume, trusted in pairs]
    found = sum(each.shape[1] for each in magnitudes) > 0
    require(found, "no volumes to fit statistics on; give at least one with pixels to trust")
    pooled = torch.cat(magnitudes, dim=1)
    require(all_finite(pooled), "a volume holds NaN or infinite coefficients; remove it first")
    if variant == "global":
        pooled = pooled.reshape(1, -1).expand(len(pooled), -1)
    # kthvalue instead of torch.quantile, which refuses inputs this large.
    rank = max(1, round(percentile / 100 * pooled.shape[1]))
    scale = pooled.kthvalue(rank, dim=1).values.clamp(min=_SMALLEST_SCALE)
    if variant == "none":
        scale = torch.ones_like(scale)
    return FrequencyStats(scale, float(percentile), 0.5 if variant == "adaptive" else 1.0)


def save_stats(path: str | Path, stats: FrequencyStats) -> None:
    """Write statistics beside the weights they belong to, whole or not at all."""
    numbers = {"percentile": stats.percentile, "power": stats.power}
    with written(path) as hidden:
        hidden.write_bytes(to_safetensors({"scale": stats.scale.contiguous()}, numbers))


def load_stats(path: str | Path) -> FrequencyStats:
    """Read what ``save_stats`` wrote; refuse anything else."""
    path = require_file(path, what="frequency statistics (.safetensors)")
    try:
        with safe_open(path, framework="pt") as file:
            known, scale = file.metadata() or {}, file.get_tensor("scale")
        numbers = (float(known.get("percentile", 95)), float(known.get("power", 0.5)))
        return FrequencyStats(scale, *numbers)
    except (SafetensorError, ValueError, GidliteError) as error:
        raise GidliteError(f"{path} holds no frequency statistics ({error!s:.200})") from None


def _scale_for(stats: FrequencyStats, packed: Packed) -> Tensor:
    hint = f"the statistics are of {len(stats.scale)} frequencies"
    check_shape("packed", packed, f"... {len(stats.scale)} 4 height width", hint=hint)
    return stats.scale.to(packed)[:, None, None, None]


def normalize(spectral: Spectral, stats: FrequencyStats) -> Packed:
    """Return ``sign(S) |S / s_k|^power`` of each part; the power is 1/2 in the paper."""
    packed = pack_complex(spectral)
    scaled = packed / _scale_for(stats, packed)
    return scaled if stats.power == 1 else scaled.sign() * scaled.abs() ** stats.power


def denormalize(packed: Packed, stats: FrequencyStats) -> Spectral:
    """Return the spectral volume in px of a normalized one; inverse of ``normalize``."""
    scale = _scale_for(stats, packed)
    scaled = packed if stats.power == 1 else packed.sign() * packed.abs() ** (1 / stats.power)
    return unpack_complex(scaled * scale)
