"""Fitting modes: known damped exponentials in, the same numbers and the future out."""

import math

import pytest
import torch

from gidlite.errors import GidliteError
from gidlite.motion.flow import Motion
from studies.ringdown import fit_modes, predict_motion, ringdown

HERTZ, DAMPING, FPS = torch.tensor([1.05, 3.4]), torch.tensor([0.015, 0.04]), 30.0


@pytest.fixture
def truth(generator) -> torch.Tensor:
    """150 frames of two modes that settle somewhere else than at frame 0."""
    modes = 3 * torch.randn(2, 2, 6, 8, dtype=torch.complex128, generator=generator)
    omega = 2 * math.pi * HERTZ.double()
    poles = torch.complex(-DAMPING * omega, omega * (1 - DAMPING.double() ** 2).sqrt())
    times = torch.arange(150) / FPS
    motion = torch.einsum("tk,kchw->tchw", (times[:, None] * poles).exp(), modes).real
    return (motion - motion[0]).float()


def test_recovers_frequencies_damping_and_the_future(truth):
    fit = fit_modes(truth[:75], fps=FPS, num_modes=2)
    torch.testing.assert_close(fit.frequencies_hz.float(), HERTZ, rtol=1e-4, atol=0)
    torch.testing.assert_close(fit.damping.float(), DAMPING, rtol=1e-2, atol=0)
    ahead = predict_motion(fit, first=75, count=75, fps=FPS)
    assert (ahead - truth[75:]).abs().max() < 0.01


def test_noise_is_survived_and_the_number_of_modes_found(truth, generator):
    noisy = truth + 0.3 * torch.randn(truth.shape, generator=generator)
    result = ringdown(Motion(noisy, torch.ones(6, 8, dtype=torch.bool)), fps=FPS)
    ringing = {round(hz, 1) for hz in result.fit.frequencies_hz.tolist()}
    assert {1.0, 3.4} <= ringing or {1.1, 3.4} <= ringing
    assert result.predicted < 0.45 < result.rest < result.last
    assert result.frames_fitted == 75


def test_the_fitted_system_starts_at_frame_zero(truth):
    fit = fit_modes(truth[:75], fps=FPS, num_modes=2)
    start = fit.rest + fit.system().displacement()
    assert start.abs().max() < 1e-3


def test_refusals(truth):
    with pytest.raises(GidliteError, match="24 frames, got 20"):
        fit_modes(truth[:20], fps=FPS, num_modes=3)
    with pytest.raises(GidliteError, match="NaN"):
        fit_modes(truth * math.nan, fps=FPS, num_modes=1)
    with pytest.raises(GidliteError, match="nothing in this motion swings"):
        fit_modes(torch.zeros(30, 2, 4, 4), fps=FPS, num_modes=1)
    still = Motion(torch.zeros(40, 2, 4, 4), torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(GidliteError, match="nothing moves"):
        ringdown(still, fps=FPS)
    with pytest.raises(GidliteError, match="at least 12"):
        ringdown(still, fps=FPS, share=0.1)
