"""The graphs of a page equal the pipeline they were made of."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import gidlite.web
from gidlite.dynamics.layers import split_layers
from gidlite.dynamics.modal import tuned_by_size
from gidlite.errors import GidliteError
from gidlite.media import as_image, resize, sample_photo
from gidlite.motion import SpectralVolume
from gidlite.motion.spectral import anchor, pack_complex
from gidlite.pipeline import GidPipeline, Sampling, working_size
from gidlite.render import farthest_motion

onnx = pytest.importorskip("onnx", reason="NOT CHECKED: no onnx, install gidlite[dev]")
onnxruntime = pytest.importorskip("onnxruntime", reason="NOT CHECKED: no onnxruntime")
pytestmark = pytest.mark.slow
SHAPES = [(160, 256), (256, 160), (192, 192)]
SIZES = pytest.mark.parametrize("shape", SHAPES, ids=["landscape", "portrait", "square"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Export by the command, and in a process of its own: checks of types do not trace."""
    folder = tmp_path_factory.mktemp("web") / "new"
    command = [sys.executable, "-m", "gidlite", "export", "web", "-o", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "MB" in done.stdout
    return folder


@pytest.fixture(scope="module")
def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def graphs(folder, manifest):
    """Return functions from all that is known, by name, to what a graph says, by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def function(told):
        path = str(folder / told["file"])
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        assert [item.name for item in session.get_inputs()] == told["inputs"]

        def run(known):
            given = {name: np.ascontiguousarray(known[name]) for name in told["inputs"]}
            return dict(zip(told["outputs"], session.run(told["outputs"], given), strict=True))

        return run

    return {name: function(told) for name, told in manifest["graphs"].items()}


@pytest.fixture(scope="module")
def pipeline():
    return GidPipeline.from_pretrained()


def photo_of(shape):
    image = as_image(sample_photo())
    height, width = shape
    side = min(image.shape[1] / height, image.shape[2] / width)
    crop = image[:, -int(side * height) :, : int(side * width)]
    return resize(crop, height=height, width=width)


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_the_manifest_tells_what_is_there(folder, manifest, pipeline):
    assert {path.name for path in folder.iterdir()} == {"manifest.json"} | {
        graph["file"] for graph in manifest["graphs"].values()
    }
    total = 0
    for graph in manifest["graphs"].values():
        data = (folder / graph["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == graph["sha256"] and len(data) == graph["bytes"]
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model, full_check=True)
        assert os.getcwd().encode() not in data and b"gidlite/" not in data, "names of files"
        total += len(data)
    assert total < 30e6
    assert (manifest["num_frames"], manifest["fps"]) == (pipeline.num_frames, pipeline.fps)
    assert manifest["scale"] == pytest.approx(pipeline.prior.modes.scale.tolist())
    assert manifest["schedule"] == gidlite.web.schedule(12)


@SIZES
@torch.no_grad()
def test_graphs_equal_the_networks(graphs, pipeline, generator, shape):
    prior, photo = pipeline.prior, photo_of(shape)[None]
    assert working_size(*shape) == shape
    found = prior.modes(photo)
    told = graphs["photo"]({"photo": photo.numpy()})
    expected = {name: getattr(found, name) for name in told if name != "condition"}
    expected["condition"] = prior.drawer.embed(found.tokens)
    noisy = torch.randn(1, len(found.scale), 2, found.shapes.shape[1], generator=generator)
    step, amount = torch.tensor([640]), torch.tensor([1.7])
    bins = torch.arange(noisy.shape[1])[None]
    known = {name: value.numpy() for name, value in expected.items()}
    given = {"photo": photo, "noisy": noisy, "coords": noisy, "step": step, "drawn_amount": amount}
    known |= {name: value.numpy() for name, value in given.items()}
    told |= graphs["drawer"](known)
    expected["v"] = prior.drawer(noisy, step, bins, expected["condition"])
    for name, value in expected.items():
        assert told[name].shape == value.shape, name
        assert relative(told[name], value.numpy()) < 1e-3, name


@SIZES
@torch.no_grad()
def test_what_is_touched_equals_a_scene_of_python(graphs, manifest, pipeline, shape):
    image = photo_of([2 * side for side in shape])
    photo = resize(image, height=shape[0], width=shape[1])[None]
    basis = pipeline.basis(image)
    known = {"photo": photo.numpy(), "image": image[None].numpy()}
    told = graphs["touch"](known | graphs["photo"](known))
    expected = split_layers(image, basis.spectral)
    assert 0.05 < expected.alpha.mean() < 0.95
    assert np.abs(told["alpha"] - expected.alpha[0].numpy()).max() < 0.01
    assert np.abs(told["back"] - expected.back.numpy()).max() < 0.01
    for name in ("front_modes", "back_modes"):
        modes = pack_complex(getattr(expected, name)).movedim(1, -1).numpy()
        assert relative(told[name], modes) < 1e-3, name
    hertz = told["places"] * manifest["fps"] / manifest["num_frames"]
    assert relative(hertz, tuned_by_size(basis).numpy()) < 1e-3


def drawn(graphs, manifest, photo, coords, told):
    """Return the volume of noise: second-order DPM-Solver++ around the graph of the drawer."""
    steps, signal, noise = (np.array(manifest["schedule"][k]) for k in ("steps", "signal", "noise"))
    places = np.log(signal[:-1] / noise[:-1])
    before = None
    for i, step in enumerate(steps):
        known = told | {"noisy": coords.astype(np.float32), "step": np.array([step])}
        clean = signal[i] * coords - noise[i] * graphs["drawer"](known)["v"]
        trend = 0
        if before is not None and i + 1 < len(steps):
            ahead = (places[i + 1] - places[i]) / (places[i] - places[i - 1])
            trend = ahead / 2 * (clean - before)
        keep = noise[i + 1] / noise[i]
        coords = keep * coords + (signal[i + 1] - keep * signal[i]) * (clean + trend)
        before = clean
    known = told | {"photo": photo, "coords": coords.astype(np.float32)}
    return torch.complex(*torch.from_numpy(graphs["volume"](known)["parts"]))


@SIZES
def test_a_whole_volume_equals_the_pipeline(graphs, manifest, pipeline, shape):
    photo = photo_of(shape)
    generator = torch.Generator().manual_seed(3)
    torch.randn(1, generator=generator)  # the noise of the amount, which the wind stands for
    size = manifest["parts"] * manifest["modes_per_part"]
    coords = torch.randn(1, manifest["num_frequencies"] - 1, 2, size, generator=generator).numpy()
    told = graphs["photo"]({"photo": photo[None].numpy()})
    told["drawn_amount"] = np.exp(told["amount"][:, 0])  # the median of all winds
    spectral = drawn(graphs, manifest, photo[None].numpy(), coords, told)
    spectral = anchor(torch.cat([torch.zeros_like(spectral[:1]), spectral]))
    expected = pipeline(
        photo, generator=torch.Generator().manual_seed(3), sampling=Sampling(wind=0.5)
    ).spectral
    assert expected.abs().max() > 0.1
    held = min(1, manifest["farthest"] / farthest_motion(SpectralVolume(spectral)))
    assert relative((spectral * held).numpy(), expected.numpy()) < 1e-2


def test_what_cannot_be_exported_is_refused(tmp_path, pipeline, monkeypatch):
    with pytest.raises(GidliteError, match="has no modes"):
        gidlite.web.export_web(GidPipeline.from_pretrained("grid"), tmp_path / "web")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(GidliteError, match=r"pip install .gidlite\[web\]"):
        gidlite.web.export_web(pipeline, tmp_path / "web")
    assert not list(tmp_path.iterdir())
