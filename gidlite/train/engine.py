"""The optimizer loop of any task, in one process or many: clipping, averaging, rollback, resume."""

from __future__ import annotations

import math
import time
from contextlib import closing
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gidlite._checks import GidliteError
from gidlite.dataset import seeded
from gidlite.train.checkpoint import check_run_folder, load_checkpoint, save_sharded
from gidlite.train.config import TrainConfig
from gidlite.train.data import ScenePool
from gidlite.train.interface import Pace, Report, Task
from gidlite.train.log import RunLog
from gidlite.train.processes import StopSignals, make_accelerator, private_randomness, shared_make
from gidlite.train.state import TrainState

__all__ = ["MAX_ROLLBACKS", "train_task"]

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
