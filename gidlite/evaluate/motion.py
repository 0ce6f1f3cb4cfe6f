"""What a prior imagines from photos against what real clips then show."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float
from rich.table import Table
from torch import Tensor

from gidlite import evaluate as measures
from gidlite.data.splits import check_seed, place_of
from gidlite.errors import GidliteError, require
from gidlite.media.video import read_video
from gidlite.motion import flow, spectral

# Amplitudes at 256 px wide above which a pixel moves, and below which it is static.
MOVING_PX, STATIC_PX = 0.25, 0.1
_WIDTH = 256
# Titles of tables, and for each of their scores a heading; other scores are in the report alone.
_TABLES = {
    "Where: AUC of the prior and of three baselines (chance 0.5); shares of pixels": {
        "where_auc": "prior", "where_auc_colour": "colour", "where_auc_saturation": "satur.",
        "where_auc_centre": "centre", "moving_fraction": "moving", "reliable_fraction": "reliable",
    },
    "How much: amplitude over observed, static over moving; which frequencies: distance in dB": {
        "amplitude_ratio": "amount", "static_to_moving": "static",
        "static_to_moving_observed": "(real)", "spectral_distance_db": "spectrum",
        "spectral_shape_distance_db": "its shape", "seconds_per_sample": "s/sample",
    },
    "Coherence: correlation length over observed, agreement of bins; diversity of seeds": {
        "correlation_length_ratio": "length", "bin_agreement": "axes",
        "bin_agreement_observed": "(real)", "phase_agreement": "phases",
        "phase_agreement_observed": "(real)", "diversity": "seeds",
        "same_seed_identical": "repeats",
    },
}  # fmt: skip
_COHERENCE_MEASURES = {
    "correlation_length_px": measures.correlation_length,
    "bin_agreement": measures.bin_agreement,
    "phase_agreement": measures.phase_agreement,
}
Map = Float[Tensor, "height width"]
Mask = Bool[Tensor, "height width"]
Volumes = Complex[Tensor, "samples freq 2 height width"]
# A pipeline, or what answers like one and has its ``num_frames``, ``fps`` and ``name``.
Predictor = Callable[..., Any]
Progress = Callable[[int, int], None] | None  # of (predictions done, predictions in all)


@dataclass(frozen=True)
class Draws:
    """How predictions are drawn: ``samples`` per photo, with seeds ``seed``, ``seed + 1``, …

    ``steps`` are those of the solver, ``guidance`` is the weight of classifier-free guidance.
    """

    samples: int = 8
    seed: int = 0
    steps: int = 12
    guidance: float = 0.0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name, ends in {"samples": (1, 1000), "steps": (1, 500), "guidance": (0, 1000)}.items():
            (least, most), value = ends, getattr(self, name)
            limits = f"{name} is {value}; it must lie between {least} and {most}"
            require(least <= value <= most, limits)


@dataclass(frozen=True)
class Case:
    """A photo in [0, 1] and how it moved, in px; ``reliable`` is where that can be trusted."""

    name: str
    photo: Float[Tensor, "3 height width"]
    motion: Float[Tensor, "time 2 height width"]
    reliable: Mask

    @cached_property
    def amplitude(self) -> Map:
        """RMS displacement about its mean in px, all frequencies."""
        return self.motion.var(dim=0, correction=0).sum(0).sqrt()

    @property
    def moving(self) -> Mask:
        """Reliable pixels that move."""
        return (self.amplitude > MOVING_PX) & self.reliable


def clip_case(path: str | Path, *, fps: float, num_frames: int, name: str = "") -> Case:
    """Read a clip of a second at least, at 256 px wide, and follow its pixels by optical flow."""
    clip = read_video(path, fps=fps, width=_WIDTH, max_frames=num_frames)
    require(clip.seconds >= 1, f"{path} is shorter than a second; motion needs a longer clip")
    observed = flow.motion_texture(clip.frames)
    photo = clip.frames[0].float() / 255
    return Case(name or Path(path).stem, photo, observed.motion, observed.reliable)


@dataclass(frozen=True)
class MotionReport:
    """Scores of every case by name, the settings that gave them, and why clips were left out.

    What is undefined is None. ``where_auc`` says how well predicted amplitude tells moving from
    other reliable pixels, ``where_auc_*`` how well baselines do. The others but ``diversity`` look
    at pixels that move: ``*_ratio`` is predicted over observed, ``static_to_moving`` the amplitude
    where nothing moves over that where something does, ``spectral_shape_distance_db`` that of
    spectra at one level. ``*_observed`` is the truth at the predicted bins. Bins agree by 0.64 if
    independent, samples have ``diversity`` 0 if equal and 1.41 if unrelated.
    """

    settings: dict[str, Any]
    cases: list[dict[str, Any]]
    failed: dict[str, str] = field(default_factory=dict)

    def median(self) -> dict[str, Any]:
        """Return medians over the cases in which a score is defined; identical means in all."""
        scores = {n: [case[n] for case in self.cases] for n in self.cases[0] if n != "name"}
        medians = {name: _or_none(_median(values)) for name, values in scores.items()}
        return medians | {"same_seed_identical": all(scores["same_seed_identical"])}

    @cached_property
    def support(self) -> dict[str, dict[str, Any]]:
        """What medians rest on: the ``clips`` and ``places`` that have a score; ``low``, ``high``.

        A 95 % interval by bootstrap over places, with all their clips; None of fewer than three.
        """
        found, middle, seed = {}, partial(torch.quantile, q=0.5), self.settings["seed"]
        for name in [n for n in self.cases[0] if n not in ("name", "same_seed_identical")]:
            places = defaultdict(list)
            for case in [case for case in self.cases if case[name] is not None]:
                places[place_of(case["name"])].append(case[name])
            values = [torch.tensor(scores, dtype=torch.float64) for scores in places.values()]
            ends = measures.interval_over(values, middle, seed) if len(values) > 2 else (None, None)
            counts = {"clips": sum(map(len, values)), "places": len(values)}
            found[name] = {"low": ends[0], "high": ends[1], **counts}
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what ``gidlite evaluate`` writes."""
        head = {"format": "gidlite-motion-evaluation", "version": 1}
        return head | asdict(self) | {"median": self.median(), "support": self.support}


