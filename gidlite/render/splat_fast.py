"""The loops of the compiled splat; numba turns each into machine code when it is first called.

Every function fills rows ``first`` to ``last`` (excluded) of its output, so that bands of rows can
be given to different threads. To fill source rows is to gather from the targets; to fill target
rows is to visit, in order, all source rows that reach the band. Either way each value is summed in
one order, whatever the bands, and no two threads write to the same place.

Arrays of one image of H×W ≥ 2×2, flat in space, N = H·W:

    base      (N,) int32    upper left of the four targets of a source; -1 if it lands nowhere
    bilinear  (N, 4)        share of a source that goes to base, base+1, base+W, base+W+1
    reach     (H, 2) int32  smallest and largest base of a source row; (N, -1) if it lands nowhere
    factors   (N,) float64  what multiplies the bilinear shares of a source
    scale     (N,) float64  1 / Σ bilinear · factor that arrives at a target, 1 where that is 0
    shares    (N, 4)        bilinear · factor · scale of the target

A corner outside the picture has share 0: base is moved inside and the shares change places.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

SUM, AVERAGE, LINEAR, SOFTMAX = range(4)
_TINY = 1e-300  # a total below it counts as nothing: its inverse would overflow


def _compiled(function):
    """Compile without the interpreter lock, and keep the machine code if a folder is writable."""
    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # neither the package nor the home folder can hold a cache
        return numba.njit(function, nogil=True)


@numba.njit(inline="always")
def _split(position, size):
    """Return the first cell, the shares of it and the next, their slopes; cell -1 if outside."""
    if not (position >= -1 and position < size):  # also true of NaN
        return -1, 0.0, 0.0, 0.0, 0.0
    floor = math.floor(position)
    cell, far = int(floor), position - floor
    if cell < 0:
        return 0, far, 0.0, 1.0, 0.0
    if cell == size - 1:
        return size - 2, 0.0, 1 - far, 0.0, -1.0
    return cell, 1 - far, far, -1.0, 1.0


@_compiled
def locate(motion, base, bilinear, reach, first, last):
    """Fill source rows of base, bilinear and reach from the motion (2, H, W)."""
    height, width = motion.shape[1:]
    for y in range(first, last):
        lowest, highest = height * width, -1
        for x in range(width):
            # In float64, or displacements far from the origin would lose digits.
            column, left, right, _, _ = _split(x + np.float64(motion[0, y, x]), width)
            row, upper, lower, _, _ = _split(y + np.float64(motion[1, y, x]), height)
            p, target = y * width + x, row * width + column
            if column < 0 or row < 0:
                base[p] = -1
                bilinear[p] = 0
                continue
            base[p] = target
            bilinear[p, 0], bilinear[p, 1] = left * upper, right * upper
            bilinear[p, 2], bilinear[p, 3] = left * lower, right * lower
            lowest, highest = min(lowest, target), max(highest, target)
        reach[y, 0], reach[y, 1] = lowest, highest


@_compiled
def normalize(bilinear, factors, base, reach, scale, mode, first, last):
    """Fill target rows of the scale."""
    height, width = reach.shape[0], base.shape[0] // reach.shape[0]
    start, stop = first * width, last * width
    scale[start:stop] = 0
    for y in range(height):
        if reach[y, 1] + width < start or reach[y, 0] >= stop:
            continue
        for p in range(y * width, (y + 1) * width):
            factor = 1.0 if mode == AVERAGE else factors[p]
            for k in range(0, 4, 2):
                q = base[p] + k // 2 * width
                if base[p] >= 0 and start <= q < stop:
                    scale[q] += bilinear[p, k] * factor
                    scale[q + 1] += bilinear[p, k + 1] * factor
    for q in range(start, stop):
        scale[q] = 1 / scale[q] if abs(scale[q]) > _TINY else 1


@_compiled
def share_out(bilinear, factors, base, reach, scale, shares, mode, first, last):
    """Fill source rows of the shares."""
    width = base.shape[0] // reach.shape[0]
    for p in range(first * width, last * width):
        factor, t = 1.0 if mode == AVERAGE else factors[p], max(base[p], 0)
        shares[p, 0] = bilinear[p, 0] * factor * scale[t]
        shares[p, 1] = bilinear[p, 1] * factor * scale[t + 1]
        shares[p, 2] = bilinear[p, 2] * factor * scale[t + width]
        shares[p, 3] = bilinear[p, 3] * factor * scale[t + width + 1]


@_compiled
def scatter(features, shares, base, reach, out, channel, channels, first, last):
    """Fill target rows of channels ``channel`` to ``channels`` (excluded) of ``out`` (C, N)."""
    height, width = reach.shape[0], base.shape[0] // reach.shape[0]
    start, stop = first * width, last * width
    for c in range(channel, channels):
        out[c, start:stop] = 0
    for y in range(height):
        if reach[y, 1] + width < start or reach[y, 0] >= stop:
            continue
        # Only a row that reaches beyond the band must look where each pixel goes.
        whole = reach[y, 0] >= start and reach[y, 1] + width < stop
        row = slice(y * width, (y + 1) * width)
        targets, share = base[row], shares[row]
        for c in range(channel, channels):
            values, upper = features[c, row], out[c]
            lower = upper[width:]
            for x in range(width):
                t, value = targets[x], values[x]
                if t >= 0 and (whole or start <= t < stop):
                    upper[t] += share[x, 0] * value
                    upper[t + 1] += share[x, 1] * value
                if t >= 0 and (whole or start <= t + width < stop):
                    lower[t] += share[x, 2] * value
                    lower[t + 1] += share[x, 3] * value


@_compiled
def gather(grad_out, shares, base, reach, grad_features, channel, channels, first, last):
    """Fill source rows of the gradient of the features from that of the output, both (C, N)."""
    width = base.shape[0] // reach.shape[0]
    for y in range(first, last):
        row = slice(y * width, (y + 1) * width)
        targets, share = base[row], shares[row]
        for c in range(channel, channels):
            upper, out = grad_out[c], grad_features[c, row]
            lower = upper[width:]
            for x in range(width):
                t = targets[x]
                if t < 0:
                    out[x] = 0
                    continue
                out[x] = (
                    share[x, 0] * upper[t]
                    + share[x, 1] * upper[t + 1]
                    + share[x, 2] * lower[t]
                    + share[x, 3] * lower[t + 1]
                )


@_compiled
def gather_both(grad_out, shares, base, reach, grad_features, features, grad_shares, first, last):
    """Fill source rows of the gradients of features and shares from that of the output."""
    width = base.shape[0] // reach.shape[0]
    for y in range(first, last):
        row = slice(y * width, (y + 1) * width)
        targets, share, grad_share = base[row], shares[row], grad_shares[row]
        grad_share[:] = 0
        for c in range(len(features)):
            values, upper, out = features[c, row], grad_out[c], grad_features[c, row]
            lower = upper[width:]
            for x in range(width):
                t, value = targets[x], values[x]
                if t < 0:
                    out[x] = 0
                    continue
                g0, g1, g2, g3 = upper[t], upper[t + 1], lower[t], lower[t + 1]
                out[x] = share[x, 0] * g0 + share[x, 1] * g1 + share[x, 2] * g2 + share[x, 3] * g3
                grad_share[x, 0] += value * g0
                grad_share[x, 1] += value * g1
                grad_share[x, 2] += value * g2
                grad_share[x, 3] += value * g3


@_compiled
def mean_gradients(shares, grad_shares, base, reach, mean, first, last):
    """Fill target rows of the mean gradient of the shares that arrive, weighted by them."""
    height, width = reach.shape[0], base.shape[0] // reach.shape[0]
    start, stop = first * width, last * width
    mean[start:stop] = 0
    for y in range(height):
        if reach[y, 1] + width < start or reach[y, 0] >= stop:
            continue
        for p in range(y * width, (y + 1) * width):
            for k in range(0, 4, 2):
                q = base[p] + k // 2 * width
                if base[p] >= 0 and start <= q < stop:
                    mean[q] += shares[p, k] * grad_shares[p, k]
                    mean[q + 1] += shares[p, k + 1] * grad_shares[p, k + 1]


@_compiled
def plan_gradients(
    motion, factors, base, scale, mean, grad_shares, grad_bilinear, grad_motion, grad_metric,
    mode, with_bilinear, first, last,
):  # fmt: skip
    """Fill source rows of the gradients of motion and metric.

    The gradient of bilinear · factor is (gradient of the share − mean gradient at the target) ·
    scale; ``with_bilinear`` says that bilinear shares got a gradient of their own as well.
    """
    height, width = motion.shape[1:]
    for y in range(first, last):
        for x in range(width):
            p, grad_x, grad_y, grad_factor = y * width + x, 0.0, 0.0, 0.0
            grad_motion[0, y, x] = grad_motion[1, y, x] = grad_metric[p] = 0
            if base[p] < 0:
                continue
            factor = factors[p] if mode > AVERAGE else 1.0
            _, left, right, d_left, d_right = _split(x + np.float64(motion[0, y, x]), width)
            _, upper, lower, d_upper, d_lower = _split(y + np.float64(motion[1, y, x]), height)
            for k in range(4):
                share_x, d_share_x = (right, d_right) if k & 1 else (left, d_left)
                share_y, d_share_y = (lower, d_lower) if k & 2 else (upper, d_upper)
                slope = np.float64(grad_bilinear[p, k]) if with_bilinear else 0.0
                # A corner without a share takes no part in softmax: its factor may be boundless.
                if mode != SUM and (mode != SOFTMAX or share_x * share_y > 0):
                    q = base[p] + (k & 1) + (k >> 1) * width
                    weight_slope = (grad_shares[p, k] - mean[q]) * scale[q]
                    grad_factor += share_x * share_y * weight_slope
                    slope += factor * weight_slope
                grad_x += slope * d_share_x * share_y
                grad_y += slope * share_x * d_share_y
            grad_motion[0, y, x], grad_motion[1, y, x] = grad_x, grad_y
            grad_metric[p] = grad_factor * factor if mode == SOFTMAX else grad_factor


_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(function: Callable, tasks: Iterable[tuple], *, threads: int) -> None:
    """Call ``function(*task)`` for every task; an error is raised when the others have ended."""
    tasks, errors = list(tasks), []
    waiting = iter(tasks)  # taking the next of a list iterator is atomic

    def work(*_) -> None:
        try:
            for task in waiting:
                function(*task)
        except BaseException as error:
            errors.append(error)

    threads = min(threads, len(tasks))
    if threads <= 1:
        work()
    elif openmp := _openmp_of_torch():
        openmp(_Work(work), None, threads, 0)
    else:
        pool = _pool(os.getpid(), threads - 1)
        others = [pool.submit(work) for _ in range(threads - 1)]
        work()
        for other in others:
            other.result()
    if errors:
        raise errors[0]


@cache
def _openmp_of_torch() -> Callable | None:
    """Return ``GOMP_parallel(work, data, threads, flags)`` of the OpenMP that torch runs on.

    GNU's library has it, and LLVM's and Intel's imitate it. Elsewhere than on Linux: none.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        parallel = ctypes.CDLL(str(library)).GOMP_parallel  # found among its dependencies
    except (AttributeError, OSError):
        return None
    parallel.argtypes = (_Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # One per process, as threads do not survive a fork.
    return ThreadPoolExecutor(threads, thread_name_prefix="splat")


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
        from gidlite.render import splat_fast as kernels

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
        from gidlite.render import splat_fast as kernels

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
        from gidlite.render import splat_fast as kernels

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
        from gidlite.render import splat_fast as kernels

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
