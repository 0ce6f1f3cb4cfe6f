"""A variational autoencoder for single bins of a normalized spectral volume.

Source: Li et al. 2024, section 4 (slices, losses and weights). Departures, for the sake of a CPU:
slices live on a grid half as fine as the photo; a latent is a 2×2 block mean plus what a small
network adds, so that training starts from something useful; and the decoder looks at the photo,
once for all bins, because motion ends where things end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from gidlite.errors import require
from gidlite.motion.spectral import Packed
from gidlite.prior import Latents, mute

FullPhotos = Float[Tensor, "batch 3 full_height full_width"]
Slices = Float[Tensor, "batch freq 4 height width"]
_GRADIENT_WEIGHT, _KL_WEIGHT, _SCALES = 0.2, 1e-6, 3
_BLOCK = 2  # pixels a latent cell covers, along each axis
_NEIGHBOURS = 3  # blocks a pixel may draw from, along each axis
_QUIET = -5.0  # log standard deviation of the latent noise at the start


class SliceAutoencoder(ModelMixin, ConfigMixin):
    """Single-bin slices ↔ latents with four channels at half the size.

    Channels are its two widths; if guided, the decoder reads the photo. Latents are multiplied by
    the scaling factor, for unit variance.
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (16, 32),
        guided: bool = True,
        guide_width: int = 48,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        from diffusers import AutoencoderKL  # slow to import

        require(len(channels) == 2, f"autoencoder channels are {channels}; give two widths")
        self.residual = AutoencoderKL(
            in_channels=4, out_channels=4, latent_channels=4, block_out_channels=tuple(channels),
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1, norm_num_groups=8, mid_block_add_attention=False,
        )  # fmt: skip
        mute(self.residual.decoder.conv_out)
        mute(self.residual.quant_conv)
        nn.init.constant_(self.residual.quant_conv.bias[4:], 2 * _QUIET)
        self.guide = _Guide(guide_width) if guided else None

    def posterior(self, slices: Float[Tensor, "slices 4 height width"]) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latents, before scaling."""
        found = self.residual.encode(slices).latent_dist
        return functional.avg_pool2d(slices, _BLOCK) + found.mean, found.logvar

    def encode(self, packed: Packed) -> Float[Tensor, "*batch freq 4 rows columns"]:
        """Return the mean latent of every slice, scaled to about unit variance."""
        slices = packed.reshape(-1, *packed.shape[-3:])
        latents = self.posterior(slices)[0] * self.config.scaling_factor
        return latents.reshape(*packed.shape[:-3], *latents.shape[1:])

    def decode(self, latents: Latents, photo: FullPhotos) -> Slices:
        """Return the slices of scaled latents, with a photo in [0, 1] twice as fine as they are."""
        latents = latents / self.config.scaling_factor
        residual = self.residual.decode(latents.flatten(0, 1)).sample
        return self._spread(latents, photo) + residual.unflatten(0, latents.shape[:2])

    def _spread(self, latents: Latents, photo: FullPhotos) -> Slices:
        """Enlarge latents: bilinearly, and as the photo suggests."""
        flat = latents.flatten(0, 1)
        if self.guide is None:
            large = functional.interpolate(flat, scale_factor=float(_BLOCK), mode="bilinear")
            return large.unflatten(0, latents.shape[:2])
        blocks = functional.unfold(functional.pad(flat, (1,) * 4, mode="replicate"), _NEIGHBOURS)
        blocks = blocks.view(*latents.shape[:3], -1, *latents.shape[-2:])
        # (b, k, c, n, rows, columns) with (b, n, y, x, rows, columns): pixel (y, x) of a block.
        mixed = torch.einsum("bkcnrs,bnyxrs->bkcyxrs", blocks, self.guide(photo))
        return functional.pixel_shuffle(mixed.flatten(2, 4), _BLOCK)


class _Guide(nn.Module):
    """Photo → for every pixel, how much it draws from each of the nine blocks around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(12, width, 3, padding=1)]
        for dilation in (1, 2, 4):
            layers += [nn.SiLU(), nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)]
        self.net = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, _NEIGHBOURS**2, 3, padding=1))
        mute(self.net[-1])
        # What each pixel of a block takes from the blocks around it in bilinear enlargement.
        line = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
        shares = torch.einsum("ym,xn->mnyx", line, line).flatten(0, 1)
        self.register_buffer("bilinear", shares[..., None, None], persistent=False)

    def forward(self, photo: Tensor) -> Tensor:
        shares = self.net(functional.pixel_unshuffle(photo, 2) - 0.5)
        shares = functional.pixel_unshuffle(shares, _BLOCK)
        return shares.unflatten(1, (_NEIGHBOURS**2, _BLOCK, _BLOCK)) + self.bilinear


def autoencoder_loss(
    autoencoder: SliceAutoencoder,
    slices: Slices,
    photo: FullPhotos,
    *,
    reliable: Bool[Tensor, "batch height width"] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return L1 + 0.2 · multi-scale gradient + 1e-6 · KL, and the three terms by name.

    Only reliable pixels of the slices are learned from (all if not given); others count as 0.
    """
    if reliable is None:
        reliable = torch.ones_like(slices[:, 0, 0], dtype=torch.bool)
    slices = torch.where(reliable[:, None, None], slices, 0)
    mean, log_variance = autoencoder.posterior(slices.flatten(0, 1))
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    latents = (mean + torch.exp(0.5 * log_variance) * noise).unflatten(0, slices.shape[:2])
    decoded = autoencoder.decode(latents * autoencoder.config.scaling_factor, photo)
    gap, trusted = (decoded - slices).flatten(1, 2), reliable[:, None]
    terms = {
        "l1": _trusted_mean(gap.abs(), trusted),
        "gradient": _gradient_gap(gap, trusted),
        "kl": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
    }
    loss = terms["l1"] + _GRADIENT_WEIGHT * terms["gradient"] + _KL_WEIGHT * terms["kl"]
    return loss, terms


def _gradient_gap(gap: Tensor, trusted: Tensor) -> Tensor:
    """Return Li and Snavely's (2018) sum over scales of mean |difference| of trusted neighbours."""
    total = gap.new_zeros(())
    for _ in range(_SCALES):
        for axis in (-1, -2):
            both = trusted.unfold(axis, 2, 1).all(-1)
            total = total + _trusted_mean(gap.diff(dim=axis).abs(), both)
        gap = functional.avg_pool2d(gap, 2)
        # A cell of the coarser scale is trusted if all its pixels are.
        trusted = functional.avg_pool2d(trusted.float(), 2) == 1
    return total


def _trusted_mean(values: Tensor, trusted: Tensor) -> Tensor:
    """Return the mean of all maps over trusted places, 0 if there are none."""
    count = trusted.sum() * (values.numel() // trusted.numel())
    return (values * trusted).sum() / count.clamp(min=1)
