"""FID, KID, FVD and DT-FVD between two folders of videos.

Features of every video are kept on disk under the hash of its content and of how it was looked at:
a run that was stopped goes on where it was, a video that changed is computed anew, and memory does
not grow with the number of videos.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gidlite import evaluate as measures
from gidlite.data.splits import check_seed
from gidlite.errors import all_finite, check_device, check_output, require, written
from gidlite.evaluate.networks import LEAST_FRAMES, load_published, load_user_i3d
from gidlite.media.video import find_videos, stream_video


@dataclass(frozen=True)
class Reading:
    """How videos are read: at ``fps`` Hz, scaled to cover ``width`` × ``height`` px and cropped."""

    fps: float = 30.0
    width: int = 256
    height: int = 160
    max_frames: int = 150

    def frames(self, path: Path) -> Iterator[Tensor]:
        """Yield (3, H, W) uint8."""
        size = (self.height, self.width)
        return stream_video(path, fps=self.fps, size=size, max_frames=self.max_frames)


@dataclass(frozen=True)
class Clips:
    """Consecutive frames that a network looks at together; a new clip begins every ``step``."""

    length: int = 16
    step: int = 16

    def collect(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield (T, 3, H, W), or (3, H, W) if T is 1; a rest that is too short is left out."""
        recent: deque[Tensor] = deque(maxlen=self.length)
        for begin, frame in enumerate(frames, start=1 - self.length):
            recent.append(frame)
            if begin >= 0 and begin % self.step == 0:
                yield frame if self.length == 1 else torch.stack(list(recent))


@dataclass(frozen=True)
class FeatureStore:
    """Features in a folder, which can be removed at any time."""

    folder: Path
    reading: Reading

    def features(self, videos: Iterable[Path], clips: Clips, network: nn.Module) -> StoredFeatures:
        """Return features, computing those not kept yet; ``network.label`` tells networks apart."""
        looked_at = [
            2,
            asdict(self.reading),
            asdict(clips),
            network.label,
        ]  # 2: format of the files
        key, paths = json.dumps(looked_at).encode(), []
        for video in videos:
            content, how = (hashlib.sha256(x).hexdigest() for x in (video.read_bytes(), key))
            path = self.folder / f"{content[:24]}-{how[:16]}.safetensors"
            if _load(path) is None:
                check_output(path)
                features = self._compute(video, clips, network)
                fault = f"{network.label} finds values of {video} that are not finite"
                require(all_finite(features), f"{fault}; leave it out, or use other weights")
                with written(path) as hidden:
                    save_file({"features": features}, hidden)
            paths.append(path)
        return StoredFeatures(paths, network.label)

    def _compute(self, video: Path, clips: Clips, network: nn.Module) -> Tensor:
        device = next((weight.device for weight in network.parameters()), "cpu")
        samples, found = clips.collect(self.reading.frames(video)), []
        while batch := list(islice(samples, 8 if clips.length == 1 else 2)):
            found.append(network(torch.stack(batch).to(device)).float().cpu())
        short = f"{video} has fewer than {clips.length} frames at {self.reading.fps:g} fps"
        require(bool(found), f"{short}; leave it out or choose other metrics")
        return torch.cat(found)


def _load(path: Path) -> Tensor | None:
    """Return kept features, or None if there are none or the file is damaged."""
    try:
        features = load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):
        return None
    return features if features.ndim == 2 and all_finite(features) else None


@dataclass(frozen=True)
class StoredFeatures(Sequence[Tensor]):
    """Features of one video after the other, read when asked for."""

    paths: list[Path]
    label: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        features = _load(self.paths[index])
        require(features is not None, f"{self.paths[index]} vanished or is damaged; run again")
        return features

    def thinned(self, limit: int) -> Tensor:
        """Return all samples, or evenly chosen ones if there are more than ``limit``."""
        total, place = sum(map(len, self)), count()
        keep = set(torch.linspace(0, total - 1, min(limit, total)).round().long().tolist())
        return torch.cat([f[[next(place) in keep for _ in f]] for f in self])


