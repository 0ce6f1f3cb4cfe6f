"""A task that trains in a moment, and a program that trains it, for tests of the loop."""

import argparse
import csv
import json
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from gidlite.train import RunOptions, TrainConfig, check_run
from gidlite.train.tasks import Task
from gidlite.train.trainer import Trainer


def tiny_config(**changes) -> TrainConfig:
    values = {
        "part": "vae", "scenes_per_step": 4, "new_scenes_per_step": 2, "pool_size": 16, "steps": 12,
        "warmup_steps": 2, "learning_rate": 1e-2, "ema_decay": 0.9, "mixed_precision": False,
    }  # fmt: skip
    return TrainConfig(**values | changes)


def train_task(config: TrainConfig, task: Task, out: Path, **options) -> nn.Module:
    """Train, and log every step unless told otherwise."""
    task.config, options = config, RunOptions(**{"log_every": 1} | options)
    check_run(config, out, {}, options)
    return Trainer(task, out, options).run()


class Numbered(Dataset):
    """Numbered rows of noise, and which of them were made."""

    def __init__(self):
        self.made = []

    def __getitem__(self, number):
        self.made.append(number)
        return {"x": torch.randn(6, generator=torch.Generator().manual_seed(number))}


class TinyTask(Task):
    """Learn a fixed map from numbered examples.

    Args:
        noise: Of the loss, from the generator; and dropout, from torch's global state.
        broken_at: Call of ``loss`` whose result is not finite.
        broken: How many calls from there on are broken.
        how: What is not finite, "loss" or "gradient".
        signal_at: Call that sends SIGINT to this process.
        pause: Seconds that every call takes at least.
    """

    def __init__(
        self, noise=0.0, broken_at=-1, broken=1, how="loss", signal_at=-1, pause=0.0
    ):  # fmt: skip
        super().__init__(tiny_config(), Numbered())
        self.noise, self.how, self.signal_at, self.pause = noise, how, signal_at, pause
        self.broken = range(broken_at, broken_at + broken)
        self.calls, self.share = 0, 0

    def network(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def make(self, items):
        return {"x": torch.stack([item["x"] for item in items])}

    def loss(self, batch, generator):
        call, self.calls = self.calls, self.calls + 1
        self.share = len(batch["x"])
        time.sleep(self.pause)
        if call == self.signal_at:
            os.kill(os.getpid(), signal.SIGINT)
        target = batch["x"][:, :3].cumsum(1)
        x = batch["x"] + self.noise * torch.randn(batch["x"].shape, generator=generator)
        loss = (self.model(functional.dropout(x, self.noise)) - target).square().mean()
        if call in self.broken:
            # The root of 0 is finite, its slope is not.
            return loss * float("nan") if self.how == "loss" else loss + (loss * 0).sqrt()
        return loss

    def sheet(self, model):
        return torch.zeros(3, 4, 4)


def rows(out: Path) -> list[dict[str, str]]:
    """Return the rows of numbers of a log."""
    with (out / "log.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if not row["event"]]


def events(out: Path) -> list[str]:
    """Return the events of a log."""
    with (out / "log.csv").open(newline="") as stream:
        return [row["event"] for row in csv.DictReader(stream) if row["event"]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=json.loads, default={})
    parser.add_argument("--task", type=json.loads, default={})
    options = parser.parse_args()
    task = TinyTask(**options.task)
    train_task(tiny_config(**options.config), task, options.out)
    rank = os.environ.get("RANK", "0")
    did = {"made": task.dataset.made, "share": task.share}
    (options.out / f"did_{rank}.json").write_text(json.dumps(did))


if __name__ == "__main__":
    main()
