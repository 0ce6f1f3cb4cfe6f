"""The denoiser: the exact one of a Gaussian field, and a network for what that does not know.

For a Gaussian field with a known power spectrum the best denoiser is known (Wiener): every spatial
mode is shrunk by its own signal-to-noise ratio. Starting from it is our departure from Li et al.
2024 (lesson 05). The U-Net learns where things end, and how they move together. As in the paper,
the bins of a volume are denoised together, coordinated by attention over frequencies.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gidlite.errors import require
from gidlite.motion.normalize import FrequencyStats, denormalize
from gidlite.prior import (
    FEATURE_CHANNELS,
    AmplitudeNet,
    Condition,
    Features,
    FreqIndex,
    Latents,
    Photos,
    Reliable,
    mute,
    photo_features,
)  # fmt: skip
from gidlite.prior.autoencoder import SliceAutoencoder
from gidlite.prior.diffusion import Sampler, noise_steps, signal_levels

Levels, Steps = Float[Tensor, " batch"], Int[Tensor, " batch"]
# attention: as in the paper. independent: each bin alone. volume: all bins as channels of one.
COORDINATIONS = ("attention", "independent", "volume")
PATCH = 2  # latent cells a side that the U-Net takes as one
# Spatial frequencies, in cycles per cell, between which spectra are interpolated.
_KNOTS = (0.0, *torch.logspace(math.log10(1 / 128), math.log10(0.7072), 13).tolist())
_LEAST_POWER = 1e-4


@functools.cache
def _cosines(size: int, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II matrix, one mode a row."""
    number = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * number[:, None] * (number + 0.5)) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float().to(device)


def cosine_transform(
    field: Float[Tensor, "*batch rows columns"], *, inverse: bool = False
) -> Float[Tensor, "*batch rows columns"]:
    """Return the orthonormal 2D cosine transform: white noise stays white, borders reflect."""
    down, across = (_cosines(size, field.device) for size in field.shape[-2:])
    return down.mT @ field @ across if inverse else down @ field @ across.mT


class GaussianField(nn.Module):
    """Zero-mean Gaussian slices with a power spectrum per bin and channel; white at first."""

    def __init__(self, num_frequencies: int) -> None:
        super().__init__()
        self.register_buffer("log_power", torch.zeros(num_frequencies, 4, len(_KNOTS)))

    def power(self, rows: int, columns: int) -> Float[Tensor, "freq 4 rows columns"]:
        """Return the variance of every cosine mode, at any size."""
        logs = self.log_power.float() @ self._hats(rows, columns).flatten(1)
        return logs.exp().unflatten(-1, (rows, columns))

    def _hats(self, rows: int, columns: int) -> Float[Tensor, "knots rows columns"]:
        """Return the weight of every knot in every mode, linear in log frequency."""
        device = self.log_power.device
        down = torch.arange(rows, device=device)[:, None] / (2 * rows)
        across = torch.arange(columns, device=device) / (2 * columns)
        place = torch.log((down.square() + across.square()).sqrt() + _KNOTS[1] / 2)
        knots = torch.log(torch.tensor(_KNOTS, device=device) + _KNOTS[1] / 2)
        upper = torch.bucketize(place, knots).clamp(1, len(knots) - 1)[None]
        share = ((place - knots[upper - 1]) / (knots[upper] - knots[upper - 1])).clamp(0, 1)
        hats = torch.zeros(len(knots), rows, columns, device=device).scatter_(0, upper, share)
        return hats.scatter_(0, upper - 1, 1 - share)

    @torch.no_grad()
    def fit(self, latents: Latents, reliable: Reliable) -> None:
        """Measure the spectrum on examples; the power of what cannot be trusted is made up for."""
        count = reliable.float().mean((1, 2)).sum().clamp(min=1)
        known = torch.where(reliable[:, None, None], latents.float(), 0)
        power = cosine_transform(known).square().sum(0) / count
        hats = self._hats(*latents.shape[-2:])
        weight = hats.sum((1, 2))
        pooled = torch.einsum("kcij,nij->kcn", power, hats) / weight.clamp(min=1e-6)
        pooled = pooled.clamp(min=_LEAST_POWER).log()
        # A small grid has no modes near some knots; they take after their neighbours.
        known = (weight > 1e-3).nonzero()[:, 0].cpu()
        rows = pooled.flatten(0, 1)[:, known].cpu()
        filled = [np.interp(np.arange(len(_KNOTS)), known, row) for row in rows]
        self.log_power.copy_(torch.tensor(np.array(filled)).view_as(self.log_power))

    def denoise(self, noisy: Latents, freq_index: FreqIndex, signal: Levels) -> Latents:
        """Return the expected clean slices of ``signal`` × clean + ``√(1 − signal²)`` × white."""
        with torch.autocast(noisy.device.type, enabled=False):  # powers span many decades
            power = self.power(*noisy.shape[-2:])[freq_index]
            signal = signal.float()[:, None, None, None, None]
            gain = signal * power / (signal.square() * power + 1 - signal.square()).clamp(min=1e-8)
            return cosine_transform(gain * cosine_transform(noisy.float()), inverse=True)

    def draw_noisy(self, noise: Latents, freq_index: FreqIndex, signal: Levels) -> Latents:
        """Return a draw of noisy slices, made from white noise of the same shape."""
        power = self.power(*noise.shape[-2:])[freq_index]
        signal = signal.float()[:, None, None, None, None]
        deviation = (signal.square() * power + 1 - signal.square()).sqrt()
        return cosine_transform(deviation * cosine_transform(noise), inverse=True)


