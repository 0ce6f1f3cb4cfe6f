"""Spectral volumes against NumPy's FFT and closed forms."""

import inspect
import math

import numpy as np
import pytest
import torch

from gidlite.errors import GidliteError, ShapeError
from gidlite.motion.spectral import (
    anchor,
    frequency_axis,
    motion_amplitude,
    motion_to_spectral,
    pack_complex,
    power_spectrum,
    resize_motion,
    resize_spectral,
    spectral_to_motion,
    unpack_complex,
)


@pytest.mark.parametrize(("frames", "bins"), [(150, 16), (150, 76), (17, 9), (8, 5)])
def test_agrees_with_numpy(frames, bins, generator, tolerance):
    motion = 3 * torch.randn(2, frames, 2, 5, 7, generator=generator)
    expected = np.fft.fft(motion.double().numpy(), axis=1)[:, :bins] / frames
    found = motion_to_spectral(motion, num_frequencies=bins).numpy()
    assert np.abs(found - expected).max() < tolerance["spectral_px"]


@pytest.mark.parametrize("frames", [150, 16, 17])
def test_all_bins_reproduce_the_motion(frames, generator, tolerance):
    motion = torch.randn(frames, 2, 4, 6, generator=generator)
    volume = motion_to_spectral(motion, num_frequencies=frames // 2 + 1)
    again = spectral_to_motion(volume, num_frames=frames)
    assert (again - motion).abs().max() < tolerance["spectral_px"]


def test_a_cosine_lands_in_its_bin_with_half_its_amplitude():
    t = torch.arange(150.0)
    path = 0.7 + 3 * torch.cos(2 * math.pi * 4 * t / 150 + 0.5)
    motion = torch.stack([path, 0 * path], dim=1)[..., None, None]
    volume = motion_to_spectral(motion, num_frequencies=16)[:, 0, 0, 0]
    assert volume[0].real.item() == pytest.approx(0.7, abs=1e-5)
    assert volume[4].abs().item() == pytest.approx(1.5, abs=1e-5)
    assert volume[4].angle().item() == pytest.approx(0.5, abs=1e-5)
    assert volume[[1, 2, 3, 5, 9]].abs().max() < 1e-5
    assert frequency_axis()[4].item() == pytest.approx(0.8)


def test_fractional_times_follow_the_closed_form_and_repeat():
    t = torch.arange(150.0)
    motion = torch.sin(2 * math.pi * 2 * t / 150).expand(2, 1, 1, 150).permute(3, 0, 1, 2)
    volume = motion_to_spectral(motion, num_frequencies=16)
    times = torch.tensor([0.25, 10.5, 160.5])
    found = spectral_to_motion(volume, num_frames=150, times=times)[:, 0, 0, 0]
    assert torch.allclose(found, torch.sin(2 * math.pi * 2 * times / 150), atol=1e-5)
    assert found[1].item() == pytest.approx(found[2].item(), abs=1e-5)


def test_parseval_and_truncation_is_a_projection(generator):
    motion = torch.randn(32, 2, 3, 3, generator=generator)
    volume = motion_to_spectral(motion, num_frequencies=17)
    counts = torch.full((17,), 2.0)
    counts[[0, 16]] = 1
    energy = (volume.abs().square() * counts[:, None, None, None]).sum()
    assert energy.item() == pytest.approx(motion.square().sum().item() / 32, rel=1e-5)
    kept = spectral_to_motion(volume[:5], num_frames=32)
    assert torch.allclose(motion_to_spectral(kept, num_frequencies=5), volume[:5], atol=1e-6)
    assert ((motion - kept) * kept).sum().abs() < 1e-3


def test_amplitude_is_the_standard_deviation_over_time(generator):
    volume = torch.randn(5, 2, 3, 4, dtype=torch.complex64, generator=generator)
    motion = spectral_to_motion(volume, num_frames=40)
    expected = motion.var(dim=0, correction=0).sum(0).sqrt()
    assert torch.allclose(motion_amplitude(volume), expected, atol=1e-5)
    assert torch.allclose(power_spectrum(volume), volume.abs().square().mean((1, 2, 3)))


def test_anchor_starts_at_zero_and_changes_only_bin_0(generator):
    volume = torch.randn(2, 6, 2, 3, 3, dtype=torch.complex64, generator=generator)
    anchored = anchor(volume)
    assert spectral_to_motion(anchored, num_frames=30)[:, 0].abs().max() < 1e-5
    assert torch.equal(anchored[:, 1:], volume[:, 1:])


def test_pack_is_invertible_and_ordered(generator):
    volume = torch.randn(3, 4, 2, 5, 6, dtype=torch.complex64, generator=generator)
    packed = pack_complex(volume)
    assert torch.equal(unpack_complex(packed), volume)
    parts = [volume[:, :, 0].real, volume[:, :, 0].imag, volume[:, :, 1].real, volume[:, :, 1].imag]
    assert torch.equal(packed, torch.stack(parts, dim=2))


def test_resizing_reexpresses_pixels_and_commutes_with_time(generator):
    field = torch.tensor([1.0, 2.0])[:, None, None].expand(2, 10, 20)
    wide = resize_motion(field, height=30, width=40)
    assert torch.allclose(wide[0], torch.tensor(2.0)) and torch.allclose(wide[1], torch.tensor(6.0))
    volume = torch.randn(4, 2, 8, 8, dtype=torch.complex64, generator=generator)
    first = spectral_to_motion(resize_spectral(volume, height=12, width=16), num_frames=20)
    second = resize_motion(spectral_to_motion(volume, num_frames=20), height=12, width=16)
    assert torch.allclose(first, second, atol=1e-5)


def test_errors_say_what_and_how():
    with pytest.raises(GidliteError, match=r"num_frequencies is 6.*between 1 and 5"):
        motion_to_spectral(torch.zeros(8, 2, 3, 3), num_frequencies=6)
    # Unwrapped, because the suite's own check of shapes would speak first.
    with pytest.raises(ShapeError, match=r"expected motion"):
        inspect.unwrap(motion_to_spectral)(torch.zeros(8, 3, 3, 3), num_frequencies=2)
    with pytest.raises(ShapeError, match=r"expected packed"):
        inspect.unwrap(unpack_complex)(torch.zeros(8, 2, 3, 3))
