"""Which stretches of a video can teach motion: no cuts, no fades, no camera, motion to be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from gidlite.data.shards import SHARD_BYTES, Sample, sample_bytes
from gidlite.errors import require
from gidlite.motion.flow import consistent, follow, grey, optical_flow_engine, textured
from gidlite.motion.spectral import motion_amplitude, motion_to_spectral

_STARTS_PER_SEGMENT = 16
# Points that a camera's motion is fitted to; with fewer than the latter there is no telling.
_POINTS, _MIN_POINTS = 400, 40


@dataclass(frozen=True)
class Limits:
    """Where a stretch of video stops being useful; px are those of samples."""

    cut: float = 0.05  # a thumbnail's mean change between neighbours, 0 to 1, that can be a cut
    alike: float = 0.8  # and is one if pictures correlate less across it: flicker keeps shapes
    fade: float = 1.4  # contrast may grow or shrink by this factor within a stretch
    frozen: float = 0.6  # largest share of frames equal to the one before
    texture: float = 0.05  # least share of pixels with enough texture to see motion
    drift: float = 0.04  # largest way of the picture's corners, in its widths, that is made up for
    unmoved: float = 0.1  # share of textured pixels that stay put only if the camera is still
    still: float = 0.3  # camera motion in px that is left alone
    motion: float = 0.06  # least 99th percentile of RMS displacement in px; below, nothing moves
    reliable: float = 0.5  # least share of textured pixels whose flow agrees forward and backward
    reach: float = 0.25  # largest displacement believed, in picture widths


@dataclass(frozen=True)
class Settings:
    """How samples are made; the same for all samples of a folder."""

    every: int = 10  # a sample starts at every so many frames, as in the paper
    height: int = 160  # of a sample; the middle of the video is cut out to this aspect
    width: int = 256
    num_frames: int = 150  # T, followed from each start
    fps: float = 30.0  # videos are resampled to this rate
    num_frequencies: int = 16  # K
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        require(self.every >= 1, f"--every is {self.every}; it must be at least 1")
        size = f"--size is {self.width}x{self.height}; both sides must lie between 32 and 1024"
        require(32 <= min(self.height, self.width) <= max(self.height, self.width) <= 1024, size)
        bins, most = self.num_frequencies, self.num_frames // 2
        held = f"{self.num_frames} frames hold 1 to {most}"
        require(1 <= bins <= most, f"--num-frequencies is {bins}; {held}")

    @property
    def starts_per_segment(self) -> int:
        """Start frames in one unit of work, few enough that its samples fit in one shard."""
        each = sample_bytes(self.num_frequencies, (self.height, self.width))
        return max(1, min(_STARTS_PER_SEGMENT, (SHARD_BYTES - 1_000_000) // each))


class LeftOut(Exception):
    """A stretch cannot teach motion; the message is the reason, as reports count them."""


def _leave_out(condition: bool, reason: str) -> None:
    if condition:
        raise LeftOut(reason)


class Frame:
    """A picture with what all stretches that it belongs to look at; the thumbnail is in [0, 1]."""

    def __init__(self, color: UInt8[Tensor, "3 height width"]) -> None:
        self.color, self.grey, mean = color, grey(color), color.float().mean(0)
        self.thumbnail = functional.adaptive_avg_pool2d(mean[None], (20, 32))[0] / 255


def make_sample(frames: Sequence[Frame], settings: Settings, info: dict[str, Any]) -> Sample:
    """Return the photo and the motion of a stretch; what is measured goes to ``info["checks"]``."""
    limits, checks, greys = settings.limits, info["checks"], [frame.grey for frame in frames]
    # A moment less is taken for T frames: frequencies are 2 % off at most.
    if len(frames) < 0.98 * settings.num_frames:
        checks["frames"] = len(frames)
        raise LeftOut(f"shorter than {settings.num_frames} frames")
    seen, engine = textured(greys[0]), optical_flow_engine()
    _check_brightness(torch.stack([frame.thumbnail for frame in frames]), limits, checks)
    checks["texture"] = round(float(seen.float().mean()), 3)
    _leave_out(checks["texture"] < limits.texture, "no texture")
    quarters = [round((len(frames) - 1) * share) for share in (0.25, 0.5, 0.75, 1.0)]
    flows = torch.stack([engine(greys[0], greys[t], None) for t in quarters])
    _look_ahead(flows[..., seen], settings.width, limits, checks)
    motion = follow(greys)
    # Flow can be trusted where it agrees, at five moments, with the flow back.
    moments = {*quarters, int(motion.abs().mean((1, 2, 3)).argmax())}
    back = [consistent(motion[t], engine(greys[t], greys[0], None)) for t in moments]
    reliable = torch.stack([seen, *back]).all(0)
    checks["reliable"] = round(float(reliable.sum() / seen.sum()), 3)
    far = (motion.abs().amax((0, 1)) > limits.reach * settings.width).float().mean()
    _leave_out(checks["reliable"] < limits.reliable or float(far) > 0.01, "unreliable flow")
    motion = _still_camera(motion, seen, limits, checks)
    spectral = motion_to_spectral(motion, num_frequencies=settings.num_frequencies)
    rms = motion_amplitude(spectral)[reliable]
    checks["motion_px"] = round(float(rms.kthvalue(max(1, int(0.99 * len(rms)))).values), 3)
    _leave_out(checks["motion_px"] < limits.motion, "nothing moves")
    info["loop"] = repeats(motion[..., reliable])
    return Sample(frames[0].color, spectral, reliable, info)


def _check_brightness(thumbnails: Tensor, limits: Limits, checks: dict[str, float]) -> None:
    """Leave out cuts, where brightness and shapes change at once, fades, and repeated frames."""
    change = thumbnails.diff(dim=0).abs()
    for t in (change.mean((1, 2)) > limits.cut).nonzero()[:, 0].tolist():
        sides = thumbnails[max(0, t - 2) : t + 1], thumbnails[t + 1 : t + 4]
        shapes = torch.stack([side.mean(0).flatten() for side in sides])
        if not torch.corrcoef(shapes)[0, 1] > limits.alike:
            checks["at_frame"] = t + 1
            raise LeftOut("cut")
    contrast = thumbnails.flatten(1).std(dim=1).clamp(min=1e-3)
    checks["contrast_change"] = round(float(contrast.max() / contrast.min()), 3)
    _leave_out(checks["contrast_change"] > limits.fade, "fade or flicker")
    checks["frozen"] = round(float((change.amax((1, 2)) == 0).float().mean()), 3)
    _leave_out(checks["frozen"] > limits.frozen, "frozen")


def _look_ahead(flows: Tensor, width: int, limits: Limits, checks: dict[str, float]) -> None:
    """Tell a moving camera or a dead picture by four flows, a fraction of the price of all."""
    way = flows.norm(dim=1)
    _leave_out(float(torch.quantile(way[:, ::3], 0.99)) < limits.motion, "nothing moves")
    median = float(flows.median(dim=2).values.norm(dim=1).max())
    checks["median_shift_px"] = round(median, 2)
    checks["unmoved"] = round(float((way < 1).all(0).float().mean()), 3)
    all_move = checks["unmoved"] < limits.unmoved
    _leave_out(all_move and median > limits.drift * width, "moving camera")


def _still_camera(motion: Tensor, seen: Tensor, limits: Limits, checks: dict[str, Any]) -> Tensor:
    """Return the motion without that of a camera which moves slightly."""
    height, width = seen.shape
    path, share = camera_path(motion, seen)
    way, farthest = (float(x) for x in camera_way(path, height=height, width=width).max(0))
    checks["camera_share"], checks["camera_px"] = round(share, 3), round(way, 2)
    # Where fewer than half the pixels agree, or some stay behind, it is plants that move.
    if share < 0.5 or way <= limits.still:
        return motion
    checks["left_behind"] = round(left_behind(motion[int(farthest)], path[int(farthest)], seen), 3)
    if checks["left_behind"] >= limits.unmoved:
        return motion
    _leave_out(way > limits.drift * width, "moving camera")
    checks["stabilised"] = True
    return remove_camera(motion, path)


def camera_path(
    motion: Float[Tensor, "time 2 height width"], seen: Bool[Tensor, "height width"]
) -> tuple[Float[Tensor, "time 2 3"], float]:
    """Return the similarities that most pixels follow from frame 0 on, and the share that does.

    These follow within 0.3 px. With too few textured pixels, the identity and 0.
    """
    import cv2

    pixels = seen.nonzero().numpy()
    if len(pixels) < _MIN_POINTS:
        return torch.eye(2, 3).expand(len(motion), 2, 3), 0.0
    chosen = np.random.default_rng(0).choice(len(pixels), min(_POINTS, len(pixels)), replace=False)
    rows, columns = pixels[chosen].T
    here = np.stack([columns, rows], axis=1).astype(np.float32)
    there = here + motion[:, :, rows, columns].permute(0, 2, 1).numpy()
    cv2.setRNGSeed(0)
    fit = {"method": cv2.RANSAC, "ransacReprojThreshold": 0.3, "maxIters": 200}
    path, shares = [np.eye(2, 3)], []
    for points in there[1:]:
        matrix, inlier = cv2.estimateAffinePartial2D(here, points, **fit)
        path.append(path[0] if matrix is None else matrix)
        shares.append(0.0 if matrix is None else float(inlier.mean()))
    return torch.from_numpy(np.stack(path)).float(), float(np.mean(shares))


def camera_way(path: Float[Tensor, "time 2 3"], *, height: int, width: int) -> Tensor:
    """Return how far the camera moves a corner of the picture at most, in px, per frame."""
    corners = torch.tensor([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1.0]])
    return (corners @ path.mT - corners[:, :2]).norm(dim=-1).amax(-1)


def _pixels(height: int, width: int) -> Float[Tensor, "2 height width"]:
    axes = torch.arange(width).float(), torch.arange(height).float()
    return torch.stack(torch.meshgrid(*axes, indexing="xy"))


def left_behind(
    motion: Float[Tensor, "2 h w"], camera: Float[Tensor, "2 3"], seen: Bool[Tensor, "h w"]
) -> float:
    """Return the share of textured pixels that stay where they are although the camera moves.

    To a fit, a large thing that sways as one before a still background looks like a camera.
    """
    here = _pixels(*seen.shape)
    there = torch.einsum("ij,jhw->ihw", camera[:, :2], here) + camera[:, 2, None, None]
    expected = (there - here).norm(dim=0)
    tested, stayed = seen & (expected > 0.2), motion.norm(dim=0) < 0.35 * expected
    return float(stayed[tested].float().mean()) if tested.any() else 0.0


def remove_camera(
    motion: Float[Tensor, "time 2 height width"], path: Float[Tensor, "time 2 3"]
) -> Float[Tensor, "time 2 height width"]:
    """Return the motion that a camera standing still would have seen: A_t⁻¹(p + F_t(p)) − p."""
    here = _pixels(*motion.shape[-2:])
    moved = (here + motion) - path[:, :, 2, None, None]
    return torch.einsum("tij,tjhw->tihw", torch.linalg.inv(path[:, :, :2]), moved) - here


def repeats(motion: Float[Tensor, "time 2 pixels"]) -> bool:
    """Return whether the last frame goes over into the first as frames do into the next."""
    moving = motion.var(dim=0).sum(0)
    course = motion[..., moving >= moving.quantile(0.8)]
    for most in (1.5, 3.0):  # ordinary steps, and ordinary changes of step
        course = course.roll(-1, 0) - course
        length = course.square().sum(1).mean(1).sqrt()
        if length[-2:].max() > most * length.median():
            return False
    return True
