"""Video in: upright frames at a constant rate, whole clips or one frame at a time."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gidlite.errors import GidliteError, require, require_file

# swscale flags that older PyAV does not name.
_ACCURATE_ROUNDING, _FULL_CHROMA = 0x40000, 0x2000


VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")


@dataclass(frozen=True)
class Clip:
    """A video at a constant frame rate.

    Attributes:
        frames: (T, 3, H, W) uint8 RGB.
        fps: Frames per second.
    """

    frames: Tensor
    fps: float

    @property
    def seconds(self) -> float:
        """Duration, the last frame's display time included."""
        return len(self.frames) / self.fps

    def float_frames(self) -> Tensor:
        """Return the frames as (T, 3, H, W) float32 in [0, 1], four times the memory."""
        return self.frames.to(torch.float32).div(255)


def read_video(
    path: str | Path,
    *,
    fps: float | None = None,
    width: int | None = None,
    max_frames: int | None = None,
    start: float = 0.0,
) -> Clip:
    """Read a video (or animated GIF) upright and at a constant frame rate.

    Output frame k is the source frame whose timestamp is nearest to ``start + k / fps`` (the
    earlier one on a tie), so variable frame rates are handled and nothing is blended.

    Args:
        path: Any video that FFmpeg decodes (it does not decode animated WebP).
        fps: Output frames per second; the default is the stream's average rate.
        width: Output width after rotation, in pixels; the height keeps the aspect and is even.
            Only resized frames are held in memory.
        max_frames: Stop after this many output frames.
        start: Seconds after the first frame at which to begin.

    Returns:
        The clip, with the duration of the source to within one output frame. Of a file that is
        cut short it holds what still decodes, as a player would show it.

    Raises:
        GidliteError: If the file is missing, not a video, damaged, has fewer than two frames,
            ends before ``start``, or if an option is out of range.
    """
    info = probe_video(path)
    fps = float(fps or info.fps)
    frames = list(stream_video(path, fps=fps, width=width, max_frames=max_frames, start=start))
    return Clip(torch.stack(frames), fps)


@dataclass(frozen=True)
class VideoInfo:
    """What a video says about itself.

    Attributes:
        fps: Average frames per second.
        seconds: Duration, or None if the file does not tell.
        width: Stored width in pixels, before any rotation.
        height: Stored height in pixels.
    """

    fps: float
    seconds: float | None
    width: int
    height: int


