"""A small world that sways: scenes whose motion is known exactly.

A scene is a static background with a few layers in front, each made of cut-outs that hang, stand
or stretch from an anchored side. Cut-outs are painted here from superellipses, or cut from
photographs (``Pieces.from_folder``); how they move does not depend on how they were painted.

A layer moves by a few real mode shapes φ_m (bending, its overtone, two fluttering wave pairs),
each following one damped oscillator driven by wind, so its motion texture and spectral volume
are exact sums: ``F_t = Σ_m φ_m (q_m(t) − q_m(0))`` and ``S_k = Σ_m φ_m DFT(q_m − q_m(0))_k``.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from gidlite._checks import GidliteError
from gidlite.media import read_image, resize

__all__ = ["Pieces", "Scenes", "make_scenes"]

PIECE_SIZE = 160
NUM_MODES = 6
_MAX_LAYERS = 5


# Painting -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pieces:
    """What scenes are made of.

    Attributes:
        cutouts: ``(N, 4, PIECE_SIZE, PIECE_SIZE)`` RGBA in [0, 1], anchored at the bottom: a
            piece that hangs is stored upside down.
        still: ``(N,)`` fraction of the height, from the anchor, that does not move (a pot).
        hangs: ``(N,)`` whether the anchor is at the top of the picture.
        stiff: ``(N,)`` 1 for a piece that moves as one body (a flower head), 0 for one that bends.
        backgrounds: ``(M, 3, height, width)`` in [0, 1].
    """

    cutouts: Tensor
    still: Tensor
    hangs: Tensor
    stiff: Tensor
    backgrounds: Tensor

    def to(self, device: torch.device | str) -> Pieces:
        """Return the same pieces on another device."""
        return Pieces(**{name: getattr(self, name).to(device) for name in vars(self)})

    @classmethod
    def painted(cls, *, count: int = 48, generator: torch.Generator | None = None) -> Pieces:
        """Paint ``count`` cut-outs of six families, and as many backgrounds."""
        families = list(_FAMILIES)
        names = [families[i % len(families)] for i in range(count)]
        cutouts = torch.stack([_paint(_FAMILIES[name](generator), generator) for name in names])
        return cls(
            cutouts=cutouts,
            still=torch.tensor([0.3 if name == "potted" else 0.0 for name in names]),
            hangs=torch.tensor([name in ("hanging", "lamp") for name in names]),
            stiff=torch.tensor([float(name == "lamp") for name in names]),
            backgrounds=torch.stack([_paint_background(generator) for _ in range(count)]),
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> Pieces:
        """Read photographic pieces described by ``manifest.csv`` (file, kind, class, anchor).

        Raises:
            GidliteError: If the manifest is missing or lists no cut-outs or no backgrounds.
        """
        folder = Path(folder)
        manifest = folder / "manifest.csv"
        if not manifest.is_file():
            raise GidliteError(f"{folder} has no manifest.csv; see --sprites in the README")
        with manifest.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        cut = [row for row in rows if row["kind"] == "cutout"]
        backdrops = [row for row in rows if row["kind"] == "background"]
        if not cut or not backdrops:
            raise GidliteError(f"{manifest} lists no cut-outs or no backgrounds; both are needed")
        classes = [row["class"] for row in cut]
        return cls(
            cutouts=torch.stack([_read_cutout(folder / row["file"], row["anchor"]) for row in cut]),
            still=torch.tensor([_STILL_FRACTION.get(name, 0.0) for name in classes]),
            hangs=torch.tensor([row["anchor"] == "top" for row in cut]),
            stiff=torch.tensor([float(row["anchor"] == "none") for row in cut]),
            backgrounds=torch.stack(
                [resize(read_image(folder / r["file"]), height=160, width=256) for r in backdrops]
            ),
        )


# Pots and wrapped stems stand still; trunks are stiff.
_STILL_FRACTION = {"potted": 0.4, "bouquet": 0.35, "tree": 0.12}


def _read_cutout(path: Path, anchor: str) -> Tensor:
    """Return an RGBA cut-out, padded to a square with its anchored side at the bottom."""
    rgba = np.asarray(Image.open(path).convert("RGBA"))
    picture = torch.from_numpy(rgba.copy()).movedim(-1, 0) / 255
    if anchor == "side":
        picture = picture.rot90(1, dims=(-2, -1))
    elif anchor == "top":
        picture = picture.flip(-2)
    height, width = picture.shape[-2:]
    side = max(height, width)
    left = (side - width) // 2
    picture = functional.pad(picture, (left, side - width - left, side - height, 0))
    return resize(picture, height=PIECE_SIZE, width=PIECE_SIZE)


def _uniform(low: float, high: float, *shape: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else None
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)


def _stroke(x0, y0, x1, y1, width0, width1, color, *, bend=0.0, count=14) -> Tensor:
    """Return a tapering bent line as a chain of ellipses, rows of `_paint`'s format."""
    t = torch.linspace(0, 1, count)
    x = x0 + (x1 - x0) * t + bend * t * (1 - t)
    y = y0 + (y1 - y0) * t
    radius = width0 + (width1 - width0) * t
    half = max(abs(y1 - y0), abs(x1 - x0)) / count
    angle = torch.full_like(t, math.atan2(y1 - y0, x1 - x0))
    rows = torch.stack([x, y, torch.full_like(t, half * 1.3), radius, angle, 0 * t + 2], dim=1)
    return torch.cat([rows, color.expand(count, 3)], dim=1)


