"""Video out: MP4, GIF, animated WebP or a folder of PNG frames, written as frames arrive."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from gidlite.errors import GidliteError, check_output, require, writing, written
from gidlite.media import to_bytes
from gidlite.media.reader import nearest_indices

VIDEO_SUFFIXES = (".mp4", ".gif", ".webp")
GIF_MAX_FPS = 50.0  # browsers slow a GIF down when a delay is under 2 centiseconds
FRAME_NAME = re.compile(r"frame_\d{5,}\.png")


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
        require(0.01 <= fps <= 1000, f"fps must lie in [0.01, 1000], got {fps}")
        require(0 <= quality <= 1, f"quality must lie in [0, 1], got {quality}")
        self.path = Path(os.path.abspath(path))
        self.fps, self.quality = fps, quality
        folder = str(path).endswith(("/", os.sep)) or self.path.suffix == ""
        self._suffix = "" if folder else self.path.suffix.lower()
        require(
            folder or self._suffix in VIDEO_SUFFIXES,
            f"cannot write {path}: use one of the suffixes {', '.join(VIDEO_SUFFIXES)}, "
            "or a name ending in / for a folder of PNG frames",
        )
        check_output(self.path, folder=folder)
        self._output = written(self.path, folder=folder)
        self._hidden: Path | None = None
        self._sink: _Mp4Sink | _AnimationSink | _FolderSink | None = None
        self._size: tuple[int, int] | None = None

    def __enter__(self) -> VideoWriter:
        self._hidden = self._output.__enter__()
        return self

    def write(self, frame: Tensor) -> None:
        """Add one frame.

        Args:
            frame: (3, H, W), float in [0, 1] (values outside are clamped) or uint8.

        Raises:
            GidliteError: If the frame's shape, size or type is wrong, or writing fails.
        """
        require(self._hidden is not None, "use VideoWriter in a with statement")
        pixels = to_bytes(frame)
        height, width = pixels.shape[:2]
        self._size = self._size or (height, width)
        require(
            self._size == (height, width),
            f"the frames of {self.path.name} are {self._size[1]}×{self._size[0]}, but one is "
            f"{width}×{height}; make all frames the same size",
        )
        with writing(self.path):
            if self._sink is None:
                sinks = {".mp4": _Mp4Sink, "": _FolderSink}
                sink = sinks.get(self._suffix, _AnimationSink)
                self._sink = sink(self._hidden, self.fps, self.quality, self._size)
            self._sink.add(pixels)

    def __exit__(self, kind, error, trace) -> None:
        sink, self._sink, self._hidden = self._sink, None, None
        try:
            if sink is not None:
                with suppress(Exception) if kind else writing(self.path):
                    sink.close(keep=kind is None)
            if kind is None:
                require(sink is not None, f"no frame was written to {self.path}; write some")
                if isinstance(sink, _FolderSink):
                    sink.clear(self.path)
        except GidliteError as failure:
            kind, error = GidliteError, failure
            raise
        finally:
            with suppress(Exception) if kind else nullcontext():
                self._output.__exit__(kind, error, trace)


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
                kept = nearest_indices(len(frames), fps, GIF_MAX_FPS)
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

    def add(self, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(self._path / f"frame_{self._count:05d}.png")
        self._count += 1

    def close(self, *, keep: bool) -> None:
        pass

    @staticmethod
    def clear(path: Path) -> None:
        """Remove older frames from a folder that exists already, and nothing else."""
        for old in path.iterdir() if path.is_dir() else ():
            if FRAME_NAME.fullmatch(old.name):
                old.unlink()


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
