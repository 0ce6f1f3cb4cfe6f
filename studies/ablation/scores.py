"""Scores of predicted motion against what happened; lower is better for all but ``where``."""

from __future__ import annotations

import math
from itertools import combinations, product

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from gidlite.evaluate import auc, bin_agreement, log_spectral_distance, phase_agreement
from gidlite.evaluate.motion import rms_ratio
from gidlite.evaluate.scenes import flatness, halves, things
from gidlite.motion.spectral import motion_amplitude
from studies.ablation.cases import Truth

Samples = Complex[Tensor, "samples freq 2 rows columns"]
_SQUARE = 4  # cells: motion is compared in squares of 16 px of the picture
_FLOOR = 0.02  # of the level of what moves: less is as good as still
_LAG = 2  # cells between which phases are compared, 8 px of the picture


def energy_score(samples: Samples, winds: Samples) -> float:
    """Return how far samples are from the winds that might follow, by the energy score.

    ``E|X − Y| − E|X − X'| / 2`` for samples X, X' and winds Y, in √px. X and Y are the motion of
    all bins in a square of 4 × 4 cells, divided by the root of its length: a strong wind, which no
    photo tells, does not count for all others. No predictions score lower in the mean over photos
    than winds as they blow (a strictly proper score; Gneiting and Raftery 2007), even if one wind
    alone was observed. What bins a prediction lacks count as still.
    """
    predicted, true = _squares(samples, winds.shape[1]), _squares(winds, winds.shape[1])
    apart = [_distance(x, y) for x, y in product(predicted, true)]
    among = [_distance(x, y) for x, y in combinations(predicted, 2)]
    spread = sum(among) / len(among) / 2 if among else 0.0
    return sum(apart) / len(apart) - spread


def _squares(volumes: Samples, bins: int) -> Float[Tensor, "samples values squares"]:
    """Return real and imaginary parts of all bins but 0 and cells, by square, compressed."""
    count, found, _, rows, columns = volumes.shape
    field = torch.view_as_real(volumes[:, 1:]).movedim(-1, 3).reshape(count, -1, rows, columns)
    field = functional.pad(field, (0, -columns % _SQUARE, 0, -rows % _SQUARE))
    squares = functional.unfold(field, _SQUARE, stride=_SQUARE)
    squares = squares / squares.norm(dim=1, keepdim=True).clamp(min=1e-6).sqrt()
    return functional.pad(squares, (0, 0, 0, 4 * (bins - found) * _SQUARE**2))


def _distance(x: Tensor, y: Tensor) -> float:
    return (x - y).norm(dim=0).mean().item()


def score_motion(samples: Samples, truth: Truth) -> dict[str, float]:
    """Return every score of samples, on the cells of the truth; NaN where one is undefined.

    - energy: see ``energy_score``.
    - where: area under the ROC curve of the predicted level, for cells that move.
    - amount: |log2| of predicted over true RMS where it moves; 1 is half or twice as much.
    - static: predicted RMS on still cells over the true RMS of moving ones.
    - spectrum: difference of the shapes of power spectra where it moves, in dB.
    - axes, phase: how far the agreement of neighbouring bins is from that of the truth.
    - flatness, halves: of scenes alone, see ``gidlite.evaluate.scenes``.
    """
    bins, moving = samples.shape[1], truth.moving
    wind = truth.winds[0, :bins]
    levels = torch.stack([motion_amplitude(one) for one in samples])
    scores = {"energy": energy_score(samples, truth.winds)}
    decided = (moving | truth.still) & truth.reliable
    scores["where"] = auc(levels.mean(0)[decided], moving[decided])
    level = truth.level[moving]
    floor = _FLOOR * level.square().mean().sqrt()
    amounts = levels[:, moving].square().mean(1).sqrt().clamp(min=floor.item())
    scores["amount"] = (amounts / level.square().mean().sqrt()).log2().abs().mean().item()
    scores["static"] = rms_ratio(levels[:, truth.still], level) if truth.still.any() else math.nan
    powers = [v[..., moving].abs().square().mean((-2, -1)) for v in (samples, wind)]
    scores["spectrum"] = log_spectral_distance(
        powers[0].mean(0), powers[1], match_level=True
    )  # fmt: skip
    masks = things(truth.level, truth.depth)
    scores["flatness"] = _mean([v for one in levels for v in flatness(one, truth.level, masks)])
    scores["halves"] = _mean([v for one in levels for v in halves(one, truth.level, masks)])

    def axes(volume: Tensor) -> float:
        return bin_agreement(volume, moving, double_angle=True)

    def phase(volume: Tensor) -> float:
        return phase_agreement(volume, moving, lag=_LAG)

    for name, measure in {"axes": axes, "phase": phase}.items():
        scores[name] = _mean([abs(measure(one) - measure(wind)) for one in samples])
    return scores


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