def probe_video(path: str | Path) -> VideoInfo:
    """Read a video's header.

    Raises:
        GidliteError: If the file is missing, is not a video, or has no pictures.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        seconds = None
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration:
            seconds = container.duration / 1e6
        rate = float(_average_rate(container, stream))
        return VideoInfo(rate, seconds, stream.width or 0, stream.height or 0)


@contextmanager
def _opened(path: str | Path):
    """Yield the open container of a file with pictures; decoder errors become one sentence."""
    import av

    path = require_file(path, what="a video")
    try:
        with av.open(str(path)) as container:
            require(bool(container.streams.video), f"{path} has no pictures; give a video")
            yield container
    except (av.FFmpegError, OSError) as error:
        raise GidliteError(
            f"{path} could not be decoded ({error.strerror or error}); it is not a video or is "
            "damaged, so give an MP4, MOV, WebM or GIF"
        ) from error


def stream_video(
    path: str | Path,
    *,
    fps: float,
    width: int | None = None,
    size: tuple[int, int] | None = None,
    max_frames: int | None = None,
    start: float = 0.0,
) -> Iterator[Tensor]:
    """Yield the frames ``read_video`` would return one at a time, in constant memory.

    Args:
        path: Any video that FFmpeg decodes.
        fps: Output frames per second.
        width: Output width; the height keeps the aspect and is even.
        size: Instead of ``width``: scale and cut the middle out to exactly (height, width).
        max_frames: Stop after this many.
        start: Seconds after the first frame at which to begin.

    Yields:
        (3, H, W) uint8 RGB.

    Raises:
        GidliteError: As ``read_video``, while frames are drawn.
    """
    checks = {"fps": fps, "width": width, "max_frames": max_frames}
    for name, value in checks.items():
        valid = value is None or 0 < value < float("inf")
        require(valid, f"{name} must be positive, got {value}")
    require(0 <= start < float("inf"), f"start must be 0 seconds or more, got {start}")
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        timed = _timed_frames(container, stream, start)
        yield from _nearest_frames(timed, Path(path), fps, start, max_frames, width, size)


def _average_rate(container, stream) -> Fraction:
    if container.format.name == "gif" and stream.frames and stream.duration:
        # FFmpeg guesses a GIF's rate from its first delays only.
        return stream.frames / (stream.duration * stream.time_base)
    return stream.average_rate or Fraction(25)


def _timed_frames(container, stream, start: float) -> Iterator[tuple]:
    """Yield (begin, duration, frame); seconds, counted from the first frame of the stream."""
    import av

    origin = float((stream.start_time or 0) * stream.time_base)
    if start > 0:
        with suppress(av.FFmpegError):  # some formats cannot seek; then decode from the beginning
            container.seek(int((origin + start) / stream.time_base), stream=stream)
    usual = 1 / float(_average_rate(container, stream))
    for index, frame in enumerate(container.decode(stream)):
        begin = index * usual if frame.pts is None else float(frame.pts * frame.time_base) - origin
        ticks = getattr(frame, "duration", 0)  # absent from older PyAV
        yield begin, float(ticks * frame.time_base) if ticks else usual, frame


def _nearest_frames(
    timed: Iterator[tuple],
    path: Path,
    fps: float,
    start: float,
    max_frames: int | None,
    width: int | None,
    size: tuple[int, int] | None,
) -> Iterator[Tensor]:
    """Yield, for each output time, the frame with the nearest timestamp; (3, H, W) uint8 each."""
    limit = max_frames or sys.maxsize
    begin, duration, frame = next(timed, (0.0, 0.0, None))
    require(frame is not None, f"{path} has no frame that can be decoded; give another video")
    convert = _frame_converter(frame, width, size)
    count, single = 0, begin <= 0
    for next_begin, next_duration, next_frame in timed:
        single = False
        # The output times up to the midpoint are nearer to this frame than to the next one.
        midpoint = (begin + next_begin) / 2 + 1e-9
        shown = int((midpoint - start) * fps) + 1 if midpoint >= start else 0
        if (missing := min(shown, limit) - count) > 0:
            yield from [convert(frame)] * missing
            count += missing
        if count == limit:
            return
        begin, duration, frame = next_begin, next_duration, next_frame
    require(not single, f"{path} has only one frame; give a video with at least two frames")
    end = begin + duration
    require(start < end, f"{path} lasts {end:.2f} s; choose a start before that, not {start} s")
    missing = min(max(1, round((end - start) * fps)), limit) - count
    if missing > 0:
        yield from [convert(frame)] * missing


def _frame_converter(
    first, width: int | None, size: tuple[int, int] | None
) -> Callable[..., Tensor]:
    """Return a function from a decoded frame to upright (3, H, W) uint8, all of one size."""
    from av.video.reformatter import Interpolation

    turns = round(first.rotation / 90) % 4
    shown = (first.height, first.width) if turns % 2 else (first.width, first.height)
    if size is not None:
        zoom = max(size[1] / shown[0], size[0] / shown[1])
        scaled = (max(size[1], round(zoom * shown[0])), max(size[0], round(zoom * shown[1])))
    elif width is not None:
        scaled = (width, max(2, 2 * round(width * shown[1] / shown[0] / 2)))
    else:
        scaled = shown
    height, width = size or scaled[::-1]
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    stored = scaled[::-1] if turns % 2 else scaled
    # Without the last two flags swscale darkens by more than one level and blurs colour edges.
    method = int(
        (Interpolation.AREA if scaled[0] < shown[0] else Interpolation.BICUBIC)
        | _ACCURATE_ROUNDING
        | _FULL_CHROMA
    )

    def convert(frame) -> Tensor:
        rgb = frame.reformat(*stored, format="rgb24", interpolation=method).to_ndarray()
        upright = np.rot90(rgb, turns)[top : top + height, left : left + width]
        return torch.from_numpy(upright.transpose(2, 0, 1).copy())

    return convert


def nearest_indices(count: int, source_fps: float, target_fps: float) -> list[int]:
    """Return the source frame nearest to each output time, the earlier one on a tie."""
    outputs = max(1, round(count * target_fps / source_fps))
    positions = np.arange(outputs) * (source_fps / target_fps)
    return np.ceil(positions - 0.5 - 1e-9).clip(0, count - 1).astype(int).tolist()


def resample_frame_rate(frames: Tensor, *, source_fps: float, target_fps: float) -> Tensor:
    """Change the frame rate by taking the nearest frame in time; nothing is blended.

    Args:
        frames: (T, ...) any type.
        source_fps: Frames per second of ``frames``.
        target_fps: Frames per second of the result.

    Returns:
        (T', ...) with the same duration to within one output frame.

    Raises:
        GidliteError: If there are no frames or a rate is not positive.
    """
    require(frames.ndim > 0 and len(frames) > 0, "there are no frames to resample")
    valid = all(0 < rate < float("inf") for rate in (source_fps, target_fps))
    require(valid, f"frame rates must be positive, got {source_fps} and {target_fps}")
    return frames[nearest_indices(len(frames), source_fps, target_fps)]


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
