"""Videos to shards: planned in segments, done by processes or machines, finished as an index.

A segment is done when its record is there, so that a run goes on where it was stopped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import signal
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import chain
from multiprocessing import resource_tracker
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from gidlite.data import shards
from gidlite.data.screening import Frame, LeftOut, Settings, make_sample
from gidlite.data.shards import Progress, Sample, read_json, write_json
from gidlite.errors import GidliteError, alone, check_output, require
from gidlite.media.video import find_videos, probe_video, stream_video
from gidlite.motion.spectral import pack_complex

_MOST_PIXELS = 8192 * 4352  # a little over 8K; larger headers are mistakes or attacks
_LONGEST = 86_400  # seconds; a header that tells more is not believed
_ENDLESS = 1 << 40
# Two samples whose pictures and slow motions both correlate so well show the same moment, unless
# they are overlapping stretches of one video that start within so many seconds.
_SAME, _OVERLAP_SECONDS = 0.98, 5
_CELLS = (5, 8)  # rows and columns of what they are compared by
_FIELDS = {"video": str, "segment": int, "shard": str | None, "samples": list, "error": str}


@dataclass(frozen=True)
class Segment:
    """Some neighbouring start frames of one video: one unit of work."""

    path: str  # absolute, the same on every machine
    name: str  # as reports call the video
    mark: str  # a hash of its contents
    number: int
    first: int  # start frame, at the settings' frame rate; starts lie before ``last``
    last: int

    @property
    def key(self) -> str:
        """Name of its record and shard."""
        return f"{self.mark}_{self.number:05d}"


@dataclass(frozen=True)
class Report:
    """What became of every video."""

    samples: int  # in the index
    rejected: dict[str, int]  # start frames left out, by reason
    stabilised: int  # samples whose slight camera motion was removed
    videos: dict[str, dict[str, Any]]  # by name: the same three, and ``error`` if there was one
    seconds: float  # summed over processes


def run_extraction(
    inputs: Iterable[str | Path], out: str | Path, *, settings: Settings | None = None,
    workers: int | None = None, scheduler: str | None = None, progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Turn videos, folders or patterns into a folder of shards; again, it goes on where it stopped.

    A process is started for each of ``workers``, by default all cores, unless it is 1. The dask
    ``scheduler`` at an address uses its machines instead; all see videos and folder under one path.

    Raises:
        GidliteError: If there is nothing to read, the folder cannot be used or holds samples made
            with other settings, or no scheduler answers; a DiskFullError if the disk is full.
    """
    workers = os.cpu_count() or 1 if workers is None else workers
    require(workers >= 1, f"--workers is {workers}; it must be at least 1")
    out, settings, found = Path(out).resolve(), settings or Settings(), find_videos(inputs)
    check_output(out, folder=True)
    with alone(out, "records", "shards"):
        _prepare(out, settings)
        segments, refused = make_plan(found, settings)
        left = [s for s in segments if not (out / "records" / f"{s.key}.json").exists()]
        workers = min(workers, len(left))
        if not left or (scheduler is None and workers == 1):
            finished = (extract_segment(segment, out, settings) for segment in left)
        else:
            finished = _on_cluster(left, out, settings, workers, scheduler)
        with closing(finished):
            for done, _ in enumerate(chain([None], finished), start=len(segments) - len(left)):
                if progress is not None:
                    progress(done, len(segments))
        return _finish(out, segments, refused)


def make_plan(
    videos: list[tuple[Path, str]], settings: Settings
) -> tuple[list[Segment], dict[str, str]]:
    """Cut videos into segments, one if the header tells no duration; tell why others cannot be."""
    segments, refused, known = [], {}, {}
    step = settings.starts_per_segment * settings.every
    for path, name in videos:
        try:
            info, mark = probe_video(path), _fingerprint(path)
        except (GidliteError, OSError) as error:
            refused[name] = f"unreadable: {str(error).replace(str(path), name)}"
            continue
        if info.width * info.height > _MOST_PIXELS:
            refused[name] = f"too large: {info.width}x{info.height} pixels"
        elif mark in known:
            refused[name] = f"same file as {known[mark]}"
        else:
            known[mark] = name
            told = info.seconds or 0
            frames = math.ceil(told * settings.fps) if 0 < told < _LONGEST else 0
            # The last segment is open-ended: headers are often a little wrong.
            ends = [*range(step, frames - settings.num_frames + 1, step), _ENDLESS]
            for number, end in enumerate(ends):
                segments.append(Segment(str(path), name, mark, number, number * step, end))
    return segments, refused


