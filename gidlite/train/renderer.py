"""What the renderer learns: from a photo and the motion to a later frame, the frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gidlite.pairs import PairDataset
from gidlite.photo import perceptual_distance
from gidlite.render import splat_photo
from gidlite.spectral import resize_motion
from gidlite.splat import fill_holes, splat
from gidlite.synthesis import SynthesisNet
from gidlite.train.config import TrainConfig
from gidlite.viz import contact_sheet

__all__ = ["RendererTask"]

_SHEET_EXAMPLES = 6
# The L1 term leaves a tenth of its weight to what has not moved.
_STATIC_WEIGHT, _MOVING_PX = 0.1, 0.05


class RendererTask:
    """Second frames from first ones and the motion between them.

    Args:
        config: Of the part "renderer".
        dataset: Of pairs, on the training device.
        stats: Not used.
        device: Where to train.
    """

    def __init__(self, config: TrainConfig, dataset: PairDataset, stats: None, device) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.model: nn.Module = SynthesisNet(config.renderer_channels).to(device)

    def make(self, numbers: range) -> dict[str, Tensor]:
        """Return pairs: frames as bytes, motion and metric in half precision."""
        items = [self.dataset[n] for n in numbers]
        return {k: torch.stack([item[k] for item in items]).to(self.device) for k in items[0]}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return L1 and perceptual distance where the motion can be trusted."""
        batch = _mirrored(_as_floats(batch), generator)
        if torch.rand(1, generator=generator) < self.config.coarse_share:
            batch["motion"] = _coarsened(batch["motion"])
        frame = synthesize(self.model, batch)
        weight = _trusted_targets(batch)
        gap = (frame - batch["second"]).abs().mean(1, keepdim=True)
        total = (gap * weight).sum() / weight.sum().clamp(min=1)
        look = perceptual_distance(frame.clamp(0, 1), batch["second"], weight)
        return total + self.config.perceptual_weight * look

    def sheet(self, model: nn.Module) -> Tensor:
        """Return photo, truth, splatted photo and the model's frame, of pairs not trained on."""
        batch = _as_floats(self.make(range(2 * 10**9, 2 * 10**9 + 4 * _SHEET_EXAMPLES, 4)))
        base, _ = splat_photo(batch["first"], batch["motion"], batch["metric"])
        rows = zip(batch["first"], batch["second"], base, synthesize(model, batch), strict=True)
        return contact_sheet([tile.clamp(0, 1).cpu() for row in rows for tile in row], columns=4)


def synthesize(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the model's second frames of a batch."""
    return model(model.encode(batch["first"]), batch["motion"], batch["metric"])


def _as_floats(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    frames = {k: batch[k].float() / 255 for k in ("first", "second")}
    return {k: v.float() for k, v in batch.items()} | frames


def _mirrored(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Mirror the whole batch along either axis, each half the time."""
    for axis, component in ((-1, 0), (-2, 1)):
        if torch.rand(1, generator=generator) < 0.5:
            batch = {k: v.flip(axis) for k, v in batch.items()}
            batch["motion"][:, component] *= -1
    return batch


def _coarsened(motion: Tensor) -> Tensor:
    height, width = motion.shape[-2:]
    half = resize_motion(motion, height=height // 2, width=width // 2)
    return resize_motion(half, height=height, width=width)


@torch.no_grad()
def _trusted_targets(batch: dict[str, Tensor]) -> Tensor:
    """Return the weight of every pixel of the second frame: trusted, and more where it moves."""
    moving = (batch["motion"].square().sum(1, keepdim=True) > _MOVING_PX**2).float()
    about = torch.cat([batch["reliable"], moving], dim=1)
    arrived, coverage = splat(about, batch["motion"], mode="average", return_coverage=True)
    # What is uncovered is trusted as far as its surroundings are.
    trusted, moved = fill_holes(arrived, coverage).split(1, dim=1)
    moved = functional.max_pool2d((moved + (coverage < 0.5)).clamp(max=1), 5, 1, 2)
    return (trusted > 0.9) * (_STATIC_WEIGHT + (1 - _STATIC_WEIGHT) * moved)
