"""Still images: reading, writing, resizing, and slices through a stack of frames."""

from __future__ import annotations

import importlib.util
import io
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from gidlite.errors import (
    GidliteError,
    all_finite,
    check_output,
    check_shape,
    require,
    require_file,
    written,
)

MIN_SIDE = 16
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def read_image(path: str | Path, *, max_side: int = 4096) -> Tensor:
    """Read a photo the way a viewer shows it.

    EXIF orientation is applied, transparency is laid over white, and an animation gives its
    first frame. Colour profiles are ignored: sRGB is assumed.

    Args:
        path: A PNG, JPEG, WebP or other file that Pillow reads.
        max_side: Larger images are reduced until neither side exceeds this many pixels.

    Returns:
        (3, H, W) float32 RGB in [0, 1].

    Raises:
        GidliteError: If the file is missing, not an image, damaged, far too large, or if a side
            is under 16 pixels.
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


def _decode_image(image: Image.Image, path: Path, max_side: int) -> Tensor:
    size = f"{image.width}×{image.height}"
    scale = min(1.0, max_side / max(image.size))
    target = (round(image.width * scale), round(image.height * scale))
    require(
        min(target) >= MIN_SIDE,
        f"{path} is {size} pixels; give a photo with sides of at least {MIN_SIDE} pixels "
        f"(after any reduction to {max_side})",
    )
    image.draft(None, target)  # lets the JPEG decoder skip detail that would be thrown away
    image = _to_rgb_or_gray(ImageOps.exif_transpose(image), path)
    if max(image.size) > max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels = torch.from_numpy(np.array(image))
    if pixels.ndim == 2:
        return pixels.clamp(0, 1).expand(3, -1, -1).contiguous()
    return pixels.permute(2, 0, 1).to(torch.float32).div(255).contiguous()


def _to_rgb_or_gray(image: Image.Image, path: Path) -> Image.Image:
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
    """Write an image; the format follows the suffix (.png, .jpg, .jpeg, .webp).

    Args:
        path: Output file; missing parent folders are created.
        image: (3, H, W), float in [0, 1] (values outside are clamped) or uint8.

    Raises:
        GidliteError: If the suffix is unknown, the place cannot be written, or the image has
            the wrong shape, type or non-finite values.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    require(
        suffix in IMAGE_SUFFIXES,
        f"cannot write {path}: use one of the suffixes {', '.join(IMAGE_SUFFIXES)}",
    )
    pixels = to_bytes(image)
    options = {} if suffix == ".png" else {"quality": 95}
    with written(path) as hidden:
        Image.fromarray(pixels).save(hidden, **options)


def to_bytes(image: Tensor) -> np.ndarray:
    """Return (3, H, W) float in [0, 1] or uint8 as a contiguous uint8 array (H, W, 3)."""
    check_shape("image", image, "3 height width")
    image = image.detach().cpu()
    if image.is_floating_point():
        require(all_finite(image), "the image has NaN or infinite values; check what made it")
        image = image.to(torch.float32).clamp(0, 1).mul(255).round().to(torch.uint8)
    require(
        image.dtype == torch.uint8,
        f"the image has type {image.dtype}; give floats in [0, 1] or uint8",
    )
    return image.permute(1, 2, 0).contiguous().numpy()


def encode_jpeg(pixels: np.ndarray, quality: int = 90, *, subsampling: str = "4:4:4") -> bytes:
    """Return a JPEG of uint8 pixels, (H, W, 3) or grey (H, W)."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(
        stream, "JPEG", quality=quality, subsampling=subsampling, optimize=True
    )
    return stream.getvalue()


def resize(image: Tensor, *, height: int, width: int) -> Tensor:
    """Resize with bicubic interpolation, antialiased where it shrinks.

    Args:
        image: (..., C, H, W) float.
        height: Output height in pixels.
        width: Output width in pixels.

    Returns:
        (..., C, height, width); clamped to [0, 1] only if the input lay within [0, 1].

    Raises:
        GidliteError: If the image is not floating point or a size is under 1.
    """
    check_shape("image", image, "... channels height width")
    require(image.is_floating_point(), f"resize needs a float image, got {image.dtype}")
    require(min(height, width) >= 1, f"cannot resize to {width}×{height} pixels")
    batch = image.reshape(-1, *image.shape[-3:])
    result = functional.interpolate(batch, (height, width), mode="bicubic", antialias=True)
    if 0 <= float(image.min()) and float(image.max()) <= 1:
        result = result.clamp(0, 1)
    return result.reshape(*image.shape[:-2], height, width)


def fit_size(height: int, width: int, *, max_width: int, multiple: int = 2) -> tuple[int, int]:
    """Return (height, width), aspect kept, no wider than ``max_width``, never enlarged.

    Args:
        height: Source height in pixels.
        width: Source width in pixels.
        max_width: Upper bound of the output width, at least ``multiple``.
        multiple: Both outputs are multiples of this, and at least one multiple.

    Raises:
        GidliteError: If a size is under 1 or ``max_width`` is under ``multiple``.

    >>> fit_size(1080, 1920, max_width=512)
    (288, 512)
    """
    require(min(height, width, multiple) >= 1, f"sizes must be positive: {width}×{height}")
    require(max_width >= multiple, f"max_width must be at least {multiple}, got {max_width}")
    columns = max(1, min(width, max_width) // multiple)
    rows = round(height * columns / width)
    rows = max(1, min(rows, height // multiple))
    return rows * multiple, columns * multiple


def xt_slice(frames: Tensor, *, row: int | None = None, column: int | None = None) -> Tensor:
    """Follow one line of pixels through time; time runs downwards in the result.

    Args:
        frames: (T, 3, H, W).
        row: Index of an image row; negative counts from the bottom.
        column: Index of an image column; negative counts from the right.

    Returns:
        (3, T, W) for a row, (3, T, H) for a column.

    Raises:
        GidliteError: Unless exactly one of ``row`` and ``column`` is given, and in range.
    """
    check_shape("frames", frames, "time 3 height width")
    require((row is None) != (column is None), "give exactly one of row and column")
    name, index, axis = ("row", row, 2) if column is None else ("column", column, 3)
    size = frames.shape[axis]
    require(-size <= index < size, f"{name} {index} is outside the {size} {name}s of the frames")
    return frames.select(axis, index).transpose(0, 1)


def sample_photo() -> Path:
    """Return the path of ``flower.jpg``, the photo that comes with scikit-learn.

    Raises:
        GidliteError: If scikit-learn or the photo is not installed.
    """
    spec = importlib.util.find_spec("sklearn")  # finds the folder without the slow import
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        photo = Path(folder) / "datasets" / "images" / "flower.jpg"
        if photo.is_file():
            return photo
    raise GidliteError("the sample photo is missing; install it with: pip install scikit-learn")


from gidlite.media.reader import (  # noqa: E402
    Clip,
    VideoInfo,
    probe_video,
    read_video,
    resample_frame_rate,
    stream_video,
)
from gidlite.media.writer import VideoWriter, write_video  # noqa: E402
