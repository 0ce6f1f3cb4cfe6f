"""A tiny run of every part."""

import pytest
import torch

from gidlite import data
from gidlite.data import MotionDataset, SyntheticSource
from gidlite.data.world.pieces import Pieces
from gidlite.train import TrainConfig, modes, tasks


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    """Measure on eight scenes what is otherwise measured on up to 256."""
    everything = data.held_out
    few = lambda dataset, count, *a, **k: everything(dataset, min(count, 8), *a, **k)  # noqa: E731
    for module in (tasks, modes):
        monkeypatch.setattr(module, "held_out", few)


@pytest.fixture(scope="session")
def pieces():
    return Pieces.painted(count=17, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def scenes(pieces):
    source = SyntheticSource(pieces, height=64, width=64, grid_stride=2, num_frequencies=4)
    return MotionDataset([source], length=1 << 40)


@pytest.fixture(scope="session")
def tiny():
    """Return a function that makes a config of two steps."""

    def make(**changes) -> TrainConfig:
        values = {
            "num_frequencies": 4, "height": 64, "width": 64, "scenes_per_step": 2,
            "slices_per_scene": 2, "pool_size": 8, "steps": 2, "warmup_steps": 1,
            "autoencoder_channels": (8, 16), "denoiser_channels": (32, 32, 32),
            "mixed_precision": False,
        }  # fmt: skip
        return TrainConfig(**values | changes)

    return make
