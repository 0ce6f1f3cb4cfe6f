"""Which stretches of a video can teach motion: no cuts, no fades, no camera, motion to be seen.

Every check returns a plain answer with its number, so that a report can say why something was
left out. Thresholds are in ``Limits``, in px of the working picture or as shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from gidlite.flow import consistent, grey, optical_flow_engine, textured

__all__ = [
    "Limits",
    "Screening",
    "camera_path",
    "camera_way",
    "find_cuts",
    "left_behind",
    "reliability",
    "remove_camera",
    "screen",
    "thumbnail",
]

_POINTS = 400
_MIN_POINTS = 40


@dataclass(frozen=True)
class Limits:
    """Where a stretch of video stops being useful.

    Attributes:
        cut: Mean change of a thumbnail between neighbours, 0 to 1, that can be a cut, ...
        alike: ... if the pictures before and after correlate less than this; flicker keeps shapes.
        fade: Contrast may grow or shrink by this factor within a stretch.
        frozen: Share of frames equal to the one before.
        texture: Least share of pixels with enough texture to see motion.
        drift: Largest way of the picture's corners, in picture widths, that is made up for.
        unmoved: With at least this share of textured pixels where they were, the camera is still,
            however wildly the rest moves.
        still: Camera motion in px below this is left alone.
        motion: Least 99th percentile of RMS displacement in px; below, nothing moves.
        reliable: Least share of textured pixels whose flow agrees forward and backward.
        reach: Largest displacement believed, in picture widths.
    """

    cut: float = 0.05
    alike: float = 0.8
    fade: float = 1.4
    frozen: float = 0.6
    texture: float = 0.05
    drift: float = 0.04
    unmoved: float = 0.1
    still: float = 0.3
    motion: float = 0.06
    reliable: float = 0.5
    reach: float = 0.25


@dataclass(frozen=True)
class Screening:
    """The outcome of checks: ``reason`` is None if the stretch passed."""

    reason: str | None
    checks: dict[str, float]


def thumbnail(frame: UInt8[Tensor, "3 height width"]) -> Float[Tensor, "rows columns"]:
    """Return a grey miniature, 20 × 32, in [0, 1]."""
    return functional.adaptive_avg_pool2d(frame.float().mean(0)[None], (20, 32))[0] / 255


def find_cuts(
    thumbnails: Float[Tensor, "time rows columns"], limits: Limits | None = None
) -> list[int]:
    """Return the frames that begin a new shot.

    At a cut the picture changes at once and the shapes do not come back. Wind changes it at once,
    too, but little by little; flicker changes brightness, not shapes.
    """
    limits = limits or Limits()
    change = thumbnails.diff(dim=0).abs().mean((1, 2))
    found = []
    for t in (change > limits.cut).nonzero()[:, 0].tolist():
        before, after = thumbnails[max(0, t - 2) : t + 1], thumbnails[t + 1 : t + 4]
        both = torch.stack([before.mean(0).flatten(), after.mean(0).flatten()])
        if not torch.corrcoef(both)[0, 1] > limits.alike:
            found.append(t + 1)
    return found


def screen(
    frames: UInt8[Tensor, "time 3 height width"],
    thumbnails: Float[Tensor, "time rows columns"],
    limits: Limits,
) -> Screening:
    """Check a stretch before its flow is computed: brightness, repeats, texture, a look ahead.

    Four flows to later frames tell a moving camera or a dead picture from the rest at a fraction
    of the price of all of them.
    """
    checks: dict[str, float] = {}

    def outcome(reason: str | None) -> Screening:
        return Screening(reason, checks)

    contrast = thumbnails.flatten(1).std(dim=1).clamp(min=1e-3)
    checks["contrast_change"] = round(float(contrast.max() / contrast.min()), 3)
    if checks["contrast_change"] > limits.fade:
        return outcome("fade or flicker")
    repeats = (thumbnails.diff(dim=0).abs().amax((1, 2)) == 0).float().mean()
    checks["frozen"] = round(float(repeats), 3)
    if repeats > limits.frozen:
        return outcome("frozen")
    first = grey(frames[0])
    seen = textured(first)
    checks["texture"] = round(float(seen.float().mean()), 3)
    if checks["texture"] < limits.texture:
        return outcome("no texture")
    engine = optical_flow_engine()
    later = [round((len(frames) - 1) * share) for share in (0.25, 0.5, 0.75, 1.0)]
    flows = torch.stack([engine(first, grey(frames[t]), None) for t in later])[..., seen]
    way = flows.norm(dim=1)
    if float(torch.quantile(way[:, ::3], 0.99)) < limits.motion:
        return outcome("nothing moves")
    median = flows.median(dim=2).values.norm(dim=1)
    checks["median_shift_px"] = round(float(median.max()), 2)
    checks["unmoved"] = round(float((way < 1).all(0).float().mean()), 3)
    if median.max() > limits.drift * frames.shape[-1] and checks["unmoved"] < limits.unmoved:
        return outcome("moving camera")
    return outcome(None)


def camera_path(
    motion: Float[Tensor, "time 2 height width"], seen: Bool[Tensor, "height width"]
) -> tuple[Float[Tensor, "time 2 3"], float]:
    """Fit the similarity that most textured pixels follow in every frame, and how many do.

    Returns:
        Matrices that take a pixel of frame 0 to where the camera's own motion puts it, and the
        mean share of pixels that follow them within 0.3 px. With too few textured pixels, the
        identity and 0.
    """
    import cv2

    identity = np.eye(2, 3)
    rows, columns = np.nonzero(seen.numpy())
    if len(rows) < _MIN_POINTS:
        return torch.from_numpy(identity).float().expand(len(motion), 2, 3), 0.0
    chosen = np.random.default_rng(0).choice(len(rows), min(_POINTS, len(rows)), replace=False)
    rows, columns = rows[chosen], columns[chosen]
    here = np.stack([columns, rows], axis=1).astype(np.float32)
    there = here + motion[:, :, rows, columns].permute(0, 2, 1).numpy()
    cv2.setRNGSeed(0)
    path, shares = [identity], []
    for points in there[1:]:
        matrix, inlier = cv2.estimateAffinePartial2D(
            here, points, method=cv2.RANSAC, ransacReprojThreshold=0.3, maxIters=200
        )
        path.append(identity if matrix is None else matrix)
        shares.append(0.0 if matrix is None else float(inlier.mean()))
    return torch.from_numpy(np.stack(path)).float(), float(np.mean(shares))


def camera_way(path: Float[Tensor, "time 2 3"], *, height: int, width: int) -> Tensor:
    """Return how far the camera moves a corner of the picture at most, in px, per frame."""
    corners = torch.tensor([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1.0]])
    return (corners @ path.mT - corners[:, :2]).norm(dim=-1).amax(-1)


def left_behind(
    motion: Float[Tensor, "2 height width"],
    camera: Float[Tensor, "2 3"],
    seen: Bool[Tensor, "height width"],
) -> float:
    """Return the share of textured pixels that stay where they are although the camera moves.

    A moving camera leaves none behind; a large thing that sways as one before a still background
    looks like a camera to a fit, but not to the background.
    """
    height, width = motion.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)]).float()
    expected = (torch.einsum("ij,jhw->ihw", camera, grid) - grid[:2]).norm(dim=0)
    tested = seen & (expected > 0.2)
    stayed = motion.norm(dim=0) < 0.35 * expected
    return float(stayed[tested].float().mean()) if tested.any() else 0.0


def remove_camera(
    motion: Float[Tensor, "time 2 height width"], path: Float[Tensor, "time 2 3"]
) -> Float[Tensor, "time 2 height width"]:
    """Return the motion that a camera standing still would have seen: A_t⁻¹(p + F_t(p)) − p."""
    height, width = motion.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([x, y]).float()
    inverse = torch.linalg.inv(path[:, :, :2])
    moved = (grid + motion) - path[:, :, 2, None, None]
    return torch.einsum("tij,tjhw->tihw", inverse, moved) - grid


def reliability(
    frames: UInt8[Tensor, "time 3 height width"],
    motion: Float[Tensor, "time 2 height width"],
) -> Bool[Tensor, "height width"]:
    """Return the textured pixels whose flow at five moments agrees with the flow back."""
    engine, first = optical_flow_engine(), grey(frames[0])
    farthest = int(motion.abs().mean((1, 2, 3)).argmax())
    later = {round((len(frames) - 1) * share) for share in (0.25, 0.5, 0.75, 1.0)} | {farthest}
    agree = textured(first)
    for time in sorted(later):
        back = engine(grey(frames[time]), first, None)
        agree &= consistent(motion[time], back)
    return agree
