"""Motion texture ↔ spectral volume: a Fourier series for every pixel's trajectory.

Both directions are one real matrix product along time, which touches no bin that is dropped and
measures faster than the FFT at the sizes used here (``benchmarks/spectral.py`` prints both).

Source: Li et al. 2024, section 3 (motion representation). Departure: the 1/T factor sits in the
forward transform, so coefficients are in pixels whatever the clip length (lesson 02).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float, Real
from torch import Tensor
from torch.nn import functional

from gidlite.errors import check_shape, require

Spectral = Complex[Tensor, "*batch freq 2 height width"]
Packed = Float[Tensor, "*batch freq 4 height width"]


def _angles(times: Tensor, num_frequencies: int, num_frames: int) -> Tensor:
    """Return 2πkt/T as ``(len(times), num_frequencies)``, in float64 for exact phases."""
    most = num_frames // 2 + 1
    held = f"{num_frames} frames hold between 1 and {most} frequencies; ask for no more"
    require(1 <= num_frequencies <= most, f"num_frequencies is {num_frequencies}, but {held}")
    bins = torch.arange(num_frequencies, dtype=torch.float64, device=times.device)
    return (2 * math.pi / num_frames) * times.double()[:, None] * bins


def motion_to_spectral(
    motion: Float[Tensor, "*batch time 2 height width"], *, num_frequencies: int
) -> Complex[Tensor, "*batch {num_frequencies} 2 height width"]:
    """Return the lowest temporal Fourier coefficients of a motion texture, in px.

    ``S_k = (1/T) Σ_t F_t exp(-2πi k t / T)``: bin 0 is the mean displacement, and twice the
    modulus of any bin strictly between 0 and Nyquist is a peak displacement. Bin ``k`` oscillates
    at ``k * fps / T`` Hz. T frames hold at most ``T // 2 + 1`` bins; more raise ``GidliteError``.
    """
    check_shape("motion", motion, "... time 2 height width")
    num_frames = motion.shape[-4]
    angles = _angles(torch.arange(num_frames, device=motion.device), num_frequencies, num_frames)
    basis = torch.cat([angles.cos(), -angles.sin()], dim=1).T / num_frames
    coefficients = (basis.to(motion.dtype) @ motion.flatten(-3)).unflatten(-1, motion.shape[-3:])
    return torch.complex(*coefficients.split(num_frequencies, dim=-4))


def derivative_basis(
    times: Real[Tensor, " time"], *, num_frequencies: int, num_frames: int, order: int = 0
) -> Float[Tensor, "time coefficients"]:
    """Return the matrix from real, then imaginary parts of all bins to a derivative of motion.

    Times are in frames, fractional allowed; order 0 is position (px), 1 velocity (px per frame).
    """
    angles = _angles(times, num_frequencies, num_frames) + order * math.pi / 2
    bins = torch.arange(num_frequencies, dtype=torch.float64, device=times.device)
    # A Nyquist bin, if kept, counts once, like bin 0.
    counts = torch.where((bins > 0) & (2 * bins != num_frames), 2.0, 1.0)
    weight = counts * (2 * math.pi / num_frames * bins) ** order
    return torch.cat([angles.cos() * weight, -angles.sin() * weight], dim=1)


def spectral_to_motion(
    spectral: Spectral, *, num_frames: int, times: Real[Tensor, " time"] | None = None
) -> Float[Tensor, "*batch time 2 height width"]:
    """Evaluate the motion texture of a volume of T frames at any times, in px.

    ``F_t = Re(S_0 + 2 Σ_{0<k<T/2} S_k exp(2πi k t / T))``, which repeats after T frames. Times are
    in frames, may be fractional, and are 0, 1, …, T − 1 if not given.
    """
    check_shape("spectral", spectral, "... freq 2 height width")
    times = (torch.arange(num_frames) if times is None else times).to(spectral.device)
    basis = derivative_basis(times, num_frequencies=spectral.shape[-4], num_frames=num_frames)
    flat = torch.cat([spectral.real, spectral.imag], dim=-4).flatten(start_dim=-3)
    return (basis.to(flat.dtype) @ flat).unflatten(-1, spectral.shape[-3:])


def anchor(spectral: Spectral) -> Spectral:
    """Shift bin 0 so that ``F_0 = 0``, which K bins alone only approach; valid below Nyquist."""
    check_shape("spectral", spectral, "... freq 2 height width")
    start = spectral[..., 0, :, :, :].real + 2 * spectral[..., 1:, :, :, :].real.sum(dim=-4)
    anchored = spectral.clone()
    anchored[..., 0, :, :, :] -= start
    return anchored


def pack_complex(spectral: Spectral) -> Packed:
    """Return real and imaginary parts as channels: dx re, dx im, dy re, dy im."""
    check_shape("spectral", spectral, "... freq 2 height width")
    return torch.view_as_real(spectral.resolve_conj()).movedim(-1, -3).flatten(-4, -3)


def unpack_complex(packed: Packed) -> Spectral:
    """Return the complex volume of a packed one; inverse of ``pack_complex``."""
    check_shape("packed", packed, "... freq 4 height width")
    return torch.complex(packed[..., 0::2, :, :], packed[..., 1::2, :, :])


def frequency_axis(
    *, num_frames: int = 150, fps: float = 30.0, num_frequencies: int = 16
) -> Float[Tensor, " freq"]:
    """Return the frequency of every bin in Hz: ``k * fps / num_frames``."""
    return torch.arange(num_frequencies) * (fps / num_frames)


def power_spectrum(spectral: Spectral) -> Float[Tensor, "*batch freq"]:
    """Return mean squared modulus per bin over both components and all pixels, in px²."""
    check_shape("spectral", spectral, "... freq 2 height width")
    return spectral.abs().square().mean(dim=(-3, -2, -1))


def motion_amplitude(spectral: Spectral) -> Float[Tensor, "*batch height width"]:
    """Return each pixel's RMS displacement about its mean in px, by Parseval's theorem."""
    check_shape("spectral", spectral, "... freq 2 height width")
    return (2 * spectral[..., 1:, :, :, :].abs().square().sum(dim=(-4, -3))).sqrt()


def resize_motion(
    motion: Float[Tensor, "*batch 2 height_in width_in"], *, height: int, width: int
) -> Float[Tensor, "*batch 2 height width"]:
    """Resample a displacement field and re-express it in px of the new resolution."""
    check_shape("motion", motion, "... 2 height width")
    factor = motion.new_tensor([width / motion.shape[-1], height / motion.shape[-2]])
    shrinks = height < motion.shape[-2] or width < motion.shape[-1]
    flat = motion.reshape(-1, *motion.shape[-3:])
    resized = functional.interpolate(flat, (height, width), mode="bilinear", antialias=shrinks)
    return (resized * factor[:, None, None]).reshape(*motion.shape[:-2], height, width)


def resize_spectral(
    spectral: Complex[Tensor, "*batch freq 2 height_in width_in"], *, height: int, width: int
) -> Complex[Tensor, "*batch freq 2 height width"]:
    """Resample a spectral volume and re-express it in px of the new resolution."""
    parts = torch.stack([spectral.real, spectral.imag])
    return torch.complex(*resize_motion(parts, height=height, width=width))