class FrequencyAttention(nn.Module):
    """Lets the K bins of a volume exchange what they know at every pixel; starts as the identity.

    Features ``(B·K, C, h, w)`` are read as ``(B·h·w, K, C)`` and attend over K.
    """

    def __init__(self, channels: int, num_frequencies: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(16, channels)
        self.bin = nn.Embedding(num_frequencies, channels)
        self.heads = heads
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.normal_(self.bin.weight, std=0.02)
        mute(self.out)

    def forward(self, x: Tensor, freq_index: FreqIndex) -> Tensor:
        tokens = self.norm(x).unflatten(0, freq_index.shape).permute(0, 3, 4, 1, 2)  # b h w k c
        tokens = (tokens + self.bin(freq_index)[:, None, None]).flatten(0, 2)
        triples = self.query_key_value(tokens).unflatten(-1, (3, self.heads, -1))
        mixed = functional.scaled_dot_product_attention(*triples.permute(2, 0, 3, 1, 4))
        mixed = self.out(mixed.transpose(1, 2).flatten(2))
        mixed = mixed.unflatten(0, (-1, *x.shape[-2:])).permute(0, 3, 4, 1, 2)
        return x + mixed.flatten(0, 1)


class Denoiser(ModelMixin, ConfigMixin):
    """U-Net over latent slices: widths at three resolutions, residual layers per block.

    See ``COORDINATIONS``, and ``diffusion.PREDICTION_TYPES`` for what it predicts.
    """

    @register_to_config
    def __init__(
        self,
        num_frequencies: int = 16,
        channels: Sequence[int] = (64, 128, 192),
        layers: int = 1,
        coordination: str = "attention",
        prediction_type: str = "v_prediction",
    ) -> None:
        super().__init__()
        from diffusers import UNet2DModel  # slow to import, and photos' own modes need none

        known = ", ".join(COORDINATIONS)
        message = f"coordination {coordination!r} is unknown; use one of {known}"
        require(coordination in COORDINATIONS, message)
        # A volume at once has the bins as channels, and no bin index.
        bins = num_frequencies if coordination == "volume" else 1
        self.unet = UNet2DModel(
            in_channels=2 * 4 * PATCH**2 * bins,  # noisy latents and their Gaussian estimate
            out_channels=4 * PATCH**2 * bins,
            block_out_channels=tuple(channels), layers_per_block=layers,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            num_class_embeds=None if coordination == "volume" else num_frequencies,
            attention_head_dim=32, norm_num_groups=16,
        )  # fmt: skip
        mute(self.unet.conv_out)  # the untrained network is the Gaussian denoiser
        self.field = GaussianField(num_frequencies)
        width = channels[0]
        reduce = nn.Conv2d(FEATURE_CHANNELS + 4 * num_frequencies, width, 1)
        patches = nn.Conv2d(width, width, PATCH, stride=PATCH)
        smooth = nn.Conv2d(width, width, 3, padding=1)
        mix = nn.Sequential(nn.SiLU(), patches, nn.SiLU(), smooth)
        self.condition = nn.ModuleDict({"reduce": reduce, "mix": mix})
        self.frequency = nn.ModuleList()
        if coordination == "attention":
            widths = [*channels, channels[-1], *reversed(channels)]
            self.frequency.extend(FrequencyAttention(each, num_frequencies) for each in widths)

    def embed_photo(self, features: Features, scale: Latents) -> Condition:
        """Return the condition of photo features and what latents were divided by; 0 is no photo.

        One serves all bins and noise levels, for it is added only after the first convolution.
        """
        joined = torch.cat([features, scale.flatten(1, 2).log()], dim=1)
        return self.condition["mix"](self.condition["reduce"](joined))

    def shape_noise(self, noise: Latents, freq_index: FreqIndex) -> Latents:
        """Return noisy latents as at the first step of sampling, where some signal is left."""
        first = noise_steps(torch.zeros(len(noise), device=noise.device))
        return self.field.draw_noisy(noise, freq_index, signal_levels(noise.device)[first])

    def forward(
        self, noisy: Latents, step: Steps, freq_index: FreqIndex, condition: Condition
    ) -> Latents:
        """Predict v, or noise, of latents of any bins; coordination "volume" needs all K."""
        signal = signal_levels(noisy.device)[step]
        estimate = self.field.denoise(noisy, freq_index, signal)
        x = torch.cat([noisy, estimate.to(noisy.dtype)], dim=2)
        volume = self.config.coordination == "volume"
        x, repeats = (x.flatten(1, 2), 1) if volume else (x.flatten(0, 1), freq_index.shape[1])
        step, condition = (t.repeat_interleave(repeats, dim=0) for t in (step, condition))
        embedding = self.unet.time_embedding(self.unet.time_proj(step).to(self.dtype))
        if self.unet.class_embedding is not None:
            embedding = embedding + self.unet.class_embedding(freq_index.flatten())
        x = self.unet.conv_in(functional.pixel_unshuffle(x, PATCH)) + condition
        x = self._run_blocks(x, embedding, freq_index)
        x = self.unet.conv_out(self.unet.conv_act(self.unet.conv_norm_out(x)))
        x = functional.pixel_shuffle(x, PATCH).reshape(noisy.shape)
        signal = signal.view(-1, 1, 1, 1, 1)
        sigma = (1 - signal.square()).sqrt()
        noise = (noisy - signal * estimate) / sigma
        is_v = self.config.prediction_type == "v_prediction"
        return x + (signal * noise - sigma * estimate if is_v else noise)

    def _run_blocks(self, x: Tensor, embedding: Tensor, freq_index: Tensor) -> Tensor:
        """Run the U-Net's blocks, each followed by frequency attention if there is any."""
        attention = iter(self.frequency)

        def coordinated(features: Tensor) -> Tensor:
            layer = next(attention, None)
            return features if layer is None else layer(features, freq_index)

        skips = [x]
        for block in self.unet.down_blocks:
            x, passed = block(x, embedding)
            x = coordinated(x)
            skips += [*passed[:-1], x]
        x = coordinated(self.unet.mid_block(x, embedding))
        for block in self.unet.up_blocks:
            count = len(block.resnets)
            skips, passed = skips[:-count], skips[-count:]
            x = coordinated(block(x, passed, embedding))
        return x


class GridPrior:
    """Draws pictures of Fourier coefficients, by latent diffusion, as Li et al. 2024.

    The amplitude network says how much each place moves, the denoiser what the photo cannot tell,
    and the autoencoder how that looks in detail. Statistics are in px of the motion grid.
    """

    PARTS: ClassVar = {
        "autoencoder": SliceAutoencoder, "amplitude": AmplitudeNet, "denoiser": Denoiser,
    }  # fmt: skip

    def __init__(
        self, autoencoder: SliceAutoencoder, amplitude: AmplitudeNet, denoiser: Denoiser,
        stats: FrequencyStats,
    ) -> None:  # fmt: skip
        self.autoencoder, self.amplitude, self.denoiser = autoencoder, amplitude, denoiser
        self.stats = stats

    def sample(self, photo: Photos, sampler: Sampler) -> Complex[Tensor, "freq 2 rows columns"]:
        """Return a volume in px of its own grid, half as fine as the photo."""
        require(sampler.wind is None, "this model knows no wind; leave it out, or amplify")
        features = photo_features(photo)
        scale = self.amplitude.scale(features)
        bins = torch.arange(len(self.stats.scale), device=photo.device)[None]

        def coarse_volume(whitened: Tensor) -> Tensor:
            # Means over 2×2 pixels spare guidance a costly gradient through the decoder.
            latents = whitened * scale / self.autoencoder.config.scaling_factor
            return denormalize(latents, self.stats)

        start = self.denoiser.shape_noise(sampler.noise(scale.shape).to(photo.device), bins)
        condition = self.denoiser.embed_photo(features, scale)
        whitened = sampler.solve(self.denoiser, start, condition, bins, coarse_volume)
        return denormalize(self.autoencoder.decode(whitened * scale, photo)[0].cpu(), self.stats)
