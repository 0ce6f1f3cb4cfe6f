"""Motion metrics against closed forms, chance levels and invariances."""

import math
from inspect import unwrap  # what callers get where no type checker runs

import pytest
import torch
from torch.nn import functional
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from gidlite.errors import GidliteError, ShapeError
from gidlite.evaluate import (
    auc,
    bin_agreement,
    correlation_length,
    log_spectral_distance,
    loop_seam,
    phase_agreement,
    relative_difference,
    slice_spectral_distance,
)

EVERYWHERE = torch.ones(96, 128, dtype=torch.bool)


def white(generator, bins=6, height=96, width=128):
    return torch.randn(bins, 2, height, width, dtype=torch.complex64, generator=generator)


def smooth(field, sigma):
    """Convolve along rows and columns, around the edges, with a Gaussian."""
    for axis in (-1, -2):
        frequency = torch.fft.fftfreq(field.shape[axis])
        gain = torch.exp(-2 * (math.pi * sigma * frequency) ** 2)
        gain = gain if axis == -1 else gain[:, None]
        field = torch.fft.ifft(torch.fft.fft(field, dim=axis) * gain, dim=axis)
    return field


def one_course(generator, bins=6):
    """One real mode shape, with one course in time: S_k(p) = φ(p) q_k."""
    shape = smooth(torch.randn(2, 96, 128, generator=generator).to(torch.complex64), 2.0).real
    course = torch.randn(bins, dtype=torch.complex64, generator=generator)
    return shape * course[:, None, None, None]


def test_auc_counts_pairs_and_ties_by_half(generator):
    score = torch.rand(500, generator=generator)
    truth = torch.rand(500, generator=generator) < 0.3
    for rounded in (score, (8 * score).round()):
        gaps = rounded[truth][:, None] - rounded[~truth]
        pairs = ((gaps > 0).double() + (gaps == 0).double() / 2).mean().item()
        assert auc(rounded, truth) == pytest.approx(pairs, abs=1e-9)


def test_auc_of_one_class_or_of_what_is_no_number_is_undefined():
    score, truth = torch.tensor([0.1, 0.2]), torch.tensor([True, False])
    for scores, truths in (
        (score, truth | True), (score, truth & False), (score[:0], truth[:0]),
        (torch.tensor([0.1, math.nan]), truth), (torch.tensor([math.inf, 0.1]), truth),
    ):  # fmt: skip
        assert math.isnan(auc(scores, truths))
    assert auc(score.requires_grad_(), truth) == 0


def ssim_by_definition(image, reference):
    """Structural similarity of Wang et al. 2004, an 11×11 Gaussian window with σ = 1.5."""
    line = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    window = (torch.outer(line, line) / line.sum() ** 2)[None, None].expand(3, 1, -1, -1)

    def blur(x):
        return functional.conv2d(x, window, groups=3)

    mean_x, mean_y = blur(image), blur(reference)
    var_x, var_y = blur(image**2) - mean_x**2, blur(reference**2) - mean_y**2
    covariance = blur(image * reference) - mean_x * mean_y
    top = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    return (top / ((mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4))).mean().item()


def test_psnr_and_ssim_of_torchmetrics_are_those_of_the_definition(generator):
    image = torch.rand(2, 3, 32, 40, generator=generator)
    ssim, psnr = structural_similarity_index_measure, peak_signal_noise_ratio
    assert psnr(image, image + 0.01, data_range=1.0).item() == pytest.approx(40, abs=1e-3)
    assert psnr(image, image, data_range=1.0).item() == math.inf
    assert ssim(image, image, data_range=1.0).item() == pytest.approx(1)
    # Constants: only the luminance term is left.
    low, high = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.6)
    expected = (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4)
    assert ssim(low, high, data_range=1.0).item() == pytest.approx(expected, rel=1e-3)
    for noise in (0.02, 0.2, 1.0):
        other = (image + noise * torch.randn(image.shape, generator=generator)).clamp(0, 1)
        decibels = -10 * (image - other).square().mean().log10().item()
        assert psnr(other, image, data_range=1.0).item() == pytest.approx(decibels, abs=1e-4)
        whole, inside = ssim(other, image, data_range=1.0, return_full_image=True)
        expected = ssim_by_definition(other, image)
        assert inside[..., 5:-5, 5:-5].mean().item() == pytest.approx(expected, abs=1e-5)
        # Of the whole picture it counts the border, too, where the window sees a mirror image.
        assert whole.item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("factor", "decibels"), [(10.0, 10.0), (0.01, 20.0), (1.0, 0.0)])
