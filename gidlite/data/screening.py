"""Which stretches of a video can teach motion: no cuts, no fades, no camera, motion to be seen.

Every check returns a plain answer with its number, so that a report can say why something was
left out. Thresholds are in ``Limits``, in px of the working picture or as shares.
"""

from __future__ import annotations

import base64
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from gidlite.data.shards import (
    SHARD_BYTES,
    Sample,
    sample_bytes,
    write_json,
    write_shard,
)
from gidlite.errors import DiskFullError, GidliteError
from gidlite.media.reader import stream_video
from gidlite.motion.flow import consistent, follow, grey, optical_flow_engine, textured
from gidlite.motion.spectral import motion_amplitude, motion_to_spectral, pack_complex

_POINTS = 400
_MIN_POINTS = 40


@dataclass(frozen=True)
class Limits:
    """Where a stretch of video stops being useful.

    Attributes:
        cut: Mean change of a thumbnail between neighbours, 0 to 1, that can be a cut, ...
        alike: ... if the pictures before and after correlate less than this; flicker keeps shapes.
        fade: Contrast may grow or shrink by this factor within a stretch.
        frozen: Share of frames equal to the one before.
        texture: Least share of pixels with enough texture to see motion.
        drift: Largest way of the picture's corners, in picture widths, that is made up for.
        unmoved: With at least this share of textured pixels where they were, the camera is still,
            however wildly the rest moves.
        still: Camera motion in px below this is left alone.
        motion: Least 99th percentile of RMS displacement in px; below, nothing moves.
        reliable: Least share of textured pixels whose flow agrees forward and backward.
        reach: Largest displacement believed, in picture widths.
    """

    cut: float = 0.05
    alike: float = 0.8
    fade: float = 1.4
    frozen: float = 0.6
    texture: float = 0.05
    drift: float = 0.04
    unmoved: float = 0.1
    still: float = 0.3
    motion: float = 0.06
    reliable: float = 0.5
    reach: float = 0.25


@dataclass(frozen=True)
class Screening:
    """The outcome of checks: ``reason`` is None if the stretch passed."""

    reason: str | None
    checks: dict[str, float]


def thumbnail(frame: UInt8[Tensor, "3 height width"]) -> Float[Tensor, "rows columns"]:
    """Return a grey miniature, 20 × 32, in [0, 1]."""
    return functional.adaptive_avg_pool2d(frame.float().mean(0)[None], (20, 32))[0] / 255


def find_cuts(
    thumbnails: Float[Tensor, "time rows columns"], limits: Limits | None = None
) -> list[int]:
    """Return the frames that begin a new shot.

    At a cut the picture changes at once and the shapes do not come back. Wind changes it at once,
    too, but little by little; flicker changes brightness, not shapes.
    """
    limits = limits or Limits()
    change = thumbnails.diff(dim=0).abs().mean((1, 2))
    found = []
    for t in (change > limits.cut).nonzero()[:, 0].tolist():
        before, after = thumbnails[max(0, t - 2) : t + 1], thumbnails[t + 1 : t + 4]
        both = torch.stack([before.mean(0).flatten(), after.mean(0).flatten()])
        if not torch.corrcoef(both)[0, 1] > limits.alike:
            found.append(t + 1)
    return found


