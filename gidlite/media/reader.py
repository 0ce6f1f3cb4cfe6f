"""Video in: upright frames at a constant rate, whole clips or one frame at a time."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from gidlite.errors import GidliteError, require, require_file

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")
# swscale flags that PyAV does not name.
_ACCURATE_ROUNDING, _FULL_CHROMA = 0x40000, 0x2000


@dataclass(frozen=True)
class Clip:
    """A video at a constant frame rate; ``fps`` in Hz."""

    frames: UInt8[Tensor, "time 3 height width"]
    fps: float

    @property
    def seconds(self) -> float:
        """Duration, the last frame's display time included."""
        return len(self.frames) / self.fps

    def float_frames(self) -> Float32[Tensor, "time 3 height width"]:
        """Return the frames in [0, 1], in four times the memory."""
        return self.frames.to(torch.float32).div(255)


@dataclass(frozen=True)
class VideoInfo:
    """What a header says: mean rate in Hz, duration if known, size in px before any rotation."""

    fps: float
    seconds: float | None
    width: int
    height: int


def probe_video(path: str | Path) -> VideoInfo:
    """Read the header of a video; refuse a file that is missing or has no pictures."""
    with _opened(path) as stream:
        whole = stream.container.duration
        seconds = whole / 1e6 if whole else None
        if stream.duration:
            seconds = float(stream.duration * stream.time_base)
        return VideoInfo(_average_rate(stream), seconds, stream.width or 0, stream.height or 0)


def read_video(
    path: str | Path,
    *,
    fps: float | None = None,
    width: int | None = None,
    max_frames: int | None = None,
    start: float = 0.0,
) -> Clip:
    """Read a video at once; see ``stream_video``. ``fps`` defaults to the average rate."""
    fps = probe_video(path).fps if fps is None else float(fps)
    frames = stream_video(path, fps=fps, width=width, max_frames=max_frames, start=start)
    return Clip(torch.stack(list(frames)), fps)


def stream_video(
    path: str | Path,
    *,
    fps: float,
    width: int | None = None,
    size: tuple[int, int] | None = None,
    max_frames: int | None = None,
    start: float = 0.0,
) -> Iterator[UInt8[Tensor, "3 height width"]]:
    """Yield the frames of a video (or animated GIF) upright, at a constant rate, as they decode.

    Output frame k is the source frame whose timestamp is nearest to ``start + k / fps`` (the
    earlier one on a tie), so variable frame rates are handled and nothing is blended. The
    duration is that of the source to within one output frame. Of a file that is cut short come
    the frames that still decode, as a player would show them. Fewer than two frames, and none
    after ``start``, raise ``GidliteError``.

    Args:
        path: Any video that FFmpeg decodes (it does not decode animated WebP).
        fps: Output frames per second.
        width: Output width after rotation, in pixels; the height keeps the aspect and is even.
        size: Instead of ``width``: scale and cut the middle out to exactly (height, width).
        max_frames: Stop after this many output frames.
        start: Seconds after the first frame at which to begin.
    """
    for name, value in {"fps": fps, "width": width, "max_frames": max_frames}.items():
        valid = value is None or 0 < value < float("inf")
        require(valid, f"{name} must be positive, got {value}")
    require(0 <= start < float("inf"), f"start must be 0 seconds or more, got {start}")
    with _opened(path) as stream:
        stream.thread_type = "AUTO"
        shown = _nearest_frames(_timed_frames(stream, start), path, fps=fps, start=start)
        convert = None
        for frame in islice(shown, max_frames):
            convert = convert or _converter(frame, width, size)
            yield convert(frame)


@contextmanager
def _opened(path: str | Path) -> Iterator:
    """Yield the pictures of an open file; decoder errors become one sentence."""
    import av

    path = require_file(path, what="a video")
    try:
        with av.open(str(path)) as container:
            require(bool(container.streams.video), f"{path} has no pictures; give a video")
            yield container.streams.video[0]
    except (av.FFmpegError, OSError) as error:
        raise GidliteError(
            f"{path} could not be decoded ({error.strerror or error}); it is not a video or is "
            "damaged, so give an MP4, MOV, WebM or GIF"
        ) from error


def _average_rate(stream) -> float:
    if stream.container.format.name == "gif" and stream.frames and stream.duration:
        # FFmpeg guesses a GIF's rate from its first delays only.
        return float(stream.frames / (stream.duration * stream.time_base))
    return float(stream.average_rate or 25)


