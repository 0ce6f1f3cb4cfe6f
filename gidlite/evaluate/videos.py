"""Features of videos, streamed and kept on disk.

A recipe says which network sees what of a video. Results are stored under the hash of the video's
content and of the recipe: a run that was stopped goes on where it was, a video that changed is
computed anew, and what is in memory does not grow with the number of videos.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from gidlite.errors import GidliteError, writing, written
from gidlite.evaluate import (
    bootstrap_interval,
    frechet_distance,
    kernel_distance,
    moments_of,
    table,
)
from gidlite.evaluate.networks import LEAST_FRAMES, load_inception, load_kinetics_i3d, load_user_i3d
from gidlite.media.reader import stream_video

VIDEO_SUFFIXES = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}
_FORMAT = 1


def find_videos(folder: str | Path) -> list[Path]:
    """Return the videos in a folder, by name.

    Raises:
        GidliteError: If it is no folder or holds no video.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GidliteError(f"{folder} is not a folder; give a folder of videos")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    found = [path for path in found if path.is_file() and not path.name.startswith(".")]
    if not found:
        raise GidliteError(f"{folder} holds no video; put .mp4 files there")
    return found


@dataclass(frozen=True)
class Reading:
    """How every video is brought to the same form before a network sees it.

    Attributes:
        fps: Frames per second; the nearest frame in time is taken.
        width: Width in pixels, after scaling to cover and cutting the middle out.
        height: Height in pixels.
        max_frames: Frames beyond this are not looked at.
    """

    fps: float = 30.0
    width: int = 256
    height: int = 160
    max_frames: int = 150

    def frames(self, path: Path) -> Iterator[Tensor]:
        """Yield (3, H, W) uint8."""
        return stream_video(
            path, fps=self.fps, size=(self.height, self.width), max_frames=self.max_frames
        )


