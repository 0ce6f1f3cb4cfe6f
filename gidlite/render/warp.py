"""Softmax splatting of the photo, holes filled from their surroundings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gidlite.splat import fill_holes, splat
from gidlite.synthesis import LARGEST_METRIC

__all__ = ["keep_sharp", "splat_photo"]

# How decisively the pixel that moves more wins a collision, per px of mean motion at 256 wide.
_METRIC_SCALE = 3.0


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
    mode = "average" if metric is None else "softmax"
    scaled = None if metric is None else (_METRIC_SCALE * metric).clamp(max=LARGEST_METRIC)
    carried = image if scaled is None else torch.cat([image, scaled], dim=1)
    moved, coverage = splat(carried, motion, metric=scaled, mode=mode, return_coverage=True)
    ahead = None if scaled is None else moved[:, 3:]
    return fill_holes(moved[:, :3], coverage, ahead), coverage


def keep_sharp(
    image: Float[Tensor, "batch 3 height width"], motion: Float[Tensor, "batch 2 height width"]
) -> Float[Tensor, "batch 3 height width"]:
    """Return photos sharpened by what the bilinear weights of a splat are about to blur.

    A shift by a fraction f of a pixel adds ``f (1 − f) / 2`` second differences; they are taken
    off beforehand. Otherwise a loop flashes sharp whenever it comes back to the photo.
    """
    fraction = motion - motion.floor()
    across, down = (fraction * (1 - fraction) / 2).split(1, dim=1)
    padded = functional.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2] - 2 * image
    columns = padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1] - 2 * image
    return image - across * rows - down * columns
