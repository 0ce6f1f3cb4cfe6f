"""The pipeline with a tiny untrained model, its files, and the command line."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_pipeline import run, tiny

from gidlite.cli.photo import _warn
from gidlite.errors import GidliteError
from gidlite.loops import loop_gap
from gidlite.media import read_image, sample_photo, write_image
from gidlite.motion import SpectralVolume, load_volume, save_volume
from gidlite.motion.spectral import motion_amplitude, resize_spectral
from gidlite.pipeline import (
    DEFAULT,
    FARTHEST,
    REPRESENTATIONS,
    WEIGHTS,
    GidPipeline,
    Sampling,
    working_size,
)  # fmt: skip
from gidlite.render import farthest_motion

shipped = pytest.mark.skipif(
    not (WEIGHTS / DEFAULT / "pipeline.json").is_file(), reason="no shipped weights"
)


@pytest.fixture(params=REPRESENTATIONS)
def pipeline(request):
    return tiny(request.param)


def test_seed_decides_and_motion_starts_at_the_photo(pipeline):
    first, again, other = run(pipeline), run(pipeline), run(pipeline, seed=1)
    assert torch.equal(first.spectral, again.spectral)
    assert not torch.allclose(first.spectral, other.spectral)
    assert first.motion(num_frames=3)[0].abs().max() < 1e-3
    assert first.spectral.shape[-2:] == working_size(40, 60)


def test_loops_of_any_length(pipeline):
    free = run(pipeline)
    for options in (
        {"loop": 60, "sampling": Sampling(close=False)},
        {"loop": 150},
        {"loop": False},
    ):
        assert torch.equal(run(pipeline, **options).spectral, free.spectral)
    closed = run(pipeline, loop=60)
    guided = run(pipeline, loop=60, sampling=Sampling(loop_weight=0.003))
    assert (closed.loop_frames, free.loop_frames) == (60, None)
    assert not torch.allclose(closed.spectral, guided.spectral)
    for output in (closed, guided):
        gap = loop_gap(output.spectral, num_frames=150, loop_frames=60)
        assert gap.abs().max() < 1e-4 * output.motion().abs().max()
        assert len(output.motion()) == 60 and output.motion()[0].abs().max() < 1e-3
    for length in (1, 0, -60):
        with pytest.raises(GidliteError, match=f"loop is {length} frames long"):
            run(pipeline, loop=length)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"wind": -0.1}, "wind"),
        ({"wind": float("nan")}, "wind"),
        ({"loop_weight": float("inf")}, "loop weight"),
        ({"recurrence": 0}, "recurrence"),
        ({"solver": "euler"}, "use dpm or ddim"),
    ],
)
def test_rarer_options_validate_themselves(option, words):
    with pytest.raises(GidliteError, match=words):
        Sampling(**option)


def test_save_and_load_agree(pipeline, tmp_path):
    before = {name: part.state_dict() for name, part in pipeline._parts().items()}
    before = {name: {k: v.clone() for k, v in state.items()} for name, state in before.items()}
    for _ in range(2):  # also over what is there already
        pipeline.save_pretrained(tmp_path / "model")
    for name, part in pipeline._parts().items():
        assert all(torch.equal(v, before[name][k]) for k, v in part.state_dict().items()), name
    loaded = GidPipeline.from_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "pipeline.json").read_text())
    assert (config["version"], config["representation"]) == (4, loaded.representation)
    assert loaded.representation == pipeline.representation
    assert torch.allclose(run(loaded).spectral, run(pipeline).spectral, atol=0.05)
    with pytest.raises(GidliteError, match=r"pipeline\.json"):
        GidPipeline.from_pretrained(tmp_path)


NETWORK_FILES = ("config.json", "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    ("representation", "missing"),
    [("grid", "frequency_stats.safetensors"), ("grid", "pipeline.json"), ("modes", "pipeline.json")]
    + [
        (representation, f"{part}/{name}")
        for representation, prior in REPRESENTATIONS.items()
        for part in prior.PARTS
        for name in NETWORK_FILES
    ],
)
def test_an_incomplete_folder_is_refused_by_the_name_of_what_is_missing(
    representation, missing, tmp_path
):
    tiny(representation).save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(GidliteError) as refused:
        GidPipeline.from_pretrained(tmp_path)
    message = str(refused.value)
    assert missing in message and "\n" not in message and "hub" not in message.lower()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fps": None}, "lacks fps"),
        ({"name": None, "num_frames": None}, "lacks name, num_frames"),
        ({"fps": 0}, "150 frames at 0 a second"),
        ({"fps": float("nan")}, "at nan a second"),
        ({"num_frames": "many"}, "many frames"),
        ({"version": 3}, "unknown format or version"),
        ({"representation": "words"}, "unknown format or version"),
        ({"representation": "grid"}, "incomplete or damaged"),
        ({"representation": None}, "unknown format or version"),
    ],
)
def test_a_damaged_configuration_is_refused(tmp_path, changed, words):
    tiny("modes").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "pipeline.json").read_text()) | changed
    config = {key: value for key, value in config.items() if value is not None}
    (tmp_path / "pipeline.json").write_text(json.dumps(config))
    with pytest.raises(GidliteError, match=words):
        GidPipeline.from_pretrained(tmp_path)


def test_working_size_keeps_the_aspect_and_the_amount():
    for height, width in ((427, 640), (640, 427), (3000, 4000), (100, 3000)):
        rows, columns = working_size(height, width)
        assert rows % 32 == 0 and columns % 32 == 0
        assert 0.5 < rows * columns / (256 * 160) < 2


def test_volume_file_round_trip(tmp_path, generator):
    volume = SpectralVolume(
        torch.randn(4, 2, 6, 8, dtype=torch.complex64, generator=generator), 90, 24.0, 5, "m"
    )
    save_volume(tmp_path / "v.safetensors", volume)
    again = load_volume(tmp_path / "v.safetensors")
    assert torch.equal(again.spectral, volume.spectral)
    assert (again.num_frames, again.fps, again.seed, again.model) == (90, 24.0, 5, "m")
    (tmp_path / "bad.safetensors").write_bytes(b"not this")
    with pytest.raises(GidliteError, match="not a safetensors file"):
        load_volume(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fps": "0"}, "at 0.0 a second"),
        ({"fps": "-5"}, "a second, which no video has"),
        ({"fps": "inf"}, "at inf a second"),
        ({"fps": "nan"}, "at nan a second"),
        ({"num_frames": "1000001"}, "1000001 frames"),
        ({"num_frames": "-1"}, "-1 frames"),
        ({"num_frames": "some"}, "damaged"),
        ({"height": "7"}, "contradicts"),
        ({"num_frames": "5"}, "contradicts"),
        ({"packed": math.nan}, "NaN"),
        ({"packed": math.inf}, "infinite"),
        ({"version": "2"}, "format version 2"),
        ({"format": "other"}, "not a spectral volume"),
    ],
)
def test_an_absurd_volume_file_is_refused(tmp_path, changed, words):
    path = tmp_path / "v.safetensors"
    save_volume(path, SpectralVolume(torch.zeros(4, 2, 6, 8, dtype=torch.complex64), 90, 24.0))
    with safe_open(path, framework="pt") as file:
        packed, metadata = file.get_tensor("packed"), file.metadata()
    packed[2, 1, 3, 4] = changed.get("packed", 0.0)
    save_file({"packed": packed}, path, metadata | {k: str(v) for k, v in changed.items()})
    with pytest.raises(GidliteError, match=words) as refused:
        load_volume(path)
    assert "\n" not in str(refused.value)


def gidlite(*arguments):
    command = [sys.executable, "-m", "gidlite", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("animate", "missing.jpg"), "does not exist"),
        (("animate", "{photo}", "--seconds", "nan"), "positive number"),
        (("animate", "{photo}", "--amplify", "9"), "between 0 and 5"),
        (("animate", "{photo}", "--quality", "2"), "quality must lie in [0, 1]"),
        (("animate", "{photo}", "-o", "{photo}/x.mp4"), "x.mp4"),
        (("animate", "{photo}", "-o", "film.doc"), "film.doc"),
        (("animate", "{tiny}",), "tiny.png"),
        (("animate", "{photo}", "--steps", "0"), "steps"),
        (("animate", "{photo}", "--guidance", "nan"), "guidance"),
        (("animate", "{photo}", "--wind", "strong"), "give calm, breeze, gusty, seed or"),
        (("predict", "{photo}", "--wind", "2"), "--wind is 2;"),
        (("poke", "{photo}", "--wind", "nan"), "--wind is nan;"),
        (("predict", "{photo}", "--mask", "no.png"), "the path to a mask"),
        (("predict", "{photo}", "--mask", "{text}"), "text.mp4 is not a known image"),
        (("animate", "{photo}", "--mask", "{tiny}", "-o", "x.mp4", "--xt", "{tiny}"), "be lost"),
        (("predict", "{photo}", "--still", "40,3"), "--still is 40,3; give x,y in pixels of the"),
        (("predict", "{photo}", "--move", "5,-1"), "photo, which has 40x32"),
        (("predict", "{photo}", "--still", "10"), "--still is 10;"),
        (("render", "{photo}", "{photo}"), "not a safetensors file"),
        (("reanimate", "{text}"), "not a video"),
        (("train", "everything", "--config", "{text}", "--out", "{text}"), "JSON"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_exit_2(arguments, words, tmp_path):
    write_image(tmp_path / "photo.png", torch.rand(3, 32, 40))
    Image.new("RGB", (3, 3)).save(tmp_path / "tiny.png")
    (tmp_path / "text.mp4").write_text("hello")
    places = {name.split(".")[0]: tmp_path / name for name in ("photo.png", "tiny.png", "text.mp4")}
    before = set(tmp_path.iterdir())
    result = gidlite(*(a.format(**places) for a in arguments))
    assert result.returncode == 2, result.stderr
    assert words in result.stderr and "Traceback" not in result.stderr
    assert set(tmp_path.iterdir()) == before


def test_far_motion_is_said_to_be_far(tmp_path, capsys):
    spectral = torch.zeros(4, 2, 16, 24, dtype=torch.complex64)
    spectral[2, 0, :, 10:] = 1.0  # 2 px to either side of 24, which is 21.3 of 256
    volume = SpectralVolume(spectral)
    assert farthest_motion(volume) == pytest.approx(2 * 256 / 24)
    save_volume(tmp_path / "v.safetensors", volume)
    write_image(tmp_path / "photo.png", torch.rand(3, 32, 48))
    arguments = ("render", tmp_path / "photo.png", tmp_path / "v.safetensors", "--seconds", "1")
    far = gidlite(*arguments, "-o", tmp_path / "far.gif")
    assert "moves by 21 px of 256" in " ".join(far.stdout.split())
    for scale, amplify, words in (
        (1, 0.2, ""),
        (1, 0.02, "The motion is slight, 0.4 px of 256"),
        (FARTHEST * 24 / 512, 1, "The motion is held at 12 px of 256"),
        (FARTHEST * 24 / 512, 2, "Something moves by 24 px of 256"),
    ):
        _warn(replace(volume, spectral=scale * spectral), amplify)
        said = capsys.readouterr().out
        assert words in said and bool(words) == bool(said)


@shipped
def test_the_flower_moves_wherever_it_is_and_its_background_does_not():
    """Also in the mirror, so that it is not the place that moves; and nothing without a flower."""
    pipe = GidPipeline.from_pretrained()

    def rms(photo):
        output = pipe(photo, num_inference_steps=6, generator=torch.Generator().manual_seed(0))
        return motion_amplitude(resize_spectral(output.spectral, height=427, width=640))

    photo = read_image(sample_photo())
    for found in (rms(photo), rms(photo.flip(-1)).flip(-1)):
        # Soft leaves on the left move with it for now; the dark right side must not.
        flower, backdrop = found[150:300, 240:380].mean(), found[50:300, 480:620].mean()
        assert flower > 0.15 and backdrop < 0.1 * flower
    assert rms(torch.full_like(photo, 0.5)).max() < 0.05  # px of 640: nobody sees it


def test_missing_weights_are_refused_not_made_up(tmp_path):
    tiny("grid").save_pretrained(tmp_path)
    path = tmp_path / "amplitude" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["mix.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(GidliteError, match=r"incomplete.*lacks 1 weights, such as mix\.weight"):
        GidPipeline.from_pretrained(tmp_path)
