"""The processes of a run: their device, their share of the work, and when all of them stop."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import is_initialized
from accelerate.utils import gather_object, get_int_from_env
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from gidlite.data import Augmented, MotionDataset, ShardSource, SyntheticSource, seeded
from gidlite.data.pairs import PairFolder, ScenePairs
from gidlite.data.world.pieces import collect_pieces
from gidlite.errors import GidliteError, load_network
from gidlite.media import write_image
from gidlite.motion.normalize import (
    FrequencyStats,
    fit_frequency_stats,
    load_stats,
    normalize,
    save_stats,
    stats_of_variant,
)
from gidlite.pipeline import PARTS, GidPipeline
from gidlite.render.network import SynthesisNet
from gidlite.train import Pace, Report, Task, TrainConfig
from gidlite.train.tasks import AmplitudeTask, AutoencoderTask, PriorTask, RendererTask

# How launchers (accelerate, torchrun, several kinds of MPI) tell the number of processes.
_WORLD = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]


def make_accelerator(device: torch.device | str) -> Accelerator:
    """Return the accelerator of this process; every call in a process returns the same state.

    Precision is left to the loop, which reads it from the config, so that a checkpoint says how
    it was trained; ``accelerate launch --mixed_precision`` changes nothing.

    Args:
        device: "cpu" joins several processes with gloo; otherwise the backend of the device.
    """
    if is_initialized():
        return Accelerator()
    # A process on its own places its tensors itself. The shared state could not be moved from a
    # GPU to the CPU later, so there it never knows of the GPU.
    alone = get_int_from_env(_WORLD, 1) == 1
    return Accelerator(cpu=alone or torch.device(device).type == "cpu", mixed_precision="no")


def local_device(device: torch.device | str) -> torch.device:
    """Return the device of this process: one of several processes on "cuda" gets its own GPU.

    Raises:
        GidliteError: If this machine has no such device.
    """
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise GidliteError(f"device {str(device)!r} is not available; try cpu") from None
    accelerator = make_accelerator(wanted)
    return accelerator.device if accelerator.num_processes > 1 else wanted


def is_main_process() -> bool:
    """Return whether this process is the one that writes files and talks to the user."""
    return not is_initialized() or PartialState().is_main_process


def finish() -> None:
    """Leave the group of processes; nothing can be trained in this process afterwards."""
    if is_initialized():
        PartialState().destroy_process_group()


def private_randomness(device: torch.device) -> AbstractContextManager:
    """Return a context after which the caller's global random state is as it was before."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def shared_make(
    accelerator: Accelerator, make: Callable[[range], dict[str, Tensor]]
) -> Callable[[range], dict[str, Tensor]]:
    """Return ``make`` with its work divided: each process makes a part, and all get everything.

    Every process keeps the whole pool, because the rows of a batch may come from anywhere in it;
    what is divided is the making. Ranges shorter than the number of processes are made by all,
    so ``new_scenes_per_step`` should be a multiple of it.
    """
    world, rank = accelerator.num_processes, accelerator.process_index

    def made(numbers: range) -> dict[str, Tensor]:
        if len(numbers) < world:
            return make(numbers)
        mine = make(numbers[rank::world])
        parts = gather_object([{name: tensor.cpu() for name, tensor in mine.items()}])
        places = [(n % world, n // world) for n in range(len(numbers))]
        return {
            name: torch.stack([parts[part][name][row] for part, row in places]).to(tensor.device)
            for name, tensor in mine.items()
        }

    return make if world == 1 else made


class StopSignals:
    """A context in which SIGTERM and SIGINT set ``received`` instead of ending the process.

    A repeated signal changes nothing: launchers pass on what the terminal has already sent, and
    the checkpoint must still be written. Outside the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.received = False
        self._previous: dict[int, object] = {}

    def _note(self, *_: object) -> None:
        self.received = True

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


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


def learning_rate(config: TrainConfig, step: int, seconds: float = 0.0) -> float:
    """Return the rate of a step: a linear warm-up, then a cosine down to 2 % of the peak.

    A function of the step alone, so that there is no schedule to save; or of the time trained,
    too, if the config says after how many minutes the decay ends.

    Example:
        >>> config = TrainConfig(learning_rate=1.0, warmup_steps=10, steps=100)
        >>> [round(learning_rate(config, step), 2) for step in (0, 9, 55, 100)]
        [0.1, 0.98, 0.43, 0.02]
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    done = step / config.steps
    if config.decay_minutes is not None:
        done = max(done, seconds / (60 * config.decay_minutes))
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return config.learning_rate * warm * (0.02 + 0.98 * cosine)


class TrainState:
    """Model, averaged model, optimizer and counters of a run.

    Args:
        config: Of the run.
        model: What is trained; parameters that need no gradient are left alone.
        extras: Further tensors that belong into every checkpoint, such as ``stats.scale``.

    Attributes:
        averaged: The average over steps (EMA), in evaluation mode.
        step: Optimizer steps taken.
        smoothed_loss: Running mean of the loss; NaN before the first step.
        rollbacks: How often the loss was not finite; each time the learning rate was halved.
        seconds: Time trained, as of the last checkpoint or step.
    """

    def __init__(
        self, config: TrainConfig, model: nn.Module, extras: dict[str, Tensor] | None = None
    ) -> None:
        self.config, self.model, self.extras = config, model, extras or {}
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.learning_rate, weight_decay=1e-3)
        average = get_ema_multi_avg_fn(config.ema_decay)
        self.averaged = AveragedModel(model, multi_avg_fn=average).eval()
        self.step, self.rollbacks, self.seconds = 0, 0, 0.0
        self.smoothed_loss = math.nan

    @property
    def learning_rate(self) -> float:
        """Rate of the next step."""
        return learning_rate(self.config, self.step, self.seconds) * 0.5**self.rollbacks

    def update(self, loss: float) -> None:
        """Take the optimizer step of the gradients that are there."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        self.step += 1
        known = not math.isnan(self.smoothed_loss)
        self.smoothed_loss = 0.98 * self.smoothed_loss + 0.02 * loss if known else loss

    def snapshot(self, seconds: float) -> tuple[dict[str, Tensor], dict]:
        """Return copies of all tensors on the CPU, and the settings and counters beside them."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.state_dict().items()}
        for number, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in entry.items()}
        meta = {
            "step": self.step, "smoothed_loss": self.smoothed_loss, "rollbacks": self.rollbacks,
            "seconds": round(seconds, 1), "config": self.config.to_json(),
        }  # fmt: skip
        return {
            k: v.detach().to("cpu", copy=True) for k, v in (tensors | self.extras).items()
        }, meta

    def restore(self, tensors: dict[str, Tensor], meta: dict) -> None:
        """Continue from what ``snapshot`` returned, which stays as it is."""
        self.model.load_state_dict(with_prefix(tensors, "model."))
        self.averaged.load_state_dict(with_prefix(tensors, "averaged."))
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in with_prefix(tensors, "optimizer.").items():
            number, key = name.split(".")
            # The optimizer would adopt the tensor itself and write into the snapshot.
            entries.setdefault(int(number), {})[key] = value.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        self.step, self.smoothed_loss = meta["step"], meta["smoothed_loss"]
        self.rollbacks, self.seconds = meta.get("rollbacks", 0), meta.get("seconds", 0.0)


