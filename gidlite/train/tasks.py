"""What each part learns: how its examples are prepared, and its loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gidlite.autoencoder import autoencoder_loss, encode, make_autoencoder
from gidlite.denoiser import Denoiser, photo_features
from gidlite.diffusion import denoising_loss, make_scheduler
from gidlite.normalize import FrequencyStats, normalize
from gidlite.train.config import TrainConfig

__all__ = ["AutoencoderTask", "PriorTask", "autocast"]


def _slices(values: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``count`` bins of every volume ``(B, K, ...)``; return slices and bin indices."""
    order = torch.rand(values.shape[:2], generator=generator).argsort(dim=1)[:, :count]
    rows = torch.arange(len(values))[:, None]
    return values[rows, order].flatten(0, 1), order.flatten()


class AutoencoderTask:
    """What is learned and from what, for the autoencoder."""

    def __init__(self, config: TrainConfig, dataset, stats: FrequencyStats, device) -> None:
        self.config, self.dataset, self.stats, self.device = config, dataset, stats, device
        self.model: nn.Module = make_autoencoder(config.autoencoder_channels).to(device)

    def make(self, numbers: range) -> dict[str, Tensor]:
        volumes = torch.stack([self.dataset[n]["spectral"].to(self.device) for n in numbers])
        return {"packed": normalize(volumes, self.stats).half()}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        slices, _ = _slices(batch["packed"], self.config.slices_per_scene, generator)
        slices = slices.to(self.device).float()
        loss, _ = autoencoder_loss(self.model, slices, generator=generator)
        return loss


class PriorTask:
    """What is learned and from what, for the prior."""

    def __init__(self, config, dataset, stats, device, autoencoder) -> None:
        self.config, self.dataset, self.stats, self.device = config, dataset, stats, device
        self.autoencoder = autoencoder.to(device).eval().requires_grad_(False)
        self.scheduler = make_scheduler("ddpm")
        self.model: nn.Module = Denoiser(config.num_frequencies, config.denoiser_channels).to(
            device
        )

    @torch.no_grad()
    def make(self, numbers: range) -> dict[str, Tensor]:
        items = [self.dataset[n] for n in numbers]
        images, volumes = (
            torch.stack([item[key].to(self.device) for item in items])
            for key in ("image", "spectral")
        )
        with autocast(self.config, self.device):
            latents = encode(self.autoencoder, normalize(volumes, self.stats))
            features = photo_features(images)
        return {"latents": latents.half(), "features": features.half()}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        count = self.config.slices_per_scene
        latents, freq_index = _slices(batch["latents"], count, generator)
        condition = self.model.embed_photo(batch["features"].to(self.device).float())
        kept = (
            torch.rand(len(latents), 1, 1, 1, generator=generator) >= self.config.condition_dropout
        )
        return denoising_loss(
            self.model,
            latents.to(self.device).float(),
            freq_index.to(self.device),
            condition.repeat_interleave(count, dim=0) * kept.to(self.device),
            scheduler=self.scheduler,
            generator=generator if str(self.device) == "cpu" else None,
        )


def autocast(config: TrainConfig, device: torch.device | str) -> torch.autocast:
    """Return the context in which losses are computed."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=config.mixed_precision)