def screen(
    frames: UInt8[Tensor, "time 3 height width"],
    thumbnails: Float[Tensor, "time rows columns"],
    limits: Limits,
) -> Screening:
    """Check a stretch before its flow is computed: brightness, repeats, texture, a look ahead.

    Four flows to later frames tell a moving camera or a dead picture from the rest at a fraction
    of the price of all of them.
    """
    checks: dict[str, float] = {}

    def outcome(reason: str | None) -> Screening:
        return Screening(reason, checks)

    contrast = thumbnails.flatten(1).std(dim=1).clamp(min=1e-3)
    checks["contrast_change"] = round(float(contrast.max() / contrast.min()), 3)
    if checks["contrast_change"] > limits.fade:
        return outcome("fade or flicker")
    repeats = (thumbnails.diff(dim=0).abs().amax((1, 2)) == 0).float().mean()
    checks["frozen"] = round(float(repeats), 3)
    if repeats > limits.frozen:
        return outcome("frozen")
    first = grey(frames[0])
    seen = textured(first)
    checks["texture"] = round(float(seen.float().mean()), 3)
    if checks["texture"] < limits.texture:
        return outcome("no texture")
    engine = optical_flow_engine()
    later = [round((len(frames) - 1) * share) for share in (0.25, 0.5, 0.75, 1.0)]
    flows = torch.stack([engine(first, grey(frames[t]), None) for t in later])[..., seen]
    way = flows.norm(dim=1)
    if float(torch.quantile(way[:, ::3], 0.99)) < limits.motion:
        return outcome("nothing moves")
    median = flows.median(dim=2).values.norm(dim=1)
    checks["median_shift_px"] = round(float(median.max()), 2)
    checks["unmoved"] = round(float((way < 1).all(0).float().mean()), 3)
    if median.max() > limits.drift * frames.shape[-1] and checks["unmoved"] < limits.unmoved:
        return outcome("moving camera")
    return outcome(None)


def camera_path(
    motion: Float[Tensor, "time 2 height width"], seen: Bool[Tensor, "height width"]
) -> tuple[Float[Tensor, "time 2 3"], float]:
    """Fit the similarity that most textured pixels follow in every frame, and how many do.

    Returns:
        Matrices that take a pixel of frame 0 to where the camera's own motion puts it, and the
        mean share of pixels that follow them within 0.3 px. With too few textured pixels, the
        identity and 0.
    """
    import cv2

    identity = np.eye(2, 3)
    rows, columns = np.nonzero(seen.numpy())
    if len(rows) < _MIN_POINTS:
        return torch.from_numpy(identity).float().expand(len(motion), 2, 3), 0.0
    chosen = np.random.default_rng(0).choice(len(rows), min(_POINTS, len(rows)), replace=False)
    rows, columns = rows[chosen], columns[chosen]
    here = np.stack([columns, rows], axis=1).astype(np.float32)
    there = here + motion[:, :, rows, columns].permute(0, 2, 1).numpy()
    cv2.setRNGSeed(0)
    path, shares = [identity], []
    for points in there[1:]:
        matrix, inlier = cv2.estimateAffinePartial2D(
            here, points, method=cv2.RANSAC, ransacReprojThreshold=0.3, maxIters=200
        )
        path.append(identity if matrix is None else matrix)
        shares.append(0.0 if matrix is None else float(inlier.mean()))
    return torch.from_numpy(np.stack(path)).float(), float(np.mean(shares))


def camera_way(path: Float[Tensor, "time 2 3"], *, height: int, width: int) -> Tensor:
    """Return how far the camera moves a corner of the picture at most, in px, per frame."""
    corners = torch.tensor([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1.0]])
    return (corners @ path.mT - corners[:, :2]).norm(dim=-1).amax(-1)


def left_behind(
    motion: Float[Tensor, "2 height width"],
    camera: Float[Tensor, "2 3"],
    seen: Bool[Tensor, "height width"],
) -> float:
    """Return the share of textured pixels that stay where they are although the camera moves.

    A moving camera leaves none behind; a large thing that sways as one before a still background
    looks like a camera to a fit, but not to the background.
    """
    height, width = motion.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)]).float()
    expected = (torch.einsum("ij,jhw->ihw", camera, grid) - grid[:2]).norm(dim=0)
    tested = seen & (expected > 0.2)
    stayed = motion.norm(dim=0) < 0.35 * expected
    return float(stayed[tested].float().mean()) if tested.any() else 0.0


