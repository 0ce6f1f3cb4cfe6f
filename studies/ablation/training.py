"""Trains the rows: parts that rows share once, and nothing that is there already."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gidlite.data.splits import STATISTICS
from gidlite.errors import GidliteError
from gidlite.motion.normalize import FrequencyStats, fit_frequency_stats
from gidlite.pipeline import GidPipeline
from gidlite.prior.denoiser import GridPrior
from gidlite.train import RunOptions, TrainConfig, checkpoint_file, load_checkpoint, load_parts
from gidlite.train.loop import train
from studies.ablation.blind import BLIND, blinded
from studies.ablation.rows import Preset, Row, part_config
from studies.ablation.scenes import StoredScenes, scene_settings, store_scenes

_PARTS = ("vae", "amplitude", "prior")
_ARCHIVE_BYTES = 15_500_000
Say = Callable[[str], None]


def scenes_path(out: str | Path) -> Path:
    """Return where the scenes of an ablation lie."""
    return Path(out) / "scenes.safetensors"


def train_rows(
    rows: Sequence[Row],
    preset: Preset,
    out: str | Path,
    *,
    device: str = "cpu",
    sprites: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    minutes: float | None = None,
    say: Say = lambda text: None,
) -> list[str]:
    """Train every row that has weights of its own and is not finished; return finished models.

    All rows of a seed are trained on the same scenes, steps and scenes per step. Parts
    whose settings agree, as the autoencoder of "full" and "independent" does, are trained once.
    A run that was stopped goes on where it was.

    Args:
        rows: Others than trained ones are skipped.
        preset: How much training.
        out: Folder: ``parts`` holds runs, ``models`` a half-precision pipeline per finished row.
        device: Where.
        sprites: Folder of photographic pieces, for scenes that are not there yet.
        seeds: Of training; every row is trained with the first one before any is with the next.
        minutes: Stop cleanly after this long.
        say: Told what happens.

    Raises:
        GidliteError: If the scenes in the folder are of another preset.
    """
    started = time.monotonic()
    out = Path(out)
    path = scenes_path(out)
    store_scenes(path, preset, sprites=sprites, device=device)
    say(f"scenes are there after {time.monotonic() - started:.0f} s")
    scenes = json.dumps(scene_settings(preset, sprites))
    finished = []
    for row in (replace(row, seed=seed) for seed in seeds for row in rows if row.trained):
        if not _is_finished(row, preset, out, scenes):
            left = None if minutes is None else minutes - (time.monotonic() - started) / 60
            if not _train_row(
                row, preset, out, scenes=scenes, device=device, minutes=left, say=say
            ):
                say(f"{row.model}: stopped before its end; run again to go on")
                break
        say(f"{row.model}: finished after {time.monotonic() - started:.0f} s")
        finished.append(row.model)
    return finished


def _part_folders(row: Row, preset: Preset, out: Path, scenes: str) -> dict[str, Path]:
    """Return the run folder of every part: named by all that it is a function of."""
    folders, key = {}, scenes
    for part in _PARTS:
        key += row.blind if part in BLIND.get(row.blind, {}) else ""
        key += json.dumps(part_config(row, preset, part).to_json(), sort_keys=True)
        folders[part] = out / "parts" / f"{part}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    return folders


def _is_finished(row: Row, preset: Preset, out: Path, scenes: str) -> bool:
    """Return whether the row's pipeline is there and made of these settings."""
    try:
        found = json.loads((out / "models" / row.model / "row.json").read_text())
    except (OSError, ValueError):
        return False
    names = {part: path.name for part, path in _part_folders(row, preset, out, scenes).items()}
    return found["parts"] == names


