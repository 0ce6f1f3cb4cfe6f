"""A spectral volume played: which times, and the frame at each."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Complex, Float, UInt8
from torch import Tensor

from gidlite.errors import require
from gidlite.loops import close_loop, whole_periods
from gidlite.media import as_image, read_video
from gidlite.motion import SpectralVolume, check_aspect
from gidlite.motion.flow import motion_texture
from gidlite.motion.spectral import motion_amplitude, motion_to_spectral, spectral_to_motion
from gidlite.render.photo import GuidedUpsampling, Picture, keep_sharp, splat_photo

RENDERERS = ("softmax", "average", "neural")
_METRIC_TIMES = 24
_AT_ONCE = 8  # motions made together
_FRAMES = 2  # on a CPU under way at the same time


def frame_times(
    volume: SpectralVolume,
    *,
    seconds: float | None = None,
    fps: float | None = None,
    slow: float = 1.0,
    loop: bool = True,
) -> Tensor:
    """Return the volume times, in frames, that a video shows: one period if nothing is given.

    ``slow`` 2 plays at half speed. A loop within 10 % of a whole number of periods plays that
    number, a little faster or slower; any other jumps unless ``close_for`` closes the volume. A
    number that is not finite and positive, or under 2 or over 100000 frames, is a GidliteError.
    """
    fps = volume.fps if fps is None else fps
    seconds = volume.period_seconds * slow if seconds is None else seconds
    for name, value in (("seconds", seconds), ("fps", fps), ("slow", slow)):
        valid = math.isfinite(value) and value > 0
        require(valid, f"{name} is {value}; it must be a positive number")
    count = round(seconds * fps)
    require(
        2 <= count <= 100_000,
        f"{seconds} s at {fps} frames per second makes {count} frames; ask for 2 to 100000",
    )
    step = volume.fps / (fps * slow)
    if loop and (periods := whole_periods(count * step, num_frames=volume.num_frames)):
        step = periods * volume.num_frames / count
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
    total = sum(motion.square().sum(0, keepdim=True).sqrt() for motion in _motions(volume, times))
    return total * (256 / (_METRIC_TIMES * total.shape[-1]))


def _motions(volume: SpectralVolume, times: Tensor) -> Iterator[Float[Tensor, "2 rows columns"]]:
    """Yield the motion at each time: some are made at once, which reads the volume once."""
    for some in times.split(_AT_ONCE):
        yield from spectral_to_motion(volume.spectral, num_frames=volume.num_frames, times=some)


def farthest_motion(volume: SpectralVolume) -> float:
    """Return the amplitude that one pixel in a thousand exceeds, px at 256 px wide.

    It is √2 times the root mean square over time, as of a sinusoid.
    """
    swing = math.sqrt(2) * motion_amplitude(volume.spectral).flatten()
    largest = swing.topk(max(1, len(swing) // 1000)).values
    return float(largest[-1]) * 256 / volume.spectral.shape[-1]


def render_frame(
    image: Any,
    motion: Float[Tensor, "2 height width"],
    metric: Float[Tensor, "1 height width"],
    *,
    renderer: str = "softmax",
) -> Picture:
    """Return a photo, as ``as_image`` takes it, moved by a motion in its px.

    The metric is ``mean_motion``. An unknown or untrained renderer is a GidliteError.
    """
    return _make_renderer(as_image(image), renderer)(motion, metric)


def _make_renderer(image: Tensor, renderer: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function from a motion and its metric, at the photo's size, to a frame."""
    check_renderer(renderer)
    if renderer == "neural":
        from gidlite.render.network import NeuralRenderer

        return NeuralRenderer(image)

    def warp(motion: Tensor, metric: Tensor) -> Tensor:
        sharp = keep_sharp(image[None], motion[None])
        decides = metric[None] if renderer == "softmax" else None
        return splat_photo(sharp, motion[None], decides)[0][0].clamp(0, 1)

    return warp


def render_frames(
    image: Any,
    volume: SpectralVolume,
    times: Float[Tensor, " time"],
    *,
    amplify: float = 1.0,
    renderer: str = "softmax",
) -> Iterator[Picture]:
    """Yield one frame, as large as the photo, per volume time; on a CPU the next are under way.

    The photo is what ``as_image`` takes, the volume of any resolution but its aspect. ``amplify``
    multiplies every displacement; outside 0–5 it is a GidliteError, as are the renderers of
    ``render_frame``.
    """
    require(0 <= amplify <= 5, f"amplify is {amplify}; it must lie between 0 and 5")
    check_aspect(image := as_image(image), volume)
    render = _make_renderer(image, renderer)
    upsample = GuidedUpsampling(image, *volume.spectral.shape[-2:])
    metric = amplify * upsample(mean_motion(volume))

    def make(motion: Tensor) -> Tensor:
        return render(upsample.motion(amplify * motion), metric)

    each = _in_threads if image.is_cpu and torch.get_num_threads() >= _FRAMES else map
    yield from each(make, _motions(volume, times))


def _in_threads(make: Callable[[Tensor], Tensor], inputs: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield what is made of each, in order, two at a time: halves of one would wait more."""
    cores, under_way, pool = torch.get_num_threads(), deque(), ThreadPoolExecutor(_FRAMES)

    def one(given: Tensor) -> Tensor:
        torch.set_num_threads(cores // _FRAMES)  # each time: Numba's first loop takes all back
        return make(given)

    def start(count: int) -> None:
        torch.set_num_threads(cores // _FRAMES)  # the inputs, too, take no core from the frames
        under_way.extend(pool.submit(one, given) for given in islice(inputs, count))
        torch.set_num_threads(cores)

    try:
        start(_FRAMES + 1)
        while under_way:
            frame = under_way.popleft().result()
            start(1)
            yield frame
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


@dataclass(frozen=True)
class Reanimation:
    """A clip re-rendered from its first frame, and how close it came to the real one.

    PSNR (dB) and SSIM are means over all later frames; ``still_``: of the first one held still.
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
    A video that cannot be used, or holds too few frames for K, is a GidliteError.
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
    shown = rendered[1:].float() / 255, real[:1].expand_as(real[1:])
    scores = [score for frames in shown for score in _similarity(frames, real[1:])]
    return Reanimation(clip.frames, rendered, spectral, clip.fps, *scores)


def _similarity(frames: Tensor, real: Tensor) -> tuple[float, float]:
    """Return PSNR in dB, of a frame at most 100, and SSIM, both the mean over frames."""
    from torchmetrics.functional import image as metrics

    pairs = zip(frames, real, strict=True)
    psnr = [metrics.peak_signal_noise_ratio(*p, data_range=1.0).clamp(max=100) for p in pairs]
    _, ssim = metrics.structural_similarity_index_measure(
        frames, real, data_range=1.0, return_full_image=True
    )
    # Only where the whole window fits: beyond, torchmetrics compares a mirrored border.
    return torch.stack(psnr).mean().item(), ssim[..., 5:-5, 5:-5].mean().item()
