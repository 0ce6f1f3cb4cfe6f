"""What to extract: videos found, checked at the door, and cut into segments of work."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gidlite.data.screening import Segment, Settings, extract_segment
from gidlite.data.shards import finish_folder, write_json
from gidlite.errors import DiskFullError, GidliteError
from gidlite.media.reader import find_videos, probe_video

_MOST_PIXELS = 8192 * 4352  # a little over 8K; larger headers are mistakes or attacks


@dataclass(frozen=True)
class Plan:
    """All segments, and the videos that were turned away with the reason."""

    segments: list[Segment]
    refused: dict[str, str]


def _fingerprint(path: Path) -> str:
    """Return a hash of size, beginning, middle and end: enough to know a file again quickly."""
    size, block = path.stat().st_size, 1 << 20
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for offset in (0, max(0, size // 2 - block // 2), max(0, size - block)):
            file.seek(offset)
            digest.update(file.read(block))
    return digest.hexdigest()[:16]


def make_plan(videos: list[tuple[Path, str]], settings: Settings) -> Plan:
    """Look at every header, and cut what can be used into segments.

    A video whose header does not tell its duration is one segment, however long.
    """
    segments: list[Segment] = []
    refused: dict[str, str] = {}
    known: dict[str, str] = {}
    step = settings.starts_per_segment * settings.every
    for path, name in videos:
        try:
            info = probe_video(path)
            mark = _fingerprint(path)
        except (GidliteError, OSError) as error:
            refused[name] = f"unreadable: {str(error).replace(str(path), name)}"
            continue
        if info.width * info.height > _MOST_PIXELS:
            refused[name] = f"too large: {info.width}x{info.height} pixels"
            continue
        if mark in known:
            refused[name] = f"same file as {known[mark]}"
            continue
        known[mark] = name
        frames = math.inf if info.seconds is None else math.ceil(info.seconds * settings.fps)
        starts = max(1, frames - settings.num_frames + 1)
        count = 1 if math.isinf(starts) else math.ceil(starts / step)
        for number in range(count):
            # The last segment is open-ended: headers are often a little wrong.
            last = (number + 1) * step if number + 1 < count else 1 << 40
            place = os.fspath(path)
            segments.append(Segment(place, name, mark, number, number * step, last))
    return Plan(segments, refused)


Progress = Callable[[int, int], None]
# Two samples whose pictures and slow motions both correlate so well show the same moment.
_SAME = 0.98


@dataclass(frozen=True)
class Report:
    """What became of every video.

    Attributes:
        samples: Samples in the index.
        rejected: Start frames left out, by reason.
        stabilised: Samples whose slight camera motion was removed.
        videos: By name: ``samples``, ``rejected``, and ``error`` if there was one.
        seconds: Time spent decoding, on flow, and in all, summed over workers.
    """

    samples: int
    rejected: dict[str, int]
    stabilised: int
    videos: dict[str, dict[str, Any]]
    seconds: dict[str, float]


def run_extraction(
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    settings: Settings | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Turn videos into a folder of shards; run again, it goes on where it stopped.

    Args:
        inputs: Videos, folders, glob patterns.
        out: Folder for shards; on a cluster, one that every machine sees under the same path, as
            it does the videos.
        settings: How samples are made.
        workers: Processes on this machine; all cores by default. With 1, no process is started.
        scheduler: Address of a running dask scheduler, to use its workers instead.
        progress: Called with (segments done, segments in all).

    Raises:
        DiskFullError: If the disk is full; what was finished stays.
        GidliteError: If there is nothing to read, the folder holds samples made with other
            settings, or the scheduler cannot be reached.
    """
    settings = settings or Settings()
    out = Path(out).resolve()
    plan = make_plan(find_videos(inputs), settings)
    _prepare(out, settings)
    left = [s for s in plan.segments if not _record_path(out, s).exists()]
    total, done = len(plan.segments), len(plan.segments) - len(left)
    if progress is not None:
        progress(done, total)
    for _ in _run(left, out, settings, workers, scheduler):
        done += 1
        if progress is not None:
            progress(done, total)
    return _finish(out, plan)


def _record_path(out: Path, segment: Segment) -> Path:
    return out / "records" / f"{segment.key}.json"


def _prepare(out: Path, settings: Settings) -> None:
    """Refuse a folder of other settings; clear what killed processes left half-written."""
    path = out / "settings.json"
    if path.is_file():
        theirs = json.loads(path.read_text())
        ours = settings.to_json()
        if differing := [k for k in ours if theirs.get(k) != ours[k]]:
            raise GidliteError(
                f"{out} holds samples made with another {' and '.join(differing)}; "
                "use the same options or another folder"
            )
    else:
        write_json(path, settings.to_json())
    for stale in out.glob("*/.gidlite-*"):
        stale.unlink(missing_ok=True)