def test_a_factor_of_ten_is_ten_decibels_and_no_difference_of_shape(factor, decibels, generator):
    power = torch.rand(16, generator=generator) + 0.1
    assert log_spectral_distance(factor * power, power) == pytest.approx(decibels, abs=1e-4)
    shape = log_spectral_distance(factor * power, power, match_level=True)
    assert shape == pytest.approx(0, abs=1e-4)


def test_log_spectral_distance_by_hand():
    first, second = torch.tensor([7.0, 10, 100, 1]), torch.tensor([0.0, 1, 1, 10])
    # Differences of 10, 20 and -10 dB about their mean of 20/3; bin 0 does not count.
    assert log_spectral_distance(first, second) == pytest.approx(40 / 3)
    matched = log_spectral_distance(first, second, match_level=True)
    assert matched == pytest.approx((10 / 3 + 40 / 3 + 50 / 3) / 3)


def test_log_spectral_distance_of_nothing():
    empty = torch.tensor([1.0, 1, 0])
    assert log_spectral_distance(empty, torch.ones(3)) == math.inf
    assert log_spectral_distance(torch.ones(3), empty, match_level=True) == math.inf
    assert math.isnan(log_spectral_distance(empty, empty))
    with pytest.raises(ShapeError, match="second"):
        unwrap(log_spectral_distance)(torch.ones(3), torch.ones(4))
    with pytest.raises(GidliteError, match="at least 2 bins"):
        log_spectral_distance(torch.ones(1), torch.ones(1))


def test_white_motion_is_correlated_over_half_a_pixel(generator):
    assert correlation_length(white(generator), EVERYWHERE) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("sigma", [1.5, 3.0, 5.0])
def test_correlation_length_of_smoothed_noise(sigma, generator):
    # Correlation exp(-d² / 4σ²) falls to 1/2 at d = 2σ sqrt(ln 2).
    field = smooth(white(generator, bins=24), sigma)
    found = correlation_length(field, EVERYWHERE)
    assert found == pytest.approx(2 * sigma * math.sqrt(math.log(2)), rel=0.06)


def test_correlation_length_looks_at_the_mask_and_at_bins_above_0_only(generator):
    field = smooth(white(generator, bins=24), 3.0)
    mask = EVERYWHERE.clone()
    mask[:, 64:] = False
    inside = correlation_length(field, mask)
    field[:, :, :, 64:] = 50 * white(generator, bins=24)[..., 64:]
    field[0] = 50
    assert correlation_length(field, mask) == pytest.approx(inside)
    assert correlation_length(field, ~mask) == pytest.approx(0.5, abs=0.02)


def test_correlation_length_is_capped_and_may_be_undefined(generator):
    together = torch.ones(3, 2, 96, 128, dtype=torch.complex64)
    assert correlation_length(together, EVERYWHERE) == 32
    assert correlation_length(together, EVERYWHERE, max_lag=7) == 7
    patch = torch.zeros_like(EVERYWHERE)
    patch[10:15, 20:25] = True
    assert correlation_length(together, patch) == 4  # no two of its pixels are 5 px apart
    lonely = torch.zeros_like(EVERYWHERE)
    lonely[3, 4] = True
    for field, mask in ((together, lonely), (together, ~EVERYWHERE), (0 * together, EVERYWHERE)):
        assert math.isnan(correlation_length(field, mask))


@pytest.mark.parametrize("measure", [correlation_length, bin_agreement, phase_agreement])
def test_amplitude_does_not_matter(measure, generator):
    field = smooth(white(generator), 5.0)
    reference = measure(field, EVERYWHERE)
    assert 0.1 < reference < 12
    for factor in (1e-3, 1e3, 1j):
        assert measure(factor * field, EVERYWHERE) == pytest.approx(reference, rel=1e-3)


def test_directions_of_one_mode_agree_and_of_noise_are_at_chance(generator):
    assert bin_agreement(one_course(generator), EVERYWHERE) == pytest.approx(1, abs=1e-4)
    noise = bin_agreement(white(generator), EVERYWHERE)
    assert noise == pytest.approx(2 / math.pi, abs=0.01)


@pytest.mark.parametrize("degrees", [0, 25, 60, 90])
def test_bin_agreement_is_the_cosine_between_axes(degrees):
    # Bin 1 along x, bin 2 an ellipse of axes 3 and 1 turned by the angle, which counts mod 180°.
    turn = math.radians(degrees + 180)
    long, short = (math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))
    field = torch.zeros(3, 2, 96, 128, dtype=torch.complex64)
    field[1, 0] = 2j
    field[2] = torch.tensor([3 * a + 1j * b for a, b in zip(long, short, strict=True)])[
        :, None, None
    ]
    expected = math.cos(math.radians(degrees))
    assert bin_agreement(field, EVERYWHERE) == pytest.approx(expected, abs=1e-5)


