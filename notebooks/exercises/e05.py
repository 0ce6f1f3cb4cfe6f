"""Checks of lesson 05: diffusion on spectra."""

import math

import torch

from exercises import number

COUNTS = (20, 40, 80, 160, 320, 640)


def _signal(n: int) -> float:
    """Return the share of the signal at a step: a quarter of a cosine, slightly delayed."""

    def level(place: float) -> float:
        return math.cos((place + 0.008) / 1.008 * math.pi / 2)

    return level((n + 1) / 1000) / level(0)


def _magnified(answer):
    answer = torch.as_tensor(answer).flatten()
    if len(answer) != 2:
        return f"there are {len(answer)} numbers, not 2: of the noise, then of v."
    signal = _signal(900)
    sigma = math.sqrt(1 - signal**2)
    of_noise = number(0.1 * sigma / signal, hint="put z_n = signal z_0 + sigma ε first.")
    of_v = number(0.1 * sigma, hint="z_0 = signal z_n - sigma v, and z_n is given.")
    return of_noise(answer[0]) or of_v(answer[1])


def _stiller(answer):
    answer = float(answer)
    if 0.05 < answer < 0.6:  # independent draws: about 1 / sqrt(32)
        return None
    if answer <= 0.05:
        return "so still is not even the mean of independent draws; are powers compared?"
    return "such a mean moves hardly less than each; do all draws start from the same noise?"


def _kept(count: int, power: float = 700.0) -> float:
    """Return the share that DDIM leaves of a mode's variance; the lesson has another solver."""
    levels = [_signal(round(999 - i * 999 / count)) for i in range(count)]
    z = math.sqrt(1 + levels[0] ** 2 * (power - 1))
    for now, then in zip(levels, [*levels[1:], 1.0], strict=True):
        estimate = now * power / (now**2 * power + 1 - now**2) * z
        noise = (z - now * estimate) / math.sqrt(1 - now**2)
        z = then * estimate + math.sqrt(max(0, 1 - then**2)) * noise
    return z**2 / power


def _enough(answer):
    if answer not in COUNTS:
        return f"choose one of {', '.join(map(str, COUNTS))}."
    least = min(count for count in COUNTS if _kept(count) >= 0.8)
    if answer == least:
        return None
    return "fewer will do." if answer > least else "the mode keeps less than that."


CHECKS = {"1": _magnified, "2": _stiller, "3": _enough}
