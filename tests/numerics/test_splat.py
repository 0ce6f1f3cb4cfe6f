"""All splats, compiled and PyTorch, against a double loop in float64, and their invariances."""

import importlib
import importlib.util
import inspect
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from gidlite.errors import GidliteError, ShapeError
from gidlite.render import splat as module
from gidlite.render import splat_fast as compiled
from gidlite.render.splat import MODES, ReferencePlan, SplatPlan, splat

FLOAT64_TOLERANCE = 1e-10


# test_splat_gpu.py runs this file once more, in a process of its own, where Triton is interpreted.
KINDS = ["triton"] if os.environ.get("TRITON_INTERPRET") == "1" else ["compiled", "reference"]


@pytest.fixture(params=KINDS)
def kind(request, monkeypatch):
    """Run the test with each implementation, and make sure that it is the one that answers."""
    if request.param == "triton":
        plan = importlib.import_module("gidlite.render.splat_gpu").CompiledPlan
        monkeypatch.setattr(module, "_make_plan", plan)
    elif request.param == "reference":
        monkeypatch.setattr(compiled, "supports", lambda *_: False)
        monkeypatch.setattr(compiled.CompiledPlan, "__init__", None)
    else:
        monkeypatch.setattr(ReferencePlan, "__init__", None)
    return request.param


def brute_force(image, motion, metric, mode):
    """Gather the contributions of every target, then combine them."""
    channels, height, width = image.shape
    arriving = [[[] for _ in range(width)] for _ in range(height)]
    for y in range(height):
        for x in range(width):
            tx, ty = x + motion[0, y, x], y + motion[1, y, x]
            for qy in (math.floor(ty), math.floor(ty) + 1):
                for qx in (math.floor(tx), math.floor(tx) + 1):
                    share = (1 - abs(tx - qx)) * (1 - abs(ty - qy))
                    if 0 <= qx < width and 0 <= qy < height and share > 0:
                        arriving[qy][qx].append((share, metric[0, y, x], image[:, y, x]))
    out = np.zeros((channels, height, width))
    for y in range(height):
        for x in range(width):
            if not arriving[y][x]:
                continue
            share, z, color = (np.array(v) for v in zip(*arriving[y][x], strict=True))
            weight = {"softmax": np.exp(z - z.max()), "linear": z}.get(
                mode, np.ones_like(z)
            ) * share
            total = (weight[:, None] * color).sum(0)
            out[:, y, x] = total if mode == "sum" else total / weight.sum()
    return out


def scene(generator, batch=1, dtype=torch.float32, size=(9, 11), channels=3):
    image = torch.rand(batch, channels, *size, generator=generator, dtype=dtype)
    motion = 2.5 * torch.randn(batch, 2, *size, generator=generator, dtype=dtype)
    metric = torch.rand(batch, 1, *size, generator=generator, dtype=dtype) * 4 + 0.1
    return image, motion, metric


def metric_for(mode, metric):
    return metric if mode in ("softmax", "linear") else None


def oracle(image, motion, metric, mode):
    """The double loop for the first of a batch."""
    return brute_force(*(x[0].double().numpy() for x in (image, motion, metric)), mode)


