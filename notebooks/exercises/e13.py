"""Checks of lesson 13."""

import math

import torch

from exercises import number


def bins(answer):
    value = float(answer)
    if value != int(value):
        return "bins are whole."
    if value == 25:
        return "one too few: the first bin is 0 Hz."
    hint = "bin k lies at k · fps / T."
    return number(26, rel=0, hint=hint)(value)


def _stretch(factor: float, angle: float) -> float:
    """Return the length of a rod of length 1 whose tip moves so many times as far as it turns."""
    return math.hypot(factor * math.sin(angle), 1 - factor * (1 - math.cos(angle)))


def _repaired() -> float:
    """Return the largest error of a line and 15 waves, fitted by two least squares in a row."""
    time = torch.arange(150, dtype=torch.float64)
    course = (2.5 * time).clamp(max=160)
    line = torch.stack([time, torch.ones(150)], 1)
    rest = course - line @ torch.linalg.lstsq(line, course[:, None]).solution[:, 0]
    turns = 2 * math.pi * time[:, None] * torch.arange(16) / 150
    waves = torch.cat([turns.cos(), turns[:, 1:].sin()], 1)
    found = waves @ torch.linalg.lstsq(waves, rest[:, None]).solution[:, 0]
    return (found - rest).abs().max().item()


CHECKS = {
    "1": bins,
    "2": number(
        _stretch(3, 0.2), rel=0.005, hint="where is the tip after three times its displacement?"
    ),
    "3": number(
        _repaired(), rel=0.03, hint="fit the line first, then 16 bins (0 to 15) to what it leaves."
    ),
}  # fmt: skip
