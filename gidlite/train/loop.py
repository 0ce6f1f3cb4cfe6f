"""A training run: what it needs, from folders or at hand, and what it leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from gidlite import train as setup
from gidlite.errors import GidliteError, alone, check_output, require, written
from gidlite.motion.normalize import FrequencyStats, load_stats, save_stats
from gidlite.train import RunOptions, TrainConfig
from gidlite.train.modes import DrawerTask, ModesTask
from gidlite.train.tasks import GRID_TASKS, Task, fit_stats
from gidlite.train.trainer import Trainer, join_processes

TASKS = {**GRID_TASKS, "modes": ModesTask, "drawer": DrawerTask}


def train(
    config: TrainConfig, out: str | Path, dataset: Dataset, *,
    stats: FrequencyStats | None = None, parts: Mapping[str, nn.Module] | None = None,
    options: RunOptions | None = None,
) -> nn.Module:  # fmt: skip
    """Train one part, write it with averaged (EMA) weights to ``out/model`` and return it.

    Beside the model, ``out`` gets a checkpoint, ``log.csv`` and sheets; all processes must see
    it. Statistics are those of the parts; if not given, those of the run, or fitted first. Raise
    ``GidliteError`` if settings, parts, folder or device do not fit, or the loss stays infinite.
    """
    parts, options, folder = parts or {}, options or RunOptions(), Path(out) / "model"
    setup.check_run(config, out, parts, options)
    accelerator, _ = join_processes(options.device)
    if stats is None and options.resume and (folder / setup.STATS).exists():
        stats = load_stats(folder / setup.STATS)
    tell = options.preparing("Measuring motion")
    if stats is None and config.part in setup.WITH_STATS:
        stats = fit_stats(config, dataset, options.workers, tell=tell)
    task = _make_task(config, dataset, stats, parts, options)
    known = options.resume or (options.start is not None and getattr(task.model, "fitted", True))
    if not known or task.measures_always:
        task.measure(tell)
    if stats is not None and accelerator.is_main_process:
        with written(folder / setup.STATS) as path:
            save_stats(path, stats)
    model = Trainer(task, out, options).run()
    task.finish(model)
    if accelerator.is_main_process:
        setup.write_network(model, folder)
    return model.cpu()


def _make_task(
    config: TrainConfig, dataset: Dataset | None, stats: FrequencyStats | None,
    parts: Mapping[str, nn.Module], options: RunOptions,
) -> Task:  # fmt: skip
    """Return the task of a run with its first weights; refuse sizes that do not fit."""
    device = join_processes(options.device)[1]
    bins = len(stats.scale) if config.part in setup.WITH_STATS and stats else config.num_frequencies
    problem = f"num_frequencies is {config.num_frequencies}, and the statistics of --parts have"
    require(bins == config.num_frequencies, f"{problem} {bins}; change one of them")
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(config.seed)
            kind = TASKS[config.part]
            task = kind(config, dataset, stats, parts, device, options.workers)
    except GidliteError:
        raise
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300]
        problem = f"no {config.part} can be made of these sizes and parts ({reason})"
        raise GidliteError(f"{problem}; change the config or --parts") from None
    if options.start is not None:
        setup.start_from(task.model, options.start)
    return task


def run_training(
    config: TrainConfig, out: str | Path, *, sprites: str | Path | None = None,
    data: Sequence[str | Path] = (), parts: Sequence[str | Path] = (),
    export: str | Path | None = None, options: RunOptions | None = None,
) -> dict | None:  # fmt: skip
    """Train one part from folders; return the counters of the run, in its first process alone.

    ``sprites`` and ``data`` are as of ``make_dataset``, ``parts`` are as of ``load_parts``, by
    default the pipeline of the package. To ``export`` goes a pipeline of all parts, after "prior",
    "coordinate" or "drawer", or the network in half precision, after "renderer". Errors are those
    of ``train``, before any work is done.
    """
    options, out = options or RunOptions(), Path(out)
    shipped = ["modes" if config.part == "drawer" else "grid"] if setup.NEEDS[config.part] else []
    networks, stats = setup.load_parts(parts or shipped)
    setup.check_run(config, out, networks, options)
    accelerator, device = join_processes(options.device)
    _make_task(config, None, stats, networks, options)
    first = accelerator.is_main_process
    if config.part == "renderer":  # frames of a scene are made together, best on the device
        options = dataclasses.replace(options, workers=0)
    with ExitStack() as stack:
        if first:
            for folder in (out, export):
                if folder is not None:
                    check_output(folder, folder=True)
            stack.enter_context(alone(out))
            for name in ("log.csv", "checkpoint", "model", "sheets"):
                if (out / name).exists():
                    check_output(out / name, folder=name != "log.csv")
        tell = options.preparing("Reading and painting pieces")
        tell(0, 1)
        made_on = "cpu" if options.workers else device
        dataset = setup.make_dataset(config, sprites=sprites, data=data, device=made_on)
        tell(1, 1)
        model = train(config, out, dataset, stats=stats, parts=networks, options=options)
        accelerator.state.destroy_process_group()
        if not first:
            return None
        if export is not None and config.part == "renderer":
            setup.write_network(model.half(), export)
        elif export is not None and config.part in ("prior", "coordinate", "drawer"):
            setup.assemble(config, networks, model, stats, name=out.name).save_pretrained(export)
        return setup.load_checkpoint(out)[1]
