"""The splat of CPU tensors by compiled loops, with exact gradients; the results of `reference`.

The work is cut for as many threads as PyTorch uses; the result does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from gidlite.splat.threads import run

__all__ = ["CompiledPlan", "available", "supports"]

_CHANNELS = 4  # of a task: their planes fit the cache of one core
_ROWS = 32  # of a task at least, as bands of target rows share the sources at their borders
_PIXELS = 1 << 13  # of an operation at least, or other threads cost more than they bring
_LARGEST_RANGE = 600.0  # of Z: exp(-600) times a tiny bilinear share still has an inverse


@cache
def available() -> bool:
    """Return whether numba can be imported."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


def supports(motion: Tensor, metric: Tensor | None) -> bool:
    """Return whether the loops take these: on the CPU, of one real type, at least 2×2 pixels.

    The metric must span less than 600, infinities excluded: exp(Z − largest Z) is taken in float64
    for each source pixel, not for each of its targets.
    """
    if motion.device.type != "cpu" or motion.dtype not in (torch.float32, torch.float64):
        return False
    if min(motion.shape[-2:]) < 2 or motion[:, 0].numel() >= 2**31 or not available():
        return False
    if metric is None:
        return True
    smallest, largest = metric.detach().aminmax()
    same = (metric.dtype, metric.device) == (motion.dtype, motion.device)
    return same and bool(largest - smallest < _LARGEST_RANGE)


