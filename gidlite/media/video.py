"""Video in as a player shows it, but at a constant rate."""

from __future__ import annotations

import glob
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from gidlite.errors import GidliteError, GidliteWarning, require, require_file
from gidlite.media.photo import to_standard

VIDEO_SUFFIXES = tuple(
    ".mp4 .mov .m4v .mkv .webm .avi .mpg .mpeg .gif .ts .mts .m2ts .3gp .wmv .flv".split()
)
# Without accurate rounding and full chroma, flags that PyAV does not name, swscale darkens by more
# than one level and blurs colour edges.
_ACCURATE = 0x40000 | 0x2000
_LIKELY_FPS = 250  # a header that tells more tells the resolution of its clock
_UNTAGGED, _BT2020, _PQ, _HLG = 2, 9, 16, 18  # FFmpeg's numbers of primaries and curves


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
    """What a header says: mean rate in Hz, duration if known, size in px as it is shown."""

    fps: float
    seconds: float | None
    width: int
    height: int


def probe_video(path: str | Path) -> VideoInfo:
    """Read header and first frames of a video; refuse a file that is missing or has no pictures."""
    with _opened(path) as stream:
        whole = (stream.container.duration or 0) / 1e6 or None
        seconds = float(stream.duration * stream.time_base) if stream.duration else whole
        rate, frames = _told_rate(stream), _decoded(stream)
        first = next(frames, None)
        height, width = _shown_size(first, stream) if first else (stream.height, stream.width)
        if not 0 < rate <= _LIKELY_FPS:
            times = [float(f.pts * f.time_base) for f in islice(frames, 60) if f.pts is not None]
            guess = float(stream.guessed_rate or 25)
            rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 25
            rate = guess if abs(guess / rate - 1) < 0.02 else rate
        return VideoInfo(float(rate), seconds, width, height)


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
    """Yield the frames of a video (or animated GIF) as a player shows them, at a constant rate.

    Frame k is that of the source whose timestamp is nearest to ``start + k / fps`` seconds (the
    earlier one on a tie), so variable frame rates are handled and nothing is blended; the duration
    is that of the source to within one frame. ``width``, in px as shown, keeps the aspect, with an
    even height; ``size`` scales and cuts the middle out to exactly (height, width).

    Frames are turned and mirrored as the file says, pixels made square, fields deinterlaced, and
    wide colours and high dynamic range brought to those of a photo. What is damaged or cut off is
    left out, with a ``GidliteWarning`` if it is the larger part. What FFmpeg cannot decode
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
            convert = convert or _converter(frame, stream, width, size)
            yield convert(frame)


@contextmanager
def _opened(path: str | Path) -> Iterator:
    """Yield the pictures of an open file; decoder errors become one sentence."""
    import av

    path = require_file(path, what="a video")
    try:
        with path.open("rb") as file:
            # FFmpeg takes names for patterns and protocols, and knows UTF-8 only.
            plain = "%" not in str(path) and str(path).isprintable()
            source = str(path.absolute()) if plain else file
            with av.open(source, metadata_errors="replace") as container:
                require(bool(container.streams.video), f"{path} has no pictures; give a video")
                stream = container.streams.best("video")
                # PyAV would crash.
                known = stream is not None and stream.codec_context is not None
                require(known, f"{path} has pictures of an unknown kind; give an MP4 or WebM")
                yield stream
    except (av.FFmpegError, OSError) as error:
        raise GidliteError(
            f"{path} could not be decoded ({error.strerror or error}); it is not a video or is "
            "damaged, so give an MP4, MOV, WebM or GIF"
        ) from error


def _told_rate(stream) -> float:
    if stream.container.format.name == "gif" and stream.frames and stream.duration:
        # FFmpeg guesses a GIF's rate from its first delays only.
        return float(stream.frames / (stream.duration * stream.time_base))
    return float(stream.average_rate or 0)


def _timed_frames(stream, start: float) -> Iterator[tuple]:
    """Yield (begin, duration, frame), the first one not after ``start``.

    Both are in seconds, counted from the first frame of the stream.
    """
    import av

    origin = float((stream.start_time or 0) * stream.time_base)
    step = 1 / (_told_rate(stream) or 25)
    late = _is_avi(stream) and stream.codec_context.has_b_frames  # its times are those of decoding
    for target in (start, start - 10, -10):  # without an index, what is found may lie too late
        if start > 0 and not late:
            with suppress(av.FFmpegError):  # some formats cannot seek; then from the beginning
                stream.container.seek(int((origin + target) / stream.time_base), stream=stream)
        frames = _deinterlaced(_decoded(stream))
        first = next(frames, None)
        found = origin if first is None or first.time is None else first.time
        if start == 0 or late or found - origin <= start:
            break
    if start == 0 or late:
        origin = found if late else min(found, origin)
    last = -step
    for frame in chain([first] if first else [], frames):
        begin = last + step if frame.time is None else frame.time - origin
        told = float((frame.duration or 0) * frame.time_base)
        step, last = told or max(begin - last, 1e-3), begin
        yield begin, step, frame


def _is_avi(stream) -> bool:
    return stream.container.format.name == "avi"


def _decoded(stream) -> Iterator:
    """Yield every frame that decodes, before and after damage."""
    import av

    # AVI stores no times. FFmpeg counts on where damage is, but the index knows better, and guesses
    # in which order frames are shown, but those of decoding need no guess.
    avi = _is_avi(stream)
    times = {entry.pos + 8: entry.timestamp for entry in stream.index_entries} if avi else {}
    good, bad, shift, due = 0, 0, 0, -math.inf
    packets = stream.container.demux(stream)
    while bad < 1000 + 100 * good:
        try:
            if (packet := next(packets, None)) is None:
                break
            if packet.dts is not None:
                packet.dts = times.get(packet.pos, packet.dts) + shift
                if (lost := due - packet.dts) * stream.time_base > 0.5:  # joined files begin again
                    packet.dts, shift = due, shift + lost
                due = packet.dts + (packet.duration or 0)
                packet.pts = None if packet.pts is None else packet.pts + shift
            for frame in packet.decode():
                if avi:
                    frame.pts, frame.duration = frame.dts, 0
                good += 1
                yield frame
        except av.FFmpegError:
            bad += 1
            packets = stream.container.demux(stream)  # from here on
    if bad > good > 0:
        told = f"{stream.container.name} is damaged; only {good} of its frames could be read"
        warnings.warn(told, GidliteWarning, stacklevel=2)


def _deinterlaced(frames: Iterator) -> Iterator:
    """Pass frames on, but of interlaced ones keep one field and fill in the other."""
    import av

    graph = None
    for frame in chain(frames, [None]):
        if graph is None and frame is not None and frame.interlaced_frame:
            graph, kind = av.filter.Graph(), (frame.width, frame.height, frame.format.name)
            source = graph.add_buffer(None, *kind, time_base=frame.time_base)
            field, sink = graph.add("yadif", "deint=interlaced"), graph.add("buffersink")
            graph.link_nodes(source, field, sink).configure()
        if graph is None:
            yield from [frame] if frame else []
            continue
        graph.push(frame)
        with suppress(av.FFmpegError):  # until it needs the next frame
            while True:
                yield graph.pull()


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


def _orientation(frame) -> tuple[bool, bool, bool]:
    """Return whether a frame is shown transposed, and then upside down, and then mirrored."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):  # turned by less than 45°, so not
        return False, d < 0, a < 0
    return True, b < 0, c < 0