def _blobs(x, y, long, short, angle, color, *, power=2.0) -> Tensor:
    columns = torch.broadcast_tensors(x, y, long, short, angle, torch.tensor(power))
    return torch.cat([torch.stack(columns, dim=-1), color], dim=-1)


def _jitter(color: Tensor, count: int, amount: float, generator) -> Tensor:
    shade = _uniform(1 - amount, 1 + amount, count, 1, generator=generator)
    return (color * shade).clamp(0, 1)


def _green(generator) -> Tensor:
    return torch.cat(
        [_uniform(*r, 1, generator=generator) for r in ((0.1, 0.45), (0.3, 0.6), (0.05, 0.3))]
    )


def _flower(generator) -> Tensor:
    """A flower head on a bent stem with two leaves."""
    rand = lambda low, high, n=1: _uniform(low, high, n, generator=generator)  # noqa: E731
    green, petal = _green(generator), rand(0.2, 1.0, 3)
    bend = rand(-0.3, 0.3).item()
    count = int(rand(5, 14).item())
    angle = torch.arange(count) * (2 * math.pi / count) + rand(0, 6)
    size = rand(0.08, 0.16)
    head = _blobs(
        0.5 + angle.cos() * size,
        0.28 + angle.sin() * size,
        size.expand(count),
        size * 0.45,
        angle,
        _jitter(petal, count, 0.2, generator),
    )
    middle = _blobs(
        *torch.tensor([[0.5], [0.28]]), size * 0.45, size * 0.45, rand(0, 1), rand(0, 0.6, 3)[None]
    )
    leaves = _blobs(
        torch.tensor([0.38, 0.62]) + bend / 5,
        rand(0.6, 0.8, 2),
        torch.tensor([0.13, 0.13]),
        torch.tensor([0.04, 0.04]),
        torch.tensor([0.5, -0.5]),
        _jitter(green, 2, 0.2, generator),
    )
    return torch.cat(
        [_stroke(0.5, 1, 0.5, 0.3, 0.014, 0.009, green, bend=bend), leaves, head, middle]
    )


def _grass(generator) -> Tensor:
    """A tuft of blades."""
    green, blades = _green(generator), []
    for _ in range(int(_uniform(12, 28, 1, generator=generator))):
        r = _uniform(-1, 1, 4, generator=generator).tolist()
        color = _jitter(green, 1, 0.35, generator)
        blades.append(
            _stroke(
                0.5 + 0.2 * r[0],
                1,
                0.5 + 0.42 * r[1],
                0.3 + 0.25 * r[2],
                0.012,
                0.003,
                color,
                bend=0.2 * r[3],
                count=10,
            )
        )
    return torch.cat(blades)


