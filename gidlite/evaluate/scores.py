"""What is measured on one photo and its motion, and the report of many."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from statistics import median
from typing import Any

from jaxtyping import Bool, Complex, Float
from torch import Tensor

from gidlite.evaluate.baselines import photo_baselines
from gidlite.metrics import auc
from gidlite.motion_metrics import (
    bin_agreement,
    correlation_length,
    log_spectral_distance,
    phase_agreement,
)
from gidlite.spectral import motion_amplitude, motion_to_spectral

__all__ = ["MOVING_PX", "STATIC_PX", "Case", "MotionReport", "MotionScores", "compare"]

MOVING_PX, STATIC_PX = 0.25, 0.1


@dataclass(frozen=True)
class Case:
    """A photo and how it moved.

    Attributes:
        name: For the table.
        scene: Cases of one scene are never used to predict one another.
        photo: ``(3, H, W)`` in [0, 1].
        motion: ``(T, 2, H, W)`` px, observed by optical flow or exact.
        reliable: ``(H, W)`` bool, where ``motion`` can be trusted.
    """

    name: str
    scene: str
    photo: Tensor
    motion: Tensor
    reliable: Tensor

    @cached_property
    def amplitude(self) -> Float[Tensor, "height width"]:
        """RMS displacement about its mean in px, all frequencies."""
        return self.motion.var(dim=0, correction=0).sum(0).sqrt()

    @property
    def moving(self) -> Bool[Tensor, "height width"]:
        """Reliable pixels that move."""
        return (self.amplitude > MOVING_PX) & self.reliable

    @property
    def static(self) -> Bool[Tensor, "height width"]:
        """Reliable pixels that do not."""
        return (self.amplitude < STATIC_PX) & self.reliable


@dataclass(frozen=True)
class MotionScores:
    """Scores of one case; what is undefined is NaN. Amplitudes are RMS over time, in px.

    "Moving" and "static" are reliable pixels whose observed motion exceeds 0.25 px or stays under
    0.1 px at 256 wide. All but the AUCs and ``diversity`` look at moving pixels; spectra and
    amplitudes of the observation hold the bins that the prediction has.

    Attributes:
        name: Name of the clip or scene.
        frames: Frames observed.
        reliable_fraction: Share of pixels that are reliable.
        moving_fraction: Share of reliable pixels that move.
        where_auc: Mean predicted amplitude as a score for moving against other reliable pixels.
        where_auc_features: The same for ridge regression on photo features, other scenes seen.
        where_auc_colour: The same for distance from the mean colour of the photo's border.
        where_auc_saturation: The same for saturation.
        where_auc_centre: The same for closeness to the centre.
        amplitude_ratio: Predicted over observed amplitude.
        static_to_moving: Predicted amplitude on static over that on moving pixels.
        static_to_moving_observed: The same of the observation.
        spectral_distance_db: Log-spectral distance of the pooled power spectra.
        spectral_shape_distance_db: The same with the overall level removed.
        correlation_length_px: Of the predictions, median over samples.
        correlation_length_px_observed: Of the observation.
        correlation_length_ratio: The former over the latter.
        bin_agreement: Of directions at neighbouring bins; 0.64 if independent.
        bin_agreement_observed: The same of the observation.
        phase_agreement: Of phase steps between bins, over 8 px.
        phase_agreement_observed: The same of the observation.
        diversity: Relative RMS difference of samples; 0 equal, 1.41 unrelated.
        same_seed_identical: Whether the first seed gives the same volume again.
        seconds_per_sample: Time of one prediction.
    """

    name: str
    frames: int
    reliable_fraction: float
    moving_fraction: float
    where_auc: float
    where_auc_features: float
    where_auc_colour: float
    where_auc_saturation: float
    where_auc_centre: float
    amplitude_ratio: float
    static_to_moving: float
    static_to_moving_observed: float
    spectral_distance_db: float
    spectral_shape_distance_db: float
    correlation_length_px: float
    correlation_length_px_observed: float
    correlation_length_ratio: float
    bin_agreement: float
    bin_agreement_observed: float
    phase_agreement: float
    phase_agreement_observed: float
    diversity: float
    same_seed_identical: bool
    seconds_per_sample: float

    def to_json(self) -> dict[str, Any]:
        """Return the scores with None for what is undefined or infinite."""
        return {name: _or_none(value) for name, value in asdict(self).items()}


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class MotionReport:
    """Scores of every case and the settings that gave them."""

    settings: dict[str, Any]
    cases: list[MotionScores]

    def median(self) -> dict[str, Any]:
        """Return medians over the cases in which a score is defined; identical means in all."""
        rows = [case.to_json() for case in self.cases]
        result: dict[str, Any] = {}
        for field in fields(MotionScores)[1:]:
            values = [row[field.name] for row in rows if row[field.name] is not None]
            result[field.name] = _or_none(_median(values))
        result["same_seed_identical"] = all(case.same_seed_identical for case in self.cases)
        return result

    def to_json(self) -> dict[str, Any]:
        """Return what ``gidlite evaluate`` writes."""
        return {
            "format": "gidlite-motion-evaluation", "version": 1, "settings": self.settings,
            "cases": [case.to_json() for case in self.cases], "median": self.median(),
        }  # fmt: skip


def compare(
    case: Case, volumes: Complex[Tensor, "samples freq 2 height width"]
) -> dict[str, float]:
    """Return the scores of predictions that depend on the observation, by field name.

    Args:
        case: Photo and observed motion.
        volumes: Predictions in px of the observation's size, over the same window of time.
    """
    observed = motion_to_spectral(case.motion, num_frequencies=volumes.shape[1])
    moving, static, reliable = case.moving, case.static, case.reliable
    predicted, truth = motion_amplitude(volumes), motion_amplitude(observed)
    maps = {"": predicted.mean(0)}
    maps |= {f"_{name}": score for name, score in photo_baselines(case.photo).items()}
    scores = {
        f"where_auc{name}": auc(score[reliable], moving[reliable]) for name, score in maps.items()
    }
    return scores | {
        "reliable_fraction": reliable.float().mean().item(),
        "moving_fraction": moving.sum().item() / max(1, reliable.sum().item()),
        "amplitude_ratio": _ratio(_rms(predicted[:, moving]), _rms(truth[moving])),
        "static_to_moving": _ratio(_rms(predicted[:, static]), _rms(predicted[:, moving])),
        "static_to_moving_observed": _ratio(_rms(truth[static]), _rms(truth[moving])),
        **_compare_spectra(volumes[..., moving], observed[..., moving]),
        **_compare_coherence(volumes, observed, moving),
    }


def _compare_spectra(volumes: Tensor, observed: Tensor) -> dict[str, float]:
    """Return distances between power spectra pooled over the given pixels, (..., K, 2, N)."""
    if observed.shape[-1] == 0 or observed.shape[-3] < 2:
        return {"spectral_distance_db": math.nan, "spectral_shape_distance_db": math.nan}
    powers = [volumes.abs().square().mean((0, 2, 3)), observed.abs().square().mean((1, 2))]
    return {
        "spectral_distance_db": log_spectral_distance(*powers),
        "spectral_shape_distance_db": log_spectral_distance(*powers, match_level=True),
    }


def _compare_coherence(volumes: Tensor, observed: Tensor, moving: Tensor) -> dict[str, float]:
    """Return measures of coherence of predictions (median over samples) and observation."""
    scores = {}
    for name, measure in (
        ("correlation_length_px", correlation_length),
        ("bin_agreement", bin_agreement),
        ("phase_agreement", phase_agreement),
    ):
        scores[name] = _median([measure(volume, moving) for volume in volumes])
        scores[f"{name}_observed"] = measure(observed, moving)
    scores["correlation_length_ratio"] = _ratio(
        scores["correlation_length_px"], scores["correlation_length_px_observed"]
    )
    return scores


def _median(values: list[float]) -> float:
    """Return the median of the finite values; NaN if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return median(finite) if finite else math.nan


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom > 0 else math.nan
