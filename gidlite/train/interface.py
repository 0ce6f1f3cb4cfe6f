"""What the loop expects of a task, and what a caller may ask of the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["Pace", "Report", "Task"]

Report = Callable[[int, float, float], None]


class Task(Protocol):
    """What is learned, and from what.

    A task may also have a method ``sheet(model)``: given the averaged model it returns a picture
    ``(3, H, W)`` in [0, 1] of what it can do by now, or None.

    Attributes:
        model: What is trained, already on its device.
    """

    model: nn.Module

    def make(self, numbers: range) -> dict[str, Tensor]:
        """Return numbered examples, first axis the example; equal numbers give equal ones."""
        ...

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the mean loss over the examples of a batch.

        With several processes, every parameter that needs a gradient must take part in it.

        Args:
            batch: Some examples; with several processes, the share of this one.
            generator: For all noise; another one for every step and process.
        """
        ...


@dataclass(frozen=True)
class Pace:
    """When to do what.

    Attributes:
        minutes: Stop cleanly after this long; otherwise after ``config.steps``.
        checkpoint_minutes: Time between checkpoints, and between sheets.
        log_every: Steps between rows of the log.
        started: What ``minutes`` count from, by ``time.monotonic``.
    """

    minutes: float | None = None
    checkpoint_minutes: float = 5.0
    log_every: int = 20
    started: float = field(default_factory=time.monotonic)
