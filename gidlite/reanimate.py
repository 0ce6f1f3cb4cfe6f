"""The real-video round trip: flow → K frequencies → splatted first frame → compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gidlite.flow import motion_texture
from gidlite.media import read_video
from gidlite.metrics import psnr, ssim
from gidlite.render import check_renderer, render_frames
from gidlite.spectral import motion_to_spectral
from gidlite.volume import SpectralVolume

__all__ = ["Reanimation", "reanimate"]


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
    pairs = {"": again, "still_": still}
    scores = {}
    for prefix, frames in pairs.items():
        quality = [psnr(a, b) for a, b in zip(frames, real, strict=True)]
        scores[f"{prefix}psnr"] = sum(min(q, 100.0) for q in quality) / len(quality)
        scores[f"{prefix}ssim"] = ssim(frames, real)
    return Reanimation(clip.frames, rendered, spectral, clip.fps, **scores)
