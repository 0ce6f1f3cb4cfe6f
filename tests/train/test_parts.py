"""All parts one after another, tiny, up to a pipeline that runs."""

import json

import pytest
import torch
from torch.nn import functional

from gidlite.__main__ import main
from gidlite.data import load_items
from gidlite.data.shards import write_scene_shards
from gidlite.data.splits import SHEETS
from gidlite.errors import GidliteError
from gidlite.media import read_image
from gidlite.motion.normalize import FrequencyStats, normalize, save_stats
from gidlite.pipeline import GidPipeline
from gidlite.prior import AmplitudeNet
from gidlite.prior.autoencoder import SliceAutoencoder
from gidlite.prior.denoiser import Denoiser
from gidlite.train import STATS, RunOptions, TrainConfig, load_parts, make_dataset
from gidlite.train.loop import TASKS, run_training
from gidlite.train.tasks import fit_stats
from gidlite.viz import motion_tile


@pytest.fixture
def tiny_scenes(monkeypatch, scenes):
    monkeypatch.setattr("gidlite.train.make_dataset", lambda *a, **k: scenes)


def check_sheet(path, scenes, truth):
    """Photos stand on the left, the truth beside them, and on the right what was made of them."""
    sheet = read_image(path)
    assert sheet.shape == (3, 3 * 72, 3 * 72)
    tiles = sheet.unflatten(2, (3, 72)).unflatten(1, (3, 72))[:, :, 4:-4, :, 4:-4]
    for row in range(3):
        item = scenes[SHEETS[row]]
        photo, true, made = tiles[:, row].unbind(2)
        assert torch.allclose(photo, item["image"].clamp(0, 1), atol=0.005)
        if truth is not None:
            assert torch.allclose(true, truth(item).expand(3, -1, -1), atol=0.005)
        assert torch.equal(made, made[:1].expand(3, -1, -1))
        assert not torch.allclose(made, true, atol=0.02)


@pytest.mark.slow
def test_parts_build_on_each_other(tmp_path, tiny_scenes, scenes, tiny):
    def slices(item):
        _, stats = load_parts([tmp_path / "vae"])
        maps = 0.5 + normalize(item["spectral"], stats)[1, 0] / 4
        return functional.interpolate(maps[None, None], (64, 64))[0].clamp(0, 1)

    def motion(item):
        return motion_tile(item["spectral"], height=64, width=64)

    finished = []
    truths = {"vae": slices, "amplitude": None, "prior": motion, "coordinate": motion}
    for part, truth in truths.items():
        config = tiny(part=part, slices_per_scene=4 if part == "coordinate" else 2)
        out = tmp_path / part
        run_training(config, out, parts=finished, export=tmp_path / "pipe")
        finished.append(out)
        check_sheet(out / "sheets" / "step_0000002.png", scenes, truth)
    parts, stats = load_parts(finished)
    assert parts["denoiser"].config.coordination == "attention"
    # Stage 2 leaves the two-dimensional layers as they were.
    before, _ = load_parts([tmp_path / "prior"])
    frozen, now = before["denoiser"].state_dict(), parts["denoiser"].state_dict()
    assert frozen.keys() < now.keys()
    for name, tensor in frozen.items():
        assert torch.equal(tensor, now[name]), name
    assert any(now[k].abs().sum() > 0 for k in now if k.endswith("out.weight") and "freq" in k)
    pipeline = GidPipeline.from_pretrained(tmp_path / "pipe")
    output = pipeline(torch.rand(3, 64, 64), num_inference_steps=2)
    assert output.spectral.isfinite().all() and len(stats.scale) == 4
    exported, beside = load_parts([tmp_path / "pipe" / "autoencoder"])
    assert torch.equal(beside.scale, stats.scale) and exported.keys() == {"autoencoder"}
    with pytest.raises(GidliteError, match="needs a trained autoencoder and amplitude"):
        run_training(config, tmp_path / "other", parts=[tmp_path / "prior"])
    with pytest.raises(GidliteError, match=r"num_frequencies is 4, and the amplitude has 16"):
        run_training(config, tmp_path / "other")
    with pytest.raises(GidliteError, match="holds no trained part"):
        load_parts([tmp_path])


@pytest.mark.parametrize("coordination", ["independent", "volume"])
def test_variants_train(coordination, scenes, tiny):
    slices = 4 if coordination == "volume" else 2
    config = tiny(coordination=coordination, slices_per_scene=slices)
    parts = {"autoencoder": SliceAutoencoder((8, 16)), "amplitude": AmplitudeNet(4, 16)}
    task = TASKS["prior"](config, scenes, FrequencyStats(torch.ones(4)), parts)
    batch = task.make([scenes[0], scenes[1]])
    task.loss(batch, torch.Generator().manual_seed(0)).backward()
    assert isinstance(task.model, Denoiser)
    assert all(p.grad is not None for n, p in task.model.named_parameters() if "unet.conv" in n)
    losses = {task.loss(batch, torch.Generator().manual_seed(s)).item() for s in (1, 1, 2)}
    assert len(losses) == 2  # the generator decides, and nothing else


