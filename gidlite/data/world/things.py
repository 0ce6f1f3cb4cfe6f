"""What else is painted: what hangs (alone, or in rows on a line), burns, or stands still."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gidlite.data.world.shapes import PIECE_SIZE, Plants


class Cutout(Plants):
    """A brush that knows every family: each public method paints one."""

    def _fold(self, count: float, *, across: bool = True) -> None:
        """Fold cloth: light and dark bands along it (or across), neither straight nor even."""
        axis = (torch.arange(PIECE_SIZE) + 0.5) / PIECE_SIZE
        wavy = self.one(0.3, 1) * self.noise(3, 5, size=(PIECE_SIZE, PIECE_SIZE))
        bands = (2 * math.pi * count * (axis if across else axis[:, None]) + wavy * 3).sin()
        self.light = 1 + self.one(0.12, 0.4) * bands

    def lamp(self) -> None:
        """A lantern or a pendant lamp on a cord that may be long."""
        color, wide, tall = self.draw(0.3, 1, 3), self.one(0.05, 0.2), self.one(0.05, 0.2)
        self.stroke((0.5, 1), (0.5, 0.2), 0.006, 0.006, self.draw(0, 0.3, 3))
        self.blobs(0.5, 0.22, wide, tall, 0, color, power=self.one(1.6, 5))
        for y in torch.linspace(0.22 - 0.8 * tall, 0.22 + 0.8 * tall, self.count(2, 6)).tolist():
            self.blobs(0.5, y, wide * 0.95, 0.006, 0, color * self.draw(0.5, 1.3), power=6.0)

    def ornament(self) -> None:
        self.stroke((0.5, 1), (0.5, 0.12), 0.004, 0.004, self.draw(0, 0.4, 3))
        for y in torch.linspace(0.75, 0.12, self.count(1, 5)).tolist():
            color, size = self.draw(0.1, 1, 3), self.one(0.05, 0.13)
            self.blobs(0.5, y, size, size * self.one(0.3, 1), 0, color, power=self.one(1.2, 4))
            if self.often(0.4):  # a brim
                self.blobs(0.5, y + 0.03, size * 1.7, size * 0.3, 0, color * 0.8)

    def flame(self) -> None:
        wide, top = self.one(0.06, 0.2), 0.55
        self.blobs(0.5, 0.79, wide, 0.24, 0, self.draw(0.5, 1.0, 3), power=8.0)
        self.blobs(0.5, top, wide, 0.025, 0, self.draw(0.8, 1.0, 3))
        self.stroke((0.5, top), (0.5, top - 0.06), 0.005, 0.005, torch.tensor([0.1, 0.08, 0.05]))
        tall, slim = self.one(0.14, 0.22), self.one(0.03, 0.055)
        glow, core = torch.tensor([1.0, 0.6, 0.15]), torch.tensor([1.0, 1.0, 0.85])
        t = torch.linspace(0, 1, 16)
        # A teardrop: widest low down, drawn from the outside inwards and ever brighter.
        for inner in (1.0, 0.7, 0.4):
            width = slim * inner * (1 - t).sqrt() * (0.55 + t).clamp(max=1) + 0.004
            color = glow + (core - glow) * (1 - inner) / 0.6
            self.blobs(0.5, top - 0.03 - 2 * tall * inner * t, tall * 0.2, width, 1.5708, color)

    def cloth(self) -> None:
        """A towel, a banner or a wide curtain, in folds on a rail."""
        wide, tall, color = self.one(0.2, 0.48), self.one(0.25, 0.48), self.muted()
        middle, trim, pattern = 0.97 - tall, self.draw(0.1, 1, 3), self.count(0, 6)
        self._fold(self.one(3, 20))
        self.blobs(0.5, middle, wide, tall, 0, color, power=30.0)
        lanes = torch.linspace(-0.85, 0.85, self.count(3, 7))
        if pattern in (1, 3):  # stripes; 3 means checks, and over 4 plain
            self.blobs(0.5 + lanes * wide, middle, 0.07 * wide, tall, 0, trim, power=10.0)
        if pattern in (2, 3):  # bars
            self.blobs(0.5, middle + lanes * tall, wide, 0.06 * tall, 0, trim, power=10.0)
        if pattern == 4:  # a hem
            self.blobs(0.5, middle - 0.85 * tall, wide, 0.15 * tall, 0, trim, power=30.0)
        self.blobs(0.5, 0.975, wide + 0.02, 0.01, 0, self.draw(0.05, 0.5, 3), power=8.0)

    def flag(self) -> None:
        """A flag growing upwards from its pole, which lies along the bottom edge."""
        tall = self.one(0.2, 0.32)
        self._fold(self.one(1.5, 5), across=False)
        for lane in (-1, 0, 1):
            x, color = 0.5 + lane * tall * 0.66, self.draw(0, 1, 3)
            self.blobs(x, 0.5, tall * 0.36, 0.44, 0, color, power=14.0)
        if self.often(0.4):
            self.blobs(0.5, 0.5, 0.1, 0.1, 0, self.draw(0, 1, 3))
        self.blobs(0.5, 0.975, 0.48, 0.016, 0, self.draw(0.1, 0.6, 3), power=6.0)

    def _line(self) -> None:
        """A wire along the anchored edge, from border to border, so that copies continue it."""
        self.blobs(0.5, 0.975, 0.6, self.one(0.004, 0.01), 0, self.draw(0, 0.4, 3), power=20.0)

    def lights(self) -> None:
        """A bulb, lantern, bauble or bell below a wire."""
        wide, y, glass = self.one(0.06, 0.26), self.one(0.4, 0.75), self.draw(0.3, 1, 3)
        self._line()
        self.stroke((0.5, 0.975), (0.5, y), 0.01, 0.01, self.draw(0, 0.4, 3), count=6)
        tall = min(wide * self.one(0.8, 1.8), 0.6 * y)
        self.blobs(0.5, y - tall, wide, tall, 0, glass, power=self.one(1.6, 4))
        self.blobs(0.5, y, 0.4 * wide, 0.2 * tall, 0, self.draw(0.1, 0.5, 3), power=4.0)
        if self.often(0.5):  # lit
            self.blobs(0.5, y - tall, wide * 0.6, tall * 0.6, 0, torch.tensor([1.0, 0.95, 0.75]))

    def laundry(self) -> None:
        """A shirt, towel, sock or glove on a line, or a card, pennant or chime."""
        kind = ("towel", "shirt", "card", "sock", "glove", "chime", "pennant")[self.count(0, 6)]
        wide, tall = self.one(0.16, 0.3), self.one(0.2, 0.4)
        wide = wide / 2 if kind in ("sock", "glove") else wide
        foot, color = 0.95 - 2 * tall, self.draw(0.1, 1, 3) if self.often(0.5) else self.muted()
        self._fold(self.one(3, 9))
        self._line()
        if kind == "pennant":  # of ever shorter bars
            t = torch.linspace(0, 1, 24)
            self.blobs(0.5, 0.96 - 1.6 * tall * t, 0.42 * (1 - t) + 0.01, tall / 15, 0, color)
        elif kind == "chime":
            x = torch.linspace(0.36, 0.64, self.count(2, 4))
            self.blobs(x, 0.95 - tall, 0.018, tall, 0, color, power=8.0)
        else:
            self.blobs(0.5, 0.95 - tall, wide, tall, 0, color, power=9.0)
        if kind == "card":
            self.blobs(0.5, 0.95 - tall, 0.8 * wide, 0.8 * tall, 0, self.muted(), power=20.0)
        elif kind == "shirt":
            turn = torch.tensor([-1.0, 1.0])
            self.blobs(0.5 + wide * turn, 0.83, 0.18, 0.07, -turn, color, power=6.0)
        elif kind == "sock":
            self.blobs(0.5 + 0.6 * wide, foot, wide * 1.6, 0.08, 0.1, color, power=3.0)
        elif kind == "glove":
            x = 0.5 + wide * torch.tensor([-0.75, -0.25, 0.25, 0.75])
            self.blobs(x, foot, 0.1, 0.25 * wide, 1.57, color)
            self.blobs(0.5 + 1.2 * wide, 0.95 - tall, 0.1, 0.3 * wide, -0.9, color)

    def vase(self) -> None:
        """Flowers in a vase of clay, or of glass: their stems stand in its water."""
        wide, glass = self.one(0.08, 0.16), torch.tensor([0.75, 0.85, 0.88])
        clear, petal = self.often(0.4), self.draw(0.2, 1, 3)
        self.blobs(
            0.5, 0.78, wide, 0.22, 0, glass if clear else self.muted(), power=self.one(2.5, 8)
        )
        for tip in self.draw(0.2, 0.8, self.count(3, 8)).tolist():
            y, root = self.one(0.12, 0.36), (1 - tip, 0.9) if clear else (0.5, 0.57)
            root = (0.5 + wide * (root[0] - 0.5), root[1])
            self.stroke(root, (tip, y), 0.007, 0.006, self.green())
            angle, size = self.around(7), self.one(0.03, 0.06)
            x, y = tip + size * angle.cos(), y + size * angle.sin()
            self.blobs(x, y, size, 0.6 * size, angle, self.vary(petal, 7, 0.25))

    def jar(self) -> None:
        """A jar, pot, bowl, bottle or candle; a lid and a label make it wider or narrower."""
        wide, tall = self.one(0.05, 0.4), self.one(0.1, 0.42)
        self.blobs(0.5, 1 - tall, wide, tall, 0, self.muted(), power=self.one(2.2, 9))
        lid = wide * self.one(0.3, 1.05)
        self.blobs(0.5, 1 - 2 * tall, lid, self.one(0.01, 0.07), 0, self.muted(), power=7.0)
        if self.often(0.5):
            self.blobs(0.5, 1 - tall, 0.7 * wide, 0.4 * tall, 0, self.draw(0.3, 1, 3), power=12.0)
            y = 1 - tall * torch.linspace(0.8, 1.2, self.count(2, 4))
            self.blobs(0.5, y, 0.4 * wide, 0.012, 0, self.draw(0, 0.4, 3), power=8.0)

    def cake(self) -> None:
        """A cake of a few tiers with drops of icing."""
        top, wide = 1.0, self.one(0.25, 0.48)
        for _ in range(self.count(1, 3)):
            tall = self.one(0.07, 0.14)
            self.blobs(0.5, top - tall, wide, tall, 0, self.draw(0.25, 1, 3), power=8.0)
            drops = torch.linspace(0.5 - 0.85 * wide, 0.5 + 0.85 * wide, self.count(5, 12))
            top, wide = top - 2 * tall, wide * self.one(0.6, 0.9)
            self.blobs(drops, top, 0.03, 0.05, 0, self.draw(0.4, 1, 3))

    def furniture(self) -> None:
        """A chair, table or shelf: boards on legs, perhaps a back."""
        wood, wide, seat = self.muted(), self.one(0.15, 0.45), self.one(0.3, 0.8)
        legs = 0.5 + wide * torch.linspace(-0.9, 0.9, self.count(2, 4))
        self.blobs(legs, (1 + seat) / 2, 0.018, (1 - seat) / 2, 0, wood * 0.8, power=9.0)
        boards = torch.linspace(seat, 0.95, self.count(1, 3))
        self.blobs(0.5, boards, wide, 0.025, 0, wood, power=12.0)
        self.blobs(legs[0], seat * self.one(0.6, 1), 0.03, seat * 0.4, 0, wood, power=9.0)

    def print(self) -> None:
        """Leaves that are printed, on wallpaper, a cushion or a mat; or planks."""
        wide, tall, planks = self.one(0.2, 0.48), self.one(0.2, 0.48), self.often(0.3)
        self.blobs(0.5, 1 - tall, wide, tall, 0, self.muted(), power=16.0)
        if planks:
            self._fold(self.one(3, 16), across=self.often(0.5))
        x, y = self.draw(-0.85, 0.85, 2, 0 if planks else self.count(15, 60))
        x, y, color = 0.5 + wide * x, 1 - tall + tall * y, self.draw(0.1, 0.9, 3)
        self.leaves(x, y, (0.03, 0.07), (0.012, 0.03), (0, 3), color, 0.4)


STILL = ("jar", "cake", "furniture", "print")
FAMILIES = tuple(
    name for known in (Plants, Cutout) for name in vars(known) if not name.startswith("_")
)


def paint_piece(family: str, generator: torch.Generator | None) -> Float[Tensor, "4 size size"]:
    """Paint one RGBA cut-out of a family, in [0, 1], anchored at the bottom edge."""
    cutout = Cutout(generator)
    getattr(cutout, family)()
    return cutout.paint()
