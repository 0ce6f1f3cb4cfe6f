"""A photo moved without a trained network, and what every renderer needs to do so.

Sharpening before a splat, filling what it leaves empty, and bringing a coarse volume's motion to
the resolution of a photo, along the edges of the photo.
"""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gidlite.render.splat import splat

Picture = Float[Tensor, "3 height width"]
Pictures = Float[Tensor, "batch 3 height width"]
Motions = Float[Tensor, "batch 2 height width"]
Maps = Float[Tensor, "batch 1 height width"]
LARGEST_METRIC = 500.0  # larger ones decide nothing more, and would leave the compiled splat
_METRIC_SCALE = 3.0  # how decisively what moves more wins, per px of mean motion at 256 wide
_FARTHEST_AHEAD = 18.0  # farther ahead, a pixel counts for nothing where another is behind it
_NOTHING = 1e-12
_COLOR = 0.08  # distance of colours in [0, 1] at which a cell counts e^-0.5 as much
_FLOOR = 1e-3  # where no cell resembles a pixel, all count alike


def splat_photo(image: Pictures, motion: Motions, metric: Maps | None) -> tuple[Pictures, Maps]:
    """Return photos moved by a motion in px, holes filled, and the coverage, 0 in holes.

    Where pixels collide, the one of larger metric (``mean_motion``) wins; without, they average.
    """
    if metric is None:
        moved, coverage = splat(image, motion, mode="average", return_coverage=True)
        return fill_holes(moved, coverage), coverage
    ahead = (_METRIC_SCALE * metric).clamp(max=LARGEST_METRIC)
    carried = torch.cat([image, ahead], dim=1)
    moved, coverage = splat(carried, motion, metric=ahead, return_coverage=True)
    return fill_holes(moved[:, :3], coverage, moved[:, 3:]), coverage


def keep_sharp(image: Pictures, motion: Motions) -> Pictures:
    """Return photos sharpened by what the bilinear weights of a splat are about to blur.

    A shift by a fraction f of a pixel adds ``f (1 − f) / 2`` second differences; they are taken
    off beforehand. Otherwise a loop flashes sharp whenever it comes back to the photo.
    """
    fraction = motion - motion.floor()
    across, down = (fraction * (fraction - 1) / 2).split(1, dim=1)
    padded = functional.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2] - 2 * image
    columns = padded[..., 2:, 1:-1] + padded[..., :-2, 1:-1] - 2 * image
    return image.addcmul(across, rows).addcmul_(down, columns)


def fill_holes(
    picture: Float[Tensor, "batch channels height width"], coverage: Maps, ahead: Maps | None = None
) -> Float[Tensor, "batch channels height width"]:
    """Fill pixels that nothing landed on by averages over the smallest covered neighbourhood.

    What is uncovered lies behind what moved away, so neighbours count by ``exp(-ahead)``, where
    given: the metric, splatted.
    """
    weight = coverage.clamp(max=1)
    trust = weight if ahead is None else weight * torch.exp(-ahead.clamp(0, _FARTHEST_AHEAD))
    return _fill(picture, weight, trust)[0]


def _fill(picture: Tensor, weight: Tensor, trust: Tensor) -> tuple[Tensor, Tensor]:
    """Fill where ``weight`` is below 1, neighbours counting by ``trust``; return both, filled."""
    # Elsewhere than on the CPU, looking for holes costs more than filling none.
    if min(picture.shape[-2:]) < 2 or (weight.is_cpu and (weight > 0.999).all()):
        return picture, trust
    total = halve(trust)
    coarse = halve(picture * trust) / total.clamp(min=_NOTHING)
    coarse, total = _fill(coarse, (4 * halve(weight)).clamp(max=1), total)
    # Cells keep their place whatever the size, so that tiles of a photo are filled alike.
    near = _double(total, picture)
    smooth = _double(coarse * total, picture) / near.clamp(min=_NOTHING)
    return torch.lerp(smooth, picture, weight), torch.lerp(near, trust, weight)


