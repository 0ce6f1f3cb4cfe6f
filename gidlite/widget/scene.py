"""What the browser is given: a photo in two sheets and their modes, as compact bytes."""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from PIL import Image
from torch import Tensor

from gidlite._checks import GidliteError
from gidlite.media import fit_size, resize
from gidlite.media.images import to_bytes
from gidlite.modal import dominant_modes
from gidlite.spectral import pack_complex
from gidlite.volume import SpectralVolume
from gidlite.widget.layers import split_layers

__all__ = ["Scene", "make_scene"]

# Real plants that were poked relax at these frequencies instead of ringing (notebook 08).
SLOWEST_HZ = 0.5
MOST_MODES = 64


@dataclass(frozen=True)
class Scene:
    """Bytes for ``explorer.js``.

    Attributes:
        header: Sizes, frequencies in Hz and damping, ready for JSON.
        photo: JPEG.
        back: JPEG of the photo without its front; empty where the photo is one sheet.
        alpha: Grey JPEG, opacity of the front.
        front_modes: Deflated half floats ``(K, h, w, 4)``, px of the photo.
        back_modes: The same of the back, on a grid half as fine.
    """

    header: dict
    photo: bytes
    back: bytes
    alpha: bytes
    front_modes: bytes
    back_modes: bytes


def make_scene(
    image: Float[Tensor, "3 height width"],
    volume: SpectralVolume,
    *,
    modes: int = 16,
    damping: float = 0.05,
    width: int = 512,
    alt: str = "A photo that moves when it is touched.",
) -> Scene:
    """Prepare a photo and its volume for the browser.

    Args:
        image: Photo in [0, 1].
        volume: Its spectral volume, at any resolution.
        modes: At most so many of the liveliest bins at 0.5 Hz or more, 1–64.
        damping: Ratio ζ to begin with, 0.005–0.5.
        width: The photo is reduced to this many px at most.
        alt: Description of the photo for those who cannot see it.

    Raises:
        GidliteError: If a number is out of range or the volume has no bin at 0.5 Hz or more.
    """
    if not 1 <= modes <= MOST_MODES:
        raise GidliteError(f"modes is {modes}; it must lie between 1 and {MOST_MODES}")
    if not (math.isfinite(damping) and 0.005 <= damping <= 0.5):
        raise GidliteError(f"damping is {damping}; it must lie between 0.005 and 0.5")
    height, width = fit_size(*image.shape[-2:], max_width=width)
    image = resize(image, height=height, width=width)
    hertz = torch.arange(len(volume.spectral)) / volume.period_seconds
    audible = hertz * (hertz >= SLOWEST_HZ - 1e-6)
    kept = dominant_modes(volume.spectral, frequencies_hz=audible, count=modes)
    if not kept:
        raise GidliteError(f"the volume has no frequency of {SLOWEST_HZ} Hz or more; keep more")
    layers = split_layers(image, volume.spectral[kept])
    header = {
        "width": width, "height": height, "damping": damping, "alt": alt,
        "frequencies": [round(float(hertz[k]), 6) for k in kept],
        "front_size": list(layers.front_modes.shape[-2:]),
        "back_size": list(layers.back_modes.shape[-2:]),
    }  # fmt: skip
    return Scene(
        header,
        _jpeg(to_bytes(image), 90),
        b"" if layers.back is image else _jpeg(to_bytes(layers.back), 85, subsampling="4:2:0"),
        _jpeg(to_bytes(layers.alpha.expand(3, -1, -1))[..., 0], 90),
        _halves(layers.front_modes),
        _halves(layers.back_modes),
    )


def _jpeg(pixels: np.ndarray, quality: int, *, subsampling: str = "4:4:4") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(
        file, "JPEG", quality=quality, subsampling=subsampling, optimize=True
    )
    return file.getvalue()


def _halves(modes: Complex[Tensor, "modes 2 rows columns"]) -> bytes:
    packed = pack_complex(modes).movedim(1, -1).clamp(-6e4, 6e4).half().contiguous()
    return zlib.compress(packed.numpy().astype("<f2").tobytes(), 9)
