"""Modes, frequencies and damping from an observed motion that rings down.

Model: ``F_t = rest + Σ_k Re(S_k exp(λ_k t))`` with ``λ_k = ω_k (-ζ_k + i √(1 - ζ_k²))``, one λ per
mode for all pixels. The trajectories are reduced to their principal components; poles come from
the shift invariance of delayed copies (ESPRIT, Roy and Kailath 1989) and are refined by variable
projection (Golub and Pereyra 1973): shapes and rest are linear, so only poles are searched for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from gidlite.dynamics.modal import ModalSystem
from gidlite.errors import GidliteError, all_finite, check_shape
from gidlite.media.video import read_video
from gidlite.motion.flow import Motion, motion_texture

# Ratios outside are not ringing: weaker than any plant's damping, or gone before half a swing.
_LEAST_DAMPING, _MOST_DAMPING = 0.002, 0.5
# RMS displacement about its mean from which a pixel counts as moving.
_MOVING_PX = 0.25


@dataclass(frozen=True)
class ModalFit:
    """Modes of an observed motion.

    Attributes:
        modes: ``(K, 2, H, W)`` complex64 px, scaled and turned so that every q is 1 at frame 0.
        rest: ``(2, H, W)`` px, the pose it settles at, measured from frame 0's.
        frequencies_hz: ``(K,)`` undamped frequencies, ascending.
        damping: ``(K,)`` ratios ζ.
    """

    modes: Complex[Tensor, "modes 2 height width"]
    rest: Float[Tensor, "2 height width"]
    frequencies_hz: Float[Tensor, " modes"]
    damping: Float[Tensor, " modes"]

    def system(self) -> ModalSystem:
        """Return the modes in the state they had at frame 0; displacement counts from rest."""
        system = ModalSystem(self.modes, frequencies_hz=self.frequencies_hz, damping=self.damping)
        ones = torch.ones(len(self.modes), dtype=torch.complex128)
        system.modal_coords = ones
        system.modal_velocity = ones * _poles(system.omega, system.damping)
        return system


def _poles(omega: Tensor, damping: Tensor) -> Tensor:
    return torch.complex(-damping * omega, omega * (1 - damping.square()).sqrt())


def _basis(times: Tensor, omega: Tensor, damping: Tensor) -> Float[Tensor, "time columns"]:
    """Return the courses in time: 1, and the real and minus the imaginary part of each e^λt."""
    ringing = (times[:, None] * _poles(omega, damping)).exp()
    return torch.cat([torch.ones_like(times)[:, None], ringing.real, -ringing.imag], dim=1)


def _band(count: int, fps: float) -> tuple[float, float]:
    """Return the slowest and fastest ω that so many frames can show: one swing, and a third of fps.

    Anything slower is not told apart from drift, which would be extrapolated without bound.
    """
    return 2 * math.pi * fps / count, 2 * math.pi * fps / 3


def _principal(trajectories: Float[Tensor, "time points"], count: int) -> Tensor:
    """Return the ``count`` largest principal courses, ``(time, count)``, the mean kept."""
    values, vectors = torch.linalg.eigh(trajectories @ trajectories.T)
    return (vectors * values.clamp(min=0).sqrt())[:, -count:].flip(1)


def _first_guess(courses: Tensor, count: int, fps: float) -> tuple[Tensor, Tensor]:
    """Return (ω, ζ) by ESPRIT; fewer than ``count`` if fewer poles swing."""
    windows = courses.unfold(0, len(courses) // 2, 1)  # (starts, channels, delays)
    basis, _, _ = torch.linalg.svd(windows.permute(2, 1, 0).flatten(0, 1), full_matrices=False)
    channels = courses.shape[1]
    subspace = basis[:, : 2 * count + 1]
    shift = torch.linalg.lstsq(subspace[:-channels], subspace[channels:]).solution
    poles = torch.linalg.eigvals(shift).log() * fps
    slowest, fastest = _band(len(courses), fps)
    poles = poles[(poles.abs() > slowest) & (poles.abs() < fastest) & (poles.imag > 0)]
    omega = poles.abs()
    damping = (-poles.real / omega).clamp(_LEAST_DAMPING * 2, _MOST_DAMPING / 2)
    return omega, damping


def _refine(
    courses: Tensor, times: Tensor, omega: Tensor, damping: Tensor, band: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Lower the squared error of the best linear combination over ω and ζ within their bounds."""
    low = torch.tensor([[band[0]], [_LEAST_DAMPING]], dtype=torch.float64)
    span = torch.tensor([[band[1]], [_MOST_DAMPING]], dtype=torch.float64) - low
    share = (torch.stack([omega, damping]) - low) / span
    free = share.clamp(1e-3, 1 - 1e-3).logit().requires_grad_()

    def numbers() -> tuple[Tensor, Tensor]:
        return tuple(low + span * free.sigmoid())

    def error() -> Tensor:
        orthonormal, _ = torch.linalg.qr(_basis(times, *numbers()))
        return (courses - orthonormal @ (orthonormal.T @ courses)).square().sum()

    search = torch.optim.LBFGS([free], max_iter=100, line_search_fn="strong_wolfe")
    scale = courses.square().sum()

    def closure() -> Tensor:
        search.zero_grad()
        loss = error() / scale
        loss.backward()
        return loss

    search.step(closure)
    with torch.no_grad():
        return numbers()


