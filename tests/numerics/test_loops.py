"""Loops against closed forms: the gap, its projection, the gradient, the seam of pictures."""

import math
import subprocess
import sys

import pytest
import torch

from gidlite.errors import GidliteError
from gidlite.evaluate import bin_agreement, loop_seam
from gidlite.loops import close_loop, loop_gap, loop_guidance, loop_loss, whole_periods
from gidlite.motion import SpectralVolume
from gidlite.motion.spectral import anchor, derivative_basis, power_spectrum, spectral_to_motion
from gidlite.prior.denoiser import GaussianField
from gidlite.prior.diffusion import make_scheduler, sample, signal_levels
from gidlite.render import close_for, frame_times, render_frames

PERIOD = {"num_frames": 150}


@pytest.fixture
def volume(generator):
    """Return a volume with the falling spectrum of plants, anchored."""
    falling = 0.1 / torch.arange(1, 17).view(-1, 1, 1, 1)
    noise = torch.randn(16, 2, 5, 6, dtype=torch.complex64, generator=generator)
    return anchor(falling * noise)


def derivative(spectral, time, order):
    """Return a derivative by central differences of a trajectory in float64."""
    steps = torch.tensor([time - 1e-2, time, time + 1e-2], dtype=torch.float64)
    before, here, after = spectral_to_motion(spectral.to(torch.complex128), times=steps, **PERIOD)
    return (here, (after - before) / 2e-2, (after - 2 * here + before) / 1e-4)[order]


@pytest.mark.parametrize("length", [20.0, 75.0, 90.5, 210.0])
def test_the_gap_is_what_the_trajectory_lacks(volume, length):
    gap = loop_gap(volume, loop_frames=length, orders=(0, 1, 2), **PERIOD)
    for order in range(3):
        expected = derivative(volume, length, order) - derivative(volume, 0.0, order)
        torch.testing.assert_close(gap[order].double(), expected, atol=1e-5, rtol=1e-4)


def test_the_gap_of_one_bin_in_closed_form():
    wave = torch.zeros(4, 2, 1, 1, dtype=torch.complex64)
    wave[1, 0] = 0.5  # F_t = cos(2 pi t / 150)
    gap = loop_gap(wave, loop_frames=37.5, **PERIOD)[:, 0, 0, 0]
    torch.testing.assert_close(gap, torch.tensor([-1.0, -2 * math.pi / 150]))


def test_a_whole_period_is_a_loop_already(volume):
    for periods in (1, 2, 40):
        assert torch.equal(close_loop(volume, loop_frames=150 * periods, **PERIOD), volume)


@pytest.mark.parametrize("length", [20.0, 75.0, 90.5, 153.0, 210.0])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_closing_leaves_no_gap_and_little_else_changes(volume, length, exponent):
    closed = close_loop(volume, loop_frames=length, exponent=exponent, **PERIOD)
    before = loop_gap(volume, loop_frames=length, **PERIOD).abs().amax((1, 2, 3))
    after = loop_gap(closed, loop_frames=length, **PERIOD).abs().amax((1, 2, 3))
    assert (after < 1e-5 * before.clamp(min=0.1)).all()
    power, was = power_spectrum(closed)[1:].sum(), power_spectrum(volume)[1:].sum()
    assert power.item() == pytest.approx(was.item(), rel=1e-4)
    assert spectral_to_motion(closed, times=torch.zeros(1), **PERIOD).abs().max() < 1e-5
    again = close_loop(closed, loop_frames=length, exponent=0, **PERIOD)
    torch.testing.assert_close(again, closed, atol=1e-5, rtol=0)


