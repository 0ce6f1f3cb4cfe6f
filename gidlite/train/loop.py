"""Training one part: its statistics, its task, and the loop that runs it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from gidlite._checks import GidliteError
from gidlite.dataset import MotionDataset
from gidlite.normalize import FrequencyStats
from gidlite.pairs import PairDataset
from gidlite.train.checkpoint import check_run_folder, checkpoint_stats, load_checkpoint
from gidlite.train.config import TrainConfig
from gidlite.train.data import fit_stats
from gidlite.train.engine import train_task
from gidlite.train.interface import Pace, Report, Task
from gidlite.train.processes import local_device, private_randomness
from gidlite.train.renderer import RendererTask
from gidlite.train.tasks import AmplitudeTask, AutoencoderTask, PriorTask

__all__ = ["TASKS", "check_finished", "make_task", "train"]


# The task of each part, and the trained networks it needs, by the names of its arguments.
TASKS: dict[str, tuple[Callable[..., Task], tuple[str, ...]]] = {
    "vae": (AutoencoderTask, ()),
    "amplitude": (AmplitudeTask, ("autoencoder",)),
    "prior": (PriorTask, ("autoencoder", "amplitude")),
    "coordinate": (PriorTask, ("autoencoder", "amplitude", "denoiser")),
    "renderer": (RendererTask, ()),
}


def check_finished(config: TrainConfig, finished: dict[str, nn.Module | None]) -> None:
    """Refuse to train a part on top of parts that are not there.

    Raises:
        GidliteError: If a trained network is missing.
    """
    _, needed = TASKS[config.part]
    if missing := [name for name in needed if finished.get(name) is None]:
        raise GidliteError(
            f"training {config.part} needs a trained {' and '.join(missing)}; "
            "name their run folders with --parts"
        )


def make_task(
    config: TrainConfig,
    dataset: MotionDataset | PairDataset,
    stats: FrequencyStats | None,
    device: torch.device | str,
    **finished: nn.Module | None,
) -> Task:
    """Return the task of ``config.part``; its initial weights come from torch's global state.

    Args:
        config: What to train.
        dataset: What to learn from.
        stats: Frequency statistics; the renderer needs none.
        device: Where.
        **finished: Trained networks, such as ``autoencoder``; those not needed are ignored.

    Raises:
        GidliteError: If a trained network is missing.
    """
    check_finished(config, finished)
    kind, needed = TASKS[config.part]
    return kind(config, dataset, stats, device, **{name: finished[name] for name in needed})


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    dataset: MotionDataset | PairDataset,
    device: torch.device | str = "cpu",
    minutes: float | None = None,
    resume: bool = False,
    stats: FrequencyStats | None = None,
    start: nn.Module | None = None,
    checkpoint_every_minutes: float = 5.0,
    log_every: int = 20,
    report: Report | None = None,
    **finished: nn.Module | None,
) -> nn.Module:
    """Train one part and return it with averaged (EMA) weights; see ``train_task``.

    Args:
        config: What and how.
        out: Folder for checkpoints, ``log.csv`` and sheets.
        dataset: What to learn from, see ``make_dataset``.
        device: Where to train; in one of several processes on "cuda", its own GPU.
        minutes: Stop cleanly after this long; otherwise after ``config.steps``.
        resume: Continue from the checkpoint in ``out``.
        stats: Frequency statistics; if not given, those of the checkpoint or fitted first.
        start: A network of the same kind and size whose weights to start from.
        checkpoint_every_minutes: Time between checkpoints.
        log_every: Steps between rows of the log.
        report: Called with (step, smoothed loss, steps per second) at every row of the log.
        **finished: Trained networks that the part needs, such as ``autoencoder``.

    Raises:
        GidliteError: As ``train_task`` and ``make_task``; also if there is no such device.
    """
    pace = Pace(minutes, checkpoint_every_minutes, log_every, started=time.monotonic())
    check_run_folder(config, out, resume=resume)  # before the minutes that statistics take
    device = local_device(device)
    if config.decoder_only and stats is None and not resume:  # others would make other latents
        raise GidliteError("decoder_only needs the autoencoder's statistics; give --parts, too")
    if stats is None and config.part != "renderer":
        stats = checkpoint_stats(*load_checkpoint(out)) if resume else fit_stats(config, dataset)
    with private_randomness(device):
        torch.manual_seed(config.seed)
        task = make_task(config, dataset, stats, device, **finished)
    if start is not None:
        _start_from(task.model, start)
    elif config.decoder_only:
        raise GidliteError("decoder_only needs an autoencoder to start from; give --start")
    extras = {} if stats is None else {"stats.scale": stats.scale}
    return train_task(config, task, out, pace=pace, resume=resume, extras=extras, report=report)


def _start_from(model: nn.Module, start: nn.Module) -> None:
    try:
        model.load_state_dict(start.state_dict())
    except RuntimeError:
        raise GidliteError(
            f"the weights to start from are of a {type(start).__name__} of other sizes, "
            f"not of the {type(model).__name__} of this config; change one of them"
        ) from None
    if (scaling := getattr(start.config, "scaling_factor", None)) is not None:
        model.register_to_config(scaling_factor=scaling)