def fit_modes(
    motion: Float[Tensor, "time 2 height width"],
    *,
    fps: float,
    num_modes: int,
    mask: Bool[Tensor, "height width"] | None = None,
) -> ModalFit:
    """Fit damped modes to a motion that rings down after a poke.

    Args:
        motion: Displacement in px from frame 0.
        fps: Frames per second.
        num_modes: Modes looked for; fewer are returned if fewer poles swing.
        mask: Pixels that decide the frequencies, by default all; shapes are fitted everywhere.

    Raises:
        ShapeError: If the shapes do not fit.
        GidliteError: If the motion is too short for so many modes, not finite, or does not swing.
    """
    check_shape("motion", motion, "time 2 height width")
    count = len(motion)
    if num_modes < 1 or count < 8 * num_modes or fps <= 0:
        raise GidliteError(
            f"{num_modes} modes at {fps} frames per second need at least 1 mode, a positive rate "
            f"and {8 * num_modes} frames, got {count} frames"
        )
    if not all_finite(motion):
        raise GidliteError("the motion has NaN or infinite values; check what made it")
    mask = torch.ones_like(motion[0, 0], dtype=torch.bool) if mask is None else mask
    check_shape("mask", mask, f"{motion.shape[-2]} {motion.shape[-1]}")
    courses = _principal(motion[:, :, mask].flatten(1).double(), 2 * num_modes + 1)
    times = torch.arange(count, dtype=torch.float64) / fps
    omega, damping = _first_guess(courses, num_modes, fps)
    if len(omega) == 0:
        raise GidliteError("nothing in this motion swings; give the frames after a poke")
    omega, damping = _refine(courses, times, omega, damping, _band(count, fps))
    omega, order = omega.sort()
    damping = damping[order]
    weights = torch.linalg.pinv(_basis(times, omega, damping)).to(motion.dtype)
    rest, real, imaginary = (weights @ motion.flatten(1)).split([1, len(omega), len(omega)])
    modes = torch.complex(real, imaginary).unflatten(1, motion.shape[1:])
    rest = rest[0].unflatten(0, motion.shape[1:])
    return ModalFit(modes.to(torch.complex64), rest, omega / (2 * math.pi), damping)


_MOST_MODES = 4


@dataclass(frozen=True)
class Ringdown:
    """Errors in px, RMS over pixels that moved in the first part, over the frames after it.

    Attributes:
        predicted: Of the fitted modes, stepped on by ``ModalSystem``.
        still: Of holding frame 0, the photo.
        last: Of holding the last pose that was fitted.
        rest: Of holding the fitted rest pose; what knowing where it settles is worth.
        fit: The fitted modes.
        frames_fitted: Length of the first part.
    """

    predicted: float
    still: float
    last: float
    rest: float
    fit: ModalFit
    frames_fitted: int


