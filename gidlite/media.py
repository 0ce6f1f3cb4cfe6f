"""Images and video in and out: files on one side, RGB tensors on the other.

Images are float tensors (3, H, W) in [0, 1]; clips are uint8 tensors (T, 3, H, W) to save memory.
Everything written appears under its final name only once it is complete.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from gidlite._checks import GidliteError, all_finite, check_shape, require_file

__all__ = [
    "Clip",
    "VideoWriter",
    "fit_size",
    "read_image",
    "read_video",
    "resample_frame_rate",
    "resize",
    "sample_photo",
    "write_image",
    "write_video",
    "xt_slice",
]

MIN_SIDE = 16
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VIDEO_SUFFIXES = (".mp4", ".gif", ".webp")
GIF_MAX_FPS = 50.0  # browsers slow a GIF down when a delay is under 2 centiseconds
FRAME_NAME = re.compile(r"frame_\d{5,}\.png")


# swscale flags that older PyAV does not name.
_ACCURATE_ROUNDING, _FULL_CHROMA = 0x40000, 0x2000


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise GidliteError(message)


# ---------------------------------------------------------------- images


def read_image(path: str | Path, *, max_side: int = 4096) -> Tensor:
    """Read a photo the way a viewer shows it.

    EXIF orientation is applied, transparency is laid over white, and an animation gives its
    first frame. Colour profiles are ignored: sRGB is assumed.

    Args:
        path: A PNG, JPEG, WebP or other file that Pillow reads.
        max_side: Larger images are reduced until neither side exceeds this many pixels.

    Returns:
        (3, H, W) float32 RGB in [0, 1].

    Raises:
        GidliteError: If the file is missing, not an image, damaged, far too large, or if a side
            is under 16 pixels.
    """
    _require(max_side >= MIN_SIDE, f"max_side must be at least {MIN_SIDE}, got {max_side}")
    path = require_file(path, what="a photo")
    _require(path.stat().st_size > 0, f"{path} is empty (0 bytes); copy or download it again")
    try:
        with warnings.catch_warnings():
            # Between one and two times Pillow's limit it only warns; the size is bounded below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _decode_image(image, path, max_side)
    except GidliteError:
        raise
    except Image.DecompressionBombError as error:
        raise GidliteError(f"{path} is too large; reduce it to under 170 megapixels") from error
    except UnidentifiedImageError as error:
        raise GidliteError(f"{path} is not a known image; give a PNG, JPEG or WebP") from error
    except Exception as error:  # damaged files raise almost anything inside Pillow's decoders
        raise GidliteError(
            f"{path} could not be decoded ({error}); it is damaged or cut short, so export it again"
        ) from error


def _decode_image(image: Image.Image, path: Path, max_side: int) -> Tensor:
    size = f"{image.width}×{image.height}"
    scale = min(1.0, max_side / max(image.size))
    target = (round(image.width * scale), round(image.height * scale))
    _require(
        min(target) >= MIN_SIDE,
        f"{path} is {size} pixels; give a photo with sides of at least {MIN_SIDE} pixels "
        f"(after any reduction to {max_side})",
    )
    image.draft(None, target)  # lets the JPEG decoder skip detail that would be thrown away
    image = _to_rgb_or_gray(ImageOps.exif_transpose(image), path)
    if max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels = torch.from_numpy(np.array(image))
    if pixels.ndim == 2:
        return pixels.clamp(0, 1).expand(3, -1, -1).contiguous()
    return pixels.permute(2, 0, 1).to(torch.float32).div(255).contiguous()


def _to_rgb_or_gray(image: Image.Image, path: Path) -> Image.Image:
    """Return mode "RGB", or mode "F" in [0, 1] for gray deeper than 8 bits."""
    _require(image.mode != "F", f"{path} has floating-point pixels; save it as a 16-bit PNG")
    if image.mode.startswith("I"):
        # Pillow's own conversion to 8 bits clips at 255 instead of scaling.
        return Image.fromarray(np.asarray(image).astype(np.float32) / 65535)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def write_image(path: str | Path, image: Tensor) -> None:
    """Write an image; the format follows the suffix (.png, .jpg, .jpeg, .webp).

    Args:
        path: Output file; missing parent folders are created.
        image: (3, H, W), float in [0, 1] (values outside are clamped) or uint8.

    Raises:
        GidliteError: If the suffix is unknown, the place cannot be written, or the image has
            the wrong shape, type or non-finite values.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    _require(
        suffix in IMAGE_SUFFIXES,
        f"cannot write {path}: use one of the suffixes {', '.join(IMAGE_SUFFIXES)}",
    )
    pixels = _to_bytes(image)
    options = {} if suffix == ".png" else {"quality": 95}
    _check_output(path)
    temporary = _sibling(path)
    try:
        with _writing(path):
            Image.fromarray(pixels).save(temporary, **options)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _to_bytes(image: Tensor) -> np.ndarray:
    """Return (3, H, W) float in [0, 1] or uint8 as a contiguous uint8 array (H, W, 3)."""
    check_shape("image", image, "3 height width")
    image = image.detach().cpu()
    if image.is_floating_point():
        _require(all_finite(image), "the image has NaN or infinite values; check what made it")
        image = image.to(torch.float32).clamp(0, 1).mul(255).round().to(torch.uint8)
    _require(
        image.dtype == torch.uint8,
        f"the image has type {image.dtype}; give floats in [0, 1] or uint8",
    )
    return image.permute(1, 2, 0).contiguous().numpy()