def report_tables(report: MotionReport) -> list[Table]:
    """Return tables with a row per case, then medians and what they rest on; one of what failed."""
    rows, tables = [*report.cases, {"name": "median", **report.median()}], []
    for kind in ("95 % low", "95 % high", "clips", "places"):
        ends = {name: on[kind.removeprefix("95 % ")] for name, on in report.support.items()}
        rows.append({"name": kind, **ends})
    for title, headings in _TABLES.items():
        cells = [[row["name"], *map(row.get, headings)] for row in rows]
        tables.append(measures.table(title, ["", *headings.values()], cells, bold="median"))
    if report.failed:
        tables.append(measures.table("Left out", ["", "because"], list(report.failed.items())))
    return tables


def photo_baselines(image: Float[Tensor, "3 height width"]) -> dict[str, Map]:
    """Return maps that need no learning; larger means "moves".

    They are the distance from the mean colour of the border (a sixteenth of the shorter side), the
    largest minus the smallest channel, and minus the squared distance from the centre, sides at ±1.
    """
    height, width = image.shape[-2:]
    edge = max(1, round(min(height, width) / 16))
    border = torch.ones(height, width, dtype=torch.bool)
    border[edge:-edge, edge:-edge] = False
    x, y = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)[:, None]
    return {
        "colour": (image - image[:, border].mean(1)[:, None, None]).norm(dim=0),
        "saturation": image.amax(0) - image.amin(0), "centre": -(x**2 + y**2),
    }  # fmt: skip


def evaluate_motion(
    clips: Sequence[str | Path], pipeline: Predictor, *,
    draws: Draws | None = None, progress: Progress = None,
) -> MotionReport:  # fmt: skip
    """Compare what a prior imagines from first frames with what clips of a still camera then show.

    Clips are read at the frame rate and for the period of the prior (30 fps and 150 frames);
    predictions for shorter ones are looked at through the same window. A clip that cannot be used
    is left out, and the report says why; a GidliteError is raised if none can.
    """
    failed: dict[str, str] = {}

    clip = {"fps": pipeline.fps, "num_frames": pipeline.num_frames}
    paths = dict.fromkeys(map(Path, clips))
    stems = Counter(path.stem for path in paths)

    def usable() -> Iterator[Case]:
        for path in paths:
            try:
                case = clip_case(path, name="" if stems[path.stem] == 1 else str(path), **clip)
            except GidliteError as error:
                failed[str(path)] = str(error)
            else:
                yield case

    report = evaluate_cases(usable(), pipeline, count=len(paths), draws=draws, progress=progress)
    if not report.cases:
        raise GidliteError(next(iter(failed.values())))
    return replace(report, failed=failed)