def remove_camera(
    motion: Float[Tensor, "time 2 height width"], path: Float[Tensor, "time 2 3"]
) -> Float[Tensor, "time 2 height width"]:
    """Return the motion that a camera standing still would have seen: A_t⁻¹(p + F_t(p)) − p."""
    height, width = motion.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([x, y]).float()
    inverse = torch.linalg.inv(path[:, :, :2])
    moved = (grid + motion) - path[:, :, 2, None, None]
    return torch.einsum("tij,tjhw->tihw", inverse, moved) - grid


def reliability(
    frames: UInt8[Tensor, "time 3 height width"],
    motion: Float[Tensor, "time 2 height width"],
) -> Bool[Tensor, "height width"]:
    """Return the textured pixels whose flow at five moments agrees with the flow back."""
    engine, first = optical_flow_engine(), grey(frames[0])
    farthest = int(motion.abs().mean((1, 2, 3)).argmax())
    later = {round((len(frames) - 1) * share) for share in (0.25, 0.5, 0.75, 1.0)} | {farthest}
    agree = textured(first)
    for t in sorted(later):
        back = engine(grey(frames[t]), first, None)
        agree &= consistent(motion[t], back)
    return agree


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


class _Frame(NamedTuple):
    color: Tensor
    grey: np.ndarray
    thumbnail: Tensor


@dataclass
class _Tally:
    """What happened to the start frames of a segment."""

    starts: int = 0
    stabilised: int = 0
    left_out: list[dict[str, Any]] = field(default_factory=list)
    seconds: Counter = field(default_factory=Counter)
    error: str | None = None


def extract_segment(segment: Segment, out: str | Path, settings: Settings) -> dict[str, Any]:
    """Write the samples of a segment as one shard, then its record; return the record.

    The record is written last, and both are written atomically: a segment without a record has
    not been done, however its process ended. Doing it twice gives the same files.

    Raises:
        DiskFullError: If there is no space left.
        GidliteError: If the folder cannot be written to.
    """
    out, tally = Path(out), _Tally()
    _use_one_thread()
    begun = time.perf_counter()
    samples: list[Sample] = []
    try:
        for sample in _samples(segment, settings, tally):
            samples.append(sample)
    except DiskFullError:
        raise
    except GidliteError as error:
        tally.error = str(error).replace(segment.path, segment.name)
    except Exception as error:  # a damaged file may raise anything inside a decoder
        tally.error = f"{type(error).__name__}: {error}".replace(segment.path, segment.name)
    name = f"{segment.key}.safetensors"
    if samples:
        write_shard(out / "shards" / name, samples)
    tally.seconds["total"] = time.perf_counter() - begun
    record = {
        "video": segment.name, "segment": segment.number, "shard": name if samples else None,
        "samples": [s.info | {"signature": _signature(s)} for s in samples],
        "starts": tally.starts, "stabilised": tally.stabilised,
        "left_out": tally.left_out, "error": tally.error,
        "seconds": {k: round(v, 3) for k, v in sorted(tally.seconds.items())},
    }  # fmt: skip
    write_json(out / "records" / f"{segment.key}.json", record)
    return record


