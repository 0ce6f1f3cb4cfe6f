"""Dense motion from real video: classical optical flow from the first frame to every later one.

OpenCV's Dense Inverse Search (Kroeger et al. 2016), down to full resolution with variational
refinement. Li et al. 2024 found classical coarse-to-fine flow more robust here than learned flow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor
from torch.nn import functional

from gidlite.errors import check_shape, require

Progress = Callable[[int, int], None] | None  # called with (frames done, frames in all)
_SMALLEST_SIDE = 32
# Forward-backward gap accepted, in px: a floor for sub-pixel noise plus a share of the motion.
_GAP_FLOOR, _GAP_SHARE = 0.5, 0.1
_LEAST_TEXTURE = 1e-4  # gradient energy, of intensities in [0, 1], that makes motion visible


@dataclass(frozen=True)
class Motion:
    """Motion in px from frame 0, reliable where that is textured and flow there and back agrees."""

    motion: Float[Tensor, "time 2 height width"]
    reliable: Bool[Tensor, "height width"]


def grey(frame: Shaped[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width"]:
    """Return the luma of an RGB frame (uint8, or float in [0, 1]) as bytes."""
    frame = frame.float() / 255 if frame.dtype == torch.uint8 else frame
    weights = torch.tensor([0.299, 0.587, 0.114], device=frame.device)[:, None, None]
    return ((frame * weights).sum(0) * 255).round().clamp(0, 255).byte().cpu().numpy()


def optical_flow_engine() -> Callable[[np.ndarray, np.ndarray, Tensor | None], Tensor]:
    """Return a function of (source, target, initial): grey bytes in, (2, H, W) px out."""
    import cv2

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)

    def flow(source: np.ndarray, target: np.ndarray, initial: Tensor | None) -> Tensor:
        start = None if initial is None else initial.permute(1, 2, 0).contiguous().numpy().copy()
        return torch.from_numpy(dis.calc(source, target, start)).permute(2, 0, 1).contiguous()

    return flow


def optical_flow(
    source: Float[Tensor, "3 height width"], target: Float[Tensor, "3 height width"]
) -> Float[Tensor, "2 height width"]:
    """Return every source pixel's displacement in px; frames in [0, 1], at least 32 px a side."""
    check_shape("source", source, "3 height width")
    check_shape("target", target, f"3 {source.shape[1]} {source.shape[2]}")
    large = min(source.shape[1:]) >= _SMALLEST_SIDE
    require(large, f"frames are smaller than {_SMALLEST_SIDE} px; give a larger video")
    return optical_flow_engine()(grey(source), grey(target), None)


def motion_texture(
    frames: Shaped[Tensor, "time 3 height width"], *, progress: Progress = None
) -> Motion:
    """Return the motion of every pixel of frame 0 through a clip (uint8, or float in [0, 1])."""
    check_shape("frames", frames, "time 3 height width")
    enough = len(frames) >= 2 and min(frames.shape[-2:]) >= _SMALLEST_SIDE
    needed = f"at least 2 frames of at least {_SMALLEST_SIDE} px a side"
    require(enough, f"motion needs {needed}, got shape {tuple(frames.shape)}")
    greys = [grey(frame) for frame in frames]
    flows = follow(greys, progress=progress)
    farthest = max(range(1, len(flows)), key=lambda t: flows[t].abs().mean().item())
    back = optical_flow_engine()(greys[farthest], greys[0], None)
    return Motion(flows, consistent(flows[farthest], back) & textured(greys[0]))


def follow(
    greys: list[np.ndarray], *, progress: Progress = None
) -> Float[Tensor, "time 2 height width"]:
    """Return the flow from the first grey frame to each, started from the one before."""
    engine = optical_flow_engine()
    flows = torch.zeros(len(greys), 2, *greys[0].shape)
    for done, target in enumerate(greys[1:], start=1):
        flows[done] = engine(greys[0], target, flows[done - 1])
        if progress is not None:
            progress(done, len(greys) - 1)
    return flows


def sample_at(
    image: Float[Tensor, "*batch channels height width"],
    offset: Float[Tensor, "*batch 2 height width"],
    *,
    mode: str = "bilinear",
    padding: str = "border",
) -> Float[Tensor, "*batch channels height width"]:
    """Return ``image(p + offset(p))`` at every pixel p; mode and padding as in ``grid_sample``.

    This is warping backwards: ``sample_at(later, F_t)`` is frame 0 where nothing is hidden.
    """
    height, width = image.shape[-2:]
    maps, offset = (x.reshape(-1, *x.shape[-3:]) for x in (image, offset))
    x = torch.arange(width, device=image.device) + offset[:, 0]
    y = torch.arange(height, device=image.device)[:, None] + offset[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    options = {"mode": mode, "padding_mode": padding, "align_corners": False}
    return functional.grid_sample(maps, grid, **options).reshape(image.shape)


def consistent(
    forward: Float[Tensor, "2 height width"], backward: Float[Tensor, "2 height width"]
) -> Bool[Tensor, "height width"]:
    """Return where following the flow there and back ends close to the start."""
    gap = (forward + sample_at(backward, forward)).norm(dim=0)
    return gap < _GAP_FLOOR + _GAP_SHARE * forward.norm(dim=0)


def textured(grey: UInt8[np.ndarray, "height width"]) -> Bool[Tensor, "height width"]:
    """Return where gradients are strong enough for motion to be visible."""
    image = torch.from_numpy(grey).float()[None, None] / 255
    dx = functional.pad(image.diff(dim=-1), (0, 1))
    dy = functional.pad(image.diff(dim=-2), (0, 0, 0, 1))
    energy = functional.avg_pool2d(dx**2 + dy**2, 7, stride=1, padding=3)
    return (energy > _LEAST_TEXTURE)[0, 0]
