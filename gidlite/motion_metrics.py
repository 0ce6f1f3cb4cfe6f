"""How one motion compares with another: spectra, and what belongs together in space and frequency.

Every measure of motion but the unmatched ``log_spectral_distance`` ignores the scale. Bin 0, the
mean displacement, is no motion and is ignored. What cannot be measured (an empty mask, no motion)
is NaN. The last two look at pixels of videos, where the motion is not known.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Complex, Float, Shaped
from torch import Tensor

from gidlite._checks import GidliteError, ShapeError, check_shape

__all__ = [
    "bin_agreement",
    "correlation_length",
    "log_spectral_distance",
    "loop_seam",
    "phase_agreement",
    "relative_difference",
    "slice_spectral_distance",
]


def log_spectral_distance(
    first_power: Float[Tensor, " freq"],
    second_power: Float[Tensor, " freq"],
    *,
    match_level: bool = False,
) -> float:
    """Return the mean over bins k ≥ 1 of ``|10 log10(P1_k / P2_k)|``, in dB.

    Args:
        first_power: Power per bin, bin 0 included, as from ``spectral.power_spectrum``.
        second_power: The same of another motion.
        match_level: First remove the overall level, the mean over bins of the signed difference
            in dB: what is left is the difference in the shape of the spectra.

    Returns:
        The distance; infinite if a bin is empty in exactly one of them, NaN if in both.

    Raises:
        ShapeError: If the shapes differ or there is no bin above bin 0.

    Example:
        >>> round(log_spectral_distance(torch.ones(4), 10 * torch.ones(4)), 4)
        10.0
    """
    check_shape("first_power", first_power, "freq")
    if first_power.shape != second_power.shape or len(first_power) < 2:
        raise ShapeError(
            "expected two power spectra of equal length, at least 2 bins, got shapes "
            f"{tuple(first_power.shape)} and {tuple(second_power.shape)}"
        )
    decibels = 10 * (first_power[1:].double().log10() - second_power[1:].double().log10())
    if match_level and decibels.isfinite().all():
        decibels = decibels - decibels.mean()
    return decibels.abs().mean().item()


def _check_field(spectral: Tensor, mask: Tensor, *, bins: int) -> None:
    check_shape("spectral", spectral, "freq 2 height width")
    check_shape("mask", mask, f"{spectral.shape[-2]} {spectral.shape[-1]}")
    if len(spectral) < bins:
        raise GidliteError(f"expected a spectral volume of at least {bins} bins: {len(spectral)}")


def _neighbours(field: Tensor, lag: int, axis: int) -> tuple[Tensor, Tensor]:
    """Return views of everything that has a neighbour ``lag`` px further along, and of those."""
    count = max(0, field.shape[axis] - lag)
    return field.narrow(axis, 0, count), field.narrow(axis, field.shape[axis] - count, count)


def correlation_length(
    spectral: Complex[Tensor, "freq 2 height width"],
    mask: Bool[Tensor, "height width"],
    *,
    max_lag: int = 32,
) -> float:
    """Return the distance in px over which motion stays alike: its correlation falls to 1/2.

    The correlation at a lag is ``Re Σ S(p)* S(q) / sqrt(Σ|S(p)|² Σ|S(q)|²)`` over bins k ≥ 1, both
    components, and all pairs of masked pixels that lie the lag apart along a row or a column.
    Nothing is subtracted from S: motion is a deviation from rest. Between whole lags the
    correlation is interpolated linearly. Resampling and optical flow smooth, so that neither a
    coarse prediction nor an observation can have a length below about a cell or a window.

    Args:
        spectral: Spectral volume in px of its grid.
        mask: Pixels to look at, for example those that move.
        max_lag: Largest lag in px; longer lengths are reported as this. A mask without a pair at
            some lag ends the search as well.

    Raises:
        ShapeError: If the shapes do not fit.
        GidliteError: If there is no bin above bin 0.

    Example:
        >>> together = torch.ones(2, 2, 64, 64, dtype=torch.complex64)
        >>> correlation_length(together, torch.ones(64, 64, dtype=torch.bool))
        32.0
    """
    _check_field(spectral, mask, bins=2)
    field = spectral[1:] * mask
    if not field.any():
        return math.nan
    before = 1.0
    for lag in range(1, max_lag + 1):
        here = _correlation(field, mask, lag)
        if math.isnan(here):
            return float(lag - 1) if lag > 1 else math.nan
        if here <= 0.5:
            return lag - 1 + (before - 0.5) / (before - here)
        before = here
    return float(max_lag)


def _correlation(field: Tensor, mask: Tensor, lag: int) -> float:
    """Return the correlation of a field that is 0 outside the mask; NaN if there is no pair."""
    together = near_power = far_power = 0.0
    for axis in (-1, -2):
        (near, far), both = _neighbours(field, lag, axis), _neighbours(mask, lag, axis)
        pair = both[0] & both[1]
        together += (near.real * far.real + near.imag * far.imag).sum().item()
        near_power += (near.abs().square() * pair).sum().item()
        far_power += (far.abs().square() * pair).sum().item()
    bound = math.sqrt(near_power * far_power)
    return together / bound if bound > 0 else math.nan


def bin_agreement(
    spectral: Complex[Tensor, "freq 2 height width"], mask: Bool[Tensor, "height width"]
) -> float:
    """Return how well neighbouring bins agree on the direction in which a pixel moves, in [0, 1].

    A pixel's direction at a bin is the principal axis of the 2×2 covariance of its (dx, dy), an
    ellipse's long axis. The measure is ``|cos|`` of the angle between the axes at bins k and
    k + 1, k ≥ 1, averaged over masked pixels and bins with weight |S_k| |S_{k+1}|. A branch that
    swings along one line scores 1; independent random directions score 2/π ≈ 0.64.

    Raises:
        ShapeError: If the shapes do not fit.
        GidliteError: If there are fewer than 3 bins.
    """
    _check_field(spectral, mask, bins=3)
    dx, dy = spectral[1:, :, mask].unbind(1)
    difference = dx.abs().square() - dy.abs().square()
    axis = torch.atan2(2 * (dx * dy.conj()).real, difference) / 2
    size = (dx.abs().square() + dy.abs().square()).sqrt()
    weight = (size[:-1] * size[1:]).double()
    alike = (axis[1:] - axis[:-1]).cos().abs().double()
    return ((alike * weight).sum() / weight.sum()).item()


def phase_agreement(
    spectral: Complex[Tensor, "freq 2 height width"],
    mask: Bool[Tensor, "height width"],
    *,
    lag: int = 8,
) -> float:
    """Return how well pixels agree on the phase between neighbouring bins, in [0, 1].

    With φ_k the phase of a pixel's motion at bin k, ``φ_{k+1} - φ_k`` is the argument of
    ``Σ S_k* S_{k+1}`` over both components. Its difference between two masked pixels ``lag`` px
    apart along a row or a column is averaged as a unit phasor with weight in proportion to
    amplitude squared; the modulus of that resultant is averaged over bins and the two axes. Pixels
    of one object share one course in time, and a travelling wave has one delay per px: both
    score 1. Phases that are independent from pixel to pixel score about 0. Bins whose phases vary
    independently but smoothly also score high below their correlation length: compare a
    prediction with an observation, not with 1.

    Raises:
        ShapeError: If the shapes do not fit.
        GidliteError: If there are fewer than 3 bins.
    """
    _check_field(spectral, mask, bins=3)
    cross = (spectral[1:-1].conj() * spectral[2:]).sum(1) * mask
    cross = cross / cross.abs().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    resultant = bound = 0.0
    for axis in (-1, -2):
        near, far = _neighbours(cross, lag, axis)
        turned = near.conj() * far
        resultant += turned.sum((-2, -1)).abs().sum().item()
        bound += turned.abs().sum().item()
    return resultant / bound if bound > 0 else math.nan


def relative_difference(
    first: Complex[Tensor, "freq 2 height width"], second: Complex[Tensor, "freq 2 height width"]
) -> float:
    """Return the RMS difference of two spectral volumes over their RMS, bins k ≥ 1.

    0 for equal volumes, √2 ≈ 1.41 for unrelated ones of equal power, 2 for opposite ones.

    Raises:
        ShapeError: If the shapes differ.
    """
    check_shape("first", first, "freq 2 height width")
    check_shape("second", second, " ".join(map(str, first.shape)))
    power = [part[1:].abs().double().square().sum() for part in (first - second, first, second)]
    return (2 * power[0] / (power[1] + power[2])).sqrt().item()


def loop_seam(frames: Shaped[Tensor, "time channels height width"], *, order: int = 1) -> float:
    """Return the change across the seam of a loop, played again, over the median ordinary change.

    A change is the mean absolute difference of neighbouring frames, or of displacements. A
    seamless loop has about 1: its seam is one more ordinary step. A still video has NaN.

    Args:
        frames: Pixels of a video or a motion texture.
        order: 1 for steps: the seam in position. 2 for how steps change, 3 for how those do: the
            seam in velocity and in acceleration; the largest of those that span it counts.

    Raises:
        GidliteError: If there are fewer than 2 + order frames.
    """
    check_shape("frames", frames, "time channels height width")
    if len(frames) < 2 + order:
        raise GidliteError(f"a loop needs {2 + order} frames at least, got {len(frames)}")
    signs = [(-1) ** i * math.comb(order, i) for i in range(order + 1)]
    changes = torch.tensor([
        sum(sign * frames[t - i].float() for i, sign in enumerate(signs)).abs().mean().item()
        for t in range(len(frames))
    ])  # fmt: skip
    usual = changes[order:].median().item()
    return changes[:order].max().item() / usual if usual > 0 else math.nan


def slice_spectral_distance(
    first: Float[Tensor, "3 time length"], second: Float[Tensor, "3 time2 length2"]
) -> float:
    """Return how the temporal spectra of two X-t slices differ, in dB; phase does not count.

    The power of each frequency, averaged over the pixels and channels of a slice, is compared as
    by ``log_spectral_distance``, over the same number of frames. Two samples of one wind score
    low whatever their phases are; use ``metrics.ssim`` on the slices where time is aligned.

    Raises:
        ShapeError: If one has fewer than 2 frames.
    """
    powers = []
    time = min(first.shape[1], second.shape[1])
    for picture in (first, second):
        check_shape("slice", picture, "3 time length")
        changes = picture[:, :time].double()
        changes = changes - changes.mean(1, keepdim=True)
        # Without its leading 0 it is symmetric: a slice played backwards is the same.
        window = torch.hann_window(time + 1, dtype=torch.float64)[1:, None]
        powers.append(torch.fft.rfft(changes * window, dim=1).abs().square().mean((0, 2)))
    return log_spectral_distance(*powers)