def halve(x: Float[Tensor, "batch channels _h _w"]) -> Float[Tensor, "batch channels _rows _cols"]:
    """Return the means of 2×2 px, at the end of an odd side of 2 or 1; avg_pool2d is slower."""
    odd = [side % 2 for side in x.shape[-2:]]
    x = functional.pad(x, (0, odd[1], 0, odd[0]), mode="replicate") if any(odd) else x
    x = x[..., ::2, :] + x[..., 1::2, :]
    return (x[..., ::2] + x[..., 1::2]) / 4


def _double(x: Tensor, like: Tensor) -> Tensor:
    # One map at a time: of three at once, PyTorch makes more work than of three in turn.
    maps = x.flatten(0, 1)[:, None]
    large = functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
    return large.view(*x.shape[:2], *large.shape[2:])[..., : like.shape[-2], : like.shape[-1]]


class GuidedUpsampling:
    """Brings maps of a grid of cells to the resolution of a photo in [0, 1], along its edges.

    Exact at equal resolution; a grid finer than the photo is resampled without guidance.
    """

    def __init__(self, image: Picture, rows: int, columns: int) -> None:
        self._size = height, width = tuple(image.shape[-2:])
        self._guided = rows <= height and columns <= width
        if not self._guided or (rows, columns) == self._size:
            return
        cells = _resample(image, (rows, columns))
        self._rows, near_y = _neighbours(rows, height, image.device)
        columns, near_x = _neighbours(columns, width, image.device)
        # Places in flat maps, as picking columns is slow.
        starts = cells.shape[-1] * torch.arange(rows, device=image.device)[:, None]
        self._wide = [(starts + column).flatten() for column in columns]
        weights = []
        for i, j in product(range(3), range(3)):
            cell = cells.index_select(-1, columns[j]).index_select(-2, self._rows[i])
            alike = torch.exp((cell - image).square().sum(0) / (-2 * _COLOR**2)) + _FLOOR
            weights.append(alike * near_y[i, :, None] * near_x[j])
        self._weights = torch.stack(weights)
        self._weights /= self._weights.sum(0)

    def __call__(
        self, maps: Float[Tensor, "channels rows columns"]
    ) -> Float[Tensor, "channels height width"]:
        """Return the maps at the resolution of the photo, in the same unit."""
        if maps.shape[-2:] == self._size:
            return maps
        if not self._guided:
            return _resample(maps, self._size)
        out = torch.zeros(len(maps), *self._size, device=maps.device)
        for j, places in enumerate(self._wide):
            wide = torch.stack([values.index_select(0, places) for values in maps.flatten(1)])
            wide = wide.view(*maps.shape[:2], -1)
            for i in range(3):
                out.addcmul_(wide.index_select(-2, self._rows[i]), self._weights[3 * i + j])
        return out

    def motion(self, motion: Float[Tensor, "2 rows columns"]) -> Float[Tensor, "2 height width"]:
        """Return a displacement field at the resolution of the photo, in px of it."""
        height, width = self._size
        factor = motion.new_tensor([width / motion.shape[-1], height / motion.shape[-2]])
        return self(motion * factor[:, None, None])


def _resample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps[None], size, mode="bilinear", antialias=True)[0]


def _neighbours(cells: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the three cells around every pixel and their weights by distance, ``(3, pixels)``."""
    place = (torch.arange(pixels, device=device) + 0.5) * (cells / pixels) - 0.5
    nearest = place.round() + torch.arange(-1, 2, device=device)[:, None]
    # At equal resolution the tent reaches no neighbour; else half a cell beyond the next one.
    reach = min(1.5, pixels / cells)
    near = (1 - (nearest - place).abs() / reach).clamp(min=0)
    return nearest.long().clamp(0, cells - 1), near
