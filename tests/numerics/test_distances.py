"""Distances between distributions against closed forms, and intervals against simulation."""

import math

import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from gidlite.errors import GidliteError, ShapeError
from gidlite.evaluate import (
    FeatureMoments,
    bootstrap_interval,
    frechet_distance,
    kernel_distance,
    moments_of,
)


def closed_form(mean1, cov1, mean2, cov2):
    """Return the distance from a symmetric root of Σ1, written independently."""
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return ((mean1 - mean2).square().sum() + (cov1 + cov2).trace() - 2 * overlap).item()


def exactly(mean, cov):
    """Return moments that have this mean and covariance exactly."""
    offsets = torch.linalg.cholesky(cov.double()).T * math.sqrt(len(mean) - 0.5)
    return moments_of([mean.double() + offsets, mean.double() - offsets])


def covariance(moments):
    root = moments.gaussian()[1]
    return root.T @ root


def test_one_dimension_by_hand():
    # (m1 - m2)² + (s1 - s2)²
    first, second = exactly(torch.tensor([1.0]), torch.tensor([[4.0]])), exactly(
        torch.tensor([-2.0]), torch.tensor([[25.0]])
    )  # fmt: skip
    assert frechet_distance(first, second) == pytest.approx(3**2 + 3**2, abs=1e-9)


def test_commuting_covariances_by_hand():
    first = exactly(torch.zeros(3), torch.diag(torch.tensor([1.0, 4.0, 9.0])))
    second = exactly(torch.ones(3), torch.diag(torch.tensor([4.0, 4.0, 1.0])))
    assert frechet_distance(first, second) == pytest.approx(3 + 1 + 0 + 4, abs=1e-9)


@pytest.mark.parametrize("num_features", [2, 7, 40])
def test_general_gaussians(num_features, generator):
    roots = torch.randn(2, num_features, num_features, generator=generator, dtype=torch.float64)
    means = torch.randn(2, num_features, generator=generator, dtype=torch.float64)
    covs = [root.T @ root + 0.1 * torch.eye(num_features) for root in roots]
    found = frechet_distance(exactly(means[0], covs[0]), exactly(means[1], covs[1]))
    assert found == pytest.approx(closed_form(means[0], covs[0], means[1], covs[1]), rel=1e-8)


@pytest.mark.parametrize("chunk", [1, 7, 60, 500])
def test_moments_do_not_depend_on_how_features_arrive(chunk, generator):
    features = 100 + torch.randn(500, 12, generator=generator, dtype=torch.float64)
    moments = moments_of(features.split(chunk))
    assert moments.count == 500 and len(moments.gaussian()[1]) <= 12
    assert torch.allclose(moments.gaussian()[0], features.mean(0), atol=1e-9)
    assert torch.allclose(covariance(moments), features.T.cov(), atol=1e-9)


def test_a_weight_counts_as_copies(generator):
    features = torch.randn(5, 3, generator=generator)
    twice = FeatureMoments(3).add(features, torch.full((5,), 2))
    copies = moments_of([features, features])
    assert twice.count == 10
    assert torch.allclose(covariance(twice), covariance(copies))
    assert torch.allclose(twice.gaussian()[0], copies.gaussian()[0])


def test_memory_does_not_grow_with_the_samples(generator):
    moments = FeatureMoments(12)
    for _ in range(200):
        moments.add(torch.randn(5, 12, generator=generator))
        assert sum(map(len, moments._rows)) <= 2 * 13


@pytest.mark.parametrize("count", [2, 5, 300])
def test_few_samples_are_stable(count, generator):
    """Far fewer samples than features: no distance of a set from itself, none below zero."""
    features = torch.randn(count, 2048, generator=generator)
    other = torch.randn(count, 2048, generator=generator) + 0.1
    same = frechet_distance(moments_of([features]), moments_of([features]))
    there = frechet_distance(moments_of([features]), moments_of([other]))
    back = frechet_distance(moments_of([other]), moments_of([features]))
    assert same < 1e-4 * 2048 and there > 2048 * 0.01
    assert there == pytest.approx(back, rel=1e-9)


def test_shifting_adds_the_square_and_scaling_multiplies_it(generator):
    first, second = torch.randn(2, 50, 6, generator=generator, dtype=torch.float64)
    base = frechet_distance(moments_of([first]), moments_of([second]))
    shift = second - second.mean(0) + first.mean(0)
    centred = frechet_distance(moments_of([first]), moments_of([shift]))
    assert base == pytest.approx(
        centred + (first.mean(0) - second.mean(0)).square().sum().item(), rel=1e-9
    )
    assert frechet_distance(moments_of([3 * first]), moments_of([3 * second])) == pytest.approx(
        9 * base, rel=1e-9
    )


def test_torchmetrics_agrees(generator):
    first = torch.randn(200, 16, generator=generator)
    second = 0.8 * torch.randn(150, 16, generator=generator) + 0.2
    given = nn.Identity()
    given.num_features = 16
    metric = FrechetInceptionDistance(feature=given)
    metric.update(first, real=True)
    metric.update(second, real=False)
    ours = frechet_distance(moments_of([first]), moments_of([second]))
    assert ours == pytest.approx(metric.compute().item(), rel=1e-5)


def test_kernel_distance_against_the_double_sum(generator):
    first, second = torch.randn(2, 30, 8, generator=generator)
    second = second + 0.5
    kernel = lambda x, y: ((x * y).sum() / 8 + 1) ** 3  # noqa: E731
    within = [
        sum(kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j) / (30 * 29)
        for s in (first, second)
    ]
    between = sum(kernel(x, y) for x in first for y in second) / 900
    mean, deviation = kernel_distance(first, second, subsets=3)
    assert mean == pytest.approx((sum(within) - 2 * between).item(), abs=1e-4)
    assert deviation < 1e-5  # a subset is the whole set here


def test_kernel_distance_repeats_and_leaves_the_random_state_alone(generator):
    first, second = torch.randn(2, 40, 8, generator=generator)
    state = torch.get_rng_state()
    runs = {kernel_distance(first, second, subset_size=10, seed=1) for _ in range(2)}
    assert len(runs) == 1
    assert torch.equal(state, torch.get_rng_state())


def test_the_interval_covers_the_truth_most_of_the_time(generator):
    """Two Gaussians whose distance is known: 40 videos of 3 alike samples each, 40 trials."""
    truth, covered = 4 * 0.5**2, 0
    for _ in range(40):
        sides = []
        for shift in (0.0, 0.5):
            videos = torch.randn(40, 1, 4, generator=generator) * math.sqrt(0.7)
            noise = torch.randn(40, 3, 4, generator=generator) * math.sqrt(0.3)
            sides.append(list(videos + noise + shift))
        interval = bootstrap_interval(*sides, draws=30, level=0.9, generator=generator)
        covered += interval.low <= truth <= interval.high
    # 36 are nominal. Quantiles instead of their reflection cover 17, samples instead of videos 22.
    assert covered >= 28


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(GidliteError, match="two samples"):
        moments_of([torch.zeros(1, 3)])
    with pytest.raises(GidliteError, match="two samples"):
        kernel_distance(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(ShapeError):
        FeatureMoments(3).add(torch.zeros(2, 4))
