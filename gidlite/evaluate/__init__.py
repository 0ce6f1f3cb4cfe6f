"""How far pictures and motions are from the truth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Complex, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from gidlite.errors import GidliteError, ShapeError, check_shape


def _same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ShapeError(
            f"expected equal shapes, got {tuple(first.shape)} and {tuple(second.shape)}"
        )


def psnr(image: Float[Tensor, "*shape"], reference: Float[Tensor, "*shape"]) -> float:
    """Return the peak signal-to-noise ratio in dB of values in [0, 1]; infinite if equal.

    Example:
        >>> round(psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1)), 3)
        20.0
    """
    _same_shape(image, reference)
    return (-10 * (image - reference).square().mean().log10()).item()


def ssim(
    image: Float[Tensor, "*batch 3 height width"], reference: Float[Tensor, "*batch 3 height width"]
) -> float:
    """Return mean structural similarity, at most 1, over an 11×11 Gaussian window (σ = 1.5).

    Source: Wang et al. 2004, with their constants; channels are averaged.
    """
    _same_shape(image, reference)
    line = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    window = (torch.outer(line, line) / line.sum() ** 2).to(image)[None, None]
    blur = lambda x: functional.conv2d(x, window)  # noqa: E731
    x, y = (z.reshape(-1, 1, *z.shape[-2:]) for z in (image, reference))
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return (top / bottom).mean().item()


def endpoint_error(
    motion: Float[Tensor, "*batch 2 height width"], truth: Float[Tensor, "*batch 2 height width"]
) -> float:
    """Return the mean Euclidean distance between two displacement fields, in px."""
    _same_shape(motion, truth)
    return (motion - truth).norm(dim=-3).mean().item()


def auc(score: Float[Tensor, "*shape"], positive: Tensor) -> float:
    """Return the area under the ROC curve: how often a positive outranks a negative.

    Ties count half (the Mann–Whitney statistic).

    Example:
        >>> auc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True]))
        0.875
    """
    _same_shape(score, positive)
    ordered, order = score.flatten().double().sort()
    _, groups, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = (last - (counts - 1) / 2)[groups]
    chosen = positive.flatten()[order]
    n, m = int(chosen.sum()), int((~chosen).sum())
    if n == 0 or m == 0:
        return float("nan")
    return ((ranks[chosen].sum() - n * (n + 1) / 2) / (n * m)).item()


def log_spectral_distance(
    first_power: Float[Tensor, " freq"],
    second_power: Float[Tensor, " freq"],
    *,
    match_level: bool = False,
) -> float:
    """Return the mean over bins k ≥ 1 of ``|10 log10(P1_k / P2_k)|``, in dB.

    Args:
        first_power: Power per bin, bin 0 included, as from ``spectral.power_spectrum``.
        second_power: The same of another motion.
        match_level: First remove the overall level, the mean over bins of the signed difference
            in dB: what is left is the difference in the shape of the spectra.

    Returns:
        The distance; infinite if a bin is empty in exactly one of them, NaN if in both.

    Raises:
        ShapeError: If the shapes differ or there is no bin above bin 0.

    Example:
        >>> round(log_spectral_distance(torch.ones(4), 10 * torch.ones(4)), 4)
        10.0
    """
    check_shape("first_power", first_power, "freq")
    if first_power.shape != second_power.shape or len(first_power) < 2:
        raise ShapeError(
            "expected two power spectra of equal length, at least 2 bins, got shapes "
            f"{tuple(first_power.shape)} and {tuple(second_power.shape)}"
        )
    decibels = 10 * (first_power[1:].double().log10() - second_power[1:].double().log10())
    if match_level and decibels.isfinite().all():
        decibels = decibels - decibels.mean()
    return decibels.abs().mean().item()


def _check_field(spectral: Tensor, mask: Tensor, *, bins: int) -> None:
    check_shape("spectral", spectral, "freq 2 height width")
    check_shape("mask", mask, f"{spectral.shape[-2]} {spectral.shape[-1]}")
    if len(spectral) < bins:
        raise GidliteError(f"expected a spectral volume of at least {bins} bins: {len(spectral)}")


def _neighbours(field: Tensor, lag: int, axis: int) -> tuple[Tensor, Tensor]:
    """Return views of everything that has a neighbour ``lag`` px further along, and of those."""
    count = max(0, field.shape[axis] - lag)
    return field.narrow(axis, 0, count), field.narrow(axis, field.shape[axis] - count, count)


def correlation_length(
    spectral: Complex[Tensor, "freq 2 height width"],
    mask: Bool[Tensor, "height width"],
    *,
    max_lag: int = 32,
) -> float:
    """Return the distance in px over which motion stays alike: its correlation falls to 1/2.

    The correlation at a lag is ``Re Σ S(p)* S(q) / sqrt(Σ|S(p)|² Σ|S(q)|²)`` over bins k ≥ 1, both
    components, and all pairs of masked pixels that lie the lag apart along a row or a column.
    Nothing is subtracted from S: motion is a deviation from rest. Between whole lags the
    correlation is interpolated linearly. Resampling and optical flow smooth, so that neither a
    coarse prediction nor an observation can have a length below about a cell or a window.

    Args:
        spectral: Spectral volume in px of its grid.
        mask: Pixels to look at, for example those that move.
        max_lag: Largest lag in px; longer lengths are reported as this. A mask without a pair at
            some lag ends the search as well.

    Raises:
        ShapeError: If the shapes do not fit.
        GidliteError: If there is no bin above bin 0.

    Example:
        >>> together = torch.ones(2, 2, 64, 64, dtype=torch.complex64)
        >>> correlation_length(together, torch.ones(64, 64, dtype=torch.bool))
        32.0
    """
    _check_field(spectral, mask, bins=2)
    field = spectral[1:] * mask
    if not field.any():
        return math.nan
    before = 1.0
    for lag in range(1, max_lag + 1):
        here = _correlation(field, mask, lag)
        if math.isnan(here):
            return float(lag - 1) if lag > 1 else math.nan
        if here <= 0.5:
            return lag - 1 + (before - 0.5) / (before - here)
        before = here
    return float(max_lag)


def _correlation(field: Tensor, mask: Tensor, lag: int) -> float:
    """Return the correlation of a field that is 0 outside the mask; NaN if there is no pair."""
    together = near_power = far_power = 0.0
    for axis in (-1, -2):
        (near, far), both = _neighbours(field, lag, axis), _neighbours(mask, lag, axis)
        pair = both[0] & both[1]
        together += (near.real * far.real + near.imag * far.imag).sum().item()
        near_power += (near.abs().square() * pair).sum().item()
        far_power += (far.abs().square() * pair).sum().item()
    bound = math.sqrt(near_power * far_power)
    return together / bound if bound > 0 else math.nan


def bin_agreement(
    spectral: Complex[Tensor, "freq 2 height width"], mask: Bool[Tensor, "height width"]
) -> float:
    """Return how well neighbouring bins agree on the direction in which a pixel moves, in [0, 1].

    A pixel's direction at a bin is the principal axis of the 2×2 covariance of its (dx, dy), an
    ellipse's long axis. The measure is ``|cos|`` of the angle between the axes at bins k and
    k + 1, k ≥ 1, averaged over masked pixels and bins with weight |S_k| |S_{k+1}|. A branch that
    swings along one line scores 1; independent random directions score 2/π ≈ 0.64.

    Raises:
        ShapeError: If the shapes do not fit.
        GidliteError: If there are fewer than 3 bins.
    """
    _check_field(spectral, mask, bins=3)
    dx, dy = spectral[1:, :, mask].unbind(1)
    difference = dx.abs().square() - dy.abs().square()
    axis = torch.atan2(2 * (dx * dy.conj()).real, difference) / 2
    size = (dx.abs().square() + dy.abs().square()).sqrt()
    weight = (size[:-1] * size[1:]).double()
    alike = (axis[1:] - axis[:-1]).cos().abs().double()
    return ((alike * weight).sum() / weight.sum()).item()


def phase_agreement(
    spectral: Complex[Tensor, "freq 2 height width"],
    mask: Bool[Tensor, "height width"],
    *,
    lag: int = 8,
) -> float:
    """Return how well pixels agree on the phase between neighbouring bins, in [0, 1].

    With φ_k the phase of a pixel's motion at bin k, ``φ_{k+1} - φ_k`` is the argument of
    ``Σ S_k* S_{k+1}`` over both components. Its difference between two masked pixels ``lag`` px
    apart along a row or a column is averaged as a unit phasor with weight in proportion to
    amplitude squared; the modulus of that resultant is averaged over bins and the two axes. Pixels
    of one object share one course in time, and a travelling wave has one delay per px: both
    score 1. Phases that are independent from pixel to pixel score about 0. Bins whose phases vary
    independently but smoothly also score high below their correlation length: compare a
    prediction with an observation, not with 1.

    Raises:
        ShapeError: If the shapes do not fit.
        GidliteError: If there are fewer than 3 bins.
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