def test_bin_agreement_weighs_by_amplitude():
    field = torch.zeros(3, 2, 1, 2, dtype=torch.complex64)
    field[1, 0], field[2, 0, 0, 0] = 1, 3  # the left pixel goes on along x, thrice as far
    field[2, 1, 0, 1] = 1  # the right one turns by 90°
    assert bin_agreement(field, torch.ones(1, 2, dtype=torch.bool)) == pytest.approx(0.75)
    assert math.isnan(bin_agreement(field, torch.zeros(1, 2, dtype=torch.bool)))


def test_phases_of_one_course_or_one_wave_agree_and_of_noise_do_not(generator):
    assert phase_agreement(one_course(generator), EVERYWHERE) == pytest.approx(1, abs=1e-4)
    delay = 0.7 * torch.arange(128) + 0.2 * torch.arange(96)[:, None]  # in frames
    angle = delay * torch.arange(6)[:, None, None, None] * 2 * math.pi / 150
    wave = torch.polar(torch.ones(6, 2, 96, 128), -angle.expand(6, 2, -1, -1).contiguous())
    assert phase_agreement(wave, EVERYWHERE) == pytest.approx(1, abs=1e-4)
    assert phase_agreement(white(generator), EVERYWHERE) < 0.03


def test_independent_bins_lose_phase_agreement_beyond_their_correlation_length(generator):
    field = smooth(white(generator), 3.0)
    near, far = (phase_agreement(field, EVERYWHERE, lag=lag) for lag in (1, 20))
    assert near > 0.9 and far < 0.15
    assert math.isnan(phase_agreement(field, EVERYWHERE, lag=200))
    assert math.isnan(phase_agreement(field, ~EVERYWHERE))


def test_relative_difference(generator):
    first, second = white(generator), white(generator)
    assert relative_difference(first, first) == 0
    assert relative_difference(first, -first) == pytest.approx(2)
    assert relative_difference(first, second) == pytest.approx(math.sqrt(2), rel=0.01)
    shifted = first.clone()
    shifted[0] += 5
    assert relative_difference(first, shifted) == 0
    with pytest.raises(ShapeError, match="second"):
        unwrap(relative_difference)(first, second[:3])


def test_what_does_not_fit_is_refused(generator):
    field = white(generator)
    for measure in map(unwrap, (correlation_length, bin_agreement, phase_agreement)):
        with pytest.raises(ShapeError, match="mask"):
            measure(field, EVERYWHERE[1:])
        with pytest.raises(ShapeError, match="spectral"):
            measure(field[0], EVERYWHERE)
        with pytest.raises(GidliteError, match="at least"):
            measure(field[:1], EVERYWHERE)


def swinging(count, *, period, phase=0.0, amplitude=20.0):
    """Return frames of a smooth pattern that shifts to and fro."""
    x = torch.arange(64.0)
    times = torch.arange(count)
    shift = amplitude * torch.sin(2 * math.pi * (times / period + phase))
    lines = 128 + 100 * torch.sin(2 * math.pi * (x + shift[:, None]) / 64)
    return lines[:, None, None].expand(-1, 3, 12, -1).round().to(torch.uint8)


def test_a_loop_has_a_seam_of_one_ordinary_step():
    steady = torch.stack([swinging(1, period=1)[0].roll(t, -1) for t in range(64)])
    assert loop_seam(steady) == pytest.approx(1, abs=0.02)
    cut = loop_seam(steady[:40])
    assert cut == pytest.approx(64 / math.pi * math.sin(math.pi * 24 / 64) / 1, rel=0.1)
    assert math.isnan(loop_seam(steady[:1].expand(5, -1, -1, -1)))
    with pytest.raises(GidliteError, match="3 frames"):
        loop_seam(steady[:2])


def test_slices_with_other_phase_are_alike_and_with_other_frequency_are_not():
    pictures = [
        swinging(150, period=period, phase=phase)[:, :, 5].transpose(0, 1).float()
        for period, phase in ((30, 0.0), (30, 0.3), (15, 0.0))
    ]
    noise = [p + torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
             for i, p in enumerate(pictures)]  # fmt: skip
    alike = slice_spectral_distance(noise[0], noise[1])
    different = slice_spectral_distance(noise[0], noise[2])
    assert alike < 1.5 < 3 < different
    assert slice_spectral_distance(noise[0], noise[0]) == 0
    assert slice_spectral_distance(noise[0], noise[0].flip(1)) < 1e-9
    assert slice_spectral_distance(noise[0], noise[1][:, :100]) < 3
