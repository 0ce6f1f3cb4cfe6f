"""A variational autoencoder for single bins of a normalized spectral volume.

Source: Li et al. 2024, section 4 (the latent space of single-frequency slices; losses and
weights). Departure: slices live on a grid half as fine as the 256×160 photo, because motion is
smooth within a part and a quarter of the pixels is a quarter of the time on a CPU.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["autoencoder_loss", "decode", "encode", "make_autoencoder"]

_GRADIENT_WEIGHT = 0.2
_KL_WEIGHT = 1e-6
_SCALES = 3


def make_autoencoder(channels: tuple[int, ...] = (32, 64, 96)) -> AutoencoderKL:
    """Return an untrained autoencoder: 4 channels in, 4 latent ones at a quarter of the size."""
    stages = len(channels)
    return AutoencoderKL(
        in_channels=4,
        out_channels=4,
        latent_channels=4,
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        layers_per_block=1,
        norm_num_groups=16,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def encode(
    autoencoder: AutoencoderKL, packed: Float[Tensor, "*batch 4 height width"]
) -> Float[Tensor, "*batch 4 rows columns"]:
    """Return the mean latent of every slice, scaled to about unit variance."""
    slices = packed.reshape(-1, *packed.shape[-3:])
    latents = autoencoder.encode(slices).latent_dist.mean * autoencoder.config.scaling_factor
    return latents.reshape(*packed.shape[:-3], *latents.shape[1:])


def decode(
    autoencoder: AutoencoderKL, latents: Float[Tensor, "*batch 4 rows columns"]
) -> Float[Tensor, "*batch 4 height width"]:
    """Return the normalized slices of scaled latents; inverse of ``encode`` up to its error."""
    flat = latents.reshape(-1, *latents.shape[-3:]) / autoencoder.config.scaling_factor
    slices = autoencoder.decode(flat).sample
    return slices.reshape(*latents.shape[:-3], *slices.shape[1:])


def _gradient_gap(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the L1 gap of horizontal and vertical differences at several scales."""
    gap = predicted - target
    total = gap.new_zeros(())
    for _ in range(_SCALES):
        total = total + gap.diff(dim=-1).abs().mean() + gap.diff(dim=-2).abs().mean()
        gap = functional.avg_pool2d(gap, 2)
    return total / _SCALES


def autoencoder_loss(
    autoencoder: AutoencoderKL,
    slices: Float[Tensor, "batch 4 height width"],
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return L1 + 0.2 · multi-scale gradient + 1e-6 · KL, and the three terms by name.

    Args:
        autoencoder: The network to train.
        slices: Normalized slices, about unit scale.
        generator: Source of the latent noise.
    """
    posterior = autoencoder.encode(slices).latent_dist
    predicted = autoencoder.decode(posterior.sample(generator=generator)).sample
    terms = {
        "l1": (predicted - slices).abs().mean(),
        "gradient": _gradient_gap(predicted, slices),
        "kl": posterior.kl().mean(),
    }
    loss = terms["l1"] + _GRADIENT_WEIGHT * terms["gradient"] + _KL_WEIGHT * terms["kl"]
    return loss, terms
