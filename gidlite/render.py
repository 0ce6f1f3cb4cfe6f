"""Photo + motion → frames: softmax splatting of the photo, holes filled from their surroundings.

Source: Li et al. 2024, section 5 (splatting with the mean motion magnitude as metric). The
feature pyramid and synthesis network of the paper are not part of this first renderer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from gidlite._checks import GidliteError
from gidlite.loops import close_loop, whole_periods
from gidlite.spectral import motion_amplitude, resize_motion, spectral_to_motion
from gidlite.splat import splat
from gidlite.volume import SpectralVolume

__all__ = [
    "RENDERERS",
    "close_for",
    "collision_metric",
    "frame_times",
    "render_frame",
    "render_frames",
]

RENDERERS = ("softmax", "average")
# How decisively the pixel that moves more wins a collision, per px of RMS motion at 256 wide. Much
# more, and a neighbour wins at the slightest motion: loops jerk as they pass the still photo.
_METRIC_SCALE = 5.0


def frame_times(
    volume: SpectralVolume,
    *,
    seconds: float | None = None,
    fps: float | None = None,
    slow: float = 1.0,
    loop: bool = True,
) -> Tensor:
    """Return the volume times (in frames, fractional) at which a video samples the motion.

    The motion repeats after T frames. A loop within 10 % of a whole number of periods plays that
    number of them, a little faster or slower. Any other plays at natural speed: close the volume
    with ``close_for``, or it jumps.

    Args:
        volume: What is played.
        seconds: Length; one slowed-down period if not given.
        fps: Frame rate of the video; the volume's own if not given.
        slow: 2 plays at half speed.
        loop: Whether the frame after the last must equal the first.

    Raises:
        GidliteError: If a number is not finite and positive, or fewer than 2 frames result.
    """
    fps = volume.fps if fps is None else fps
    seconds = volume.period_seconds * slow if seconds is None else seconds
    for name, value in (("seconds", seconds), ("fps", fps), ("slow", slow)):
        if not (math.isfinite(value) and value > 0):
            raise GidliteError(f"{name} is {value}; it must be a positive number")
    count = round(seconds * fps)
    if not 2 <= count <= 100_000:
        raise GidliteError(
            f"{seconds} s at {fps} frames per second makes {count} frames; ask for 2 to 100000"
        )
    step = volume.fps / (fps * slow)
    periods = whole_periods(count * step, num_frames=volume.num_frames) if loop else 0
    step = periods * volume.num_frames / count if periods else step
    return torch.arange(count, dtype=torch.float64) * step


def close_for(volume: SpectralVolume, times: Float[Tensor, " time"]) -> SpectralVolume:
    """Return the volume with its motion closed to a loop of these evenly spaced times."""
    length = len(times) * float(times[1] - times[0])
    spectral = close_loop(volume.spectral, num_frames=volume.num_frames, loop_frames=length)
    return replace(volume, spectral=spectral)


def _fill_holes(picture: Tensor, coverage: Tensor) -> Tensor:
    """Fill pixels that nothing landed on by averages over the smallest covered neighbourhood.

    Halve the covered colours until no hole is left, then come back, using the coarser level only
    where the finer one has a hole.
    """
    weight = coverage.clamp(max=1)
    if (weight > 0.999).all() or min(picture.shape[-2:]) < 2:
        return picture
    coarse_weight = functional.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = functional.avg_pool2d(picture * weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = coarse / coarse_weight.clamp(min=1e-6)
    coarse = _fill_holes(coarse, (coarse_weight * 4).clamp(max=1))
    smooth = functional.interpolate(
        coarse, picture.shape[-2:], mode="bilinear", align_corners=False
    )
    return torch.lerp(smooth, picture, weight)


def collision_metric(
    spectral: Complex[Tensor, "freq 2 rows columns"], *, height: int, width: int
) -> Float[Tensor, "1 height width"]:
    """Return for every pixel of a photo how much it wins by where pixels collide: what moves more.

    Source: Li et al. 2024, section 5 (the mean motion magnitude as metric of softmax splatting).
    """
    magnitude = _METRIC_SCALE * motion_amplitude(spectral) * (256 / spectral.shape[-1])
    return functional.interpolate(
        magnitude[None, None], (height, width), mode="bilinear", align_corners=False
    )[0]


def _keep_sharp(image: Tensor, motion: Tensor) -> Tensor:
    """Return the photo sharpened by what bilinear weights are about to blur.

    A shift by a fraction f of a pixel adds ``f (1 − f) / 2`` second differences; they are taken
    off beforehand. Otherwise a loop flashes sharp whenever it comes back to the photo.
    """
    fraction = motion - motion.floor()
    blur = fraction * (1 - fraction) / 2
    padded = functional.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]
    across = padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2] - 2 * image
    down = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] - 2 * image
    return image - blur[:1] * across - blur[1:] * down


def render_frame(
    image: Float[Tensor, "3 height width"],
    motion: Float[Tensor, "2 height width"],
    metric: Float[Tensor, "1 height width"],
    *,
    renderer: str = "softmax",
) -> Float[Tensor, "3 height width"]:
    """Return the photo moved by one displacement field.

    Args:
        image: Photo in [0, 1].
        motion: Displacement of every pixel, px of the photo.
        metric: Larger wins where pixels collide.
        renderer: "softmax" or "average".

    Raises:
        GidliteError: If the renderer is unknown.
    """
    if renderer not in RENDERERS:
        raise GidliteError(f"renderer {renderer!r} is unknown; use one of {', '.join(RENDERERS)}")
    metric = metric[None] if renderer == "softmax" else None
    warped, coverage = splat(
        _keep_sharp(image, motion)[None], motion[None], metric=metric,
        mode=renderer, return_coverage=True,
    )  # fmt: skip
    return _fill_holes(warped, coverage)[0].clamp(0, 1)


def render_frames(
    image: Float[Tensor, "3 height width"],
    volume: SpectralVolume,
    times: Float[Tensor, " time"],
    *,
    amplify: float = 1.0,
    renderer: str = "softmax",
) -> Iterator[Float[Tensor, "3 height width"]]:
    """Yield one frame per time; nothing but the photo and one frame is held in memory.

    Args:
        image: Photo in [0, 1] at the resolution of the video.
        volume: Spectral volume at any resolution of the same picture.
        times: From ``frame_times``.
        amplify: Factor on every displacement, 0–5.
        renderer: "softmax" or "average".

    Raises:
        GidliteError: If ``amplify`` is not within 0–5.
    """
    if not (math.isfinite(amplify) and 0 <= amplify <= 5):
        raise GidliteError(f"amplify is {amplify}; it must lie between 0 and 5")
    height, width = image.shape[-2:]
    metric = collision_metric(volume.spectral, height=height, width=width)
    for time in times:
        motion = spectral_to_motion(
            volume.spectral, num_frames=volume.num_frames, times=time[None]
        )[0]
        moved = resize_motion(amplify * motion, height=height, width=width)
        yield render_frame(image, moved, metric, renderer=renderer)
