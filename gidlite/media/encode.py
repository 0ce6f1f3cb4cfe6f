"""Video out: MP4, GIF, animated WebP or a folder of PNG frames."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from gidlite.errors import check_output, require, staged, writing
from gidlite.media import to_bytes

_ANIMATION_MAX_FPS = 50.0  # browsers slow an animation down when a delay is under 20 ms
# A player that begins again shows at once how far pictures told as differences have drifted. So
# the last frames of a loop fade from these to what leads to its first one, with ever more bits.
_FADE, _BITS = 12, 8  # frames, times the usual
# Bytes of frames kept in memory, and on the disk; of a longer loop the seam is seen too seldom.
_HELD, _LARGEST = 2**28, 2**32
# With a fixed pattern of frames, and no lookahead, frames are encoded alike whatever comes later.
_LOOP = "mbtree=0:aq-mode=0:psy=0:ipratio=2.5:pbratio=1:keyint=infinite:scenecut=0:b-adapt=0"
_Add = Callable[[np.ndarray, int], None]  # takes 8-bit pixels and the number of the frame


class VideoWriter:
    """Write frames one at a time: ``with VideoWriter("loop.mp4", fps=30) as video: ...``.

    ``.mp4`` (H.264) is encoded as frames arrive; ``.gif`` and ``.webp`` (both loop forever) hold
    the 8-bit frames until the end; a name without suffix, or ending in ``/``, is a folder of
    ``frame_00000.png``, ... whose older frames are replaced. ``quality``, in [0, 1], is that of
    MP4 and WebP; a ``loop`` of so many frames hardly steps where its MP4 begins again. GIF
    delays are whole centiseconds, rounded so that the average speed is right; above 50 fps both
    animations drop frames. Missing parent folders are created, and what cannot work is refused at
    once. The output appears on a clean exit; after an exception nothing is left.

    Attributes:
        frames_held: After a clean exit, how many frames the file holds; animations also merge
            equal neighbours.
    """

    def __init__(
        self, path: str | Path, *, fps: float, quality: float = 0.8, loop: int = 0
    ) -> None:
        require(0.01 <= fps <= 1000, f"fps must lie in [0.01, 1000], got {fps}")
        require(0 <= quality <= 1, f"quality must lie in [0, 1], got {quality}")
        require(loop >= 0, f"loop is {loop} frames long; give 0 for none")
        self.path = Path(os.path.abspath(path))
        self.fps, self.quality = fps, quality
        suffix = "" if str(path).endswith(("/", os.sep)) else self.path.suffix.lower()
        mp4 = partial(_mp4, loop=loop)
        encoders = {".mp4": mp4, ".gif": _animation, ".webp": _animation, "": _sequence}
        known = ".mp4, .gif, .webp, or a name ending in / for a folder of PNG frames"
        require(suffix in encoders, f"cannot write {path}: use one of {known}")
        self._encoder, self._folder = encoders[suffix], suffix == ""
        self._stack: ExitStack | None = None
        self.frames_held = 0
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
        self.frames_held = self._count
        if self._encoder is _animation:
            with Image.open(self.path) as made:
                self.frames_held = made.n_frames
        for frame in _frames_in(self.path)[self._count :]:
            frame.unlink()


def _frames_in(folder: Path) -> list[Path]:
    """Return the frames of an earlier or the present sequence in a folder, in order."""
    pattern = re.compile(r"frame_(\d{5}|[1-9]\d{5,})\.png")
    found = [path for path in folder.glob("frame_*.png") if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem[6:]))


@contextmanager
def _mp4(
    path: Path, fps: float, quality: float, size: tuple[int, int], loop: int = 0
) -> Iterator[_Add]:
    rate = Fraction(fps).limit_denominator(1001)  # 1001 holds 30000/1001 exactly
    # yuv420p shares colour between 2×2 pixels, so both sides have to be even.
    height, width = (side + side % 2 for side in size)
    crf, form = round(38 - 25 * quality), (height, width, rate)
    # swscale centres colour samples; readers assume that they sit to the left, unless told.
    options = {"crf": str(crf), "preset": "medium", "x264-params": "chromaloc=1"}
    if not 0 < loop * height * width * 1.5 < _LARGEST:
        with _h264(str(path), *form, options) as encode:
            yield lambda pixels, number: encode(_planes(pixels), number)
        return
    # The other settings make files about half as large, which pays for finer pictures and the end.
    options |= {"crf": str(min(51, crf + 3)), "x264-params": f"chromaloc=1:{_LOOP}"}
    with SpooledTemporaryFile(_HELD, dir=path.parent) as held:
        with _h264(drifted := io.BytesIO(), *form, options) as encode:
            yield _closing(form, options, lambda *frame: held.write(frame[0]) and encode(*frame))
        count = held.tell() // (height * width * 3 // 2)
        parts = np.clip((np.arange(count) + 1 - count) / min(_FADE, count) + 1, 0, 1)
        parts[0] = 0
        zones = [f"{n},{n},b={_BITS ** parts[n] ** 1.5:.2f}" for n in parts.nonzero()[0]]
        options["x264-params"] += f":zones={'/'.join(zones)}"
        held.seek(0)
        with _h264(str(path), *form, options) as encode:
            for number, shown in enumerate(_decoded(drifted)):
                planes = np.frombuffer(held.read(shown.size), np.uint8).reshape(shown.shape)
                if parts[number]:
                    planes = shown + parts[number] * (planes.astype(np.float32) - shown)
                encode(planes.round().astype(np.uint8), number)


def _closing(form: tuple, options: dict[str, str], encode: _Add) -> _Add:
    """Return a function that encodes the frames of a loop as differences from its first one."""
    first = shift = None

    def add(pixels: np.ndarray, number: int) -> None:
        nonlocal first, shift
        planes = _planes(pixels)
        if first is None:
            with _h264(alone := io.BytesIO(), *form, options) as encode_alone:
                encode_alone(planes, 0)
            first = planes.astype(np.float32)
            shift = next(_decoded(alone)) - first
        else:
            change = planes - first
            change[abs(change) <= 1] = 0  # unseen, but it would make everything creep
            # Where nothing moves, every picture is the first one as shown, and costs nothing.
            still = ((6 - abs(change)) / 4).clip(0, 1)
            planes = (first + change + shift * still).round().clip(0, 255).astype(np.uint8)
        encode(planes, number)

    return add


def _decoded(memory: io.BytesIO) -> Iterator[np.ndarray]:
    import av

    memory.seek(0)
    with av.open(memory) as made:
        yield from (frame.to_ndarray() for frame in made.decode(video=0))


def _planes(pixels: np.ndarray) -> UInt8[np.ndarray, "rows width"]:
    """Return the planes of yuv420p one below the other: BT.709, luma 16 to 235, even sides."""
    import av

    sides = [(0, side % 2) for side in pixels.shape[:2]]
    frame = av.VideoFrame.from_ndarray(np.pad(pixels, [*sides, (0, 0)], mode="edge"), "rgb24")
    options = {"dst_colorspace": "ITU709", "dst_color_range": "MPEG", "threads": 1}
    return frame.reformat(format="yuv420p", **options).to_ndarray()


@contextmanager
def _h264(
    target: str | io.BytesIO, height: int, width: int, rate: Fraction, options: dict[str, str]
) -> Iterator[_Add]:
    """Yield a function that encodes planes into an MP4."""
    import av

    # The index at the front lets a browser start before the whole file has arrived.
    front = {"movflags": "+faststart"} if isinstance(target, str) else {}
    container = av.open(target, "w", format="mp4", options=front)
    try:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = options
        context = stream.codec_context
        context.thread_count = int(torch.get_num_threads() == 1)  # 0 is as many as there are cores
        context.color_primaries = context.color_trc = context.colorspace = 1  # BT.709
        context.color_range = 1  # luma 16 to 235

        def encode(planes: np.ndarray, number: int) -> None:
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))

        yield encode
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
    gif, most = path.suffix.lower() == ".gif", _ANIMATION_MAX_FPS
    if fps > most:  # for each time, the nearest frame, the earlier one on a tie
        times = np.arange(max(1, round(len(frames) * most / fps)))
        nearest = np.ceil(times * (fps / most) - 0.5 - 1e-9).astype(int)
        frames, fps = [frames[min(i, len(frames) - 1)] for i in nearest], most
    images = [Image.fromarray(frame) for frame in frames]
    if gif:
        # With a palette for each frame, still regions would flicker. The 256th entry is left for
        # "unchanged since the last frame".
        palette = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)])).quantize(255)
        images = [image.quantize(palette=palette) for image in images]
        # Dithering makes grain dance: what is as in the first frame is shown as it is there.
        for frame, image in zip(frames[1:], images[1:], strict=True):
            far = np.abs(frame.astype(np.int16) - frames[0]).max(2) > 2
            image.paste(images[0], mask=Image.fromarray(~far))
    # Rounding the end times, not the delays, keeps the error from adding up.
    tick = 10 if gif else 1
    ends = [tick * round(1000 * i / fps / tick) for i in range(len(images) + 1)]
    # WebP without further key frames: they would blink.
    images[0].save(
        path, save_all=True, append_images=images[1:], loop=0, optimize=gif, method=4, kmax=0,
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
