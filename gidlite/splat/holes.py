"""What a splat leaves empty, filled from around it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["fill_holes"]

# Farther ahead than this, a pixel counts for nothing where another one is behind it.
_FARTHEST_AHEAD = 18.0
_NOTHING = 1e-12


def fill_holes(
    picture: Float[Tensor, "batch channels height width"],
    coverage: Float[Tensor, "batch 1 height width"],
    ahead: Float[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, "batch channels height width"]:
    """Fill pixels that nothing landed on by averages over the smallest covered neighbourhood.

    Halve the covered colours until no hole is left, then come back, using the coarser level only
    where the finer one has a hole. What is uncovered lies behind what moved away, so neighbours
    count by ``exp(-ahead)``.

    Args:
        picture: After a splat.
        coverage: Of the splat, 0 in a hole.
        ahead: The metric, splatted: larger is nearer. Neighbours count alike if not given.
    """
    weight = coverage.clamp(max=1)
    # Elsewhere than on the CPU, looking for holes costs more than filling none.
    if weight.is_cpu and (weight > 0.999).all():
        return picture
    trust = weight if ahead is None else weight * torch.exp(-ahead.clamp(0, _FARTHEST_AHEAD))
    return _fill(picture, weight, trust)[0]


def _fill(picture: Tensor, weight: Tensor, trust: Tensor) -> tuple[Tensor, Tensor]:
    """Fill where ``weight`` is below 1, neighbours counting by ``trust``; return both, filled."""
    if min(picture.shape[-2:]) < 2 or (weight.is_cpu and (weight > 0.999).all()):
        return picture, trust
    total = _halve(trust)
    coarse = _halve(picture * trust) / total.clamp(min=_NOTHING)
    coarse, total = _fill(coarse, (4 * _halve(weight)).clamp(max=1), total)
    # Cells keep their place whatever the size, so that tiles of a photo are filled alike.
    near = _double(total, picture)
    smooth = _double(coarse * total, picture) / near.clamp(min=_NOTHING)
    return torch.lerp(smooth, picture, weight), torch.lerp(near, trust, weight)


def _halve(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def _double(x: Tensor, like: Tensor) -> Tensor:
    large = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return large[..., : like.shape[-2], : like.shape[-1]]
