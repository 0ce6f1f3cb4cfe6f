"""Motion of a coarse grid at the resolution of a photo, so that it changes where the photo does.

Joint bilateral upsampling (Kopf et al. 2007): every pixel mixes the 3×3 grid cells around it,
weighted by distance and by how much the pixel's colour resembles the mean colour of the cell. The
weights depend on the photo alone, so they are computed once and every frame is a fixed linear
combination of the coarse motion.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gidlite.spectral import resize_motion

__all__ = ["GuidedUpsampling"]

# Distance of colours, in [0, 1] units, at which a cell counts e^-0.5 as much.
_COLOR = 0.08
# Where no cell resembles a pixel, all count alike.
_FLOOR = 1e-3


class GuidedUpsampling:
    """Brings maps of a coarse grid to the resolution of a photo.

    Exact at equal resolution; a grid finer than the photo is resampled without guidance.

    Args:
        image: The photo, in [0, 1].
        rows: Of the grid.
        columns: Of the grid.
    """

    def __init__(self, image: Float[Tensor, "3 height width"], rows: int, columns: int) -> None:
        self.height, self.width = image.shape[-2:]
        self._enlarges = (rows, columns) != (self.height, self.width) and (
            rows <= self.height and columns <= self.width
        )
        if not self._enlarges:
            return
        size = (rows, columns)
        cells = functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        self._rows, near_y = _neighbours(rows, self.height, image.device)
        self._columns, near_x = _neighbours(columns, self.width, image.device)
        weights = []
        for i in range(3):
            for j in range(3):
                gap = (self._pick(cells, i, j) - image).square().sum(0)
                alike = torch.exp(gap / (-2 * _COLOR**2)) + _FLOOR
                weights.append(alike * near_y[i, :, None] * near_x[j])
        self._weights = torch.stack(weights)
        self._weights /= self._weights.sum(0)

    def _pick(self, maps: Tensor, i: int, j: int) -> Tensor:
        return maps.index_select(-1, self._columns[j]).index_select(-2, self._rows[i])

    def __call__(
        self, maps: Float[Tensor, "channels rows columns"]
    ) -> Float[Tensor, "channels height width"]:
        """Return the maps at the resolution of the photo, in the same unit."""
        if not self._enlarges:
            return (
                functional.interpolate(
                    maps[None], (self.height, self.width), mode="bilinear", antialias=True
                )[0]
                if maps.shape[-2:] != (self.height, self.width)
                else maps
            )
        out = torch.zeros(len(maps), self.height, self.width, device=maps.device)
        for j in range(3):
            wide = maps.index_select(-1, self._columns[j])
            for i in range(3):
                out.addcmul_(wide.index_select(-2, self._rows[i]), self._weights[3 * i + j])
        return out

    def motion(self, motion: Float[Tensor, "2 rows columns"]) -> Float[Tensor, "2 height width"]:
        """Return a displacement field at the resolution of the photo, in px of it."""
        if not self._enlarges:
            return resize_motion(motion, height=self.height, width=self.width)
        factor = [self.width / motion.shape[-1], self.height / motion.shape[-2]]
        return self(motion * motion.new_tensor(factor)[:, None, None])


def _neighbours(cells: int, pixels: int, device) -> tuple[Tensor, Tensor]:
    """Return the three cells around every pixel and their weights by distance, ``(3, pixels)``."""
    place = (torch.arange(pixels, device=device) + 0.5) * (cells / pixels) - 0.5
    nearest = place.round() + torch.arange(-1, 2, device=device)[:, None]
    # At equal resolution the tent reaches no neighbour; else half a cell beyond the next one.
    reach = min(1.5, pixels / cells)
    near = (1 - (nearest - place).abs() / reach).clamp(min=0)
    return nearest.long().clamp(0, cells - 1), near