# ---------------------------------------------------------------- output files


def _sibling(path: Path) -> Path:
    """Return an unused hidden name in the same folder, so that a move stays on one disk."""
    return path.parent / f".gidlite-{secrets.token_hex(6)}{path.suffix}"


def _check_output(path: Path, *, folder: bool = False) -> None:
    """Create missing parents and prove that something can be made next to ``path``."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = _sibling(path)
        probe.touch()
        probe.unlink()
    kind = "an existing file" if folder else "a folder"
    _require(
        not path.exists() or path.is_dir() == folder,
        f"cannot write {path}: it is {kind}; choose another output name",
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except GidliteError:
        raise
    except Exception as error:  # encoders, PyAV and the file system share no base class
        reason = getattr(error, "strerror", None) or error
        raise GidliteError(
            f"cannot write {path}: {reason}; check the folder and the free space there"
        ) from error


# ---------------------------------------------------------------- video in


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
    import av

    checks = {"fps": fps, "width": width, "max_frames": max_frames}
    for name, value in checks.items():
        valid = value is None or 0 < value < float("inf")
        _require(valid, f"{name} must be positive, got {value}")
    _require(0 <= start < float("inf"), f"start must be 0 seconds or more, got {start}")
    path = require_file(path, what="a video")
    try:
        with av.open(str(path)) as container:
            _require(bool(container.streams.video), f"{path} has no pictures; give a video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            fps = float(fps or _average_rate(container, stream))
            timed = _timed_frames(container, stream, start)
            frames = _nearest_frames(timed, path, fps, start, max_frames, width)
    except (av.FFmpegError, OSError) as error:
        raise GidliteError(
            f"{path} could not be decoded ({error.strerror or error}); it is not a video or is "
            "damaged, so give an MP4, MOV, WebM or GIF"
        ) from error
    return Clip(torch.stack(frames), fps)


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
) -> list[Tensor]:
    """Pick, for each output time, the frame with the nearest timestamp; (3, H, W) uint8 each."""
    limit = max_frames or sys.maxsize
    begin, duration, frame = next(timed, (0.0, 0.0, None))
    _require(frame is not None, f"{path} has no frame that can be decoded; give another video")
    convert = _frame_converter(frame, width)
    frames: list[Tensor] = []
    single = begin <= 0
    for next_begin, next_duration, next_frame in timed:
        single = False
        # The output times up to the midpoint are nearer to this frame than to the next one.
        midpoint = (begin + next_begin) / 2 + 1e-9
        shown = int((midpoint - start) * fps) + 1 if midpoint >= start else 0
        missing = min(shown, limit) - len(frames)
        if missing > 0:
            frames += [convert(frame)] * missing
        if len(frames) == limit:
            return frames
        begin, duration, frame = next_begin, next_duration, next_frame
    _require(not single, f"{path} has only one frame; give a video with at least two frames")
    end = begin + duration
    _require(start < end, f"{path} lasts {end:.2f} s; choose a start before that, not {start} s")
    count = min(max(1, round((end - start) * fps)), limit)
    if count > len(frames):
        frames += [convert(frame)] * (count - len(frames))
    return frames[:count]


def _frame_converter(first, width: int | None) -> Callable[..., Tensor]:
    """Return a function from a decoded frame to upright (3, H, W) uint8, all of one size."""
    from av.video.reformatter import Interpolation

    turns = round(first.rotation / 90) % 4
    shown = (first.height, first.width) if turns % 2 else (first.width, first.height)
    size = shown if width is None else (width, max(2, 2 * round(width * shown[1] / shown[0] / 2)))
    stored = size[::-1] if turns % 2 else size
    # Without the last two flags swscale darkens by more than one level and blurs colour edges.
    method = int(
        (Interpolation.AREA if size[0] < shown[0] else Interpolation.BICUBIC)
        | _ACCURATE_ROUNDING
        | _FULL_CHROMA
    )

    def convert(frame) -> Tensor:
        rgb = frame.reformat(*stored, format="rgb24", interpolation=method).to_ndarray()
        return torch.from_numpy(np.rot90(rgb, turns).transpose(2, 0, 1).copy())

    return convert


# ---------------------------------------------------------------- video out


class VideoWriter:
    """Write frames one at a time: ``with VideoWriter("loop.mp4", fps=30) as video: ...``.

    ``.mp4`` (H.264) is encoded as frames arrive; ``.gif`` and ``.webp`` (both loop forever) hold
    the 8-bit frames until the end; a name without suffix, or ending in ``/``, is a folder of
    ``frame_00000.png``, ``frame_00001.png``, ... whose older frames are replaced. The output
    appears on a clean exit; after an exception nothing is left.

    Args:
        path: Output file or folder; missing parent folders are created.
        fps: Frames per second. GIF delays are whole centiseconds, rounded so that the average
            speed is right; above 50 fps a GIF drops frames.
        quality: In [0, 1]; for MP4 and WebP only.

    Raises:
        GidliteError: If the suffix is unknown, the place cannot be written, or an option is out
            of range (all before any frame is written).
    """

    def __init__(self, path: str | Path, *, fps: float, quality: float = 0.8) -> None:
        _require(0.01 <= fps <= 1000, f"fps must lie in [0.01, 1000], got {fps}")
        _require(0 <= quality <= 1, f"quality must lie in [0, 1], got {quality}")
        self.path = Path(os.path.abspath(path))
        self.fps, self.quality = fps, quality
        folder = str(path).endswith(("/", os.sep)) or self.path.suffix == ""
        self._suffix = "" if folder else self.path.suffix.lower()
        _require(
            folder or self._suffix in VIDEO_SUFFIXES,
            f"cannot write {path}: use one of the suffixes {', '.join(VIDEO_SUFFIXES)}, "
            "or a name ending in / for a folder of PNG frames",
        )
        _check_output(self.path, folder=folder)
        self._temporary: Path | None = None
        self._sink: _Mp4Sink | _AnimationSink | _FolderSink | None = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> VideoWriter:
        self._temporary = _sibling(self.path)
        return self

    def write(self, frame: Tensor) -> None:
        """Add one frame.

        Args:
            frame: (3, H, W), float in [0, 1] (values outside are clamped) or uint8.

        Raises:
            GidliteError: If the frame's shape, size or type is wrong, or writing fails.
        """
        _require(self._temporary is not None, "use VideoWriter in a with statement")
        pixels = _to_bytes(frame)
        height, width = pixels.shape[:2]
        self._size = self._size or (height, width)
        _require(
            self._size == (height, width),
            f"the frames of {self.path.name} are {self._size[1]}×{self._size[0]}, but one is "
            f"{width}×{height}; make all frames the same size",
        )
        with _writing(self.path):
            if self._sink is None:
                sinks = {".mp4": _Mp4Sink, "": _FolderSink}
                sink = sinks.get(self._suffix, _AnimationSink)
                self._sink = sink(self._temporary, self.fps, self.quality, self._size)
            self._sink.add(pixels)

    def __exit__(self, kind, error, trace) -> None:
        temporary, sink = self._temporary, self._sink
        self._temporary = self._sink = None
        try:
            if sink is not None:
                with suppress(Exception) if kind else _writing(self.path):
                    sink.close(keep=kind is None)
            if kind is None:
                _require(sink is not None, f"no frame was written to {self.path}; write some")
                with _writing(self.path):
                    _move_into_place(temporary, self.path)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


class _Mp4Sink:
    def __init__(self, path: Path, fps: float, quality: float, size: tuple[int, int]) -> None:
        import av

        self._rate = Fraction(fps).limit_denominator(1001)  # 1001 holds 30000/1001 exactly
        self._count = 0
        # The index at the front lets a browser start before the whole file has arrived.
        options = {"movflags": "+faststart"}
        self._container = av.open(str(path), "w", format="mp4", options=options)
        self._stream = self._container.add_stream("libx264", rate=self._rate)
        # yuv420p shares colour between 2×2 pixels, so both sides have to be even.
        self._stream.height, self._stream.width = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        # swscale centres colour samples; unless told so, readers assume that they sit to the left.
        self._stream.options = {
            "crf": str(round(38 - 25 * quality)),
            "preset": "medium",
            "x264-params": "chromaloc=1",
        }
        context = self._stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        context.color_range = 1  # luma 16 to 235

    def add(self, pixels: np.ndarray) -> None:
        import av

        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self._count += 1

    def close(self, *, keep: bool) -> None:
        try:
            if keep:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


class _AnimationSink:
    def __init__(self, path: Path, fps: float, quality: float, size: tuple[int, int]) -> None:
        self._path, self._fps, self._quality = path, fps, quality
        self._frames: list[np.ndarray] = []

    def add(self, pixels: np.ndarray) -> None:
        self._frames.append(pixels)

    def close(self, *, keep: bool) -> None:
        if not keep:
            return
        frames, fps = self._frames, self._fps
        if self._path.suffix.lower() == ".gif":
            if fps > GIF_MAX_FPS:
                kept = _nearest_indices(len(frames), fps, GIF_MAX_FPS)
                frames, fps = [frames[i] for i in kept], GIF_MAX_FPS
            images, tick = _with_shared_palette(frames), 10
            options = {"format": "GIF", "optimize": True}
        else:
            images, tick = [Image.fromarray(frame) for frame in frames], 1
            options = {"format": "WEBP", "quality": round(100 * self._quality), "method": 4}
        # Rounding the end times, not the delays, keeps the error from adding up.
        ends = [tick * round(1000 * i / fps / tick) for i in range(len(images) + 1)]
        delays = [end - begin for begin, end in pairwise(ends)]
        first, *rest = images
        first.save(
            self._path, save_all=True, append_images=rest, duration=delays, loop=0, **options
        )


def _with_shared_palette(frames: list[np.ndarray]) -> list[Image.Image]:
    # With a palette for each frame, still regions would flicker.
    chosen = frames[:: max(1, len(frames) // 8)]
    # The 256th entry is left for "unchanged since the last frame".
    palette = Image.fromarray(np.concatenate(chosen)).quantize(255)
    return [Image.fromarray(frame).quantize(palette=palette) for frame in frames]


class _FolderSink:
    def __init__(self, path: Path, fps: float, quality: float, size: tuple[int, int]) -> None:
        self._path, self._count = path, 0
        path.mkdir()

    def add(self, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(self._path / f"frame_{self._count:05d}.png")
        self._count += 1

    def close(self, *, keep: bool) -> None:
        pass


def _move_into_place(temporary: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(temporary, path)
        return
    # A folder that already exists may hold other files, so only its frames are replaced.
    for old in path.iterdir():
        if FRAME_NAME.fullmatch(old.name):
            old.unlink()
    for frame in temporary.iterdir():
        os.replace(frame, path / frame.name)


def write_video(
    path: str | Path, frames: Iterable[Tensor], *, fps: float, quality: float = 0.8
) -> None:
    """Write all frames with ``VideoWriter``, which documents the formats.

    Args:
        path: Output ``.mp4``, ``.gif``, ``.webp``, or a folder for PNG frames.
        frames: Each (3, H, W), float in [0, 1] or uint8; a (T, 3, H, W) tensor or a generator.
        fps: Frames per second.
        quality: In [0, 1].

    Raises:
        GidliteError: As ``VideoWriter``, and if there are no frames.
    """
    with VideoWriter(path, fps=fps, quality=quality) as video:
        for frame in frames:
            video.write(frame)


# ---------------------------------------------------------------- sizes, times, slices


def resize(image: Tensor, *, height: int, width: int) -> Tensor:
    """Resize with bicubic interpolation, antialiased where it shrinks.

    Args:
        image: (..., C, H, W) float.
        height: Output height in pixels.
        width: Output width in pixels.

    Returns:
        (..., C, height, width); clamped to [0, 1] only if the input lay within [0, 1].

    Raises:
        GidliteError: If the image is not floating point or a size is under 1.
    """
    check_shape("image", image, "... channels height width")
    _require(image.is_floating_point(), f"resize needs a float image, got {image.dtype}")
    _require(min(height, width) >= 1, f"cannot resize to {width}×{height} pixels")
    batch = image.reshape(-1, *image.shape[-3:])
    result = functional.interpolate(batch, (height, width), mode="bicubic", antialias=True)
    if 0 <= float(image.min()) and float(image.max()) <= 1:
        result = result.clamp(0, 1)
    return result.reshape(*image.shape[:-2], height, width)


def fit_size(height: int, width: int, *, max_width: int, multiple: int = 2) -> tuple[int, int]:
    """Return (height, width), aspect kept, no wider than ``max_width``, never enlarged.

    Args:
        height: Source height in pixels.
        width: Source width in pixels.
        max_width: Upper bound of the output width, at least ``multiple``.
        multiple: Both outputs are multiples of this, and at least one multiple.

    Raises:
        GidliteError: If a size is under 1 or ``max_width`` is under ``multiple``.

    >>> fit_size(1080, 1920, max_width=512)
    (288, 512)
    """
    _require(min(height, width, multiple) >= 1, f"sizes must be positive: {width}×{height}")
    _require(max_width >= multiple, f"max_width must be at least {multiple}, got {max_width}")
    columns = max(1, min(width, max_width) // multiple)
    rows = round(height * columns / width)
    rows = max(1, min(rows, height // multiple))
    return rows * multiple, columns * multiple


def _nearest_indices(count: int, source_fps: float, target_fps: float) -> list[int]:
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
    _require(frames.ndim > 0 and len(frames) > 0, "there are no frames to resample")
    valid = all(0 < rate < float("inf") for rate in (source_fps, target_fps))
    _require(valid, f"frame rates must be positive, got {source_fps} and {target_fps}")
    return frames[_nearest_indices(len(frames), source_fps, target_fps)]


def xt_slice(frames: Tensor, *, row: int | None = None, column: int | None = None) -> Tensor:
    """Follow one line of pixels through time; time runs downwards in the result.

    Args:
        frames: (T, 3, H, W).
        row: Index of an image row; negative counts from the bottom.
        column: Index of an image column; negative counts from the right.

    Returns:
        (3, T, W) for a row, (3, T, H) for a column.

    Raises:
        GidliteError: Unless exactly one of ``row`` and ``column`` is given, and in range.
    """
    check_shape("frames", frames, "time 3 height width")
    _require((row is None) != (column is None), "give exactly one of row and column")
    name, index, axis = ("row", row, 2) if column is None else ("column", column, 3)
    size = frames.shape[axis]
    _require(-size <= index < size, f"{name} {index} is outside the {size} {name}s of the frames")
    return frames.select(axis, index).transpose(0, 1)


def sample_photo() -> Path:
    """Return the path of ``flower.jpg``, the photo that comes with scikit-learn.

    Raises:
        GidliteError: If scikit-learn or the photo is not installed.
    """
    spec = importlib.util.find_spec("sklearn")  # finds the folder without the slow import
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        photo = Path(folder) / "datasets" / "images" / "flower.jpg"
        if photo.is_file():
            return photo
    raise GidliteError("the sample photo is missing; install it with: pip install scikit-learn")
