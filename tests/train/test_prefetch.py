"""Examples made ahead by other processes; runs that end with the clock or start from weights."""

import pytest
import torch
from tiny_task import tiny_config

from gidlite.data import MotionDataset, SyntheticSource
from gidlite.data.world.pieces import Pieces
from gidlite.errors import GidliteError
from gidlite.prior.autoencoder import SliceAutoencoder
from gidlite.train import TrainConfig
from gidlite.train.loop import Prefetched, learning_rate, run_training


@pytest.fixture(scope="module")
def dataset():
    pieces = Pieces.painted(count=17, generator=torch.Generator().manual_seed(1))
    source = SyntheticSource(pieces, height=64, width=64, grid_stride=2, num_frequencies=4)
    return MotionDataset([source], length=1 << 40)


def test_other_processes_make_the_same_examples_in_order(dataset):
    """Two ranges in a row, one further on, and one item out of turn."""
    ahead = Prefetched(dataset, workers=2)
    for numbers in (range(3), range(3, 7), range(100, 102)):
        items = ahead.take(numbers)
        assert len(items) == len(numbers)
        for number, item in zip(numbers, items, strict=True):
            for name, value in dataset[number].items():
                assert torch.equal(item[name], value), (number, name)
    assert torch.equal(ahead[5]["image"], dataset[5]["image"])


def test_the_decay_ends_with_the_time_or_the_steps_whichever_is_first():
    config = tiny_config(steps=100, warmup_steps=0, learning_rate=1.0, decay_minutes=2.0)
    assert learning_rate(config, 0, 0.0) == pytest.approx(1)
    assert learning_rate(config, 0, 60.0) == pytest.approx(0.51)
    assert learning_rate(config, 0, 120.0) == pytest.approx(0.02)
    assert learning_rate(config, 100, 0.0) == pytest.approx(0.02)


def test_a_run_starts_from_weights(tmp_path, dataset, monkeypatch):
    """With a learning rate of almost nothing they come out as they went in."""
    monkeypatch.setattr("gidlite.train.run.make_dataset", lambda *a, **k: dataset)
    config = TrainConfig(
        part="vae", num_frequencies=4, height=64, width=64, scenes_per_step=1, slices_per_scene=1,
        pool_size=2, steps=1, learning_rate=1e-12, autoencoder_channels=(8, 16),
        mixed_precision=False,
    )  # fmt: skip
    start = SliceAutoencoder((8, 16))
    start.save_pretrained(tmp_path / "start")
    run_training(config, tmp_path / "run", start=tmp_path / "start")
    trained = SliceAutoencoder.from_pretrained(tmp_path / "run" / "model")
    for name, value in start.state_dict().items():
        assert torch.allclose(trained.state_dict()[name], value, atol=1e-6), name
    SliceAutoencoder((16, 32)).save_pretrained(tmp_path / "other")
    with pytest.raises(GidliteError, match="other sizes"):
        run_training(config, tmp_path / "next", start=tmp_path / "other")
