"""Everything that changes while training, and its way into a checkpoint and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gidlite.train.checkpoint import with_prefix
from gidlite.train.config import TrainConfig

__all__ = ["TrainState", "learning_rate"]


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