class CompiledPlan:
    """Where every source pixel lands, and with which share of each target.

    Args:
        motion: Displacement in px, ``(B, 2, H, W)``.
        metric: Z, ``(B, 1, H, W)``, or none.
        mode: One of ``splat.MODES``.
    """

    def __init__(self, motion: Tensor, metric: Tensor | None, mode: str) -> None:
        mode = "average" if mode == "softmax" and metric is None else mode
        self._size = motion.shape[-2:]
        self._bilinear, shares, self._base, self._reach = _Plan.apply(motion, metric, mode)
        self._shares = self._bilinear if shares is None else shares

    def splat(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the features at the target, 0 in holes."""
        return _Move.apply(features, self._shares, self._base, self._reach)

    def coverage(self) -> Float[Tensor, "batch 1 height width"]:
        """Return the total bilinear share that each target received."""
        ones = self._bilinear.new_ones(len(self._base), 1, *self._size)
        return _Move.apply(ones, self._bilinear, self._base, self._reach)


def _run(function: Callable, images: Iterable[tuple], size: Iterable[int]) -> None:
    """Call ``function(*image, first row, last row)`` until all rows of all images are done."""
    images, (height, width) = list(images), size
    threads = torch.get_num_threads() if len(images) * height * width >= _PIXELS else 1
    # More parts than threads, as the cores may be busy with other work too.
    parts = min(-(-4 * threads // len(images)), -(-height // _ROWS)) if threads > 1 else 1
    edges = [part * height // parts for part in range(parts + 1)]
    tasks = [(*image, *rows) for image in images for rows in pairwise(edges)]
    run(function, tasks, threads=threads)


def _images(*tensors: Tensor) -> Iterator[tuple[np.ndarray, ...]]:
    return zip(*(tensor.detach().numpy() for tensor in tensors), strict=True)


def _channel_groups(*tensors: Tensor, channels: int) -> Iterator[tuple]:
    """Yield the arrays of every image, with the first and last channel of every group."""
    for image in _images(*tensors):
        for channel in range(0, channels, _CHANNELS):
            yield (*image, channel, min(channel + _CHANNELS, channels))


class _Plan(torch.autograd.Function):
    """Motion (B, 2, H, W), metric → bilinear shares, shares (B, N, 4), base (B, N), reach."""

    @staticmethod
    def forward(ctx, motion: Tensor, metric: Tensor | None, mode: str):
        from gidlite.splat import kernels

        ctx.mode = getattr(kernels, mode.upper())
        motion, size = motion.contiguous(), motion.shape[-2:]
        batch, pixels = len(motion), size.numel()
        bilinear, shares = motion.new_empty(batch, pixels, 4), None
        base = motion.new_empty(batch, pixels, dtype=torch.int32)
        reach = motion.new_empty(batch, size[0], 2, dtype=torch.int32)
        factors = scale = motion.new_empty(batch, 0, dtype=torch.float64)
        _run(kernels.locate, _images(motion, base, bilinear, reach), size)
        if metric is not None:  # PyTorch's exp computes several values at once
            factors = metric.flatten(1).to(torch.float64, copy=True).contiguous()
        if mode == "softmax":
            factors.sub_(factors.amax(1, keepdim=True)).exp_()
        if mode != "sum":
            scale = motion.new_empty(batch, pixels, dtype=torch.float64)
            shares = torch.empty_like(bilinear)
            arrays = _images(bilinear, factors, base, reach, scale)
            _run(kernels.normalize, ((*image, ctx.mode) for image in arrays), size)
            arrays = _images(bilinear, factors, base, reach, scale, shares)
            _run(kernels.share_out, ((*image, ctx.mode) for image in arrays), size)
        ctx.save_for_backward(motion, base, reach, factors, scale, shares)
        ctx.mark_non_differentiable(base, reach)
        ctx.set_materialize_grads(False)
        return bilinear, shares, base, reach

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_bilinear: Tensor | None, grad_shares: Tensor | None, *_):
        from gidlite.splat import kernels

        motion, base, reach, factors, scale, shares = ctx.saved_tensors
        size, nothing = motion.shape[-2:], motion.new_empty(len(motion), 0, 4)
        mode, with_bilinear, mean = ctx.mode, grad_bilinear is not None, scale
        grad_bilinear = nothing if grad_bilinear is None else grad_bilinear.contiguous()
        if grad_shares is None:
            mode, grad_shares = kernels.SUM, nothing
        else:
            mean, grad_shares = torch.empty_like(scale), grad_shares.contiguous()
            _run(kernels.mean_gradients, _images(shares, grad_shares, base, reach, mean), size)
        grad_motion = torch.empty_like(motion)
        grad_metric = torch.empty_like(motion[:, :1], memory_format=torch.contiguous_format)
        arrays = _images(
            motion, factors, base, scale, mean, grad_shares, grad_bilinear, grad_motion,
            grad_metric.flatten(1),
        )  # fmt: skip
        _run(kernels.plan_gradients, ((*image, mode, with_bilinear) for image in arrays), size)
        return grad_motion, grad_metric if ctx.needs_input_grad[1] else None, None


class _Move(torch.autograd.Function):
    """Features (B, C, H, W), shares → Σ share · feature at each target."""

    @staticmethod
    def forward(ctx, features, shares, base, reach) -> Tensor:
        from gidlite.splat import kernels

        features = features.contiguous()
        out = torch.empty_like(features)
        arrays = features.flatten(2), shares, base, reach, out.flatten(2)
        groups = _channel_groups(*arrays, channels=features.shape[1])
        _run(kernels.scatter, groups, features.shape[-2:])
        ctx.save_for_backward(features, shares, base, reach)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor):
        from gidlite.splat import kernels

        features, shares, base, reach = ctx.saved_tensors
        grad_features, grad_shares = torch.empty_like(features), None
        arrays = grad_out.contiguous().flatten(2), shares, base, reach, grad_features.flatten(2)
        if ctx.needs_input_grad[1]:
            grad_shares = torch.empty_like(shares)
            images = _images(*arrays, features.flatten(2), grad_shares)
            _run(kernels.gather_both, images, features.shape[-2:])
        else:
            groups = _channel_groups(*arrays, channels=features.shape[1])
            _run(kernels.gather, groups, features.shape[-2:])
        return grad_features if ctx.needs_input_grad[0] else None, grad_shares, None, None
