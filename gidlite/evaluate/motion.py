"""Runs a prior on first frames of clips, or on synthetic scenes, and scores what it imagines.

The photo is the first frame, the truth the motion of what follows. A prediction cannot know the
wind of that day, so samples are compared with the observation as distributions, never pixel by
pixel in time.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from gidlite._checks import GidliteError
from gidlite.evaluate.baselines import SceneRidge, feature_grid, log_amplitude_cells
from gidlite.evaluate.scores import MOVING_PX, STATIC_PX, Case, MotionReport, MotionScores, compare
from gidlite.flow import motion_texture
from gidlite.media import probe_video, read_video
from gidlite.metrics import auc
from gidlite.motion_metrics import relative_difference
from gidlite.spectral import motion_to_spectral, resize_spectral, spectral_to_motion
from gidlite.synthesize import collect_pieces
from gidlite.synthetic import make_scenes

__all__ = ["Predictor", "Sampling", "evaluate_cases", "evaluate_motion", "evaluate_scenes"]

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

    scores, ridge = [], _WhereFromFeatures()
    for case in cases:
        advance()
        scores.append(_score_case(case, pipeline, sampling, advance))
        ridge.add(case)
    found = [
        replace(row, where_auc_features=value)
        for row, value in zip(scores, ridge.aucs(), strict=True)
    ]
    settings = {
        "model": pipeline.name, **asdict(sampling), "num_frames": pipeline.num_frames,
        "fps": pipeline.fps, "width": _WIDTH, "moving_px": MOVING_PX, "static_px": STATIC_PX,
    }  # fmt: skip
    return MotionReport(settings, found)


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
        where_auc_features=math.nan,
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