def relative_difference(
    first: Complex[Tensor, "freq 2 height width"], second: Complex[Tensor, "freq 2 height width"]
) -> float:
    """Return the RMS difference of two spectral volumes over their RMS, bins k ≥ 1.

    0 for equal volumes, √2 ≈ 1.41 for unrelated ones of equal power, 2 for opposite ones.

    Raises:
        ShapeError: If the shapes differ.
    """
    check_shape("first", first, "freq 2 height width")
    check_shape("second", second, " ".join(map(str, first.shape)))
    power = [part[1:].abs().double().square().sum() for part in (first - second, first, second)]
    return (2 * power[0] / (power[1] + power[2])).sqrt().item()


def loop_seam(frames: Shaped[Tensor, "time channels height width"], *, order: int = 1) -> float:
    """Return the change across the seam of a loop, played again, over the median ordinary change.

    A change is the mean absolute difference of neighbouring frames, or of displacements. A
    seamless loop has about 1: its seam is one more ordinary step. A still video has NaN.

    Args:
        frames: Pixels of a video or a motion texture.
        order: 1 for steps: the seam in position. 2 for how steps change, 3 for how those do: the
            seam in velocity and in acceleration; the largest of those that span it counts.

    Raises:
        GidliteError: If there are fewer than 2 + order frames.
    """
    check_shape("frames", frames, "time channels height width")
    if len(frames) < 2 + order:
        raise GidliteError(f"a loop needs {2 + order} frames at least, got {len(frames)}")
    signs = [(-1) ** i * math.comb(order, i) for i in range(order + 1)]
    changes = torch.tensor([
        sum(sign * frames[t - i].float() for i, sign in enumerate(signs)).abs().mean().item()
        for t in range(len(frames))
    ])  # fmt: skip
    usual = changes[order:].median().item()
    return changes[:order].max().item() / usual if usual > 0 else math.nan


