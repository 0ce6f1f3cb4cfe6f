"""Measures: how alike two motions are, how well scores rank, how far apart features lie.

Spectral volumes are in px, their bin 0 (the mean pose) never counts, and what is undefined is NaN.
Compare pictures by ``torchmetrics.functional.image``, with ``data_range=1.0``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Complex, Float, Num, Shaped
from rich.table import Table
from rich.text import Text
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from gidlite.errors import check_shape, plain, require

Volume = Complex[Tensor, "freq 2 height width"]
Mask = Bool[Tensor, "height width"]
Field = Float[Tensor, "*batch 2 height width"]
Power = Float[Tensor, " freq"]
Features = Float[Tensor, "_ features"]
Counts = Num[Tensor, " samples"]
Row = Sequence[Any]
_RESAMPLES = 1000  # of the bootstrap
_TWO_SAMPLES = "a distance needs two samples on either side at least; give more videos"


def auc(score: Float[Tensor, "*shape"], positive: Bool[Tensor, "*shape"]) -> float:
    """Return the area under the ROC curve: how often a positive outranks a negative; ties half.

    NaN if all or none are positive, or if a score is not finite.
    """
    _same_shape("positive", positive, score)
    if positive.all() or not positive.any() or not score.isfinite().all():
        return math.nan
    return float(roc_auc_score(positive.flatten().tolist(), score.flatten().tolist()))


def endpoint_error(motion: Field, truth: Field) -> float:
    """Return the mean Euclidean distance between two displacement fields, in px."""
    _same_shape("motion", motion, truth)
    return (motion - truth).norm(dim=-3).mean().item()


def relative_difference(first: Volume, second: Volume) -> float:
    """Return the RMS difference of two spectral volumes over their RMS.

    0 for equal volumes, √2 ≈ 1.41 for unrelated ones of equal power, 2 for opposite ones.
    """
    check_shape("first", first, "freq 2 height width")
    _same_shape("second", second, first)
    power = [field[1:].abs().double().square().sum() for field in (first - second, first, second)]
    return (2 * power[0] / (power[1] + power[2])).sqrt().item()


def log_spectral_distance(first: Power, second: Power, *, match_level: bool = False) -> float:
    """Return the mean over bins k ≥ 1 of ``|10 log10(P1_k / P2_k)|``, in dB.

    With ``match_level``, their mean difference is taken off first: the difference in shape is left.
    Infinite if a bin is empty in one spectrum alone.
    """
    check_shape("first", first, "freq")
    _same_shape("second", second, first)
    require(len(first) >= 2, "a power spectrum needs at least 2 bins, got 1")
    decibels = 10 * (first[1:].double().log10() - second[1:].double().log10())
    if match_level and decibels.isfinite().all():
        decibels = decibels - decibels.mean()
    return decibels.abs().mean().item()


def correlation_length(spectral: Volume, mask: Mask, *, max_lag: int = 32) -> float:
    """Return the distance in px over which motion stays alike: its correlation falls to 1/2.

    It is ``Re Σ S(p)* S(q) / sqrt(Σ|S(p)|² Σ|S(q)|²)`` over bins, components and pairs of masked
    pixels a lag apart along a row or a column, linear between whole lags. Lengths are capped at
    ``max_lag`` and at the last lag that has a pair. Resampling and flow smooth, and lengthen it.
    """
    _check_field(spectral, mask, bins=2)
    field, before = spectral[1:] * mask, 1.0
    for lag in range(1, max_lag + 1):
        here = _correlation(field, mask, lag)
        if math.isnan(here):
            return lag - 1.0 if lag > 1 else math.nan
        if here <= 0.5:
            return lag - 1 + (before - 0.5) / (before - here)
        before = here
    return float(max_lag)


def _correlation(field: Tensor, mask: Tensor, lag: int) -> float:
    """Return the correlation of a field that is 0 outside the mask; NaN if there is no pair."""
    together = near_power = far_power = 0.0
    for axis in (-1, -2):
        near, far = _neighbours(field, lag, axis)
        pair = torch.logical_and(*_neighbours(mask, lag, axis))
        together += (near.real * far.real + near.imag * far.imag).sum().item()
        near_power += (near.abs().square() * pair).sum().item()
        far_power += (far.abs().square() * pair).sum().item()
    bound = math.sqrt(near_power * far_power)
    return together / bound if bound > 0 else math.nan


def bin_agreement(spectral: Volume, mask: Mask, *, double_angle: bool = False) -> float:
    """Return how well neighbouring bins agree on the direction in which a pixel moves, in [0, 1].

    Directions are the principal axes of the 2×2 covariance of (dx, dy). The measure is ``|cos|`` of
    the angle between bins k and k + 1, averaged over masked pixels and bins with weight
    |S_k| |S_{k+1}|. A swing along one line scores 1, independent directions 2/π ≈ 0.64. With
    ``double_angle`` it is the cosine of twice the angle: 0 if independent, −1 if crossed.
    """
    _check_field(spectral, mask, bins=3)
    dx, dy = spectral[1:, :, mask].unbind(1)
    power_x, power_y = dx.abs().square(), dy.abs().square()
    axis = torch.atan2(2 * (dx * dy.conj()).real, power_x - power_y) / 2
    size = (power_x + power_y).sqrt()
    weight = (size[:-1] * size[1:]).double()
    turn = axis.diff(dim=0).double()
    alike = (2 * turn).cos() if double_angle else turn.cos().abs()
    return ((alike * weight).sum() / weight.sum()).item()


def phase_agreement(spectral: Volume, mask: Mask, *, lag: int = 8) -> float:
    """Return how well pixels agree on the phase between neighbouring bins, in [0, 1].

    A phase step from bin k to k + 1 is the argument of ``Σ S_k* S_{k+1}`` over both components. Its
    differences between masked pixels ``lag`` px apart are averaged as phasors weighted by amplitude
    squared, their moduli over bins and axes. One course in time, or a travelling wave, scores 1,
    independent phases about 0. Phases that are smooth in space score high below their correlation
    length: compare with an observation, not with 1.
    """
    _check_field(spectral, mask, bins=3)
    cross = (spectral[1:-1].conj() * spectral[2:]).sum(1) * mask
    cross = cross / cross.abs().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    resultant = bound = 0.0
    for axis in (-1, -2):
        near, far = _neighbours(cross, lag, axis)
        turned = near.conj() * far
        resultant += turned.sum((-2, -1)).abs().sum().item()
        bound += turned.abs().sum().item()
    return resultant / bound if bound > 0 else math.nan


def loop_seam(frames: Shaped[Tensor, "time channels height width"], *, order: int = 1) -> float:
    """Return the change across the seam of a loop, played again, over the median ordinary change.

    A change is the mean absolute difference of that ``order`` between frames, or displacements (1:
    position, 2: velocity, 3: acceleration); the largest across the seam counts. A seamless loop
    has about 1, since its seam is one more ordinary step.
    """
    check_shape("frames", frames, "time channels height width")
    least = 2 + order
    require(len(frames) >= least, f"a loop needs {least} frames at least, got {len(frames)}")
    signs = [(-1) ** i * math.comb(order, i) for i in range(order + 1)]
    changes = torch.tensor([
        sum(sign * frames[t - i].float() for i, sign in enumerate(signs)).abs().mean().item()
        for t in range(len(frames))
    ])  # fmt: skip
    usual = changes[order:].median().item()
    return changes[:order].max().item() / usual if usual > 0 else math.nan


def slice_spectral_distance(first: Float[Tensor, "3 _ _"], second: Float[Tensor, "3 _ _"]) -> float:
    """Return the ``log_spectral_distance`` in dB of two X-t slices, (3, time, length).

    The power of a frequency is averaged over pixels and channels, over the same number of frames.
    Two samples of one wind score low whatever their phases: use SSIM where time is aligned.
    """
    time, powers = min(first.shape[1], second.shape[1]), []
    # Without its leading 0 it is symmetric: a slice played backwards is the same.
    window = torch.hann_window(time + 1, dtype=torch.float64)[1:, None]
    for picture in (first, second):
        check_shape("slice", picture, "3 time length")
        changes = picture[:, :time].double()
        changes = changes - changes.mean(1, keepdim=True)
        powers.append(torch.fft.rfft(changes * window, dim=1).abs().square().mean((0, 2)))
    return log_spectral_distance(*powers)


def _same_shape(name: str, tensor: Tensor, other: Tensor) -> None:
    check_shape(name, tensor, " ".join(map(str, other.shape)))


def _check_field(spectral: Tensor, mask: Tensor, *, bins: int) -> None:
    check_shape("spectral", spectral, "freq 2 height width")
    _same_shape("mask", mask, spectral[0, 0])
    require(len(spectral) >= bins, f"expected at least {bins} bins, got {len(spectral)}")


def _neighbours(field: Tensor, lag: int, axis: int) -> tuple[Tensor, Tensor]:
    """Return views of everything that has a neighbour ``lag`` px further along, and of those."""
    count = max(0, field.shape[axis] - lag)
    return field.narrow(axis, 0, count), field.narrow(axis, field.shape[axis] - count, count)


class FeatureMoments:
    """Mean and covariance of features that arrive in batches; memory O(features²) at most.

    Rows (1, x) are kept, or the R of their QR decomposition once that is smaller: its first row
    holds the mean, the rest a root of the scatter, so that few samples are cheap and exact. The FID
    of torchmetrics cannot weigh samples, as a bootstrap over videos has to.
    """

    def __init__(self, num_features: int) -> None:
        self.count = 0
        self._rows = [torch.zeros(0, 1 + num_features, dtype=torch.float64)]

    def add(self, features: Features, counts: Counts | None = None) -> FeatureMoments:
        """Take in a batch and return self; with ``counts``, as if samples came so many times."""
        width = self._rows[0].shape[1]
        check_shape("features", features, f"samples {width - 1}")
        weights = (torch.ones(len(features)) if counts is None else counts).double()[:, None]
        self.count += round(weights.sum().item())
        self._rows.append(weights.sqrt() * functional.pad(features.double(), (1, 0), value=1.0))
        if sum(map(len, self._rows)) > 2 * width:
            self._rows = [torch.linalg.qr(torch.cat(self._rows), mode="r").R]
        return self

    def gaussian(self) -> tuple[Float[Tensor, " features"], Float[Tensor, "rows features"]]:
        """Return the mean and a root R of the unbiased covariance ``RᵀR``, from two samples up."""
        require(self.count >= 2, _TWO_SAMPLES)
        triangle = torch.linalg.qr(torch.cat(self._rows), mode="r").R
        return triangle[0, 1:] / triangle[0, 0], triangle[1:, 1:] / math.sqrt(self.count - 1)


def moments_of(batches: Iterable[Features]) -> FeatureMoments:
    """Return the moments of features that come in batches, two samples at least in all."""
    moments = None
    for batch in batches:
        moments = (moments or FeatureMoments(batch.shape[-1])).add(batch)
    require(moments is not None and moments.count >= 2, _TWO_SAMPLES)
    return moments


def frechet_distance(first: FeatureMoments, second: FeatureMoments) -> float:
    """Return the Fréchet distance between two Gaussians, ``|m1 - m2|² + tr(Σ1 + Σ2 - 2√(Σ1Σ2))``.

    The trace of the root is the sum of the singular values of ``R1 R2ᵀ``, roots of the eigenvalues
    of its smaller Gram matrix: symmetric, never complex. With n samples the distance is biased
    upwards by about a constant over n: compare equal n.
    Source: Dowson and Landau 1982; Heusel et al. 2017 for its use on features.
    """
    (mean, root), (other_mean, other_root) = first.gaussian(), second.gaussian()
    cross = root @ other_root.T
    gram = cross @ cross.T if cross.shape[0] <= cross.shape[1] else cross.T @ cross
    overlap = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
    spread = root.square().sum() + other_root.square().sum() - 2 * overlap
    return max(0.0, ((mean - other_mean).square().sum() + spread).item())


def kernel_distance(
    first: Features, second: Features, *, seed: int = 0, subsets: int = 100, subset_size: int = 1000
) -> tuple[float, float]:
    """Return mean and standard deviation over random subsets of the kernel distance (KID).

    The squared maximum mean discrepancy with a cubic kernel, unbiased (Bińkowski et al. 2018).
    Subsets are as large as the smaller side if that has fewer than ``subset_size`` samples.
    """
    from torchmetrics.image.kid import poly_mmd  # takes a second

    size, generator = min(subset_size, len(first), len(second)), torch.Generator().manual_seed(seed)
    require(size >= 2, _TWO_SAMPLES)

    def subset(side: Features) -> Features:
        return side[torch.randperm(len(side), generator=generator)[:size]]

    found = torch.stack([poly_mmd(subset(first), subset(second)) for _ in range(subsets)])
    return found.mean().item(), found.std(correction=0).item()


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def bootstrap_interval(
    first: Sequence[Tensor], second: Sequence[Tensor], *, draws: int = 100, level: float = 0.95,
    generator: torch.Generator | None = None,
) -> Interval:  # fmt: skip
    """Return a basic bootstrap interval of the Fréchet distance of features, one entry a video.

    Whole videos are drawn with replacement, since their samples are alike; an entry is loaded when
    drawn. Drawing raises a distance by about as much again as the finite sample did; ``2 · distance
    - quantile`` takes both off, so the interval may lie below the distance. With 40 videos a side,
    90 % intervals covered about 80 % in simulation.
    """
    distance, tail = frechet_distance(moments_of(first), moments_of(second)), (1 - level) / 2
    drawn = ([_resample(side, generator) for side in (first, second)] for _ in range(draws))
    found = torch.tensor([frechet_distance(*sides) for sides in drawn], dtype=torch.float64)
    quantiles = found.quantile(found.new_tensor([1 - tail, tail]))
    return Interval(*(2 * distance - quantiles).clamp(min=0).tolist())


def _resample(side: Sequence[Tensor], generator: torch.Generator | None) -> FeatureMoments:
    """Return the moments of as many entries, drawn with replacement and read one at a time."""
    times = torch.randint(len(side), (len(side),), generator=generator).bincount()
    moments = FeatureMoments(side[0].shape[-1])
    for index in times.nonzero().flatten().tolist():
        features = side[index]
        moments.add(features, times[index].expand(len(features)))
    return moments


def interval_over(groups: Sequence[Tensor], statistic: Callable, seed: int) -> list[float]:
    """Return the ends of the 95 % bootstrap interval of a statistic of all values, (n,) → ().

    Groups of values, (m,) each, are drawn with replacement.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(groups), (_RESAMPLES, len(groups)), generator=generator)
    found = [statistic(torch.cat([groups[n] for n in row])) for row in drawn.tolist()]
    return torch.stack(found).quantile(groups[0].new_tensor([0.025, 0.975])).tolist()


def table(
    title: str, columns: Sequence[str], rows: Iterable[Row], *, bold: str = "", note: str = ""
) -> Table:
    """Return a table for the terminal: numbers to 2 places, undefined ones "-", a note below.

    The row that begins with ``bold`` is set in bold.
    """
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    made.caption, made.caption_justify = note or None, "left"
    for number, heading in enumerate(columns):
        made.add_column(heading, justify="right" if number else "left")
    for row in rows:
        made.add_row(*map(_cell, row), style="bold" if bold and row[0] == bold else None)
    return made


def _cell(value: Any) -> str | Text:
    if value is None or value != value:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else Text(plain(value))
