"""Whether one row is better than another: photos resampled together, and training counted in.

The difference of two rows has two sources of chance. Other photos would have given another one:
the bootstrap over places. Other seeds of training would have, too: a variance that is estimated
from all rows of a kind together, each trained with several seeds, since a few seeds of one row say
little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import t as student
from torch import Tensor

from gidlite.evaluate import FeatureMoments, frechet_distance

LEVEL, POWER = 0.95, 0.8
_DRAWS = 200


@dataclass(frozen=True)
class Scatter:
    """A variance and the degrees of freedom of its estimate; sums are of independent estimates."""

    variance: float
    freedom: float

    def __add__(self, other: Scatter) -> Scatter:
        """Return the variance of a sum, with freedom by Welch and Satterthwaite."""
        total = self.variance + other.variance
        parts = [part for part in (self, other) if part.variance > 0]
        bottom = sum(part.variance**2 / part.freedom for part in parts)
        return Scatter(total, total**2 / bottom if bottom > 0 else 1.0)

    def times(self, factor: float) -> Scatter:
        """Return the variance of something that scatters so many times as much."""
        return Scatter(factor * self.variance, self.freedom)


@dataclass(frozen=True)
class Gap:
    """A row's score minus that of another, averaged over seeds of training.

    Attributes:
        value: The difference.
        photos: Variance of it if other places had been filmed.
        training: Scatter of it if other seeds had been trained with.
    """

    value: float
    photos: Scatter
    training: Scatter

    @property
    def error(self) -> float:
        """Standard error."""
        return math.sqrt(self.photos.variance + self.training.variance)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of ``error``."""
        return (self.photos + self.training).freedom

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the ends of a confidence interval."""
        reach = student.ppf((1 + level) / 2, self.freedom) * self.error
        return self.value - reach, self.value + reach

    @property
    def p(self) -> float:
        """Probability of such a difference, or a larger one, if there is none."""
        if self.error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * student.sf(abs(self.value) / self.error, self.freedom))

    @property
    def least(self) -> float:
        """The true difference that is found at 95 % in four of five studies like this one."""
        reach = sum(student.ppf(quantile, self.freedom) for quantile in ((1 + LEVEL) / 2, POWER))
        return float(reach * self.error)


def training_scatter(rows: Iterable[Sequence[float]]) -> Scatter:
    """Return the variance of a score over seeds of training, pooled over rows of one kind.

    Args:
        rows: The scores of every row, one per seed, on the same photos.
    """
    spread, freedom = 0.0, 0
    for scores in rows:
        values = torch.tensor(scores, dtype=torch.float64)
        spread += (values - values.mean()).square().sum().item()
        freedom += len(values) - 1
    return Scatter(spread / freedom if freedom else 0.0, max(1, freedom))


def resamples(places: Sequence[str], draws: int = _DRAWS) -> list[Tensor]:
    """Return numbers of photos: all of them first, then as other studies might have had them.

    Places are drawn with replacement, with all photos of each.
    """
    groups = [
        torch.tensor([number for number, place in enumerate(places) if place == one])
        for one in dict.fromkeys(places)
    ]
    generator, found = torch.Generator().manual_seed(0), [torch.arange(len(places))]
    for _ in range(draws):
        drawn = torch.randint(len(groups), (len(groups),), generator=generator)
        found.append(torch.cat([groups[number] for number in drawn]))
    return found


def gap(differences: Float[Tensor, " resamples"], places: int, training: Scatter) -> Gap:
    """Return a difference of two rows with its errors.

    Args:
        differences: On each of ``resamples``, all photos first.
        places: Number of different ones.
        training: Scatter of the difference over seeds of training.
    """
    photos = Scatter(differences[1:].double().var().item(), max(1, places - 1))
    return Gap(differences[0].item(), photos, training)


def photos_needed(found: Gap, photos: int) -> float:
    """Return how many photos would decide a difference, were it what it seems to be.

    Infinity if other seeds of training alone would hide it: then more seeds are needed.
    """
    reach = abs(found.value) / student.ppf((1 + LEVEL) / 2, found.freedom)
    left = reach**2 - found.training.variance
    return photos * found.photos.variance / left if left > 0 else math.inf


def seeds_needed(found: Gap, seeds: int) -> float:
    """Return how many seeds of training would decide a difference on these photos, or infinity."""
    reach = abs(found.value) / student.ppf((1 + LEVEL) / 2, found.freedom)
    left = reach**2 - found.photos.variance
    return seeds * found.training.variance / left if left > 0 else math.inf


def times_needed(found: Gap) -> float:
    """Return how many times as many photos and seeds, both, would decide a difference."""
    low, high = found.interval()
    return ((high - low) / 2 / found.value) ** 2 if found.value else math.inf


def holm(chances: dict[str, float], level: float = 1 - LEVEL) -> set[str]:
    """Return the names that stand if all are tested together (Holm 1979)."""
    standing: set[str] = set()
    for rank, name in enumerate(sorted(chances, key=chances.get)):
        if chances[name] > level / (len(chances) - rank):
            break
        standing.add(name)
    return standing


def difference_interval(
    real: Sequence[Tensor], first: Sequence[Tensor], second: Sequence[Tensor], *,
    draws: int = 200, level: float = LEVEL, seed: int = 0,
) -> tuple[float, float, float]:  # fmt: skip
    """Return FVD(first) - FVD(second) and a basic bootstrap interval of it.

    Entry i of each is of the same photo. A resample draws photos, for all three alike, so that
    what makes a photo hard, and the bias of few samples, cancel in the difference.

    Args:
        real: Features of each real video.
        first: Of each video of one row.
        second: Of each video of the other.
        draws: Number of resamples.
        level: Nominal coverage.
        seed: Of the resamples.
    """
    generator = torch.Generator().manual_seed(seed)

    def difference(times: Tensor) -> float:
        truth, one, two = (_moments(side, times) for side in (real, first, second))
        return frechet_distance(truth, one) - frechet_distance(truth, two)

    value = difference(torch.ones(len(real)))
    found = []
    for _ in range(draws):
        drawn = torch.randint(len(real), (len(real),), generator=generator)
        found.append(difference(drawn.bincount(minlength=len(real)).float()))
    tail = (1 - level) / 2
    ends = torch.tensor(found, dtype=torch.float64).quantile(
        torch.tensor([1 - tail, tail], dtype=torch.float64)
    )
    low, high = (2 * value - ends).tolist()
    return value, low, high


def _moments(videos: Sequence[Tensor], times: Tensor) -> FeatureMoments:
    counts = torch.cat([t.expand(len(v)) for v, t in zip(videos, times, strict=True)])
    return FeatureMoments(videos[0].shape[-1]).add(torch.cat(list(videos)), counts)
