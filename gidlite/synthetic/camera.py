"""What light and a camera add to a scene: shading, exposure, film grain, JPEG."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["develop", "draw_exposure", "photograph"]

# The example tables of the JPEG standard (ITU-T T.81, annex K): luminance, and the corner of
# chrominance that is finer than 99.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56), (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMINANCE = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
_RGB_TO_YCC = ((0.299, 0.587, 0.114), (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813))


def draw_exposure(draw) -> dict[str, Tensor]:
    """Draw the light and the exposure of every scene; ``draw(low, high, *shape)``."""
    return {
        "slope": draw(-0.35, 0.35, 2),  # of the light across the picture
        "vignette": draw(-0.3, 0.35).clamp(min=0),
        "tint": draw(0.88, 1.12, 3),
        "gain": torch.exp(draw(-0.35, 0.3)),
        "gamma": torch.exp(draw(-0.25, 0.25)),
        "grain": (draw(-0.02, 0.03)).clamp(min=0),
        "jpeg": draw(15, 130),  # quality; over 100 means none
    }


def develop(
    picture: Float[Tensor, "batch 3 height width"], exposure: dict[str, Tensor]
) -> Float[Tensor, "batch 3 height width"]:
    """Light and expose pictures; the same for every frame of a scene."""
    height, width = picture.shape[-2:]
    y = torch.linspace(-1, 1, height, device=picture.device)[:, None]
    x = torch.linspace(-1, 1, width, device=picture.device)
    slope, column = exposure["slope"][..., None, None], lambda n: exposure[n][:, None, None]
    light = 1 + slope[:, 0] * x + slope[:, 1] * y - column("vignette") * (x**2 + y**2) / 2
    factor = exposure["tint"][:, :, None, None] * (light * column("gain"))[:, None]
    return (picture * factor).clamp(1e-4, 1) ** exposure["gamma"][:, None, None, None]


def photograph(
    picture: Float[Tensor, "batch 3 height width"],
    exposure: dict[str, Tensor],
    *,
    generator: torch.Generator | None,
) -> Float[Tensor, "batch 3 height width"]:
    """Return pictures as a camera would save them, with grain and JPEG losses."""
    place = generator.device if generator is not None else picture.device
    noise = torch.randn(picture.shape, generator=generator, device=place).to(picture)
    noise = noise.mean(1, keepdim=True) * 1.2 + 0.5 * noise  # mostly luminance, as in film
    grainy = (picture + exposure["grain"][:, None, None, None] * noise).clamp(0, 1)
    return torch.where(
        exposure["jpeg"][:, None, None, None] < 100, _jpeg(grainy, exposure["jpeg"]), grainy
    )


def _jpeg(picture: Tensor, quality: Tensor) -> Tensor:
    """Quantize 8×8 cosine transforms of luminance, and of chrominance at half the size."""
    matrix = torch.tensor(_RGB_TO_YCC, device=picture.device)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality.clamp(max=99.5) / 50)
    ycc = torch.einsum("ij,bjhw->bihw", matrix, picture)
    chroma = functional.avg_pool2d(ycc[:, 1:], 2)
    chroma = functional.interpolate(
        _quantize(chroma, scale, _tables(picture)[1]), picture.shape[-2:], mode="bilinear"
    )
    ycc = torch.cat([_quantize(ycc[:, :1], scale, _tables(picture)[0]), chroma], 1)
    return torch.einsum("ij,bjhw->bihw", matrix.inverse(), ycc).clamp(0, 1)


def _tables(like: Tensor) -> tuple[Tensor, Tensor]:
    chrominance = torch.full((8, 8), 99.0)
    chrominance[:4, :4] = torch.tensor(_CHROMINANCE)
    return torch.tensor(_LUMINANCE).to(like), chrominance.to(like)


def _quantize(channels: Tensor, scale: Tensor, table: Tensor) -> Tensor:
    device = channels.device
    k, n = torch.arange(8, device=device)[:, None], torch.arange(8, device=device)
    dct = torch.cos(math.pi * k * (2 * n + 1) / 16) * torch.where(k == 0, 0.125**0.5, 0.5)
    height, width = channels.shape[-2:]
    padded = functional.pad(channels, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8))  # (b, c, rows, 8, columns, 8)
    spectrum = torch.einsum("ki,bcrixj,lj->bcrkxl", dct, blocks, dct)
    step = table[:, None] / 255 * scale[:, None, None, None, None, None]
    rounded = (spectrum / step).round() * step
    back = torch.einsum("ki,bcrkxl,lj->bcrixj", dct, rounded, dct)
    return back.flatten(-2).flatten(-3, -2)[..., :height, :width]