def gradients(tensors, mode="softmax", make=None):
    """Splat and its gradients for an uneven weight of the output."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    metric = metric_for(mode, leaves[2])
    used = leaves[:2] if metric is None else leaves
    plan = SplatPlan(leaves[1], metric=metric, mode=mode) if make is None else make(*leaves[1:])
    out = plan(leaves[0]) if make is None else plan.splat(leaves[0])
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, used, weight)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_agrees_with_the_double_loop(kind, mode, dtype, generator, tolerance):
    image, motion, metric = scene(generator, dtype=dtype)
    found = splat(image, motion, metric=metric_for(mode, metric), mode=mode)[0].numpy()
    limit = tolerance["splat"] if dtype == torch.float32 else FLOAT64_TOLERANCE
    assert np.abs(found - oracle(image, motion, metric, mode)).max() < limit


def test_large_pictures_keep_the_precision_of_small_ones(generator):
    # In float32 a displacement added to a coordinate near 2000 loses 4 decimals; not here.
    image, motion, metric = scene(generator, size=(2, 2000))
    exact = ReferencePlan(motion.double(), 9 * metric.double(), "softmax").splat(image.double())
    assert (splat(image, motion, metric=9 * metric) - exact).abs().max() < 1e-5


@pytest.mark.parametrize("shift", [1e4, -1e4, 90.0, -20.0])
def test_softmax_ignores_a_shift_of_the_metric(kind, shift, generator, tolerance):
    image, motion, metric = scene(generator)
    metric = (metric * 8).round() / 8  # exactly representable near ±1e4
    found = splat(image, motion, metric=metric + shift)
    expected = oracle(image, motion, metric + shift, "softmax")
    assert np.abs(found[0].numpy() - expected).max() < tolerance["splat"]
    assert torch.allclose(found, splat(image, motion, metric=metric), atol=1e-4)


@pytest.mark.parametrize("gap", [200, 590, 2000])
def test_regions_far_apart_in_metric_both_stay_covered(gap):
    """The widest gap is beyond the compiled loops, and left to PyTorch."""
    image = torch.ones(1, 1, 4, 8)
    metric = torch.zeros(1, 1, 4, 8)
    metric[..., 4:] = gap
    assert torch.equal(splat(image, torch.zeros(1, 2, 4, 8), metric=metric), image)
    shifted = torch.full((1, 2, 4, 8), 0.5)
    assert torch.allclose(splat(image, shifted, metric=metric), torch.ones(1), atol=1e-6)


@pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan])
def test_an_infinite_metric_is_left_to_pytorch(value, generator):
    image, motion, metric = scene(generator)
    metric[0, 0, 2, 3] = value
    expected = ReferencePlan(motion, metric, "softmax").splat(image)
    assert torch.equal(splat(image, motion, metric=metric).isnan(), expected.isnan())


def test_zero_motion_is_the_identity_and_whole_pixels_shift(kind, generator):
    image, _, metric = scene(generator)
    still = torch.zeros(1, 2, 9, 11)
    assert torch.allclose(splat(image, still, metric=metric), image, atol=1e-6)
    right = still.clone()
    right[:, 0] = 2
    moved, coverage = splat(image, right, metric=metric, return_coverage=True)
    assert torch.allclose(moved[..., 2:], image[..., :-2], atol=1e-6)
    assert coverage[..., :2].sum() == 0 and moved[..., :2].abs().sum() == 0
    # What leaves the picture is gone, not piled up at the edge.
    assert torch.equal(coverage[..., 2:], torch.ones(1, 1, 9, 9))


@pytest.mark.parametrize("dx, dy", [(0.25, 0), (-0.25, 0), (0, 0.25), (0, -0.25), (-0.5, 0.5)])
def test_half_of_a_pixel_may_leave_at_every_border(kind, dx, dy):
    motion = torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(1, 2, 4, 5)
    ones, coverage = splat(torch.ones(1, 1, 4, 5), motion, mode="average", return_coverage=True)
    expected = torch.ones(4, 5)
    if dx:
        expected[:, 0 if dx > 0 else -1] *= 1 - abs(dx)
    if dy:
        expected[0 if dy > 0 else -1] *= 1 - abs(dy)
    assert torch.allclose(coverage[0, 0], expected, atol=1e-6)
    assert torch.allclose(ones, torch.ones(1), atol=1e-6)


def test_the_nearer_layer_wins(kind):
    image = torch.tensor([1.0, 5.0]).view(1, 1, 1, 2).expand(1, 1, 2, 2)
    motion = torch.zeros(1, 2, 2, 2)
    motion[0, 0, :, 0] = 1
    metric = torch.tensor([50.0, 0.0]).view(1, 1, 1, 2).expand(1, 1, 2, 2)
    assert splat(image, motion, metric=metric)[0, 0, 0, 1].item() == pytest.approx(1)


@pytest.mark.parametrize("mode", MODES)
def test_a_lost_pixel_does_not_poison_the_rest(kind, mode, generator):
    image, motion, metric = scene(generator)
    motion[0, 0, 3, 4] = float("nan")
    motion[0, 1, 5, 5] = float("inf")
    motion[0, 0, 6, 6] = -1e30
    out, *grads = gradients((image, motion, metric), mode)
    assert out.isfinite().all() and all(grad.isfinite().all() for grad in grads)
    for row, column in ((3, 4), (5, 5), (6, 6)):
        assert all((grad[0, :, row, column] == 0).all() for grad in grads)
    elsewhere = motion.nan_to_num(99, 99)
    assert torch.equal(splat(image, elsewhere, metric=metric_for(mode, metric), mode=mode), out)


@pytest.mark.parametrize("mode", MODES)
def test_gradients(kind, mode, generator):
    inputs = [x[..., :4, :5].requires_grad_() for x in scene(generator, dtype=torch.float64)]
    used = inputs if metric_for(mode, inputs[2]) is not None else inputs[:2]
    assert torch.autograd.gradcheck(lambda i, m, z=None: splat(i, m, metric=z, mode=mode), used)


@pytest.mark.parametrize("mode", ["softmax", "sum"])
def test_gradient_of_the_coverage(kind, mode, generator):
    image, motion, metric = (x[..., :4, :5] for x in scene(generator, dtype=torch.float64))
    motion.requires_grad_()

    def both(motion):
        return splat(
            image, motion, metric=metric_for(mode, metric), mode=mode, return_coverage=True
        )

    assert torch.autograd.gradcheck(both, [motion])
    assert torch.autograd.gradcheck(lambda motion: both(motion)[1], [motion])


@pytest.mark.parametrize("mode", MODES)
def test_implementations_agree_on_gradients_where_motion_has_kinks(mode, generator):
    image, motion, metric = scene(generator, batch=2, dtype=torch.float64)
    for whole in (motion.round(), motion * 0):
        found = gradients((image, whole, metric), mode)
        expected = gradients(
            (image, whole, metric), mode, lambda m, z: ReferencePlan(m, metric_for(mode, z), mode)
        )
        for ours, reference in zip(found, expected, strict=True):
            assert torch.allclose(ours, reference, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_serves_several_feature_maps(kind, mode, generator):
    image, motion, metric = scene(generator, dtype=torch.float64)
    both = torch.cat([image, image.flip(-1)], 1)
    together = gradients((both, motion, metric), mode)
    leaf, z = motion.clone().requires_grad_(), metric_for(mode, metric)
    plan = SplatPlan(leaf, metric=z, mode=mode)
    apart = torch.cat([plan(image), plan(image.flip(-1))], 1)
    assert torch.allclose(apart, together[0], atol=1e-12)
    weight = torch.linspace(-1, 1, apart.numel(), dtype=apart.dtype).view_as(apart)
    (found,) = torch.autograd.grad(apart, leaf, weight)
    assert torch.allclose(found, together[2], atol=1e-10)
    coverage = splat(image, motion, metric=z, mode=mode, return_coverage=True)[1]
    assert torch.equal(plan.coverage(), coverage)


def test_threads_change_nothing(generator):
    """Bit for bit, for smooth motion and for motion that throws pixels across the picture."""
    image, motion, metric = scene(generator, batch=2, size=(150, 90), channels=5)
    before = torch.get_num_threads()
    try:
        for moved in (motion, 40 * motion):
            results = []
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(gradients((image, moved, metric)))
            for result in results[1:]:
                assert all(map(torch.equal, results[0], result))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 8, 17])
def test_groups_of_channels_and_bands_change_nothing(channels, generator, monkeypatch):
    """In one band and in five, with motion that crosses several of them."""
    inputs = scene(generator, size=(170, 40), channels=channels)
    inputs = inputs[0], 10 * inputs[1], inputs[2]
    found = gradients(inputs)
    monkeypatch.setattr(compiled, "_SUMS", 1)
    assert all(map(torch.equal, found, gradients(inputs)))
    double = [x.double() for x in inputs]
    exact = gradients(double, make=lambda *plan: ReferencePlan(*plan, "softmax"))
    for ours, expected in zip(found, exact, strict=True):
        assert (ours - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("span", [39.0, 41.0, 599.0])
def test_gradients_are_accurate_for_any_span_of_the_metric(span, generator):
    image, motion, metric = scene(generator, size=(60, 50))
    metric = (metric - metric.min()) / (metric.max() - metric.min()) * span
    exact = gradients(
        [x.double() for x in (image, motion, metric)],
        make=lambda *plan: ReferencePlan(*plan, "softmax"),
    )
    found = gradients((image, motion, metric))
    assert (found[0] - exact[0]).abs().max() < 1e-6
    for ours, expected in zip(found[1:], exact[1:], strict=True):
        assert (ours - expected).abs().max() < 1e-6 * expected.abs().max()


def test_calls_from_several_threads_at_once(generator):
    inputs = scene(generator, size=(150, 90), channels=5)
    expected = gradients(inputs)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: gradients(inputs), range(12)):
            assert all(map(torch.equal, expected, found))


SEVERAL_AT_ONCE = """
import numba
numba.config.THREADING_LAYER = "workqueue"  # what numba falls back to without OpenMP
from concurrent.futures import ThreadPoolExecutor
import torch
from gidlite.render.splat import splat
torch.set_num_threads(2)
image, motion = torch.rand(1, 3, 150, 90), torch.randn(1, 2, 150, 90)
expected = splat(image, motion)
with ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda _: splat(image, motion), range(50)))
assert numba.threading_layer() == "workqueue" and all(torch.equal(x, expected) for x in found)
"""


def test_without_openmp_several_calls_at_once_are_safe():
    """Numba's own threads end the process when two callers start them at once."""
    subprocess.run([sys.executable, "-c", SEVERAL_AT_ONCE], check=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="NOT CHECKED: no fork on this system")
