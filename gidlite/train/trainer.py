"""The steps of a training run, in one process or several: stopping, going on, turning back."""

from __future__ import annotations

import copy
import csv
import itertools
import logging
import math
import signal
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import get_int_from_env
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from gidlite import train as setup
from gidlite.data import load_items, seeded
from gidlite.data.shards import Progress
from gidlite.errors import GidliteError, check_device, require, writing, written
from gidlite.media import write_image
from gidlite.train import RunOptions
from gidlite.train.tasks import Batch, Task

_MAX_ROLLBACKS = 3
_COUNTERS = ("step", "rollbacks", "seconds", "smoothed_loss")
_COLUMNS = "step seconds loss smoothed_loss learning_rate gradient_norm event".split()
# How launchers (accelerate, torchrun, several kinds of MPI) tell the number of processes.
_WORLD = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
logger = logging.getLogger(__name__)


def join_processes(wanted: torch.device | str) -> tuple[Accelerator, torch.device]:
    """Return the accelerator of this process, and its device: one of several has its own GPU."""
    device = check_device(wanted)
    # A process on its own places its tensors itself. The state that accelerators share could not
    # be moved from a GPU to the CPU later, so there it never knows of the GPU.
    alone = get_int_from_env(_WORLD, 1) == 1
    # Precision is left to the config, so that a checkpoint says how it was trained.
    accelerator = Accelerator(cpu=alone or device.type == "cpu", mixed_precision="no")
    return accelerator, device if alone else accelerator.device


class Stopped(BaseException):
    """A signal came where a run may stop at once."""


