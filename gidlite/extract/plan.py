"""What to extract: videos found, checked at the door, and cut into segments of work."""

from __future__ import annotations

import glob
import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gidlite._checks import GidliteError
from gidlite.extract.screening import Limits
from gidlite.media import probe_video
from gidlite.shards import SHARD_BYTES, sample_bytes

__all__ = ["VIDEO_SUFFIXES", "Plan", "Segment", "Settings", "find_videos", "make_plan"]

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")
_MOST_PIXELS = 8192 * 4352  # a little over 8K; larger headers are mistakes or attacks
_STARTS_PER_SEGMENT = 16


@dataclass(frozen=True)
class Settings:
    """How samples are made; the same for all samples of a folder.

    Attributes:
        every: A sample starts at every so many frames (paper: 10).
        height: Rows of a sample; the middle of the video is cut out to this aspect.
        width: Columns of a sample.
        num_frames: T, the frames followed from each start.
        fps: Videos are resampled to this many frames per second.
        num_frequencies: K.
        limits: Where a stretch of video stops being useful.
    """

    every: int = 10
    height: int = 160
    width: int = 256
    num_frames: int = 150
    fps: float = 30.0
    num_frequencies: int = 16
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise GidliteError(f"--every is {self.every}; it must be at least 1")
        if min(self.height, self.width) < 32 or max(self.height, self.width) > 1024:
            raise GidliteError(
                f"--size is {self.width}x{self.height}; both sides must lie between 32 and 1024"
            )
        if not 2 <= 2 * self.num_frequencies <= self.num_frames:
            raise GidliteError(
                f"--num-frequencies is {self.num_frequencies}; {self.num_frames} frames "
                f"hold 1 to {self.num_frames // 2}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)

    @property
    def starts_per_segment(self) -> int:
        """Start frames in one unit of work, few enough that its samples fit in one shard."""
        size = (self.height, self.width)
        each = sample_bytes(num_frequencies=self.num_frequencies, size=size, grid=size)
        return max(1, min(_STARTS_PER_SEGMENT, (SHARD_BYTES - 1_000_000) // each))


@dataclass(frozen=True)
class Segment:
    """One unit of work: some neighbouring start frames of one video.

    Attributes:
        path: Absolute path of the video, the same on every machine.
        name: How reports call it.
        fingerprint: Of its contents.
        number: Which segment of the video.
        first: First start frame, at the settings' frame rate.
        last: Start frames lie before this frame.
    """

    path: str
    name: str
    fingerprint: str
    number: int
    first: int
    last: int

    @property
    def key(self) -> str:
        """Name of its record and shard."""
        return f"{self.fingerprint}_{self.number:05d}"


@dataclass(frozen=True)
class Plan:
    """All segments, and the videos that were turned away with the reason."""

    segments: list[Segment]
    refused: dict[str, str]


def find_videos(inputs: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """Return (path, name) of every video in files, folders (searched deeply) and glob patterns.

    Raises:
        GidliteError: If an input matches nothing, or there is no video at all.
    """
    found: dict[Path, str] = {}
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
            for video in inside:
                found.setdefault(video.resolve(), video.relative_to(path).as_posix())
            continue
        matches = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(entry)))]
        if not matches:
            raise GidliteError(f"{entry} does not exist; give videos, folders or patterns")
        for video in matches:
            if video.is_file():
                found.setdefault(video.resolve(), video.name)
    if not found:
        raise GidliteError(
            f"no video found in {', '.join(map(str, inputs))}; known suffixes: "
            + " ".join(VIDEO_SUFFIXES)
        )
    return list(found.items())


def _fingerprint(path: Path) -> str:
    """Return a hash of size, beginning, middle and end: enough to know a file again quickly."""
    size, block = path.stat().st_size, 1 << 20
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for offset in (0, max(0, size // 2 - block // 2), max(0, size - block)):
            file.seek(offset)
            digest.update(file.read(block))
    return digest.hexdigest()[:16]


def make_plan(videos: list[tuple[Path, str]], settings: Settings) -> Plan:
    """Look at every header, and cut what can be used into segments.

    A video whose header does not tell its duration is one segment, however long.
    """
    segments: list[Segment] = []
    refused: dict[str, str] = {}
    known: dict[str, str] = {}
    step = settings.starts_per_segment * settings.every
    for path, name in videos:
        try:
            info = probe_video(path)
            mark = _fingerprint(path)
        except (GidliteError, OSError) as error:
            refused[name] = f"unreadable: {str(error).replace(str(path), name)}"
            continue
        if info.width * info.height > _MOST_PIXELS:
            refused[name] = f"too large: {info.width}x{info.height} pixels"
            continue
        if mark in known:
            refused[name] = f"same file as {known[mark]}"
            continue
        known[mark] = name
        frames = math.inf if info.seconds is None else math.ceil(info.seconds * settings.fps)
        starts = max(1, frames - settings.num_frames + 1)
        count = 1 if math.isinf(starts) else math.ceil(starts / step)
        for number in range(count):
            # The last segment is open-ended: headers are often a little wrong.
            last = (number + 1) * step if number + 1 < count else 1 << 40
            place = os.fspath(path)
            segments.append(Segment(place, name, mark, number, number * step, last))
    return Plan(segments, refused)
