"""Settings of a training run."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from gidlite.errors import GidliteError

PARTS = ("vae", "amplitude", "prior", "coordinate", "renderer")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; saved beside every checkpoint.

    Attributes:
        part: One of ``PARTS``, in the order in which they are trained; "renderer" needs no other.
        scenes_per_step: Scenes (of the renderer: pairs of frames) in a batch.
        slices_per_scene: Bins drawn from each of them.
        new_scenes_per_step: Scenes added to the pool at every step.
        pool_size: Scenes kept; the oldest leave.
        learning_rate: Peak of a linear warm-up over ``warmup_steps`` and a cosine decay.
        steps: Length of the cosine decay and of the run.
        decay_minutes: Ends the decay after this long, should that be earlier; such a run cannot be
            repeated step by step.
        clip_norm: Gradients longer than this are shortened to it.
        ema_decay: Of the averaged weights, which are the ones to use.
        real_share: Share of examples from real shards, where there are any.
        normalization: One of ``normalize.VARIANTS``.
        percentile: Of coefficient magnitude, that the scales are read at.
        condition_dropout: Share of slices trained without the photo, for guidance.
        feature_dropout: Share of the photo's features that the amplitude network does without,
            other ones for every scene and step.
        guided: Whether the autoencoder's decoder sees the photo.
        decoder_only: Leave the autoencoder's encoder as it starts, so that latents, and what was
            trained on them, stay valid.
        coordination: How the denoiser's bins hear of each other, one of
            ``denoiser.COORDINATIONS``; "attention" comes with part "coordinate" unless ``joint``.
        joint: Part "prior" trains every layer, frequency attention included, on all bins of a
            scene, instead of ``slices_per_scene`` of them.
        prediction_type: What the denoiser predicts, "v_prediction" or "epsilon".
        mixed_precision: bfloat16 where it is safe.
        renderer_channels: Of the synthesis network at full, half and quarter resolution.
        perceptual_weight: Of the perceptual beside the L1 term of the renderer's loss.
        coarse_share: Share of the renderer's batches whose motion is blurred to half resolution,
            as motion predicted on a coarser grid is.
    """

    part: str = "prior"
    num_frequencies: int = 16
    height: int = 160
    width: int = 256
    grid_stride: int = 2
    num_frames: int = 150
    fps: float = 30.0
    scenes_per_step: int = 8
    slices_per_scene: int = 4
    new_scenes_per_step: int = 1
    pool_size: int = 1024
    learning_rate: float = 4e-4
    warmup_steps: int = 100
    steps: int = 20_000
    decay_minutes: float | None = None
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    condition_dropout: float = 0.1
    feature_dropout: float = 0.0
    mixed_precision: bool = True
    seed: int = 0
    real_share: float = 0.3
    normalization: str = "adaptive"
    percentile: float = 95.0
    autoencoder_channels: tuple[int, ...] = (16, 32)
    guided: bool = True
    decoder_only: bool = False
    denoiser_channels: tuple[int, ...] = (64, 128, 192)
    denoiser_layers: int = 1
    coordination: str = "attention"
    joint: bool = False
    prediction_type: str = "v_prediction"
    renderer_channels: tuple[int, int, int] = (16, 32, 48)
    perceptual_weight: float = 0.03
    coarse_share: float = 0.25

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise GidliteError(f"part {self.part!r} is unknown; train one of {', '.join(PARTS)}")
        if self.slices_per_scene > self.num_frequencies:
            raise GidliteError("slices_per_scene is larger than num_frequencies; lower it")
        if not 0 <= self.feature_dropout < 1:
            raise GidliteError(
                f"feature_dropout is {self.feature_dropout}; it must be at least 0 and less than 1"
            )

    @classmethod
    def from_json(cls, path: str | Path, **overrides) -> TrainConfig:
        """Read a config; unknown keys are refused with the valid ones listed."""
        try:
            values = json.loads(Path(path).read_text()) | overrides
        except (OSError, ValueError) as error:
            raise GidliteError(f"{path} is not a readable JSON config ({error})") from None
        valid = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - valid):
            raise GidliteError(
                f"{path} has unknown keys {', '.join(unknown)}; valid: {', '.join(sorted(valid))}"
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_json(self) -> dict:
        """Return the settings as they are after a round trip through JSON: tuples are lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


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