def slice_spectral_distance(
    first: Float[Tensor, "3 time length"], second: Float[Tensor, "3 time2 length2"]
) -> float:
    """Return how the temporal spectra of two X-t slices differ, in dB; phase does not count.

    The power of each frequency, averaged over the pixels and channels of a slice, is compared as
    by ``log_spectral_distance``, over the same number of frames. Two samples of one wind score
    low whatever their phases are; use ``metrics.ssim`` on the slices where time is aligned.

    Raises:
        ShapeError: If one has fewer than 2 frames.
    """
    powers = []
    time = min(first.shape[1], second.shape[1])
    for picture in (first, second):
        check_shape("slice", picture, "3 time length")
        changes = picture[:, :time].double()
        changes = changes - changes.mean(1, keepdim=True)
        # Without its leading 0 it is symmetric: a slice played backwards is the same.
        window = torch.hann_window(time + 1, dtype=torch.float64)[1:, None]
        powers.append(torch.fft.rfft(changes * window, dim=1).abs().square().mean((0, 2)))
    return log_spectral_distance(*powers)


# Rows that a resample gathers before it takes them in: fewer, larger steps.
_ROWS_AT_ONCE = 1024


class FeatureMoments:
    """Mean and covariance of features that arrive in batches; memory O(features²) at most.

    The covariance is kept as a root R with ``RᵀR = Σ_i (x_i - mean)(x_i - mean)ᵀ``: as few rows as
    there are samples, so that few samples are cheap and exact, and no square is ever taken whose
    root is needed later.

    Args:
        num_features: Length of a feature vector.
    """

    def __init__(self, num_features: int) -> None:
        self.count = 0
        self.mean = torch.zeros(num_features, dtype=torch.float64)
        self.root = torch.zeros(0, num_features, dtype=torch.float64)

    def add(
        self,
        features: Float[Tensor, "samples features"],
        counts: Float[Tensor, " samples"] | None = None,
    ) -> FeatureMoments:
        """Take in a batch and return self; with ``counts``, as if samples came so many times.

        Raises:
            ShapeError: If the feature vectors have another length.
        """
        if len(features) == 0:
            return self
        check_shape("features", features, f"samples {len(self.mean)}")
        batch = features.double()
        counts = torch.ones(len(batch)) if counts is None else counts
        weights = counts.double()[:, None]
        added = round(weights.sum().item())
        if added == 0:
            return self
        total, mean = self.count + added, (batch * weights).sum(0) / added
        shift = mean - self.mean
        bridge = shift * math.sqrt(self.count * added / total)
        self.root = torch.cat([self.root, (batch - mean) * weights.sqrt(), bridge[None]])
        self.mean = self.mean + shift * (added / total)
        self.count = total
        if len(self.root) > 2 * len(self.mean):
            self.root = self.short_root()
        return self

    def short_root(self) -> Float[Tensor, "rows features"]:
        """Return the root with no more rows than features."""
        if len(self.root) <= len(self.mean):
            return self.root
        return torch.linalg.qr(self.root, mode="r").R

    def covariance(self) -> Float[Tensor, "features features"]:
        """Return the unbiased covariance."""
        return self.root.T @ self.root / (self.count - 1)


