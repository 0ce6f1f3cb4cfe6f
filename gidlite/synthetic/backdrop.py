"""Procedural backdrops: everything that must not move, much of it in the colours of plants."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gidlite.synthetic.brush import Brush, noise

__all__ = ["paint_backdrop"]


def paint_backdrop(
    generator: torch.Generator | None, *, height: int = 160, width: int = 256
) -> Float[Tensor, "3 height width"]:
    """Paint what never moves: sky or wall, hills or floor, houses, furniture and clutter."""
    b = Brush(generator)
    top, bottom = b.muted()[:, None, None], b.muted()[:, None, None]
    ramp = torch.linspace(0, 1, height)[:, None]
    cells = ((3,), (3, 9), (5, 40), (12, 80))[b.count(0, 3)]
    picture = (top * (1 - ramp) + bottom * ramp) * (
        1 + b.one(0.05, 0.35) * noise(height, width, cells=cells, generator=generator)
    )
    if b.one(0, 1) < 0.6:  # ground, floor or table, with a rough or wavy edge
        edge = b.one(0.45, 0.9) + b.one(0, 0.12) * noise(
            1, width, cells=(b.count(2, 12),), generator=generator
        )
        ground = b.green() if b.one(0, 1) < 0.5 else b.muted()
        grain = 1 + b.one(0.05, 0.4) * noise(
            height, width, cells=(b.count(10, 90),), generator=generator
        )
        picture = torch.where(ramp > edge, ground[:, None, None] * grain, picture)
    picture = picture.clamp(0, 1)
    for _ in range(b.count(0, 5)):
        _add_clutter(picture, b)
    return picture


def _add_clutter(picture: Tensor, b: Brush) -> None:
    """Draw a box (wall, window, book), a stone or a pole, often in the colours of plants."""
    height, width = picture.shape[-2:]
    x, y = b.one(0, 1), b.one(0.2, 1)
    kind = b.count(0, 3)
    long, short = b.one(0.03, 0.25), b.one(0.03, 0.25)
    if kind == 3:
        long, short = b.one(0.004, 0.02), b.one(0.3, 0.8)
    color = b.green() if b.one(0, 1) < 0.4 else b.muted()
    u = ((torch.arange(width) + 0.5) / width - x).abs() / long
    v = (((torch.arange(height) + 0.5) / height - y).abs() / short)[:, None]
    power = 2.0 if kind == 2 else 30.0
    inside = 1 - (u**power + v**power) ** (1 / power)
    grain = 1 + b.one(0.03, 0.3) * noise(
        height, width, cells=(b.count(4, 60),), generator=b.generator
    )
    light = 0.7 + 0.4 * inside.clamp(0, 1) if kind == 2 else torch.ones_like(inside)
    alpha = (inside * 20).clamp(0, 1)
    picture.lerp_((color[:, None, None] * grain * light).clamp(0, 1), alpha)
    if kind == 0:  # windows or shelves
        step = b.count(8, 20)
        mesh = ((torch.arange(width) % step) < 2) | ((torch.arange(height) % step) < 2)[:, None]
        picture.mul_(1 - 0.4 * alpha * mesh)
