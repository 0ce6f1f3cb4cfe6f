"""The splat on a CPU: compiled loops, and what makes them differentiable.

Iterations of a ``prange`` run at the same time, each for a row of sources or a band of targets of
its own. A band visits the rows that reach it in order, so threads do not change results.

Arrays of B images of H×W ≥ 2×2 pixels, flat in space, N = H·W:

    base      (B, N) int32     upper left of the four targets of a source; -1 if it lands nowhere
    bilinear  (B, N, 4)        share of a source that goes to base, base+1, base+W, base+W+1
    reach     (B, H, 2) int32  smallest and largest base of a source row; N and -1 if nowhere
    factors   (B, N) float64   what multiplies the bilinear shares of a source
    scale     (B, N) float64   1 / Σ bilinear · factor that arrives at a target, 1 where that is 0
    shares    (B, N, 4)        bilinear · factor · scale of the target

A corner outside the picture has share 0: base is moved inside and the shares change places.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from threading import Lock

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gidlite.errors import require
from gidlite.render.splat import ReferencePlan

_TINY = 1e-300  # a total below it counts as nothing: its inverse would overflow
_CHANNELS = 4  # scattered together: their planes fit the cache of one core
_ROWS = 32  # of a band at least, as bands share the sources at their borders
_LITTLE = 1 << 15  # values: with fewer, other threads cost more than they bring
# Of Z, as exp(Z − largest Z) is the same for all targets: exp(-600) still has an inverse.
_LARGEST_RANGE = 600.0
_PROCESS = os.getpid()  # threads do not survive a fork
_ONE_AT_A_TIME = Lock()  # without OpenMP, numba's threads serve only one caller


def _compiled(function: Callable) -> Callable:
    """Compile for all cores, and keep the machine code if a folder is writable."""
    function = inspect.unwrap(function)  # type checkers wrap it
    try:
        return numba.njit(function, parallel=True, nogil=True, cache=True)
    except RuntimeError:  # neither the package nor the home folder can hold a cache
        return numba.njit(function, parallel=True, nogil=True)


def _inlined(function: Callable) -> Callable:
    return numba.njit(inspect.unwrap(function), inline="always")


@_inlined
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
def locate(motion, base, bilinear, reach):
    """Fill base, bilinear and reach from the motion (B, 2, H, W)."""
    batch, _, height, width = motion.shape
    for row in numba.prange(batch * height):
        b, y = row // height, row % height
        lowest, highest = height * width, -1
        for x in range(width):
            # In float64, or displacements far from the origin would lose digits.
            column, left, right, _, _ = _split(x + np.float64(motion[b, 0, y, x]), width)
            line, upper, lower, _, _ = _split(y + np.float64(motion[b, 1, y, x]), height)
            p, target = y * width + x, line * width + column
            bilinear[b, p, 0], bilinear[b, p, 1] = left * upper, right * upper
            bilinear[b, p, 2], bilinear[b, p, 3] = left * lower, right * lower
            base[b, p] = -1
            if column >= 0 and line >= 0:
                base[b, p] = target
                lowest, highest = min(lowest, target), max(highest, target)
        reach[b, y, 0], reach[b, y, 1] = lowest, highest


@_compiled
def locate_backward(motion, grad_bilinear, grad_motion):
    """Fill the gradient of the motion from that of the bilinear shares."""
    batch, _, height, width = motion.shape
    for row in numba.prange(batch * height):
        b, y = row // height, row % height
        for x in range(width):
            _, left, right, d_left, d_right = _split(x + np.float64(motion[b, 0, y, x]), width)
            _, upper, lower, d_upper, d_lower = _split(y + np.float64(motion[b, 1, y, x]), height)
            g0, g1, g2, g3 = grad_bilinear[b, y * width + x]
            above, below = g0 * d_left + g1 * d_right, g2 * d_left + g3 * d_right
            grad_motion[b, 0, y, x] = above * upper + below * lower
            above, below = g0 * left + g1 * right, g2 * left + g3 * right
            grad_motion[b, 1, y, x] = above * d_upper + below * d_lower


@_compiled
def add_up(first, second, base, reach, total, bands):
    """Add to total, for each target, Σ first · second, both (B, N, 4), that arrives there."""
    batch, height = reach.shape[:2]
    width = base.shape[1] // height
    for job in numba.prange(batch * bands):
        b, band = job // bands, job % bands
        start, stop = band * height // bands * width, (band + 1) * height // bands * width
        for y in range(height):
            if reach[b, y, 1] + width < start or reach[b, y, 0] >= stop:
                continue
            for p in range(y * width, (y + 1) * width):
                for k in range(0, 4, 2):
                    q = base[b, p] + k // 2 * width
                    if base[b, p] >= 0 and start <= q < stop:
                        total[b, q] += first[b, p, k] * second[b, p, k]
                        total[b, q + 1] += first[b, p, k + 1] * second[b, p, k + 1]


@_compiled
def share_out(bilinear, factors, base, reach, scale, shares):
    """Fill the shares."""
    batch, height = reach.shape[:2]
    width = base.shape[1] // height
    for row in numba.prange(batch * height):
        b, y = row // height, row % height
        for p in range(y * width, (y + 1) * width):
            for k in range(4):
                q = max(base[b, p], 0) + (k & 1) + (k >> 1) * width
                shares[b, p, k] = bilinear[b, p, k] * factors[b, p] * scale[b, q]


@_compiled
def share_out_backward(
    bilinear, factors, base, reach, scale, mean, grad_shares, grad_bilinear, grad_metric, softmax
):
    """Fill the gradients of bilinear shares and metric from that of the shares."""
    batch, height = reach.shape[:2]
    width = base.shape[1] // height
    for row in numba.prange(batch * height):
        b, y = row // height, row % height
        for p in range(y * width, (y + 1) * width):
            grad_factor = 0.0
            for k in range(4):
                q = max(base[b, p], 0) + (k & 1) + (k >> 1) * width
                slope = (grad_shares[b, p, k] - mean[b, q]) * scale[b, q]  # of bilinear · factor
                # A corner without a share takes no part in softmax: its factor may be boundless.
                if base[b, p] < 0 or (softmax and bilinear[b, p, k] == 0):
                    slope = 0.0
                grad_bilinear[b, p, k] = slope * factors[b, p]
                grad_factor += slope * bilinear[b, p, k]
            grad_metric[b, p] = grad_factor * factors[b, p] if softmax else grad_factor


@_compiled
def scatter(features, shares, base, reach, out, bands):
    """Add to out, for each target, Σ share · feature, for features and output (B, C, N)."""
    batch, channels, _ = features.shape
    height = reach.shape[1]
    width, groups = base.shape[1] // height, -(-channels // _CHANNELS)
    for job in numba.prange(batch * groups * bands):
        b, group, band = job // bands // groups, job // bands % groups, job % bands
        some = range(group * _CHANNELS, min(group * _CHANNELS + _CHANNELS, channels))
        start, stop = band * height // bands * width, (band + 1) * height // bands * width
        for y in range(height):
            if reach[b, y, 1] + width < start or reach[b, y, 0] >= stop:
                continue
            # Only a row that reaches beyond the band must look where each pixel goes.
            whole = reach[b, y, 0] >= start and reach[b, y, 1] + width < stop
            row = slice(y * width, (y + 1) * width)
            targets, share = base[b, row], shares[b, row]
            for c in some:
                values, upper = features[b, c, row], out[b, c]
                lower = upper[width:]
                for x in range(width):
                    q, value = targets[x], values[x]
                    if q >= 0 and (whole or start <= q < stop):
                        upper[q] += share[x, 0] * value
                        upper[q + 1] += share[x, 1] * value
                    if q >= 0 and (whole or start <= q + width < stop):
                        lower[q] += share[x, 2] * value
                        lower[q + 1] += share[x, 3] * value


@_compiled
def scatter_backward(features, shares, base, reach, grad_out, grad_features, grad_shares):
    """Add the gradients of features and shares from that of the output."""
    batch, channels, _ = features.shape
    height = reach.shape[1]
    width = base.shape[1] // height
    for line in numba.prange(batch * height):
        b, y = line // height, line % height
        row = slice(y * width, (y + 1) * width)
        targets, share, grad_share = base[b, row], shares[b, row], grad_shares[b, row]
        for c in range(channels):
            values, upper, out = features[b, c, row], grad_out[b, c], grad_features[b, c, row]
            lower = upper[width:]
            for x in range(width):
                q, value = targets[x], values[x]
                if q < 0:
                    continue
                g0, g1, g2, g3 = upper[q], upper[q + 1], lower[q], lower[q + 1]
                out[x] = share[x, 0] * g0 + share[x, 1] * g1 + share[x, 2] * g2 + share[x, 3] * g3
                grad_share[x, 0] += value * g0
                grad_share[x, 1] += value * g1
                grad_share[x, 2] += value * g2
                grad_share[x, 3] += value * g3


def _run(loop: Callable, *arrays: Tensor, **options: int) -> None:
    """Call a compiled loop with as many threads as torch has, or one if there is little to do."""
    little = max(array.numel() for array in arrays) < _LITTLE
    threads = min(1 if little else torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    # Numba's threads do not survive a fork: waiting for them would never end.
    forked = "a splat plan was made before a fork; make it anew in the forked process"
    require(os.getpid() == _PROCESS, forked)
    with _ONE_AT_A_TIME:
        before = numba.get_num_threads()
        try:
            numba.set_num_threads(threads)
            loop(*(array.detach().numpy() for array in arrays), *options.values())
        finally:
            numba.set_num_threads(before)


def _bands(reach: Tensor, groups: int = 1) -> int:
    """Return into how many bands of target rows to divide each image, or each of its groups."""
    wanted = -(-4 * torch.get_num_threads() // (len(reach) * groups))
    return max(1, min(wanted, reach.shape[1] // _ROWS))


def supports(motion: Tensor, metric: Tensor | None) -> bool:
    """Return whether the loops take these: on the CPU, 2×2 pixels or more, Z spans under 600."""
    size = motion.shape[-2:]
    if not motion.is_cpu or min(size) < 2 or size.numel() >= 2**31 or os.getpid() != _PROCESS:
        return False
    if metric is None:
        return True
    smallest, largest = metric.detach().aminmax()
    return metric.is_cpu and bool(largest - smallest < _LARGEST_RANGE)


class CompiledPlan(ReferencePlan):
    """The same in compiled loops."""

    def __init__(self, motion: Tensor, metric: Tensor | None, mode: str) -> None:
        self._motion = motion
        self._bilinear, *self._targets = _Locate.apply(motion.contiguous())
        self._shares = self._bilinear
        if mode != "sum":
            softmax = mode == "softmax" and metric is not None
            metric = torch.ones_like(motion[:, :1]) if metric is None else metric
            self._shares = _ShareOut.apply(self._bilinear, metric, *self._targets, softmax)

    def _add_up(self, features: Tensor, shares: Tensor) -> Tensor:
        flat = features.flatten(2).contiguous()
        return _Scatter.apply(flat, shares, *self._targets).view_as(features)


class _Locate(torch.autograd.Function):
    """Motion (B, 2, H, W) → bilinear shares, base, reach."""

    @staticmethod
    def forward(ctx, motion: Tensor):
        batch, _, height, width = motion.shape
        bilinear = motion.new_empty(batch, height * width, 4)
        base = motion.new_empty(batch, height * width, dtype=torch.int32)
        reach = motion.new_empty(batch, height, 2, dtype=torch.int32)
        _run(locate, motion, base, bilinear, reach)
        ctx.save_for_backward(motion)
        return bilinear, base, reach

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_bilinear: Tensor, *_):
        (motion,) = ctx.saved_tensors
        grad_motion = torch.empty_like(motion)
        _run(locate_backward, motion, grad_bilinear.contiguous(), grad_motion)
        return grad_motion


class _ShareOut(torch.autograd.Function):
    """Bilinear shares, metric (B, 1, H, W) → shares."""

    @staticmethod
    def forward(ctx, bilinear, metric, base, reach, softmax: bool) -> Tensor:
        factors = metric.flatten(1).double()
        if softmax:
            factors = (factors - factors.amax(1, keepdim=True)).exp_()
        shares, total = torch.empty_like(bilinear), torch.zeros_like(factors)
        corners = factors[..., None].expand(bilinear.shape)
        _run(add_up, bilinear, corners, base, reach, total, bands=_bands(reach))
        scale = torch.where(total.abs() > _TINY, total, 1).reciprocal_()
        _run(share_out, bilinear, factors, base, reach, scale, shares)
        ctx.save_for_backward(bilinear, factors, base, reach, scale, shares)
        ctx.softmax, ctx.size = softmax, metric.shape
        return shares

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_shares: Tensor):
        *plan, shares = ctx.saved_tensors
        bilinear, factors, base, reach, _ = plan
        grad_shares, mean = grad_shares.contiguous(), torch.zeros_like(factors)
        _run(add_up, shares, grad_shares, base, reach, mean, bands=_bands(reach))
        grads = torch.empty_like(bilinear), bilinear.new_empty(factors.shape)
        _run(share_out_backward, *plan, mean, grad_shares, *grads, softmax=ctx.softmax)
        return grads[0], grads[1].view(ctx.size), None, None, None


class _Scatter(torch.autograd.Function):
    """Features (B, C, N), shares → Σ share · feature at each target."""

    @staticmethod
    def forward(ctx, features, shares, base, reach) -> Tensor:
        out = torch.zeros_like(features)
        groups = -(-features.shape[1] // _CHANNELS)
        _run(scatter, features, shares, base, reach, out, bands=_bands(reach, groups))
        ctx.save_for_backward(features, shares, base, reach)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor):
        plan = ctx.saved_tensors
        grads = [torch.zeros_like(tensor) for tensor in plan[:2]]
        _run(scatter_backward, *plan, grad_out.contiguous(), *grads)
        return *grads, None, None