@contextmanager
def stop_requests(ask: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM, SIGINT and SIGHUP, however often, call a function instead of ending the process.

    Launchers pass on what the terminal has already sent, and the checkpoint must be written.
    """
    main = threading.current_thread() is threading.main_thread()  # others cannot set handlers
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) if main else ()
    # What is ignored, as after nohup, stays so.
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, lambda *_: ask())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def scene_batches(
    task: Task, accelerator: Accelerator, step: int, tell: Progress | None = None
) -> Iterator[Batch]:
    """Yield the batch of every step from a step on, drawn from a pool of the newest scenes.

    Making a scene may cost as much as learning from it, so scenes are drawn many times. What a
    step can draw depends on its number alone, so a resumed run sees what it would have seen.
    Every process has the whole pool, and makes its share of what joins it. While the pool is
    filled for the first step, ``tell`` is told (done, in all).
    """
    config, world = task.config, accelerator.num_processes
    count = config.new_scenes_per_step
    end = max(0, 4 * config.scenes_per_step + step * count - config.pool_size) // count * count
    batches = itertools.count(end // count + accelerator.process_index, world)
    numbers = (range(batch * count, (batch + 1) * count) for batch in batches)
    coming = map(task.make, load_items(task.dataset, numbers, task.workers))
    pool: deque[Batch] = deque(maxlen=config.pool_size + count * world)
    begin = end
    for now in itertools.count(step):
        due = 4 * config.scenes_per_step + now * count
        while end < due:
            made = accelerator.gather(next(coming))
            rows = zip(*made.values(), strict=True)
            pool += [dict(zip(made, row, strict=True)) for row in rows]
            end += count * world
            if tell is not None and now == step:
                tell(min(end, due) - begin, due - begin)
        oldest, size = max(0, due - config.pool_size), (config.scenes_per_step,)
        numbers = torch.randint(oldest, due, size, generator=seeded(config.seed + 1, now))
        chosen = [pool[number - end] for number in numbers.tolist()]
        yield {name: torch.stack([scene[name] for scene in chosen]) for name in chosen[0]}


class Trainer:
    """Steps of a run, and the folder that it leaves.

    Every process draws the same batch and learns from its share, rows ``rank::world`` of it, so
    gradients do not depend on the number of processes, but for noise: (seed, step, rank) gives it.
    """

    def __init__(self, task: Task, out: str | Path, options: RunOptions) -> None:
        config = task.config
        self.config, self.task, self.out, self.options = config, task, Path(out), options
        self.accelerator = join_processes(task.device)[0]
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.main = self.rank == 0
        count = config.scenes_per_step
        problem = f"scenes_per_step is {count}, which {self.world} processes cannot share equally"
        require(count % self.world == 0, f"{problem}; make it a multiple")
        self.loss = self.accelerator.prepare_model(task, device_placement=False)
        self.trained = [p for p in task.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.learning_rate, weight_decay=1e-3)
        decay = config.ema_decay
        self.ema = EMAModel(task.model.parameters(), decay=decay, min_decay=decay)
        self.step, self.rollbacks, self.seconds, self.smoothed_loss = 0, 0, 0.0, math.nan
        self.stop, self.open = threading.Event(), False

    def run(self) -> nn.Module:
        """Train until the end, the time limit or a signal, and return the averaged model."""
        if self.options.resume:
            self._restore()
        self._rewind_log(self.step if self.options.resume else -1)
        self.began = time.monotonic() - self.seconds
        devices = [self.task.device] if self.task.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            while self.step < self.config.steps and not self._train():
                pass
        self.accelerator.wait_for_everyone()
        return self.averaged()

    def averaged(self) -> nn.Module:
        """Return a copy of the model with the average of its weights over steps (EMA)."""
        model = copy.deepcopy(self.task.model)
        self.ema.copy_to(model.parameters())
        return model.eval()

    def _ask(self) -> None:
        """Note that a signal wants the run to stop; stop at once where that is possible."""
        self.stop.set()
        if self.open:
            self.open = False
            raise Stopped

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Allow a signal to end the block, which changes nothing that a checkpoint holds."""
        self.open = self.world == 1  # others would wait for a process that stops alone
        try:
            if self.open and self.stop.is_set():
                raise Stopped
            yield
        finally:
            self.open = False

    def _train(self) -> bool:
        """Step until there is a reason to stop, or to turn back, and return which it was."""
        tell = self.options.preparing("Making the first scenes")
        batches = scene_batches(self.task, self.accelerator, self.step, tell)
        batch = next(batches)  # fills the pool
        self.told = time.monotonic()
        self.logged = self.step, self.told
        with stop_requests(self._ask):
            self._save()
            try:
                while True:
                    problem, stop, due = self._step(batch)
                    if problem:
                        self._turn_back(f"the {problem} was not finite at step {self.step}")
                        return stop
                    ended = self.step == self.config.steps
                    if ended or (due and not stop):
                        self._draw_sheet()  # first, so that every checkpoint has its sheet
                    if stop or ended or due:
                        self._save()
                    if stop or ended:
                        return True
                    with self._interruptible():
                        batch = next(batches)
            except Stopped:
                self._save()
                return True
            finally:
                batches.close()

    def _step(self, batch: Batch) -> tuple[str, bool, bool]:
        """Take one step; return what was not finite, if so, and whether to stop or to save."""
        generator = seeded(self.config.seed + 2 + self.rank, self.step)
        # What ignores the generator, such as dropout, must not differ after a resume either.
        torch.manual_seed(generator.initial_seed() + (1 << 40))
        share = {name: rows[self.rank :: self.world] for name, rows in batch.items()}
        with self._interruptible():
            loss = self.loss(share, generator)
        mean, stop, due = self._agree(loss)
        if not math.isfinite(mean):
            return "loss", stop, due
        self.optimizer.zero_grad(set_to_none=True)
        with self._interruptible():
            self.accelerator.backward(loss)
        norm = float(self.accelerator.clip_grad_norm_(self.trained, self.config.clip_norm))
        if not math.isfinite(norm):
            return "gradient", stop, due
        rate = setup.learning_rate(self.config, self.step, self.seconds) * 0.5**self.rollbacks
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.ema.step(self.task.model.parameters())
        self.step += 1
        before = mean if math.isnan(self.smoothed_loss) else self.smoothed_loss
        self.smoothed_loss = 0.98 * before + 0.02 * mean
        if self.step % self.options.log_every == 0:
            values = zip(_COLUMNS[2:6], (mean, self.smoothed_loss, rate, norm), strict=True)
            self._log(**{name: f"{value:.7g}" for name, value in values})
            self._report()
        return "", stop, due

    def _agree(self, loss: Tensor) -> tuple[float, bool, bool]:
        """Return the mean loss, and whether to stop or save: the same in every process.

        Clocks and signals differ, and a process that stopped alone would leave others waiting.
        """
        now, minutes = time.monotonic(), self.options.minutes
        ends, self.told = 2 * now - self.told, now  # when the next step will
        late = minutes is not None and ends - self.options.started > 60 * minutes
        due = now - self.saved > 60 * self.options.checkpoint_minutes
        told = [late or self.stop.is_set(), due, now - self.began]
        told = torch.cat([loss.detach().float()[None], torch.tensor(told, device=loss.device)])
        mean, stop, save, self.seconds = self.accelerator.reduce(told, "mean").tolist()
        return mean, stop > 0, save > 0

    def _turn_back(self, problem: str) -> None:
        """Return to the last checkpoint with half the learning rate, or give up."""
        if self.rollbacks == _MAX_ROLLBACKS:
            self._log(event=f"{problem}: given up")
            raise GidliteError(
                f"{problem}, after {_MAX_ROLLBACKS} returns to a checkpoint, each with half the "
                "learning rate; train anew with a lower learning_rate, or look for broken data"
            )
        self._restore()
        self.rollbacks += 1
        self._rewind_log(self.step)
        self._log(event=f"{problem}: back to step {self.step}, learning rate halved")

    def _tensors(self) -> dict[str, Tensor]:
        """Return the model, its averages and the optimizer's by name."""
        names = [name for name, _ in self.task.model.named_parameters()]
        averaged = zip(names, self.ema.shadow_params, strict=True)
        tensors = {f"model.{name}": value for name, value in self.task.model.state_dict().items()}
        tensors |= {f"averaged.{name}": value for name, value in averaged}
        for number, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{key}": value for key, value in entry.items()}
        return tensors

    def _save(self) -> None:
        if self.main:
            meta = {name: getattr(self, name) for name in _COUNTERS}
            meta |= {"config": self.config.to_json()}
            setup.save_checkpoint(self.out, self._tensors(), meta)
        self.saved = time.monotonic()

    @torch.no_grad()
    def _restore(self) -> None:
        tensors, meta = setup.load_checkpoint(self.out)
        for name in _COUNTERS:
            setattr(self, name, meta[name])
        self.ema.optimization_step = self.step
        entries: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name in tensors:
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                entries[int(number)][key] = tensors[name]
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": dict(entries)})
        ours = self._tensors()
        fits = all(name in tensors and tensors[name].shape == ours[name].shape for name in ours)
        require(
            fits, f"the checkpoint in {self.out} is of other sizes; use the parts it began with"
        )
        for name, value in ours.items():
            value.copy_(tensors[name])

    @torch.no_grad()
    def _draw_sheet(self) -> None:
        if self.main and not self.stop.is_set():  # a signal is in a hurry
            path = self.out / "sheets" / f"step_{self.step:07d}.png"
            with self._interruptible():
                sheet = self.task.sheet(self.averaged())
            write_image(path, sheet)

    def _report(self) -> None:
        """Tell the caller of the run how it goes, with the steps per second since last time."""
        (step, then), now = self.logged, time.monotonic()
        if self.options.report is not None and self.main:
            speed = (self.step - step) / max(now - then, 1e-6)
            self.options.report(self.step, self.smoothed_loss, speed)
        self.logged = self.step, now

    def _log(self, **values: str) -> None:
        """Add a row to ``log.csv``: numbers, or an event in words, which is also said aloud."""
        if self.main:
            if "event" in values:
                logger.warning(values["event"])
            row = {"step": self.step, "seconds": f"{self.seconds:.1f}"} | values
            path = self.out / "log.csv"
            with writing(path), path.open("a", newline="") as stream:
                csv.DictWriter(stream, _COLUMNS, restval="", lineterminator="\n").writerow(row)

    def _rewind_log(self, step: int) -> None:
        """Drop what was logged after a step: steps only ever increase."""
        if self.main:
            path = self.out / "log.csv"
            text = path.read_text(errors="replace") if path.exists() else ""
            rows = [row for row in csv.reader(text.splitlines()) if len(row) == len(_COLUMNS)]
            kept = [row for row in rows if row[0].isdecimal() and int(row[0]) <= step]
            with written(path) as fresh, fresh.open("w", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerows([_COLUMNS, *kept])
