"""Splatting in plain PyTorch, to be read beside the equation; runs on every device.

A plan holds, for every source pixel and each of the four pixels around its landing point, the
flat index of that target and the source's share of it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["ReferencePlan"]


def _corners(
    motion: Float[Tensor, "batch 2 height width"],
) -> tuple[Int[Tensor, "batch 4 pixels"], Float[Tensor, "batch 4 pixels"]]:
    """Return flat target indices and bilinear weights of the four corners.

    Corners outside the image, and all corners of a non-finite displacement, get weight 0:
    clamping them onto the border would pile wrong colours up there.
    """
    height, width = motion.shape[-2:]
    motion = torch.where(motion.isfinite().all(1, keepdim=True), motion, -2 * (height + width))
    x = motion[:, 0] + torch.arange(width, device=motion.device)
    y = motion[:, 1] + torch.arange(height, device=motion.device)[:, None]
    left, top = x.detach().floor(), y.detach().floor()
    right_share, bottom_share = x - left, y - top
    columns = torch.stack([left, left + 1, left, left + 1], dim=1)
    rows = torch.stack([top, top, top + 1, top + 1], dim=1)
    weights = torch.stack(
        [
            (1 - right_share) * (1 - bottom_share),
            right_share * (1 - bottom_share),
            (1 - right_share) * bottom_share,
            right_share * bottom_share,
        ],
        dim=1,
    )
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    index = torch.where(inside, columns, 0).long() + width * torch.where(inside, rows, 0).long()
    return index.flatten(-2), torch.where(inside, weights, 0).flatten(-2)


def _softmax_factors(metric: Tensor, index: Tensor, bilinear: Tensor) -> Tensor:
    """Return exp(Z − max of Z arriving at the same target), ``(B, 4, H·W)``."""
    arriving = metric.flatten(1)[:, None].expand(index.shape)
    arriving = torch.where(bilinear > 0, arriving, -torch.inf)
    # The maximum cancels in the quotient, so no gradient flows through it.
    largest = torch.full_like(metric.detach().flatten(1), -torch.inf)
    largest.scatter_reduce_(1, index.flatten(1), arriving.detach().flatten(1), "amax")
    shift = largest.gather(1, index.flatten(1)).view_as(index)
    return (arriving - torch.where(shift.isfinite(), shift, 0)).exp()


class ReferencePlan:
    """Where every source pixel lands, and with which share of each target.

    Args:
        motion: Displacement in px, ``(B, 2, H, W)``.
        metric: Z, ``(B, 1, H, W)``, or none.
        mode: One of ``splat.MODES``.
    """

    def __init__(self, motion: Tensor, metric: Tensor | None, mode: str) -> None:
        self._size = motion.shape[-2:]
        self._index, self._bilinear = _corners(motion)
        weights = self._bilinear
        if mode == "linear":
            weights = weights * metric.flatten(1)[:, None]
        elif mode == "softmax" and metric is not None:
            weights = weights * _softmax_factors(metric, self._index, weights)
        if mode != "sum":
            total = torch.zeros_like(weights[:, 0])
            total.scatter_add_(1, self._index.flatten(1), weights.flatten(1))
            total = torch.where(total == 0, 1, total)
            weights = weights / total.gather(1, self._index.flatten(1)).view_as(weights)
        self._shares = weights

    def splat(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the features at the target, 0 in holes."""
        return self._add_up(features, self._shares)

    def coverage(self) -> Float[Tensor, "batch 1 height width"]:
        """Return the total bilinear share that each target received."""
        ones = self._bilinear.new_ones(len(self._index), 1, *self._size)
        return self._add_up(ones, self._bilinear)

    def _add_up(self, features: Tensor, shares: Tensor) -> Tensor:
        flat = features.flatten(2)
        out = torch.zeros_like(flat)
        for corner in range(4):
            target = self._index[:, corner, None].expand_as(flat)
            out.scatter_add_(2, target, flat * shares[:, corner, None])
        return out.view_as(features)
