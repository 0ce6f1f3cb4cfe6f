"""Splatting against a double loop in float64, and its invariances."""

import math

import numpy as np
import pytest
import torch

from gidlite._checks import GidliteError, ShapeError
from gidlite.splat import MODES, splat


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


def scene(generator, batch=1, dtype=torch.float32):
    image = torch.rand(batch, 3, 9, 11, generator=generator, dtype=dtype)
    motion = 2.5 * torch.randn(batch, 2, 9, 11, generator=generator, dtype=dtype)
    metric = torch.rand(batch, 1, 9, 11, generator=generator, dtype=dtype) * 4 + 0.1
    return image, motion, metric


def metric_for(mode, metric):
    return metric if mode in ("softmax", "linear") else None


@pytest.mark.parametrize("mode", MODES)
def test_agrees_with_the_double_loop(mode, generator, tolerance):
    image, motion, metric = scene(generator)
    found = splat(image, motion, metric=metric_for(mode, metric), mode=mode)[0].numpy()
    expected = brute_force(*(x[0].double().numpy() for x in (image, motion, metric)), mode)
    assert np.abs(found - expected).max() < tolerance["splat"]


@pytest.mark.parametrize("shift", [1e4, -1e4, 90.0, -20.0])
def test_softmax_ignores_a_shift_of_the_metric(shift, generator, tolerance):
    image, motion, metric = scene(generator)
    metric = (metric * 8).round() / 8  # exactly representable near ±1e4
    found = splat(image, motion, metric=metric + shift)
    expected = brute_force(
        *(x[0].double().numpy() for x in (image, motion, metric + shift)), "softmax"
    )
    assert np.abs(found[0].numpy() - expected).max() < tolerance["splat"]
    assert torch.allclose(found, splat(image, motion, metric=metric), atol=1e-4)


def test_regions_far_apart_in_metric_both_stay_covered():
    image = torch.ones(1, 1, 4, 8)
    metric = torch.zeros(1, 1, 4, 8)
    metric[..., 4:] = 200
    assert torch.equal(splat(image, torch.zeros(1, 2, 4, 8), metric=metric), image)


def test_zero_motion_is_the_identity_and_whole_pixels_shift(generator):
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


def test_the_nearer_layer_wins():
    image = torch.tensor([1.0, 5.0]).view(1, 1, 1, 2)
    motion = torch.zeros(1, 2, 1, 2)
    motion[0, 0, 0, 0] = 1
    metric = torch.tensor([50.0, 0.0]).view(1, 1, 1, 2)
    assert splat(image, motion, metric=metric)[0, 0, 0, 1].item() == pytest.approx(1)


def test_a_lost_pixel_does_not_poison_the_rest(generator):
    image, motion, metric = scene(generator)
    motion[0, 0, 3, 4] = float("nan")
    motion[0, 1, 5, 5] = float("inf")
    assert splat(image, motion, metric=metric).isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode, generator):
    inputs = [x[..., :4, :5].requires_grad_() for x in scene(generator, dtype=torch.float64)]
    metric = inputs[2] if metric_for(mode, inputs[2]) is not None else None
    used = inputs if metric is not None else inputs[:2]
    assert torch.autograd.gradcheck(lambda i, m, z=None: splat(i, m, metric=z, mode=mode), used)


def test_errors():
    image, motion = torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4)
    with pytest.raises(GidliteError, match="softmax, average, linear, sum"):
        splat(image, motion, mode="max")
    with pytest.raises(GidliteError, match="needs a metric"):
        splat(image, motion, mode="linear")
    with pytest.raises(GidliteError, match="ignores the metric"):
        splat(image, motion, metric=image[:, :1], mode="sum")
    with pytest.raises(ShapeError, match="expected motion"):
        splat(image, motion[:, :, :2])