Sides = list[StoredFeatures]  # of the real videos and of the others
# The network of each metric, the frames of the clips that it looks at, and a title.
METRICS = {
    "fid": ("inception", 1, "FID"), "kid": ("inception", 1, "KID"),
    "fvd": ("i3d", 16, "FVD"), "fvd32": ("i3d", 32, "FVD_32"),
    "dtfvd": ("textures", 16, "DT-FVD"), "dtfvd32": ("textures", 32, "DT-FVD_32"),
}  # fmt: skip
# KID keeps all features in memory; beyond so many, evenly chosen ones.
_KID_ROWS, _KID_SUBSET = 10_000, 1000


@dataclass(frozen=True)
class VideoSettings:
    """What is measured: FID and KID on one frame in ``every``.

    ``window`` is the length in frames of a sliding window that moves by half of it, ``draws`` the
    number of bootstrap resamples; 0 for none. ``seed`` is also that of the subsets of KID.
    """

    metrics: tuple[str, ...] = ("fid", "kid", "fvd", "fvd32")
    every: int = 5
    window: int = 0
    draws: int = 100
    seed: int = 0
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        known = f"metrics are some of {', '.join(METRICS)}, not {unknown or 'none'}"
        require(bool(self.metrics) and not unknown, known)
        check_seed(self.seed)
        most = {"window": self.reading.max_frames, "width": 2048, "height": 2048, "fps": 1000}
        least = {"every": 1, "draws": 0, "fps": 1, "width": 16, "height": 16, "max_frames": 1}
        least["window"] = LEAST_FRAMES if self.window else 0
        given = asdict(self) | asdict(self.reading)
        for name, value in least.items():
            limits = f"{value} and {most.get(name, 99_999)}"
            fits = value <= given[name] <= most.get(name, 99_999)
            require(fits, f"{name} is {given[name]}; it must lie between {limits}")
        longest = max(METRICS[name][1] for name in self.metrics)
        short = f"max_frames is {self.reading.max_frames}, and a clip of the metrics has {longest}"
        require(longest <= self.reading.max_frames, f"{short}; read more, or choose other metrics")

    def clips(self, metric: str, *, curve: bool = False) -> Clips:
        """Return what the network of a metric looks at, for its distance or its curve."""
        if (length := METRICS[metric][1]) == 1:
            return Clips(1, self.every)
        return Clips(self.window, self.window // 2) if curve else Clips(length, length)


def load_networks(
    metrics: Iterable[str], *, weights: str | Path | None = None,
    textures: str | Path | None = None, device: str = "cpu",
) -> dict[str, nn.Module]:  # fmt: skip
    """Return the networks of metrics by name; ``textures`` is the file of a user's own I3D."""
    check_device(device)
    names = {METRICS[metric][0] for metric in metrics}
    needs = "DT-FVD needs an I3D trained on dynamic textures, whose weights are not public"
    advice = "give yours as safetensors, or measure fvd instead"
    require("textures" not in names or textures is not None, f"{needs}; {advice}")
    found = {name: load_published(name, weights) for name in sorted(names - {"textures"})}
    if "textures" in names:
        found["textures"] = load_user_i3d(textures)
    return {name: network.to(device) for name, network in found.items()}


@dataclass(frozen=True)
class VideoDistance:
    """A distance, its 95 % interval over videos, and KID's deviation over subsets, where known."""

    metric: str
    value: float
    low: float | None
    high: float | None
    deviation: float | None
    real_samples: int
    fake_samples: int
    num_features: int
    network: str


@dataclass(frozen=True)
class Curve:
    """A Fréchet distance in windows along the videos, of clips as long as the window."""

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
        return {"format": "gidlite-video-evaluation", "version": 1, **asdict(self)}


def videos_in(folder: str | Path) -> list[Path]:
    """Return the videos in a folder, searched deeply, without hidden files."""
    require(Path(folder).is_dir(), f"{folder} is not a folder; give a folder of videos")
    return [path for path, _ in find_videos([folder])]


def evaluate_videos(
    real: str | Path, fake: str | Path, networks: dict[str, nn.Module], *, cache: str | Path,
    settings: VideoSettings | None = None, progress: Callable[[int, int], None] | None = None,
) -> VideoReport:  # fmt: skip
    """Compare a folder of videos with a folder of real ones; ``networks`` as ``load_networks``.

    Features are kept in the folder ``cache``. ``progress`` gets (videos done, videos in all) over
    all metrics. A video that cannot be read or is too short is an error.
    """
    settings = settings or VideoSettings()
    sides = [videos_in(folder) for folder in (real, fake)]
    nested = set(sides[0]) & set(sides[1]) and Path(real).resolve() != Path(fake).resolve()
    require(not nested, f"{real} and {fake} lie in each other; give two separate folders")
    windowed = [n for n in ("fid", "fvd", "dtfvd") if settings.window and n in settings.metrics]
    total = sum(map(len, sides)) * (len(settings.metrics) + len(windowed))
    store, finished = FeatureStore(Path(cache), settings.reading), count(1)

    def counted(videos: list[Path]) -> Iterator[Path]:
        for video in videos:
            yield video
            if progress is not None:
                progress(next(finished), total)

    def features(metric: str, *, curve: bool) -> Sides:
        network, clips = networks[METRICS[metric][0]], settings.clips(metric, curve=curve)
        return [store.features(counted(videos), clips, network) for videos in sides]

    distances = [_distance(m, settings, features(m, curve=False)) for m in settings.metrics]
    curves = [_curve(m, settings, features(m, curve=True)) for m in windowed]
    return VideoReport(settings, *map(len, sides), distances, curves)


def _distance(metric: str, settings: VideoSettings, sides: Sides) -> VideoDistance:
    low = high = deviation = None
    if metric == "kid":
        rows = [side.thinned(_KID_ROWS) for side in sides]
        options = {"seed": settings.seed, "subset_size": _KID_SUBSET}
        value, deviation = measures.kernel_distance(*rows, **options)
        # Without more samples every subset is the same.
        deviation = deviation if max(map(len, rows)) > _KID_SUBSET else None
    else:
        value = measures.frechet_distance(*map(measures.moments_of, sides))
        if settings.draws and min(map(len, sides)) >= 3:
            draws, generator = settings.draws, torch.Generator().manual_seed(settings.seed)
            low, high = measures.bootstrap_interval(*sides, draws=draws, generator=generator)
    real, fake = (sum(map(len, side)) for side in sides)
    width, label = sides[0][0].shape[-1], sides[0].label
    return VideoDistance(metric, value, low, high, deviation, real, fake, width, label)


def _curve(metric: str, settings: VideoSettings, sides: Sides) -> Curve:
    clips, window = settings.clips(metric, curve=True), settings.window
    lengths = [[len(features) for features in side] for side in sides]
    rows = []
    for start in range(0, settings.reading.max_frames - window + 1, window // 2):
        # The samples that lie inside the window altogether, of videos that have them all.
        first = -(-start // clips.step)
        last = (start + window - clips.length) // clips.step + 1
        samples = [(last - first) * sum(n >= last for n in side) for side in lengths]
        if min(samples) < 2:
            break
        inside = ((f[first:last] for f in side if len(f) >= last) for side in sides)
        rows.append((start, measures.frechet_distance(*map(measures.moments_of, inside)), *samples))
    columns = [[row[column] for row in rows] for column in range(4)]
    return Curve(metric, window, *columns, sides[0].label)


def video_tables(report: VideoReport) -> list[Table]:
    """Return a table of distances and, if there are curves, one of each, a column per window."""
    rows, note = [], ""
    for row in report.distances:
        spread = None if row.low is None else f"{row.low:.4g} to {row.high:.4g}"
        if row.deviation is not None:
            spread = f"± {row.deviation:.4f}"
        counts, value = (row.real_samples, row.fake_samples), f"{row.value:.4g}"
        if row.metric != "kid" and min(counts) <= row.num_features:  # KID is not biased
            value += "*"
            note = "* fewer samples than features: biased upwards; compare equal numbers only"
        rows.append((METRICS[row.metric][2], value, spread, *counts, row.network))
    title = f"{report.fake_videos} videos against {report.real_videos} real ones"
    headings = ["", "distance", "95 %", "real n", "n", "features"]
    tables = [measures.table(title, headings, rows, note=note)]
    for curve in report.curves:
        name, values = METRICS[curve.metric][2], [f"{value:.4g}" for value in curve.values]
        title = f"{name} in windows of {curve.window} frames, by first frame"
        tables.append(measures.table(title, ["", *map(str, curve.starts)], [[name, *values]]))
    return tables
