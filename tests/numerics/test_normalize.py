"""Normalization: exact inverse, closed-form values, a known percentile."""

import math

import pytest
import torch

from gidlite._checks import GidliteError, ShapeError
from gidlite.normalize import FrequencyStats, denormalize, fit_frequency_stats, normalize


def volumes(generator, sigma=(3.0, 0.5, 0.01)):
    noise = torch.randn(6, 3, 2, 40, 50, dtype=torch.complex64, generator=generator)
    return noise * torch.tensor(sigma)[:, None, None, None]


def test_fits_the_percentile_of_a_rayleigh_distribution(generator):
    # torch's complex normal has E|z|² = 1, so |z| exceeds sqrt(-ln(1-p)) with probability 1-p.
    stats = fit_frequency_stats(volumes(generator), percentile=95)
    expected = torch.tensor([3.0, 0.5, 0.01]) * math.sqrt(-math.log(0.05))
    assert torch.allclose(stats.scale, expected, rtol=0.03)


def test_inverse_symmetry_and_evened_bins(generator, tolerance):
    volume = volumes(generator)
    stats = fit_frequency_stats(volume)
    packed = normalize(volume, stats)
    assert (denormalize(packed, stats) - volume).abs().max() < tolerance["inverse"]
    assert torch.equal(normalize(-volume, stats), -packed)
    again = denormalize(packed, FrequencyStats(torch.ones(3))).abs().movedim(1, 0).flatten(1)
    levels = again.quantile(0.95, dim=1)
    assert torch.allclose(levels, torch.ones(3), atol=0.01)


def test_an_empty_bin_stays_finite():
    volume = torch.zeros(2, 2, 3, 3, dtype=torch.complex64)
    stats = fit_frequency_stats([volume])
    assert normalize(volume, stats).isfinite().all()


def test_errors(generator):
    with pytest.raises(GidliteError, match="at least one"):
        fit_frequency_stats([])
    with pytest.raises(GidliteError, match="between 0 and 100"):
        fit_frequency_stats(volumes(generator), percentile=101)
    with pytest.raises(GidliteError, match="NaN"):
        fit_frequency_stats([torch.full((1, 2, 3, 3), complex(float("nan"), 0))])
    with pytest.raises(ShapeError, match="expected 2 frequencies"):
        normalize(volumes(generator), FrequencyStats(torch.ones(2)))
    with pytest.raises(GidliteError, match="positive"):
        FrequencyStats(torch.tensor([1.0, 0.0]))
