"""Distances between two folders of videos: FID, KID, FVD, and how they change along the videos.

FID and KID look at single frames, FVD at clips of 16 frames, FVD_32 of 32. DT-FVD is FVD with an
I3D trained on dynamic textures, whose weights are not public: it exists only with weights that the
user brings. A sliding window shows whether videos decay: each point compares the same stretch of
the real and of the other videos.

Reference:
    Li et al. 2024, section on evaluation: these metrics, and windows of 30 frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gidlite._checks import GidliteError
from gidlite.distances import (
    bootstrap_interval,
    frechet_distance,
    kernel_distance,
    moments_of,
)
from gidlite.evaluate.features import (
    Clips,
    FeatureStore,
    Frames,
    Reading,
    StoredFeatures,
    find_videos,
)
from gidlite.networks import load_inception, load_kinetics_i3d, load_user_i3d
from gidlite.networks.i3d import LEAST_FRAMES

__all__ = ["METRICS", "Curve", "VideoDistance", "VideoReport", "VideoSettings", "evaluate_videos"]

# What each metric is computed from: the network, and the frames of a clip (0 for single frames).
METRICS = {
    "fid": ("inception", 0), "kid": ("inception", 0),
    "fvd": ("i3d", 16), "fvd32": ("i3d", 32),
    "dtfvd": ("textures", 16), "dtfvd32": ("textures", 32),
}  # fmt: skip
# KID keeps all features in memory; beyond this many, evenly chosen ones.
_KID_ROWS = 10_000
_KID_SUBSET = 1000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class VideoSettings:
    """What is measured.

    Attributes:
        metrics: Names out of ``METRICS``.
        every: FID and KID look at one frame in this many.
        window: Frames of the sliding window, moved by half of it; 0 for no sliding window.
        draws: Resamples of the bootstrap; 0 for no intervals.
        seed: Of the bootstrap and of the subsets of KID.
        reading: How videos are read.

    Raises:
        GidliteError: If a metric is unknown or a number is out of range.
    """

    metrics: tuple[str, ...] = ("fid", "kid", "fvd", "fvd32")
    every: int = 5
    window: int = 0
    draws: int = 100
    seed: int = 0
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown or not self.metrics:
            raise GidliteError(f"metrics are some of {', '.join(METRICS)}, not {unknown or 'none'}")
        least = {"every": 1, "window": 0, "draws": 0, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise GidliteError(f"{name} must be at least {value}, got {getattr(self, name)}")
        if 0 < self.window < LEAST_FRAMES:
            raise GidliteError(f"window must be 0 or at least {LEAST_FRAMES}, got {self.window}")
        frames = {"fps": 1, "width": 16, "height": 16, "max_frames": 1}
        for name, value in frames.items():
            if not value <= getattr(self.reading, name) < 1e5:
                raise GidliteError(
                    f"{name} must be at least {value}, got {getattr(self.reading, name)}"
                )


@dataclass(frozen=True)
class VideoDistance:
    """One number and what it rests on.

    Attributes:
        metric: Name out of ``METRICS``.
        value: The distance.
        low: Lower end of the 95 % bootstrap interval over videos, if there is one.
        high: Upper end.
        deviation: Of KID, the standard deviation over subsets of 1000, if there are more samples.
        real_samples: Frames or clips on the real side.
        fake_samples: The same on the other side.
        num_features: Length of a feature vector.
        network: The feature network and the precision of its weights.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    deviation: float | None
    real_samples: int
    fake_samples: int
    num_features: int
    network: str

    @property
    def few_samples(self) -> bool:
        """Whether the distance is mostly the bias of few samples; KID has none."""
        fewest = min(self.real_samples, self.fake_samples)
        return self.metric != "kid" and fewest <= self.num_features


@dataclass(frozen=True)
class Curve:
    """A Fréchet distance in windows along the videos.

    Attributes:
        metric: "fid", "fvd" or "dtfvd", over clips as long as the window.
        window: Frames of a window.
        starts: First frame of each window.
        values: Distance in each window.
        real_samples: Frames or clips in each window on the real side.
        fake_samples: The same on the other side.
        network: The feature network and the precision of its weights.
    """

    metric: str
    window: int
    starts: list[int]
    values: list[float]
    real_samples: list[int]
    fake_samples: list[int]
    network: str


@dataclass(frozen=True)
class VideoReport:
    """All distances and curves, and the settings that gave them."""

    settings: VideoSettings
    real_videos: int
    fake_videos: int
    distances: list[VideoDistance]
    curves: list[Curve]

    def to_json(self) -> dict[str, Any]:
        """Return what ``gidlite evaluate video`` writes."""
        return {
            "format": "gidlite-video-evaluation", "version": 1, "settings": asdict(self.settings),
            "real_videos": self.real_videos, "fake_videos": self.fake_videos,
            "distances": [asdict(distance) for distance in self.distances],
            "curves": [asdict(curve) for curve in self.curves],
        }  # fmt: skip