def _run(
    segments: list[Segment], out: Path, settings: Settings, workers, scheduler
) -> Iterator[dict[str, Any]]:
    """Do the segments and yield their records as they are finished."""
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise GidliteError(f"--workers is {workers}; it must be at least 1")
    if not segments:
        return
    if scheduler is None and (workers == 1 or len(segments) == 1):
        for segment in segments:
            yield extract_segment(segment, out, settings)
        return
    with _client(min(workers, len(segments)), scheduler) as client:
        yield from _gather(client, segments, out, settings)


@contextmanager
def _client(workers: int, scheduler: str | None):
    """Yield a dask client: of a cluster of our own processes, or of the given scheduler."""
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise GidliteError(
                f"no dask scheduler answers at {scheduler} ({error}); start one with dask scheduler"
            ) from None
        with client:
            yield client
        return
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None,
        memory_limit=0, silence_logs=50,
    )  # fmt: skip
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


def _gather(client, segments, out: Path, settings: Settings) -> Iterator[dict[str, Any]]:
    from distributed import KilledWorker, as_completed

    futures = {
        client.submit(
            extract_segment, segment, os.fspath(out), settings, key=f"extract-{segment.key}",
            pure=False,
        ): segment
        for segment in segments
    }  # fmt: skip
    try:
        for future in as_completed(futures, loop=client.loop):
            segment = futures[future]
            try:
                yield future.result()
            except KilledWorker:
                # The file brought down several workers: keep it from doing so again.
                record = _crashed(segment)
                write_json(_record_path(out, segment), record)
                yield record
            future.release()
    except DiskFullError:
        client.cancel(list(futures))
        raise


def _crashed(segment: Segment) -> dict[str, Any]:
    return {
        "video": segment.name, "segment": segment.number, "shard": None, "samples": [],
        "starts": 0, "stabilised": 0, "left_out": [], "seconds": {},
        "error": "its decoder crashed every worker that tried",
    }  # fmt: skip


def _finish(out: Path, plan: Plan) -> Report:
    """Write the index from the records, leaving out samples that another video already has."""
    records = [
        json.loads(path.read_text())
        for path in sorted((out / "records").glob("*.json"), key=lambda p: p.name)
    ]
    records.sort(key=lambda r: (r["video"], r["segment"]))
    shards, videos = [], {}
    rejected, seconds, stabilised = Counter(), Counter(), 0
    for record, kept in zip(records, _unique(records), strict=True):
        video = videos.setdefault(
            record["video"], {"samples": 0, "rejected": Counter(), "stabilised": 0}
        )
        video["samples"] += len(kept)
        video["rejected"].update(left["reason"] for left in record["left_out"])
        if copies := len(record["samples"]) - len(kept):
            video["rejected"]["duplicate"] += copies
        video["stabilised"] += record["stabilised"]
        if record["error"]:
            video["error"] = record["error"]
        seconds.update(record["seconds"])
        stabilised += record["stabilised"]
        if record["shard"]:
            shards.append({"file": record["shard"], "samples": kept})
    for name, reason in plan.refused.items():
        videos[name] = {"samples": 0, "rejected": Counter(), "stabilised": 0, "error": reason}
    for video in videos.values():
        rejected.update(video["rejected"])
        video["rejected"] = dict(video["rejected"])
    summary = {"rejected": dict(rejected.most_common()), "stabilised": stabilised, "videos": videos}
    folder = finish_folder(out, shards, report=summary)
    rounded = {k: round(v, 2) for k, v in seconds.items()}
    return Report(len(folder), summary["rejected"], stabilised, videos, rounded)


def _unique(records: list[dict[str, Any]]) -> list[list[int]]:
    """Return for each record the rows to keep: the first of samples that show the same moment.

    Overlapping stretches of one video are not copies: they start at different moments.
    """
    places = [(r, n) for r, record in enumerate(records) for n in range(len(record["samples"]))]
    keep: list[list[int]] = [[] for _ in records]
    if not places:
        return keep
    signatures = {
        kind: np.stack(
            [
                np.frombuffer(
                    base64.b64decode(records[r]["samples"][n]["signature"][kind]), np.float16
                )
                for r, n in places
            ]
        ).astype(np.float32)
        for kind in ("picture", "motion")
    }
    accepted = np.zeros(len(places), bool)
    for begin in range(0, len(places), 1024):
        blocks = [s[begin : begin + 1024] @ s[: begin + 1024].T for s in signatures.values()]
        for offset, row in enumerate(np.minimum(*blocks)):
            number = begin + offset
            alike = np.flatnonzero((row[:number] > _SAME) & accepted[:number])
            r, n = places[number]
            if not any(_apart(records, places[other], (r, n)) for other in alike):
                accepted[number] = True
                keep[r].append(n)
    return keep


def _apart(records: list[dict[str, Any]], one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two samples are from different videos or far apart in time."""
    first, second = (records[r]["samples"][n] for r, n in (one, other))
    return first["source"] != second["source"] or abs(first["start"] - second["start"]) > 5
