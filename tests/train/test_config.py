"""Settings: what is refused, and how the learning rate runs."""

import json
import math
import re
import shutil

import jaxtyping
import pytest

from gidlite.__main__ import main
from gidlite.data.shards import write_scene_shards
from gidlite.errors import GidliteError
from gidlite.pipeline import WEIGHTS
from gidlite.prior.modes import ModesNet
from gidlite.train import RunOptions, TrainConfig, learning_rate, load_parts


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", "ten"), ("steps", []), ("steps", -1), ("steps", 0), ("steps", 1.5),
        ("steps", True), ("steps", None), ("seed", -1), ("warmup_steps", -1),
        ("learning_rate", math.nan), ("learning_rate", math.inf), ("learning_rate", 0),
        ("learning_rate", "1e-3"), ("learning_rate", None), ("decay_minutes", 0),
        ("decay_minutes", math.nan), ("feature_dropout", 1.0), ("ema_decay", 1), ("real_share", 2),
        ("percentile", 101), ("mixed_precision", 1), ("guided", "no"), ("part", "unet"),
        ("part", []), ("normalization", None), ("autoencoder_channels", 8),
        ("autoencoder_channels", (8,)), ("renderer_channels", (8, 8, 0)),
        ("slices_per_scene", 17), ("seed", 1 << 63), ("seed", True), ("steps", 10**12),
        ("height", 100), ("width", 0), ("height", 4096), ("grid_stride", 3),
        ("grid_stride", 1), ("grid_stride", True),
        ("num_frames", 3), ("num_frequencies", 1), ("num_frequencies", 76), ("learning_rate", -1),
        ("learning_rate", True), ("autoencoder_channels", (10**9, 8)),
        ("renderer_channels", (1, 1, 1)), ("part", True),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_one_sentence(key, value, tmp_path, monkeypatch):
    """Naming the key, to users, who run without the type checker of this suite."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(GidliteError, match=rf"^{key} is [^\n]*$"):
        TrainConfig(**{key: value})
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value}))
    with pytest.raises(GidliteError, match=rf"^\S*config.json: {key} is [^\n]*$"):
        TrainConfig.from_json(path)


def test_a_config_is_read_as_it_was_written(tmp_path):
    config = TrainConfig(learning_rate=1, decay_minutes=2, autoencoder_channels=(8, 16))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_json()))
    assert TrainConfig.from_json(path) == config
    assert TrainConfig.from_json(path, part="vae").part == "vae"
    for content, problem in (
        ('{"stepz": 3}', "unknown keys stepz; valid: autoencoder_channels, .*steps"),
        ('{"": 3}', "unknown keys ; valid: autoencoder_channels"),
        ("[]", "holds no JSON object"), ("{", "not a readable JSON config"),
        ("[" * 100_000, "not a readable JSON config"), ("\0", "not a readable JSON config"),
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(GidliteError, match=problem):
            TrainConfig.from_json(path)


def test_the_decay_ends_with_the_time_or_the_steps_whichever_is_first():
    config = TrainConfig(steps=100, warmup_steps=0, learning_rate=1.0, decay_minutes=2.0)
    assert learning_rate(config, 0, 0.0) == pytest.approx(1)
    assert learning_rate(config, 0, 60.0) == pytest.approx(0.51)
    assert learning_rate(config, 0, 120.0) == pytest.approx(0.02)
    assert learning_rate(config, 100, 0.0) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"minutes": math.nan}, "minutes is nan"), ({"minutes": -1.0}, "minutes is -1"),
        ({"minutes": math.inf}, "minutes is inf"), ({"workers": -1}, "workers is -1"),
        ({"workers": 10**6}, "workers is 1000000"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, problem):
    with pytest.raises(GidliteError, match=problem):
        RunOptions(**options)


@pytest.fixture(scope="module")
def small_shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_scene_shards(folder, count=1, size=(64, 96))
    return folder


def refused(capsys, monkeypatch, *arguments) -> str:
    """Return what the command says, which has to be one sentence, with exit code 2."""
    monkeypatch.setattr("sys.argv", ["gidlite", "train", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize(
    ("part", "changes", "problem"),
    [
        ("modes", "--out FILE", "FILE: it is an existing file"),
        ("modes", "--out FILE/deeper", "cannot write .*FILE/deeper"),
        ("modes", "--out /proc/nothing", "cannot write /proc/nothing"),
        ("drawer", "--export FILE", "FILE: it is an existing file"),
        ("modes", "--export DIR", "--export goes with"),
        ("modes", "--data SHARDS", "holds samples of 96x64, 256x160 are needed"),
        ("modes", "--data FILE", "index.json is no JSON object"),
        ("renderer", "--data SHARDS", "holds no pairs"),
        ("modes", "--device meta", "device 'meta' cannot be used"),
        ("modes", "--device cuda:99", "device 'cuda:99' cannot be used"),
        ("modes", "--device nonsense", "device 'nonsense' cannot be used"),
        ("modes", "--device hpu", "device 'hpu' cannot be used"),
        ("modes", "--workers -1", "workers is -1"),
        ("modes", "--minutes nan", "minutes is nan"),
        ("modes", "--start DIR", "holds no trained part"),
        ("modes", "--start WEIGHTS/drawer", "a Drawer of other sizes than the ModesNet"),
        ("modes", "--start OTHER", "a ModesNet of other sizes"),
        ("drawer", "--parts DIR", "holds no trained part"),
        ("drawer", "--parts OTHER", "num_frequencies is 16, and the modes has 4"),
        ("modes", "--sprites DIR", "has no manifest.csv"),
        ("modes", "--out DAMAGED --resume", "no readable checkpoint"),
        ("modes", "--out MODEL", "already holds a run"),
        ("nothing", "--out DIR", "part is 'nothing'"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_one_sentence_before_any_work(
    part, changes, problem, tmp_path, small_shards, capsys, monkeypatch
):
    def work(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr("gidlite.data.world.pieces.Pieces.painted", work)
    (tmp_path / "FILE").write_text("kept")
    for name in ("DIR", "DAMAGED/checkpoint", "MODEL/model"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "DAMAGED" / "checkpoint" / "state.safetensors").write_bytes(b"half")
    (tmp_path / "MODEL" / "model" / "config.json").write_text("{}")
    ModesNet(4, 3, 2).save_pretrained(tmp_path / "OTHER")
    (tmp_path / "config.json").write_text("{}")
    places = {"SHARDS": small_shards, "WEIGHTS": WEIGHTS / "modes"}
    places |= {name: tmp_path / name for name in ("FILE", "DIR", "DAMAGED", "MODEL", "OTHER")}
    for name, path in places.items():
        changes = changes.replace(name, str(path))
    arguments = ["--config", tmp_path / "config.json", "--out", tmp_path / "out", *changes.split()]
    said = refused(capsys, monkeypatch, part, *arguments)
    assert re.search(problem, said), said
    assert not (tmp_path / "out").exists() and (tmp_path / "FILE").read_text() == "kept"


def test_trained_parts_may_be_those_of_a_pipeline(tmp_path):
    assert load_parts([WEIGHTS / "modes"])[0].keys() == {"modes", "drawer"}
    parts, stats = load_parts(["grid"])
    assert parts.keys() == {"autoencoder", "amplitude", "denoiser"} and len(stats.scale) == 16
    shutil.copytree(WEIGHTS / "modes", tmp_path / "mine")
    assert load_parts([tmp_path / "mine"])[0].keys() == {"modes", "drawer"}
    weights = tmp_path / "mine" / "modes" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(GidliteError, match=r"mine/modes holds no trained part that can be read"):
        load_parts([tmp_path / "mine"])