def moments_of(batches: Iterable[Float[Tensor, "samples features"]]) -> FeatureMoments:
    """Return the moments of features that come in batches.

    Raises:
        GidliteError: If there are fewer than two samples.
    """
    moments = None
    for batch in batches:
        moments = (moments or FeatureMoments(batch.shape[-1])).add(batch)
    if moments is None or moments.count < 2:
        raise GidliteError("a Fréchet distance needs two samples on either side at least")
    return moments


def frechet_distance(first: FeatureMoments, second: FeatureMoments) -> float:
    """Return the Fréchet distance between two Gaussians, ``|m1 - m2|² + tr(Σ1 + Σ2 - 2√(Σ1Σ2))``.

    The trace of the root is the sum of the singular values of ``R1 R2ᵀ``, here as roots of the
    eigenvalues of its Gram matrix: symmetric, never complex, and no larger than the fewer samples.
    With n samples the distance is biased upwards by about 1/n times a constant: compare equal n.

    Raises:
        GidliteError: If a side has fewer than two samples.

    Example:
        >>> still = moments_of([torch.tensor([[0.0], [2.0]])])
        >>> moved = moments_of([torch.tensor([[3.0], [5.0]])])
        >>> round(frechet_distance(still, moved), 6)
        9.0

    Reference:
        Dowson and Landau 1982; Heusel et al. 2017 for its use on features.
    """
    if min(first.count, second.count) < 2:
        raise GidliteError("a Fréchet distance needs two samples on either side at least")
    scale = math.sqrt((first.count - 1) * (second.count - 1))
    cross = first.short_root() @ second.short_root().T / scale
    gram = cross @ cross.T if cross.shape[0] <= cross.shape[1] else cross.T @ cross
    overlap = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum()
    spread = sum(side.root.square().sum() / (side.count - 1) for side in (first, second))
    distance = (first.mean - second.mean).square().sum() + spread - 2 * overlap
    return max(0.0, distance.item())


