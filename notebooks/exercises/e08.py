"""Checks of lesson 08: a disc before a wall, counted, and by other routes than the solutions."""

import math

import torch

from exercises import number, tensor

_RADIUS, _MOVE = 16.0, (9.0, 4.0)  # of the toy, px


def _overlap() -> float:
    """Return the area that a disc and its moved copy share: a lens."""
    distance = math.hypot(*_MOVE)
    sector = 2 * _RADIUS**2 * math.acos(distance / (2 * _RADIUS))
    return sector - distance / 2 * math.sqrt(4 * _RADIUS**2 - distance**2)


def _half_as_bright() -> float:
    """Return where e^c / (e^c + 1e-7) is a half, by bisection."""
    low, high = -40.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        dark = math.exp(middle) / (math.exp(middle) + 1e-7) < 0.5
        low, high = (middle, high) if dark else (low, middle)
    return low


def _gradient(answer):
    """Compute d(sum out²)/dZ of the toy from its closed form: 2 w (out · (I - out)) summed."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    u, v = x - 46, y - 31
    alpha = (16.5 - torch.hypot(u, v)).clamp(0, 1)
    wave = 0.25 * torch.sin(0.8 * u) * torch.sin(0.6 * v)
    disc = torch.stack([0.9 + wave, 0.6 + 2 * wave, 0.2 + wave])
    brick = 0.1 * torch.sign(torch.sin(0.5 * x + torch.sin(0.4 * y))) * torch.cos(0.3 * y)
    wall = torch.stack([0.35 + brick, 0.45 + brick, 0.55 - brick])
    photo, on_disc = (alpha * disc + (1 - alpha) * wall).clamp(0, 1), alpha > 0.5
    weight = torch.exp(0.3 * math.hypot(*_MOVE) * on_disc)
    dx, dy = map(int, _MOVE)
    carried = torch.cat([photo * weight, weight[None]])
    # The disc lands on whole pixels, all inside the picture; the wall stays where it is.
    total = carried * ~on_disc + (carried * on_disc).roll((dy, dx), (1, 2))
    out = total[:3] / torch.where(total[3] == 0, 1, total[3])
    share = 2 * weight / torch.where(total[3] == 0, 1, total[3])
    at_wall = (out * (photo - out)).sum(0) * share
    gone = torch.where(total[3] == 0, 1, total[3]).roll((-dy, -dx), (0, 1))
    there = out.roll((-dy, -dx), (1, 2))
    at_disc = (there * (photo - there)).sum(0) * 2 * weight / gone
    expected = torch.where(on_disc, at_disc, at_wall)[None]
    hint = "is it with respect to 0.3 Z, and the sum of squares over all colours and pixels?"
    return tensor(expected, atol=2e-3, hint=hint)(answer)


CHECKS = {
    "1": number(_overlap(), rel=0.03, hint="what else lands where the disc was?"),
    "2": number(_half_as_bright(), rel=0.03, hint="compare the denominator of the wall with 1e-7."),
    "3": _gradient,
}
