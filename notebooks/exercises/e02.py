"""Lesson 02: spectral volumes."""

import math

import torch
from footage import footage

from exercises import number, tensor
from gidlite.motion.spectral import motion_to_spectral, spectral_to_motion


def _amount(answer):
    volume = motion_to_spectral(footage().motion, num_frequencies=16)
    motion = spectral_to_motion(volume, num_frames=150)
    expected = motion.var(0, correction=0).sum(0).sqrt()  # from the motion, not from Parseval
    hint = "the power of each bin counts twice, bin 0 does not vary, and both directions add up."
    return tensor(expected, atol=2e-3, hint=hint)(answer)


def _later(answer):
    volume = motion_to_spectral(footage().motion, num_frequencies=16)
    if not torch.is_complex(answer) or answer.shape != volume.shape:
        return f"give a complex volume of shape {tuple(volume.shape)}."
    played = spectral_to_motion(answer, num_frames=150)
    expected = spectral_to_motion(volume, num_frames=150).roll(-12, 0)
    if torch.allclose(played, expected, atol=2e-3):
        return None
    earlier = torch.allclose(played, expected.roll(24, 0), atol=2e-3)
    return "that is 12 frames earlier." if earlier else "a delay turns bin k by an angle times k."


def _taper(answer):
    motion, ramp = footage().motion, torch.ones(150)
    for t in range(15):
        ramp[t] = ramp[149 - t] = (1 - math.cos(math.pi * t / 15)) / 2
    tapered = motion.mean(0) + ramp[:, None, None, None] * (motion - motion.mean(0))
    ends = []
    for course in (motion, tapered):
        bins = torch.fft.rfft(course, dim=0)
        bins[16:] = 0
        gap = torch.fft.irfft(bins, n=150, dim=0) - course
        ends.append(gap.square().mean((1, 2, 3)).sqrt()[[0, -1]].mean())
    hint = "take the mean off before you fade, and compare with the faded motion."
    return number((ends[0] / ends[1]).item(), rel=0.05, hint=hint)(answer)


CHECKS = {"1": _amount, "2": _later, "3": _taper}
