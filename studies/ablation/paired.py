"""Whether one row is better than another: differences of FVD with the photos resampled together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gidlite.evaluate import FeatureMoments, frechet_distance
from gidlite.evaluate.networks import load_published
from gidlite.evaluate.videos import Clips, FeatureStore, Reading, videos_in


class VideoFeatures:
    """FVD's features of the videos in a folder, from the same store as ``evaluate_videos``.

    Args:
        cache: Folder of the store.
        frames: Frames looked at.
        weights: Folder of the feature networks.
        device: Where the network runs.
    """

    def __init__(self, cache: Path, frames: int, weights, device: str) -> None:
        self._network = load_published("i3d", weights).to(device)
        self._store = FeatureStore(cache, Reading(max_frames=frames))

    def of(self, folder: Path) -> list[Tensor]:
        """Return the features of every video, by name."""
        return list(self._store.features(videos_in(folder), Clips(16, 16), self._network))


def _moments(videos: Sequence[Tensor], times: Tensor) -> FeatureMoments:
    counts = torch.cat([t.expand(len(v)) for v, t in zip(videos, times, strict=True)])
    return FeatureMoments(videos[0].shape[-1]).add(torch.cat(list(videos)), counts)


def difference_interval(
    real: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    *,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
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