@dataclass(frozen=True)
class Frames:
    """Features of single frames: one in ``every``.

    Attributes:
        every: Distance of frames that are looked at.
    """

    every: int = 5
    least = 1
    batch = 8

    def collect(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield (3, H, W) frames."""
        return (frame for index, frame in enumerate(frames) if index % self.every == 0)


@dataclass(frozen=True)
class Clips:
    """Features of clips of consecutive frames.

    Attributes:
        length: Frames of a clip.
        step: Frames from the beginning of one clip to that of the next.
    """

    length: int = 16
    step: int = 16
    batch = 2

    @property
    def least(self) -> int:
        """Frames a video needs at least."""
        return self.length

    def collect(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield (T, 3, H, W) clips; a rest that is too short is left out."""
        recent: deque[Tensor] = deque(maxlen=self.length)
        for index, frame in enumerate(frames):
            recent.append(frame)
            begin = index + 1 - self.length
            if begin >= 0 and begin % self.step == 0:
                yield torch.stack(list(recent))


Recipe = Frames | Clips


@dataclass(frozen=True)
class FeatureStore:
    """A folder of features.

    Attributes:
        folder: Where they are kept; it can be removed at any time.
        reading: How videos are read.
        device: Where networks run.
    """

    folder: Path
    reading: Reading
    device: str = "cpu"

    def path(self, content: str, recipe: Recipe, label: str) -> Path:
        """Return where the features of a video with this content hash are kept."""
        what = [_FORMAT, asdict(self.reading), type(recipe).__name__, asdict(recipe), label]
        key = hashlib.sha256(json.dumps(what).encode()).hexdigest()
        return self.folder / f"{content[:24]}-{key[:16]}.safetensors"

    def features(
        self,
        videos: Sequence[Path],
        recipe: Recipe,
        network: nn.Module,
        *,
        done: Callable[[], None] = lambda: None,
    ) -> StoredFeatures:
        """Return the features of videos, computing those that are not kept yet.

        Args:
            videos: Files.
            recipe: What the network sees.
            network: With a ``label`` that names it and its weights.
            done: Called after each video.

        Raises:
            GidliteError: If a video cannot be read or is too short.
        """
        paths = []
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for video in videos:
            path = self.path(_content_hash(video), recipe, network.label)
            if _load(path) is None:
                self._save(path, self._compute(video, recipe, network))
            paths.append(path)
            done()
        return StoredFeatures(paths)

    def _compute(self, video: Path, recipe: Recipe, network: nn.Module) -> Tensor:
        found, batch = [], []
        for item in recipe.collect(self.reading.frames(video)):
            batch.append(item)
            if len(batch) == recipe.batch:
                found.append(self._run(network, batch))
                batch = []
        if batch:
            found.append(self._run(network, batch))
        if not found:
            raise GidliteError(
                f"{video} has fewer than {recipe.least} frames at {self.reading.fps:g} fps; "
                "leave it out or choose other metrics"
            )
        return torch.cat(found)

    def _run(self, network: nn.Module, batch: list[Tensor]) -> Tensor:
        return network(torch.stack(batch).to(self.device)).float().cpu()

    @staticmethod
    def _save(path: Path, features: Tensor) -> None:
        from safetensors.torch import save_file

        with written(path) as hidden:
            save_file({"features": features.contiguous()}, hidden)


def _content_hash(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _load(path: Path) -> Tensor | None:
    """Return kept features, or None if there are none or the file is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None


class StoredFeatures(Sequence[Tensor]):
    """Features of one video after the other, read from disk when asked for.

    Args:
        paths: Files of a ``FeatureStore``.
        rows: Which samples of each video; all if not given.
    """

    def __init__(self, paths: Sequence[Path], rows: slice | None = None) -> None:
        self.paths = list(paths)
        self.rows = rows or slice(None)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Tensor:
        if not 0 <= index < len(self.paths):
            raise IndexError(index)
        features = _load(self.paths[index])
        if features is None:
            raise GidliteError(f"{self.paths[index]} vanished or is damaged; run again")
        return features[self.rows]

    def window(self, first: int, last: int) -> StoredFeatures:
        """Return samples ``first`` to ``last - 1`` of the videos that have them all."""
        whole = [path for path in self.paths if len(_load(path)) >= last]
        return StoredFeatures(whole, slice(first, last))

    def thinned(self, limit: int) -> Tensor:
        """Return all samples, or evenly chosen ones if there are more than ``limit``."""
        total = sum(len(features) for features in self)
        if total == 0:
            raise GidliteError("there is no sample to compare")
        keep = torch.linspace(0, total - 1, min(limit, total)).round().long()
        chosen, seen = [], 0
        for features in self:
            inside = keep[(keep >= seen) & (keep < seen + len(features))] - seen
            chosen.append(features[inside])
            seen += len(features)
        return torch.cat(chosen)


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


_TITLES = {
    "fid": "FID", "kid": "KID", "fvd": "FVD", "fvd32": "FVD_32", "dtfvd": "DT-FVD",
    "dtfvd32": "DT-FVD_32",
}  # fmt: skip


def video_tables(report: VideoReport) -> list[Table]:
    """Return a table of distances and, if there are curves, one with a column per window."""
    title = f"{report.fake_videos} videos against {report.real_videos} real ones"
    note = "* fewer samples than features: biased upwards; compare equal numbers only"
    few = any(distance.few_samples for distance in report.distances)
    rows = []
    for row in report.distances:
        spread = None if row.low is None else f"{row.low:.4g} to {row.high:.4g}"
        if row.deviation is not None:
            spread = f"± {row.deviation:.4f}"
        value = f"{row.value:.4g}{'*' if row.few_samples else ''}"
        counts = row.real_samples, row.fake_samples
        rows.append((_TITLES[row.metric], value, spread, *counts, row.network))
    headings = ["", "distance", "95 %", "real n", "n", "features"]
    return [
        table(title, headings, rows, note=note if few else ""),
        *map(_curve_table, report.curves),
    ]


def _curve_table(curve: Curve) -> Table:
    name = _TITLES[curve.metric]
    title = f"{name} in windows of {curve.window} frames, by first frame"
    values = [f"{value:.4g}" for value in curve.values]
    return table(title, ["", *map(str, curve.starts)], [[name, *values]])
