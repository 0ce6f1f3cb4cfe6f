"""Cheap answers to "where would this photo move?", which a prior has to beat."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import collect_pieces
from gidlite.errors import GidliteError
from gidlite.evaluate import (
    auc,
    bin_agreement,
    correlation_length,
    log_spectral_distance,
    phase_agreement,
    relative_difference,
)
from gidlite.media.reader import probe_video, read_video
from gidlite.motion.flow import motion_texture
from gidlite.motion.spectral import (
    motion_amplitude,
    motion_to_spectral,
    resize_spectral,
    spectral_to_motion,
)

if TYPE_CHECKING:
    from rich.table import Table

    from gidlite.evaluate.scores import MotionReport
    from gidlite.evaluate.video import VideoReport

# Share of the shorter side that counts as border of a photo.
_BORDER = 1 / 16


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


_WIDTH = 256
# Scenes of an evaluation lie far from the seeds that training counts up from.
_HELD_OUT = 1 << 40
Progress = Callable[[int, int], None]


class Predictor(Protocol):
    """What is asked of a pipeline; its call returns something with ``.spectral``."""

    num_frames: int
    fps: float
    name: str

    def __call__(self, image: Tensor, **options: Any) -> Any:
        """Take ``num_inference_steps``, ``guidance_scale`` and ``generator``."""


@dataclass(frozen=True)
class Sampling:
    """How predictions are drawn.

    Attributes:
        samples: Predictions per photo, with seeds ``seed``, ``seed + 1``, …
        seed: First seed.
        steps: Solver steps.
        guidance: Weight of classifier-free guidance.

    Raises:
        GidliteError: If one is out of range.
    """

    samples: int = 8
    seed: int = 0
    steps: int = 12
    guidance: float = 0.0

    def __post_init__(self) -> None:
        least = {"samples": 1, "seed": 0, "steps": 1, "guidance": 0}
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= least[name]):
                raise GidliteError(f"{name} is {value}; it must be at least {least[name]}")


def evaluate_motion(
    clips: Iterable[str | Path],
    pipeline: Predictor,
    *,
    samples: int = 8,
    seed: int = 0,
    steps: int = 12,
    guidance: float = 0.0,
    progress: Progress | None = None,
) -> MotionReport:
    """Compare what a prior imagines from first frames with what the clips then show.

    Clips are read at 256 px wide, at the frame rate and for the period of the prior (30 fps and
    150 frames). Of a shorter clip, the prediction is looked at through the same short window.

    Args:
        clips: Videos with a still camera.
        pipeline: The prior.
        samples: Predictions per clip, with seeds ``seed``, ``seed + 1``, …
        seed: First seed.
        steps: Solver steps.
        guidance: Weight of classifier-free guidance.
        progress: Called with (units done, units in all).

    Raises:
        GidliteError: If an option is out of range, or a clip cannot be read or is shorter than a
            second.
    """
    sampling = Sampling(samples, seed, steps, guidance)
    paths = [Path(clip) for clip in clips]
    for path in paths:
        probe_video(path)  # refuse what is no video before minutes are spent on the others
    cases = _clip_cases(paths, pipeline)
    return evaluate_cases(cases, pipeline, count=len(paths), sampling=sampling, progress=progress)


def evaluate_scenes(
    count: int,
    pipeline: Predictor,
    *,
    sprites: str | Path | None = None,
    samples: int = 8,
    seed: int = 0,
    steps: int = 12,
    guidance: float = 0.0,
    progress: Progress | None = None,
) -> MotionReport:
    """Compare predictions with the exact motion of synthetic scenes, unseen in training.

    Args:
        count: Number of scenes.
        pipeline: The prior.
        sprites: Folder of photographic pieces, of which training may have seen some; painted
            ones, in which every piece is new, if not given.
        samples: Predictions per scene.
        seed: First seed of the predictions; the scenes are always the same.
        steps: Solver steps.
        guidance: Weight of classifier-free guidance.
        progress: Called with (units done, units in all).

    Raises:
        GidliteError: If an option is out of range or the pieces cannot be read.
    """
    sampling = Sampling(samples, seed, steps, guidance)
    cases = _scene_cases(count, sprites, pipeline)
    return evaluate_cases(cases, pipeline, count=count, sampling=sampling, progress=progress)


def _clip_cases(paths: list[Path], pipeline: Predictor) -> Iterator[Case]:
    for path in paths:
        clip = read_video(path, fps=pipeline.fps, width=_WIDTH, max_frames=pipeline.num_frames)
        if clip.seconds < 1:
            raise GidliteError(f"{path} is shorter than a second; motion needs a longer clip")
        observed = motion_texture(clip.frames)
        scene = re.sub(r"_([0-9]|[a-z])$", "", path.stem)
        photo = clip.frames[0].float() / 255
        yield Case(path.stem, scene, photo, observed.motion, observed.reliable)


def _scene_cases(count: int, sprites: str | Path | None, pipeline: Predictor) -> Iterator[Case]:
    sources = collect_pieces(sprites, seed=_HELD_OUT)
    for number in range(count):
        scenes = make_scenes(
            1, sources[number % len(sources)], num_frames=pipeline.num_frames, fps=pipeline.fps,
            generator=torch.Generator().manual_seed(_HELD_OUT + number),
        )  # fmt: skip
        motion, name = scenes.motion()[0], f"scene {number}"
        reliable = torch.ones(motion.shape[-2:], dtype=torch.bool)
        yield Case(name, name, scenes.photo[0], motion, reliable)


def evaluate_cases(
    cases: Iterable[Case],
    pipeline: Predictor,
    *,
    count: int,
    sampling: Sampling,
    progress: Progress | None = None,
) -> MotionReport:
    """Score a prior on cases, which are made and forgotten one at a time.

    Args:
        cases: Photos with their motion.
        pipeline: The prior.
        count: Number of cases.
        sampling: How predictions are drawn.
        progress: Called with (units done, units in all).

    Raises:
        GidliteError: If there is no case.
    """
    if count < 1:
        raise GidliteError("nothing to evaluate; give at least one clip or scene")
    units = count * (sampling.samples + 2)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, units)

    scores = []
    for case in cases:
        advance()
        scores.append(_score_case(case, pipeline, sampling, advance))
    settings = {
        "model": pipeline.name, **asdict(sampling), "num_frames": pipeline.num_frames,
        "fps": pipeline.fps, "width": _WIDTH, "moving_px": MOVING_PX, "static_px": STATIC_PX,
    }  # fmt: skip
    return MotionReport(settings, scores)


def _score_case(
    case: Case, pipeline: Predictor, sampling: Sampling, advance: Callable[[], None]
) -> MotionScores:
    """Predict a case with several seeds, and once more with the first; score it."""
    started = time.monotonic()
    seeds = [sampling.seed + number for number in range(sampling.samples)]
    volumes = []
    for seed in [*seeds, seeds[0]]:
        output = pipeline(
            case.photo, num_inference_steps=sampling.steps, guidance_scale=sampling.guidance,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        volumes.append(_like_observed(output.spectral, case.motion, pipeline.num_frames))
        advance()
    seconds = (time.monotonic() - started) / len(volumes)
    identical = torch.equal(volumes.pop(), volumes[0])
    return MotionScores(
        name=case.name,
        frames=len(case.motion),
        same_seed_identical=identical,
        seconds_per_sample=seconds,
        diversity=_diversity(volumes),
        **compare(case, torch.stack(volumes)),
    )


def _like_observed(spectral: Tensor, motion: Tensor, num_frames: int) -> Tensor:
    """Bring a prediction to the size of the observation and to its window of time."""
    height, width = motion.shape[-2:]
    spectral = resize_spectral(spectral, height=height, width=width)
    if len(motion) == num_frames:
        return spectral
    times = torch.arange(len(motion))
    seen = spectral_to_motion(spectral, num_frames=num_frames, times=times)
    bins = min(len(spectral), len(motion) // 2 + 1)
    return motion_to_spectral(seen, num_frequencies=bins)


def _diversity(volumes: list[Tensor]) -> float:
    """Return the mean relative difference of each sample from the next; NaN for one sample."""
    pairs = list(pairwise(volumes))
    return sum(relative_difference(*pair) for pair in pairs) / len(pairs) if pairs else math.nan


_TABLES = {
    "Where: AUC of the prior and of three baselines (chance 0.5); shares of pixels": {
        "prior": "where_auc",
        "colour": "where_auc_colour",
        "satur.": "where_auc_saturation",
        "centre": "where_auc_centre",
        "moving": "moving_fraction",
        "reliable": "reliable_fraction",
    },
    "How much: amplitude over observed, static over moving; which frequencies: distance in dB": {
        "amount": "amplitude_ratio",
        "static": "static_to_moving",
        "(real)": "static_to_moving_observed",
        "spectrum": "spectral_distance_db",
        "its shape": "spectral_shape_distance_db",
        "s/sample": "seconds_per_sample",
    },
    "Coherence: correlation length over observed, agreement of bins; diversity of seeds": {
        "length": "correlation_length_ratio",
        "axes": "bin_agreement",
        "(real)": "bin_agreement_observed",
        "phases": "phase_agreement",
        "(real) ": "phase_agreement_observed",
        "seeds": "diversity",
        "repeats": "same_seed_identical",
    },
}


def report_tables(report: MotionReport) -> list[Table]:
    """Return tables with a row per case and the medians last; undefined scores are "-"."""
    from rich.table import Table

    rows = [case.to_json() for case in report.cases] + [{"name": "median", **report.median()}]
    tables = []
    for title, columns in _TABLES.items():
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("")
        for heading in columns:
            table.add_column(heading, justify="right")
        for row in rows:
            style = "bold" if row is rows[-1] else None
            table.add_row(row["name"], *(_cell(row[key]) for key in columns.values()), style=style)
        tables.append(table)
    return tables


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else f"{value:.2f}"


_METRIC_TITLES = {
    "fid": "FID", "kid": "KID", "fvd": "FVD", "fvd32": "FVD_32", "dtfvd": "DT-FVD",
    "dtfvd32": "DT-FVD_32",
}  # fmt: skip


def video_tables(report: VideoReport) -> list[Table]:
    """Return a table of distances and, if there are curves, one with a column per window."""
    from rich.table import Table

    title = f"{report.fake_videos} videos against {report.real_videos} real ones"
    caption = "* fewer samples than features: biased upwards; compare equal numbers only"
    few = any(distance.few_samples for distance in report.distances)
    distances = Table(
        title=title, title_justify="left", box=None, pad_edge=False,
        caption=caption if few else None, caption_justify="left",
    )  # fmt: skip
    distances.add_column("")
    for heading in ("distance", "95 %", "real n", "n"):
        distances.add_column(heading, justify="right")
    distances.add_column("features")
    for row in report.distances:
        spread = "-" if row.low is None else f"{row.low:.4g} to {row.high:.4g}"
        if row.deviation is not None:
            spread = f"± {row.deviation:.4f}"
        star = "*" if row.few_samples else ""
        distances.add_row(
            _METRIC_TITLES[row.metric], f"{row.value:.4g}{star}", spread, str(row.real_samples),
            str(row.fake_samples), row.network,
        )  # fmt: skip
    return [distances, *(_curve_table(curve) for curve in report.curves)]


def _curve_table(curve: Any) -> Table:
    from rich.table import Table

    title = f"{_METRIC_TITLES[curve.metric]} in windows of {curve.window} frames, by first frame"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for start in curve.starts:
        table.add_column(str(start), justify="right")
    table.add_row(*(f"{value:.4g}" for value in curve.values))
    return table
