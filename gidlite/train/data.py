"""What to learn from: the dataset of a run, and the window of examples that steps draw from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gidlite.dataset import Augmented, MotionDataset, ShardSource, SyntheticSource
from gidlite.normalize import FrequencyStats, fit_frequency_stats
from gidlite.pairs import PairDataset, PairFolder, ScenePairs
from gidlite.synthesize import collect_pieces
from gidlite.train.config import TrainConfig

__all__ = ["ScenePool", "fit_stats", "make_dataset", "make_pair_dataset"]


class ScenePool:
    """A sliding window over the endless, numbered scenes of one seed.

    Args:
        make: Turns a range of scene numbers into a dict of tensors, first axis the scene.
        size: Scenes kept.
        per_step: New scenes per step.
        first_step: Step to start at; the window is rebuilt as it would have been.
        initial: Scenes in the window before step 0.
    """

    def __init__(
        self,
        make: Callable[[range], dict[str, Tensor]],
        *,
        size: int,
        per_step: int,
        first_step: int,
        initial: int,
    ) -> None:
        self._make, self._size, self._per_step, self._initial = make, size, per_step, initial
        self._items: list[dict[str, Tensor]] = []
        self._end = max(0, initial + first_step * per_step - size)
        self.advance(first_step)

    def advance(self, step: int) -> None:
        """Add the scenes due before ``step`` and drop the oldest."""
        due = self._initial + step * self._per_step
        while self._end < due:
            numbers = range(self._end, min(due, self._end + 8))
            made = self._make(numbers)
            self._items += [{k: v[i] for k, v in made.items()} for i in range(len(numbers))]
            self._end = numbers.stop
        self._items = self._items[-self._size :]

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return ``count`` scenes of the window, stacked."""
        chosen = torch.randint(len(self._items), (count,), generator=generator).tolist()
        return {k: torch.stack([self._items[i][k] for i in chosen]) for k in self._items[0]}


def make_dataset(
    config: TrainConfig,
    *,
    sprites: str | Path | None = None,
    data: Sequence[str | Path] = (),
    device: str = "cpu",
) -> MotionDataset:
    """Return what to train on: synthetic scenes, and folders of real shards in a share of draws.

    Args:
        config: Sizes, ``real_share`` and the seed.
        sprites: Folder of photographic pieces for the scenes.
        data: Folders that ``gidlite extract`` wrote.
        device: Where scenes are made.

    Raises:
        GidliteError: If a folder cannot be used.
    """
    shape = {"grid_stride": config.grid_stride, "num_frequencies": config.num_frequencies}
    scene = {
        "height": config.height, "width": config.width, "num_frames": config.num_frames,
        "fps": config.fps,
    }  # fmt: skip
    pieces = collect_pieces(sprites, seed=config.seed)
    sources = [SyntheticSource(p.to(device), **shape, **scene) for p in pieces]
    weights = [(1 - config.real_share if data else 1.0) / len(sources)] * len(sources)
    real = [Augmented(ShardSource(folder, **shape)) for folder in data]
    weights += [config.real_share / max(len(real), 1)] * len(real)
    return MotionDataset([*sources, *real], weights=weights, length=1 << 40, seed=config.seed)


def make_pair_dataset(
    config: TrainConfig,
    *,
    sprites: str | Path | None = None,
    data: Sequence[str | Path] = (),
    device: str = "cpu",
) -> PairDataset:
    """Return what the renderer learns from: pairs of synthetic scenes, and folders of real pairs.

    Args:
        config: Sizes, ``real_share`` and the seed.
        sprites: Folder of photographic pieces for the scenes.
        data: Folders that ``pairs.extract_pairs`` wrote, of the same size.
        device: Where pairs are made and kept.

    Raises:
        GidliteError: If a folder cannot be used.
    """
    size = {"height": config.height, "width": config.width}
    pieces = collect_pieces(sprites, seed=config.seed)
    distinct = list({id(p): p for p in pieces}.values())
    scenes = [ScenePairs(p.to(device), **size) for p in distinct]
    share = config.real_share if data else 0.0
    weights = [(1 - share) * sum(q is p for q in pieces) / len(pieces) for p in distinct]
    weights += [share / len(data)] * len(data) if data else []
    real = [PairFolder(folder, device=device) for folder in data]
    return PairDataset([*scenes, *real], weights=weights, seed=config.seed)


def fit_stats(config: TrainConfig, dataset: MotionDataset, *, count: int = 256) -> FrequencyStats:
    """Fit frequency statistics on items from the far end of the dataset, never trained on."""
    items = dataset.take(range(10**9, 10**9 + count))
    volumes = [item["spectral"].cpu() for item in items]
    return fit_frequency_stats(volumes, percentile=config.percentile, variant=config.normalization)
