"""A synthetic world: scenes that sway, photographed, with exact motion and occlusion as labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor
from torch.nn import functional

from gidlite.data.world import compose
from gidlite.data.world.pieces import Draw, Pieces
from gidlite.errors import require
from gidlite.motion.flow import sample_at

_NUM_LAYERS = 7
Pictures = Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes: what is seen at time 0, and how every layer moves; never changed."""

    background: Pictures  # in [0, 1]; never moves
    layers: Float[Tensor, "batch layers 4 height width"]  # RGBA at time 0, back to front
    traits: dict[str, Tensor]  # of every layer, (batch, layers, ...) each, see ``draw_traits``
    coords: Float[Tensor, "batch layers modes time"]  # a layer's own, then its parent's; 0 at first
    exposure: dict[str, Tensor]  # light and camera of every scene, (batch, ...) each
    growth: Float[Tensor, "batch rows columns"]  # how freely pixels of a view move
    photo: Pictures  # time 0 as a camera saved it: grain, JPEG
    grid: tuple[int, int]  # (rows, columns) of the labels, a whole fraction of the picture

    @cached_property
    def image(self) -> Pictures:
        """Every scene at time 0, without the losses of the camera."""
        return self._lit(self.layers)

    @cached_property
    def depth(self) -> Int[Tensor, "batch height width"]:
        """Number of the layer seen at a pixel of the grid: 0 is the backdrop, larger is nearer."""
        return _frontmost(self._coverage)

    @cached_property
    def visible_modes(self) -> Float[Tensor, "batch modes 2 height width"]:
        """The mode shapes of what is seen at every pixel, in px; 0 on the backdrop."""
        shapes = self._modes_of(compose.traits_at(self.traits, (self.depth - 1).clamp(min=0)))
        return shapes * (self.depth > 0)[:, None, None]

    def expected_level(self, num_frequencies: int) -> Float[Tensor, "batch height width"]:
        """Return the RMS displacement over all winds in bins 1 to K − 1, in px of the grid.

        Of coordinates of unit variance, even where a layer is let go; 0 on the backdrop.
        """
        shapes, owner = self.visible_modes, (self.depth - 1).clamp(min=0).flatten(1)
        hz = torch.arange(301, device=shapes.device) / 20  # as of a run of 150 frames
        power = compose.gain_of(self.traits, hz).abs().square()
        # Slower than this, hardly anything moves within a period of 5 s.
        inside = (hz > 0.05) & (hz < (num_frequencies - 0.5) / 5)
        share = power[..., inside].sum(-1) / power.sum(-1)
        parents = share.gather(1, self.traits["parent"][..., None].expand_as(share))
        share = torch.cat([share, parents], dim=2)
        share = share.gather(1, owner[..., None].expand(-1, -1, share.shape[2])).mT
        share = share.unflatten(2, self.grid)
        # Modes are independent, but gusts: neighbouring hats overlap and share a trajectory.
        hats = shapes[:, : compose.NUM_HATS]
        shared = (hats[:, 1:] * hats[:, :-1]).sum((1, 2))
        delay = self.traits["gust_delay"][..., None]
        delayed = power[:, :, 0] * torch.cos(2 * math.pi * hz * delay)
        alike = delayed[..., inside].sum(-1) / power[:, :, 0].sum(-1) * self.traits["gusty"]
        alike = alike.gather(1, owner).view_as(shared)
        return ((shapes.square().sum(2) * share).sum(1) + 2 * alike * shared).clamp(min=0).sqrt()

    def spectral(self, num_frequencies: int) -> Complex[Tensor, "batch freq 2 height width"]:
        """Return the exact spectral volume, in px of the grid."""
        bins = torch.fft.rfft(self.coords, norm="forward")[..., :num_frequencies]
        both = self._sum_over_modes(torch.cat([bins.real, bins.imag], dim=-1))
        return torch.complex(*both.split(num_frequencies, dim=1))

    def motion(self, times: list[int] | None = None) -> Float[Tensor, "batch time 2 height width"]:
        """Return the exact motion texture at the given frames (all by default), in grid px."""
        return self._sum_over_modes(self.coords if times is None else self.coords[..., times])

    def frame(self, time: int) -> Pictures:
        """Render every scene at a frame; a label grid coarser than the picture is refused."""
        full = self.grid == tuple(self.background.shape[-2:])
        require(full, "frames need labels at full resolution; use grid_stride=1")
        moved = sample_at(self.layers, -self._arrived(time), mode="bicubic", padding="zeros")
        return self._lit(moved.clamp(0, 1))

    def occluded(self, time: int) -> Bool[Tensor, "batch height width"]:
        """Return which pixels of frame 0 are covered, or out of the picture, at a frame."""
        # One more than the depth, so that 0 says out of the picture.
        later, motion = self.depth_at(time)[:, None].float() + 1, self.motion([time])[:, 0]
        found = sample_at(later, motion, mode="nearest", padding="zeros")[:, 0]
        return (found > self.depth + 1) | (found == 0)

    def disoccluded(self, time: int) -> Bool[Tensor, "batch height width"]:
        """Return which pixels of a frame show something that frame 0 does not."""
        depth, arrived = self.depth_at(time), self._arrived(time)
        here = functional.one_hot(depth, arrived.shape[1] + 1).movedim(-1, 1)[:, 1:, None]
        source = -(arrived * here).sum(1)
        before = sample_at(self.depth.float()[:, None], source, mode="nearest", padding="zeros")
        return before[:, 0] > depth

    def depth_at(self, time: int) -> Int[Tensor, "batch height width"]:
        """Return ``depth`` of what is seen at a frame."""
        moved = sample_at(self._coverage[:, :, None], -self._arrived(time), padding="zeros")
        return _frontmost(moved[:, :, 0])

    @cached_property
    def _coverage(self) -> Float[Tensor, "batch layers height width"]:
        alpha = self.layers[:, :, 3]
        if alpha.shape[-2:] == self.grid:
            return alpha
        return functional.interpolate(alpha, self.grid, mode="bilinear", antialias=True)

    @cached_property
    def _modes(self) -> Float[Tensor, "batch layers modes 2 height width"]:
        layers = (compose.layer_traits(self.traits, n) for n in range(self.layers.shape[1]))
        return torch.stack([self._modes_of(traits) for traits in layers], dim=1)

    def _modes_of(self, traits: dict[str, Tensor]) -> Float[Tensor, "batch modes 2 height width"]:
        """Return mode shapes in px of the grid: a layer's own, and those of what it rides on."""
        local, _, wind = compose.local_coordinates(traits, *self.grid)
        own = compose.mode_shapes(local, wind, traits, self.growth)
        # Riding: the parent carries the root along and turns the layer about it.
        u, s = (local * traits["size"][:, None]).unbind(1)
        u = u * traits["flip"]
        sin, cos = traits["angle"].sin(), traits["angle"].cos()
        about = torch.stack([s * cos - u * sin, u * cos + s * sin], dim=1)
        ridden = traits["carry"] + about[:, None] * traits["turn"][:, :, None]
        return torch.cat([own, ridden], dim=1) * self.grid[1]

    def _sum_over_modes(self, weights: Tensor) -> Tensor:
        """Return Σ_m φ_m w_m of what is seen, ``(B, N, 2, h, w)``; weights (B, L, 2M, N)."""
        shapes, owners = self.visible_modes.flatten(3), self.depth.flatten(1)
        count = weights.shape[3]
        total = shapes.new_zeros(len(shapes), count, 2, shapes.shape[3])
        for result, modes, owner, scene in zip(total, shapes, owners, weights, strict=True):
            for number, weight in enumerate(scene, start=1):
                pixels = (owner == number).nonzero()[:, 0]
                summed = weight.T @ modes.index_select(2, pixels).flatten(1)
                result.index_copy_(2, pixels, summed.view(count, 2, len(pixels)))
        return total.unflatten(3, self.grid)

    def _arrived(self, time: int) -> Float[Tensor, "batch layers 2 height width"]:
        """Return the displacement of what is at each pixel now: F(p) at q with ``p + F(p) = q``.

        By fixed-point iteration: displacements within a layer are smooth, so a few steps suffice.
        """
        forward = torch.einsum("blm,blmchw->blchw", self.coords[..., time], self._modes)
        arrived = forward
        for _ in range(4):
            arrived = sample_at(forward, -arrived)
        return arrived

    def _lit(self, layers: Tensor) -> Tensor:
        return develop(_composite(self.background, layers, self.traits), self.exposure)


