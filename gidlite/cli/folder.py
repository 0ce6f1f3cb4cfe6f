"""A folder of photos: a process a core animates one after another, and a report tells of each."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from itertools import islice
from multiprocessing import connection, get_context, parent_process, resource_tracker
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import psutil

from gidlite import cli, errors
from gidlite.errors import GidliteError, plain, require

if TYPE_CHECKING:
    from gidlite.cli.photo import Animator

_PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".tif", ".tiff", ".bmp")
_BYTES, _BYTES_PER_PIXEL = 7e8, 800  # of a process, and of a square as wide as its video
_SOON = 1.5  # seconds in which a process that is told to end may tidy up
Entry = dict[str, Any]  # what the report says of a photo


def animate_folder(
    folder: Path, output: Path | None, animate: Animator, workers: int | None
) -> None:
    """Animate the photos of a folder, but those that its report has as done already.

    An error that names neither photo nor video concerns all of them and ends the work. Others are
    told as they come, and the last ``GidliteError`` says how many there were.
    """
    settings, photos = _settings(folder, animate), _find_photos(folder)
    workers = os.cpu_count() or 1 if workers is None else workers
    require(workers >= 1, f"--workers is {workers}; it must be at least 1")
    if output is None:
        place = folder if folder.name.strip(".") else Path(os.path.abspath(folder))
        output = place.with_name(f"{place.name}_{'loops' if animate.video.loop else 'videos'}")
    named = output.name.strip(".") and output.suffix.lower() not in (".mp4", ".gif", ".webp")
    require(bool(named), f"--output is {output}; name a folder for the videos of {folder}")
    report, origin = output / "report.json", os.path.relpath(folder.resolve(), output.resolve())
    with errors.alone(output), errors.protected(*photos):
        known = _read_report(report, origin)
        done = {p: e for p in photos if _is_done(e := known.get(p.name), p, output, settings)}
        videos = {p: output / (done[p]["video"] if p in done else animate.name(p)) for p in photos}
        name, count = Counter(v.name.casefold() for v in videos.values()).most_common(1)[0]
        require(count == 1, f"{count} photos would be {output / name}; give one another name")
        left = [(photo, video) for photo, video in videos.items() if photo not in done]
        each = _BYTES + _BYTES_PER_PIXEL * min(animate.video.width, 4096) ** 2
        able = max(1, int(psutil.virtual_memory().available / each))
        workers = min(workers, len(left))
        told = f"{able}, as memory allows no more" if able < workers else workers
        cli.say(f"{len(photos)} photos, {len(done)} done already; workers: {told}.")
        work = _in_processes(min(able, workers), left, (animate, settings, photos))
        with closing(work) as finished, cli.progress_bar("Animating") as progress:
            for photo, entry in finished:
                done[photo] = entry
                _write_report(report, origin, {p.name: done.get(p) for p in photos})
                if error := entry.get("error"):
                    cli.say(error, word="Error")
                else:
                    notes = "  ".join([f"{entry['seconds']:.1f} s", *entry["notes"]])
                    cli.say(f"{videos[photo]}  {notes}")
                progress(len(done), len(photos))
        _write_report(report, origin, {p.name: done[p] for p in photos})
    failed = sum("error" in entry for entry in done.values())
    require(not failed, f"{failed} of {len(photos)} photos could not be animated; see {report}")


def _settings(folder: Path, animate: Animator) -> dict[str, Any]:
    """Return what decides about a video, or refuse what is about the pixels of one photo."""
    settings = {name: value for part in asdict(animate).values() for name, value in part.items()}
    for name in ("xt", "mask", "still", "move"):
        advice = f"and {folder} is a folder; leave it out"
        require(not settings.pop(name), f"--{name} is for one photo, {advice}")
    if model := animate.prior.model:
        settings["model"] = [str(model), _hash(model)]
    return settings | {"wind": animate.prior.strength()}


def _find_photos(folder: Path) -> list[Path]:
    """Return what is named like a photo in a folder, in order; nothing hidden or deeper."""
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in _PHOTOS and not p.is_dir()]
    except OSError as error:
        raise GidliteError(f"{folder} cannot be read ({error.strerror}); give another") from None
    found = sorted(path for path in found if not path.name.startswith("."))
    require(bool(found), f"{folder} holds no photo; give a folder of {', '.join(_PHOTOS)}")
    return found


def _hash(path: Path) -> str:
    """Return a hash of what a file, or all files of a folder, hold."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        with suppress(OSError):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _is_done(entry: Any, photo: Path, output: Path, settings: dict[str, Any]) -> bool:
    """Return whether an entry is of this photo and these settings, and its video still whole."""
    if not isinstance(entry, dict) or entry.get("settings") != settings:
        return False
    return entry.get("sha256") == [_hash(photo), _hash(output / str(entry.get("video")))]


