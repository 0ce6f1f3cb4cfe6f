"""Cheap answers to "where would this photo move?", which a prior has to beat."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gidlite.media import resize
from gidlite.photo import photo_features
from gidlite.pipeline import working_size

__all__ = ["SceneRidge", "feature_grid", "log_amplitude_cells", "photo_baselines"]

# Share of the shorter side that counts as border of a photo.
_BORDER = 1 / 16
# Motion below this, in px, is the noise of optical flow.
_NOISE_PX = 0.05


def photo_baselines(
    image: Float[Tensor, "3 height width"],
) -> dict[str, Float[Tensor, "height width"]]:
    """Return maps that need no learning; larger means "moves".

    Returns:
        ``colour``: distance from the mean colour of the photo's border, a sixteenth of the shorter
        side wide; ``saturation``: largest minus smallest channel; ``centre``: minus the squared
        distance from the centre, sides at ±1.
    """
    height, width = image.shape[-2:]
    edge = max(1, round(min(height, width) * _BORDER))
    border = torch.ones(height, width, dtype=torch.bool, device=image.device)
    border[edge:-edge, edge:-edge] = False
    colour = (image - image[:, border].mean(1)[:, None, None]).norm(dim=0)
    x = torch.linspace(-1, 1, width, device=image.device)
    y = torch.linspace(-1, 1, height, device=image.device)[:, None]
    return {
        "colour": colour, "saturation": image.amax(0) - image.amin(0), "centre": -(x**2 + y**2)
    }  # fmt: skip


def feature_grid(
    image: Float[Tensor, "3 height width"],
) -> Float[Tensor, "channels rows columns"]:
    """Return what the denoiser is told about a photo, on the grid that it is told it on."""
    height, width = working_size(*image.shape[-2:])
    return photo_features(resize(image, height=height, width=width)[None])[0]


def log_amplitude_cells(
    amplitude: Float[Tensor, "height width"],
    reliable: Bool[Tensor, "height width"],
    *,
    rows: int,
    columns: int,
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "rows columns"]]:
    """Return per cell the mean of ``log10`` of reliable RMS motion in px, and their share."""
    pool = lambda x: functional.adaptive_avg_pool2d(x[None, None], (rows, columns))[0, 0]  # noqa: E731
    share = pool(reliable.float())
    logarithm = amplitude.clamp(min=_NOISE_PX).log10() * reliable
    return pool(logarithm) / share.clamp(min=1e-6), share


class SceneRidge:
    """Ridge regression from photo features to motion that never sees the scene it predicts.

    Features and motion are deviations from their mean over the photo, since the question is where
    a photo moves, not how windy a day it shows. Every photo has the same weight. Only second
    moments are kept, so nothing is fitted before ``predict``.

    Args:
        penalty: Weight of the squared coefficients of features of unit variance, relative to the
            mean squared error.
    """

    def __init__(self, *, penalty: float = 3.0) -> None:
        self.penalty = penalty
        self._moments: list[tuple[str, Tensor]] = []

    def add(
        self,
        scene: str,
        features: Float[Tensor, "channels rows columns"],
        target: Float[Tensor, "rows columns"],
        weight: Float[Tensor, "rows columns"],
    ) -> None:
        """Learn from a photo of a scene; cells of weight 0 do not count."""
        if weight.sum() <= 0:
            return
        share = (weight / weight.sum()).flatten().double()
        columns = torch.cat([features, target[None]]).flatten(1).double()
        columns = columns - (columns @ share)[:, None]
        self._moments.append((scene, (columns * share) @ columns.T))

    def predict(
        self, scene: str, features: Float[Tensor, "channels rows columns"]
    ) -> Float[Tensor, "rows columns"] | None:
        """Return motion about its mean as other scenes suggest it; None if there are none."""
        others = [moments for name, moments in self._moments if name != scene]
        if not others:
            return None
        mean = torch.stack(others).mean(0)
        scale = mean.diagonal()[:-1].clamp(min=1e-12).sqrt()
        system = mean[:-1, :-1] / torch.outer(scale, scale)
        system.diagonal().add_(self.penalty)
        slope = torch.linalg.solve(system, mean[:-1, -1] / scale) / scale
        centred = features.double() - features.double().mean((1, 2), keepdim=True)
        return torch.einsum("c,chw->hw", slope, centred).float()
