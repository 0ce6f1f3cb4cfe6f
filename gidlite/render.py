"""Photo + motion → frames: softmax splatting of the photo, holes filled from their surroundings.

Source: Li et al. 2024, section 5 (splatting with the mean motion magnitude as metric). The
feature pyramid and synthesis network of the paper are not part of this first renderer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gidlite._checks import GidliteError
from gidlite.spectral import motion_amplitude, resize_motion, spectral_to_motion
from gidlite.splat import splat
from gidlite.volume import SpectralVolume

__all__ = [
    "METRIC_SCALE",
    "RENDERERS",
    "fill_holes",
    "frame_times",
    "render_frame",
    "render_frames",
    "splat_photo",
]

RENDERERS = ("softmax", "average")
# How decisively the pixel that moves more wins a collision, per px of mean motion at 256 wide.
METRIC_SCALE = 20.0
# The compiled splat needs metrics that span less than 600.
_LARGEST_METRIC = 500.0


def frame_times(
    volume: SpectralVolume,
    *,
    seconds: float | None = None,
    fps: float | None = None,
    slow: float = 1.0,
    loop: bool = True,
) -> Tensor:
    """Return the volume times (in frames, fractional) at which a video samples the motion.

    The motion has a period of T frames, so any length is possible. A loop must hold a whole
    number of periods: the speed is adjusted by the smallest factor that makes it so.

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
    if loop:
        periods = max(1, round(count / (fps * slow * volume.period_seconds)))
        return torch.arange(count, dtype=torch.float64) * (periods * volume.num_frames / count)
    return torch.arange(count, dtype=torch.float64) * (volume.fps / (fps * slow))


def splat_photo(
    image: Float[Tensor, "batch 3 height width"],
    motion: Float[Tensor, "batch 2 height width"],
    metric: Float[Tensor, "batch 1 height width"] | None,
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch 1 height width"]]:
    """Return photos moved by a displacement field, holes filled, and the coverage, 0 in holes.

    Args:
        image: Photos in [0, 1].
        motion: Displacement of every pixel, px.
        metric: W, the mean over time of |F_t| in px at 256 px wide; where pixels collide, the one
            that moves more wins. None averages them.
    """
    scaled = None if metric is None else (METRIC_SCALE * metric).clamp(max=_LARGEST_METRIC)
    moved, coverage = splat(image, motion, metric=scaled, return_coverage=True)
    return fill_holes(moved, coverage), coverage


def fill_holes(
    picture: Float[Tensor, "batch channels height width"],
    coverage: Float[Tensor, "batch 1 height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Fill pixels that nothing landed on by averages over the smallest covered neighbourhood.

    Halve the covered colours until no hole is left, then come back, using the coarser level only
    where the finer one has a hole.
    """
    weight = coverage.clamp(max=1)
    # Elsewhere than on the CPU, looking for holes costs more than filling none.
    if min(picture.shape[-2:]) < 2 or (weight.is_cpu and (weight > 0.999).all()):
        return picture
    coarse_weight = functional.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = functional.avg_pool2d(picture * weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = coarse / coarse_weight.clamp(min=1e-6)
    coarse = fill_holes(coarse, (coarse_weight * 4).clamp(max=1))
    smooth = functional.interpolate(
        coarse, picture.shape[-2:], mode="bilinear", align_corners=False
    )
    return torch.lerp(smooth, picture, weight)


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
    moved, _ = splat_photo(
        image[None], motion[None], metric[None] if renderer == "softmax" else None
    )
    return moved[0].clamp(0, 1)


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
    magnitude = motion_amplitude(volume.spectral) * (256 / volume.spectral.shape[-1])
    metric = functional.interpolate(
        magnitude[None, None], (height, width), mode="bilinear", align_corners=False
    )[0]
    for time in times:
        motion = spectral_to_motion(
            volume.spectral, num_frames=volume.num_frames, times=time[None]
        )[0]
        moved = resize_motion(amplify * motion, height=height, width=width)
        yield render_frame(image, moved, metric, renderer=renderer)