def test_the_change_is_the_least(volume):
    """Least norm by the normal equations, one pixel after another."""
    rows = derivative_basis(torch.tensor([0.0, 75.0]), num_frequencies=16, **PERIOD).diff(dim=0)
    plain = {"orders": (0,), "exponent": 0.0, "keep_amplitude": False}
    closed = close_loop(volume, loop_frames=75, **plain, **PERIOD)
    for x in range(6):
        value = torch.cat([volume[:, 1, 2, x].real, volume[:, 1, 2, x].imag]).double()
        wanted = value - torch.linalg.pinv(rows) @ (rows @ value)
        found = torch.cat([closed[:, 1, 2, x].real, closed[:, 1, 2, x].imag]).double()
        # Bin 0 keeps the start where it was.
        torch.testing.assert_close(found[1:16], wanted[1:16], atol=1e-6, rtol=0)
        torch.testing.assert_close(found[17:], wanted[17:], atol=1e-6, rtol=0)


def test_exponent_one_draws_from_the_loops(generator):
    """Matheron's rule: the covariance of what comes out is that of a Gaussian given the loop."""
    spread = (1 / torch.arange(1, 6, dtype=torch.float64)).repeat(2)
    draws = torch.randn(10, 2, 60, 80, dtype=torch.float64, generator=generator)
    draws = draws * spread.view(-1, 1, 1, 1)
    free = torch.complex(draws[:5], draws[5:])
    free = torch.cat([torch.zeros_like(free[:1]), free])
    options = {"exponent": 1.0, "keep_amplitude": False, "loop_frames": 70}
    closed = close_loop(free, **options, **PERIOD)[1:]
    found = torch.cov(torch.cat([closed.real, closed.imag]).flatten(1))
    ends = torch.tensor([0.0, 70.0])
    rows = torch.cat([
        derivative_basis(ends, num_frequencies=6, order=d, **PERIOD).diff(dim=0) for d in (0, 1)
    ])[:, [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]]  # fmt: skip
    prior = torch.diag(spread.square())
    gain = prior @ rows.T @ torch.linalg.inv(rows @ prior @ rows.T)
    torch.testing.assert_close(found, prior - gain @ rows @ prior, atol=0.04, rtol=0)


def test_what_moves_along_a_line_stays_on_it(generator):
    course = torch.randn(16, 1, 4, 5, dtype=torch.complex64, generator=generator)
    angle = torch.rand(4, 5, generator=generator) * math.pi
    line = course * torch.stack([angle.cos(), angle.sin()])
    closed = close_loop(line, loop_frames=75, **PERIOD)
    assert bin_agreement(closed, torch.ones(4, 5, dtype=torch.bool)) > 0.9999


def test_batches_are_closed_one_by_one(volume):
    both = torch.stack([volume, 3 * volume.roll(1, -1)])
    closed = close_loop(both, loop_frames=80, **PERIOD)
    for one, alone in zip(closed, both, strict=True):
        torch.testing.assert_close(one, close_loop(alone, loop_frames=80, **PERIOD))


def test_still_volumes_and_impossible_lengths(volume):
    still = torch.zeros_like(volume)
    assert torch.equal(close_loop(still, loop_frames=75, **PERIOD), still)
    assert loop_loss(still, loop_frames=75, **PERIOD) == 0
    for length in (0, -3, math.nan):
        with pytest.raises(GidliteError, match="loop length"):
            close_loop(volume, loop_frames=length, **PERIOD)