def predict_motion(
    fit: ModalFit, *, first: int, count: int, fps: float
) -> Float[Tensor, "time 2 height width"]:
    """Return the motion at frames ``first`` … ``first + count − 1``, px from frame 0."""
    system = fit.system()
    system.step(first / fps)
    poses = []
    for _ in range(count):
        poses.append(fit.rest + system.displacement())
        system.step(1 / fps)
    return torch.stack(poses)


def _rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


def _best_fit(motion: Tensor, mask: Tensor, fps: float) -> ModalFit:
    """Fit 1 to 4 modes; their number is the one whose fit to two thirds predicts the third best."""
    head = len(motion) * 2 // 3
    errors = {}
    for count in range(1, _MOST_MODES + 1):
        if head < 8 * count:
            break
        fit = fit_modes(motion[:head], fps=fps, num_modes=count, mask=mask)
        ahead = predict_motion(fit, first=head, count=len(motion) - head, fps=fps)
        errors[count] = _rms((ahead - motion[head:])[..., mask])
    return fit_modes(motion, fps=fps, num_modes=min(errors, key=errors.get), mask=mask)


def ringdown(observed: Motion, *, fps: float, share: float = 0.5) -> Ringdown:
    """Fit the first ``share`` of an observed motion and compare predictions of the rest.

    Args:
        observed: Motion of a thing poked before frame 0 and left alone since.
        fps: Frames per second.
        share: Part of the frames fitted, within (0, 1).

    Raises:
        GidliteError: If nothing moves, or the first part is under 12 frames or all there is.
    """
    motion, count = observed.motion, round(share * len(observed.motion))
    if not 12 <= count < len(motion):
        raise GidliteError(f"{count} of {len(motion)} frames to fit; at least 12, but not all")
    rms = motion[:count].var(dim=0, correction=0).sum(0).sqrt()
    mask = (rms > _MOVING_PX) & observed.reliable
    if not mask.any():
        raise GidliteError("nothing moves in the first part; start the clip at the release")
    fit = _best_fit(motion[:count], mask, fps)
    ahead = predict_motion(fit, first=count, count=len(motion) - count, fps=fps)
    truth = motion[count:, :, mask]
    candidates = {
        "predicted": ahead[..., mask], "still": torch.zeros(()),
        "last": motion[count - 1, :, mask], "rest": fit.rest[:, mask],
    }  # fmt: skip
    errors = {name: _rms(truth - pose) for name, pose in candidates.items()}
    return Ringdown(**errors, fit=fit, frames_fitted=count)


def check_ringdown(
    path: str | Path,
    *,
    share: float = 0.5,
    width: int = 256,
    max_frames: int = 150,
    progress: Callable[[int, int], None] | None = None,
) -> Ringdown:
    """Follow the pixels of a clip with a still camera and return ``ringdown`` of their motion."""
    clip = read_video(path, width=width, max_frames=max_frames)
    return ringdown(motion_texture(clip.frames, progress=progress), fps=clip.fps, share=share)


def main() -> None:
    """Print the table."""
    paths = [Path(argument) for argument in sys.argv[1:]]
    clips = [clip for path in paths for clip in (sorted(path.glob("phys_*")) or [path])]
    if not clips:
        print("give clips of things poked and released, or a folder that holds phys_* clips")
        return
    print("clip                 predicted  last pose  still  rest pose  modes (Hz @ damping)")
    ratios = []
    for clip in clips:
        result = check_ringdown(clip)
        modes = zip(result.fit.frequencies_hz.tolist(), result.fit.damping.tolist(), strict=True)
        print(
            f"{clip.stem:20} {result.predicted:9.3f} {result.last:10.3f} {result.still:6.2f} "
            f"{result.rest:10.3f}  " + ", ".join(f"{hz:.2f} @ {ratio:.3f}" for hz, ratio in modes),
            flush=True,
        )
        ratios.append([result.predicted / held for held in (result.last, result.still)])
    last, still = (geometric_mean(column) for column in zip(*ratios, strict=True))
    print(f"geometric mean of the ratio to holding the last pose {last:.2f}, the photo {still:.2f}")


if __name__ == "__main__":
    main()
