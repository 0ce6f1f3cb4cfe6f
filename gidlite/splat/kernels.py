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

import math

import numba
import numpy as np

__all__ = [
    "AVERAGE",
    "LINEAR",
    "SOFTMAX",
    "SUM",
    "gather",
    "gather_both",
    "locate",
    "mean_gradients",
    "normalize",
    "plan_gradients",
    "scatter",
    "share_out",
]

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
