"""The parts of a prior of modes, tiny, up to a pipeline that runs."""

import pytest
import torch

from gidlite.data import Example, MotionDataset
from gidlite.motion.spectral import motion_amplitude
from gidlite.pipeline import GidPipeline
from gidlite.prior.modes import ModesNet, total_level
from gidlite.train import RunOptions, load_parts
from gidlite.train.loop import TASKS, run_training, train

SMALL = {"parts": 3, "modes_per_part": 2}


@pytest.fixture
def tiny_scenes(monkeypatch, scenes):
    monkeypatch.setattr("gidlite.train.make_dataset", lambda *a, **k: scenes)


@pytest.fixture(scope="module")
def batch(scenes, tiny):
    task = TASKS["modes"](tiny(part="modes", **SMALL), scenes)
    return task, task.make([scenes[0], scenes[1]])


def test_what_the_pool_keeps(batch, scenes):
    """Cells have the motion and the level of their middle pixel, in px of the photo."""
    _, made = batch
    assert made["motion"].shape == (2, 2, 3, 2, 16, 16) and made["level"].shape == (2, 16, 16)
    for scene in range(2):
        true = motion_amplitude(scenes[scene]["spectral"])[1::2, 1::2] * 2
        torch.testing.assert_close(total_level(made["motion"])[scene], true)
        expected = scenes[scene]["level"][1::2, 1::2] * 2
        torch.testing.assert_close(made["level"][scene], expected)


def test_every_weight_learns_and_the_generator_decides(batch):
    task, made = batch
    torch.nn.init.normal_(task.model.envelope[1].weight, std=0.01)
    task.model.train()
    task.loss(made, torch.Generator().manual_seed(0)).backward()
    # What starts as the identity hides what lies behind it for a step.
    asleep = {n for n, p in task.model.named_parameters() if p.grad is None}
    assert not asleep
    task.model.eval()  # without dropped features
    losses = [task.loss(made, torch.Generator().manual_seed(s)).item() for s in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_levels_of_clips_are_those_observed():
    spectral = torch.randn(3, 2, 8, 8, dtype=torch.complex64)

    class Clip:
        def example(self, number, seed):
            return Example(torch.rand(3, 16, 16), spectral, torch.ones(8, 8, dtype=torch.bool))

    level = MotionDataset([Clip()])[0]["level"]
    torch.testing.assert_close(level, motion_amplitude(spectral))


def test_a_start_that_measured_nothing_gets_what_the_run_measures(scenes, tiny, tmp_path):
    """The scale of bins, which data tell; one that was measured goes with its weights."""
    config, start = tiny(part="modes", steps=1, learning_rate=1e-12, **SMALL), ModesNet(4, 3, 2)
    assert not start.fitted
    for name in ("fresh", "fitted"):
        start.save_pretrained(tmp_path / name)
        options = RunOptions(start=tmp_path / name)
        trained = train(config, tmp_path / f"from {name}", scenes, options=options)
        assert trained.fitted and torch.equal(trained.scale, start.scale) == start.fitted
        assert torch.allclose(trained.level.weight, start.level.weight, atol=1e-6)
        start.scale[0] *= 2


@pytest.mark.slow
def test_modes_then_drawer_then_a_pipeline(tmp_path, tiny_scenes, tiny):
    run_training(tiny(part="modes", **SMALL), tmp_path / "modes")
    drawer = tiny(part="drawer", **SMALL)
    run_training(drawer, tmp_path / "drawer", parts=[tmp_path / "modes"], export=tmp_path / "pipe")
    parts, stats = load_parts([tmp_path / "modes", tmp_path / "drawer"])
    assert parts.keys() == {"modes", "drawer"} and stats is None
    assert all((tmp_path / p / "sheets" / "step_0000002.png").is_file() for p in parts)
    pipeline = GidPipeline.from_pretrained(tmp_path / "pipe")
    assert pipeline.representation == "modes"
    output = pipeline(torch.rand(3, 64, 64), num_inference_steps=2)
    assert output.spectral.isfinite().all() and output.spectral.abs().max() > 0
    assert pipeline.surprise(torch.rand(3, 64, 64), output.spectral) == pytest.approx(0, abs=2)


@pytest.mark.parametrize("coordination", ["attention", "independent", "volume"])
def test_variants_of_the_drawer_train(coordination, batch, scenes, tiny):
    config = tiny(part="drawer", coordination=coordination, **SMALL)
    task = TASKS["drawer"](config, scenes, None, {"modes": batch[0].model})
    made = task.make([scenes[0], scenes[1]])
    task.loss(made, torch.Generator().manual_seed(0)).backward()
    assert task.model.config.coordination == coordination
    assert task.model.leave.weight.grad.abs().sum() > 0