class _Given(nn.Module):
    """Stands where torchmetrics expects a network, for features that are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """Return the features."""
        return features


def kernel_distance(
    first: Float[Tensor, "samples features"],
    second: Float[Tensor, "samples2 features"],
    *,
    seed: int = 0,
    subsets: int = 100,
    subset_size: int = 1000,
) -> tuple[float, float]:
    """Return the mean and standard deviation over random subsets of the kernel distance (KID).

    The squared maximum mean discrepancy with a cubic kernel, unbiased, by torchmetrics. With fewer
    samples than ``subset_size`` on a side, subsets are as large as that side.

    Raises:
        GidliteError: If torchmetrics is not installed or a side has fewer than two samples.

    Reference:
        Bińkowski et al. 2018.
    """
    try:
        from torchmetrics.image.kid import KernelInceptionDistance
    except ImportError as error:
        raise GidliteError("KID needs torchmetrics; pip install 'gidlite[metrics]'") from error
    size = min(subset_size, len(first), len(second))
    if size < 2:
        raise GidliteError("a kernel distance needs two samples on either side at least")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*large memory footprint")
        metric = KernelInceptionDistance(
            feature=_Given(first.shape[-1]), subsets=subsets, subset_size=size
        )
    metric.update(first, real=True)
    metric.update(second, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = metric.compute()
    return mean.item(), deviation.item()


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        low: Lower end.
        high: Upper end.
        level: Nominal coverage.
    """

    low: float
    high: float
    level: float


def bootstrap_interval(
    first: Sequence[Float[Tensor, "samples features"]],
    second: Sequence[Float[Tensor, "samples2 features"]],
    *,
    draws: int = 100,
    level: float = 0.95,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Interval:
    """Return a basic bootstrap interval of a Fréchet distance.

    Whole entries, the features of one video each, are drawn with replacement, since samples of
    one video are alike. Drawing raises a distance by about as much again as the finite sample did;
    ``2 · distance - quantile`` takes both off, so that the interval may lie below the distance.
    With 40 videos a side, 90 % intervals covered about 80 % in simulation: take it as a lower
    bound of the uncertainty.

    Args:
        first: Features of each video; entries are loaded when drawn, so they may lie on disk.
        second: The same for the other side.
        draws: Number of resamples.
        level: Nominal coverage.
        generator: Source of randomness.
        progress: Called with (draws done, draws in all).

    Raises:
        GidliteError: If there are fewer than two samples on a side.
    """
    distance = frechet_distance(moments_of(first), moments_of(second))
    found = []
    for done in range(draws):
        sides = [_resample(side, generator) for side in (first, second)]
        if min(side.count for side in sides) >= 2:
            found.append(frechet_distance(*sides))
        if progress is not None:
            progress(done + 1, draws)
    tail = (1 - level) / 2
    quantiles = torch.tensor(found, dtype=torch.float64).quantile(
        torch.tensor([1 - tail, tail], dtype=torch.float64)
    )
    low, high = (max(0.0, 2 * distance - quantile) for quantile in quantiles.tolist())
    return Interval(low, high, level)


def _resample(side: Sequence[Tensor], generator: torch.Generator | None) -> FeatureMoments:
    drawn = torch.randint(len(side), (len(side),), generator=generator)
    times = drawn.bincount(minlength=len(side)).tolist()
    moments = FeatureMoments(side[0].shape[-1])
    batches: list[Tensor] = []
    counts: list[int] = []
    for index, count in enumerate(times):
        if count:
            batches.append(side[index])
            counts += [count] * len(batches[-1])
        if len(counts) >= _ROWS_AT_ONCE or (index == len(times) - 1 and batches):
            moments.add(torch.cat(batches), torch.tensor(counts))
            batches, counts = [], []
    return moments