def _tree(generator) -> Tensor:
    """A trunk under clusters of leaves."""
    rand = lambda low, high, n=1: _uniform(low, high, n, generator=generator)  # noqa: E731
    trunk = torch.tensor([0.32, 0.24, 0.17]) * rand(0.6, 1.3)
    wood = [_stroke(0.5, 1, 0.5, 0.3, 0.035, 0.012, trunk)]
    for x in rand(0.25, 0.75, 4).tolist():
        wood.append(_stroke(0.5, 0.62, x, 0.3, 0.014, 0.005, trunk, count=8))
    count = 160
    distance, turn = rand(0, 1, count).sqrt(), rand(0, 2 * math.pi, count)
    leaves = _blobs(
        0.5 + 0.33 * distance * turn.cos(),
        0.33 + 0.26 * distance * turn.sin(),
        rand(0.02, 0.06, count),
        rand(0.015, 0.03, count),
        rand(0, 3, count),
        _jitter(_green(generator), count, 0.45, generator),
    )
    return torch.cat([*wood, leaves])


def _potted(generator) -> Tensor:
    """Broad leaves rising from a pot."""
    rand = lambda low, high, n=1: _uniform(low, high, n, generator=generator)  # noqa: E731
    green, parts, count = _green(generator), [], int(rand(5, 11).item())
    for x, y in zip(rand(0.15, 0.85, count).tolist(), rand(0.1, 0.45, count).tolist(), strict=True):
        parts.append(_stroke(0.5, 0.75, x, y, 0.01, 0.007, green * 0.8, count=10))
        tilt = torch.tensor([math.atan2(y - 0.75, x - 0.5)])
        parts.append(
            _blobs(
                torch.tensor([x]),
                torch.tensor([y]),
                rand(0.09, 0.14),
                rand(0.03, 0.07),
                tilt,
                _jitter(green, 1, 0.3, generator),
            )
        )
    pot = _blobs(
        *torch.tensor([[0.5], [0.86], [0.17], [0.15], [0.0]]), rand(0.2, 0.9, 3)[None], power=6.0
    )
    return torch.cat([*parts, pot])


def _hanging(generator) -> Tensor:
    """A leafy branch; stored upside down, so it grows upwards here."""
    rand = lambda low, high, n=1: _uniform(low, high, n, generator=generator)  # noqa: E731
    green, parts = _green(generator), []
    for tip in rand(0.15, 0.85, 3).tolist():
        bend = rand(-0.3, 0.3).item()
        parts.append(
            _stroke(0.5, 1, tip, 0.1, 0.012, 0.004, torch.tensor([0.3, 0.22, 0.15]), bend=bend)
        )
        t = torch.linspace(0.2, 1, 16)
        parts.append(
            _blobs(
                0.5 + (tip - 0.5) * t + bend * t * (1 - t) + rand(-0.04, 0.04, 16),
                1 - 0.9 * t,
                rand(0.03, 0.07, 16),
                rand(0.012, 0.03, 16),
                rand(-2.5, -0.6, 16),
                _jitter(green, 16, 0.4, generator),
            )
        )
    return torch.cat(parts)


def _lamp(generator) -> Tensor:
    """A lamp or ornament on a cord; stored upside down."""
    rand = lambda low, high, n=1: _uniform(low, high, n, generator=generator)  # noqa: E731
    cord = _stroke(0.5, 1, 0.5, 0.35, 0.006, 0.006, rand(0, 0.3, 3))
    body = _blobs(
        *torch.tensor([[0.5], [0.22]]),
        rand(0.1, 0.18),
        rand(0.1, 0.18),
        torch.zeros(1),
        rand(0.3, 1, 3)[None],
        power=4.0,
    )
    return torch.cat([cord, body])


_FAMILIES = {
    "flower": _flower, "grass": _grass, "tree": _tree,
    "potted": _potted, "hanging": _hanging, "lamp": _lamp,
}  # fmt: skip


