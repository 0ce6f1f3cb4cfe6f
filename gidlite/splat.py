"""Forward warping by splatting: sum, average, linear and softmax, written from the equation.

Each source pixel p lands at p + F(p) and is shared bilinearly among the four pixels around it;
with b(q, p) that bilinear share and w(p) a weight per source pixel,

    out(q) = Σ_p b(q, p) w(p) I(p) / Σ_p b(q, p) w(p),

where w = 1 (average), w = Z (linear) or w = exp(Z) (softmax); "sum" leaves out the denominator.

Source: the softmax splatting equation of Niklaus and Liu 2020, used by Li et al. 2024, section 5.
Departure: softmax is shift invariant, so the largest Z *arriving at each target* is subtracted.
One global shift underflows where a region's Z lies far below the maximum elsewhere (notebook 06).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gidlite._checks import GidliteError, ShapeError, check_shape

__all__ = ["MODES", "splat"]

MODES = ("softmax", "average", "linear", "sum")


def _corners(motion: Tensor) -> tuple[Tensor, Tensor]:
    """Return flat target indices and bilinear weights of the four corners, ``(B, 4, H·W)``.

    Corners outside the image, and all corners of a non-finite displacement, get weight 0:
    clamping them onto the border would pile wrong colours up there.
    """
    height, width = motion.shape[-2:]
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
    index = torch.where(inside, rows * width + columns, 0).long()
    return index.flatten(-2), torch.where(inside, weights, 0).flatten(-2)


def _softmax_weights(metric: Tensor, index: Tensor, corner_weights: Tensor) -> Tensor:
    """Return exp(Z − max of Z arriving at the same target), ``(B, 4, H·W)``."""
    arriving = metric.flatten(1)[:, None].expand(index.shape)
    arriving = torch.where(corner_weights > 0, arriving, -torch.inf)
    # The maximum cancels in the quotient, so no gradient flows through it.
    largest = torch.full_like(metric.detach().flatten(1), -torch.inf)
    largest.scatter_reduce_(1, index.flatten(1), arriving.detach().flatten(1), "amax")
    shift = largest.gather(1, index.flatten(1)).view_as(index)
    return (arriving - torch.where(shift.isfinite(), shift, 0)).exp()


def splat(
    features: Float[Tensor, "batch channels height width"],
    motion: Float[Tensor, "batch 2 height width"],
    *,
    metric: Float[Tensor, "batch 1 height width"] | None = None,
    mode: Literal["softmax", "average", "linear", "sum"] = "softmax",
    return_coverage: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Move every source pixel along its displacement; differentiable in all three tensors.

    Args:
        features: What to move.
        motion: Displacement (dx right, dy down) of each source pixel, in px of this resolution.
        metric: Z, decides collisions: larger wins. Softmax without one equals average; required
            and non-negative for "linear"; not allowed for "average" and "sum".
        mode: How colliding pixels are combined.
        return_coverage: Also return the total bilinear weight each target received, 0 in a hole.

    Returns:
        Features at the target, 0 in holes, ``(batch, channels, height, width)``; with
        ``return_coverage`` also the coverage ``(batch, 1, height, width)``, ≥ 0.

    Raises:
        ShapeError: If shapes do not agree.
        GidliteError: If the mode is unknown, or its metric is missing or superfluous.

    Example:
        >>> image = torch.arange(3.0).view(1, 1, 1, 3)
        >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> splat(image, right, mode="average").flatten().tolist()
        [0.0, 0.0, 1.0]
    """
    _check_arguments(features, motion, metric, mode)
    index, corner_weights = _corners(motion)
    weights = corner_weights
    if mode == "linear":
        weights = corner_weights * metric.flatten(1)[:, None]
    elif mode == "softmax" and metric is not None:
        weights = corner_weights * _softmax_weights(metric, index, corner_weights)

    flat = features.flatten(2)
    total = torch.zeros_like(flat)
    normalizer = flat.new_zeros(flat.shape[0], flat.shape[2])
    for corner in range(4):
        target, weight = index[:, corner], weights[:, corner]
        total = total.scatter_add(2, target[:, None].expand_as(flat), flat * weight[:, None])
        normalizer = normalizer.scatter_add(1, target, weight)
    if mode != "sum":
        total = total / torch.where(normalizer == 0, 1, normalizer)[:, None]
    warped = total.view_as(features)
    if not return_coverage:
        return warped
    coverage = torch.zeros_like(normalizer).scatter_add(
        1, index.flatten(1), corner_weights.flatten(1)
    )
    return warped, coverage.view(features.shape[0], 1, *features.shape[-2:])


def _check_arguments(features: Tensor, motion: Tensor, metric: Tensor | None, mode: str) -> None:
    if mode not in MODES:
        raise GidliteError(f"splat mode {mode!r} is unknown; use one of {', '.join(MODES)}")
    check_shape("features", features, "batch channels height width")
    batch, _, height, width = features.shape
    expected = {"motion": (motion, (batch, 2, height, width))}
    if metric is not None:
        expected["metric"] = (metric, (batch, 1, height, width))
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ShapeError(
                f"expected {name} of shape {shape} to match the features, got {tuple(tensor.shape)}"
            )
    if mode == "linear" and metric is None:
        raise GidliteError("splat mode 'linear' needs a metric; pass one or use 'average'")
    if mode in ("average", "sum") and metric is not None:
        raise GidliteError(f"splat mode {mode!r} ignores the metric; use 'softmax' or 'linear'")
