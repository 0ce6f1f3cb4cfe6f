"""TODO"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gidlite.evaluate import auc
from gidlite.evaluate.motion import Case
from gidlite.media import resize
from gidlite.pipeline import working_size
from gidlite.prior import photo_features

# Motion below this, in px, is the noise of optical flow.
_NOISE_PX = 0.05


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


class _WhereFromFeatures:
    """Collects cases; then scores each by ridge regression on the scenes of the others."""

    def __init__(self) -> None:
        self.ridge = SceneRidge()
        self.seen: list[tuple[str, Tensor, Tensor, Tensor]] = []

    def add(self, case: Case) -> None:
        features = feature_grid(case.photo)
        rows, columns = features.shape[-2:]
        target, weight = log_amplitude_cells(
            case.amplitude, case.reliable, rows=rows, columns=columns
        )
        self.ridge.add(case.scene, features, target, weight)
        self.seen.append((case.scene, features, case.reliable, case.moving))

    def aucs(self) -> list[float]:
        return [self._auc(*seen) for seen in self.seen]

    def _auc(self, scene: str, features: Tensor, reliable: Tensor, moving: Tensor) -> float:
        cells = self.ridge.predict(scene, features)
        if cells is None:
            return math.nan
        score = functional.interpolate(
            cells[None, None], tuple(reliable.shape), mode="bilinear", align_corners=False
        )[0, 0]
        return auc(score[reliable], moving[reliable])