def _paint(shapes: Tensor, generator: torch.Generator | None) -> Tensor:
    """Paint superellipses back to front: rows (x, y, long, short, angle, power, r, g, b)."""
    axis = (torch.arange(PIECE_SIZE) + 0.5) / PIECE_SIZE
    texture = 1 + 0.25 * _noise(PIECE_SIZE, PIECE_SIZE, octaves=(24, 64), generator=generator)
    canvas = torch.zeros(4, PIECE_SIZE, PIECE_SIZE)
    for x, y, long, short, angle, power, *color in shapes.tolist():
        dx, dy = axis - x, (axis - y)[:, None]
        along = (dx * math.cos(angle) + dy * math.sin(angle)).abs() / long
        across = (dy * math.cos(angle) - dx * math.sin(angle)).abs() / short
        # Signed distance in units of the short radius, softened over about one pixel.
        inside = 1 - (along**power + across**power) ** (1 / power)
        alpha = (inside * short * PIECE_SIZE + 0.5).clamp(0, 1)
        light = (0.75 + 0.35 * inside.clamp(0, 1)) * texture
        paint = torch.cat(
            [torch.tensor(color)[:, None, None] * light, torch.ones_like(light)[None]]
        )
        canvas = canvas * (1 - alpha) + paint.clamp(0, 1) * alpha
    return torch.cat([canvas[:3] / canvas[3:].clamp(min=1e-3), canvas[3:]]).clamp(0, 1)


def _noise(height: int, width: int, *, octaves, generator) -> Tensor:
    """Return smooth noise, roughly within ±1, with about ``octaves`` cells across."""
    total = torch.zeros(height, width)
    for cells in octaves:
        coarse = _uniform(-1, 1, 1, 1, cells, cells, generator=generator)
        total += functional.interpolate(
            coarse, (height, width), mode="bicubic", align_corners=True
        )[0, 0]
    return total / len(octaves)


def _paint_background(generator: torch.Generator | None, *, height=160, width=256) -> Tensor:
    """A two-colour gradient with soft texture, and sometimes boxes that never move."""
    top, bottom = (_uniform(0.02, 0.95, 3, 1, 1, generator=generator) for _ in range(2))
    ramp = torch.linspace(0, 1, height)[:, None]
    octaves = ((3,), (3, 9), (5, 40))[int(torch.randint(3, (1,), generator=generator))]
    texture = 1 + 0.3 * _noise(height, width, octaves=octaves, generator=generator)
    picture = ((top * (1 - ramp) + bottom * ramp) * texture).clamp(0, 1)
    for _ in range(int(torch.randint(4, (1,), generator=generator))):
        x, y, w, h = _uniform(0, 1, 4, generator=generator).tolist()
        rows = slice(int(y * height), int((y + 0.5 * h) * height) + 1)
        picture[:, rows, int(x * width) : int((x + 0.4 * w) * width) + 1] *= _uniform(
            0.3, 1.2, 3, 1, 1, generator=generator
        )
    return picture.clamp(0, 1)