def evaluate_videos(
    real: str | Path,
    fake: str | Path,
    *,
    settings: VideoSettings | None = None,
    cache: str | Path,
    weights: str | Path | None = None,
    texture_weights: str | Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> VideoReport:
    """Compare a folder of videos with a folder of real ones.

    Args:
        real: Folder of real videos.
        fake: Folder of the others.
        settings: What is measured. Metrics that need ``texture_weights`` must have them.
        cache: Folder in which features are kept: a stopped run goes on where it was.
        weights: Folder of the feature networks; see ``gidlite.networks.weights_folder``.
        texture_weights: I3D trained on dynamic textures, safetensors, for DT-FVD.
        device: Where networks run.
        progress: Called with (videos done, videos in all) over all passes.

    Raises:
        GidliteError: If a folder has no videos, a video cannot be read or is too short, or
            weights are missing.
    """
    settings = settings or VideoSettings()
    videos = {"real": find_videos(real), "fake": find_videos(fake)}
    networks = _load_networks(settings, weights, texture_weights, device)
    store = FeatureStore(Path(cache), settings.reading, device)
    passes = _passes(settings)
    total = len(passes) * sum(map(len, videos.values()))
    counted = 0

    def done() -> None:
        nonlocal counted
        counted += 1
        if progress is not None:
            progress(counted, total)

    stored = {
        (name, recipe): tuple(
            store.features(side, recipe, networks[name], done=done) for side in videos.values()
        )
        for name, recipe in passes
    }
    distances = [
        _distance(
            metric, settings, networks[METRICS[metric][0]], *stored[_source(metric, settings)]
        )
        for metric in settings.metrics
    ]
    curves = _curves(settings, networks, stored) if settings.window else []
    return VideoReport(settings, *map(len, videos.values()), distances, curves)


def _load_networks(
    settings: VideoSettings, weights: str | Path | None, textures: str | Path | None, device: str
) -> dict[str, nn.Module]:
    needed = {METRICS[metric][0] for metric in settings.metrics}
    if "textures" in needed and textures is None:
        raise GidliteError(
            "DT-FVD needs an I3D trained on dynamic textures, whose weights are not public; "
            "give yours as safetensors, or measure fvd instead"
        )
    networks: dict[str, nn.Module] = {}
    if "inception" in needed:
        networks["inception"] = load_inception(weights)
    if "i3d" in needed:
        networks["i3d"] = load_kinetics_i3d(weights)
    if textures is not None and "textures" in needed:
        networks["textures"] = load_user_i3d(textures)
    try:
        return {name: network.to(device) for name, network in networks.items()}
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise GidliteError(f"device {device!r} cannot be used: {reason}") from error


def _source(metric: str, settings: VideoSettings) -> tuple[str, Frames | Clips]:
    """Return which features a metric is computed from."""
    network, length = METRICS[metric]
    return network, Clips(length, length) if length else Frames(settings.every)


def _window_source(metric: str, settings: VideoSettings) -> tuple[str, Frames | Clips]:
    """Return which features the curve of a metric is computed from."""
    network, length = METRICS[metric]
    if length == 0:
        return _source(metric, settings)
    return network, Clips(settings.window, max(1, settings.window // 2))


def _curve_metrics(settings: VideoSettings) -> list[str]:
    """Return one metric per network that has a curve."""
    return [metric for metric in ("fid", "fvd", "dtfvd") if metric in settings.metrics]


def _passes(settings: VideoSettings) -> list[tuple[str, Frames | Clips]]:
    passes = [_source(metric, settings) for metric in settings.metrics]
    if settings.window:
        passes += [_window_source(metric, settings) for metric in _curve_metrics(settings)]
    return list(dict.fromkeys(passes))


def _distance(
    metric: str, settings: VideoSettings, network: nn.Module, real: StoredFeatures,
    fake: StoredFeatures,
) -> VideoDistance:  # fmt: skip
    result = VideoDistance(
        metric=metric, value=0.0, low=None, high=None, deviation=None,
        real_samples=sum(map(len, real)), fake_samples=sum(map(len, fake)),
        num_features=real[0].shape[-1], network=network.label,
    )  # fmt: skip
    if metric == "kid":
        rows = [side.thinned(_KID_ROWS) for side in (real, fake)]
        value, deviation = kernel_distance(*rows, seed=settings.seed, subset_size=_KID_SUBSET)
        whole = max(map(len, rows)) <= _KID_SUBSET  # then every subset is the same
        return replace(result, value=value, deviation=None if whole else deviation)
    result = replace(result, value=frechet_distance(moments_of(real), moments_of(fake)))
    if settings.draws == 0 or min(len(real), len(fake)) < 3:
        return result
    generator = torch.Generator().manual_seed(settings.seed)
    interval = bootstrap_interval(real, fake, draws=settings.draws, generator=generator)
    return replace(result, low=interval.low, high=interval.high)


def _curves(
    settings: VideoSettings, networks: dict[str, nn.Module], stored: dict[Any, Any]
) -> list[Curve]:
    curves = []
    for metric in _curve_metrics(settings):
        name, recipe = _window_source(metric, settings)
        curve = Curve(metric, settings.window, [], [], [], [], networks[name].label)
        for start in range(0, settings.reading.max_frames, max(1, settings.window // 2)):
            rows = _rows(recipe, start, settings.window)
            sides = [side.window(*rows) for side in stored[name, recipe]]
            counts = [len(side) * (rows[1] - rows[0]) for side in sides]
            if start + settings.window > settings.reading.max_frames or min(counts) < 2:
                break
            curve.starts.append(start)
            curve.values.append(frechet_distance(*map(moments_of, sides)))
            curve.real_samples.append(counts[0])
            curve.fake_samples.append(counts[1])
        curves.append(curve)
    return curves


def _rows(recipe: Frames | Clips, start: int, window: int) -> tuple[int, int]:
    """Return the first feature inside a window and the first one beyond it."""
    if isinstance(recipe, Clips):
        return start // recipe.step, start // recipe.step + 1
    return -(-start // recipe.every), -(-(start + window) // recipe.every)
