"""Checkpoints: safetensors shards under 16 MB and a JSON of settings, replaced as a whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gidlite._checks import GidliteError
from gidlite.normalize import FrequencyStats, stats_of_variant
from gidlite.train.config import TrainConfig

__all__ = [
    "check_run_folder",
    "checkpoint_stats",
    "load_checkpoint",
    "read_meta",
    "save_sharded",
    "with_prefix",
]

_SHARD_BYTES = 15_000_000  # the rest of 16 MB is for the names


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def save_sharded(tensors: dict[str, Tensor], folder: Path, meta: dict) -> None:
    """Write tensors as safetensors files under 16 MB, replacing the folder as a whole.

    A tensor larger than a file is cut into flat pieces; ``meta["cut"]`` tells its shape.
    """
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    cut: dict[str, list[int]] = {}
    for number, shard in enumerate(_shards(tensors, cut)):
        save_file(shard, fresh / f"shard_{number:03d}.safetensors")
    (fresh / "meta.json").write_text(json.dumps(meta | {"cut": cut}, indent=1))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _shards(tensors: dict[str, Tensor], cut: dict[str, list[int]]) -> Iterator[dict[str, Tensor]]:
    """Yield tensors in groups that fit a file; note the shapes of those in pieces in ``cut``."""
    shard: dict[str, Tensor] = {}
    used = 0
    for name, tensor in tensors.items():
        pieces = {name: tensor}
        if tensor.nbytes > _SHARD_BYTES:
            cut[name] = list(tensor.shape)
            flat = tensor.flatten().split(_SHARD_BYTES // tensor.element_size())
            pieces = {f"{name}@{number}": piece for number, piece in enumerate(flat)}
        for key, piece in pieces.items():
            if shard and used + piece.nbytes > _SHARD_BYTES:
                yield shard
                shard, used = {}, 0
            # A copy: safetensors refuses tensors that share memory, such as tied weights.
            shard[key] = piece.detach().to("cpu", copy=True).contiguous()
            used += piece.nbytes
    yield shard


def _folder(out: str | Path) -> Path:
    """Return the folder of the checkpoint; the old one, if a save was interrupted half-way.

    Raises:
        GidliteError: If there is no complete checkpoint.
    """
    for name in ("checkpoint", "checkpoint.old"):
        if (Path(out) / name / "meta.json").is_file():
            return Path(out) / name
    raise GidliteError(f"{out} holds no checkpoint to read; check --out, or train without --resume")


def read_meta(out: str | Path) -> dict:
    """Return the settings and counters of the checkpoint in a run folder.

    Raises:
        GidliteError: If there is no complete checkpoint.
    """
    return json.loads((_folder(out) / "meta.json").read_text())


def load_checkpoint(out: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Return all tensors and the metadata of the checkpoint in a run folder.

    Raises:
        GidliteError: If there is no complete checkpoint.
    """
    tensors: dict[str, Tensor] = {}
    for shard in sorted(_folder(out).glob("shard_*.safetensors")):
        tensors |= load_file(shard)
    meta = read_meta(out)
    for name, shape in meta.get("cut", {}).items():
        count = sum(key.startswith(f"{name}@") for key in tensors)
        pieces = [tensors.pop(f"{name}@{number}") for number in range(count)]
        tensors[name] = torch.cat(pieces).view(shape)
    return tensors, meta


def check_run_folder(config: TrainConfig, out: str | Path, *, resume: bool) -> None:
    """Refuse to train into a folder that does not fit.

    Raises:
        GidliteError: If ``resume`` finds no checkpoint or one of other settings, or if there is
            a checkpoint and ``resume`` was not asked for.
    """
    if not resume:
        if any((Path(out) / name).exists() for name in ("checkpoint", "checkpoint.old")):
            raise GidliteError(f"{out} already holds a checkpoint; pass --resume or another --out")
        return
    theirs, ours = read_meta(out)["config"], config.to_json()
    if differing := [key for key, value in theirs.items() if ours.get(key) != value]:
        raise GidliteError(
            f"cannot resume {out}: {', '.join(differing)} differ from the checkpoint; use the "
            "config it was trained with, or another --out"
        )


def checkpoint_stats(tensors: dict[str, Tensor], meta: dict) -> FrequencyStats:
    """Return the frequency statistics a checkpoint was trained with."""
    config = meta["config"]
    return stats_of_variant(tensors["stats.scale"], config["percentile"], config["normalization"])