def _timed_frames(stream, start: float) -> Iterator[tuple]:
    """Yield (begin, duration, frame); seconds, counted from the first frame of the stream."""
    import av

    origin = float((stream.start_time or 0) * stream.time_base)
    if start > 0:
        with suppress(av.FFmpegError):  # some formats cannot seek; then decode from the beginning
            stream.container.seek(int((origin + start) / stream.time_base), stream=stream)
    usual = 1 / _average_rate(stream)
    for index, frame in enumerate(stream.container.decode(stream)):
        begin = index * usual if frame.pts is None else float(frame.pts * frame.time_base) - origin
        duration = float(frame.duration * frame.time_base) if frame.duration else usual
        yield begin, duration, frame


def _nearest_frames(
    timed: Iterator[tuple], path: str | Path, *, fps: float, start: float
) -> Iterator:
    """Yield, for each output time, the frame with the nearest timestamp."""
    begin, duration, frame = next(timed, (0.0, 0.0, None))
    require(frame is not None, f"{path} has no frame that can be decoded; give another video")
    count, single = 0, begin <= 0
    for next_begin, next_duration, next_frame in timed:
        single = False
        # The output times up to the midpoint are nearer to this frame than to the next one.
        midpoint = (begin + next_begin) / 2 + 1e-9
        shown = math.floor((midpoint - start) * fps) + 1
        yield from repeat(frame, shown - count)
        count = max(count, shown)
        begin, duration, frame = next_begin, next_duration, next_frame
    require(not single, f"{path} has only one frame; give a video with at least two frames")
    end = begin + duration
    require(start < end, f"{path} lasts {end:.2f} s; choose a start before that, not {start} s")
    yield from repeat(frame, max(1, round((end - start) * fps)) - count)


def _converter(first, width: int | None, size: tuple[int, int] | None) -> Callable[..., Tensor]:
    """Return a function from a decoded frame to upright (3, H, W) uint8, all of one size."""
    from av.video.reformatter import Interpolation

    turns = round(first.rotation / 90) % 4
    whole = (first.width, first.height) if turns % 2 else (first.height, first.width)
    if size is not None:
        zoom = max(size[0] / whole[0], size[1] / whole[1])
        scaled = [max(asked, round(zoom * side)) for asked, side in zip(size, whole, strict=True)]
    elif width is not None:
        scaled = [max(2, 2 * round(width * whole[0] / whole[1] / 2)), width]
    else:
        scaled = whole
    rows, columns = size or scaled
    top, left = (scaled[0] - rows) // 2, (scaled[1] - columns) // 2
    stored = scaled if turns % 2 else scaled[::-1]  # width first
    method = Interpolation.AREA if scaled[1] < whole[1] else Interpolation.BICUBIC
    # Without these flags swscale darkens by more than one level and blurs colour edges.
    method = int(method) | _ACCURATE_ROUNDING | _FULL_CHROMA

    @lru_cache(maxsize=1)  # a frame that is shown many times is converted once
    def convert(frame) -> Tensor:
        rgb = frame.reformat(*stored, format="rgb24", interpolation=method).to_ndarray()
        upright = np.rot90(rgb, turns)[top : top + rows, left : left + columns]
        return torch.from_numpy(upright.transpose(2, 0, 1).copy())

    return convert


def resample_frame_rate(frames: Tensor, *, source_fps: float, target_fps: float) -> Tensor:
    """Return the nearest of (T, ...) frames for each output time, the earlier one on a tie."""
    require(frames.ndim > 0 and len(frames) > 0, "there are no frames to resample")
    valid = all(0 < rate < float("inf") for rate in (source_fps, target_fps))
    require(valid, f"frame rates must be positive, got {source_fps} and {target_fps}")
    positions = np.arange(max(1, round(len(frames) * target_fps / source_fps)))
    nearest = np.ceil(positions * (source_fps / target_fps) - 0.5 - 1e-9)
    return frames[nearest.clip(0, len(frames) - 1).astype(int)]


def find_videos(inputs: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """Return (path, name) of every video in files, folders (searched deeply) and glob patterns.

    In folders, what is hidden or has no known suffix is left out. An input that matches nothing
    is refused, and so is finding no video at all.
    """
    inputs, found = list(inputs), {}
    for entry in inputs:
        root = Path(entry)
        if root.is_dir():
            inside = (path.relative_to(root).as_posix() for path in sorted(root.rglob("*")))
            shown = (name for name in inside if "/." not in f"/{name}")
            names = {root / n: n for n in shown if n.lower().endswith(VIDEO_SUFFIXES)}
        else:
            paths = [root] if root.exists() else map(Path, sorted(glob.glob(str(entry))))
            names = {path: path.name for path in paths}
            require(bool(names), f"{entry} does not exist; give videos, folders or patterns")
        for path, name in names.items():
            if path.is_file():
                found.setdefault(path.resolve(), name)
    asked, known = ", ".join(map(str, inputs)), " ".join(VIDEO_SUFFIXES)
    require(bool(found), f"no video found in {asked}; known suffixes: {known}")
    return list(found.items())