def evaluate_cases(
    cases: Iterable[Case], pipeline: Predictor, *, count: int,
    draws: Draws | None = None, progress: Progress = None,
) -> MotionReport:  # fmt: skip
    """Score a prior on ``count`` cases, which are made and forgotten one at a time."""
    require(count >= 1, "nothing to evaluate; give at least one clip")
    draws, scores = draws or Draws(), []
    seeds = [*range(draws.seed, draws.seed + draws.samples), draws.seed]
    for case in cases:
        started, volumes = time.monotonic(), []
        for seed in seeds:
            output = pipeline(
                case.photo, num_inference_steps=draws.steps, guidance_scale=draws.guidance,
                generator=torch.Generator().manual_seed(seed),
            )  # fmt: skip
            volumes.append(like_observed(output.spectral, case.motion, pipeline.num_frames))
            if progress:
                progress(len(scores) * len(seeds) + len(volumes), count * len(seeds))
        seconds = (time.monotonic() - started) / len(seeds)
        again = volumes.pop()  # has the seed of the first
        differences = [measures.relative_difference(*pair) for pair in pairwise(volumes)]
        found = {
            "name": case.name, "frames": len(case.motion), **compare(case, torch.stack(volumes)),
            "diversity": fmean(differences) if differences else None,
            "seconds_per_sample": seconds, "same_seed_identical": torch.equal(again, volumes[0]),
        }  # fmt: skip
        scores.append({name: _or_none(value) for name, value in found.items()})
    settings = {
        "model": pipeline.name, **asdict(draws), "num_frames": pipeline.num_frames,
        "fps": pipeline.fps, "width": _WIDTH, "moving_px": MOVING_PX, "static_px": STATIC_PX,
    }  # fmt: skip
    return MotionReport(settings, scores)


def like_observed(volume: Tensor, motion: Tensor, num_frames: int) -> Tensor:
    """Bring a prediction to the size of the observation and to its window of time."""
    frames, _, height, width = motion.shape
    volume = spectral.resize_spectral(volume, height=height, width=width)
    if frames == num_frames:
        return volume
    seen = spectral.spectral_to_motion(volume, num_frames=num_frames, times=torch.arange(frames))
    return spectral.motion_to_spectral(seen, num_frequencies=min(len(volume), frames // 2 + 1))


def compare(case: Case, volumes: Volumes) -> dict[str, float]:
    """Return the scores of predictions, over the pixels and time of the truth, by field name."""
    observed = spectral.motion_to_spectral(case.motion, num_frequencies=volumes.shape[1])
    moving, reliable = case.moving, case.reliable
    static = (case.amplitude < STATIC_PX) & reliable
    predicted, truth = map(spectral.motion_amplitude, (volumes, observed))
    predicted_power = volumes[..., moving].abs().square().mean((0, 2, 3))
    powers = predicted_power, observed[..., moving].abs().square().mean((1, 2))
    scores = {
        "reliable_fraction": reliable.float().mean().item(),
        "moving_fraction": moving.sum().item() / max(1, reliable.sum().item()),
        "amplitude_ratio": rms_ratio(predicted[:, moving], truth[moving]),
        "static_to_moving": rms_ratio(predicted[:, static], predicted[:, moving]),
        "static_to_moving_observed": rms_ratio(truth[static], truth[moving]),
        "spectral_distance_db": measures.log_spectral_distance(*powers),
        "spectral_shape_distance_db": measures.log_spectral_distance(*powers, match_level=True),
    }
    maps = {"where_auc": predicted.mean(0)}
    maps |= {f"where_auc_{name}": score for name, score in photo_baselines(case.photo).items()}
    for name, score in maps.items():
        scores[name] = measures.auc(score[reliable], moving[reliable])
    for name, measure in _COHERENCE_MEASURES.items():
        scores[name] = _median([measure(volume, moving) for volume in volumes])
        scores[f"{name}_observed"] = measure(observed, moving)
    ratio = scores["correlation_length_px"] / scores["correlation_length_px_observed"]
    return scores | {"correlation_length_ratio": ratio}


def rms_ratio(top: Float[Tensor, "*_"], bottom: Float[Tensor, "*_"]) -> float:
    """Return the RMS of some values over that of others; NaN over nothing."""
    first, second = (values.square().mean().sqrt().item() for values in (top, bottom))
    return first / second if second > 0 else math.nan


def _median(values: list[float | None]) -> float:
    """Return the median of the finite values; NaN if there are none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return median(finite) if finite else math.nan


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