def _frontmost(coverage: Tensor) -> Tensor:
    """Return the number, from 1, of the frontmost layer that covers over half of each pixel."""
    number = torch.arange(1, coverage.shape[1] + 1, device=coverage.device)
    return ((coverage > 0.5) * number[:, None, None]).amax(1)


def _composite(background: Tensor, layers: Tensor, traits: dict[str, Tensor]) -> Tensor:
    """Lay RGBA layers over the backdrop, each with its soft shadow (or glow) behind it."""
    picture, size = background, background.shape[-2:]
    shades, offsets = traits["shade"][..., None, None], traits["shade_offset"][..., None, None]
    for layer, shade, offset in zip(*(v.unbind(1) for v in (layers, shades, offsets)), strict=True):
        color, alpha = layer[:, :3], layer[:, 3:]
        coarse = functional.adaptive_avg_pool2d(alpha, [-(-side // 8) for side in size])
        coarse = functional.avg_pool2d(coarse, 3, 1, 1)
        place = (offset * coarse.shape[-1]).expand(-1, -1, *coarse.shape[-2:])
        shadow = functional.interpolate(sample_at(coarse, place), size, mode="bilinear")
        picture = (picture * (1 - shade.clamp(min=0) * shadow)) - shade.clamp(max=0) * shadow
        picture = torch.lerp(picture, color, alpha)
    return picture.clamp(0, 1)


def make_scenes(
    batch: int,
    pieces: Pieces,
    *,
    height: int = 160,
    width: int = 256,
    grid_stride: int = 1,
    generator: torch.Generator | None = None,
    **clip: float,
) -> Scenes:
    """Compose random scenes on the device of ``pieces``; equal generators give equal scenes.

    Labels are made on a grid ``grid_stride`` times coarser than the picture; one that does not
    divide its size is refused, and later frames need 1. The clip may have ``num_frames`` (150)
    and ``fps`` (30).
    """
    divides = height % grid_stride == width % grid_stride == 0
    require(divides, f"grid_stride {grid_stride} does not divide {width}x{height}")
    grid = (height // grid_stride, width // grid_stride)
    draw = Draw(batch, pieces.device, generator)
    traits = compose.draw_traits(draw, pieces, _NUM_LAYERS)
    background = compose.draw_backdrop(draw, pieces, traits, height, width)
    layers = compose.paint_layers(traits, pieces, background)
    coords = compose.wind_driven(draw, traits, **clip)
    parent, rides = (traits[name][..., None, None] for name in ("parent", "rides"))
    ridden = torch.gather(coords, 1, parent.expand_as(coords)) * rides
    exposure = draw_exposure(draw)
    image = develop(_composite(background, layers, traits), exposure)
    growth = torch.zeros(batch, *grid, device=pieces.device)
    if len(pieces.views):
        growth = pieces.growth[traits["view"][:, 0]]
        growth = functional.interpolate(growth, grid, mode="bilinear", antialias=True)[:, 0]
    return Scenes(
        background=background, layers=layers, traits=traits, exposure=exposure, growth=growth,
        coords=torch.cat([coords, ridden], dim=2), grid=grid,
        photo=photograph(image, exposure, draw.normal(3, height, width)),
    )  # fmt: skip


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


def draw_exposure(draw: Draw) -> dict[str, Tensor]:
    """Draw the light and the exposure of every scene, to broadcast against its pictures."""
    return {
        "slope": draw(-0.35, 0.35, 2, 1, 1),  # of the light across the picture
        "vignette": draw(-0.3, 0.35, 1, 1).clamp(min=0), "tint": draw(0.88, 1.12, 3, 1, 1),
        "gain": draw(-0.35, 0.3, 1, 1).exp(), "gamma": draw(-0.25, 0.25, 1, 1, 1).exp(),
        "grain": draw(-0.02, 0.03, 1, 1, 1).clamp(min=0),
        "jpeg": draw(15, 130, 1, 1, 1),  # quality; over 100 means none
    }  # fmt: skip


def develop(picture: Pictures, exposure: dict[str, Tensor]) -> Pictures:
    """Light and expose pictures; the same for every frame of a scene."""
    height, width = picture.shape[-2:]
    y = torch.linspace(-1, 1, height, device=picture.device)[:, None]
    x = torch.linspace(-1, 1, width, device=picture.device)
    right, down = exposure["slope"].unbind(1)
    light = 1 + right * x + down * y - exposure["vignette"] * (x**2 + y**2) / 2
    factor = exposure["tint"] * (light * exposure["gain"])[:, None]
    return (picture * factor).clamp(1e-4, 1) ** exposure["gamma"]


def photograph(picture: Pictures, exposure: dict[str, Tensor], noise: Pictures) -> Pictures:
    """Return pictures as a camera saves them: with grain from normal noise, and JPEG losses."""
    noise = noise.mean(1, keepdim=True) * 1.2 + 0.5 * noise  # mostly luminance, as in film
    grainy = (picture + exposure["grain"] * noise).clamp(0, 1)
    return torch.where(exposure["jpeg"] < 100, _jpeg(grainy, exposure["jpeg"]), grainy)


def _jpeg(picture: Tensor, quality: Tensor) -> Tensor:
    """Quantize 8×8 cosine transforms of luminance, and of chrominance at half the size."""
    matrix = torch.tensor(_RGB_TO_YCC, device=picture.device)
    luminance = torch.tensor(_LUMINANCE).to(picture)
    chrominance = torch.full((8, 8), 99.0).to(picture)
    chrominance[:4, :4] = torch.tensor(_CHROMINANCE)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality.clamp(max=99.5) / 50)
    y, color = torch.einsum("ij,bjhw->bihw", matrix, picture).split((1, 2), dim=1)
    color = _quantize(functional.avg_pool2d(color, 2), scale, chrominance)
    color = functional.interpolate(color, picture.shape[-2:], mode="bilinear")
    ycc = torch.cat([_quantize(y, scale, luminance), color], 1)
    return torch.einsum("ij,bjhw->bihw", matrix.inverse(), ycc).clamp(0, 1)


def _quantize(channels: Tensor, scale: Tensor, table: Tensor) -> Tensor:
    k = torch.arange(8, device=channels.device)[:, None]
    dct = torch.cos(math.pi * k * (2 * k.T + 1) / 16) * torch.where(k == 0, 0.125**0.5, 0.5)
    height, width = channels.shape[-2:]
    padded = functional.pad(channels, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8))  # (b, c, rows, 8, columns, 8)
    spectrum = torch.einsum("ki,bcrixj,lj->bcrkxl", dct, blocks, dct)
    step = table[:, None] / 255 * scale[..., None, None]
    rounded = (spectrum / step).round() * step
    back = torch.einsum("ki,bcrkxl,lj->bcrixj", dct, rounded, dct)
    return back.flatten(-2).flatten(-3, -2)[..., :height, :width]
