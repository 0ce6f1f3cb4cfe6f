"""Checks of lesson 15. None of them needs the trained network: its numbers differ between runs."""

import cmath
import math

import torch

from exercises import number, tensor


def _held_and_released():
    """Closed form of a damped oscillator, 1 Hz, ζ = 0.15, 0.7 s after it is let go at 1."""
    zeta, omega, time = 0.15, 2 * math.pi, 0.7
    root = omega * cmath.sqrt(zeta**2 - 1)
    first, second = -zeta * omega + root, -zeta * omega - root
    at = (second * cmath.exp(first * time) - first * cmath.exp(second * time)) / (second - first)
    return at.real


def _between_frames():
    """Frame 2.5 of the series, term by term."""
    volume = torch.randn(
        6, 2, 4, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(15)
    )
    motion = torch.zeros(2, 4, 4)
    for k, term in enumerate(volume, start=1):
        angle = 2 * math.pi * k * 2.5 / 36
        motion += 2 * (term.real * (math.cos(angle) - 1) - term.imag * math.sin(angle))
    return motion


def _drawn_spread(steps=20, spread=2.0):
    """What the rotations of the sampler make of the standard deviation of Gaussian noise."""
    delta, factor = math.pi / 2 / steps, 1.0
    for n in range(steps):
        angle = math.pi / 2 - n * delta
        variance = math.cos(angle) ** 2 * spread**2 + math.sin(angle) ** 2
        slope = math.sin(angle) * math.cos(angle) * (1 - spread**2) / variance
        factor *= math.cos(delta) - math.sin(delta) * slope
    return factor


CHECKS = {
    "1": tensor(
        _between_frames(),
        hint="the formula of section 2 takes any t; are the bins counted from 1, is F_0 zero?",
    ),
    "2": number(
        _held_and_released(),
        rel=0.005,
        hint="the drive of one oscillator is [[0, 1], [-ω², -2ζω]]; ω is 2π times the Hz.",
    ),
    "3": number(
        _drawn_spread(),
        rel=0.03,
        hint="put the v of the text in place of the network, and start from noise of spread 1.",
    ),
}