def test_loss_is_zero_for_loops_and_blind_to_amplitude(volume):
    loss = loop_loss(volume, loop_frames=75, **PERIOD)
    assert 0.3 < loss < 3
    torch.testing.assert_close(loop_loss(7 * volume, loop_frames=75, **PERIOD), loss)
    assert loop_loss(close_loop(volume, loop_frames=75, **PERIOD), loop_frames=75, **PERIOD) < 1e-4
    assert loop_loss(volume, loop_frames=300, **PERIOD) == 0


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("through_network", [True, False])
def test_guidance_against_finite_differences(prediction_type, through_network, generator):
    """The push is u σ n times the gradient of the loss of what the prediction implies."""
    mix = torch.randn(4, 4, dtype=torch.float64, generator=generator) / 4
    z = torch.randn(1, 6, 4, 3, 2, dtype=torch.float64, generator=generator)
    step, weight = torch.tensor(400), 0.7
    signal = signal_levels()[400].double()
    noise = (1 - signal.square()).sqrt()
    predict = lambda z, step: torch.tanh(torch.einsum("bkchw,cd->bkdhw", z, mix))  # noqa: E731

    def to_spectral(latents):
        pairs = latents.sign() * latents.square()  # as denormalize does
        return torch.complex(pairs[:, :, 0::2], pairs[:, :, 1::2])

    def implied(z):
        at = predict(z, step)
        return signal * z - noise * at if prediction_type[0] == "v" else (z - noise * at) / signal

    settings = {"loop_frames": 70.0, **PERIOD}
    guided = loop_guidance(
        predict, to_spectral, weight=weight, prediction_type=prediction_type,
        through_network=through_network, **settings,
    )  # fmt: skip
    push = guided(z, step) - predict(z, step)
    push = push * signal if prediction_type[0] == "v" else push
    # The sizes of position and velocity in the loss are constants to the gradient.
    place = z if through_network else implied(z)
    clean = implied if through_network else (lambda clean: clean)
    fixed = fixed_loss(to_spectral(implied(z)), **settings)
    for index in [(0, 1, 0, 0, 0), (0, 3, 2, 1, 1), (0, 5, 3, 2, 0)]:
        bump = torch.zeros_like(z)
        bump[index] = 1e-6
        up, down = (fixed(to_spectral(clean(place + s * bump))) for s in (1, -1))
        slope = (up - down) / 2e-6
        expected = weight * noise * z.numel() * slope * (1 if through_network else signal)
        assert push[index].item() == pytest.approx(expected.item(), rel=1e-4)


def fixed_loss(reference, *, num_frames, loop_frames):
    """Return the loss as a function of the volume with the divisors of a reference."""
    options = {"num_frames": num_frames, "loop_frames": loop_frames}
    times = torch.arange(num_frames, dtype=torch.float64)[:, None]
    bins = reference.shape[1]
    sizes = []
    for order in (0, 1):
        basis = derivative_basis(times[:, 0], num_frequencies=bins, num_frames=150, order=order)
        course = torch.einsum(
            "tk,bkchw->tbchw", basis, torch.cat([reference.real, reference.imag], 1)
        )
        sizes.append(math.sqrt(2) * course.std(dim=0, correction=0).square().mean().sqrt())
    return lambda s: sum(loop_gap(s, **options)[:, d].abs().mean() / sizes[d] for d in (0, 1))


