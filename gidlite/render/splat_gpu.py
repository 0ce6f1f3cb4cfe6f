"""The splat on a GPU: Triton kernels, and what makes them differentiable.

Sources that share a target add to it in any order, so the last digits of two runs differ. Where
PyTorch is told to be deterministic, it does the splat itself.

Beside the motion (B, 2, H, W), of 2×2 pixels or more, the kernels read up to three (B, 1, H, W):

    metric   Z of a source, or 1
    largest  largest Z that arrives at a target; None if the factors are Z, not exp(Z − largest)
    total    Σ bilinear · factor that arrives at a target, 1 where that is 0; None in a sum
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from subprocess import SubprocessError

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from gidlite.render.splat import ReferencePlan

_PIXELS, _CHANNELS = tl.constexpr(128), tl.constexpr(16)  # of one program


def _kernel(function: Callable):
    return triton.jit(inspect.unwrap(function))  # type checkers wrap it


@_kernel
def _block(batch, channels, height, width):
    """Return pixels of (B, 1, H, W), which exist; the way to channels of (B, C, H, W), alike."""
    i = tl.program_id(0) * _PIXELS + tl.arange(0, _PIXELS)
    c = tl.program_id(1) * _CHANNELS + tl.arange(0, _CHANNELS)[:, None]
    here, pixels = i < batch * height * width, height * width
    way = (i // pixels * (channels - 1) + c).to(tl.int64) * pixels
    return i, here, way, here & (c < channels)


@_kernel
def _split(start, shift, size, second: tl.constexpr):
    """Return the first or second cell around start + shift, its share, the slope of the share."""
    cell = start + tl.floor(shift)
    # The pair stays inside: a cell that is outside gives way to one that gets no share.
    cell = tl.where(cell > 0, tl.where(cell < size - 2, cell, size - 2), 0) + second
    way = shift - (cell - start)  # start + shift could lose digits; NaN is in no range
    rises, falls = (way >= -1) & (way < 0), (way >= 0) & (way < 1)
    share = tl.where(rises, 1 + way, tl.where(falls, 1 - way, 0))
    return cell.to(tl.int32), share, tl.where(rises, 1, tl.where(falls, -1, 0))


@_kernel
def _corner(motion, metric, largest, total, i, here, height, width, k: tl.constexpr):
    """Return target k of source i, the share that goes there, its slopes in x, y and Z."""
    p = i % (height * width)
    x = tl.load(motion + 2 * i - p, here, 0)
    y = tl.load(motion + 2 * i - p + height * width, here, 0)
    column, across, slope_x = _split(p % width, x, width, k % 2)
    line, down, slope_y = _split(p // width, y, height, k // 2)
    q, factor = i - p + line * width + column, tl.load(metric + i, here, 0)
    bilinear = across * down
    slope_z = bilinear
    if largest is not None:
        # A corner without a share takes no part in the maximum: its factor may be boundless.
        factor = tl.where(bilinear > 0, tl.exp(factor - tl.load(largest + q, here, 0)), 0)
        slope_z = bilinear * factor
    whole = 1.0 if total is None else tl.load(total + q, here, 1)
    # Divided last, as the share of the only source must be 1: its gradient is a difference to it.
    slope_x, slope_y = slope_x * down * factor / whole, across * slope_y * factor / whole
    return q, bilinear * factor / whole, slope_x, slope_y, slope_z / whole


@_kernel
def _find_largest(motion, metric, largest, batch, channels, height, width):
    i, here, _, _ = _block(batch, channels, height, width)
    z = tl.load(metric + i, here)
    for k in tl.static_range(4):
        q, _, _, _, bilinear = _corner(motion, metric, None, None, i, here, height, width, k)
        tl.atomic_max(largest + q, z, here & (bilinear > 0), sem="relaxed")


@_kernel
def _scatter(features, motion, metric, largest, total, out, batch, channels, height, width):
    i, here, way, exists = _block(batch, channels, height, width)
    feature = tl.load(features + way + i, exists)
    for k in tl.static_range(4):
        q, share, _, _, _ = _corner(motion, metric, largest, total, i, here, height, width, k)
        tl.atomic_add(out + way + q, share * feature, exists & (share != 0), sem="relaxed")


@_kernel
def _scatter_backward(
    features, motion, metric, largest, total, grad_out, grad, slopes, batch, channels, height, width
):
    """Fill the gradient of the features; add to slopes those of the shares and their means."""
    i, here, way, exists = _block(batch, channels, height, width)
    feature, count = tl.load(features + way + i, exists, 0), batch * height * width
    grad_feature = tl.zeros_like(feature)
    for k in tl.static_range(4):
        q, share, _, _, _ = _corner(motion, metric, largest, total, i, here, height, width, k)
        arriving = tl.load(grad_out + way + q, exists, 0)
        grad_feature += share * arriving
        slope = tl.sum(feature * arriving, 0)
        tl.atomic_add(slopes + k * count + i, slope, here, sem="relaxed")
        tl.atomic_add(slopes + 4 * count + q, share * slope, here & (share != 0), sem="relaxed")
    tl.store(grad + way + i, grad_feature, exists)


@_kernel
def _share_backward(
    motion, metric, largest, total, slopes, grad_motion, grad_metric, batch, channels, height, width
):
    i, here, _, _ = _block(batch, channels, height, width)
    count, first = batch * height * width, 2 * i - i % (height * width)
    grad_x = tl.full([_PIXELS], 0, motion.dtype.element_ty)
    grad_y, grad_z = grad_x, grad_x
    for k in tl.static_range(4):
        q, _, x, y, z = _corner(motion, metric, largest, total, i, here, height, width, k)
        slope = tl.load(slopes + k * count + i, here)
        if total is not None:
            slope -= tl.load(slopes + 4 * count + q, here)
        grad_x += slope * x
        grad_y += slope * y
        grad_z += slope * z
    tl.store(grad_motion + first, grad_x, here)
    tl.store(grad_motion + first + height * width, grad_y, here)
    tl.store(grad_metric + i, grad_z, here)


def _run(kernel, size: torch.Size, *arrays: Tensor | None) -> None:
    """Call a kernel for all values of a picture (B, C, H, W)."""
    pixels, channels = size[0] * size[2:].numel(), size[1]
    grid = triton.cdiv(pixels, _PIXELS.value), triton.cdiv(channels, _CHANNELS.value)
    with torch.cuda.device_of(arrays[0]):  # which need not be the current one
        kernel[grid](*arrays, *size)


@cache
def _starts() -> bool:
    try:
        return bool(triton.runtime.driver.active.get_current_target())
    except (OSError, RuntimeError, SubprocessError):  # no C compiler to build what starts kernels
        return False


def supports(motion: Tensor, metric: Tensor | None) -> bool:
    """Return whether the kernels take these: on a GPU, 2×2 pixels or more, in any order."""
    alike = motion.is_cuda and (metric is None or metric.device == motion.device)
    fits = min(motion.shape[-2:]) >= 2 and motion.numel() < 2**29  # indices have 31 bits
    return alike and fits and not torch.are_deterministic_algorithms_enabled() and _starts()


class CompiledPlan(ReferencePlan):
    """The same in Triton kernels."""

    def __init__(self, motion: Tensor, metric: Tensor | None, mode: str) -> None:
        self._motion, largest, total = motion.contiguous(), None, None
        ones = torch.ones_like(self._motion[:, :1])
        if mode == "softmax" and metric is not None:
            largest = torch.full_like(ones, torch.finfo(motion.dtype).min)
            _run(_find_largest, ones.shape, self._motion, metric.contiguous(), largest)
        metric = ones if metric is None else metric.contiguous()
        if mode != "sum":
            total = _Scatter.apply(ones, self._motion, metric, largest, None).detach()
            total.masked_fill_(total == 0, 1)
        self._bilinear, self._shares = (ones, None, None), (metric, largest, total)

    def _add_up(self, features: Tensor, shares: tuple[Tensor | None, ...]) -> Tensor:
        return _Scatter.apply(features.contiguous(), self._motion, *shares)


class _Scatter(torch.autograd.Function):
    """Features (B, C, H, W), motion, metric, largest, total → Σ share · feature at each target."""

    @staticmethod
    def forward(ctx, features, *plan) -> Tensor:
        out = torch.zeros_like(features)
        _run(_scatter, features.shape, features, *plan, out)
        ctx.save_for_backward(features, *plan)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor):
        features, *plan = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in (features, *plan[:2])]
        slopes = grad_out.new_zeros(5, *plan[1].shape)  # of the shares of corners; of totals
        given = features, *plan, grad_out.contiguous(), grads[0], slopes
        _run(_scatter_backward, features.shape, *given)
        _run(_share_backward, plan[1].shape, *plan, slopes, *grads[1:])
        return *grads, None, None
