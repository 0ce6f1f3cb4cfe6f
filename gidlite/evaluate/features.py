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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gidlite._checks import GidliteError
from gidlite.media import stream_video
from gidlite.media.files import sibling, writing

__all__ = ["Clips", "FeatureStore", "Frames", "Reading", "StoredFeatures", "find_videos"]

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

        partial = sibling(path)
        with writing(path):
            save_file({"features": features.contiguous()}, partial)
            partial.replace(path)


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