def test_a_forked_process_can_splat(generator):
    """Threads of OpenMP end a forked process that calls them; it is left to PyTorch."""
    image, motion, metric = scene(generator, size=(150, 90))
    expected = splat(image, motion, metric=metric)
    process = os.fork()
    if not process:
        torch.set_num_threads(1)
        equal = torch.allclose(splat(image, motion, metric=metric), expected, atol=1e-4)
        os._exit(0 if equal else 1)
    assert os.waitpid(process, 0)[1] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (2, 2), (2, 5)])
@pytest.mark.parametrize("mode", MODES)
def test_smallest_sizes(size, mode, generator, tolerance):
    image, motion, metric = scene(generator, size=size)
    found = splat(image, motion / 3, metric=metric_for(mode, metric), mode=mode)[0].numpy()
    assert np.abs(found - oracle(image, motion / 3, metric, mode)).max() < tolerance["splat"]


def test_any_memory_layout(kind, generator):
    image, motion, metric = scene(generator, batch=2, size=(8, 10), channels=4)
    strided = [
        image.contiguous(memory_format=torch.channels_last),
        motion.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([metric, metric], -1)[..., :10],
    ]
    assert not any(x.is_contiguous() for x in strided)
    for found, expected in zip(gradients(strided), gradients((image, motion, metric)), strict=True):
        assert torch.allclose(found, expected, atol=1e-5)
    leaves = [x.requires_grad_() for x in strided]
    out = splat(leaves[0], leaves[1], metric=leaves[2])
    out.mean().backward()  # the gradient of a mean is one number, expanded
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    one = torch.ones(2, 2, 1, 1).expand(2, 2, 8, 10)
    assert torch.allclose(splat(image, one)[..., 1:, 1:], image[..., :-1, :-1], atol=1e-6)