@pytest.mark.parametrize("real", [False, True])
def test_the_mix_of_a_run(real, tmp_path):
    """Scenes alone without real shards; with them, their share of all draws."""
    if real:
        write_scene_shards(tmp_path, count=2, num_frequencies=4, size=(64, 64))
    config = TrainConfig(num_frequencies=4, height=64, width=64, real_share=0.3)
    dataset = make_dataset(config, data=[tmp_path] if real else [])
    assert len(dataset.sources) == 1 + real
    assert dataset[0]["image"].shape == (3, 64, 64)
    assert dataset._shares.tolist() == pytest.approx([0.7, 1.0] if real else [1.0])


def test_other_processes_make_the_same_examples_in_order(scenes):
    numbers = [range(3), range(100, 102)]
    for batch, items in zip(numbers, load_items(scenes, numbers, workers=2), strict=True):
        for number, item in zip(batch, items, strict=True):
            for name, value in scenes[number].items():
                assert torch.equal(item[name], value), (number, name)


def test_the_amplitude_network_can_do_without_some_features(scenes, tiny):
    losses = {}
    for share in (0.0, 0.3):
        config = tiny(part="amplitude", feature_dropout=share)
        torch.manual_seed(0)
        parts = {"autoencoder": SliceAutoencoder((8, 16))}
        task = TASKS["amplitude"](config, scenes, FrequencyStats(torch.ones(4)), parts)
        batch = task.make([scenes[0], scenes[1]])
        draws = [torch.Generator().manual_seed(s) for s in (0, 0)]
        first, second = (task.loss(batch, g).item() for g in draws)
        assert first == second  # the generator decides, and nothing else
        losses[share] = first
    assert losses[0.0] != losses[0.3]


class HalfTrusted(torch.utils.data.Dataset):
    """Scenes whose motion on the left is wild, and not to be trusted."""

    def __init__(self, scenes, wild):
        self.scenes, self.wild = scenes, wild

    def __getitem__(self, number):
        item = {name: value.clone() for name, value in self.scenes[number].items()}
        item["reliable"][:, :16] = False
        item["spectral"][..., :16] *= self.wild
        return item


def test_statistics_are_of_trusted_motion(scenes, tiny):
    calm, wild = (fit_stats(tiny(), HalfTrusted(scenes, factor)).scale for factor in (1, 1000))
    assert torch.equal(calm, wild)


def test_the_autoencoder_learns_from_trusted_motion(scenes, tiny):
    task = TASKS["vae"](tiny(part="vae"), scenes, FrequencyStats(torch.ones(4)))

    def loss(wild, trust=False):
        batch = task.make([HalfTrusted(scenes, wild)[0]])
        batch["reliable"] |= trust
        return task.loss(batch, torch.Generator().manual_seed(0)).item()

    assert loss(1) == loss(1000)
    assert loss(1, trust=True) != loss(1000, trust=True)


def test_the_command_refuses_a_part_without_its_parts(tmp_path, capsys, monkeypatch):
    config = tmp_path / "prior.json"
    config.write_text(json.dumps({"part": "prior"}))
    AmplitudeNet().save_pretrained(tmp_path / "amplitude")
    save_stats(tmp_path / STATS, FrequencyStats(torch.ones(16)))
    arguments = ["gidlite", "train", "prior", "--config", str(config), "--out", str(tmp_path / "o")]
    arguments += ["--parts", str(tmp_path / "amplitude")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "needs a trained autoencoder; name" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_run_starts_from_weights(tmp_path, tiny_scenes, tiny):
    """With a learning rate of almost nothing they come out as they went in."""
    config = tiny(part="vae", steps=1, learning_rate=1e-12)
    start = SliceAutoencoder((8, 16))
    start.save_pretrained(tmp_path / "start")
    run_training(config, tmp_path / "run", options=RunOptions(start=tmp_path / "start"))
    trained = SliceAutoencoder.from_pretrained(tmp_path / "run" / "model")
    for name, value in start.state_dict().items():
        assert torch.allclose(trained.state_dict()[name], value, atol=1e-6), name
    SliceAutoencoder((16, 32)).save_pretrained(tmp_path / "other")
    with pytest.raises(GidliteError, match="other sizes"):
        run_training(config, tmp_path / "next", options=RunOptions(start=tmp_path / "other"))


def test_training_the_decoder_alone_leaves_latents_valid(tmp_path, tiny_scenes, tiny):
    whole, alone = tmp_path / "whole", tmp_path / "alone"
    run_training(tiny(part="vae"), whole)
    config, options = tiny(part="vae", decoder_only=True), RunOptions(start=whole)
    for given in ({}, {"options": options}, {"parts": [whole]}):
        with pytest.raises(GidliteError, match="decoder_only needs"):
            run_training(config, tmp_path / "refused", **given)
    run_training(config, alone, parts=[whole], options=options)
    # The scale of the latents is no part of a checkpoint: it comes with --start every time.
    with pytest.raises(GidliteError, match="decoder_only needs"):
        run_training(config, alone, parts=[whole], options=RunOptions(resume=True))
    before, after = load_parts([whole]), load_parts([alone])
    assert torch.equal(before[1].scale, after[1].scale)
    before, after = before[0]["autoencoder"], after[0]["autoencoder"]
    packed = torch.randn(1, 4, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    latents = before.encode(packed)
    assert torch.equal(latents, after.encode(packed))
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(before.decode(latents, photo), after.decode(latents, photo))
