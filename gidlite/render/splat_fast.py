"""The splat on a CPU: compiled loops, and what makes them differentiable.

Iterations of a ``prange`` run at the same time, each for rows of its own. A band of target rows
visits the source rows that reach it in order, so threads do not change results.

Arrays of B images of H×W ≥ 2×2 pixels; b are bilinear shares, w = exp(Z), Z or 1:

    factors   (B, H, W) float64  w of a source; of exp(Z), times a number that cancels
    reach     (B, H, 2) int32    smallest and largest line above which a source row lands
    place     (W,) int32         where on a plane the first of four targets is; -1 if nowhere
    shares    (4, W) float64     b of it, of the one right of it, and of the two below
    sums      (4, ·) float64     planes of a band, flat: Σ b·w, or Σ b·w·I of a channel
    scale     plane of float64   1 / Σ b·w at a target, 1 where that is 0
    mean      plane of float64   gradient of the output, times the output, over all channels
    padded    plane for each C   gradient of the output

Planes are a pixel wider on each side than what they stand for. What lands there is not looked at,
and has no gradient.
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

_TINY = 1e-300  # a total below it counts as nothing: its inverse would overflow
_SUMS = 1 << 15  # values on a plane: four planes of one band fit the cache of one core
_ROWS = 32  # of a band at least, as bands share the sources at their borders
_LITTLE = 1 << 15  # values: with fewer, other threads cost more than they bring
# Of Z, as one exp(Z − middle of Z) serves all targets: exp(±300) still has an inverse.
_LARGEST_RANGE = 600.0
_PROCESS = os.getpid()  # threads do not survive a fork
_ONE_AT_A_TIME = Lock()  # without OpenMP, numba's threads serve only one caller
_ONE = np.uint64(1)  # an index that may be negative costs two instructions more


def _compiled(function: Callable) -> Callable:
    """Compile for all cores, and keep the machine code if a folder is writable."""
    function = inspect.unwrap(function)  # type checkers wrap it
    options = {"parallel": True, "nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither the package nor the home folder can hold a cache
        return numba.njit(function, **options)


def _inlined(function: Callable) -> Callable:
    return numba.njit(inspect.unwrap(function), inline="always")


@_compiled
def survey(motion, reach):
    """Fill the reach from the motion (B, 2, H, W)."""
    batch, _, height, width = motion.shape
    for row in numba.prange(batch * height):
        b, y = row // height, row % height
        lowest, highest = height, -2
        for x in range(width):
            line = np.floor(y + np.float64(motion[b, 1, y, x]))
            if line >= -1 and line < height:  # not if NaN
                lowest = min(lowest, int(line))
                highest = max(highest, int(line))
        reach[b, y, 0], reach[b, y, 1] = lowest, highest


@_inlined
def _land(motion, y, first, last, place, shares):
    """Fill place and shares of a row of sources, on planes for target rows first to last - 1."""
    width = motion.shape[-1]
    for x in range(width):
        # In float64, or displacements far from the origin would lose digits.
        column, line = x + np.float64(motion[0, y, x]), y + np.float64(motion[1, y, x])
        left, top = np.floor(column), np.floor(line)
        lands = left >= -1 and left < width and top >= first - 1 and top < last  # not if NaN
        right, down = (column - left, line - top) if lands else (0.0, 0.0)
        place[x] = int((top - first + 1) * (width + 2) + left + 1) if lands else -1
        shares[0, x], shares[1, x] = (1 - right) * (1 - down), right * (1 - down)
        shares[2, x], shares[3, x] = (1 - right) * down, right * down


@_inlined
def _add_one(place, shares, values, sums, below):
    """Add a row of values (W,) to their plane."""
    for x in range(len(place)):
        if place[x] >= 0:
            q, value = np.uint64(place[x]), values[x]
            sums[q] += shares[0, x] * value
            sums[q + _ONE] += shares[1, x] * value
            sums[q + below] += shares[2, x] * value
            sums[q + below + _ONE] += shares[3, x] * value


@_inlined
def _add_four(place, shares, values, sums, below):
    """Add four rows at once: additions to the same target wait for each other."""
    one, two, three, four = sums[0], sums[1], sums[2], sums[3]
    for x in range(len(place)):
        if place[x] < 0:
            continue
        q, right = np.uint64(place[x]), np.uint64(place[x]) + _ONE
        s, t, u, w = shares[0, x], shares[1, x], shares[2, x], shares[3, x]
        v1, v2, v3, v4 = values[0, x], values[1, x], values[2, x], values[3, x]
        one[q] += s * v1
        one[right] += t * v1
        one[q + below] += u * v1
        one[right + below] += w * v1
        two[q] += s * v2
        two[right] += t * v2
        two[q + below] += u * v2
        two[right + below] += w * v2
        three[q] += s * v3
        three[right] += t * v3
        three[q + below] += u * v3
        three[right + below] += w * v3
        four[q] += s * v4
        four[right] += t * v4
        four[q + below] += u * v4
        four[right + below] += w * v4


@_compiled
def scatter(features, factors, motion, reach, out, scale, parts, rows, normalise):
    """Fill, for features and output (B, C, H, W), the output and, to normalise, the scale."""
    batch, channels, height, width = features.shape
    wide = width + 2
    for job in numba.prange(batch * parts):
        b, part = job // parts, job % parts
        place, shares = np.empty(width, np.int32), np.empty((4, width))
        values, sums = np.zeros((4, width)), np.zeros((4, (rows + 2) * wide))
        end = (part + 1) * height // parts
        for first in range(part * height // parts, end, rows):
            last = min(first + rows, end)
            # Kind 0 is Σ b·w, of no use to a sum.
            for start in range(0 if normalise else 1, channels + 1, 4):
                kinds = range(start, min(start + 4, channels + 1))
                sums[: len(kinds)] = 0
                for y in range(height):
                    if reach[b, y, 1] < first - 1 or reach[b, y, 0] >= last:
                        continue
                    _land(motion[b], y, first, last, place, shares)
                    for c in kinds:
                        for x in range(width):
                            value = factors[b, y, x]
                            values[c - start, x] = value * features[b, c - 1, y, x] if c else value
                    if len(kinds) > 2:
                        _add_four(place, shares, values, sums, np.uint64(wide))
                    else:
                        for c in range(len(kinds)):
                            _add_one(place, shares, values[c], sums[c], np.uint64(wide))
                for y in range(first, last):
                    row = (y - first + 1) * wide + 1
                    for c in kinds:
                        arrived = sums[c - start, row : row + width]
                        for x in range(width):
                            if c > 0:
                                out[b, c - 1, y, x] = arrived[x] * scale[b, y + 1, x + 1]
                            else:
                                total = arrived[x] if abs(arrived[x]) > _TINY else 1
                                scale[b, y + 1, x + 1] = 1 / total


@_compiled
def pad_gradient(grad_out, out, padded, mean, normalise):
    """Fill the padded gradient (B, C, H + 2, W + 2) of the output, and the mean."""
    batch, channels, height, width = out.shape
    for row in numba.prange(batch * (height + 2)):
        b, y = row // (height + 2), row % (height + 2)
        total = np.zeros(width + 2)
        padded[b, :, y] = 0
        if 0 < y <= height:
            for c in range(channels):
                for x in range(width):
                    value = grad_out[b, c, y - 1, x]
                    padded[b, c, y, x + 1] = value
                    if normalise:
                        total[x + 1] += np.float64(value) * out[b, c, y - 1, x]
        mean[b, y] = total


@_compiled
def scatter_backward(
    features, factors, motion, scale, padded, mean, grad_features, grad_motion, grad_metric, softmax
):
    """Fill the gradients of features, motion and metric (B, H, W)."""
    batch, channels, height, width = features.shape
    below = np.uint64(width + 2)
    for row in numba.prange(batch * height):
        b, y = row // height, row % height
        place, shares = np.empty(width, np.int32), np.empty((4, width))
        scales, grad_shares = np.zeros((4, width)), np.zeros((4, width))
        weights = np.zeros((4, width), features.dtype)
        _land(motion[b], y, 0, height, place, shares)
        for k in range(4):
            corner = np.uint64(k & 1) + np.uint64(k >> 1) * below
            for x in range(width):
                if place[x] >= 0:
                    q = np.uint64(place[x]) + corner
                    grad_shares[k, x], scales[k, x] = -mean[b, q], scale[b, q]
                    weights[k, x] = shares[k, x] * factors[b, y, x] * scale[b, q]
        for c in range(0, channels, 2):
            # An odd last channel is looked at twice and counted once.
            d, twice = min(c + 1, channels - 1), c + 1 < channels
            one, two = padded[b, c], padded[b, d]
            for x in range(width):
                if place[x] < 0:
                    grad_features[b, c, y, x] = grad_features[b, d, y, x] = 0
                    continue
                q, p = np.uint64(place[x]), np.uint64(place[x]) + below
                f0, f1, f2, f3 = one[q], one[q + _ONE], one[p], one[p + _ONE]
                g0, g1, g2, g3 = two[q], two[q + _ONE], two[p], two[p + _ONE]
                w0, w1, w2, w3 = weights[0, x], weights[1, x], weights[2, x], weights[3, x]
                v, w = np.float64(features[b, c, y, x]), np.float64(features[b, d, y, x]) * twice
                grad_features[b, c, y, x] = w0 * f0 + w1 * f1 + w2 * f2 + w3 * f3
                grad_features[b, d, y, x] = w0 * g0 + w1 * g1 + w2 * g2 + w3 * g3
                grad_shares[0, x] += v * f0 + w * g0
                grad_shares[1, x] += v * f1 + w * g1
                grad_shares[2, x] += v * f2 + w * g2
                grad_shares[3, x] += v * f3 + w * g3
        for k in range(4):
            for x in range(width):
                # A corner without a share takes no part in softmax: its factor may be boundless.
                counts = shares[k, x] > 0 or not softmax
                grad_shares[k, x] *= scales[k, x] if counts else 0
        for x in range(width):
            s0, s1, s2, s3 = shares[0, x], shares[1, x], shares[2, x], shares[3, x]
            g0, g1 = grad_shares[0, x], grad_shares[1, x]
            g2, g3 = grad_shares[2, x], grad_shares[3, x]
            factor = factors[b, y, x]
            grad_motion[b, 0, y, x] = factor * ((s0 + s1) * (g1 - g0) + (s2 + s3) * (g3 - g2))
            grad_motion[b, 1, y, x] = factor * ((s0 + s2) * (g2 - g0) + (s1 + s3) * (g3 - g1))
            grad = s0 * g0 + s1 * g1 + s2 * g2 + s3 * g3
            grad_metric[b, y, x] = grad * factor if softmax else grad


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


def supports(motion: Tensor, metric: Tensor | None) -> bool:
    """Return whether the loops take these: on the CPU, 2×2 pixels or more, Z spans under 600."""
    size = motion.shape[-2:]
    if not motion.is_cpu or min(size) < 2 or size.numel() >= 2**30 or os.getpid() != _PROCESS:
        return False
    if metric is None:
        return True
    smallest, largest = metric.detach().aminmax()
    return metric.is_cpu and bool(largest - smallest < _LARGEST_RANGE)


class CompiledPlan:
    """The same in compiled loops, which read motion and metric again at every call."""

    def __init__(self, motion: Tensor, metric: Tensor | None, mode: str) -> None:
        self._motion, self._metric = motion.contiguous(), metric
        self._mode = "average" if mode == "softmax" and metric is None else mode
        if metric is None:
            self._factors = torch.ones_like(motion[:, 0], dtype=torch.float64)
        else:
            self._factors = metric.detach()[:, 0].double().contiguous()
        if self._mode == "softmax":
            smallest, largest = metric.detach().aminmax()
            self._factors = (self._factors - (smallest.double() + largest) / 2).exp_()
        self._reach = motion.new_empty(*motion.shape[::2], 2, dtype=torch.int32)
        _run(survey, self._motion, self._reach)

    def splat(self, features: Tensor) -> Tensor:
        """Return the features ``(B, C, H, W)`` at the target, 0 in holes."""
        plan = self._motion, self._metric, self._factors, self._reach, self._mode
        return _Splat.apply(features.contiguous(), *plan)

    def coverage(self) -> Tensor:
        """Return the total bilinear share that each target received, ``(B, 1, H, W)``."""
        ones = torch.ones_like(self._motion[:, :1])
        return _Splat.apply(ones, self._motion, None, ones[:, 0].double(), self._reach, "sum")


class _Splat(torch.autograd.Function):
    """Features, motion, metric, and what a plan knows of them → features at the target."""

    @staticmethod
    def forward(ctx, features, motion, metric, factors, reach, mode: str) -> Tensor:
        batch, height, width = factors.shape
        scale = factors.new_full((batch, height + 2, width + 2), float(mode == "sum"))
        out, threads = torch.empty_like(features), torch.get_num_threads()
        parts = max(1, min(threads // math.gcd(batch, threads), height // _ROWS))
        rows = max(_ROWS, min(_SUMS // width, -(-height // parts)))
        ctx.mode = mode
        arrays = features, factors, motion, reach, out, scale
        _run(scatter, *arrays, parts=parts, rows=rows, normalise=mode != "sum")
        ctx.save_for_backward(features, factors, motion, out, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out: Tensor):
        features, factors, motion, out, scale = ctx.saved_tensors
        batch, channels, height, width = features.shape
        padded = features.new_empty(batch, channels, height + 2, width + 2)
        mean = torch.empty_like(scale)
        arrays = grad_out.contiguous(), out, padded, mean
        _run(pad_gradient, *arrays, normalise=ctx.mode != "sum")
        grads = [features.new_empty(x.shape) for x in (features, motion, factors)]
        arrays = features, factors, motion, *(x.flatten(-2) for x in (scale, padded, mean)), *grads
        _run(scatter_backward, *arrays, softmax=ctx.mode == "softmax")
        grad_metric = None if ctx.mode in ("average", "sum") else grads[2][:, None]
        return *grads[:2], grad_metric, None, None, None