def test_features_take_the_type_of_the_motion(kind, generator):
    image, motion, _ = scene(generator)
    assert splat(image.double(), motion).dtype == torch.float32
    assert splat(image.half(), motion).dtype == torch.float32
    assert splat(image, motion.half()).dtype == torch.float16
    whole = motion.round()
    assert torch.equal(splat((9 * image).byte(), whole.int()), splat((9 * image).byte(), whole))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
def test_half_precision_rounds_its_inputs_and_its_output_only(kind, mode, dtype, generator):
    """Wide, as columns beyond 256 have no fraction in bfloat16."""
    halves = [x.to(dtype) for x in scene(generator, size=(4, 640))]
    image, motion, metric = (x.float() for x in halves)
    expected = splat(image, motion, metric=metric_for(mode, metric), mode=mode)
    found, coverage = splat(
        *halves[:2], metric=metric_for(mode, halves[2]), mode=mode, return_coverage=True
    )
    assert found.dtype == coverage.dtype == dtype
    assert torch.equal(found, expected.to(dtype))
    leaves = [x.requires_grad_() for x in halves[:2]]
    splat(*leaves, metric=metric_for(mode, halves[2]), mode=mode).float().mean().backward()
    assert all(x.grad.dtype == dtype and x.grad.isfinite().all() for x in leaves)


