"""What light and a camera add to a scene: shading, exposure, film grain, JPEG."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor
from torch.nn import functional

from gidlite.data.world.compose import (
    Draw,
    draw_backdrop,
    draw_parts,
    local_coordinates,
    mode_shapes,
    paint_layer,
    part_at,
    part_of,
    wind_driven,
)
from gidlite.data.world.pieces import Pieces
from gidlite.errors import GidliteError

# The example tables of the JPEG standard (ITU-T T.81, annex K): luminance, and the corner of
# chrominance that is finer than 99.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMINANCE = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
_RGB_TO_YCC = ((0.299, 0.587, 0.114), (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813))


def draw_exposure(draw) -> dict[str, Tensor]:
    """Draw the light and the exposure of every scene; ``draw(low, high, *shape)``."""
    return {
        "slope": draw(-0.35, 0.35, 2),  # of the light across the picture
        "vignette": draw(-0.3, 0.35).clamp(min=0),
        "tint": draw(0.88, 1.12, 3),
        "gain": torch.exp(draw(-0.35, 0.3)),
        "gamma": torch.exp(draw(-0.25, 0.25)),
        "grain": (draw(-0.02, 0.03)).clamp(min=0),
        "jpeg": draw(15, 130),  # quality; over 100 means none
    }


def develop(
    picture: Float[Tensor, "batch 3 height width"], exposure: dict[str, Tensor]
) -> Float[Tensor, "batch 3 height width"]:
    """Light and expose pictures; the same for every frame of a scene."""
    height, width = picture.shape[-2:]
    y = torch.linspace(-1, 1, height, device=picture.device)[:, None]
    x = torch.linspace(-1, 1, width, device=picture.device)
    slope, column = exposure["slope"][..., None, None], lambda n: exposure[n][:, None, None]
    light = 1 + slope[:, 0] * x + slope[:, 1] * y - column("vignette") * (x**2 + y**2) / 2
    factor = exposure["tint"][:, :, None, None] * (light * column("gain"))[:, None]
    return (picture * factor).clamp(1e-4, 1) ** exposure["gamma"][:, None, None, None]


def photograph(
    picture: Float[Tensor, "batch 3 height width"],
    exposure: dict[str, Tensor],
    *,
    generator: torch.Generator | None,
) -> Float[Tensor, "batch 3 height width"]:
    """Return pictures as a camera would save them, with grain and JPEG losses."""
    place = generator.device if generator is not None else picture.device
    noise = torch.randn(picture.shape, generator=generator, device=place).to(picture)
    noise = noise.mean(1, keepdim=True) * 1.2 + 0.5 * noise  # mostly luminance, as in film
    grainy = (picture + exposure["grain"][:, None, None, None] * noise).clamp(0, 1)
    return torch.where(
        exposure["jpeg"][:, None, None, None] < 100, _jpeg(grainy, exposure["jpeg"]), grainy
    )


def _jpeg(picture: Tensor, quality: Tensor) -> Tensor:
    """Quantize 8×8 cosine transforms of luminance, and of chrominance at half the size."""
    matrix = torch.tensor(_RGB_TO_YCC, device=picture.device)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality.clamp(max=99.5) / 50)
    ycc = torch.einsum("ij,bjhw->bihw", matrix, picture)
    chroma = functional.avg_pool2d(ycc[:, 1:], 2)
    chroma = functional.interpolate(
        _quantize(chroma, scale, _tables(picture)[1]), picture.shape[-2:], mode="bilinear"
    )
    ycc = torch.cat([_quantize(ycc[:, :1], scale, _tables(picture)[0]), chroma], 1)
    return torch.einsum("ij,bjhw->bihw", matrix.inverse(), ycc).clamp(0, 1)


def _tables(like: Tensor) -> tuple[Tensor, Tensor]:
    chrominance = torch.full((8, 8), 99.0)
    chrominance[:4, :4] = torch.tensor(_CHROMINANCE)
    return torch.tensor(_LUMINANCE).to(like), chrominance.to(like)


def _quantize(channels: Tensor, scale: Tensor, table: Tensor) -> Tensor:
    device = channels.device
    k, n = torch.arange(8, device=device)[:, None], torch.arange(8, device=device)
    dct = torch.cos(math.pi * k * (2 * n + 1) / 16) * torch.where(k == 0, 0.125**0.5, 0.5)
    height, width = channels.shape[-2:]
    padded = functional.pad(channels, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8))  # (b, c, rows, 8, columns, 8)
    spectrum = torch.einsum("ki,bcrixj,lj->bcrkxl", dct, blocks, dct)
    step = table[:, None] / 255 * scale[:, None, None, None, None, None]
    rounded = (spectrum / step).round() * step
    back = torch.einsum("ki,bcrkxl,lj->bcrixj", dct, rounded, dct)
    return back.flatten(-2).flatten(-3, -2)[..., :height, :width]


NUM_LAYERS = 7


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes: what is seen at time 0, and how every layer moves.

    Attributes:
        background: ``(B, 3, H, W)`` in [0, 1]; never moves.
        layers: ``(B, L, 4, H, W)`` RGBA in [0, 1] at time 0, back to front.
        parts: Parameters of every layer, ``(B, L, ...)`` each, see ``compose.draw_parts``.
        coords: ``(B, L, 2M, T)`` modal coordinates, a layer's own and then its parent's; 0 at
            time 0.
        exposure: Light and camera of every scene, ``(B, ...)`` each.
        growth: ``(B, h, w)`` how freely pixels of a view move.
        photo: ``(B, 3, H, W)`` the picture at time 0 as a camera saved it: grain, JPEG.
        grid: (rows, columns) of the label grid, a whole fraction of the picture.
    """

    background: Tensor
    layers: Tensor
    parts: dict[str, Tensor]
    coords: Tensor
    exposure: dict[str, Tensor]
    growth: Tensor
    photo: Tensor
    grid: tuple[int, int]

    @cached_property
    def image(self) -> Float[Tensor, "batch 3 height width"]:
        """Every scene at time 0, without the losses of the camera."""
        return self._composite(self.layers)

    @cached_property
    def visible(self) -> Bool[Tensor, "batch layers height width"]:
        """Which layer owns a pixel of the grid: the frontmost that covers over half of it."""
        return _frontmost(self._coverage)

    @cached_property
    def depth(self) -> Int[Tensor, "batch height width"]:
        """Order of the layer seen at a pixel of the grid: 0 is the backdrop, larger is nearer."""
        return _order(self.visible)

    @cached_property
    def _coverage(self) -> Float[Tensor, "batch layers height width"]:
        alpha = self.layers[:, :, 3]
        if alpha.shape[-2:] == self.grid:
            return alpha
        return functional.interpolate(alpha, self.grid, mode="bilinear", antialias=True)

    def modes(self, layer: int) -> Float[Tensor, "batch modes 2 height width"]:
        """Return the mode shapes of a layer, its own and its parent's, in px of the grid."""
        return self._layer_modes[layer]

    @cached_property
    def _layer_modes(self) -> list[Tensor]:
        return [self._shapes(part_of(self.parts, n)) for n in range(self.layers.shape[1])]

    @cached_property
    def visible_modes(self) -> Float[Tensor, "batch modes 2 height width"]:
        """The mode shapes of what is seen at every pixel, in px; 0 on the backdrop."""
        shapes = self._shapes(part_at(self.parts, (self.depth - 1).clamp(min=0)))
        return shapes * (self.depth > 0)[:, None, None]

    def _shapes(self, part: dict[str, Tensor]) -> Tensor:
        local, _, wind = local_coordinates(part, *self.grid)
        own = mode_shapes(local, part, wind_position=wind, growth=self.growth)
        # Riding: the parent carries the root along and turns the part about it.
        u, s = (local * part["size"][:, None]).unbind(1)
        u = u * part["flip"]
        sin, cos = part["angle"].sin(), part["angle"].cos()
        x, y = u * cos + s * sin, u * sin - s * cos
        ridden = part["carry"] + torch.stack([-y, x], dim=1)[:, None] * part["turn"][:, :, None]
        return torch.cat([own, ridden], dim=1) * self.grid[1]

    def _sum_over_modes(self, weights: Tensor) -> Tensor:
        """Return Σ_m φ_m w_m of what is seen, ``(B, N, 2, h, w)``; weights (B, L, 2M, N)."""
        batch, layers, _, count = weights.shape
        shapes = self.visible_modes.flatten(3)
        owner = self.depth.flatten(1)
        total = shapes.new_zeros(batch, count, 2, owner.shape[1])
        for scene in range(batch):
            for layer in range(layers):
                pixels = (owner[scene] == layer + 1).nonzero()[:, 0]
                if len(pixels):
                    part = shapes[scene].index_select(2, pixels).flatten(1)
                    summed = weights[scene, layer].T @ part
                    total[scene].index_copy_(2, pixels, summed.view(count, 2, -1))
        return total.unflatten(3, self.grid)

    def spectral(self, num_frequencies: int) -> Complex[Tensor, "batch freq 2 height width"]:
        """Return the exact spectral volume, in px of the grid."""
        bins = torch.fft.rfft(self.coords, norm="forward")[..., :num_frequencies]
        parts = self._sum_over_modes(torch.cat([bins.real, bins.imag], dim=-1))
        return torch.complex(*parts.split(num_frequencies, dim=1))

    def motion(self, times: list[int] | None = None) -> Float[Tensor, "batch time 2 height width"]:
        """Return the exact motion texture at the given frames (all by default), in grid px."""
        return self._sum_over_modes(self.coords if times is None else self.coords[..., times])

    def moving(self, *, threshold: float = 0.25) -> Bool[Tensor, "batch height width"]:
        """Return where the RMS displacement about its mean exceeds ``threshold`` px of the grid."""
        deviation = self.coords - self.coords.mean(dim=-1, keepdim=True)
        covariance = deviation @ deviation.mT / deviation.shape[-1]
        # A square root of the covariance turns the quadratic form into a sum of squares.
        values, vectors = torch.linalg.eigh(covariance)
        roots = vectors * values.clamp(min=0).sqrt()[..., None, :]
        return self._sum_over_modes(roots).square().sum((1, 2)) > threshold**2

    def frame(self, time: int) -> Float[Tensor, "batch 3 height width"]:
        """Render every scene at a frame, without the losses of the camera.

        Raises:
            GidliteError: If the label grid is coarser than the picture.
        """
        if self.grid != tuple(self.background.shape[-2:]):
            raise GidliteError("frames need labels at full resolution; use grid_stride=1")
        moved = torch.stack(
            [
                _sample_at(self.layers[:, layer], -self._arrived(layer, time), mode="bicubic")
                for layer in range(self.layers.shape[1])
            ],
            dim=1,
        )
        return self._composite(moved.clamp(0, 1))

    def occluded(self, time: int) -> Bool[Tensor, "batch height width"]:
        """Return which pixels of frame 0 are covered, or out of the picture, at a frame."""
        target = self.motion([time])[:, 0]
        nearer = _sample_at(self._depth_at(time).float()[:, None], target, mode="nearest")[:, 0]
        inside = _sample_at(torch.ones_like(nearer)[:, None], target, mode="nearest")[:, 0]
        return (nearer > self.depth) | (inside < 0.5)

    def disoccluded(self, time: int) -> Bool[Tensor, "batch height width"]:
        """Return which pixels of a frame show something that frame 0 does not."""
        order = self._depth_at(time)
        source = torch.zeros_like(self.background[:, :2, :1, :1]).expand(-1, -1, *self.grid)
        for layer in range(self.layers.shape[1]):
            here = (order == layer + 1)[:, None]
            source = torch.where(here, -self._arrived(layer, time), source)
        before = _sample_at(self.depth.float()[:, None], source, mode="nearest")[:, 0]
        return before > order

    def _arrived(self, layer: int, time: int) -> Tensor:
        """Return the displacement of what is at each pixel now: F(p) at q with ``p + F(p) = q``.

        By fixed-point iteration: displacements within a layer are smooth, so a few steps suffice.
        """
        coords = self.coords[:, layer, :, time]
        forward = torch.einsum("bm,bmchw->bchw", coords, self.modes(layer))
        arrived = forward
        for _ in range(4):
            arrived = _sample_at(forward, -arrived, padding="border")
        return arrived

    def _depth_at(self, time: int) -> Tensor:
        covers = [
            _sample_at(self._coverage[:, layer, None], -self._arrived(layer, time))[:, 0]
            for layer in range(self.layers.shape[1])
        ]
        return _order(_frontmost(torch.stack(covers, dim=1)))

    def _composite(self, layers: Tensor) -> Tensor:
        """Lay RGBA layers over the backdrop, each with its soft shadow (or glow) behind it."""
        picture = self.background
        height, width = picture.shape[-2:]
        for number, layer in enumerate(layers.unbind(1)):
            color, alpha = layer[:, :3], layer[:, 3:]
            coarse = functional.adaptive_avg_pool2d(alpha, (-(-height // 8), -(-width // 8)))
            coarse = functional.avg_pool2d(coarse, 3, 1, 1)
            offset = self.parts["shade_offset"][:, number, :, None, None] * coarse.shape[-1]
            shadow = _sample_at(coarse, offset.expand(-1, -1, *coarse.shape[-2:]), padding="border")
            shadow = functional.interpolate(shadow, (height, width), mode="bilinear")
            shade = self.parts["shade"][:, number, :, None, None]
            picture = (picture * (1 - shade.clamp(min=0) * shadow)) - shade.clamp(max=0) * shadow
            picture = torch.lerp(picture, color, alpha)
        return develop(picture.clamp(0, 1), self.exposure)


def _frontmost(coverage: Tensor) -> Tensor:
    covers = coverage > 0.5
    hidden = covers.flip(1).cumsum(1).flip(1) - covers.long() > 0
    return covers & ~hidden


def _order(visible: Tensor) -> Tensor:
    number = torch.arange(1, visible.shape[1] + 1, device=visible.device)
    return (visible * number[:, None, None]).sum(1)


def _sample_at(
    image: Tensor, offset: Tensor, *, mode: str = "bilinear", padding: str = "zeros"
) -> Tensor:
    """Return ``image(q + offset(q))``."""
    height, width = image.shape[-2:]
    y = torch.arange(height, device=image.device)[:, None]
    x = torch.arange(width, device=image.device)
    grid = torch.stack(
        [(x + offset[:, 0] + 0.5) * 2 / width - 1, (y + offset[:, 1] + 0.5) * 2 / height - 1],
        dim=-1,
    )
    return functional.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=False)


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
        batch: Number of scenes; memory is proportional to it.
        pieces: What to compose them from.
        height: Rows of the picture.
        width: Columns of the picture.
        grid_stride: Labels are made on a grid this many times coarser than the picture;
            rendering later frames needs 1.
        num_frames: T.
        fps: Frames per second.
        generator: Source of randomness; equal seeds give equal scenes.

    Raises:
        GidliteError: If the grid stride does not divide the size.
    """
    if height % grid_stride or width % grid_stride:
        raise GidliteError(f"grid_stride {grid_stride} does not divide {width}x{height}")
    grid = (height // grid_stride, width // grid_stride)
    draw = Draw(batch, pieces.device, generator)
    parts = draw_parts(draw, pieces, NUM_LAYERS)
    background = draw_backdrop(draw, pieces, parts, height, width)
    mood = background.mean((-2, -1))
    layers = [
        paint_layer(part_of(parts, n), pieces, height, width, mood) for n in range(NUM_LAYERS)
    ]
    coords = wind_driven(parts, num_frames=num_frames, fps=fps, generator=generator)
    parents = parts["parent"][..., None, None].expand_as(coords)
    ridden = torch.gather(coords, 1, parents) * parts["rides"][..., None, None]
    scenes = Scenes(
        background=background,
        layers=torch.stack(layers, 1),
        parts=parts,
        coords=torch.cat([coords, ridden], dim=2),
        exposure=draw_exposure(draw),
        growth=_growth(pieces, parts, grid),
        photo=background,
        grid=grid,
    )
    photo = photograph(scenes.image, scenes.exposure, generator=generator)
    object.__setattr__(scenes, "photo", photo)
    return scenes


def _growth(pieces: Pieces, parts: dict[str, Tensor], grid: tuple[int, int]) -> Tensor:
    if not len(pieces.views):
        return torch.zeros(len(parts["size"]), *grid, device=pieces.device)
    growth = pieces.growth[parts["view"][:, 0]]
    return functional.interpolate(growth, grid, mode="bilinear", antialias=True)[:, 0]