# Moving -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes: what is seen at time 0, and how every layer moves.

    Attributes:
        background: ``(B, 3, H, W)`` in [0, 1]; never moves.
        layers: ``(B, L, 4, H, W)`` RGBA in [0, 1] at time 0, back to front.
        modes: ``(B, L, M, 2, h, w)`` mode shapes, px of the (h, w) grid per unit coordinate.
        coords: ``(B, L, M, T)`` modal coordinates over time, 0 at time 0.
    """

    background: Tensor
    layers: Tensor
    modes: Tensor
    coords: Tensor

    @cached_property
    def image(self) -> Float[Tensor, "batch 3 height width"]:
        """The photo: every scene at time 0."""
        return _composite(self.background, self.layers)

    @cached_property
    def visible(self) -> Bool[Tensor, "batch layers height width"]:
        """Which layer owns a pixel of the mode grid: the frontmost that covers over half of it."""
        alpha = functional.interpolate(
            self.layers[:, :, 3], self.modes.shape[-2:], mode="bilinear", antialias=True
        )
        covers = alpha > 0.5
        hidden = covers.flip(1).cumsum(1).flip(1) - covers.long() > 0
        return covers & ~hidden

    def spectral(self, num_frequencies: int) -> Complex[Tensor, "batch freq 2 height width"]:
        """Return the exact spectral volume, in px of the mode grid."""
        coefficients = torch.fft.rfft(self.coords, norm="forward")[..., :num_frequencies]
        shown = self.modes * self.visible[:, :, None, None]
        parts = torch.stack([coefficients.real, coefficients.imag])
        return torch.complex(*torch.einsum("rblmk,blmchw->rbkchw", parts, shown))

    def motion(self, times: list[int] | None = None) -> Float[Tensor, "batch time 2 height width"]:
        """Return the exact motion texture at the given frames (all by default), in grid px."""
        coords = self.coords if times is None else self.coords[..., times]
        shown = self.modes * self.visible[:, :, None, None]
        return torch.einsum("blmt,blmchw->btchw", coords, shown)

    def frame(self, time: int) -> Float[Tensor, "batch 3 height width"]:
        """Render every scene at a frame; needs modes at the resolution of the layers.

        Each layer is read backwards, ``I_t(q) = I_0(p)`` with ``p + F_t(p) = q`` found by
        fixed-point iteration: displacements within a layer are smooth, so three steps suffice.
        """
        displacement = torch.einsum("blm,blmchw->blchw", self.coords[..., time], self.modes)
        flat = displacement.flatten(0, 1)
        source = flat
        for _ in range(3):
            source = _sample_at(flat, -source)
        moved = _sample_at(self.layers.flatten(0, 1), -source)
        return _composite(self.background, moved.view_as(self.layers))


def _composite(background: Tensor, layers: Tensor) -> Tensor:
    for layer in layers.unbind(1):
        background = background + (layer[:, :3] - background) * layer[:, 3:]
    return background.clamp(0, 1)


def _sample_at(image: Tensor, offset: Tensor) -> Tensor:
    """Return ``image(q + offset(q))``, zero outside."""
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=image.device),
        torch.arange(width, device=image.device),
        indexing="ij",
    )
    grid = torch.stack(
        [(x + offset[:, 0] + 0.5) * 2 / width - 1, (y + offset[:, 1] + 0.5) * 2 / height - 1],
        dim=-1,
    )
    return functional.grid_sample(image, grid, align_corners=False)


def _wind_driven(
    natural_hz: Tensor, damping: Tensor, *, num_frames: int, fps: float, generator
) -> Tensor:
    """Return unit-variance trajectories of damped oscillators in gusty wind, ``(..., T)``.

    White noise is shaped in the frequency domain by the wind (falling as 1/f above 0.1 Hz) and
    by the oscillator's response; a window of a run four times as long is stationary and, like a
    real clip, not periodic.
    """
    run = 4 * num_frames
    device = natural_hz.device
    white = torch.randn(*natural_hz.shape, run, generator=generator, device=device)
    hz = torch.fft.rfftfreq(run, 1 / fps).to(device)
    ratio = hz / natural_hz[..., None]
    response = torch.complex(1 - ratio**2, 2 * damping[..., None] * ratio).reciprocal()
    wind = 1 / (1 + (hz / 0.1) ** 2) ** 0.3
    run_motion = torch.fft.irfft(torch.fft.rfft(white) * response * wind, n=run)
    run_motion = run_motion / run_motion.std(dim=-1, keepdim=True)
    return run_motion[..., num_frames : 2 * num_frames]


def _mode_shapes(local: Tensor, piece: dict[str, Tensor]) -> Tensor:
    """Return ``(B, M, 2, h, w)`` shapes at local coordinates ``(B, 2, h, w)``: u across, s up.

    s is 0 at the anchor and 1 at the tip. Mode 0 bends like a clamped beam (or swings, or moves
    as one body), mode 1 is its overtone, modes 2–5 are two pairs of standing waves whose
    combination travels: fluttering leaves and gusts over a field.
    """
    u, s = local.unbind(1)
    column = lambda name: piece[name][:, None, None]  # noqa: E731
    s = ((s - column("still")) / (1 - column("still"))).clamp(0, 1.5)
    beam = torch.where(column("hangs") > 0, s, 0.5 * s * s * (3 - s.clamp(max=1)))
    body = 0.75 + 0.25 * s
    bend = torch.lerp(beam, body, column("stiff"))
    overtone = s * (s - 0.75) * 3
    flutter = s.clamp(max=1).sqrt() * (1 - 0.7 * column("stiff"))
    shapes = [bend, overtone * (1 - column("stiff"))]
    for pair in ("wave_a", "wave_b"):
        phase = piece[pair][:, 0, None, None] * u + piece[pair][:, 1, None, None] * s
        shapes += [flutter * phase.cos(), flutter * phase.sin()]
    return torch.stack(shapes, dim=1)[:, :, None] * piece["direction"][:, :, :, None, None]


def _draw_layer(batch: int, pieces: Pieces, depth: float, generator) -> dict[str, Tensor]:
    """Draw which piece, where, how large, and how it moves, for one layer of every scene."""
    device = pieces.cutouts.device

    def draw(low, high, *shape):
        return _uniform(low, high, batch, *shape, generator=generator).to(device)

    index = torch.randint(
        len(pieces.cutouts),
        (batch,),
        generator=generator,
        device=generator.device if generator else None,
    ).to(device)
    hangs, stiff = pieces.hangs[index].float(), pieces.stiff[index]
    row = draw(0, 1) < 0.2  # a row of copies: a flower bed, a hedge, a field
    size = torch.where(
        row, draw(0.25, 0.7), torch.exp(draw(math.log(0.3), math.log(1.1))) * (0.7 + 0.7 * depth)
    ) * (1 - 0.25 * stiff)
    ground = torch.where(row, draw(0.7, 1.15), draw(0.8, 1.25))
    root_y = torch.where(hangs > 0, 1 - ground, torch.where(stiff > 0, draw(0.45, 1.1), ground))
    amplitude = torch.exp(torch.log(torch.tensor(0.005)) + 0.75 * draw(-1.7, 1.7))
    share = torch.tensor([1.0, 0.25, 0.3, 0.3, 0.2, 0.2], device=device)
    angle = draw(-0.35, 0.35, NUM_MODES) + torch.tensor([0, 0, 0.4, 0.4, 1.2, 1.2], device=device)
    natural = torch.exp(draw(math.log(0.4), math.log(2.6))) / size.clamp(min=0.3).sqrt()
    overtones = torch.tensor([1, 2.5, 1.6, 1.6, 2.6, 2.6], device=device)
    return {
        "index": index, "hangs": hangs, "stiff": stiff, "still": pieces.still[index],
        "present": (draw(0, 1) < (1.0 if depth == 1 else 0.55)).float(),
        "size": size, "root_x": draw(0.05, 0.95), "root_y": root_y,
        "copies": torch.where(row, draw(2, 6).round(), torch.ones_like(size)),
        "flip": torch.where(draw(0, 1) < 0.5, -1.0, 1.0), "tilt": draw(-0.2, 0.2),
        "wave_a": draw(-8, 8, 2), "wave_b": draw(-14, 14, 2),
        "direction": torch.stack([angle.cos(), angle.sin()], dim=-1)
        * (amplitude[:, None] * share)[..., None],
        "natural_hz": (natural[:, None] * overtones).clamp(max=7),
        "damping": draw(0.06, 0.4, NUM_MODES),
        "gain": draw(0.65, 1.15, 3), "blur": (draw(0, 1) < 0.25 * (1 - depth)).float(),
    }  # fmt: skip


def _local_coordinates(piece: dict[str, Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return (u, s) of every pixel, and the same folded for rows of copies, ``(B, 2, h, w)``."""
    device = piece["size"].device
    y = ((torch.arange(height, device=device) + 0.5) / height)[:, None]
    x = ((torch.arange(width, device=device) + 0.5) / width) * (width / height)
    column = lambda name: piece[name][:, None, None]  # noqa: E731
    dx = (x - column("root_x") * width / height) / column("size")
    dy = (column("root_y") - y) / column("size") * torch.where(column("hangs") > 0, -1.0, 1.0)
    u = (dx * column("tilt").cos() - dy * column("tilt").sin()) * column("flip")
    s = dy * column("tilt").cos() + dx * column("tilt").sin()
    inside = u.abs() < 0.45 * column("copies")
    folded = torch.where(inside, (u * 1.1 + 0.5).remainder(1.0) - 0.5, 9.0)
    return torch.stack([u, s], 1), torch.stack([torch.where(column("copies") > 1, folded, u), s], 1)


