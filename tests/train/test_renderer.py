"""The renderer's part of training: learns, stops and goes on, leaves a network to render with."""

import json

import pytest
import torch
from torch.nn import functional

from gidlite.__main__ import main
from gidlite.data import MotionDataset
from gidlite.data.pairs import ScenePairs
from gidlite.data.splits import SHEETS
from gidlite.media import read_image
from gidlite.render.network import load_renderer
from gidlite.train import RunOptions, TrainConfig, load_checkpoint
from gidlite.train.loop import train
from gidlite.train.tasks import RendererTask, trusted_targets

TINY = {
    "part": "renderer", "height": 48, "width": 64, "scenes_per_step": 2, "new_scenes_per_step": 1,
    "pool_size": 8, "steps": 4, "warmup_steps": 1, "learning_rate": 1e-3, "ema_decay": 0.5,
    "renderer_channels": (8, 8, 8), "mixed_precision": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs(pieces):
    source = ScenePairs(pieces, height=48, width=64, scenes=2, times=2)
    return MotionDataset([source], length=1 << 40)


def test_pair_number_i_is_the_same_whatever_was_asked_before(pairs):
    before = pairs[7]
    for number in (0, 12, 3):
        pairs[number]
    after = pairs[7]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_scene_pairs_agree_with_their_motion(pairs):
    """Sampling the second frame where the motion points resembles the first; elsewhere, less."""
    gaps = torch.zeros(3)
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    for number in range(16):
        pair = pairs[number]
        first, second = (pair[name].float() / 255 for name in ("first", "second"))
        moving = pair["motion"].float().norm(dim=0) > 0.5
        for place, sign in enumerate((1, 0, -1)):
            moved = torch.stack([x, y]) + sign * pair["motion"].float()
            grid = torch.stack([(2 * moved[0] + 1) / 64 - 1, (2 * moved[1] + 1) / 48 - 1], dim=-1)
            back = functional.grid_sample(second[None], grid[None], align_corners=False)[0]
            gaps[place] += (back - first).abs().mean(0)[moving].sum()
    assert gaps[0] < 0.8 * gaps[1] and gaps[1] < gaps[2]


def test_untrusted_pixels_and_what_they_uncover_weigh_nothing():
    motion = torch.zeros(1, 2, 32, 32)
    motion[:, 0, :, 16:] = 6.0
    reliable = torch.ones(1, 1, 32, 32)
    reliable[..., :16, 16:] = 0
    weight = trusted_targets(motion, reliable)[0, 0]
    assert (weight[:14, 22:] == 0).all()
    assert (weight[18:, 22:] == 1).all() and (weight[20:, 17:21] == 1).all()
    assert (weight[18:, :12] < 0.2).all() and (weight[18:, :12] > 0).all()


def test_training_goes_on_where_it_stopped(tmp_path, pairs):
    config = TrainConfig(**TINY)
    whole = train(config, tmp_path / "a", pairs)
    train(config, tmp_path / "b", pairs, options=RunOptions(minutes=0))
    assert load_checkpoint(tmp_path / "b")[1]["step"] == 1
    resumed = train(config, tmp_path / "b", pairs, options=RunOptions(resume=True))
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)
    sheet = read_image(tmp_path / "a" / "sheets" / "step_0000004.png")
    tiles = sheet.unflatten(2, (4, 72)).unflatten(1, (6, 56))[:, :, 4:-4, :, 4:-4]
    for row in range(6):
        pair, (first, second, _, made) = pairs[SHEETS[4 * row]], tiles[:, row].unbind(2)
        assert torch.allclose(first, pair["first"] / 255, atol=0.005)
        assert torch.allclose(second, pair["second"] / 255, atol=0.005)
        assert (made - second).abs().mean() < 0.2


@pytest.mark.slow
def test_the_loss_falls(pairs):
    torch.manual_seed(0)
    task = RendererTask(TrainConfig(**TINY), pairs)
    batch = task.make([pairs[number] for number in range(8)])
    optimizer = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        loss = task.loss(batch, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_the_command_trains_and_exports(tmp_path, monkeypatch, capsys, pairs):
    monkeypatch.setattr("gidlite.train.make_dataset", lambda *a, **k: pairs)
    config = tmp_path / "renderer.json"
    config.write_text(json.dumps(TINY | {"steps": 1}))
    arguments = ["train", "renderer", "--config", str(config), "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["gidlite", *arguments, "--export", str(tmp_path / "net")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code, capsys.readouterr().err
    assert load_renderer(tmp_path / "net").config.channels == [8, 8, 8]
