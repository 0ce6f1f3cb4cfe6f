"""Video in, upright and at a constant rate; video out: MP4, GIF, animated WebP or PNG frames."""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice, pairwise, repeat
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from gidlite.errors import GidliteError, check_output, require, require_file, staged, writing
from gidlite.media import to_bytes

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".gif")
# Without accurate rounding and full chroma, flags that PyAV does not name, swscale darkens by more
# than one level and blurs colour edges.
_ACCURATE = 0x40000 | 0x2000
_GIF_MAX_FPS = 50.0  # browsers slow a GIF down when a delay is under 2 centiseconds
_Add = Callable[[np.ndarray, int], None]  # takes 8-bit pixels and the number of the frame


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
        return self.frames.float() / 255


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
        whole = (stream.container.duration or 0) / 1e6 or None
        seconds = float(stream.duration * stream.time_base) if stream.duration else whole
        return VideoInfo(_average_rate(stream), seconds, stream.width or 0, stream.height or 0)


def read_video(path: str | Path, *, fps: float | None = None, **options) -> Clip:
    """Read a video at once, by ``stream_video``; ``fps`` defaults to the average rate."""
    fps = probe_video(path).fps if fps is None else float(fps)
    return Clip(torch.stack(list(stream_video(path, fps=fps, **options))), fps)


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

    Frame k is that of the source whose timestamp is nearest to ``start + k / fps`` seconds (the
    earlier one on a tie), so variable frame rates are handled and nothing is blended; the duration
    is that of the source to within one frame. ``width``, in px after rotation, keeps the aspect,
    with an even height; ``size`` scales and cuts the middle out to exactly (height, width). A file
    that is cut short gives the frames that still decode, as in a player. What FFmpeg cannot decode
    (animated WebP, say), fewer than two frames, or none after ``start`` raise ``GidliteError``.
    """
    for name, value in {"fps": fps, "width": width, "max_frames": max_frames}.items():
        require(value is None or 0 < value < math.inf, f"{name} must be positive, got {value}")
    require(0 <= start < math.inf, f"start must be 0 seconds or more, got {start}")
    with _opened(path) as stream:
        stream.thread_type = "AUTO"
        shown = _nearest_frames(_timed_frames(stream, start), path, fps, start)
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
        yield begin, float(frame.duration * frame.time_base) if frame.duration else usual, frame


def _nearest_frames(timed: Iterator[tuple], path: str | Path, fps: float, start: float) -> Iterator:
    """Yield, for each output time, the frame with the nearest timestamp."""
    begin, duration, frame = next(timed, (0.0, 0.0, None))
    require(frame is not None, f"{path} has no frame that can be decoded; give another video")
    count, single = 0, begin <= 0
    for next_begin, next_duration, next_frame in timed:
        single = False
        # The output times up to the midpoint are nearer to this frame than to the next one.
        shown = math.floor(((begin + next_begin) / 2 + 1e-9 - start) * fps) + 1
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
    scaled = whole
    if size is not None:
        zoom = max(size[0] / whole[0], size[1] / whole[1])
        scaled = [max(asked, round(zoom * side)) for asked, side in zip(size, whole, strict=True)]
    elif width is not None:
        scaled = [max(2, 2 * round(width * whole[0] / whole[1] / 2)), width]
    rows, columns = size or scaled
    top, left = (scaled[0] - rows) // 2, (scaled[1] - columns) // 2
    stored = scaled if turns % 2 else scaled[::-1]  # width first
    method = Interpolation.AREA if scaled[1] < whole[1] else Interpolation.BICUBIC
    method = int(method) | _ACCURATE

    @lru_cache(maxsize=1)  # a frame that is shown many times is converted once
    def convert(frame) -> Tensor:
        rgb = frame.reformat(*stored, format="rgb24", interpolation=method).to_ndarray()
        upright = np.rot90(rgb, turns)[top : top + rows, left : left + columns]
        return torch.from_numpy(upright.transpose(2, 0, 1).copy())

    return convert


def find_videos(inputs: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """Return (path, name) of every video in files, folders (searched deeply) and glob patterns.

    In folders, what is hidden or has no known suffix is left out. An input that matches nothing
    is refused, and so is finding no video at all.
    """
    inputs, found = [Path(entry) for entry in inputs], {}
    for entry in inputs:
        if entry.is_dir():
            inside = [p for p in sorted(entry.rglob("*")) if p.suffix.lower() in VIDEO_SUFFIXES]
            names = {path: path.relative_to(entry).as_posix() for path in inside}
            names = {path: name for path, name in names.items() if "/." not in f"/{name}"}
        else:
            paths = [entry] if entry.exists() else map(Path, sorted(glob.glob(str(entry))))
            names = {path: path.name for path in paths}
            require(bool(names), f"{entry} does not exist; give videos, folders or patterns")
        for path, name in names.items():
            if path.is_file():
                found.setdefault(path.resolve(), name)
    asked, known = ", ".join(map(str, inputs)), " ".join(VIDEO_SUFFIXES)
    require(bool(found), f"no video found in {asked}; known suffixes: {known}")
    return list(found.items())


class VideoWriter:
    """Write frames one at a time: ``with VideoWriter("loop.mp4", fps=30) as video: ...``.

    ``.mp4`` (H.264) is encoded as frames arrive; ``.gif`` and ``.webp`` (both loop forever) hold
    the 8-bit frames until the end; a name without suffix, or ending in ``/``, is a folder of
    ``frame_00000.png``, ... whose older frames are replaced. ``quality``, in [0, 1], is that of
    MP4 and WebP. GIF delays are whole centiseconds, rounded so that the average speed is right;
    above 50 fps a GIF drops frames. Missing parent folders are created, and what cannot work is
    refused at once. The output appears on a clean exit; after an exception nothing is left.
    """

    def __init__(self, path: str | Path, *, fps: float, quality: float = 0.8) -> None:
        require(0.01 <= fps <= 1000, f"fps must lie in [0.01, 1000], got {fps}")
        require(0 <= quality <= 1, f"quality must lie in [0, 1], got {quality}")
        self.path = Path(os.path.abspath(path))
        self.fps, self.quality = fps, quality
        suffix = "" if str(path).endswith(("/", os.sep)) else self.path.suffix.lower()
        encoders = {".mp4": _mp4, ".gif": _animation, ".webp": _animation, "": _sequence}
        known = ".mp4, .gif, .webp, or a name ending in / for a folder of PNG frames"
        require(suffix in encoders, f"cannot write {path}: use one of {known}")
        self._encoder, self._folder = encoders[suffix], suffix == ""
        self._stack: ExitStack | None = None
        check_output(self.path, folder=self._folder)
        for frame in _frames_in(self.path):  # to be replaced or removed
            check_output(frame)

    def __enter__(self) -> VideoWriter:
        self._stack, self._size, self._count = ExitStack(), None, 0
        self._hidden = self._stack.enter_context(staged(self.path, folder=self._folder))
        return self

    def write(self, frame: Tensor) -> None:
        """Add one frame, as ``to_bytes`` takes it, of the same size as the others."""
        require(self._stack is not None, "use VideoWriter in a with statement")
        pixels = to_bytes(frame)
        size = pixels.shape[:2]
        with writing(self.path):
            if self._size is None:
                encoder = self._encoder(self._hidden, self.fps, self.quality, size)
                self._size, self._add = size, self._stack.enter_context(encoder)
            require(
                size == self._size,
                f"the frames of {self.path.name} are {self._size[1]}×{self._size[0]}, but one is "
                f"{size[1]}×{size[0]}; make all frames the same size",
            )
            self._add(pixels, self._count)
        self._count += 1

    def __exit__(self, kind, error, trace) -> None:
        stack, self._stack = self._stack, None
        if error is not None:
            stack.__exit__(kind, error, trace)
            return
        with writing(self.path), stack:
            require(self._count > 0, f"no frame was written to {self.path}; write some")
        if self._folder:
            for frame in _frames_in(self.path)[self._count :]:
                frame.unlink()


def _frames_in(folder: Path) -> list[Path]:
    """Return the frames of an earlier or the present sequence in a folder, in order."""
    pattern = re.compile(r"frame_(\d{5}|[1-9]\d{5,})\.png")
    found = [path for path in folder.glob("frame_*.png") if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem[6:]))


@contextmanager
def _mp4(path: Path, fps: float, quality: float, size: tuple[int, int]) -> Iterator[_Add]:
    import av

    rate = Fraction(fps).limit_denominator(1001)  # 1001 holds 30000/1001 exactly
    # The index at the front lets a browser start before the whole file has arrived.
    container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
    try:
        stream = container.add_stream("libx264", rate=rate)
        # yuv420p shares colour between 2×2 pixels, so both sides have to be even.
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        # swscale centres colour samples; readers assume that they sit to the left, unless told.
        crf = str(round(38 - 25 * quality))
        stream.options = {"crf": crf, "preset": "medium", "x264-params": "chromaloc=1"}
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        context.color_range = 1  # luma 16 to 235

        def add(pixels: np.ndarray, number: int) -> None:
            pixels = np.pad(pixels, [(0, size[0] % 2), (0, size[1] % 2), (0, 0)], mode="edge")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            yuv = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            yuv.pts, yuv.time_base = number, 1 / rate
            container.mux(stream.encode(yuv))

        yield add
        container.mux(stream.encode(None))
        container.close()
    finally:
        with suppress(Exception):  # of a video that is given up
            container.close()


@contextmanager
def _animation(path: Path, fps: float, quality: float, size: tuple[int, int]) -> Iterator[_Add]:
    frames: list[np.ndarray] = []
    # Copies: the caller may use its memory again.
    yield lambda pixels, number: frames.append(pixels.copy())
    gif = path.suffix.lower() == ".gif"
    if gif and fps > _GIF_MAX_FPS:  # for each time, the nearest frame, the earlier one on a tie
        times = np.arange(max(1, round(len(frames) * _GIF_MAX_FPS / fps)))
        nearest = np.ceil(times * (fps / _GIF_MAX_FPS) - 0.5 - 1e-9).astype(int)
        frames, fps = [frames[min(i, len(frames) - 1)] for i in nearest], _GIF_MAX_FPS
    images = [Image.fromarray(frame) for frame in frames]
    if gif:
        # With a palette for each frame, still regions would flicker. The 256th entry is left for
        # "unchanged since the last frame".
        palette = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)])).quantize(255)
        images = [image.quantize(palette=palette) for image in images]
    # Rounding the end times, not the delays, keeps the error from adding up.
    tick = 10 if gif else 1
    ends = [tick * round(1000 * i / fps / tick) for i in range(len(images) + 1)]
    images[0].save(
        path, save_all=True, append_images=images[1:], loop=0, optimize=gif, method=4,
        duration=[end - begin for begin, end in pairwise(ends)], quality=round(100 * quality),
    )  # fmt: skip


@contextmanager
def _sequence(path: Path, fps: float, quality: float, size: tuple[int, int]) -> Iterator[_Add]:
    yield lambda pixels, n: Image.fromarray(pixels).save(path / f"frame_{n:05d}.png")


def write_video(
    path: str | Path, frames: Iterable[Tensor], *, fps: float, quality: float = 0.8
) -> None:
    """Write a (T, 3, H, W) tensor, or the frames of a generator, with ``VideoWriter``."""
    with VideoWriter(path, fps=fps, quality=quality) as video:
        for frame in frames:
            video.write(frame)