def _shown_size(frame, stream) -> tuple[int, int]:
    """Return (height, width) in square pixels, so many that none is lost, and upright."""
    wide = float(stream.sample_aspect_ratio or 1)
    size = round(frame.height * max(1, 1 / wide)), round(frame.width * max(1, wide))
    return size[::-1] if _orientation(frame)[0] else size


def _converter(
    first, stream, width: int | None, size: tuple[int, int] | None
) -> Callable[..., Tensor]:
    """Return a function from a decoded frame to upright (3, H, W) uint8, all of one size."""
    from av.video.reformatter import Interpolation

    whole = _shown_size(first, stream)
    even = width and (max(2, 2 * round(width * whole[0] / whole[1] / 2)), width)
    rows, columns = size or even or whole

    @lru_cache(maxsize=1)  # a frame that is shown many times is converted once
    def convert(frame) -> Tensor:
        shown, scaled = _shown_size(frame, stream), (rows, columns)
        if size is not None or shown != whole:
            zoom = max(rows / shown[0], columns / shown[1])
            scaled = max(rows, round(zoom * shown[0])), max(columns, round(zoom * shown[1]))
        transposed, upside_down, mirrored = _orientation(frame)
        method = Interpolation.AREA if scaled[1] < shown[1] else Interpolation.BICUBIC
        stored = scaled if transposed else scaled[::-1]  # width first
        pixels = _rgb(frame, *stored, int(method) | _ACCURATE)
        pixels = pixels.transpose(1, 0, 2) if transposed else pixels
        pixels = pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
        top, left = (scaled[0] - rows) // 2, (scaled[1] - columns) // 2
        pixels = pixels[top : top + rows, left : left + columns]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    return convert