def _fingerprint(path: Path) -> str:
    """Return a hash of size, beginning, middle and end: enough to know a file again quickly."""
    size, block = path.stat().st_size, 1 << 20
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for offset in (0, max(0, size // 2 - block // 2), max(0, size - block)):
            file.seek(offset)
            digest.update(file.read(block))
    return digest.hexdigest()[:16]


def _prepare(out: Path, settings: Settings) -> None:
    """Refuse, before any work, a folder of other settings, or one that is damaged."""
    path, ours = out / "settings.json", asdict(settings)
    theirs = read_json(path) if path.exists() else ours
    differing = " and ".join(key for key in ours if theirs.get(key) != ours[key])
    advice = "use the same options or another folder"
    require(not differing, f"{out} holds samples made with another {differing}; {advice}")
    for name in ("settings.json", "index.json", "statistics.json", "records/x", "shards/x"):
        check_output(out / name)
    for record in _read_records(out, []):
        if record["shard"]:
            rows = range(len(record["samples"]))
            shards.check_shard(out / "shards" / record["shard"], rows, settings.num_frequencies)
    write_json(path, ours)


def extract_segment(segment: Segment, out: Path, settings: Settings) -> None:
    """Write the shard and the record of a segment; doing it twice gives the same files."""
    import cv2

    cv2.setNumThreads(1)  # the other cores are for the other workers
    torch.set_num_threads(1)
    samples, left_out, error, begun = [], [], "", perf_counter()
    try:
        for start, frames in _windows(segment, settings):
            info = {"source": segment.name, "start": round(start / settings.fps, 4), "checks": {}}
            try:
                samples.append(make_sample(frames, settings, info))
            except LeftOut as reason:
                left_out.append(info | {"reason": str(reason)})
    except Exception as problem:  # a damaged file may raise anything inside a decoder
        kind = "" if isinstance(problem, GidliteError) else f"{type(problem).__name__}: "
        error = f"{kind}{problem}".replace(segment.path, segment.name)
    _keep(segment, out, samples, left_out, error, perf_counter() - begun)


def _keep(
    segment: Segment, out: Path, samples: Sequence[Sample] = (), left_out: Sequence[dict] = (),
    error: str = "", seconds: float = 0.0,
) -> None:  # fmt: skip
    """Write a shard and last, when all is done however the process ends, the record."""
    shard = f"{segment.key}.safetensors" if samples else None
    if shard is not None:
        shards.write_shard(out / "shards" / shard, samples)
    record = {
        "video": segment.name, "segment": segment.number, "shard": shard,
        "samples": [sample.info | {"signature": _signature(sample)} for sample in samples],
        "left_out": left_out, "error": error, "seconds": {"total": round(seconds, 3)},
    }  # fmt: skip
    write_json(out / "records" / f"{segment.key}.json", record)


def _windows(segment: Segment, settings: Settings) -> Iterator[tuple[int, list[Frame]]]:
    """Yield (start, T frames), of a video that is too short all there is, one window at a time."""
    length, count = settings.num_frames, 0
    window = deque(maxlen=length)
    frames = stream_video(
        segment.path, fps=settings.fps, size=(settings.height, settings.width),
        start=segment.first / settings.fps, max_frames=segment.last - segment.first + length - 1,
    )  # fmt: skip
    for count, color in enumerate(frames, start=1):
        window.append(Frame(color))
        start = segment.first + count - length
        if count >= length and start % settings.every == 0:
            yield start, list(window)
    if count < length and segment.first == 0:
        yield 0, list(window)


def _signature(sample: Sample) -> dict[str, str]:
    """Return picture and slow motion in a few coarse cells: alike only for copies of a video."""
    picture = functional.adaptive_avg_pool2d(sample.image.float(), _CELLS)
    slow = functional.adaptive_avg_pool2d(pack_complex(sample.spectral[1:3]).flatten(0, 1), _CELLS)
    cells = {"picture": picture - picture.mean(), "motion": slow}
    units = {k: (v / v.norm().clamp(min=1e-9)).half().numpy() for k, v in cells.items()}
    return {kind: base64.b64encode(unit.tobytes()).decode() for kind, unit in units.items()}


def _on_cluster(
    segments: list[Segment], out: Path, settings: Settings, workers: int, scheduler: str | None
) -> Iterator[None]:
    """Do the segments on a dask cluster, our own or the scheduler's, and yield after each."""
    from distributed import Client, KilledWorker, LocalCluster, as_completed

    with ExitStack() as stack:
        if scheduler is None:
            quiet = {"dashboard_address": None, "silence_logs": 50}
            # Workers inherit what is blocked: a terminal's signals are for this process alone.
            block = signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP}
            before = signal.pthread_sigmask(*block)
            resource_tracker.ensure_running()  # which unblocks one
            signal.pthread_sigmask(*block)
            try:
                size = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0}
                cluster = stack.enter_context(LocalCluster(**size, **quiet))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            client = Client(scheduler or cluster, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            problem = f"no dask scheduler answers at {scheduler} ({error})"
            raise GidliteError(f"{problem}; start one with dask scheduler") from None
        stack.enter_context(client)
        futures = {
            client.submit(extract_segment, s, out, settings, key=f"extract-{s.key}", pure=False): s
            for s in segments
        }
        for future in as_completed(futures, loop=client.loop):
            try:
                future.result()
            except KilledWorker:  # a record keeps the file from bringing down more workers
                _keep(futures[future], out, error="its decoder crashed every worker that tried")
            yield


def _finish(out: Path, segments: list[Segment], refused: dict[str, str]) -> Report:
    """Write the index from the records, leaving out samples that another video already has."""
    nothing = {"samples": 0, "rejected": Counter(), "stabilised": 0}
    videos, kept_in, records = {}, [], _read_records(out, segments)
    for record, kept in zip(records, _unique(records), strict=True):
        video = videos.setdefault(record["video"], dict(nothing))
        video["samples"] += len(kept)
        reasons = [left["reason"] for left in record["left_out"]]
        reasons += ["duplicate"] * (len(record["samples"]) - len(kept))
        video["rejected"] = video["rejected"] + Counter(reasons)
        video["stabilised"] += sum("stabilised" in s["checks"] for s in record["samples"])
        if record["error"]:
            video["error"] = record["error"]
        if record["shard"]:
            kept_in.append({"file": record["shard"], "samples": kept})
    for name, reason in refused.items():
        videos[name] = nothing | {"error": reason}
    rejected = sum((video["rejected"] for video in videos.values()), Counter())
    stabilised = sum(video["stabilised"] for video in videos.values())
    summary = {"rejected": dict(rejected.most_common()), "stabilised": stabilised, "videos": videos}
    seconds = sum(record["seconds"] for record in records)
    samples = shards.finish_folder(out, kept_in, report=summary)
    return Report(samples, **summary, seconds=round(seconds, 2))


def _read_records(out: Path, segments: list[Segment]) -> list[dict[str, Any]]:
    """Return all records, those of earlier runs too, with the names that videos have now."""
    records = [_read_record(path) for path in (out / "records").glob("[!.]*.json")]
    names = {record["mark"]: record["video"] for record in records}
    names |= {segment.mark: segment.name for segment in segments}
    times = Counter(names.values())
    for record in records:
        name = names[record["mark"]]
        record["video"] = name if times[name] == 1 else f"{name} ({record['mark']})"
    return sorted(records, key=lambda record: (record["video"], record["segment"]))


def _read_record(path: Path) -> dict[str, Any]:
    """Return a record and its ``mark``, its signatures as vectors; refuse one that is damaged."""
    try:
        record = json.loads(path.read_text()) | {"mark": path.stem.split("_")[0]}
        record["seconds"] = float(record["seconds"].get("total", 0))
        whole = [isinstance(record[name], kind) for name, kind in _FIELDS.items()]
        whole += [isinstance(left["reason"], str) for left in record["left_out"]]
        for sample in record["samples"]:
            sample["start"] = float(sample["start"])
            for kind, code in sample["signature"].items():
                unit = np.frombuffer(base64.b64decode(code), "<f2").astype(np.float32)
                sample["signature"][kind] = unit
            whole.append(isinstance(sample["checks"], dict))
            whole.append(len(sample["signature"]["picture"]) == 3 * _CELLS[0] * _CELLS[1])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = [False]
    require(all(whole), f"{path} is damaged; delete it and run the same command again")
    return record


def _unique(records: list[dict[str, Any]]) -> list[list[int]]:
    """Return for each record the rows to keep: the first of samples that show the same moment."""
    keep: list[list[int]] = [[] for _ in records]
    rows = [(r, n) for r, record in enumerate(records) for n in range(len(record["samples"]))]
    samples = [records[r]["samples"][n] for r, n in rows]
    starts = np.array([sample["start"] for sample in samples])
    marks = np.array([records[r]["mark"] for r, _ in rows])
    kinds = "picture", "motion"
    pictures, motions = (np.array([s["signature"][kind] for s in samples]) for kind in kinds)
    accepted = np.zeros(len(rows), bool)
    for place, (r, n) in enumerate(rows):
        alike = np.minimum(pictures[:place] @ pictures[place], motions[:place] @ motions[place])
        near = np.abs(starts[:place] - starts[place]) <= _OVERLAP_SECONDS
        overlap = near & (marks[:place] == marks[place])
        if not (accepted[:place] & (alike > _SAME) & ~overlap).any():
            accepted[place] = True
            keep[r].append(n)
    return keep
