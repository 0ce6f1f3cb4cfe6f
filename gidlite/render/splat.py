"""Forward warping by splatting: sum, average, linear and softmax, written from the equation.

Each source pixel p lands at p + F(p); the four pixels q around it get bilinear shares b(q, p):

    out(q) = Σ_p b(q, p) w(p) I(p) / Σ_p b(q, p) w(p),

where w = 1 (average), w = Z (linear) or w = exp(Z) (softmax); "sum" leaves out the denominator.
``ReferencePlan`` says it in PyTorch; ``splat_fast`` is faster on a CPU, ``splat_gpu`` on a GPU.

Source: the softmax splatting equation of Niklaus and Liu 2020, used by Li et al. 2024, section 5.
Departure: softmax is shift invariant, so the largest Z *arriving at each target* is subtracted.
One global shift underflows where a region's Z lies far below the maximum elsewhere (lesson 08).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from gidlite.errors import check_shape, require

Mode = Literal["softmax", "average", "linear", "sum"]
MODES = get_args(Mode)
Features = Num[Tensor, "batch channels height width"]
Motion = Num[Tensor, "batch 2 height width"]
Metric = Num[Tensor, "batch 1 height width"]


class SplatPlan:
    """Where every source pixel lands and how it mixes: made once, for any number of feature maps.

    Differentiable in motion and metric, which every call reads anew, and features. Compiled once,
    for some seconds, and without second derivatives: on a CPU, unless the metric spans 600 or more,
    and on a GPU with Triton; else by PyTorch. In single precision, or double if the motion is.

    Args:
        motion: Displacement (dx right, dy down) of each source pixel, in px of this resolution.
        metric: Z, decides collisions: larger wins. Softmax without one equals average; required
            and non-negative for "linear"; not allowed for "average" and "sum".
        mode: How colliding pixels are combined.

    Raises:
        ShapeError: If shapes, also those of the features of a call, do not agree.
        GidliteError: If the mode is unknown, or its metric is missing or superfluous.
    """

    def __init__(
        self, motion: Motion, *, metric: Metric | None = None, mode: Mode = "softmax"
    ) -> None:
        require(mode in MODES, f"splat mode {mode!r} is unknown; use one of {', '.join(MODES)}")
        if mode == "linear":
            require(metric is not None, "splat mode 'linear' needs a metric; or use 'average'")
        elif mode != "softmax":
            needless = f"splat mode {mode!r} ignores the metric; use 'softmax' or 'linear'"
            require(metric is None, needless)
        check_shape("motion", motion, "batch 2 height width")
        self._size = motion.shape
        self._dtype = motion.dtype if motion.is_floating_point() else torch.float32
        # Half precision would round where a pixel lands.
        self._precise = torch.promote_types(self._dtype, torch.float32)
        metric = None if metric is None else self._checked("metric", metric, 1)
        self._plan = _make_plan(motion.to(self._precise), metric, mode)

    def __call__(self, features: Features) -> Float[Tensor, "batch channels height width"]:
        """Return the features at the target, 0 in holes, in the floating type of the motion."""
        features = self._checked("features", features, "channels")
        return self._plan.splat(features).to(self._dtype)

    def coverage(self) -> Float[Tensor, "batch 1 height width"]:
        """Return the total bilinear weight each target received, ≥ 0; 0 in a hole."""
        return self._plan.coverage().to(self._dtype)

    def _checked(self, name: str, tensor: Tensor, channels: int | str) -> Tensor:
        batch, _, height, width = self._size
        axes = f"{batch} {channels} {height} {width}"
        check_shape(name, tensor, axes, hint="it must match the motion")
        return tensor.to(self._precise)


def splat(
    features: Features,
    motion: Motion,
    *,
    metric: Metric | None = None,
    mode: Mode = "softmax",
    return_coverage: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return features, and on demand the coverage, of a ``SplatPlan`` that is used once.

    Examples:
        >>> import torch
        >>> image = torch.arange(3.0).view(1, 1, 1, 3)
        >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3)
        >>> [x.flatten().tolist() for x in splat(image, right, return_coverage=True)]
        [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    """
    plan = SplatPlan(motion, metric=metric, mode=mode)
    warped = plan(features)
    return (warped, plan.coverage()) if return_coverage else warped


def _make_plan(motion: Tensor, metric: Tensor | None, mode: str):
    """Return a compiled plan where one serves, of PyTorch elsewhere."""
    try:  # both are slow to import
        if motion.is_cuda:
            from gidlite.render import splat_gpu as fast
        else:
            from gidlite.render import splat_fast as fast
    except ImportError:  # no Triton, or numba does not fit the NumPy or the Python installed
        return ReferencePlan(motion, metric, mode)
    kind = fast.CompiledPlan if fast.supports(motion, metric) else ReferencePlan
    return kind(motion, metric, mode)


def _corners(
    motion: Motion,
) -> tuple[Int[Tensor, "batch 4 pixels"], Float[Tensor, "batch 4 pixels"]]:
    """Return flat target indices and bilinear weights of the four corners.

    Corners outside the image, and all those of a non-finite displacement, get weight 0.
    """
    height, width = motion.shape[-2:]
    motion = torch.where(motion.isfinite().all(1, keepdim=True), motion, -2 * (height + width))
    x = motion[:, 0] + torch.arange(width, device=motion.device)
    y = motion[:, 1] + torch.arange(height, device=motion.device)[:, None]
    left, top = x.detach().floor(), y.detach().floor()
    columns = torch.stack([left, left + 1], dim=1)[:, None]
    rows = torch.stack([top, top + 1], dim=1)[:, :, None]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    index = torch.where(inside, columns, 0).long() + width * torch.where(inside, rows, 0).long()
    across = torch.stack([1 - (x - left), x - left], dim=1)[:, None]
    down = torch.stack([1 - (y - top), y - top], dim=1)[:, :, None]
    weights = torch.where(inside, across * down, 0)
    return index.flatten(3).flatten(1, 2), weights.flatten(3).flatten(1, 2)


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
    """Bilinear shares, and with them shares of each target: in PyTorch, term by term."""

    def __init__(self, motion: Tensor, metric: Tensor | None, mode: str) -> None:
        self._motion = motion
        self._index, self._bilinear = _corners(motion)
        weights = self._bilinear
        if mode == "linear":
            weights = weights * metric.flatten(1)[:, None]
        elif mode == "softmax" and metric is not None:
            weights = weights * _softmax_factors(metric, self._index, weights)
        if mode != "sum":
            index = self._index.flatten(1)
            total = torch.zeros_like(weights[:, 0]).scatter_add_(1, index, weights.flatten(1))
            total = torch.where(total == 0, 1, total)
            weights = weights / total.gather(1, index).view_as(weights)
        self._shares = weights

    def splat(self, features: Tensor) -> Tensor:
        """Return the features ``(B, C, H, W)`` at the target, 0 in holes."""
        return self._add_up(features, self._shares)

    def coverage(self) -> Tensor:
        """Return the total bilinear share that each target received, ``(B, 1, H, W)``."""
        return self._add_up(torch.ones_like(self._motion[:, :1]), self._bilinear)

    def _add_up(self, features: Tensor, shares: Tensor) -> Tensor:
        flat = features.flatten(2)
        out = torch.zeros_like(flat)
        for corner in range(4):
            target = self._index[:, corner, None].expand_as(flat)
            out.scatter_add_(2, target, flat * shares[:, corner, None])
        return out.view_as(features)
