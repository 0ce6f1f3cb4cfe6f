"""Pictures: X-t slices, amplitude maps, contact sheets."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float, UInt8
from torch import Tensor
from torch.nn import functional

from gidlite.media import xt_slice
from gidlite.spectral import motion_amplitude
from gidlite.synthetic import Scenes

__all__ = [
    "amplitude_map",
    "compare_slices",
    "contact_sheet",
    "liveliest_row",
    "motion_tile",
    "scene_tiles",
    "show_amplitude",
    "show_xt_slice",
]


def liveliest_row(spectral: Complex[Tensor, "freq 2 rows columns"], *, height: int) -> int:
    """Return the row, in a picture of the given height, with the most horizontal motion."""
    power = spectral[1:, 0].abs().square().sum(dim=(0, 2))
    margin = len(power) // 10  # flow and splatting are least certain along the border
    power = power[margin : len(power) - margin]
    return int((power.argmax() + margin + 0.5) * height / (len(power) + 2 * margin))


def compare_slices(
    upper: UInt8[Tensor, "time 3 height width"],
    lower: UInt8[Tensor, "time 3 height width"],
    *,
    row: int,
) -> Float[Tensor, "3 rows width"]:
    """Return the X-t slices of two videos, one above the other with a white line between."""
    slices = [xt_slice(frames, row=row).float() / 255 for frames in (upper, lower)]
    return torch.cat([slices[0], torch.ones_like(slices[0][:, :3]), slices[1]], dim=1)


def amplitude_map(
    spectral: Complex[Tensor, "freq 2 rows columns"], *, height: int, width: int
) -> Float[Tensor, "height width"]:
    """Return RMS motion in px of a picture 256 wide, resampled to the given size."""
    rms = motion_amplitude(spectral) * (256 / spectral.shape[-1])
    return functional.interpolate(rms[None, None], (height, width), mode="bilinear")[0, 0]


def motion_tile(
    spectral: Complex[Tensor, "freq 2 rows columns"], *, height: int, width: int
) -> Float[Tensor, "3 height width"]:
    """Return a picture of RMS motion: white is 4 px at 256 wide, brightness its square root."""
    motion = amplitude_map(spectral, height=height, width=width)
    return (motion / 4).clamp(0, 1).sqrt().expand(3, -1, -1)


def contact_sheet(
    pictures: list[Float[Tensor, "3 height width"]], *, columns: int = 4, gap: int = 4
) -> Float[Tensor, "3 rows columns"]:
    """Return equally sized pictures side by side on white, filled row by row."""
    blank = torch.ones_like(pictures[0])
    padded = pictures + [blank] * (-len(pictures) % columns)
    framed = [functional.pad(picture, (gap,) * 4, value=1.0) for picture in padded]
    rows = [torch.cat(framed[i : i + columns], dim=-1) for i in range(0, len(framed), columns)]
    return torch.cat(rows, dim=-2)


def scene_tiles(scenes: Scenes, *, every: int = 2) -> list[Float[Tensor, "3 height width"]]:
    """Return three pictures per scene: the photo, its motion, and an X-t slice.

    Motion is drawn by ``motion_tile``; the slice goes through the row that moves most, time
    downwards.

    Args:
        scenes: Scenes with labels at full resolution.
        every: Take one frame in this many into the slice.
    """
    size = scenes.grid
    volumes = scenes.spectral(16)
    rows = [liveliest_row(volume, height=size[0]) for volume in volumes]
    count = scenes.coords.shape[-1]
    lines = [scenes.frame(t)[range(len(rows)), :, rows] for t in range(0, count, every)]
    slices = functional.interpolate(torch.stack(lines, dim=2), size, mode="area")
    tiles = []
    for photo, volume, xt in zip(scenes.photo, volumes, slices, strict=True):
        tiles += [photo, motion_tile(volume, height=size[0], width=size[1]), xt]
    return tiles


def show_xt_slice(axis, frames: UInt8[Tensor, "time 3 height width"], *, row: int, fps: float):
    """Draw a row over time on a matplotlib axis and return it; axes in px and seconds."""
    picture = xt_slice(frames, row=row).movedim(0, -1)
    extent = (0, picture.shape[1], len(frames) / fps, 0)
    axis.imshow(picture, aspect="auto", extent=extent, interpolation="nearest")
    axis.set(xlabel="x (px)", ylabel="time (s)", title=f"X-t slice at y = {row} px")
    return axis


def show_amplitude(axis, image: Float[Tensor, "3 height width"], spectral):
    """Draw RMS motion over a darkened photo on a matplotlib axis and return it."""
    amplitude = amplitude_map(spectral, height=image.shape[-2], width=image.shape[-1])
    axis.imshow(image.movedim(0, -1) * 0.4)
    drawn = axis.imshow(amplitude, cmap="magma", alpha=0.7, vmin=0)
    axis.figure.colorbar(drawn, ax=axis, label="RMS motion (px at 256 wide)", shrink=0.7)
    axis.set_axis_off()
    return axis
