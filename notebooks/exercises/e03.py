"""Lesson 03: frequency-adaptive normalization."""

import torch

from exercises import number
from gidlite.motion.normalize import FrequencyStats, normalize
from gidlite.motion.spectral import unpack_complex


def _first_order(answer):
    for value, delta, scale in ((0.5, 1e-5, 2.0), (3.0, -2e-5, 0.1)):
        exact = scale * (value + delta) ** 2 - scale * value**2
        if abs(float(answer(value, delta, scale)) - exact) > 1e-3 * abs(exact):
            return "differentiate the inverse, scale times the square of the value."
    return None


def _inverse(answer):
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(6, 4, 5, 7, generator=generator)
    scale = torch.rand(6, generator=generator) + 0.1
    found = answer(packed, scale)
    if found.shape != packed.shape:
        return f"it returns the shape {tuple(found.shape)} for {tuple(packed.shape)}."
    again = normalize(unpack_complex(found), FrequencyStats(scale))
    if torch.allclose(again, packed, atol=1e-4, rtol=1e-4):
        return None
    return "normalizing what it returns does not give back what went in; mind the signs."


CHECKS = {
    "1": number(-1.58114, hint="divide first, take the root of the size, then put the sign back."),
    "2": _first_order,
    "3": _inverse,
}