COLUMNS = (
    "step", "seconds", "loss", "smoothed_loss", "learning_rate", "gradient_norm", "event",
)  # fmt: skip
logger = logging.getLogger(__name__)


class RunLog:
    """The log of a run folder, written by one process.

    A row of ``log.csv`` holds numbers at a step, or an event in words. Steps only ever increase:
    rows that a resumed or rolled back run will write again are taken out first.

    Args:
        out: Folder of the run, made if need be.
        step: Rows after this step are dropped; -1 begins anew.
        write: False for all processes but one, which then do nothing here.
    """

    def __init__(self, out: Path, *, step: int, write: bool) -> None:
        self.out, self._write, self._board = out, write, None
        if write:
            out.mkdir(parents=True, exist_ok=True)
            self._writer = _board_writer()
        self.rewind(step)

    def rewind(self, step: int) -> None:
        """Drop what was logged after ``step``."""
        if not self._write:
            return
        path = self.out / "log.csv"
        kept: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as stream:
                kept = [row for row in csv.DictReader(stream) if int(row["step"]) <= step]
        fresh = path.with_suffix(".new")
        with fresh.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        os.replace(fresh, path)
        self.close()
        if self._writer is not None:
            # Older events from this step on are hidden.
            self._board = self._writer(str(self.out / "tensorboard"), purge_step=step + 1)

    def numbers(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Add one row; ``values`` are named as the columns."""
        shown = {name: f"{value:.7g}" for name, value in values.items()}
        self._row({"step": step, "seconds": f"{seconds:.1f}"} | shown)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def event(self, step: int, seconds: float, text: str) -> None:
        """Add one row of words and say them on the console."""
        if self._write:
            logger.warning(text)
        self._row({"step": step, "seconds": f"{seconds:.1f}", "event": text})
        if self._board is not None:
            self._board.add_text("event", text, step)

    def sheet(self, step: int, image: Tensor) -> None:
        """Write a picture ``(3, H, W)`` in [0, 1] as ``sheets/step_<step>.png``."""
        if self._write:
            write_image(self.out / "sheets" / f"step_{step:07d}.png", image)
        if self._board is not None:
            self._board.add_image("sheet", image.float().clamp(0, 1).cpu(), step)

    def close(self) -> None:
        """Finish the TensorBoard file; the next row opens no new one."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def _row(self, values: dict[str, object]) -> None:
        if self._write:
            with (self.out / "log.csv").open("a", newline="") as stream:
                csv.DictWriter(stream, COLUMNS, restval="").writerow(values)


def _board_writer() -> type | None:
    """Return the class that writes TensorBoard files, or None and say so."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning("tensorboard is not installed, so the run is logged to log.csv alone")
        return None
    return SummaryWriter


class Prefetched(Dataset):
    """A dataset whose items are made ahead, as long as they are taken in order.

    Args:
        dataset: On the CPU.
        workers: Processes.
        ahead: Items that each of them may be ahead.
    """

    def __init__(self, dataset: MotionDataset, workers: int, *, ahead: int = 4) -> None:
        self._dataset, self._workers, self._ahead = dataset, workers, ahead
        self._coming: Iterator[dict[str, Tensor]] = iter(())
        self._next = -1

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Return one item, made here and now."""
        return self._dataset[number]

    def take(self, numbers: range) -> list[dict[str, Tensor]]:
        """Return the items of these numbers; a number out of order starts the processes anew."""
        if numbers.start != self._next:
            self._start(numbers)
        self._next = numbers.start + len(numbers) * numbers.step
        return list(itertools.islice(self._coming, len(numbers)))

    def _start(self, numbers: range) -> None:
        self._coming = iter(())  # ends the processes of before
        loader = DataLoader(
            self._dataset, batch_size=None, sampler=itertools.count(numbers.start, numbers.step),
            num_workers=self._workers, prefetch_factor=self._ahead, worker_init_fn=_obey_the_run,
        )  # fmt: skip
        self._coming = iter(loader)


def _obey_the_run(_: int) -> None:
    """Let a worker end when the run says so, and leave Ctrl-C to the run."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class ScenePool:
    """A sliding window over the endless, numbered scenes of one seed.

    Args:
        make: Turns a range of scene numbers into a dict of tensors, first axis the scene.
        size: Scenes kept.
        per_step: New scenes per step.
        first_step: Step to start at; the window is rebuilt as it would have been.
        initial: Scenes in the window before step 0.
    """

    def __init__(
        self,
        make: Callable[[range], dict[str, Tensor]],
        *,
        size: int,
        per_step: int,
        first_step: int,
        initial: int,
    ) -> None:
        self._make, self._size, self._per_step, self._initial = make, size, per_step, initial
        self._items: list[dict[str, Tensor]] = []
        self._end = max(0, initial + first_step * per_step - size)
        self.advance(first_step)

    def advance(self, step: int) -> None:
        """Add the scenes due before ``step`` and drop the oldest."""
        due = self._initial + step * self._per_step
        while self._end < due:
            numbers = range(self._end, min(due, self._end + 8))
            made = self._make(numbers)
            self._items += [{k: v[i] for k, v in made.items()} for i in range(len(numbers))]
            self._end = numbers.stop
        self._items = self._items[-self._size :]

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return ``count`` scenes of the window, stacked."""
        chosen = torch.randint(len(self._items), (count,), generator=generator).tolist()
        return {k: torch.stack([self._items[i][k] for i in chosen]) for k in self._items[0]}


def make_dataset(
    config: TrainConfig,
    *,
    sprites: str | Path | None = None,
    data: Sequence[str | Path] = (),
    device: str = "cpu",
) -> MotionDataset:
    """Return what to train on: synthetic scenes, and folders of real shards in a share of draws.

    Args:
        config: Sizes, ``real_share`` and the seed.
        sprites: Folder of photographic pieces for the scenes.
        data: Folders that ``gidlite extract`` wrote.
        device: Where scenes are made.

    Raises:
        GidliteError: If a folder cannot be used.
    """
    shape = {"grid_stride": config.grid_stride, "num_frequencies": config.num_frequencies}
    scene = {
        "height": config.height, "width": config.width, "num_frames": config.num_frames,
        "fps": config.fps,
    }  # fmt: skip
    pieces = collect_pieces(sprites, seed=config.seed)
    sources = [SyntheticSource(p.to(device), **shape, **scene) for p in pieces]
    weights = [(1 - config.real_share if data else 1.0) / len(sources)] * len(sources)
    real = [Augmented(ShardSource(folder, **shape)) for folder in data]
    weights += [config.real_share / max(len(real), 1)] * len(real)
    return MotionDataset([*sources, *real], weights=weights, length=1 << 40, seed=config.seed)


def make_pair_dataset(
    config: TrainConfig,
    *,
    sprites: str | Path | None = None,
    data: Sequence[str | Path] = (),
    device: str = "cpu",
) -> MotionDataset:
    """Return what the renderer learns from: pairs of synthetic scenes, and folders of real pairs.

    Args:
        config: Sizes, ``real_share`` and the seed.
        sprites: Folder of photographic pieces for the scenes.
        data: Folders that ``studies.renderer_pairs`` wrote, of the same size.
        device: Where pairs are made and kept.

    Raises:
        GidliteError: If a folder cannot be used.
    """
    size = {"height": config.height, "width": config.width}
    pieces = collect_pieces(sprites, seed=config.seed)
    distinct = list({id(p): p for p in pieces}.values())
    scenes = [ScenePairs(p.to(device), **size) for p in distinct]
    share = config.real_share if data else 0.0
    weights = [(1 - share) * sum(q is p for q in pieces) / len(pieces) for p in distinct]
    weights += [share / len(data)] * len(data) if data else []
    real = [PairFolder(folder, device=device) for folder in data]
    return MotionDataset([*scenes, *real], weights=weights, seed=config.seed)


def fit_stats(config: TrainConfig, dataset: MotionDataset, *, count: int = 256) -> FrequencyStats:
    """Fit frequency statistics on items from the far end of the dataset, never trained on."""
    items = dataset.take(range(10**9, 10**9 + count))
    volumes = [item["spectral"].cpu() for item in items]
    return fit_frequency_stats(volumes, percentile=config.percentile, variant=config.normalization)


MAX_ROLLBACKS = 3


def train_task(
    config: TrainConfig,
    task: Task,
    out: str | Path,
    *,
    pace: Pace | None = None,
    resume: bool = False,
    extras: dict[str, Tensor] | None = None,
    report: Report | None = None,
) -> nn.Module:
    """Train the model of a task and return its average over steps (EMA).

    Every process draws the same batch and learns from its share, rows ``rank::world`` of it, so
    losses without noise give the same gradients, however many processes there are. Noise differs:
    a process draws it from (seed, step, rank).

    Args:
        config: Batch, pool, schedule, precision and seed.
        task: What is learned.
        out: Folder for checkpoints, log and sheets; all processes must see it.
        pace: When to stop, save and log.
        resume: Continue from the checkpoint in ``out``.
        extras: Further tensors for every checkpoint.
        report: Called with (step, smoothed loss, steps per second) by the first process.

    Raises:
        GidliteError: If the folder does not fit, ``scenes_per_step`` cannot be shared equally, or
            the loss is not finite once more after three rollbacks.
    """
    out, device = Path(out), next(task.model.parameters()).device
    check_run_folder(config, out, resume=resume)
    accelerator = make_accelerator(device)
    _check_share(config.scenes_per_step, accelerator.num_processes)
    state = TrainState(config, task.model, extras)
    if resume:
        state.restore(*load_checkpoint(out))
    log = RunLog(out, step=state.step if resume else -1, write=accelerator.is_main_process)
    with closing(log), private_randomness(device):
        _Loop(task, state, log, accelerator, pace or Pace(), report).run()
    accelerator.wait_for_everyone()
    return state.averaged.module


def _check_share(scenes: int, processes: int) -> None:
    if scenes % processes:
        raise GidliteError(
            f"scenes_per_step is {scenes}, which {processes} processes cannot share equally; "
            "make it a multiple"
        )


class _LossModule(nn.Module):
    """A task's loss as the forward pass of a module.

    Data-parallel training must see the forward pass begin, and tasks call whichever methods of
    their model they like.
    """

    def __init__(self, task: Task, config: TrainConfig, device: torch.device) -> None:
        super().__init__()
        self.model, self._loss = task.model, task.loss
        self._kind, self._mixed = device.type, config.mixed_precision

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        with torch.autocast(self._kind, dtype=torch.bfloat16, enabled=self._mixed):
            return self._loss(batch, generator)


class _Loop:
    """Steps, and what happens between them."""

    def __init__(
        self, task: Task, state: TrainState, log: RunLog, accelerator: Accelerator, pace: Pace,
        report: Report | None,
    ) -> None:  # fmt: skip
        self.task, self.state, self.log, self.pace = task, state, log, pace
        self.accelerator, self.report, self.config = accelerator, report, state.config
        self.device = next(task.model.parameters()).device
        module = _LossModule(task, state.config, self.device)
        self.module = accelerator.prepare_model(module, device_placement=False)
        self.signals = StopSignals()
        self.began = self.saved = self.logged = time.monotonic()
        self.logged_step = self.saved_step = state.step
        self.before = state.seconds

    def run(self) -> None:
        """Step until the end, the time limit or a signal; then save."""
        self.snapshot = self.state.snapshot(self._seconds())
        self.pool = self._make_pool()
        with self.signals:
            stop = False
            while self.state.step < self.config.steps and not stop:
                stop = self._step()
            if self.state.step != self.saved_step:
                self._save()

    def _make_pool(self) -> ScenePool:
        config = self.config
        return ScenePool(
            shared_make(self.accelerator, self.task.make), size=config.pool_size,
            per_step=config.new_scenes_per_step, first_step=self.state.step,
            initial=4 * config.scenes_per_step,
        )  # fmt: skip

    def _step(self) -> bool:
        """Take one step, or roll back; return whether to stop."""
        state = self.state
        share, generator = self._draw()
        loss = self.module(share, generator)
        mean, stop, due = self._agree(loss)
        norm = math.nan
        if math.isfinite(mean):
            state.optimizer.zero_grad(set_to_none=True)
            self.accelerator.backward(loss)
            norm = float(self.accelerator.clip_grad_norm_(state.trained, self.config.clip_norm))
        if not math.isfinite(norm):
            self._roll_back(f"the {'gradient' if math.isfinite(mean) else 'loss'} was not finite")
            return stop
        state.seconds = self._seconds()
        rate = state.learning_rate
        state.update(mean)
        if state.step % self.pace.log_every == 0:
            self._log({"loss": mean, "learning_rate": rate, "gradient_norm": norm})
        if due:
            self._save()
        return stop

    def _draw(self) -> tuple[dict[str, Tensor], torch.Generator]:
        """Return this process's rows of the batch of the step, and its noise."""
        config, step = self.config, self.state.step
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.pool.advance(step)
        batch = self.pool.draw(config.scenes_per_step, seeded(config.seed + 1, step))
        generator = seeded(config.seed + 2 + rank, step)
        # What ignores the generator, such as dropout, must not differ after a resume either.
        torch.manual_seed(generator.initial_seed() + (1 << 40))
        return {name: rows[rank::world] for name, rows in batch.items()}, generator

    def _agree(self, loss: Tensor) -> tuple[float, bool, bool]:
        """Return the mean loss, and whether to stop or save: the same in every process.

        Clocks and signals differ between processes, and one that stopped on its own would leave
        the others waiting for it.
        """
        now = time.monotonic()
        minutes = self.pace.minutes
        late = minutes is not None and now - self.pace.started > minutes * 60
        due = now - self.saved > self.pace.checkpoint_minutes * 60
        flags = torch.tensor([float(late or self.signals.received), float(due)], device=loss.device)
        total = self.accelerator.reduce(torch.cat([loss.detach().float()[None], flags]), "sum")
        mean, stop, save = (total / self.accelerator.num_processes).tolist()
        return mean, stop > 0, save > 0

    def _roll_back(self, problem: str) -> None:
        """Return to the last checkpoint with half the learning rate, or give up."""
        state = self.state
        problem = f"{problem} at step {state.step}"
        if state.rollbacks == MAX_ROLLBACKS:
            self.log.event(state.step, self._seconds(), f"{problem}: given up")
            raise GidliteError(
                f"{problem}, after {MAX_ROLLBACKS} returns to a checkpoint, each with half the "
                "learning rate; train anew with a lower learning_rate, or look for broken data"
            )
        state.restore(*self.snapshot)
        state.rollbacks += 1
        self.log.rewind(state.step)
        text = f"{problem}: back to step {state.step}, learning rate halved"
        self.log.event(state.step, self._seconds(), text)
        self.pool = self._make_pool()
        self._save()
        self.logged, self.logged_step = time.monotonic(), state.step

    def _save(self) -> None:
        """Write a checkpoint and a sheet, and keep the checkpoint in memory to return to."""
        self.snapshot = self.state.snapshot(self._seconds())
        if self.accelerator.is_main_process:
            save_sharded(self.snapshot[0], self.log.out / "checkpoint", self.snapshot[1])
            sheet = getattr(self.task, "sheet", None)
            with torch.no_grad():
                image = sheet(self.state.averaged.module) if sheet else None
            if image is not None:
                self.log.sheet(self.state.step, image)
        self.saved, self.saved_step = time.monotonic(), self.state.step

    def _log(self, values: dict[str, float]) -> None:
        state, now = self.state, time.monotonic()
        speed = (state.step - self.logged_step) / max(now - self.logged, 1e-6)
        self.logged, self.logged_step = now, state.step
        row = {"loss": values["loss"], "smoothed_loss": state.smoothed_loss} | values
        self.log.numbers(state.step, self._seconds(), row)
        if self.report is not None and self.accelerator.is_main_process:
            self.report(state.step, state.smoothed_loss, speed)

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.began


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
    dataset: MotionDataset,
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
    dataset: MotionDataset,
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
        return name, load_network(_KINDS[name], folder)
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
