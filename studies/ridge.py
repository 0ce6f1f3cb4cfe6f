"""How well the photo's features alone say where it moves: a ridge regression, scene by scene.

The features are those that the networks see. A clip is judged by a regression on the other clips,
without those of its own scene: names that differ in a last letter or digit (palm_a, palm_b). What
a prior adds to them is what its AUC in `gidlite evaluate motion` has more.

    python -m studies.ridge CLIP...
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gidlite.cli import console, errors
from gidlite.errors import GidliteError
from gidlite.evaluate import auc, table
from gidlite.evaluate.motion import Case, clip_case
from gidlite.media import resize
from gidlite.pipeline import working_size
from gidlite.prior import photo_features

# Motion below this, in px, is the noise of optical flow.
_NOISE_PX = 0.05


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


def feature_grid(image: Float[Tensor, "3 height width"]) -> Float[Tensor, "channels rows columns"]:
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
    logarithm = amplitude.clamp(min=_NOISE_PX).log10() * reliable
    both = torch.stack([logarithm, reliable.float()])
    total, share = functional.adaptive_avg_pool2d(both, (rows, columns))
    return total / share.clamp(min=1e-6), share


def scene_of(name: str) -> str:
    """Return a name that clips of one place share."""
    return re.sub(r"_([0-9]|[a-z])$", "", name)


def ridge_aucs(cases: Iterable[Case]) -> list[tuple[str, float]]:
    """Return the name of every case and how well other scenes say what moves in it.

    The AUC is over reliable pixels, as ``where_auc`` of ``MotionReport``; NaN of a single scene.
    """
    ridge, seen = SceneRidge(), []
    for case in cases:
        features = feature_grid(case.photo)
        rows, columns = features.shape[-2:]
        cells = log_amplitude_cells(case.amplitude, case.reliable, rows=rows, columns=columns)
        ridge.add(scene_of(case.name), features, *cells)
        seen.append((case.name, features, case.reliable, case.moving))
    return [(name, _auc(ridge.predict(scene_of(name), features), reliable, moving))
            for name, features, reliable, moving in seen]  # fmt: skip


def _auc(cells: Tensor | None, reliable: Tensor, moving: Tensor) -> float:
    if cells is None:
        return math.nan
    score = functional.interpolate(cells[None, None], tuple(reliable.shape), mode="bilinear")[0, 0]
    return auc(score[reliable], moving[reliable])


def main(clips: Annotated[list[Path], typer.Argument(metavar="CLIP...")]) -> None:
    """AUC of a ridge regression on photo features, for each clip from the other scenes."""
    rows = ridge_aucs(_usable(clips))
    if not rows:
        raise typer.Exit(2)
    console.print(table("Where: AUC of ridge regression on photo features", ["", "AUC"], rows))


def _usable(clips: list[Path]) -> Iterator[Case]:
    for path in clips:
        try:
            yield clip_case(path, fps=30.0, num_frames=150)
        except GidliteError as error:
            errors.print(f"Left out: {error}", markup=False)


if __name__ == "__main__":
    typer.run(main)
