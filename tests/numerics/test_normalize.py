"""Normalization: exact inverse, closed-form values, a known percentile."""

import math

import pytest
import torch

from gidlite.errors import GidliteError, ShapeError
from gidlite.motion.normalize import (
    VARIANTS,
    FrequencyStats,
    denormalize,
    fit_frequency_stats,
    load_stats,
    normalize,
    save_stats,
)


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_trusted_pixels_count(generator, variant):
    clean = volumes(generator)
    reliable = torch.rand(6, 40, 50, generator=generator) < 0.4
    spoiled = clean.masked_fill(~reliable[:, None, None], complex(math.nan, 1e6))
    kept = [volume[:, :, mask][..., None] for volume, mask in zip(clean, reliable, strict=True)]
    expected = fit_frequency_stats(kept, variant=variant)
    for measured in (clean, spoiled):
        found = fit_frequency_stats(measured, reliable=iter(reliable), variant=variant)
        assert torch.equal(found.scale, expected.scale)
    if variant != "none":
        assert not torch.equal(fit_frequency_stats(clean, variant=variant).scale, found.scale)


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
    with pytest.raises(GidliteError, match="pixels to trust"):
        nothing = torch.zeros(6, 40, 50, dtype=torch.bool)
        fit_frequency_stats(volumes(generator), reliable=nothing)
    with pytest.raises(ShapeError, match="statistics are of 2 frequencies"):
        normalize(volumes(generator), FrequencyStats(torch.ones(2)))
    with pytest.raises(GidliteError, match="positive"):
        FrequencyStats(torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("percentile", [90, 95, 99])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_invertible_and_saved(generator, tolerance, tmp_path, variant, percentile):
    volume = volumes(generator)
    stats = fit_frequency_stats(volume, percentile=percentile, variant=variant)
    save_stats(tmp_path / "stats.safetensors", stats)
    again = load_stats(tmp_path / "stats.safetensors")
    assert torch.equal(again.scale, stats.scale)
    assert (again.percentile, again.power) == (percentile, stats.power)
    packed = normalize(volume, again)
    assert (denormalize(packed, again) - volume).abs().max() < tolerance["inverse"]


def test_variants_against_their_definitions(generator):
    volume = volumes(generator)
    parts = torch.cat([volume.real, volume.imag])
    largest = lambda packed: packed.abs().movedim(1, 0).flatten(1).amax(1)  # noqa: E731
    raw = parts.abs().movedim(1, 0).flatten(1).amax(1)
    paper = fit_frequency_stats(volume)
    expected = {
        "adaptive": (raw / paper.scale).sqrt(), "linear": raw / paper.scale,
        "global": raw / volume.abs().flatten().quantile(0.95, interpolation="nearest"), "none": raw,
    }  # fmt: skip
    for variant, value in expected.items():
        packed = normalize(volume, fit_frequency_stats(volume, variant=variant))
        assert torch.allclose(largest(packed), value, rtol=1e-3), variant
    with pytest.raises(GidliteError, match="adaptive, linear, global, none"):
        fit_frequency_stats(volume, variant="sqrt")