def _read_report(path: Path, origin: str) -> dict[str, Any]:
    """Return the entries of a report, if it is there; refuse one of another folder."""
    if not path.exists():
        return {}
    advice = "choose another folder with --output"
    try:
        report = json.loads(path.read_text())
        told, photos = report["folder"], dict(report["photos"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise GidliteError(f"{path} is no report of gidlite animate; {advice}") from None
    require(told == origin, f"{path} is of the photos in {told}; {advice}")
    return photos


def _write_report(path: Path, origin: str, photos: dict[str, Entry | None]) -> None:
    """Write an entry for every photo, null for one that is still to come."""
    known = [entry for entry in photos.values() if entry]
    failed, seconds = sum("error" in e for e in known), sum(e["seconds"] for e in known)
    totals = {"photos": len(photos), "animated": len(known) - failed, "failed": failed}
    report = {"folder": origin, "totals": totals | {"seconds": round(seconds, 2)}, "photos": photos}
    with errors.written(path) as hidden:
        hidden.write_text(json.dumps(report, indent=1) + "\n")


def _in_processes(
    workers: int, jobs: list[tuple[Path, Path]], work: tuple
) -> Iterator[tuple[Path, Entry]]:
    """Do jobs in processes and yield (photo, entry) of each; closed, it has ended them all."""
    todo, hired, busy = iter(jobs), [], {}
    spawn = get_context("spawn")  # threads of libraries do not survive a fork
    resource_tracker.ensure_running()  # which unblocks signals, but once

    def give(job: tuple[Path, Path], pipe: connection.Connection | None = None) -> None:
        if pipe is None:
            pipe, theirs = spawn.Pipe()
            hired.append(spawn.Process(target=_work, args=(theirs, *work), daemon=True))
            # Inherited, so that a terminal's signals are for this process alone.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
            hired[-1].start()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()  # so that its end is seen
        busy[pipe] = job[0]
        with suppress(OSError):  # of a process that has just died, as is seen below
            pipe.send(job)

    try:
        for job in islice(todo, workers):
            give(job)
        while busy:
            for pipe in connection.wait(list(busy)):
                photo = busy.pop(pipe)
                try:
                    entry = pipe.recv()
                except (EOFError, OSError):
                    told = "its process was killed, perhaps as memory ran out; use fewer --workers"
                    pipe, entry = None, {"error": plain(f"{photo}: {told}"), "seconds": 0.0}
                if isinstance(entry, GidliteError):
                    raise entry
                yield photo, entry
                for job in islice(todo, 1):
                    give(job, pipe)
    finally:
        for process in hired:
            process.terminate()
        end = time.monotonic() + _SOON
        for process in hired:
            process.join(max(0, end - time.monotonic()))
            process.kill()


def _work(
    pipe: connection.Connection, animate: Animator, settings: dict[str, Any], inputs: list[Path]
) -> None:
    """Do jobs from a pipe on one core, for as long as the process at its other end lives."""
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # before they are read
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    def follow() -> None:
        parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=follow, daemon=True).start()
    try:
        import torch

        torch.set_num_threads(1)
        cli.errors.quiet = True  # for its bars
        with errors.protected(*inputs), suppress(EOFError, OSError):
            while True:
                pipe.send(_do(*pipe.recv(), animate, settings))
    finally:
        os._exit(0)  # what is half-written is gone, and nothing else is waited for


def _do(
    photo: Path, video: Path, animate: Animator, settings: dict[str, Any]
) -> Entry | GidliteError:
    """Animate a photo; return what the report says of it, or an error that concerns all."""
    begun = time.monotonic()
    try:
        with cli.console.capture() as said, warnings.catch_warnings(record=True) as noted:
            farthest = animate(photo, video)
    except errors.DiskFullError as error:
        return error
    except Exception as error:  # the other photos may be better
        told, ours = str(error), isinstance(error, GidliteError)
        if ours and not any(plain(path) in told for path in (photo, video)):
            return error
        told = told if ours else plain(f"{photo} failed ({type(error).__name__}: {told})")
        return {"error": told, "seconds": round(time.monotonic() - begun, 2)}
    notes = [line for line in said.get().splitlines() if not line.startswith(plain(video))]
    notes += [str(w.message) for w in noted if issubclass(w.category, errors.GidliteWarning)]
    return {
        "video": video.name, "seconds": round(time.monotonic() - begun, 2), "notes": notes,
        "farthest_px_of_256": round(farthest, 2), "wind": settings["wind"],
        "seed": settings["seed"], "settings": settings, "sha256": [_hash(photo), _hash(video)],
    }  # fmt: skip
