"""Checkpoints: safetensors shards under 16 MiB and a JSON of settings, replaced as a whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gidlite._checks import GidliteError
from gidlite.autoencoder import encode, make_autoencoder
from gidlite.dataset import MotionDataset
from gidlite.normalize import normalize, stats_of_variant

__all__ = ["averaged_autoencoder", "load_checkpoint", "save_sharded", "with_prefix"]

_SHARD_BYTES = 15 << 20


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def save_sharded(tensors: dict[str, Tensor], folder: Path, meta: str) -> None:
    """Write tensors as safetensors files under 16 MiB, replacing the folder as a whole."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous().clone()
        size = tensor.numel() * tensor.element_size()
        if used + size > _SHARD_BYTES and shards[-1]:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += size
    for number, shard in enumerate(shards):
        save_file(shard, fresh / f"shard_{number:03d}.safetensors")
    (fresh / "meta.json").write_text(meta)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(out: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Return all tensors and the metadata of the checkpoint in a run folder.

    Raises:
        GidliteError: If there is no complete checkpoint.
    """
    for name in ("checkpoint", "checkpoint.old"):
        folder = Path(out) / name
        if (folder / "meta.json").is_file():
            tensors: dict[str, Tensor] = {}
            for shard in sorted(folder.glob("shard_*.safetensors")):
                tensors |= load_file(shard)
            return tensors, json.loads((folder / "meta.json").read_text())
    raise GidliteError(f"{out} holds no checkpoint to read; check --out, or train without --resume")


def averaged_autoencoder(run: Path, dataset: MotionDataset, device: str):
    """Return the autoencoder of a finished run, scaled to unit-variance latents, and its stats."""
    tensors, meta = load_checkpoint(run)
    stats = stats_of_variant(
        tensors["stats.scale"], meta["config"]["percentile"], meta["config"]["normalization"]
    )
    autoencoder = make_autoencoder(tuple(meta["config"]["autoencoder_channels"]))
    autoencoder.load_state_dict(with_prefix(tensors, "averaged.module."))
    volumes = torch.stack([dataset[n]["spectral"].cpu() for n in range(32)])
    with torch.no_grad():
        deviation = encode(autoencoder, normalize(volumes, stats)).std().item()
    autoencoder.register_to_config(scaling_factor=1 / deviation)
    return autoencoder.to(device), stats
