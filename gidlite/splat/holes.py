"""What a splat leaves empty, filled from around it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["fill_holes"]


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
    smooth = functional.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    # Cells keep their place whatever the size, so that tiles of a photo are filled alike.
    smooth = smooth[..., : picture.shape[-2], : picture.shape[-1]]
    return torch.lerp(smooth, picture, weight)
