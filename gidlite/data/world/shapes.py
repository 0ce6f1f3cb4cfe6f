"""What is painted: a brush, and 17 families of cut-outs growing from the bottom edge.

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
    """Random numbers, colours and shapes in one place, so that a family reads like a recipe."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.shapes: list[Tensor] = []

    def draw(self, low: float, high: float, *shape: int) -> Tensor:
        """Return uniform numbers."""
        return low + (high - low) * torch.rand(shape or (1,), generator=self.generator)

    def one(self, low: float, high: float) -> float:
        """Return one uniform number."""
        return self.draw(low, high).item()

    def often(self, probability: float) -> bool:
        """Return true with a probability."""
        return self.one(0, 1) < probability

    def count(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``."""
        return int(torch.randint(low, high + 1, (1,), generator=self.generator))

    def around(self, count: int) -> Float[Tensor, " count"]:
        """Return evenly spaced angles of a full turn, from a random one on."""
        return torch.arange(count) * (2 * math.pi / count) + self.draw(0, 6)

    def noise(self, *cells: int, size=BACKDROP_SIZE) -> Float[Tensor, "height width"]:
        """Return smooth noise, roughly within ±1: a mean of layers with so many cells across."""
        total = torch.zeros(size)
        for count in cells:
            coarse = self.draw(-1, 1, 1, 1, count, count)
            total += functional.interpolate(coarse, size, mode="bicubic", align_corners=True)[0, 0]
        return total / len(cells)

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
        color = color.expand(len(columns[0]), 3)
        self.shapes.append(torch.cat([torch.stack(columns, dim=-1), color], dim=-1))

    def leaves(self, x, y, long, short, angle, green: Tensor, *, amount: float) -> None:
        """Add a leaf at every place; sizes and angles lie in the given ranges."""
        sizes = [self.draw(*limits, len(x)) for limits in (long, short, angle)]
        self.blobs(x, y, *sizes, self.vary(green, len(x), amount))

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
        texture = 1 + 0.16 * self.noise(24, 64, size=(PIECE_SIZE, PIECE_SIZE))
        canvas = torch.zeros(4, PIECE_SIZE, PIECE_SIZE)
        for shape in torch.cat(self.shapes).tolist():
            _stamp(canvas, shape, texture)
        return torch.cat([canvas[:3] / canvas[3:].clamp(min=1e-3), canvas[3:]]).clamp(0, 1)


def _stamp(canvas: Tensor, shape: list[float], texture: Tensor) -> None:
    """Paint one shape (x, y, long, short, angle, power, r, g, b) into its bounding box."""
    x, y, long, short, angle, power, *color = shape
    reach = max(long, short) + 1.5 / PIECE_SIZE
    columns, rows = (
        slice(max(0, int((v - reach) * PIECE_SIZE)), max(0, int((v + reach) * PIECE_SIZE) + 1))
        for v in (x, y)
    )
    patch = canvas[:, rows, columns]
    if patch.numel() == 0:
        return
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


def _flower(b: Brush) -> None:
    green, petal, bend = b.green(), b.draw(0.2, 1.0, 3), b.one(-0.3, 0.3)
    b.stroke((0.5, 1), (0.5, 0.3), 0.014, 0.009, green, bend=bend)
    side = torch.tensor([0.38, 0.62]) + bend / 5
    b.blobs(side, b.draw(0.6, 0.8, 2), 0.13, 0.04, torch.tensor([0.5, -0.5]), b.vary(green, 2, 0.2))
    count, size = b.count(5, 13), b.one(0.08, 0.16)
    angle, across = b.around(count), size * b.one(0.3, 0.55)
    x, y = 0.5 + angle.cos() * size, 0.28 + angle.sin() * size
    b.blobs(x, y, size, across, angle, b.vary(petal, count, 0.2))
    b.blobs(0.5, 0.28, size * 0.45, size * 0.45, 0, b.draw(0, 0.6, 3))


def _rose(b: Brush) -> None:
    green, petal = b.green(), b.draw(0.25, 1.0, 3)
    b.stroke((0.5, 1), (0.5, 0.3), 0.015, 0.011, green, bend=b.one(-0.25, 0.25))
    for y in b.draw(0.55, 0.85, 4).tolist():
        side = 1 if b.often(0.5) else -1
        b.blobs(0.5 + 0.1 * side, y, 0.1, 0.05, -0.5 * side, b.vary(green, 1, 0.25))
    for ring, radius in enumerate((0.13, 0.1, 0.07, 0.035)):
        angle = b.around(6)
        x, y = 0.5 + angle.cos() * radius, 0.27 + angle.sin() * radius
        color = b.vary(petal * (1 - 0.12 * ring), 6, 0.15)
        b.blobs(x, y, radius * 0.8 + 0.02, radius * 0.55 + 0.02, angle + 1.57, color)


def _grass(b: Brush) -> None:
    green = b.green()
    for _ in range(b.count(14, 30)):
        root, tip, height, bend = b.draw(-1, 1, 4).tolist()
        start, end = (0.5 + 0.25 * root, 1), (0.5 + 0.42 * tip, 0.3 + 0.25 * height)
        b.stroke(start, end, 0.012, 0.003, b.vary(green, 1, 0.35), bend=0.2 * bend, count=10)


def _reeds(b: Brush) -> None:
    green, plume = b.green(), torch.tensor([0.75, 0.62, 0.42]) * b.draw(0.6, 1.2)
    for _ in range(b.count(5, 12)):
        root, tip, height, bend = b.draw(-1, 1, 4).tolist()
        start, end = (0.5 + 0.28 * root, 1), (0.5 + 0.3 * tip, 0.22 + 0.2 * height)
        x, y = b.stroke(start, end, 0.008, 0.004, b.vary(green, 1, 0.3), bend=0.15 * bend)
        if b.often(0.6):
            angle = math.atan2(float(y[-1] - y[-3]), float(x[-1] - x[-3]))
            long, short = b.one(0.05, 0.1), b.one(0.012, 0.03)
            b.blobs(x[-1], y[-1], long, short, angle, b.vary(plume, 1, 0.2))


def _frond(b: Brush, start, end, color, *, leaflet: float, bend: float) -> None:
    """A midrib with leaflets on both sides that shorten towards the tip."""
    count = 18
    x, y = b.stroke(start, end, 0.008, 0.003, color * 0.8, bend=bend, count=count)
    along = torch.atan2(torch.gradient(y)[0], torch.gradient(x)[0])
    t = torch.linspace(0, 1, count)
    length = leaflet * (0.35 + 2.6 * t) * (1.05 - t)
    for angle in (along - 1.0, along + 1.0):
        middle = x + angle.cos() * length, y + angle.sin() * length
        b.blobs(*middle, length, 0.2 * length + 0.004, angle, b.vary(color, count, 0.25))


def _fern(b: Brush) -> None:
    green = b.green()
    for _ in range(b.count(4, 8)):
        tip, height = b.one(0.1, 0.9), b.one(0.1, 0.5)
        _frond(b, (0.5, 1), (tip, height), green, leaflet=b.one(0.06, 0.1), bend=0.3 * (0.5 - tip))


def _palm(b: Brush) -> None:
    trunk, green, bend = _WOOD * b.draw(0.7, 1.5), b.green(), b.one(-0.2, 0.2)
    b.stroke((0.5, 1), (0.5, 0.38), 0.022, 0.014, trunk, bend=bend)
    for angle in (torch.linspace(-0.4, 3.5, b.count(7, 11)) + b.draw(-0.1, 0.1)).tolist():
        end = (0.5 + 0.42 * math.cos(angle), 0.36 - 0.3 * math.sin(angle))
        _frond(b, (0.5, 0.38), end, green, leaflet=0.07, bend=0.0)


def _tree(b: Brush) -> None:
    """Branches that fork four times, with leaf clusters at the ends."""
    wood, green = _WOOD * b.draw(0.6, 1.4), b.green()
    tips: list[tuple[float, float]] = []

    def grow(x: float, y: float, angle: float, length: float, forks: int) -> None:
        end = (x + length * math.cos(angle), y - length * math.sin(angle))
        width = 0.03 * 0.6 ** (4 - forks)
        b.stroke((x, y), end, width, width * 0.6, wood, count=8)
        if forks == 0:
            tips.append(end)
            return
        for turn in (b.one(0.2, 0.7), -b.one(0.2, 0.7)):
            grow(*end, angle + turn, length * b.one(0.65, 0.85), forks - 1)

    grow(0.5, 1.0, 1.57 + b.one(-0.1, 0.1), b.one(0.22, 0.3), 4)
    if b.often(0.1):
        return  # bare in winter
    spread = b.one(0.02, 0.06)
    for tip in tips:
        count = b.count(8, 16)
        x, y = (v + spread * torch.randn(count, generator=b.generator) for v in tip)
        b.leaves(x, y, (0.015, 0.04), (0.01, 0.022), (0, 3), green, amount=0.45)


def _bush(b: Brush) -> None:
    green, count = b.green(), 220
    distance, turn = b.draw(0, 1, count).sqrt(), b.draw(0, 2 * math.pi, count)
    x, y = 0.5 + 0.42 * distance * turn.cos(), 0.62 + 0.36 * distance * turn.sin()
    b.leaves(x, y, (0.03, 0.07), (0.015, 0.035), (0, 3), green, amount=0.45)
    if b.often(0.5):
        b.blobs(x[:24], y[:24], 0.025, 0.025, 0, b.vary(b.draw(0.3, 1, 3), 24, 0.2))


def _potted(b: Brush) -> None:
    green = b.green()
    for _ in range(b.count(6, 13)):
        x, y = b.one(0.12, 0.88), b.one(0.08, 0.45)
        b.stroke((0.5, 0.75), (x, y), 0.01, 0.007, green * 0.8, count=10)
        tilt = math.atan2(y - 0.75, x - 0.5)
        b.blobs(x, y, b.draw(0.08, 0.15), b.draw(0.03, 0.07), tilt, b.vary(green, 1, 0.3))
    b.blobs(0.5, 0.86, b.one(0.12, 0.2), 0.15, 0, b.draw(0.15, 0.9, 3), power=6.0)


def _branch(b: Brush) -> None:
    """A leafy branch, or a curtain of them; drawn growing from the anchor."""
    green, wood = b.green(), _WOOD * b.draw(0.7, 1.3)
    for tip in b.draw(0.15, 0.85, b.count(2, 5)).tolist():
        bend, count = b.one(-0.3, 0.3), b.count(14, 26)
        b.stroke((0.5, 1), (tip, 0.1), 0.012, 0.004, wood, bend=bend)
        t = torch.linspace(0.15, 1, count)
        x = 0.5 + (tip - 0.5) * t + bend * t * (1 - t) + b.draw(-0.04, 0.04, count)
        b.leaves(x, 1 - 0.9 * t, (0.03, 0.07), (0.012, 0.03), (-2.5, -0.6), green, amount=0.4)


def _vine(b: Brush) -> None:
    """Many thin strands of small leaves, as from a hanging basket."""
    green = b.green()
    b.blobs(0.5, 0.97, 0.22, 0.06, 0, b.draw(0.15, 0.7, 3), power=4.0)
    for root in torch.linspace(0.25, 0.75, b.count(6, 11)).tolist():
        tip, length, t = root + b.one(-0.15, 0.15), b.one(0.4, 0.9), torch.linspace(0, 1, 18)
        b.stroke((root, 0.98), (tip, 1 - length), 0.005, 0.003, green * 0.7)
        x, y = root + (tip - root) * t + b.draw(-0.03, 0.03, 18), 0.98 - (length - 0.02) * t
        b.leaves(x, y, (0.018, 0.035), (0.01, 0.018), (0, 3), green, amount=0.35)


def _lamp(b: Brush) -> None:
    b.stroke((0.5, 1), (0.5, 0.35), 0.006, 0.006, b.draw(0, 0.3, 3))
    color, wide, tall = b.draw(0.3, 1, 3), b.one(0.1, 0.2), b.one(0.1, 0.2)
    b.blobs(0.5, 0.22, wide, tall, 0, color, power=b.one(1.6, 5))
    for y in torch.linspace(0.22 - 0.8 * tall, 0.22 + 0.8 * tall, b.count(2, 6)).tolist():
        b.blobs(0.5, y, wide * 0.95, 0.006, 0, color * b.draw(0.5, 1.3), power=6.0)


def _ornament(b: Brush) -> None:
    b.stroke((0.5, 1), (0.5, 0.12), 0.004, 0.004, b.draw(0, 0.4, 3))
    for y in torch.linspace(0.75, 0.12, b.count(1, 5)).tolist():
        color, size = b.draw(0.1, 1, 3), b.one(0.05, 0.13)
        b.blobs(0.5, y, size, size * b.one(0.3, 1), 0, color, power=b.one(1.2, 4))
        if b.often(0.4):  # a brim
            b.blobs(0.5, y + 0.03, size * 1.7, size * 0.3, 0, color * 0.8)


def _flame(b: Brush) -> None:
    wide, top = b.one(0.06, 0.2), 0.55
    b.blobs(0.5, 0.79, wide, 0.24, 0, b.draw(0.5, 1.0, 3), power=8.0)
    b.blobs(0.5, top, wide, 0.025, 0, b.draw(0.8, 1.0, 3))
    b.stroke((0.5, top), (0.5, top - 0.06), 0.005, 0.005, torch.tensor([0.1, 0.08, 0.05]))
    tall, slim = b.one(0.14, 0.22), b.one(0.03, 0.055)
    glow, core = torch.tensor([1.0, 0.6, 0.15]), torch.tensor([1.0, 1.0, 0.85])
    t = torch.linspace(0, 1, 16)
    # A teardrop: widest low down, drawn from the outside inwards and ever brighter.
    for inner in (1.0, 0.7, 0.4):
        width = slim * inner * (1 - t).sqrt() * (0.55 + t).clamp(max=1) + 0.004
        color = glow + (core - glow) * (1 - inner) / 0.6
        b.blobs(0.5, top - 0.03 - 2 * tall * inner * t, tall * 0.2, width, 1.5708, color)


def _cloth(b: Brush) -> None:
    wide, tall, color = b.one(0.2, 0.45), b.one(0.25, 0.46), b.draw(0.1, 1, 3)
    middle = 0.95 - tall
    b.blobs(0.5, middle, wide, tall, 0, color, power=14.0)
    trim, pattern = b.draw(0.1, 1, 3), ("plain", "stripes", "bars", "checks")[b.count(0, 3)]
    if pattern in ("stripes", "checks"):
        for x in torch.linspace(-0.85, 0.85, b.count(3, 7)).tolist():
            b.blobs(0.5 + x * wide, middle, 0.07 * wide, tall * 0.97, 0, trim, power=10.0)
    if pattern in ("bars", "checks"):
        for y in torch.linspace(-0.85, 0.85, b.count(3, 7)).tolist():
            b.blobs(0.5, middle + y * tall, wide * 0.97, 0.06 * tall, 0, trim, power=10.0)
    for x in torch.linspace(-0.8, 0.8, b.count(2, 5)).tolist():  # folds, as darker lines
        b.blobs(0.5 + x * wide, middle, 0.012, tall * 0.93, 0, color * 0.7, power=4.0)
    b.blobs(0.5, 0.97, wide + 0.02, 0.012, 0, b.draw(0.05, 0.5, 3), power=8.0)  # rail or line


def _flag(b: Brush) -> None:
    """A flag growing upwards from its pole, which lies along the bottom edge."""
    tall = b.one(0.2, 0.32)
    for lane in (-1, 0, 1):
        b.blobs(0.5 + lane * tall * 0.66, 0.5, tall * 0.36, 0.44, 0, b.draw(0, 1, 3), power=14.0)
    if b.often(0.4):
        b.blobs(0.5, 0.5, 0.1, 0.1, 0, b.draw(0, 1, 3))
    b.blobs(0.5, 0.975, 0.48, 0.016, 0, b.draw(0.1, 0.6, 3), power=6.0)


def _head(b: Brush) -> None:
    """A flower head, fruit or leaf cluster without a stem: it rides on something else."""
    count, size, petal = b.count(5, 16), b.one(0.15, 0.24), b.draw(0.2, 1, 3)
    for shrink in (1.0, 0.65)[: b.count(1, 2)]:
        angle = b.around(count)
        x, y = (0.5 + v * size * shrink for v in (angle.cos(), angle.sin()))
        color = b.vary(petal * (0.7 + 0.3 * shrink), count, 0.2)
        b.blobs(x, y, size * shrink, size * 0.35, angle, color)
    b.blobs(0.5, 0.5, size * 0.4, size * 0.4, 0, b.draw(0, 0.7, 3))


FAMILIES = {
    recipe.__name__.strip("_"): recipe
    for recipe in (
        _flower, _rose, _grass, _reeds, _fern, _palm, _tree, _bush, _potted, _branch, _vine,
        _lamp, _ornament, _flame, _cloth, _flag, _head,
    )
}  # fmt: skip


def paint_piece(family: str, generator: torch.Generator | None) -> Float[Tensor, "4 size size"]:
    """Paint one RGBA cut-out of a family, in [0, 1], anchored at the bottom edge."""
    brush = Brush(generator)
    FAMILIES[family](brush)
    return brush.paint()
