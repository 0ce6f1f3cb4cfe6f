"""A brush: random colours, superellipses and tapering strokes, and the canvas they end up on."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["PIECE_SIZE", "Brush", "noise"]

PIECE_SIZE = 160


class Brush:
    """Random numbers and shapes in one place, so that a family reads like a recipe."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.shapes: list[Tensor] = []

    def draw(self, low: float, high: float, *shape: int) -> Tensor:
        """Return uniform numbers."""
        return low + (high - low) * torch.rand(shape or (1,), generator=self.generator)

    def one(self, low: float, high: float) -> float:
        """Return one uniform number."""
        return self.draw(low, high).item()

    def count(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``."""
        return int(torch.randint(low, high + 1, (1,), generator=self.generator))

    def green(self) -> Tensor:
        """Return a colour of leaves, from olive to blue-green, now and then dry."""
        if self.one(0, 1) < 0.2:
            return torch.cat([self.draw(*r) for r in ((0.5, 0.8), (0.4, 0.65), (0.15, 0.4))])
        return torch.cat([self.draw(*r) for r in ((0.08, 0.45), (0.28, 0.62), (0.05, 0.3))])

    def muted(self) -> Tensor:
        """Return a colour of walls, skies and things: usually far from saturated."""
        return torch.lerp(self.draw(0.05, 0.95).expand(3), self.draw(0, 1, 3), self.one(0.05, 0.6))

    def vary(self, color: Tensor, count: int, amount: float) -> Tensor:
        """Return ``count`` shades of a colour."""
        return (color * self.draw(1 - amount, 1 + amount, count, 1)).clamp(0, 1)

    def blobs(self, x, y, long, short, angle, color, *, power: float = 2.0) -> None:
        """Add superellipses; numbers and vectors may be mixed."""
        columns = [torch.as_tensor(v, dtype=torch.float32) for v in (x, y, long, short, angle)]
        columns = torch.broadcast_tensors(*columns, torch.tensor(power), torch.zeros(1))[:6]
        color = torch.as_tensor(color, dtype=torch.float32).expand(len(columns[0]), 3)
        self.shapes.append(torch.cat([torch.stack(columns, dim=-1), color], dim=-1))

    def stroke(self, start, end, width0, width1, color, *, bend: float = 0.0, count: int = 14):
        """Add a tapering bent line as a chain of ellipses; return its x and y."""
        (x0, y0), (x1, y1) = start, end
        t = torch.linspace(0, 1, count)
        x = x0 + (x1 - x0) * t + bend * t * (1 - t)
        y = y0 + (y1 - y0) * t
        half = math.hypot(y1 - y0, x1 - x0) / count
        angle = torch.atan2(torch.gradient(y)[0], torch.gradient(x)[0])
        self.blobs(x, y, half * 1.4, width0 + (width1 - width0) * t, angle, color)
        return x, y

    def paint(self) -> Float[Tensor, "4 size size"]:
        """Return the shapes so far, painted back to front: RGBA in [0, 1]."""
        texture = 1 + 0.16 * noise(PIECE_SIZE, PIECE_SIZE, cells=(24, 64), generator=self.generator)
        canvas = torch.zeros(4, PIECE_SIZE, PIECE_SIZE)
        for shape in torch.cat(self.shapes).tolist():
            _stamp(canvas, shape, texture)
        return torch.cat([canvas[:3] / canvas[3:].clamp(min=1e-3), canvas[3:]]).clamp(0, 1)


def _stamp(canvas: Tensor, shape: list[float], texture: Tensor) -> None:
    """Paint one shape (x, y, long, short, angle, power, r, g, b) into its bounding box."""
    x, y, long, short, angle, power, *color = shape
    reach = max(long, short) + 1.5 / PIECE_SIZE
    spans = [
        slice(max(0, int((v - reach) * PIECE_SIZE)), max(0, int((v + reach) * PIECE_SIZE) + 1))
        for v in (x, y)
    ]
    part = canvas[:, spans[1], spans[0]]
    if part.numel() == 0:
        return
    axis = (torch.arange(PIECE_SIZE) + 0.5) / PIECE_SIZE
    dx, dy = axis[spans[0]] - x, (axis[spans[1]] - y)[:, None]
    along = (dx * math.cos(angle) + dy * math.sin(angle)).abs() / long
    across = (dy * math.cos(angle) - dx * math.sin(angle)).abs() / short
    # Signed distance in units of the shorter radius, softened over about one pixel.
    inside = 1 - (along**power + across**power) ** (1 / power)
    alpha = (inside * min(long, short) * PIECE_SIZE + 0.5).clamp(0, 1)
    light = (0.75 + 0.35 * inside.clamp(0, 1)) * texture[spans[1], spans[0]]
    paint = torch.cat([torch.tensor(color)[:, None, None] * light, torch.ones_like(light)[None]])
    part.copy_(part * (1 - alpha) + paint.clamp(0, 1) * alpha)


def noise(
    height: int, width: int, *, cells: tuple[int, ...], generator: torch.Generator | None
) -> Float[Tensor, "height width"]:
    """Return smooth noise, roughly within ±1, with about ``cells`` cells across."""
    total = torch.zeros(height, width)
    for count in cells:
        coarse = 2 * torch.rand(1, 1, count, count, generator=generator) - 1
        total += functional.interpolate(
            coarse, (height, width), mode="bicubic", align_corners=True
        )[0, 0]
    return total / len(cells)
