"""Pictures of what a part can do by now, drawn at every checkpoint from examples not trained on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gidlite.amplitude import AmplitudeNet, latent_magnitude
from gidlite.autoencoder import SliceAutoencoder
from gidlite.pipeline import GidPipeline
from gidlite.viz import contact_sheet, motion_tile

__all__ = ["amplitude_sheet", "autoencoder_sheet", "prior_sheet"]

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