def _paint_layer(piece: dict[str, Tensor], pieces: Pieces, height: int, width: int) -> Tensor:
    """Return RGBA of one layer of every scene, ``(B, 4, H, W)``."""
    _, local = _local_coordinates(piece, height, width)
    grid = torch.stack([local[:, 0] * 2, 1 - 2 * local[:, 1]], dim=-1)
    picture = functional.grid_sample(
        pieces.cutouts[piece["index"]].float(), grid, align_corners=False
    )
    color = (picture[:, :3] * piece["gain"][:, :, None, None]).clamp(0, 1)
    picture = torch.cat([color, picture[:, 3:] * piece["present"][:, None, None, None]], dim=1)
    soft = functional.avg_pool2d(picture, 5, stride=1, padding=2, count_include_pad=False)
    return torch.lerp(picture, soft, piece["blur"][:, None, None, None])


def _draw_background(batch: int, pieces: Pieces, height: int, width: int, generator) -> Tensor:
    """Return backdrops: sharp, out of focus, or dark, as behind close-ups."""
    device = pieces.backgrounds.device
    draw = lambda: _uniform(0, 1, batch, 1, 1, 1, generator=generator).to(device)  # noqa: E731
    index = torch.randint(
        len(pieces.backgrounds),
        (batch,),
        generator=generator,
        device=generator.device if generator else None,
    )
    picture = resize(pieces.backgrounds[index.to(device)].float(), height=height, width=width)
    flipped = torch.where(draw() < 0.5, picture.flip(-1), picture)
    coarse = functional.adaptive_avg_pool2d(flipped, (max(height // 20, 2), max(width // 20, 2)))
    soft = functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    focused = torch.where(draw() < 0.35, soft, flipped)
    return focused * torch.where(draw() < 0.2, 0.05 + 0.3 * draw(), 0.6 + 0.5 * draw()).clamp(max=1)


def make_scenes(
    batch: int,
    pieces: Pieces,
    *,
    height: int = 160,
    width: int = 256,
    grid_stride: int = 1,
    num_frames: int = 150,
    fps: float = 30.0,
    generator: torch.Generator | None = None,
) -> Scenes:
    """Compose ``batch`` random scenes on the device of ``pieces``.

    Args:
        batch: Number of scenes.
        pieces: What to compose them from.
        height: Rows of the picture.
        width: Columns of the picture.
        grid_stride: Mode shapes are made on a grid this many times coarser than the picture;
            rendering later frames needs 1.
        num_frames: T.
        fps: Frames per second.
        generator: Source of randomness; equal seeds give equal scenes.

    Raises:
        GidliteError: If the grid stride does not divide the size.
    """
    if height % grid_stride or width % grid_stride:
        raise GidliteError(f"grid_stride {grid_stride} does not divide {width}x{height}")
    grid_height, grid_width = height // grid_stride, width // grid_stride
    layers, modes, coords = [], [], []
    for number in range(_MAX_LAYERS):
        piece = _draw_layer(batch, pieces, (number + 1) / _MAX_LAYERS, generator)
        layers.append(_paint_layer(piece, pieces, height, width))
        local, _ = _local_coordinates(piece, grid_height, grid_width)
        modes.append(_mode_shapes(local, piece) * grid_width)
        path = _wind_driven(
            piece["natural_hz"],
            piece["damping"],
            num_frames=num_frames,
            fps=fps,
            generator=generator,
        )
        coords.append(path - path[..., :1])
    return Scenes(
        background=_draw_background(batch, pieces, height, width, generator),
        layers=torch.stack(layers, 1),
        modes=torch.stack(modes, 1),
        coords=torch.stack(coords, 1),
    )
