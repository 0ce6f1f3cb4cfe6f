"""Distances between sets of features: Fréchet, kernel, and how sure one can be of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gidlite._checks import GidliteError, check_shape

__all__ = [
    "FeatureMoments",
    "Interval",
    "bootstrap_interval",
    "frechet_distance",
    "kernel_distance",
    "moments_of",
]

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
