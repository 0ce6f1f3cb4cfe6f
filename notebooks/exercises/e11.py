"""Checks of lesson 11: what a step does to an oscillator, by other routes than the solutions."""

import math

import torch

from exercises import number, tensor


def _longest_stable_step(omega: float, zeta: float) -> float:
    """Bisect on whether Euler's step lets an oscillator grow."""
    low, high = 0.0, 1.0
    for _ in range(50):
        h = (low + high) / 2
        step = torch.tensor([[1.0, h], [-h * omega**2, 1 - 2 * h * zeta * omega]]).double()
        stays = torch.linalg.matrix_power(step, 1 << 20).abs().max() < 1e3  # not even nan
        low, high = (h, high) if stays else (low, h)
    return low


def _critically_damped(answer):
    rate = torch.tensor([[0.0, 1], [-9.0, -6.0]]).double()
    expected = torch.linalg.matrix_exp(0.2 * rate).float()
    hint = "what do sin(ω_d h) / ω_d and cos(ω_d h) become as ω_d goes to 0?"
    return tensor(expected, hint=hint)(answer)


def _semi_implicit(answer):
    frequency, damping = (float(value) for value in answer)
    omega, zeta, h = 2 * math.pi * 3, 0.05, 1 / 30
    # A step multiplies areas of (q, q̇) by e^(-2 decay h); its trace is 2 e^(-decay h) cos(ω_d h).
    area, trace = 1 - 2 * h * zeta * omega, 2 - 2 * h * zeta * omega - (h * omega) ** 2
    decay = -math.log(area) / (2 * h)
    ringing = math.acos(trace / (2 * math.sqrt(area))) / h
    size = math.hypot(decay, ringing)
    if abs(frequency - 3) < 0.01:
        return "the frequency is not the one that was put in: measure what comes out."
    hint = "take the logarithm of an eigenvalue of one step, over h; its size is ω, not ω_d."
    wrong = number(size / (2 * math.pi), hint=hint)(frequency)
    return wrong or number(decay / size, hint="the real part over the size.")(damping)


CHECKS = {
    "1": number(
        _longest_stable_step(0.4 * math.pi, 0.05),
        hint="when is |1 + hλ| equal to 1, and is h in seconds?",
    ),
    "2": _critically_damped,
    "3": _semi_implicit,
}
