"""Pictures of what a part can do by now, drawn at every checkpoint from examples not trained on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gidlite.data import MotionDataset
from gidlite.motion.normalize import FrequencyStats, normalize
from gidlite.motion.spectral import resize_motion
from gidlite.pipeline import GidPipeline
from gidlite.prior import (
    AmplitudeNet,
    amplitude_loss,
    drop_features,
    latent_magnitude,
    perceptual_distance,
    photo_features,
    whiten,
)
from gidlite.prior.autoencoder import SliceAutoencoder, autoencoder_loss
from gidlite.prior.denoiser import Denoiser
from gidlite.prior.diffusion import denoising_loss, make_scheduler
from gidlite.render.network import SynthesisNet
from gidlite.render.photo import fill_holes, splat_photo
from gidlite.render.splat import splat
from gidlite.train import TrainConfig
from gidlite.viz import contact_sheet, motion_tile

Picture = Float[Tensor, "3 height width"]
# Of sampling for a sheet: enough to see what comes, and done in seconds.
_STEPS = 10


def autoencoder_sheet(model: SliceAutoencoder, photos: Tensor, packed: Tensor) -> Picture:
    """Return photo, normalized dx (real part) at bin 1, and the same after encoding and decoding.

    Args:
        model: Of this moment.
        photos: ``(N, 3, H, W)``.
        packed: Normalized volumes ``(N, K, 4, h, w)``.
    """
    decoded = model.decode(model.encode(packed), photos)
    rows = zip(photos, packed[:, 1, 0], decoded[:, 1, 0], strict=True)
    return _sheet([(photo, *(_gray(0.5 + s / 4, photo) for s in pair)) for photo, *pair in rows])


def amplitude_sheet(
    net: AmplitudeNet, photos: Tensor, features: Tensor, latents: Tensor
) -> Picture:
    """Return photo, true and expected magnitude of latents, mean over bins above 0 Hz.

    Args:
        net: Of this moment.
        photos: ``(N, 3, H, W)``.
        features: From ``photo_features``.
        latents: Of the true motion, ``(N, K, 4, h, w)``.
    """
    maps = [m[:, 1:].mean((1, 2)) / 2 for m in (latent_magnitude(latents), net(features))]
    rows = zip(photos, *maps, strict=True)
    return _sheet([(photo, *(_gray(m, photo) for m in pair)) for photo, *pair in rows])


def prior_sheet(pipeline: GidPipeline, photos: Tensor, spectral: Tensor) -> Picture:
    """Return photo, true RMS motion and that of a sample, see ``viz.motion_tile``.

    Args:
        pipeline: All parts, of this moment.
        photos: ``(N, 3, H, W)``.
        spectral: True volumes ``(N, K, 2, h, w)``.
    """
    rows = []
    for number, (photo, truth) in enumerate(zip(photos.cpu(), spectral.cpu(), strict=True)):
        generator = torch.Generator().manual_seed(number)
        drawn = pipeline(photo, num_inference_steps=_STEPS, generator=generator).spectral
        size = {"height": photo.shape[-2], "width": photo.shape[-1]}
        rows.append((photo, motion_tile(truth, **size), motion_tile(drawn, **size)))
    return _sheet(rows)


def _sheet(rows: list[tuple[Picture, ...]]) -> Picture:
    return contact_sheet([tile.cpu().float() for row in rows for tile in row], columns=3)


def _gray(values: Float[Tensor, "rows columns"], photo: Picture) -> Picture:
    fitted = functional.interpolate(values[None, None].float(), photo.shape[-2:])[0]
    return fitted.clamp(0, 1).expand(3, -1, -1)


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


_SHEET_PAIRS = 6
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

    def __init__(self, config: TrainConfig, dataset: MotionDataset, stats: None, device) -> None:
        self.config, self.dataset, self.device = config, dataset, device
        self.model: nn.Module = SynthesisNet(config.renderer_channels).to(device)

    def make(self, numbers: range) -> dict[str, Tensor]:
        """Return pairs: frames as bytes, motion and metric in half precision."""
        items = [self.dataset[n] for n in numbers]
        names = [name for name in items[0] if name != "source"]
        return {k: torch.stack([item[k] for item in items]).to(self.device) for k in names}

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
        batch = _as_floats(self.make(range(2 * 10**9, 2 * 10**9 + 4 * _SHEET_PAIRS, 4)))
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
