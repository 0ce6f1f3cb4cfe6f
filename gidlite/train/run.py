"""Training from the command line: collect the data and finished parts, train one part, keep it.

A run folder's ``model/`` holds the averaged weights and the frequency statistics; later parts
are trained on top of earlier ones found there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from gidlite._checks import GidliteError
from gidlite.dataset import MotionDataset
from gidlite.loading import load_part
from gidlite.normalize import FrequencyStats, load_stats, normalize, save_stats
from gidlite.pipeline import PARTS, GidPipeline
from gidlite.synthesis import SynthesisNet
from gidlite.train.checkpoint import checkpoint_stats, load_checkpoint
from gidlite.train.config import TrainConfig
from gidlite.train.data import make_dataset, make_pair_dataset
from gidlite.train.loop import check_finished, train
from gidlite.train.prefetch import Prefetched
from gidlite.train.processes import is_main_process, local_device

__all__ = ["keep_model", "load_parts", "run_training"]

_KINDS = {**PARTS, "renderer": SynthesisNet}
_NAME_OF_CLASS = {kind.__name__: name for name, kind in _KINDS.items()}
_STATS = "frequency_stats.safetensors"


def load_parts(runs: Sequence[str | Path]) -> tuple[dict[str, nn.Module], FrequencyStats | None]:
    """Return the trained networks of run folders by name, and their statistics.

    Raises:
        GidliteError: If a folder holds no finished part.
    """
    parts: dict[str, nn.Module] = {}
    stats = None
    for run in runs:
        name, part = _load_part(run)
        parts[name] = part
        stats = load_stats(Path(run) / "model" / _STATS)
    return parts, stats


def _load_part(run: str | Path) -> tuple[str, nn.Module]:
    """Return name and network of a run folder, or of a folder of a pipeline."""
    folder = Path(run) / "model"
    folder = folder if folder.exists() else Path(run)
    try:
        name = _NAME_OF_CLASS[json.loads((folder / "config.json").read_text())["_class_name"]]
        return name, load_part(_KINDS[name], folder)
    except (OSError, KeyError):
        raise GidliteError(
            f"{run} holds no trained part (no model/ of one); train it first"
        ) from None
    except ValueError as error:
        raise GidliteError(f"{run} holds a damaged part ({error}); train it again") from None


def run_training(
    config: TrainConfig,
    out: str | Path,
    *,
    sprites: str | Path | None = None,
    data: Sequence[str | Path] = (),
    parts: Sequence[str | Path] = (),
    start: str | Path | None = None,
    export: str | Path | None = None,
    device: str = "cpu",
    workers: int = 0,
    **options,
) -> None:
    """Train one part and write it to ``out/model``.

    Args:
        config: What and how.
        out: Run folder.
        sprites: Folder of photographic pieces.
        data: Folders of real shards; for the renderer, of real pairs.
        parts: Run folders of the parts it builds on.
        start: Run folder, or part of a pipeline, whose weights to start from.
        export: Where to write a pipeline of all parts, after "prior" or "coordinate", or the
            network in half precision, after "renderer".
        device: Where to train.
        workers: Processes that make examples ahead; 0 makes them between steps, on the device,
            and so does the renderer.
        **options: As of ``train``.

    Raises:
        GidliteError: As ``train``; also if a part it builds on is missing.
    """
    device = local_device(device)
    finished, stats = load_parts(parts)
    check_finished(config, finished)
    start = None if start is None else _load_part(start)[1]
    if config.part == "renderer":  # frames of a scene are made together, best on the device
        dataset = make_pair_dataset(config, sprites=sprites, data=data, device=device)
    else:
        made_on = "cpu" if workers else device
        dataset = make_dataset(config, sprites=sprites, data=data, device=made_on)
        dataset = Prefetched(dataset, workers) if workers else dataset
    model = train(
        config, out, dataset=dataset, device=device, stats=stats, start=start, **finished, **options
    ).cpu()
    if not is_main_process():
        return
    if config.part == "renderer":
        model.save_pretrained(Path(out) / "model")
        if export is not None:
            model.half().save_pretrained(export)
        return
    stats = stats or checkpoint_stats(*load_checkpoint(out))
    keep_model(config, model, out, dataset=dataset, stats=stats)
    if export is not None and config.part in ("prior", "coordinate"):
        pipeline = GidPipeline(
            finished["autoencoder"], finished["amplitude"], model, stats,
            num_frames=config.num_frames, fps=config.fps, name=Path(out).name,
        )  # fmt: skip
        pipeline.save_pretrained(export)


def keep_model(
    config: TrainConfig,
    model: nn.Module,
    out: str | Path,
    *,
    dataset: MotionDataset,
    stats: FrequencyStats,
) -> None:
    """Write a trained part, on the CPU, to ``out/model``; ``load_parts`` reads it."""
    if config.part == "vae" and not config.decoder_only:
        _fit_scaling(model, dataset, stats)
    model.save_pretrained(Path(out) / "model")
    save_stats(Path(out) / "model" / _STATS, stats)


@torch.no_grad()
def _fit_scaling(autoencoder, dataset: MotionDataset, stats: FrequencyStats) -> None:
    """Bring latents to unit variance, measured on examples that were never trained on."""
    items = dataset.take(range(10**9, 10**9 + 32))
    volumes = torch.stack([item["spectral"].cpu() for item in items])
    autoencoder.register_to_config(scaling_factor=1.0)
    deviation = autoencoder.encode(normalize(volumes, stats)).std().item()
    autoencoder.register_to_config(scaling_factor=1 / deviation)