def _rgb(frame, width: int, height: int, method: int) -> UInt8[np.ndarray, "rows columns 3"]:
    untagged = frame.colorspace == _UNTAGGED and frame.format.name.startswith(("yuv", "nv", "p0"))
    large = frame.width >= 1280 or frame.height > 576  # so players guess
    options = {"src_colorspace": "ITU709"} if untagged and large else {}
    curve, primaries = frame.color_trc, frame.color_primaries
    plain = curve not in (_PQ, _HLG) and primaries != _BT2020
    options |= {"format": "rgb24" if plain else "rgb48le", "interpolation": method}
    # Threads of a scaler would be waited for in a forked process, which has none.
    pixels = frame.reformat(width, height, threads=1, **options).to_ndarray()
    wide = primaries in (_BT2020, _UNTAGGED)
    return pixels if plain else to_standard(pixels, {_PQ: "pq", _HLG: "hlg"}.get(curve), wide=wide)


def find_videos(inputs: Iterable[str | Path]) -> list[tuple[Path, str]]:
    """Return (path, name) of every video in files, folders (searched deeply) and glob patterns.

    In folders, what is hidden is left out, and there and in patterns what has no known suffix. No
    two names are equal: as much of the folders precedes them as tells them apart. An input that
    matches nothing is refused, and so is finding no video at all.
    """
    inputs, found = [Path(entry) for entry in inputs], {}
    for entry in inputs:
        suffixes = {*VIDEO_SUFFIXES, entry.suffix.lower() or "."}
        if entry.is_dir():
            names = {path: path.relative_to(entry).as_posix() for path in sorted(entry.rglob("*"))}
            names = {path: name for path, name in names.items() if "/." not in f"/{name}"}
        else:
            paths = [entry] if entry.exists() else map(Path, sorted(glob.glob(str(entry))))
            names = {path: path.name for path in paths}
            require(bool(names), f"{entry} does not exist; give videos, folders or patterns")
        for path, name in names.items():
            if path.is_file() and (path == entry or path.suffix.lower() in suffixes):
                found.setdefault(path.resolve(), name)
    asked, known = ", ".join(map(str, inputs)), " ".join(VIDEO_SUFFIXES)
    require(bool(found), f"no video found in {asked}; known suffixes: {known}")
    while repeated := {name for name, count in Counter(found.values()).items() if count > 1}:
        for path, name in found.items():
            if name in repeated:
                found[path] = "/".join(path.parts[-name.count("/") - 2 :])
    # Names in no known encoding can be printed, too.
    return [(path, name.encode(errors="backslashreplace").decode()) for path, name in found.items()]
