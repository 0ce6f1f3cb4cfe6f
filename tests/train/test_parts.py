"""All parts one after another from the command line, tiny, up to a pipeline that runs."""

import json

import pytest
import torch

from gidlite.__main__ import main
from gidlite.data import MotionDataset, SyntheticSource
from gidlite.data.shards import write_scene_shards
from gidlite.data.world.pieces import Pieces
from gidlite.errors import GidliteError
from gidlite.media import read_image
from gidlite.motion.normalize import FrequencyStats
from gidlite.pipeline import GidPipeline
from gidlite.prior.denoiser import Denoiser
from gidlite.train import TrainConfig
from gidlite.train.loop import load_parts, make_dataset, make_task, run_training

TINY = {
    "num_frequencies": 4, "height": 64, "width": 64, "scenes_per_step": 2, "slices_per_scene": 2,
    "pool_size": 8, "steps": 2, "warmup_steps": 1, "autoencoder_channels": [8, 16],
    "denoiser_channels": [32, 32, 32], "mixed_precision": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny_dataset():
    pieces = Pieces.painted(count=17, generator=torch.Generator().manual_seed(1))
    source = SyntheticSource(pieces, height=64, width=64, grid_stride=2, num_frequencies=4)
    return MotionDataset([source], length=1 << 40)


@pytest.mark.slow
def test_parts_build_on_each_other(tmp_path, monkeypatch, tiny_dataset):
    monkeypatch.setattr("gidlite.train.run.make_dataset", lambda *a, **k: tiny_dataset)
    finished = []
    for part in ("vae", "amplitude", "prior", "coordinate"):
        slices = 4 if part == "coordinate" else 2
        config = TrainConfig(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in TINY.items()}
            | {"part": part, "slices_per_scene": slices}
        )
        out = tmp_path / part
        run_training(config, out, parts=finished, export=tmp_path / "pipe")
        finished.append(out)
        sheet = read_image(out / "sheets" / "step_0000002.png")
        assert sheet.std() > 0.05  # photos beside what was made of them
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
    with pytest.raises(GidliteError, match="needs a trained autoencoder"):
        run_training(config, tmp_path / "other")
    with pytest.raises(GidliteError, match="holds no trained part"):
        load_parts([tmp_path])


@pytest.mark.parametrize("coordination", ["independent", "volume"])
def test_variants_train(coordination, tiny_dataset):
    from gidlite.prior import AmplitudeNet
    from gidlite.prior.autoencoder import SliceAutoencoder

    slices = 4 if coordination == "volume" else 2
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in TINY.items()}
    config = TrainConfig(**options | {"coordination": coordination, "slices_per_scene": slices})
    finished = {"autoencoder": SliceAutoencoder((8, 16)), "amplitude": AmplitudeNet(4, 16)}
    task = make_task(config, tiny_dataset, FrequencyStats(torch.ones(4)), "cpu", **finished)
    batch = task.make(range(2))
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


def test_the_amplitude_network_can_do_without_some_features(tiny_dataset):
    from gidlite.prior.autoencoder import SliceAutoencoder

    options = {k: tuple(v) if isinstance(v, list) else v for k, v in TINY.items()}
    losses = {}
    for share in (0.0, 0.3):
        config = TrainConfig(**options | {"part": "amplitude", "feature_dropout": share})
        torch.manual_seed(0)
        task = make_task(
            config, tiny_dataset, FrequencyStats(torch.ones(4)), "cpu",
            autoencoder=SliceAutoencoder((8, 16)),
        )  # fmt: skip
        batch = task.make(range(2))
        draws = [torch.Generator().manual_seed(s) for s in (0, 0)]
        first, second = (task.loss(batch, g).item() for g in draws)
        assert first == second  # the generator decides, and nothing else
        losses[share] = first
    assert losses[0.0] != losses[0.3]
    with pytest.raises(GidliteError, match=r"feature_dropout is 1\.0"):
        TrainConfig(feature_dropout=1.0)


def test_the_command_refuses_a_part_without_its_parts(tmp_path, capsys, monkeypatch):
    config = tmp_path / "prior.json"
    config.write_text(json.dumps({"part": "prior"}))
    arguments = ["gidlite", "train", "prior", "--config", str(config), "--out", str(tmp_path / "o")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "needs a trained autoencoder and amplitude" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_training_the_decoder_alone_leaves_latents_valid(tmp_path, monkeypatch, tiny_dataset):
    monkeypatch.setattr("gidlite.train.run.make_dataset", lambda *a, **k: tiny_dataset)
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in TINY.items()}
    whole = TrainConfig(**settings | {"part": "vae"})
    run_training(whole, tmp_path / "whole")
    alone = TrainConfig(**settings | {"part": "vae", "decoder_only": True})
    for given in ({}, {"start": tmp_path / "whole"}):
        with pytest.raises(GidliteError, match="decoder_only needs"):
            run_training(alone, tmp_path / "refused", **given)
    run_training(alone, tmp_path / "alone", parts=[tmp_path / "whole"], start=tmp_path / "whole")
    before, after = (load_parts([tmp_path / name]) for name in ("whole", "alone"))
    assert torch.equal(before[1].scale, after[1].scale)
    before, after = before[0]["autoencoder"], after[0]["autoencoder"]
    packed = torch.randn(1, 4, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    latents = before.encode(packed)
    assert torch.equal(latents, after.encode(packed))
    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(before.decode(latents, photo), after.decode(latents, photo))
