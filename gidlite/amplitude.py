"""How far each place moves at each frequency, as far as the photo alone can tell.

Most of a spectral volume's entries are zero because walls do not sway. A small network reads the
expected magnitude of every latent off the photo; dividing by it leaves the diffusion model with
what a photo cannot tell: direction, phase, and how parts move together. The normalization that
adapts to the frequency (Li et al. 2024, section 4) is so carried one step further: it adapts to
the place, too. This is a departure from the paper.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from gidlite.photo import FEATURE_CHANNELS

__all__ = ["AmplitudeNet", "amplitude_loss", "latent_magnitude", "sharpen", "whiten"]

# Latents are divided by at least this; their magnitude on moving things is about 1.
_FLOOR = 0.02
# Whitened latents beyond this are mistakes of the scale, and would drown the rest.
_LARGEST = 6.0
# Standard deviation of a Gaussian over its mean magnitude (two components, RMS).
_SPREAD = 1.13


class AmplitudeNet(ModelMixin, ConfigMixin):
    """Photo features → expected latent magnitude per bin and direction.

    Args:
        num_frequencies: K.
        width: Channels inside.
    """

    @register_to_config
    def __init__(self, num_frequencies: int = 16, width: int = 96) -> None:
        super().__init__()
        self.fine = nn.Conv2d(FEATURE_CHANNELS, width, 1)
        self.context = nn.ModuleList(_block(width, dilation) for dilation in (1, 2, 4, 1))
        self.mix = nn.Conv2d(2 * width, width, 1)
        self.out = nn.Conv2d(width, 2 * num_frequencies, 1)

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch freq 2 rows columns"]:
        """Return the expected magnitude of latents along x and along y, at least 0."""
        fine = functional.silu(self.fine(features))
        wide = functional.avg_pool2d(fine, 2, ceil_mode=True)
        for block in self.context:
            wide = wide + block(wide)
        wide = functional.interpolate(wide, fine.shape[-2:], mode="bilinear")
        mixed = functional.silu(self.mix(torch.cat([fine, wide], dim=1)))
        return functional.softplus(self.out(mixed) - 2).unflatten(1, (-1, 2))

    def scale(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch freq 4 rows columns"]:
        """Return what latents are divided by: their expected standard deviation, never 0."""
        return (_FLOOR + _SPREAD * self(features)).repeat_interleave(2, dim=2)


def _block(width: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(8, width),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation),
        nn.SiLU(),
        nn.Conv2d(width, width, 1),
    )


def whiten(
    latents: Float[Tensor, "*batch 4 rows columns"], scale: Float[Tensor, "*batch 4 rows columns"]
) -> Float[Tensor, "*batch 4 rows columns"]:
    """Return latents over their expected scale, within ±6; multiply by the scale to go back."""
    return (latents / scale).clamp(-_LARGEST, _LARGEST)


def sharpen(
    scale: Float[Tensor, "*batch freq channels rows columns"], contrast: float
) -> Float[Tensor, "*batch freq channels rows columns"]:
    """Return scales by which what moves stands out more; 0 leaves them as they are.

    A network that is unsure predicts something in between for what moves and for what does not.
    This is classifier-free guidance for the scale: ``log s + contrast (m − m̄)``, with m the mean
    of log s over bins and directions and m̄ its mean over the photo. All bins of a place get one
    factor, so its spectrum keeps its shape.
    """
    level = scale.log().mean((-4, -3), keepdim=True)
    return scale * torch.exp(contrast * (level - level.mean((-2, -1), keepdim=True)))


def latent_magnitude(
    latents: Float[Tensor, "*batch freq 4 rows columns"],
) -> Float[Tensor, "*batch freq 2 rows columns"]:
    """Return the RMS of real and imaginary part, along x and along y."""
    pairs = latents.unflatten(-3, (2, 2))
    # At 0 Hz the imaginary part is 0 by definition, so the real part stands alone.
    halves = torch.full((latents.shape[-4], 1, 1, 1), 0.5, device=latents.device)
    halves[0] = 1.0
    return (pairs.square().sum(-3) * halves).sqrt()


def amplitude_loss(
    net: AmplitudeNet,
    features: Float[Tensor, "batch channels rows columns"],
    latents: Float[Tensor, "batch freq 4 rows columns"],
    reliable: Bool[Tensor, "batch rows columns"],
) -> Tensor:
    """Return the mean squared error of predicted magnitudes where the motion can be trusted."""
    gap = (net(features) - latent_magnitude(latents)).square().mean((1, 2))
    return (gap * reliable).sum() / reliable.sum().clamp(min=1)
