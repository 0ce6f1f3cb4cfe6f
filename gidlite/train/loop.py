"""The optimizer loop: averaged weights, clipping, schedule, logs, checkpoints, exact resume."""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gidlite._checks import GidliteError
from gidlite.dataset import MotionDataset, seeded
from gidlite.normalize import FrequencyStats
from gidlite.train.checkpoint import load_checkpoint, save_sharded, with_prefix
from gidlite.train.config import TrainConfig
from gidlite.train.data import ScenePool, fit_stats
from gidlite.train.tasks import AutoencoderTask, PriorTask, autocast

__all__ = ["train"]


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    dataset: MotionDataset,
    device: str = "cpu",
    minutes: float | None = None,
    resume: bool = False,
    autoencoder=None,
    stats: FrequencyStats | None = None,
    checkpoint_every_minutes: float = 5.0,
    report: Callable[[int, float, float], None] | None = None,
) -> nn.Module:
    """Train one part and return it with averaged (EMA) weights.

    Args:
        config: What and how.
        out: Folder for checkpoints (shards under 16 MiB) and ``log.csv``.
        dataset: What to learn from, see ``make_dataset``.
        device: Where to train.
        minutes: Stop cleanly after this long; otherwise after ``config.steps``.
        resume: Continue from the checkpoint in ``out``.
        autoencoder: Trained autoencoder, needed by the prior.
        stats: Frequency statistics; fitted first if not given.
        checkpoint_every_minutes: Time between checkpoints.
        report: Called with (step, smoothed loss, steps per second) now and then.

    Raises:
        GidliteError: If there is nothing to resume, the configs differ, a checkpoint exists but
            ``resume`` was not asked for, or the loss is not finite.
    """
    out = Path(out)
    stats = stats or fit_stats(config, dataset)
    torch.manual_seed(config.seed)  # initial weights; everything later is seeded by step
    if config.part == "vae":
        task = AutoencoderTask(config, dataset, stats, device)
    elif autoencoder is None:
        raise GidliteError("training the prior needs a trained autoencoder; train vae first")
    else:
        task = PriorTask(config, dataset, stats, device, autoencoder)
    state = _State(config, task.model, stats, out)
    if resume:
        state.load()
    elif (out / "checkpoint").exists():
        raise GidliteError(f"{out} already holds a checkpoint; pass --resume or another --out")
    pool = ScenePool(
        task.make, size=config.pool_size, per_step=config.new_scenes_per_step,
        first_step=state.step, initial=4 * config.scenes_per_step,
    )  # fmt: skip
    started = saved = time.monotonic()
    for loss in _steps(state, task, pool):
        now = time.monotonic()
        if state.step % 20 == 0:
            state.log(loss, now - started)
            if report is not None:
                report(state.step, state.smoothed_loss, state.step_rate)
        if now - saved > checkpoint_every_minutes * 60:
            state.save()
            saved = now
        if minutes is not None and now - started > minutes * 60:
            break
    state.save()
    return state.averaged.module


def _steps(state: _State, task, pool: ScenePool) -> Iterator[float]:
    """Run optimizer steps until the configured number, yielding the loss of each."""
    config = state.config
    while state.step < config.steps:
        generator = seeded(config.seed + 1, state.step)
        pool.advance(state.step)
        batch = pool.draw(config.scenes_per_step, generator)
        with autocast(config, task.device):
            loss = task.loss(batch, generator)
        value = loss.item()
        if not value < float("inf"):
            raise GidliteError(
                f"the loss became {value} at step {state.step}; resume with a lower learning_rate"
            )
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        state.update(value)
        yield value


class _State:
    """Model, averaged model, optimizer and step, with their file format."""

    def __init__(
        self, config: TrainConfig, model: nn.Module, stats: FrequencyStats, out: Path
    ) -> None:
        self.config, self.model, self.stats, self.out = config, model, stats, out
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=1e-3
        )
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        self.step, self.smoothed_loss, self.step_rate = 0, float("nan"), 0.0
        self._last = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)

    def _rate(self, step: int) -> float:
        config = self.config
        warm = min(1.0, (step + 1) / config.warmup_steps)
        cosine = torch.cos(torch.tensor(torch.pi * min(step / config.steps, 1.0))).item()
        return warm * (0.02 + 0.98 * 0.5 * (1 + cosine))

    def update(self, loss: float) -> None:
        # A function of the step alone, so that there is no schedule state to resume.
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._rate(self.step)
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        self.step += 1
        known = self.smoothed_loss == self.smoothed_loss
        self.smoothed_loss = 0.98 * self.smoothed_loss + 0.02 * loss if known else loss
        now = time.monotonic()
        self.step_rate = 0.9 * self.step_rate + 0.1 / max(now - self._last, 1e-6)
        self._last = now

    def log(self, loss: float, seconds: float) -> None:
        path = self.out / "log.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if fresh:
                writer.writerow(["step", "seconds", "loss", "smoothed_loss"])
            writer.writerow(
                [self.step, f"{seconds:.1f}", f"{loss:.6f}", f"{self.smoothed_loss:.6f}"]
            )

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.state_dict().items()}
        for number, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in entry.items()}
        return tensors

    def save(self) -> None:
        meta = {
            "step": self.step,
            "smoothed_loss": self.smoothed_loss,
            "config": dataclasses.asdict(self.config),
        }
        tensors = self._tensors() | {"stats.scale": self.stats.scale}
        save_sharded(tensors, self.out / "checkpoint", json.dumps(meta, indent=1))

    def load(self) -> None:
        tensors, meta = load_checkpoint(self.out)
        ours = json.loads(json.dumps(dataclasses.asdict(self.config)))
        if differing := [k for k, v in meta["config"].items() if ours.get(k) != v]:
            raise GidliteError(
                f"cannot resume {self.out}: {', '.join(differing)} differ from the checkpoint"
            )
        self.model.load_state_dict(with_prefix(tensors, "model."))
        self.averaged.load_state_dict(with_prefix(tensors, "averaged."))
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in with_prefix(tensors, "optimizer.").items():
            number, key = name.split(".")
            entries.setdefault(int(number), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        self.step, self.smoothed_loss = meta["step"], meta["smoothed_loss"]