def test_numba_may_be_broken_or_without_a_cache(generator, monkeypatch):
    image, motion, metric = scene(generator)
    expected = splat(image, motion, metric=metric)
    with monkeypatch.context() as broken:
        broken.delattr("gidlite.render.splat_fast")
        broken.setitem(sys.modules, "gidlite.render.splat_fast", None)
        broken.setattr(compiled.CompiledPlan, "__init__", None)
        assert torch.allclose(splat(image, motion, metric=metric), expected, atol=1e-4)

    def njit(function, *, cache=False, **_):
        if cache:
            raise RuntimeError("cannot cache: no locator available")
        return function

    monkeypatch.setattr(compiled.numba, "njit", njit)
    assert inspect.unwrap(compiled._compiled)(scene) is scene


@pytest.mark.parametrize("name", ["gidlite.splat", "gidlite.render.splat", "gidlite.render.photo"])
def test_importing_the_splat_is_light(name):
    code = f"import sys, {name}; assert not {{'numba', 'diffusers', 'cv2'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", MODES)
def test_a_gpu_agrees_with_the_double_loop(mode, generator, tolerance):
    image, motion, metric = scene(generator)
    z = metric_for(mode, metric)
    found = splat(image.cuda(), motion.cuda(), metric=None if z is None else z.cuda(), mode=mode)
    expected = oracle(image, motion, metric, mode)
    assert np.abs(found[0].cpu().numpy() - expected).max() < tolerance["splat"]


def test_errors():
    """What a user sees, who has no type checker: a copy of the module that none has wrapped."""
    spec = importlib.util.spec_from_file_location("plain_splat", module.__file__)
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    image, motion = torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4)
    with pytest.raises(GidliteError, match="softmax, average, linear, sum"):
        plain.splat(image, motion, mode="max")
    with pytest.raises(GidliteError, match="needs a metric"):
        plain.splat(image, motion, mode="linear")
    with pytest.raises(GidliteError, match="ignores the metric"):
        plain.splat(image, motion, metric=image[:, :1], mode="sum")
    with pytest.raises(ShapeError, match=r"expected features .* must match the motion"):
        plain.splat(image, motion[:, :, :2])
    with pytest.raises(ShapeError, match="expected motion"):
        plain.splat(image, image)
    with pytest.raises(ShapeError, match="expected metric"):
        plain.SplatPlan(motion, metric=image)
    with pytest.raises(ShapeError, match="expected features"):
        plain.SplatPlan(motion)(image[:, :, :2])
    with pytest.raises(ShapeError, match="expected motion"):
        plain.splat(image[..., :0], motion[..., :0])
