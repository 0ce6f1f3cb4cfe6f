"""A variational autoencoder for single bins of a normalized spectral volume.

Source: Li et al. 2024, section 4 (the latent space of single-frequency slices; losses and
weights). Departures, all for the sake of a CPU: slices live on a grid half as fine as the photo;
a latent is a 2×2 block mean plus what a small network adds to it, so that training starts from
something useful; and the decoder looks at the photo, because motion ends where things end. How
the pixels of a block share its value is the same for all bins, so the photo is read once.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gidlite.errors import GidliteError

_GRADIENT_WEIGHT = 0.2
_KL_WEIGHT = 1e-6
_SCALES = 3
_BLOCK = 2
_NEIGHBOURS = 3  # blocks a pixel may draw from, along each axis
# Log standard deviation of the latent noise at the start.
_QUIET = -5.0


class SliceAutoencoder(ModelMixin, ConfigMixin):
    """Single-bin slices ↔ latents with four channels at half the size.

    Args:
        channels: Widths of the residual autoencoder's two stages.
        guided: Whether the decoder sees the photo.
        guide_width: Channels of the network that reads it.
        scaling_factor: Latents are multiplied by this, for unit variance.

    Raises:
        GidliteError: If there are not two widths.
    """

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, int] = (16, 32),
        guided: bool = True,
        guide_width: int = 48,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if len(channels) != 2:
            raise GidliteError(f"autoencoder channels are {channels}; give two widths")
        self.residual = AutoencoderKL(
            in_channels=4,
            out_channels=4,
            latent_channels=4,
            block_out_channels=tuple(channels),
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            layers_per_block=1,
            norm_num_groups=8,
            mid_block_add_attention=False,
        )
        for layer in (self.residual.decoder.conv_out, self.residual.quant_conv):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.residual.quant_conv.bias[4:], 2 * _QUIET)
        self.guide = _Guide(guide_width) if guided else None

    def posterior(
        self, slices: Float[Tensor, "slices 4 height width"]
    ) -> tuple[Float[Tensor, "slices 4 rows columns"], Float[Tensor, "slices 4 rows columns"]]:
        """Return mean and log variance of the latents, before scaling."""
        found = self.residual.encode(slices).latent_dist
        return functional.avg_pool2d(slices, _BLOCK) + found.mean, found.logvar

    def encode(
        self, packed: Float[Tensor, "*batch freq 4 height width"]
    ) -> Float[Tensor, "*batch freq 4 rows columns"]:
        """Return the mean latent of every slice, scaled to about unit variance."""
        slices = packed.reshape(-1, *packed.shape[-3:])
        latents = self.posterior(slices)[0] * self.config.scaling_factor
        return latents.reshape(*packed.shape[:-3], *latents.shape[1:])

    def decode(
        self,
        latents: Float[Tensor, "batch freq 4 rows columns"],
        photo: Float[Tensor, "batch 3 full_height full_width"],
    ) -> Float[Tensor, "batch freq 4 height width"]:
        """Return the normalized slices of scaled latents; inverse of ``encode`` up to its error.

        Args:
            latents: All bins of every photo.
            photo: In [0, 1], twice as fine as the slices.
        """
        latents = latents / self.config.scaling_factor
        coarse = latents.flatten(0, 1)
        spread = self._spread(latents, photo).flatten(0, 1)
        return (spread + self.residual.decode(coarse).sample).unflatten(0, latents.shape[:2])

    def _spread(self, latents: Tensor, photo: Tensor) -> Tensor:
        """Enlarge latents: bilinearly, and as the photo suggests."""
        if self.guide is None:
            large = functional.interpolate(
                latents.flatten(0, 1), scale_factor=float(_BLOCK), mode="bilinear"
            )
            return large.unflatten(0, latents.shape[:2])
        shares = self.guide(photo)
        padded = functional.pad(latents.flatten(0, 1), (1,) * 4, mode="replicate")
        blocks = functional.unfold(padded, _NEIGHBOURS).unflatten(-1, latents.shape[-2:])
        blocks = blocks.unflatten(1, (4, -1)).unflatten(0, latents.shape[:2])
        # (b, k, c, n, rows, columns) with (b, n, y, x, rows, columns): pixel (y, x) of a block.
        mixed = torch.einsum("bkcnrs,bnyxrs->bkcyxrs", blocks, shares)
        return functional.pixel_shuffle(mixed.flatten(2, 4), _BLOCK)


class _Guide(nn.Module):
    """Photo → for every pixel, how much it draws from each of the nine blocks around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(12, width, 3, padding=1)]
        for dilation in (1, 2, 4):
            layers += [
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation),
            ]
        self.net = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(width, _NEIGHBOURS**2, 3, padding=1))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)
        self.register_buffer("bilinear", _bilinear_shares(), persistent=False)

    def forward(self, photo: Tensor) -> Tensor:
        shares = self.net(functional.pixel_unshuffle(photo, 2) - 0.5)
        shares = functional.pixel_unshuffle(shares, _BLOCK)
        return shares.unflatten(1, (_NEIGHBOURS**2, _BLOCK, _BLOCK)) + self.bilinear


def _bilinear_shares() -> Float[Tensor, "neighbours y x 1 1"]:
    """Return what each pixel of a block takes from the blocks around it in bilinear enlargement."""
    line = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
    shares = torch.einsum("ym,xn->mnyx", line, line)
    return shares.flatten(0, 1)[..., None, None]


def _gradient_gap(gap: Tensor) -> Tensor:
    """Return the mean absolute horizontal and vertical differences at several scales."""
    total = gap.new_zeros(())
    for _ in range(_SCALES):
        total = total + gap.diff(dim=-1).abs().mean() + gap.diff(dim=-2).abs().mean()
        gap = functional.avg_pool2d(gap, 2)
    return total / _SCALES


def autoencoder_loss(
    autoencoder: SliceAutoencoder,
    slices: Float[Tensor, "batch freq 4 height width"],
    photo: Float[Tensor, "batch 3 full_height full_width"],
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return L1 + 0.2 · multi-scale gradient + 1e-6 · KL, and the three terms by name.

    Args:
        autoencoder: The network to train.
        slices: Normalized slices, about unit scale; any bins of every photo.
        photo: In [0, 1], twice as fine as the slices.
        generator: Source of the latent noise.
    """
    mean, log_variance = autoencoder.posterior(slices.flatten(0, 1))
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    latents = (mean + torch.exp(0.5 * log_variance) * noise).unflatten(0, slices.shape[:2])
    gap = (autoencoder.decode(latents * autoencoder.config.scaling_factor, photo) - slices).flatten(
        0, 1
    )
    terms = {
        "l1": gap.abs().mean(),
        "gradient": _gradient_gap(gap),
        "kl": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
    }
    loss = terms["l1"] + _GRADIENT_WEIGHT * terms["gradient"] + _KL_WEIGHT * terms["kl"]
    return loss, terms
