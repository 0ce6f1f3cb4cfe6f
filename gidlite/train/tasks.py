"""What each part learns: how its examples are prepared, and its loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gidlite.amplitude import AmplitudeNet, amplitude_loss, whiten
from gidlite.autoencoder import SliceAutoencoder, autoencoder_loss
from gidlite.denoiser import Denoiser
from gidlite.diffusion import denoising_loss, make_scheduler
from gidlite.normalize import FrequencyStats, normalize
from gidlite.photo import drop_features, photo_features
from gidlite.pipeline import GidPipeline
from gidlite.train.config import TrainConfig
from gidlite.train.sheets import amplitude_sheet, autoencoder_sheet, prior_sheet

__all__ = ["AmplitudeTask", "AutoencoderTask", "PriorTask", "autocast"]

_FIELD_EXAMPLES = 96
_SHEET_EXAMPLES = 3


def _bins(values: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``count`` bins of every volume ``(B, K, ...)``; return them and their indices."""
    order = torch.rand(values.shape[:2], generator=generator).argsort(dim=1)[:, :count]
    order = order.sort(dim=1).values
    return values[torch.arange(len(values))[:, None], order], order


class _Task:
    """What every task shares: the examples of a range of numbers, on the training device."""

    def __init__(self, config: TrainConfig, dataset, stats: FrequencyStats, device) -> None:
        self.config, self.dataset, self.stats, self.device = config, dataset, stats, device

    def sheet(self, model: nn.Module) -> Tensor:
        """Return a picture of what the model does with a few examples never trained on."""
        items = [self.dataset[2 * 10**9 + n] for n in range(_SHEET_EXAMPLES)]
        photos, spectral = (
            torch.stack([item[name] for item in items]).to(self.device)
            for name in ("image", "spectral")
        )
        return self._draw_sheet(model, photos, spectral)

    def _examples(self, numbers: range) -> dict[str, Tensor]:
        items = self.dataset.take(numbers)
        names = ("image", "spectral", "reliable")
        batch = {k: torch.stack([item[k].to(self.device) for item in items]) for k in names}
        return batch | {"packed": normalize(batch.pop("spectral"), self.stats)}

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        moved = {k: v.to(self.device) for k, v in batch.items()}
        return {k: v.float() if v.is_floating_point() else v for k, v in moved.items()}


class AutoencoderTask(_Task):
    """Slices through the autoencoder and back."""

    def __init__(self, config, dataset, stats, device) -> None:
        super().__init__(config, dataset, stats, device)
        channels = config.autoencoder_channels
        model = SliceAutoencoder(channels, guided=config.guided)
        if config.decoder_only:
            model.residual.encoder.requires_grad_(False)
            model.residual.quant_conv.requires_grad_(False)
        self.model: nn.Module = model.to(device)

    def make(self, numbers: range) -> dict[str, Tensor]:
        """Return normalized volumes and photos."""
        batch = self._examples(numbers)
        return {"packed": batch["packed"].half(), "image": batch["image"].half()}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return reconstruction, gradient and KL terms on some bins of every volume."""
        packed, _ = _bins(batch["packed"], self.config.slices_per_scene, generator)
        batch = self._to_device({"packed": packed, "image": batch["image"]})
        loss, _ = autoencoder_loss(
            self.model, batch["packed"], batch["image"], generator=_on(self.device, generator)
        )
        return loss

    def _draw_sheet(self, model, photos, spectral) -> Tensor:
        return autoencoder_sheet(model, photos, normalize(spectral, self.stats))


class _LatentTask(_Task):
    """Learns from latents and photo features; the autoencoder is finished."""

    def __init__(self, config, dataset, stats, device, autoencoder: SliceAutoencoder) -> None:
        super().__init__(config, dataset, stats, device)
        self.autoencoder = autoencoder.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def make(self, numbers: range) -> dict[str, Tensor]:
        """Return latents, photo features and which cells can be trusted."""
        batch = self._examples(numbers)
        latents = self.autoencoder.encode(batch["packed"])
        with autocast(self.config, self.device):
            features = photo_features(batch["image"])
        size = latents.shape[-2:]
        share = functional.adaptive_avg_pool2d(batch["reliable"].float(), size)
        return {"latents": latents.half(), "features": features.half(), "reliable": share > 0.5}


class AmplitudeTask(_LatentTask):
    """Expected magnitude of latents from the photo."""

    def __init__(self, config, dataset, stats, device, autoencoder) -> None:
        super().__init__(config, dataset, stats, device, autoencoder)
        self.model: nn.Module = AmplitudeNet(config.num_frequencies).to(device)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the squared error of magnitudes, of mirrored scenes half the time."""
        batch = self._to_device(batch)
        if torch.rand(1, generator=generator) < 0.5:
            batch = {k: v.flip(-1) for k, v in batch.items()}
        features = batch["features"]
        if self.config.feature_dropout:
            features = drop_features(features, self.config.feature_dropout, generator=generator)
        return amplitude_loss(self.model, features, batch["latents"], batch["reliable"])

    def _draw_sheet(self, model, photos, spectral) -> Tensor:
        latents = self.autoencoder.encode(normalize(spectral, self.stats))
        return amplitude_sheet(model, photos, photo_features(photos), latents)


