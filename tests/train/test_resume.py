"""A run that stops and goes on is the run that did not stop."""

import pytest
import torch
from accelerate import Accelerator
from tiny_task import TinyTask, rows, tiny_config, train_task

from gidlite.errors import GidliteError
from gidlite.motion.normalize import FrequencyStats, load_stats
from gidlite.train import STATS, RunOptions, load_checkpoint
from gidlite.train.loop import train
from gidlite.train.trainer import scene_batches


def test_the_loss_curve_after_resuming_equals_the_uninterrupted_one(tmp_path):
    config, noise = tiny_config(), 0.1
    whole = train_task(config, TinyTask(noise), tmp_path / "a")
    for resume in (False, True, True):
        torch.rand(5)  # whatever else a program draws must not matter
        train_task(config, TinyTask(noise), tmp_path / "b", minutes=0, resume=resume)
    assert load_checkpoint(tmp_path / "b")[1]["step"] == 3
    with (tmp_path / "b" / "log.csv").open("a") as stream:
        stream.write("4,0.1,7,7,7,7,\n5,0.1,7,7,7,7,\n")  # logged, but killed before a checkpoint
    resumed = train_task(config, TinyTask(noise), tmp_path / "b", resume=True)
    for column in ("step", "loss", "smoothed_loss", "learning_rate", "gradient_norm"):
        curves = [[row[column] for row in rows(tmp_path / name)] for name in "ab"]
        assert curves[0] == curves[1] and len(set(curves[0])) > 10, column
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_resumed_autoencoder_equals_the_uninterrupted_one(tmp_path, scenes, tiny):
    config = tiny(part="vae", steps=4, learning_rate=1e-2)
    stats = FrequencyStats(torch.linspace(1, 2, 4))
    whole = train(config, tmp_path / "a", scenes, stats=stats)
    train(config, tmp_path / "b", scenes, stats=stats, options=RunOptions(minutes=0))
    resumed = train(config, tmp_path / "b", scenes, options=RunOptions(resume=True))
    kept = load_stats(tmp_path / "b" / "model" / STATS)
    assert torch.equal(kept.scale, stats.scale) and load_checkpoint(tmp_path / "b")[1]["step"] == 4
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(GidliteError, match="without --resume"):
        train_task(tiny_config(), TinyTask(), tmp_path / "new", resume=True)
    train_task(tiny_config(), TinyTask(), tmp_path, minutes=0)
    with pytest.raises(GidliteError, match="pass --resume or another --out"):
        train_task(tiny_config(), TinyTask(), tmp_path)
    with pytest.raises(GidliteError, match="learning_rate, seed differ"):
        train_task(tiny_config(seed=1, learning_rate=2e-2), TinyTask(), tmp_path, resume=True)
    assert load_checkpoint(tmp_path)[1]["step"] == 1


def test_the_pool_after_a_resume_is_the_pool_without_one():
    task, alone = TinyTask(), Accelerator(cpu=True)
    task.config = tiny_config(pool_size=5, scenes_per_step=20)
    running = scene_batches(task, alone, 0)
    drawn = [next(running)["x"] for _ in range(8)][-1]
    assert torch.equal(drawn, next(scene_batches(task, alone, 7))["x"])
    assert len(drawn.unique(dim=0)) == 5
