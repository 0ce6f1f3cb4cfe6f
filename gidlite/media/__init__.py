"""Pictures in and out: photos here, videos in ``video``."""

from __future__ import annotations

import importlib.util
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from gidlite.errors import GidliteError, all_finite, check_shape, require, require_file, written

MIN_SIDE = 16
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_image(path: str | Path, *, max_side: int = 4096) -> Float32[Tensor, "3 height width"]:
    """Read a photo the way a viewer shows it: RGB in [0, 1].

    EXIF orientation is applied, transparency laid over white, an animation gives its first frame,
    sRGB is assumed, and neither side exceeds ``max_side`` px. What is missing, no image, damaged,
    over 170 megapixels, or then has a side under 16 px raises ``GidliteError``.
    """
    require(max_side >= MIN_SIDE, f"max_side must be at least {MIN_SIDE}, got {max_side}")
    path = require_file(path, what="a photo")
    require(path.stat().st_size > 0, f"{path} is empty (0 bytes); copy or download it again")
    try:
        with warnings.catch_warnings():
            # Between one and two times Pillow's limit it only warns; the size is bounded below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _decode_image(image, path, max_side)
    except GidliteError:
        raise
    except Image.DecompressionBombError as error:
        raise GidliteError(f"{path} is too large; reduce it to under 170 megapixels") from error
    except UnidentifiedImageError as error:
        raise GidliteError(f"{path} is not a known image; give a PNG, JPEG or WebP") from error
    except Exception as error:  # damaged files raise almost anything inside Pillow's decoders
        raise GidliteError(
            f"{path} could not be decoded ({error}); it is damaged or cut short, so export it again"
        ) from error


def as_image(picture: Any) -> Float32[Tensor, "3 height width"]:
    """Return a photo as RGB in [0, 1]: of a path, a Pillow image, an array or a tensor.

    Arrays are (H, W, 3) and tensors (3, H, W), both uint8 or floats in [0, 1]; what is none of
    these raises ``GidliteError``.
    """
    if isinstance(picture, str | Path):
        return read_image(picture)
    if isinstance(picture, Image.Image):
        return _decode_image(picture, "the picture", 4096)
    if isinstance(picture, np.ndarray) and picture.ndim == 3:
        picture = torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0)
    forms = "a path, a Pillow image, an array (H, W, 3) or a tensor (3, H, W)"
    kind = type(picture).__name__
    require(isinstance(picture, Tensor), f"a {kind} is no photo; give {forms}")
    check_shape("image", picture, "3 height width")
    if picture.dtype == torch.uint8:
        return picture.float() / 255
    require(picture.is_floating_point(), f"the image is {picture.dtype}; give uint8 or floats")
    low, high = picture.amin().item(), picture.amax().item()
    require(
        0 <= low and high <= 1,
        f"the image has values from {low:g} to {high:g}; floats lie in [0, 1]",
    )
    return picture.float()


def _decode_image(image: Image.Image, path: Path | str, max_side: int) -> Tensor:
    scale = min(1.0, max_side / max(image.size))
    target = (round(image.width * scale), round(image.height * scale))
    require(
        min(target) >= MIN_SIDE,
        f"{path} is {image.width}×{image.height} pixels; give a photo with sides of at least "
        f"{MIN_SIDE} pixels (after any reduction to {max_side})",
    )
    image.draft(None, target)  # lets the JPEG decoder skip detail that would be thrown away
    image = _to_rgb_or_gray(ImageOps.exif_transpose(image), path)
    if max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels = torch.from_numpy(np.array(image))
    if pixels.ndim == 2:
        return pixels.clamp(0, 1).expand(3, -1, -1).contiguous()
    return pixels.permute(2, 0, 1).to(torch.float32).div(255).contiguous()


def _to_rgb_or_gray(image: Image.Image, path: Path | str) -> Image.Image:
    """Return mode "RGB", or mode "F" in [0, 1] for gray deeper than 8 bits."""
    require(image.mode != "F", f"{path} has floating-point pixels; save it as a 16-bit PNG")
    if image.mode.startswith("I"):
        # Pillow's own conversion to 8 bits clips at 255 instead of scaling.
        return Image.fromarray(np.asarray(image).astype(np.float32) / 65535)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


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
    image = image.detach().cpu()
    if image.is_floating_point():
        require(all_finite(image), "the image has NaN or infinite values; check what made it")
        image = image.to(torch.float32).clamp(0, 1).mul(255).round().to(torch.uint8)
    kind = image.dtype
    require(kind == torch.uint8, f"the image has type {kind}; give floats in [0, 1] or uint8")
    return image.permute(1, 2, 0).contiguous().numpy()


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
    result = functional.interpolate(batch, (height, width), mode="bicubic", antialias=True)
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


def sample_photo() -> Path:
    """Return the path of ``flower.jpg``, the photo that comes with scikit-learn."""
    spec = importlib.util.find_spec("sklearn")  # finds the folder without the slow import
    for folder in (spec and spec.submodule_search_locations) or []:
        photo = Path(folder) / "datasets" / "images" / "flower.jpg"
        if photo.is_file():
            return photo
    raise GidliteError("the sample photo is missing; install it with: pip install scikit-learn")


from gidlite.media.video import (  # noqa: E402
    Clip,
    VideoInfo,
    VideoWriter,
    find_videos,
    probe_video,
    read_video,
    stream_video,
    write_video,
)  # fmt: skip