def test_guided_sampling_comes_closer_to_a_loop():
    """White latents, whose best prediction of v is 0, and a linear way to volumes."""
    settings = {"loop_frames": 70, **PERIOD}
    falling = 1 / torch.arange(1, 7).view(-1, 1, 1, 1)

    def to_spectral(latents):
        return falling * torch.complex(latents[:, :, 0::2], latents[:, :, 1::2])

    losses = []
    for weight in (0.0, 0.01, 0.05):
        predict = loop_guidance(
            lambda z, step: torch.zeros_like(z), to_spectral, weight=weight,
            prediction_type="v_prediction", **settings,
        )  # fmt: skip
        start = torch.randn(1, 6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        latents = sample(predict, start, scheduler=make_scheduler("dpm"), num_steps=12)
        losses.append(loop_loss(to_spectral(latents), **settings).item())
    assert losses[2] < 0.8 * losses[1] and losses[1] < 0.95 * losses[0], losses


def test_recurrence_puts_right_what_strong_guidance_breaks():
    """The exact denoiser of a field, guided through the square of a denormalization."""
    settings = {"loop_frames": 70, **PERIOD}
    falling = 1 / torch.arange(1, 7).view(-1, 1, 1, 1)
    field = GaussianField(6)
    field.log_power.copy_(
        torch.linspace(3, -2, field.log_power.shape[-1]).expand_as(field.log_power)
    )

    def to_spectral(latents):
        latents = latents * latents.abs()
        return falling * torch.complex(latents[:, :, 0::2], latents[:, :, 1::2])

    def predict(z, step):
        signal = signal_levels()[step.long()]
        index = torch.arange(6).expand(len(z), -1)
        clean = field.denoise(z, index, signal.expand(len(z)))
        return (signal * z - clean) / (1 - signal.square()).sqrt()

    def loss(weight, recurrence):
        guided = loop_guidance(
            predict, to_spectral, weight=weight, prediction_type="v_prediction", **settings
        )
        generator = torch.Generator().manual_seed(0)
        latents = sample(
            guided, torch.randn(6, 6, 4, 8, 8, generator=generator), num_steps=12,
            scheduler=make_scheduler("dpm"), recurrence=recurrence, generator=generator,
        )  # fmt: skip
        return loop_loss(to_spectral(latents), **settings).item()

    assert loss(0.5, 2) < 0.7 * loss(0.5, 1)
    assert loss(0.01, 2) > loss(0.01, 1), "weak guidance is forgotten with the noise"


def test_no_weight_is_no_guidance():
    predict = lambda z, step: z  # noqa: E731
    settings = {"prediction_type": "epsilon", "loop_frames": 70, **PERIOD}
    assert loop_guidance(predict, torch.view_as_complex, weight=0, **settings) is predict


def test_closing_loops_loads_no_diffusion_library():
    code = "import sys, gidlite.loops; sys.exit('diffusers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("seconds", [1.0, 2.5, 3.0, 4.0, 7.0, 5.2])
@pytest.mark.parametrize("slow", [1.0, 2.0])
def test_a_loop_of_any_length_has_no_seam(volume, seconds, slow):
    whole = SpectralVolume(volume)
    times = frame_times(whole, seconds=seconds, slow=slow)
    speed = (times[1] * slow).item()
    assert speed == pytest.approx(1, abs=0.12), "natural speed"
    closed = close_for(whole, times)
    motion = spectral_to_motion(closed.spectral, times=times, **PERIOD)
    free = spectral_to_motion(volume, times=times, **PERIOD)
    after = spectral_to_motion(closed.spectral, times=times[-1:] + times[1], **PERIOD)
    torch.testing.assert_close(after, motion[:1], atol=1e-5, rtol=0)
    assert loop_seam(motion) < 2 and loop_seam(motion, order=2) < 2.5
    assert len(motion) == round(30 * seconds) == len(free)


def test_whole_periods_are_played_whole():
    lengths = {149: 1, 160: 1, 170: 0, 75: 0, 290: 2, 1800: 12, 1850: 12}
    for length, periods in lengths.items():
        assert whole_periods(length, **PERIOD) == periods


def test_the_picture_does_not_flash_when_it_passes_the_photo():
    """Uniform motion to and fro: passing the untouched photo is like passing elsewhere."""
    x, y = torch.arange(48.0), torch.arange(32.0)[:, None]
    stripes = 0.5 + 0.25 * torch.sin(2 * math.pi * x / 5) + 0.2 * torch.cos(2 * math.pi * y / 7)
    wave = torch.zeros(2, 2, 16, 24, dtype=torch.complex64)
    wave[1] = -0.15j  # through the photo at full speed
    volume = SpectralVolume(wave)
    times = torch.arange(150.0)
    frames = torch.stack(list(render_frames(stripes.expand(3, -1, -1), volume, times)))
    frames = frames[..., 4:-4, 4:-4]
    assert 0.8 < loop_seam(frames) < 1.1
    assert loop_seam(frames, order=2) < 1.5
    contrast = frames.std(dim=(1, 2, 3))
    assert contrast.min() > 0.93 * contrast[0]
