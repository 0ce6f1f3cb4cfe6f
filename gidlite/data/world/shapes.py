"""What is painted: a brush, and families of plants growing from the bottom edge.

Places and sizes are in widths of the picture, y downwards; angles are in radians.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

PIECE_SIZE = 160
BACKDROP_SIZE = (160, 256)
_WOOD = torch.tensor([0.32, 0.24, 0.17])


class Brush:
    """Uniform random numbers, colours and shapes, so that a family reads like a recipe."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.shapes: list[Tensor] = []
        self.light = torch.ones(())  # of every pixel of a cut-out

    def draw(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape or (1,), generator=self.generator)

    def one(self, low: float, high: float) -> float:
        return self.draw(low, high).item()

    def often(self, probability: float) -> bool:
        return self.one(0, 1) < probability

    def count(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``."""
        return int(torch.randint(low, high + 1, (1,), generator=self.generator))

    def around(self, count: int) -> Float[Tensor, " count"]:
        """Return evenly spaced angles of a full turn, from a random one on."""
        return torch.arange(count) * (2 * math.pi / count) + self.draw(0, 6)

    def noise(self, *cells: int, size=BACKDROP_SIZE) -> Float[Tensor, "height width"]:
        """Return smooth noise, roughly within ±1: a mean of layers with so many cells across."""
        grids = [self.draw(-1, 1, 1, 1, count, count) for count in cells]
        fine = {"size": size, "mode": "bicubic", "align_corners": True}
        return sum(functional.interpolate(grid, **fine)[0, 0] for grid in grids) / len(cells)

    def green(self) -> Float[Tensor, " rgb"]:
        """Return a colour of leaves, from olive to blue-green, now and then dry."""
        dry = ((0.5, 0.8), (0.4, 0.65), (0.15, 0.4))
        fresh = ((0.08, 0.45), (0.28, 0.62), (0.05, 0.3))
        return torch.cat([self.draw(*limits) for limits in (dry if self.often(0.2) else fresh)])

    def muted(self) -> Float[Tensor, " rgb"]:
        """Return a colour of walls, skies and things: usually far from saturated."""
        return torch.lerp(self.draw(0.05, 0.95).expand(3), self.draw(0, 1, 3), self.one(0.05, 0.6))

    def vary(self, color: Float[Tensor, " rgb"], count: int, amount: float) -> Tensor:
        """Return ``count`` shades of a colour."""
        return (color * self.draw(1 - amount, 1 + amount, count, 1)).clamp(0, 1)

    def blobs(self, x, y, long, short, angle, color: Tensor, *, power: float = 2.0) -> None:
        """Add superellipses; numbers and vectors may be mixed."""
        columns = [torch.as_tensor(v, dtype=torch.float32) for v in (x, y, long, short, angle)]
        columns = torch.broadcast_tensors(*columns, torch.tensor(power), torch.zeros(1))[:6]
        shapes = torch.stack(columns, dim=-1)
        self.shapes.append(torch.cat([shapes, color.expand(len(shapes), 3)], dim=-1))

    def leaves(self, x, y, long, short, angle, green: Tensor, amount: float) -> None:
        """Add a leaf at every place; sizes and angles lie in the given ranges."""
        sizes = [self.draw(*limits, len(x)) for limits in (long, short, angle)]
        self.blobs(x, y, *sizes, self.vary(green, len(x), amount))

    def stroke(self, start, end, width0, width1, color, *, bend: float = 0.0, count: int = 14):
        """Add a tapering bent line as a chain of ellipses; return x, y and angle."""
        (x0, y0), (x1, y1) = start, end
        t = torch.linspace(0, 1, count)
        x = x0 + (x1 - x0) * t + bend * t * (1 - t)
        y = y0 + (y1 - y0) * t
        half = math.hypot(y1 - y0, x1 - x0) / count
        angle = torch.atan2(torch.gradient(y)[0], torch.gradient(x)[0])
        self.blobs(x, y, half * 1.4, width0 + (width1 - width0) * t, angle, color)
        return x, y, angle

    def paint(self) -> Float[Tensor, "4 size size"]:
        """Return the shapes so far, painted back to front: RGBA in [0, 1]."""
        texture = 1 + 0.16 * self.noise(24, 64, size=(PIECE_SIZE, PIECE_SIZE))
        texture = texture * self.light
        canvas = torch.zeros(4, PIECE_SIZE, PIECE_SIZE)
        for shape in torch.cat(self.shapes).tolist():
            _stamp(canvas, shape, texture)
        return torch.cat([canvas[:3] / canvas[3:].clamp(min=1e-3), canvas[3:]]).clamp(0, 1)


def _stamp(canvas: Tensor, shape: list[float], texture: Tensor) -> None:
    """Paint one shape (x, y, long, short, angle, power, r, g, b) into its bounding box."""
    x, y, long, short, angle, power, *color = shape
    reach = max(long, short) + 1.5 / PIECE_SIZE
    ends = [[int((v - reach) * PIECE_SIZE), int((v + reach) * PIECE_SIZE) + 1] for v in (x, y)]
    columns, rows = (slice(max(0, first), max(0, last)) for first, last in ends)
    patch = canvas[:, rows, columns]
    axis = (torch.arange(PIECE_SIZE) + 0.5) / PIECE_SIZE
    dx, dy = axis[columns] - x, (axis[rows] - y)[:, None]
    along = (dx * math.cos(angle) + dy * math.sin(angle)).abs() / long
    across = (dy * math.cos(angle) - dx * math.sin(angle)).abs() / short
    # Signed distance in units of the shorter radius, softened over about one pixel.
    inside = 1 - (along**power + across**power) ** (1 / power)
    alpha = (inside * min(long, short) * PIECE_SIZE + 0.5).clamp(0, 1)
    light = (0.75 + 0.35 * inside.clamp(0, 1)) * texture[rows, columns]
    paint = torch.cat([torch.tensor(color)[:, None, None] * light, torch.ones_like(light)[None]])
    patch.copy_(patch * (1 - alpha) + paint.clamp(0, 1) * alpha)


class Plants(Brush):
    """A brush that knows plants: every public method paints a family of them."""

    def flower(self) -> None:
        """A stem with leaves and a ring of petals, or a rose of several."""
        green, petal, bend = self.green(), self.draw(0.2, 1.0, 3), self.one(-0.3, 0.3)
        self.stroke((0.5, 1), (0.5, 0.3), 0.014, 0.009, green, bend=bend)
        x, tilt = torch.tensor([[0.38, 0.62], [0.5, -0.5]])
        y = self.draw(0.6, 0.8, 2)
        self.blobs(x + bend / 5, y, 0.13, 0.04, tilt, self.vary(green, 2, 0.2))
        count, size, slim = self.count(5, 13), self.one(0.07, 0.12), self.one(0.3, 0.8)
        for shrink in (1.0, 0.77, 0.54, 0.3) if self.often(0.5) else (1.0,):
            angle, radius = self.around(count), size * shrink
            x, y = 0.5 + angle.cos() * radius, 0.24 + angle.sin() * radius
            color = self.vary(petal * (0.5 + 0.5 * shrink), count, 0.2)
            self.blobs(x, y, radius, radius * slim, angle, color)
        self.blobs(0.5, 0.24, size * 0.3, size * 0.3, 0, self.draw(0, 0.6, 3))

    def grass(self) -> None:
        """Blades, from hairs to reeds, some of them with plumes."""
        green, thick, plumed = self.green(), self.one(0.3, 1), self.one(-0.8, 0.6)
        plume = torch.tensor([0.75, 0.62, 0.42]) * self.draw(0.6, 1.2)
        for _ in range(self.count(7, 30)):
            root, tip, height, bend = self.draw(-1, 1, 4).tolist()
            start, end = (0.5 + 0.25 * root, 1), (0.5 + 0.42 * tip, 0.3 + 0.25 * height)
            blade = self.vary(green, 1, 0.35)
            x, y, angle = self.stroke(start, end, 0.012 * thick, 0.003, blade, bend=0.2 * bend)
            if self.often(plumed):
                long, short = self.one(0.05, 0.1), self.one(0.012, 0.03)
                self.blobs(x[-1], y[-1], long, short, angle[-1], self.vary(plume, 1, 0.2))

    def _frond(self, start, end, color, leaflet: float, *, bend: float = 0.0) -> None:
        """A midrib with leaflets on both sides that shorten towards the tip."""
        x, y, along = self.stroke(start, end, 0.008, 0.003, color * 0.8, bend=bend, count=18)
        t = torch.linspace(0, 1, 18)
        length = leaflet * (0.35 + 2.6 * t) * (1.05 - t)
        for angle in (along - 1.0, along + 1.0):
            middle = x + angle.cos() * length, y + angle.sin() * length
            self.blobs(*middle, length, 0.2 * length + 0.004, angle, self.vary(color, 18, 0.25))

    def fern(self) -> None:
        green = self.green()
        for _ in range(self.count(4, 8)):
            tip, height, leaflet = self.one(0.1, 0.9), self.one(0.1, 0.5), self.one(0.06, 0.1)
            self._frond((0.5, 1), (tip, height), green, leaflet, bend=0.3 * (0.5 - tip))

    def palm(self) -> None:
        trunk, green, bend = _WOOD * self.draw(0.7, 1.5), self.green(), self.one(-0.2, 0.2)
        self.stroke((0.5, 1), (0.5, 0.38), 0.022, 0.014, trunk, bend=bend)
        for angle in (torch.linspace(-0.4, 3.5, self.count(7, 11)) + self.draw(-0.1, 0.1)).tolist():
            end = (0.5 + 0.42 * math.cos(angle), 0.36 - 0.3 * math.sin(angle))
            self._frond((0.5, 0.38), end, green, 0.07)

    def tree(self) -> None:
        """Branches that fork four times, with leaf clusters at the ends."""
        wood, green = _WOOD * self.draw(0.6, 1.4), self.green()
        tips: list[tuple[float, float]] = []

        def grow(x: float, y: float, angle: float, length: float, forks: int) -> None:
            end = (x + length * math.cos(angle), y - length * math.sin(angle))
            width = 0.03 * 0.6 ** (4 - forks)
            self.stroke((x, y), end, width, width * 0.6, wood, count=8)
            if forks == 0:
                tips.append(end)
                return
            for turn in (self.one(0.2, 0.7), -self.one(0.2, 0.7)):
                grow(*end, angle + turn, length * self.one(0.65, 0.85), forks - 1)

        grow(0.5, 1.0, 1.57 + self.one(-0.1, 0.1), self.one(0.22, 0.3), 4)
        if self.often(0.1):
            return  # bare in winter
        spread = self.one(0.02, 0.06)
        for tip in tips:
            count = self.count(8, 16)
            x, y = (v + spread * torch.randn(count, generator=self.generator) for v in tip)
            self.leaves(x, y, (0.015, 0.04), (0.01, 0.022), (0, 3), green, 0.45)

    def bush(self) -> None:
        green, count = self.green(), 220
        distance, turn = self.draw(0, 1, count).sqrt(), self.draw(0, 2 * math.pi, count)
        x, y = 0.5 + 0.42 * distance * turn.cos(), 0.62 + 0.36 * distance * turn.sin()
        self.leaves(x, y, (0.03, 0.07), (0.015, 0.035), (0, 3), green, 0.45)
        if self.often(0.5):
            self.blobs(x[:24], y[:24], 0.025, 0.025, 0, self.vary(self.draw(0.3, 1, 3), 24, 0.2))

    def potted(self) -> None:
        green = self.green()
        for _ in range(self.count(6, 13)):
            x, y = self.one(0.12, 0.88), self.one(0.08, 0.45)
            self.stroke((0.5, 0.75), (x, y), 0.01, 0.007, green * 0.8, count=10)
            tilt, long, short = math.atan2(y - 0.75, x - 0.5), (0.08, 0.15), (0.03, 0.07)
            self.blobs(x, y, self.draw(*long), self.draw(*short), tilt, self.vary(green, 1, 0.3))
        self.blobs(0.5, 0.86, self.one(0.12, 0.2), 0.15, 0, self.draw(0.15, 0.9, 3), power=6.0)

    def branch(self) -> None:
        """A leafy branch, or a curtain of them; drawn growing from the anchor."""
        green, wood = self.green(), _WOOD * self.draw(0.7, 1.3)
        for tip in self.draw(0.15, 0.85, self.count(2, 5)).tolist():
            bend, count = self.one(-0.3, 0.3), self.count(14, 26)
            self.stroke((0.5, 1), (tip, 0.1), 0.012, 0.004, wood, bend=bend)
            t = torch.linspace(0.15, 1, count)
            x = 0.5 + (tip - 0.5) * t + bend * t * (1 - t) + self.draw(-0.04, 0.04, count)
            self.leaves(x, 1 - 0.9 * t, (0.03, 0.07), (0.012, 0.03), (-2.5, -0.6), green, 0.4)

    def vine(self) -> None:
        """Many thin strands of small leaves, as from a basket, or of a willow."""
        green, t, slim = self.green(), torch.linspace(0, 1, 18), self.one(0.4, 1)
        basket = self.often(0.5)
        if basket:
            self.blobs(0.5, 0.97, 0.22, 0.06, 0, self.draw(0.15, 0.7, 3), power=4.0)
        wide, tilt = (0.25, (0, 3)) if basket else (0.42, (1.2, 1.9))
        for root in torch.linspace(0.5 - wide, 0.5 + wide, self.count(6, 14)).tolist():
            tip, length = root + self.one(-0.15, 0.15) * slim, self.one(0.4, 0.9)
            self.stroke((root, 0.98), (tip, 1 - length), 0.005, 0.003, green * 0.7)
            x, y = root + (tip - root) * t + self.draw(-0.03, 0.03, 18), 0.98 - (length - 0.02) * t
            self.leaves(x, y, (0.018, 0.035), (0.01 * slim, 0.018 * slim), tilt, green, 0.35)

    def climber(self) -> None:
        """Small leaves all over a wall, on thin stems."""
        green, thin = self.green(), self.one(0.015, 0.035)
        for tip in self.draw(0.1, 0.9, self.count(4, 9)).tolist():
            self.stroke((0.5, 1), (tip, 0.1), 0.004, 0.002, _WOOD, bend=self.one(-0.4, 0.4))
        x, y = self.draw(-1, 1, 2, self.count(120, 300))
        kept = x.abs() < self.one(0.5, 1) * (1 + 0.4 * (9 * y).sin())
        x, y = 0.5 + 0.44 * x[kept], 0.52 + 0.46 * y[kept]
        self.leaves(x, y, (thin, 1.5 * thin), (0.6 * thin, thin), (0, 3), green, 0.45)

    def head(self) -> None:
        """A flower head, fruit or leaf cluster without a stem: it rides on something else."""
        count, size, petal = self.count(5, 16), self.one(0.15, 0.24), self.draw(0.2, 1, 3)
        for shrink in (1.0, 0.65)[: self.count(1, 2)]:
            angle = self.around(count)
            x, y = (0.5 + v * size * shrink for v in (angle.cos(), angle.sin()))
            color = self.vary(petal * (0.7 + 0.3 * shrink), count, 0.2)
            self.blobs(x, y, size * shrink, size * 0.35, angle, color)
        self.blobs(0.5, 0.5, size * 0.4, size * 0.4, 0, self.draw(0, 0.7, 3))
