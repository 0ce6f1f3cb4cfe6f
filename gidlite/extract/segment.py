"""One segment of one video: frames in, samples and a record of every decision out."""

from __future__ import annotations

import base64
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gidlite._checks import GidliteError
from gidlite.extract.plan import Segment, Settings
from gidlite.extract.screening import (
    camera_path,
    camera_way,
    find_cuts,
    left_behind,
    reliability,
    remove_camera,
    screen,
    thumbnail,
)
from gidlite.flow import follow, grey, textured
from gidlite.media import stream_video
from gidlite.shards import DiskFullError, Sample, write_json, write_shard
from gidlite.spectral import motion_amplitude, motion_to_spectral, pack_complex

__all__ = ["extract_segment"]


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
