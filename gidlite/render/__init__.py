"""A spectral volume played: which times, and the frame at each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Complex, Float, UInt8
from torch import Tensor

from gidlite.errors import require
from gidlite.loops import close_loop, whole_periods
from gidlite.media.video import read_video
from gidlite.motion import SpectralVolume
from gidlite.motion.flow import motion_texture
from gidlite.motion.spectral import motion_amplitude, motion_to_spectral, spectral_to_motion
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

    By default a video of one period at the volume's own rate; ``slow`` 2 plays at half speed. A
    loop within 10 % of a whole number of periods plays that number of them, a little faster or
    slower. Any other plays at natural speed: close the volume with ``close_for``, or it jumps.

    Raises:
        GidliteError: If a number is not finite and positive, or fewer than 2 frames result.
    """
    fps = volume.fps if fps is None else fps
    seconds = volume.period_seconds * slow if seconds is None else seconds
    for name, value in (("seconds", seconds), ("fps", fps), ("slow", slow)):
        positive = math.isfinite(value) and value > 0
        require(positive, f"{name} is {value}; it must be a positive number")
    count = round(seconds * fps)
    require(
        2 <= count <= 100_000,
        f"{seconds} s at {fps} frames per second makes {count} frames; ask for 2 to 100000",
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
    """Raise a GidliteError if a renderer is unknown, or "neural" and there is no trained one."""
    known = renderer in RENDERERS
    require(known, f"renderer {renderer!r} is unknown; use one of {', '.join(RENDERERS)}")
    if renderer == "neural":
        from gidlite.render.network import load_renderer

        load_renderer()


def mean_motion(volume: SpectralVolume) -> Float[Tensor, "1 rows columns"]:
    """Return W, the mean over time of |F_t|, in px at 256 px wide: what decides collisions."""
    times = torch.arange(_METRIC_TIMES, dtype=torch.float64) * (volume.num_frames / _METRIC_TIMES)
    total = torch.zeros(volume.spectral.shape[-2:])
    for time in times:
        total += _motion_at(volume, time).square().sum(0).sqrt()
    return total[None] * (256 / (_METRIC_TIMES * total.shape[-1]))


def _motion_at(volume: SpectralVolume, time: Float[Tensor, ""]) -> Float[Tensor, "2 rows columns"]:
    return spectral_to_motion(volume.spectral, num_frames=volume.num_frames, times=time[None])[0]


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
    """Return the photo, in [0, 1], moved by one motion in its px; the metric is ``mean_motion``.

    Raises:
        GidliteError: If the renderer is unknown, or "neural" and not trained.
    """
    return _make_renderer(image, renderer)(motion, metric)


def _make_renderer(image: Tensor, renderer: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what makes of a motion and its metric, both at the photo's size, a frame."""
    check_renderer(renderer)
    if renderer == "neural":
        from gidlite.render.network import NeuralRenderer

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

    The photo, in [0, 1], is as large as the video, the volume of any resolution; times are those
    of ``frame_times``; every displacement is multiplied by ``amplify``, 0–5.

    Raises:
        GidliteError: If ``amplify`` is not within 0–5, or as ``render_frame``.
    """
    require(0 <= amplify <= 5, f"amplify is {amplify}; it must lie between 0 and 5")
    render = _make_renderer(image, renderer)
    upsample = GuidedUpsampling(image, *volume.spectral.shape[-2:])
    metric = amplify * upsample(mean_motion(volume))
    for time in times:
        yield render(upsample.motion(amplify * _motion_at(volume, time)), metric)


@dataclass(frozen=True)
class Reanimation:
    """A clip re-rendered from its first frame, and how close it came.

    PSNR (dB) and SSIM are means over all frames but the first, against the real ones; ``still_``
    those of the first frame held still.
    """

    real: UInt8[Tensor, "time 3 height width"]
    rendered: UInt8[Tensor, "time 3 height width"]
    spectral: Complex[Tensor, "freq 2 height width"]
    fps: float
    psnr: float
    ssim: float
    still_psnr: float
    still_ssim: float


def reanimate(
    path: str | Path,
    *,
    num_frequencies: int = 16,
    width: int = 256,
    renderer: str = "softmax",
    progress: Callable[[int, int], None] | None = None,
) -> Reanimation:
    """Re-render a real clip, camera still, from its first frame and K frequencies of its motion.

    It is read at ``width`` px and up to 150 frames; progress is called with (frames done, all).

    Raises:
        GidliteError: If the video cannot be used or holds too few frames for K.
    """
    check_renderer(renderer)
    clip = read_video(path, width=width, max_frames=150)
    observed = motion_texture(clip.frames, progress=progress)
    spectral = motion_to_spectral(observed.motion, num_frequencies=num_frequencies)
    volume = SpectralVolume(spectral, num_frames=len(clip.frames), fps=clip.fps)
    times = torch.arange(len(clip.frames), dtype=torch.float64)
    real = clip.float_frames()
    moved = render_frames(real[0], volume, times, renderer=renderer)
    rendered = torch.stack([(frame * 255).round().byte() for frame in moved])
    scores = _similarity(rendered[1:].float() / 255, real[1:])
    still = _similarity(real[:1].expand_as(real[1:]), real[1:])
    return Reanimation(clip.frames, rendered, spectral, clip.fps, *scores, *still)


def _similarity(frames: Tensor, real: Tensor) -> tuple[float, float]:
    """Return PSNR in dB, of a frame at most 100, and SSIM, both the mean over frames."""
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    pairs = zip(frames, real, strict=True)
    psnr = [peak_signal_noise_ratio(a, b, data_range=1.0).clamp(max=100) for a, b in pairs]
    ssim = structural_similarity_index_measure(frames, real, data_range=1.0)
    return torch.stack(psnr).mean().item(), ssim.item()
