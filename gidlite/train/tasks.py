"""What each part learns: examples → what the pool keeps of them → loss, and a sheet to look at."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from gidlite import prior
from gidlite.data import held_out
from gidlite.data.shards import Progress
from gidlite.data.splits import SHEETS
from gidlite.motion.normalize import FrequencyStats, fit_frequency_stats, normalize
from gidlite.motion.spectral import resize_motion
from gidlite.pipeline import GidPipeline
from gidlite.prior.autoencoder import SliceAutoencoder, autoencoder_loss
from gidlite.prior.denoiser import Denoiser, GridPrior
from gidlite.prior.diffusion import denoising_loss, make_scheduler
from gidlite.render.network import SynthesisNet
from gidlite.render.photo import fill_holes, splat_photo
from gidlite.render.splat import splat
from gidlite.train import TrainConfig
from gidlite.viz import contact_sheet, motion_tile

Batch = dict[str, Tensor]
# The renderer's L1 term leaves a tenth of its weight to what has not moved.
_STATIC_WEIGHT, _MOVING_PX = 0.1, 0.05


def fit_stats(
    config: TrainConfig, dataset: Dataset, workers: int = 0, *, tell: Progress | None = None
) -> FrequencyStats:
    """Fit frequency statistics on examples that no run trains on, where they can be trusted."""
    items = list(held_out(dataset, 256, workers, tell=tell))
    return fit_frequency_stats(
        [item["spectral"].cpu() for item in items], percentile=config.percentile,
        variant=config.normalization, reliable=[item["reliable"].cpu() for item in items],
    )  # fmt: skip


class Task(nn.Module):
    """What the parts have in common; as a module, the loss of a batch.

    A task says what its ``network()`` is, before any example is made; what of it is to ``measure``
    on examples first, unless it starts from weights that know; the mean ``loss(batch, generator)``
    over a batch from the pool, in which every trained parameter takes part and all noise comes from
    the generator; and the ``columns(model, batch)`` of a sheet, photos or grey maps. It may
    ``make`` something smaller of examples for the pool. ``parts`` are the trained networks that it
    builds on, by name; the renderer needs no ``stats``; ``workers`` are processes that make
    examples ahead.
    """

    keys = ("image", "spectral", "reliable")
    shown = SHEETS[:3]
    measures_always = False  # even if it starts from weights

    def __init__(
        self, config: TrainConfig, dataset: Dataset | None, stats: FrequencyStats | None = None,
        parts: Mapping[str, nn.Module] | None = None, device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.dataset, self.stats, self.workers = config, dataset, stats, workers
        self.device = torch.device(device)
        # In a plain dictionary they are no submodules, which processes would keep in step.
        self.parts = dict(parts or {})
        for part in self.parts.values():
            part.to(device).eval().requires_grad_(False)
        self.model = self.network().to(device)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        with self.autocast():
            return self.loss(batch, generator)

    def autocast(self) -> torch.autocast:
        """Return the context in which networks run."""
        mixed = self.config.mixed_precision
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=mixed)

    def measure(self, tell: Progress | None = None) -> None:
        """Measure on held-out examples what the network has to know of its data before training."""

    def finish(self, model: nn.Module) -> None:
        """Measure what a trained model has to know of its data."""

    def stack(self, items: list[Batch]) -> Batch:
        """Return examples as one batch on the training device."""
        return {k: torch.stack([item[k].to(self.device) for item in items]) for k in self.keys}

    make = stack

    def sheet(self, model: nn.Module) -> Float[Tensor, "3 height width"]:
        """Return a picture of what a model can do by now, one example a row."""
        columns = self.columns(model, self.stack([self.dataset[n] for n in self.shown]))
        size, tiles = columns[0].shape[-2:], []
        for column in columns:
            if column.ndim == 3:
                column = functional.interpolate(column[:, None].float(), size).expand(-1, 3, -1, -1)
            tiles.append(column.float().clamp(0, 1).cpu())
        return contact_sheet(list(torch.stack(tiles, dim=1).flatten(0, 1)), columns=len(columns))


class AutoencoderTask(Task):
    """Slices through the autoencoder and back."""

    measures_always = True

    def network(self) -> SliceAutoencoder:
        model = SliceAutoencoder(self.config.autoencoder_channels, guided=self.config.guided)
        if self.config.decoder_only:
            model.residual.encoder.requires_grad_(False)
            model.residual.quant_conv.requires_grad_(False)
        return model

    def measure(self, tell: Progress | None = None) -> None:
        """Make what ``finish`` looks at: a run that is stopped has no time to."""
        if not self.config.decoder_only:
            items = held_out(self.dataset, 32, self.workers, tell=tell)
            self.unseen = self.make(list(items))["packed"]

    def make(self, items: list[Batch]) -> Batch:
        batch = self.stack(items)
        packed = normalize(batch.pop("spectral"), self.stats)
        return batch | {"packed": packed.half(), "image": batch["image"].half()}

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return reconstruction, gradient and KL terms on some bins of every volume."""
        batch = _floats(batch)
        packed, _ = _bins(batch["packed"], self.config.slices_per_scene, generator)
        given = {"reliable": batch["reliable"], "generator": on_device(self.device, generator)}
        return autoencoder_loss(self.model, packed, batch["image"], **given)[0]

    def columns(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Return photo, dx (real part, normalized) at bin 1, and the same after a round trip."""
        photos, packed = batch["image"], normalize(batch["spectral"], self.stats)
        decoded = model.decode(model.encode(packed), photos)
        return [photos, *(0.5 + maps[:, 1, 0] / 4 for maps in (packed, decoded))]

    @torch.no_grad()
    def finish(self, model: SliceAutoencoder) -> None:
        """Bring latents to unit variance, unless others have learned from them already."""
        if not self.config.decoder_only:
            model.register_to_config(scaling_factor=1.0)
            latents = model.encode(self.unseen.float())
            model.register_to_config(scaling_factor=1 / latents.std().item())


class AmplitudeTask(Task):
    """Expected magnitude of latents from the photo; the autoencoder is finished."""

    def network(self) -> prior.AmplitudeNet:
        return prior.AmplitudeNet(self.config.num_frequencies)

    def encode(self, batch: Batch) -> Tensor:
        return self.parts["autoencoder"].encode(normalize(batch["spectral"], self.stats))

    @torch.no_grad()
    def make(self, items: list[Batch]) -> Batch:
        batch = self.stack(items)
        latents = self.encode(batch)
        with self.autocast():
            features = prior.photo_features(batch["image"])
        share = functional.adaptive_avg_pool2d(batch["reliable"].float(), latents.shape[-2:])
        return {"latents": latents.half(), "features": features.half(), "reliable": share > 0.5}

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the squared error of magnitudes, of mirrored scenes half the time."""
        batch = _floats(batch)
        if torch.rand(1, generator=generator) < 0.5:
            batch = {k: v.flip(-1) for k, v in batch.items()}
        share = self.config.feature_dropout
        features = prior.drop_features(batch["features"], share, generator=generator)
        return prior.amplitude_loss(self.model, features, batch["latents"], batch["reliable"])

    def columns(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Return photo, true and expected magnitude of latents, mean over bins above 0 Hz."""
        true = prior.latent_magnitude(self.encode(batch))
        both = true, model(prior.photo_features(batch["image"]))
        return [batch["image"], *(maps[:, 1:].mean((1, 2)) / 2 for maps in both)]


class PriorTask(AmplitudeTask):
    """Denoising of whitened latents: of single bins (stage 1), or of all at once if ``joint``.

    It learns from the same latents and photo features as the amplitude network.
    """

    def network(self) -> Denoiser:
        single = self.config.coordination == "attention" and not self.config.joint
        return self.denoiser("independent" if single else self.config.coordination)

    @torch.no_grad()
    def measure(self, tell: Progress | None = None) -> None:
        items = held_out(self.dataset, 96, self.workers, tell=tell)
        scale = self.parts["amplitude"].scale
        batches = [_floats(self.make([item])) for item in items]
        latents = [prior.whiten(batch["latents"], scale(batch["features"])) for batch in batches]
        reliable = torch.cat([batch["reliable"] for batch in batches])
        self.model.field.fit(torch.cat(latents), reliable)

    def denoiser(self, coordination: str) -> Denoiser:
        config = self.config
        sizes = config.num_frequencies, config.denoiser_channels, config.denoiser_layers
        return Denoiser(*sizes, coordination, config.prediction_type)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the denoising error where the motion can be trusted."""
        config, batch = self.config, _floats(batch)
        bins = config.num_frequencies if config.joint else config.slices_per_scene
        with torch.no_grad():
            scale = self.parts["amplitude"].scale(batch["features"])
            latents, freq_index = _bins(prior.whiten(batch["latents"], scale), bins, generator)
        condition = self.model.embed_photo(batch["features"], scale)
        kept = torch.rand(len(condition), 1, 1, 1, generator=generator) >= config.condition_dropout
        return denoising_loss(
            self.model, latents, freq_index.to(self.device), condition * kept.to(self.device),
            scheduler=make_scheduler("ddpm", config.prediction_type), weight=batch["reliable"],
            generator=on_device(self.device, generator),
        )  # fmt: skip

    def columns(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        networks = self.parts["autoencoder"], self.parts["amplitude"], model
        return sampled_columns(GidPipeline(GridPrior(*networks, self.stats)), batch)


def sampled_columns(pipeline: GidPipeline, batch: Batch) -> list[Tensor]:
    """Return photo, true RMS motion and that of a sample, see ``viz.motion_tile``."""
    photos, volumes = batch["image"].cpu(), list(batch["spectral"].cpu())
    for seed, photo in enumerate(photos):
        generator = torch.Generator().manual_seed(seed)
        volumes.append(pipeline(photo, num_inference_steps=10, generator=generator).spectral)
    height, width = photos.shape[-2:]
    tiles = torch.stack([motion_tile(v, height=height, width=width) for v in volumes])
    return [photos, *tiles.split(len(photos))]


class CoordinationTask(PriorTask):
    """Stage 2: frequency attention alone, within the denoiser of stage 1."""

    def network(self) -> Denoiser:
        model = self.denoiser(self.config.coordination)
        model.load_state_dict(self.parts["denoiser"].state_dict(), strict=False)
        model.requires_grad_(False).frequency.requires_grad_(True)
        return model

    def measure(self, tell: Progress | None = None) -> None:
        """Do nothing: stage 1 has measured it."""


class RendererTask(Task):
    """Second frames from first ones and the motion between them."""

    keys = ("first", "second", "motion", "metric", "reliable")
    shown = SHEETS[:24:4]

    def network(self) -> SynthesisNet:
        return SynthesisNet(self.config.renderer_channels)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return L1 and perceptual distance where the motion can be trusted."""
        batch = _floats(batch)
        for axis, component in ((-1, 0), (-2, 1)):  # mirrored along either, each half the time
            if torch.rand(1, generator=generator) < 0.5:
                batch = {k: v.flip(axis) for k, v in batch.items()}
                batch["motion"][:, component] *= -1
        first, second, motion, metric, reliable = (batch[key] for key in self.keys)
        if torch.rand(1, generator=generator) < self.config.coarse_share:
            height, width = motion.shape[-2:]
            coarse = resize_motion(motion, height=height // 2, width=width // 2)
            motion = resize_motion(coarse, height=height, width=width)
        frame = self.model(self.model.encode(first), motion, metric)
        weight = trusted_targets(motion, reliable)
        gap = (frame - second).abs().mean(1, keepdim=True)
        look = prior.perceptual_distance(frame.clamp(0, 1), second, weight)
        gap = (gap * weight).sum() / weight.sum().clamp(min=1)
        return gap + self.config.perceptual_weight * look

    def columns(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Return photo, truth, splatted photo and the model's frame."""
        first, second, motion, metric, _ = (_floats(batch)[key] for key in self.keys)
        base, _ = splat_photo(first, motion, metric)
        return [first, second, base, model(model.encode(first), motion, metric)]


GRID_TASKS: dict[str, type[Task]] = {
    "vae": AutoencoderTask, "amplitude": AmplitudeTask, "prior": PriorTask,
    "coordinate": CoordinationTask, "renderer": RendererTask,
}  # fmt: skip


def _floats(batch: Batch) -> Batch:
    """Return a batch in single precision, bytes as [0, 1]; what is true or false stays so."""
    single = {k: v.float() for k, v in batch.items() if v.dtype != torch.bool}
    return batch | {k: v / 255 if batch[k].dtype == torch.uint8 else v for k, v in single.items()}


def on_device(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """Return a generator on the device that continues the given one's randomness."""
    if device.type == "cpu":
        return generator
    seed = int(torch.randint(1 << 62, (1,), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def _bins(values: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``count`` bins of every volume ``(B, K, ...)``; return them and their indices."""
    order = torch.rand(values.shape[:2], generator=generator).argsort(dim=1)[:, :count]
    order = order.sort(dim=1).values
    return values[torch.arange(len(values))[:, None], order], order


@torch.no_grad()
def trusted_targets(
    motion: Float[Tensor, "batch 2 height width"], reliable: Shaped[Tensor, "batch 1 height width"]
) -> Float[Tensor, "batch 1 height width"]:
    """Return the weight of every pixel of the second frame: trusted, and more where it moves."""
    moving = motion.square().sum(1, keepdim=True) > _MOVING_PX**2
    about = torch.cat([reliable.float(), moving.float()], dim=1)
    arrived, coverage = splat(about, motion, mode="average", return_coverage=True)
    # What is uncovered is trusted as far as its surroundings are.
    trusted, moved = fill_holes(arrived, coverage).split(1, dim=1)
    moved = functional.max_pool2d((moved + (coverage < 0.5)).clamp(max=1), 5, 1, 2)
    return (trusted > 0.9) * (_STATIC_WEIGHT + (1 - _STATIC_WEIGHT) * moved)