def _train_row(
    row: Row, preset: Preset, out: Path, *, scenes: str, device: str, minutes: float | None,
    say: Say,
) -> bool:  # fmt: skip
    """Train what the row lacks; return whether it is whole."""
    folders = _part_folders(row, preset, out, scenes)
    late = time.monotonic() + 60 * minutes if minutes is not None else None
    bins = part_config(row, preset, "vae").num_frequencies
    source = StoredScenes(scenes_path(out), num_frequencies=bins, device=device)
    stats = _stats(part_config(row, preset, "vae"), source)
    runs: list[Path] = []
    for part, folder in folders.items():
        left = (late - time.monotonic()) / 60 if late is not None else None
        config = part_config(row, preset, part)
        if not (folder / "done.json").is_file():
            if left is not None and left <= 0:
                return False
            with blinded(row.blind):
                seconds = _train_part(config, folder, runs, source, stats, device, left)
            if seconds is None:
                return False
            say(f"{row.model}: {part} trained for {seconds:.0f} s")
        runs.append(folder)
    parts, _ = load_parts(runs)
    pipeline = GidPipeline(GridPrior(**parts, stats=stats), name=f"ablation {row.model}")
    _export(pipeline, row, out / "models" / row.model, folders)
    return True


def _stats(config: TrainConfig, source: StoredScenes) -> FrequencyStats:
    held_out = STATISTICS[: source.held_out]
    volumes = (source.example(number).spectral.cpu() for number in held_out)
    return fit_frequency_stats(
        volumes, percentile=config.percentile, variant=config.normalization
    )  # fmt: skip


def _train_part(
    config: TrainConfig, folder: Path, runs: list[Path], source: StoredScenes,
    stats: FrequencyStats, device: str, minutes: float | None,
) -> float | None:  # fmt: skip
    """Train a part; return how long it took in all, or None if it was stopped before its end."""
    finished, _ = load_parts(runs)
    options = RunOptions(
        device=device, minutes=minutes, resume=checkpoint_file(folder).exists(),
        checkpoint_minutes=2.0,
    )  # fmt: skip
    train(config, folder, source.dataset(), stats=stats, parts=finished, options=options)
    meta = load_checkpoint(folder)[1]
    if meta["step"] < config.steps:
        return None
    done = {"seconds": meta["seconds"], "loss": meta["smoothed_loss"], "device": _hardware(device)}
    (folder / "done.json").write_text(json.dumps(done) + "\n")
    return meta["seconds"]


def _hardware(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


def _export(pipeline: GidPipeline, row: Row, folder: Path, runs: dict[str, Path]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder)
    done = {part: json.loads((run / "done.json").read_text()) for part, run in runs.items()}
    about = {
        "parts": {part: run.name for part, run in runs.items()},
        "train": row.train, "blind": row.blind,
        "steps": {part: load_checkpoint(run)[1]["step"] for part, run in runs.items()},
        "seconds": {part: done[part]["seconds"] for part in runs},
        "loss": {part: done[part]["loss"] for part in runs}, "device": done["prior"]["device"],
    }  # fmt: skip
    (folder / "row.json").write_text(json.dumps(about, indent=1) + "\n")


def trained_rows(out: str | Path) -> list[str]:
    """Return the names of the rows whose pipelines are there."""
    return sorted(path.parent.name for path in Path(out).glob("models/*/row.json"))


def pack_models(out: str | Path, folder: str | Path) -> list[Path]:
    """Write the half-precision pipelines of all finished rows as archives under 16 MB.

    Unpacked in one folder with ``tar -xf``, they are what the command ``measure --out`` takes.

    Returns:
        The archives, ``rows_0.tar`` and so on.

    Raises:
        GidliteError: If no row is finished.
    """
    names = trained_rows(out)
    if not names:
        raise GidliteError(f"{out} holds no finished row; run the command train first")
    Path(folder).mkdir(parents=True, exist_ok=True)
    archives: list[Path] = []
    used = math.inf
    for name in names:
        model = Path(out) / "models" / name
        size = sum(path.stat().st_size + 2048 for path in model.rglob("*"))
        if used + size > _ARCHIVE_BYTES:
            archives.append(Path(folder) / f"rows_{len(archives)}.tar")
            archives[-1].unlink(missing_ok=True)
            used = 0
        with tarfile.open(archives[-1], "a") as archive:
            archive.add(model, f"models/{name}")
        used += size
    return archives