def _use_one_thread() -> None:
    """Leave the other cores to the other workers."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _samples(segment: Segment, settings: Settings, tally: _Tally) -> Iterator[Sample]:
    """Slide a window over the segment; memory is that of one window, however long the video."""
    window: deque[_Frame] = deque(maxlen=settings.num_frames)
    frames = stream_video(
        segment.path, fps=settings.fps, size=(settings.height, settings.width),
        start=segment.first / settings.fps,
        max_frames=segment.last - segment.first + settings.num_frames - 1,
    )  # fmt: skip
    count = 0
    while True:
        begun = time.perf_counter()
        color = next(frames, None)
        tally.seconds["decode"] += time.perf_counter() - begun
        if color is None:
            break
        window.append(_Frame(color, grey(color), thumbnail(color)))
        count += 1
        start = segment.first + count - settings.num_frames
        if len(window) < settings.num_frames or start % settings.every or start >= segment.last:
            continue
        yield from _try(window, start, segment, settings, tally)
    if count < settings.num_frames and segment.first == 0:
        # A clip a moment too short is used whole: its frequencies are 2 % off at most.
        if count >= 0.98 * settings.num_frames:
            yield from _try(window, 0, segment, settings, tally)
        else:
            reason = f"shorter than {settings.num_frames} frames"
            tally.left_out.append({"start": 0.0, "reason": reason, "checks": {"frames": count}})


def _try(window, start: int, segment: Segment, settings: Settings, tally: _Tally):
    """Yield the sample that begins with the window, or note why there is none."""
    tally.starts += 1
    reason, checks, picked = _one_sample(window, settings, tally)
    second = round(start / settings.fps, 4)
    if picked is None:
        tally.left_out.append({"start": second, "reason": reason, "checks": checks})
    else:
        info = {"source": segment.name, "start": second, "checks": checks}
        yield Sample(*picked, info)


def _one_sample(window: deque[_Frame], settings: Settings, tally: _Tally):
    """Return why there is no sample (or None), all checks, and image, volume and mask."""
    limits = settings.limits
    thumbnails = torch.stack([frame.thumbnail for frame in window])
    if cuts := find_cuts(thumbnails, limits):
        return "cut", {"at_frame": cuts[0]}, None
    frames = torch.stack([frame.color for frame in window])
    screening = screen(frames, thumbnails, limits)
    checks = screening.checks
    if screening.reason is not None:
        return screening.reason, checks, None
    begun = time.perf_counter()
    motion = follow([frame.grey for frame in window])
    tally.seconds["flow"] += time.perf_counter() - begun
    seen = textured(window[0].grey)
    reliable = reliability(frames, motion)
    checks["reliable"] = round(float(reliable.sum() / seen.sum()), 3)
    far = (motion.abs().amax((0, 1)) > limits.reach * settings.width).float().mean()
    if checks["reliable"] < limits.reliable or far > 0.01:
        return "unreliable flow", checks, None
    path, share = camera_path(motion, seen)
    ways = camera_way(path, height=settings.height, width=settings.width)
    way, farthest = float(ways.max()), int(ways.argmax())
    checks["camera_share"], checks["camera_px"] = round(share, 3), round(way, 2)
    # Where fewer than half the pixels agree, or some stay behind, it is plants that move.
    if share >= 0.5 and way > limits.still:
        checks["left_behind"] = round(left_behind(motion[farthest], path[farthest], seen), 3)
        if checks["left_behind"] < limits.unmoved:
            if way > limits.drift * settings.width:
                return "moving camera", checks, None
            motion = remove_camera(motion, path)
            checks["stabilised"] = True
            tally.stabilised += 1
    spectral = motion_to_spectral(motion, num_frequencies=settings.num_frequencies)
    rms = motion_amplitude(spectral)[reliable]
    checks["motion_px"] = round(float(rms.kthvalue(max(1, int(0.99 * rms.numel()))).values), 3)
    if checks["motion_px"] < limits.motion:
        return "nothing moves", checks, None
    return None, checks, (frames[0], spectral, reliable)


def _signature(sample: Sample) -> dict[str, str]:
    """Return picture and slow motion in a few coarse cells: alike only for copies of a video."""
    picture = functional.adaptive_avg_pool2d(sample.image.float(), (5, 8))
    motion = pack_complex(sample.spectral[1:3]).flatten(0, 1)
    coarse = {
        "picture": picture - picture.mean(),
        "motion": functional.adaptive_avg_pool2d(motion, (5, 8)),
    }
    units = {k: (v / v.norm().clamp(min=1e-9)).flatten() for k, v in coarse.items()}
    return {
        k: base64.b64encode(v.numpy().astype(np.float16).tobytes()).decode()
        for k, v in units.items()
    }
