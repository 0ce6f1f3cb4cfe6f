"""Frequency-adaptive normalization: bring every bin of a spectral volume to the same scale.

Real plants move a hundred times more at 0.2 Hz than at 3 Hz, so a network that sees raw
coefficients learns the first bins and ignores the rest. Dividing bin k by s_k, a high percentile
of its magnitude over the training set, evens the bins out; the signed square root then spreads
the many small coefficients within a bin.

Source: Li et al. 2024, section 4 (frequency adaptive normalization).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from gidlite._checks import GidliteError, ShapeError, all_finite, check_shape
from gidlite.spectral import pack_complex, unpack_complex

__all__ = ["FrequencyStats", "denormalize", "fit_frequency_stats", "normalize"]

# Below this scale (px) a bin carries no motion; the floor keeps its division finite.
_SMALLEST_SCALE = 1e-6


@dataclass(frozen=True)
class FrequencyStats:
    """One scale per frequency bin, fitted on training volumes.

    Attributes:
        scale: ``(K,)`` px at the resolution of the training volumes, positive.
        percentile: The percentile of coefficient magnitude the scale was read at.
    """

    scale: Tensor
    percentile: float = 95.0

    def __post_init__(self) -> None:
        if self.scale.ndim != 1 or not all_finite(self.scale) or (self.scale <= 0).any():
            raise GidliteError("FrequencyStats.scale must be a vector of positive finite numbers")


def fit_frequency_stats(
    volumes: Iterable[Complex[Tensor, "freq 2 height width"]], *, percentile: float = 95
) -> FrequencyStats:
    """Return the given percentile of coefficient magnitude for every bin.

    Args:
        volumes: Spectral volumes in px (a ``(batch, freq, 2, height, width)`` tensor is fine).
        percentile: Between 0 and 100; the paper uses 95.

    Raises:
        GidliteError: If there are no volumes, they are not finite, or the percentile is not
            within 0–100.
    """
    if not 0 <= percentile <= 100:
        raise GidliteError(f"percentile is {percentile}; it must lie between 0 and 100")
    magnitudes = [volume.abs().flatten(1) for volume in volumes]
    if not magnitudes:
        raise GidliteError("no volumes to fit frequency statistics on; give at least one")
    pooled = torch.cat(magnitudes, dim=1)
    if not all_finite(pooled):
        raise GidliteError("a volume holds NaN or infinite coefficients; remove it first")
    # kthvalue instead of torch.quantile, which refuses inputs this large.
    rank = max(1, round(percentile / 100 * pooled.shape[1]))
    scale = pooled.kthvalue(rank, dim=1).values
    return FrequencyStats(scale.clamp(min=_SMALLEST_SCALE), percentile=float(percentile))


def _scale_for(stats: FrequencyStats, packed: Tensor) -> Tensor:
    if stats.scale.shape[0] != packed.shape[-4]:
        raise ShapeError(
            f"expected {stats.scale.shape[0]} frequencies to match the statistics, "
            f"got shape {tuple(packed.shape)}"
        )
    return stats.scale.to(packed)[:, None, None, None]


def normalize(
    spectral: Complex[Tensor, "*batch freq 2 height width"], stats: FrequencyStats
) -> Float[Tensor, "*batch freq 4 height width"]:
    """Return ``sign(S) sqrt(|S / s_k|)`` of each real and imaginary part, packed.

    Raises:
        ShapeError: If the number of bins differs from the statistics'.

    Example:
        >>> stats = FrequencyStats(torch.tensor([2.0]))
        >>> normalize(torch.full((1, 2, 1, 1), 8 - 2j), stats)[0, :2, 0, 0]
        tensor([ 2., -1.])
    """
    packed = pack_complex(spectral)
    return packed.sign() * (packed.abs() / _scale_for(stats, packed)).sqrt()


def denormalize(
    packed: Float[Tensor, "*batch freq 4 height width"], stats: FrequencyStats
) -> Complex[Tensor, "*batch freq 2 height width"]:
    """Return the spectral volume in px of a normalized one; inverse of ``normalize``.

    Raises:
        ShapeError: If the number of bins differs from the statistics'.
    """
    check_shape("packed", packed, "... freq 4 height width")
    return unpack_complex(packed * packed.abs() * _scale_for(stats, packed))
