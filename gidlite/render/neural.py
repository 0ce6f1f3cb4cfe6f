"""Frames by the trained synthesis network, in tiles if the photo is large."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gidlite._checks import GidliteError
from gidlite.loading import load_part
from gidlite.synthesis import REACH, SynthesisNet

__all__ = ["WEIGHTS", "NeuralRenderer", "load_renderer"]

WEIGHTS = Path(__file__).parents[1] / "weights" / "renderer"
# Photos up to the first are rendered as a whole, larger ones in tiles of the second; px a side.
_WHOLE, _TILE = 1024, 512
# Tiles begin at multiples of this, so that every level of a pyramid sees the same cells.
_ALIGN = 64


@functools.cache
def load_renderer(folder: str | Path | None = None) -> SynthesisNet:
    """Return the trained network of a folder, by default the one that comes with the package.

    Raises:
        GidliteError: If there is none.
    """
    folder = WEIGHTS if folder is None else Path(folder)
    try:
        net = load_part(SynthesisNet, folder)
    except (OSError, ValueError) as error:
        # Of files that are not there diffusers says more than one sentence.
        why = f" ({error})" if isinstance(error, ValueError) else ""
        raise GidliteError(
            f"no trained renderer in {folder}{why}; use --renderer softmax, or train one with "
            "gidlite train renderer"
        ) from None
    net = net.eval().requires_grad_(False)
    return net.to(memory_format=torch.channels_last)


class NeuralRenderer:
    """Renders frames of one photo.

    A photo larger than a tile is rendered tile by tile. Tiles overlap by all that can influence a
    pixel, so seams cannot be seen; features are then extracted anew for every frame, which takes
    longer but needs no more memory than one tile.

    Args:
        image: Photo in [0, 1].
        net: The trained network; the one of the package if not given.
        tile: Largest side of what is rendered at once, overlap excluded; if not given, photos up
            to 1024 px are rendered as a whole and larger ones in tiles of 512.
    """

    def __init__(
        self,
        image: Float[Tensor, "3 height width"],
        net: SynthesisNet | None = None,
        *,
        tile: int | None = None,
    ) -> None:
        self.image, self.net = image[None], net or load_renderer()
        whole = max(image.shape[-2:]) <= (tile or _WHOLE)
        self._tile = max(_ALIGN, (tile or _TILE) // _ALIGN * _ALIGN)
        with torch.inference_mode():
            self._pyramid = self.net.encode(self.image) if whole else None

    @torch.inference_mode()
    def __call__(
        self, motion: Float[Tensor, "2 height width"], metric: Float[Tensor, "1 height width"]
    ) -> Float[Tensor, "3 height width"]:
        """Return the frame in [0, 1].

        Args:
            motion: Displacement of every pixel, px of the photo.
            metric: W, the mean over time of |F_t|, px at 256 px wide.
        """
        motion, metric = motion[None], metric[None]
        if self._pyramid is not None:
            return self.net(self._pyramid, motion, metric)[0].clamp(0, 1)
        frame = torch.empty_like(self.image[0])
        farthest = math.ceil(float(motion.abs().max()))
        margin = math.ceil((REACH + farthest) / _ALIGN) * _ALIGN
        for rows in _spans(frame.shape[1], self._tile, margin):
            for columns in _spans(frame.shape[2], self._tile, margin):
                part = [x[..., rows[1], columns[1]] for x in (self.image, motion, metric)]
                made = self.net(self.net.encode(part[0]), *part[1:])[0]
                frame[:, rows[0], columns[0]] = made[:, rows[2], columns[2]]
        return frame.clamp_(0, 1)


def _spans(length: int, tile: int, margin: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield of every tile the part it fills, the part it sees, and the former within the latter."""
    for first in range(0, length, tile):
        last = min(first + tile, length)
        start, stop = max(0, first - margin), min(length, last + margin)
        yield slice(first, last), slice(start, stop), slice(first - start, last - start)
