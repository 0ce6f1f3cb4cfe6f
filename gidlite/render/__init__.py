"""A spectral volume played: which times, and the frame at each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gidlite.errors import GidliteError
from gidlite.loops import close_loop, whole_periods
from gidlite.media.reader import read_video
from gidlite.motion import SpectralVolume
from gidlite.motion.flow import motion_texture
from gidlite.motion.spectral import motion_amplitude, motion_to_spectral, spectral_to_motion
from gidlite.render.network import NeuralRenderer, load_renderer
from gidlite.render.photo import GuidedUpsampling, keep_sharp, splat_photo

RENDERERS = ("softmax", "average", "neural")
_METRIC_TIMES = 24


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


def check_renderer(renderer: str) -> None:
    """Refuse a renderer that is unknown or not there.

    Raises:
        GidliteError: If the name is unknown, or there is no trained network for "neural".
    """
    if renderer not in RENDERERS:
        raise GidliteError(f"renderer {renderer!r} is unknown; use one of {', '.join(RENDERERS)}")
    if renderer == "neural":
        load_renderer()


def mean_motion(volume: SpectralVolume) -> Float[Tensor, "1 rows columns"]:
    """Return W, the mean over time of |F_t|, in px at 256 px wide: what decides collisions."""
    times = torch.arange(_METRIC_TIMES, dtype=torch.float64) * (volume.num_frames / _METRIC_TIMES)
    total = torch.zeros(volume.spectral.shape[-2:])
    for time in times:
        motion = spectral_to_motion(
            volume.spectral, num_frames=volume.num_frames, times=time[None]
        )[0]
        total += motion.square().sum(0).sqrt()
    return total[None] * (256 / (_METRIC_TIMES * total.shape[-1]))


def farthest_motion(volume: SpectralVolume) -> float:
    """Return how far the pixels that move most swing to either side, px at 256 px wide.

    The square root of twice the mean square of one in a thousand pixels: a sinusoid's amplitude.
    """
    swing = math.sqrt(2) * motion_amplitude(volume.spectral).flatten()
    count = max(1, len(swing) // 1000)
    return float(swing.topk(count).values[-1]) * 256 / volume.spectral.shape[-1]


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
        metric: W, see ``mean_motion``: larger wins where pixels collide.
        renderer: One of ``RENDERERS``.

    Raises:
        GidliteError: If the renderer is unknown, or "neural" and not trained.
    """
    check_renderer(renderer)
    return _make_renderer(image, renderer)(motion, metric)


def _make_renderer(image: Tensor, renderer: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of (motion, metric) that renders a frame of the photo."""
    if renderer == "neural":
        return NeuralRenderer(image)

    def warp(motion: Tensor, metric: Tensor) -> Tensor:
        decides = metric[None] if renderer == "softmax" else None
        sharp = keep_sharp(image[None], motion[None])
        return splat_photo(sharp, motion[None], decides)[0][0].clamp(0, 1)

    return warp


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
        renderer: One of ``RENDERERS``.

    Raises:
        GidliteError: If ``amplify`` is not within 0–5, or as ``render_frame``.
    """
    if not (math.isfinite(amplify) and 0 <= amplify <= 5):
        raise GidliteError(f"amplify is {amplify}; it must lie between 0 and 5")
    check_renderer(renderer)
    render = _make_renderer(image, renderer)
    upsample = GuidedUpsampling(image, *volume.spectral.shape[-2:])
    metric = amplify * upsample(mean_motion(volume))
    for time in times:
        motion = spectral_to_motion(
            volume.spectral, num_frames=volume.num_frames, times=time[None]
        )[0]
        yield render(upsample.motion(amplify * motion), metric)


@dataclass(frozen=True)
class Reanimation:
    """A clip re-rendered from its first frame, and how close it came.

    Attributes:
        real: ``(T, 3, H, W)`` uint8 frames of the clip.
        rendered: The same frames from the first one and K frequencies of its motion.
        spectral: ``(K, 2, H, W)`` px.
        fps: Frames per second.
        psnr: dB, mean over frames 1 … T − 1, against the real frames.
        ssim: Mean over the same frames.
        still_psnr: The same for the first frame held still.
        still_ssim: The same for the first frame held still.
    """

    real: Tensor
    rendered: Tensor
    spectral: Tensor
    fps: float
    psnr: float
    ssim: float
    still_psnr: float
    still_ssim: float


def reanimate(
    path: str | Path,
    *,
    num_frequencies: int = 16,
    max_frames: int = 150,
    width: int = 256,
    renderer: str = "softmax",
    progress: Callable[[int, int], None] | None = None,
) -> Reanimation:
    """Re-render a real clip from its first frame and K frequencies of its own motion.

    Args:
        path: Video with a still camera.
        num_frequencies: K.
        max_frames: T at most.
        width: Working width in px.
        renderer: One of ``render.RENDERERS``.
        progress: Called with (frames done, frames in all).

    Raises:
        GidliteError: If the video cannot be used or holds too few frames for K.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    check_renderer(renderer)
    clip = read_video(path, width=width, max_frames=max_frames)
    observed = motion_texture(clip.frames, progress=progress)
    spectral = motion_to_spectral(observed.motion, num_frequencies=num_frequencies)
    volume = SpectralVolume(spectral, num_frames=len(clip.frames), fps=clip.fps)
    first = clip.frames[0].float() / 255
    times = torch.arange(len(clip.frames), dtype=torch.float64)
    moved = render_frames(first, volume, times, renderer=renderer)
    rendered = torch.stack([(frame * 255).round().byte() for frame in moved])
    real = clip.float_frames()[1:]
    again, still = rendered[1:].float() / 255, first.expand_as(real)
    scores = {}
    for prefix, frames in {"": again, "still_": still}.items():
        quality = [
            peak_signal_noise_ratio(a, b, data_range=1.0).item()
            for a, b in zip(frames, real, strict=True)
        ]
        scores[f"{prefix}psnr"] = sum(min(q, 100.0) for q in quality) / len(quality)
        scores[f"{prefix}ssim"] = structural_similarity_index_measure(
            frames, real, data_range=1.0
        ).item()
    return Reanimation(clip.frames, rendered, spectral, clip.fps, **scores)
