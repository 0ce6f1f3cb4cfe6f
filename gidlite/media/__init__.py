"""Pictures in and out: ``photo`` and ``video`` read, ``encode`` writes videos; the rest is here."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from gidlite.errors import GidliteError, check_shape, require, written

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def write_image(path: str | Path, image: Tensor) -> None:
    """Write an image, as ``to_bytes`` takes it, as PNG, JPEG or WebP, which the suffix says."""
    known = Path(path).suffix.lower() in IMAGE_SUFFIXES
    require(known, f"cannot write {path}: use one of the suffixes {', '.join(IMAGE_SUFFIXES)}")
    pixels = to_bytes(image)
    with written(path) as hidden:
        Image.fromarray(pixels).save(hidden, quality=95)


def to_bytes(image: Tensor) -> UInt8[np.ndarray, "height width 3"]:
    """Return an image, (3, H, W) uint8 or float, as contiguous 8-bit pixels; 1.0 becomes 255.

    Floats outside [0, 1] are clamped; NaN and infinite ones raise ``GidliteError``.
    """
    check_shape("image", image, "3 height width")
    kind, single = image.dtype, image.is_floating_point()
    require(
        single or kind == torch.uint8, f"the image has type {kind}; give floats in [0, 1] or uint8"
    )
    # By NumPy: threads of PyTorch would wait for those that render the next frames.
    pixels = (image.float() if single else image).detach().cpu().numpy()
    if single:
        finite = bool(np.isfinite(pixels).all())
        require(finite, "the image has NaN or infinite values; check what made it")
        pixels = (pixels.clip(0, 1) * np.float32(255)).round()
    return np.stack(list(pixels), axis=-1, dtype=np.uint8, casting="unsafe")


def encode_jpeg(pixels: np.ndarray, quality: int = 90, *, subsampling: str = "4:4:4") -> bytes:
    """Return a JPEG of uint8 pixels, RGB (H, W, 3) or gray (H, W)."""
    stream, options = io.BytesIO(), {"quality": quality, "subsampling": subsampling}
    Image.fromarray(pixels).save(stream, "JPEG", optimize=True, **options)
    return stream.getvalue()


def resize(image: Tensor, *, height: int, width: int) -> Tensor:
    """Resize (..., C, H, W) with bicubic interpolation, antialiased where it shrinks.

    The image must be floating point. The result is clamped to [0, 1] only if the input lies within.
    """
    check_shape("image", image, "... channels height width")
    require(image.is_floating_point(), f"resize needs a float image, got {image.dtype}")
    require(min(height, width) >= 1, f"cannot resize to {width}×{height} pixels")
    batch = image.reshape(-1, *image.shape[-3:])
    batch = batch.float() if image.element_size() < 4 else batch  # halves cannot be antialiased
    result = functional.interpolate(batch, (height, width), mode="bicubic", antialias=True)
    result = result.to(image.dtype)
    within = 0 <= image.min() and image.max() <= 1
    return (result.clamp(0, 1) if within else result).reshape(*image.shape[:-2], height, width)


def fit_size(height: int, width: int, *, max_width: int) -> tuple[int, int]:
    """Return an even (height, width), aspect kept, at most ``max_width`` wide, never enlarged.

    >>> fit_size(1080, 1920, max_width=512)
    (288, 512)
    """
    require(min(height, width) >= 1, f"sizes must be positive: {width}×{height}")
    require(max_width >= 2, f"max_width must be at least 2, got {max_width}")
    columns = max(1, min(width, max_width) // 2)
    rows = max(1, min(round(height * columns / width), height // 2))
    return 2 * rows, 2 * columns


def xt_slice(frames: Tensor, *, row: int | None = None, column: int | None = None) -> Tensor:
    """Follow a row, for (3, T, W), or a column, for (3, T, H), through time, which runs downwards.

    A negative index counts from the bottom or right.
    """
    check_shape("frames", frames, "time 3 height width")
    require((row is None) != (column is None), "give exactly one of row and column")
    name, index, axis = ("row", row, 2) if column is None else ("column", column, 3)
    size = frames.shape[axis]
    require(-size <= index < size, f"{name} {index} is outside the {size} {name}s of the frames")
    return frames.select(axis, index).transpose(0, 1)


SAMPLE_CREDIT = "Photo by vultilion on Flickr (flower.jpg of scikit-learn), CC BY 2.0"


def sample_photo() -> Path:
    """Return the path of ``flower.jpg``, the photo that comes with scikit-learn."""
    spec = importlib.util.find_spec("sklearn")  # finds the folder without the slow import
    for folder in (spec and spec.submodule_search_locations) or []:
        photo = Path(folder) / "datasets" / "images" / "flower.jpg"
        if photo.is_file():
            return photo
    raise GidliteError("the sample photo is missing; install it with: pip install scikit-learn")


from gidlite.media.encode import VideoWriter, write_video  # noqa: E402
from gidlite.media.photo import MIN_SIDE, as_image, open_photo, read_image, shown_size  # noqa: E402
from gidlite.media.video import (  # noqa: E402
    Clip,
    VideoInfo,
    find_videos,
    probe_video,
    read_video,
    stream_video,
)  # fmt: skip