class PriorTask(_LatentTask):
    """Denoising of latents: in stages (single bins, then how they go together) or all at once.

    Args:
        config: Part "prior" is stage 1, or all at once if ``joint``; "coordinate" is stage 2,
            which trains frequency attention alone.
        dataset: Of examples.
        stats: Frequency statistics.
        device: Where to train.
        autoencoder: Finished.
        amplitude: Finished.
        denoiser: Of stage 1, for stage 2.
    """

    def __init__(
        self, config, dataset, stats, device, autoencoder, amplitude, denoiser=None
    ) -> None:
        super().__init__(config, dataset, stats, device, autoencoder)
        self.amplitude = amplitude.to(device).eval().requires_grad_(False)
        stage2 = config.part == "coordinate"
        single = config.coordination == "attention" and not (stage2 or config.joint)
        model = Denoiser(
            config.num_frequencies,
            config.denoiser_channels,
            config.denoiser_layers,
            "independent" if single else config.coordination,
            config.prediction_type,
        )
        if not stage2:
            self._fit_field(model)
        else:
            model.load_state_dict(denoiser.state_dict(), strict=False)
            model.requires_grad_(False)
            model.frequency.requires_grad_(True)
        self.bins = config.num_frequencies if config.joint else config.slices_per_scene
        self.scheduler = make_scheduler("ddpm", config.prediction_type)
        self.model: nn.Module = model.to(device)

    @torch.no_grad()
    def _fit_field(self, model: Denoiser) -> None:
        """Measure the spatial spectrum of whitened latents on examples never trained on."""
        whitened, reliable = [], []
        for first in range(10**9, 10**9 + _FIELD_EXAMPLES, 8):
            batch = self._to_device(self.make(range(first, first + 8)))
            whitened.append(whiten(batch["latents"], self.amplitude.scale(batch["features"])))
            reliable.append(batch["reliable"])
        model.to(self.device).field.fit(torch.cat(whitened), torch.cat(reliable))

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the denoising error of whitened latents where the motion can be trusted."""
        batch = self._to_device(batch)
        with torch.no_grad():
            scale = self.amplitude.scale(batch["features"])
            latents, freq_index = _bins(whiten(batch["latents"], scale), self.bins, generator)
        condition = self.model.embed_photo(batch["features"], scale)
        kept = torch.rand(len(condition), 1, 1, 1, generator=generator)
        kept = (kept >= self.config.condition_dropout).to(self.device)
        return denoising_loss(
            self.model, latents, freq_index.to(self.device), condition * kept,
            scheduler=self.scheduler, reliable=batch["reliable"],
            generator=_on(self.device, generator),
        )  # fmt: skip

    def _draw_sheet(self, model, photos, spectral) -> Tensor:
        pipeline = GidPipeline(self.autoencoder, self.amplitude, model, self.stats)
        return prior_sheet(pipeline, photos, spectral)


def _on(device: torch.device | str, generator: torch.Generator) -> torch.Generator:
    """Return a generator on the device that continues the given one's randomness."""
    if torch.device(device).type == "cpu":
        return generator
    seed = int(torch.randint(1 << 62, (1,), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def autocast(config: TrainConfig, device: torch.device | str) -> torch.autocast:
    """Return the context in which losses are computed."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=config.mixed_precision)
