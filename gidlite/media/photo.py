"""A photo in: the way a viewer shows it, however it is stored and whatever its metadata says."""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8, UInt16
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from gidlite.errors import GidliteError, GidliteWarning, check_shape, require, require_file

MIN_SIDE = 16
_FROM_BT2020 = np.float32(  # to the primaries of sRGB, in linear light
    [[1.6605, -0.5876, -0.0729], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)
_HEIC = re.compile(rb"^.{4}ftyp.*(hei[cxms]|hev[cxms])", re.DOTALL)
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # from EXIF orientations to Image.Transpose


def read_image(path: str | Path, *, max_side: int = 4096) -> Float32[Tensor, "3 height width"]:
    """Read a photo the way a viewer shows it: RGB in [0, 1], with sRGB's curve.

    Orientation and colour profile are applied where they are legible, transparency is laid over
    white, an animation gives its first frame, and neither side exceeds ``max_side`` px. A JPEG
    without its very end is a ``GidliteWarning``. What is missing, no image, damaged, over 170
    megapixels, HEIC without its decoder, or then has a side under 16 px raises ``GidliteError``.
    """
    require(max_side >= MIN_SIDE, f"max_side must be at least {MIN_SIDE}, got {max_side}")
    path = require_file(path, what="a photo")
    require(path.stat().st_size > 0, f"{path} is empty (0 bytes); copy or download it again")
    with _refusing(path):
        pixels, lacking = _decode_file(path, max_side)
    if lacking:
        warnings.warn(f"{path} lacks its end; {lacking}", GidliteWarning, stacklevel=2)
    return pixels


@contextmanager
def _refusing(path: Path | str) -> Iterator[None]:
    """Turn whatever Pillow raises into one sentence, and keep its warnings, of metadata, silent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
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
        with _refusing("the picture"):
            return _decode_image(picture, "the picture", 4096)
    if isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.dtype.kind in "fiub":
        if picture.dtype.kind == "f":  # of any byte order and length
            picture = picture.astype(np.float32)
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


def shown_size(path: str | Path, *, tall: bool) -> tuple[int, int]:
    """Return (height, width) of a photo that is shown ``tall``, or not, in px of its file."""
    with _refusing(path), open_photo(path) as image:
        sides = sorted(image.size)
    return tuple(sides[::-1] if tall else sides)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def open_photo(path: str | Path) -> Image.Image:
    """Return a photo whose header has been read, HEIC decoded and upright."""
    path = Path(path)
    if _HEIC.search(_head(path)):
        remedy = 'pip install "gidlite[heic]", or export the photo as JPEG'
        known = importlib.util.find_spec("pillow_heif") is not None
        require(known, f"{path} is HEIC and needs a decoder: {remedy}")
        try:
            return importlib.import_module("pillow_heif").open_heif(path).to_pillow()  # upright
        except Exception as error:  # of a library that reads what it does not trust
            told = f"{path} is HEIC but could not be decoded ({error!s:.80})"
            raise GidliteError(f"{told}; export it again, best as JPEG") from error
    return Image.open(path)


def _decode_file(path: Path, max_side: int) -> tuple[Tensor, str]:
    """Return the pixels of a photo and, of a JPEG without its end, what could be read."""
    head = _head(path)
    try:
        with open_photo(path) as image:
            return _decode_image(image, path, max_side), ""
    except (GidliteError, Image.DecompressionBombError):
        raise
    except Exception as error:
        data, cut = path.read_bytes(), "truncated" in str(error)
        if not head.startswith((b"\xff\xd8", b"\x89PNG")):
            raise
    with Image.open(io.BytesIO(_bare(data))) as image:
        if not cut or image.format == "PNG":
            return _decode_image(image, path, max_side), ""
        # Where nothing was stored, a decoder fills in grey.
        filled = np.abs(np.asarray(image).reshape(image.height, -1) - 128.0).max(1) <= 1
        share = 1 - float(np.cumprod(filled[::-1]).mean())
        scan = data.rindex(b"\xff\xda")
        coarse = data[scan + 7 + 2 * data[scan + 4]] & 15  # of a progressive one, bits that follow
        told = "details" if coarse else f"all but the upper {share:.0%}"
        require(share >= 0.9 and not coarse, f"{path} is cut short and lacks {told}; copy it again")
        return _decode_image(image, path, max_side), f"{share:.0%} of its rows could be read"


def _bare(data: bytes) -> bytes:
    """Return a JPEG or PNG without metadata, but for orientation, and with its end."""
    jpeg = data.startswith(b"\xff\xd8")
    at = 2 if jpeg else 8
    kept = [data[:at]]
    while at + 8 < len(data):
        kind = data[at : at + 2] if jpeg else data[at + 4 : at + 8]
        size = int.from_bytes(data[at + 2 : at + 4] if jpeg else data[at : at + 4], "big")
        end = at + size + (2 if jpeg else 12)
        if kind == b"\xff\xda":  # pixels
            return b"".join(kept) + data[at:] + b"\xff\xd9"
        words = rb"\xff[^\xe0-\xed\xef\xfe]" if jpeg else rb"IHDR|PLTE|tRNS|IDAT|IEND"
        sound = data[end - 4 : end] == zlib.crc32(data[at + 4 : end - 4]).to_bytes(4, "big")
        turns = sound if kind == b"eXIf" else data[at + 4 : at + 8] == b"Exif"
        if turns or re.fullmatch(words, kind, re.DOTALL):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _decode_image(image: Image.Image, path: Path | str, max_side: int) -> Tensor:
    scale = min(1.0, max_side / max(image.size))
    target = (round(image.width * scale), round(image.height * scale))
    require(
        min(target) >= MIN_SIDE,
        f"{path} is {image.width}×{image.height} pixels; give a photo with sides of at least "
        f"{MIN_SIDE} pixels (after any reduction to {max_side})",
    )
    image.draft(None, target)  # lets the JPEG decoder skip detail that would be thrown away
    image.load()  # TIFF is turned here
    with suppress(Exception):  # EXIF and XMP may be damaged in any way
        image = image.transpose(_TURNS[image.getexif()[ExifTags.Base.Orientation]])
    for convert in (lambda image: image, lambda image: _to_rgb_or_gray(image, path)):
        image = convert(image)
        # Reduced first, where that is possible, it takes a third of the memory.
        if max(image.size) > max_side and image.mode in ("RGB", "RGBA", "L", "LA", "CMYK", "F"):
            image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels = torch.from_numpy(np.array(image))
    if pixels.ndim == 2:
        return pixels.clamp(0, 1).expand(3, -1, -1).contiguous()
    return pixels.permute(2, 0, 1).to(torch.float32).div(255).contiguous()


def _to_rgb_or_gray(image: Image.Image, path: Path | str) -> Image.Image:
    """Return mode "RGB", or mode "F" in [0, 1] for gray deeper than 8 bits."""
    require(image.mode != "F", f"{path} has floating-point pixels; save it as a 16-bit PNG")
    if image.mode.startswith("I"):
        return Image.fromarray(_deep_gray(image))
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    image = _to_srgb(image)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image


def _deep_gray(image: Image.Image) -> Float32[np.ndarray, "height width"]:
    """Scale integers by the bits that the file tells; 32 bits by the 8, 16 or more in use."""
    values, tags = np.asarray(image).astype(np.float64), getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))[0]
    if bits > 16 and tags.get(339, (1,))[0] == 1:
        values %= 2.0**32  # unsigned, but Pillow's integers have a sign
    values -= min(0.0, values.min())
    if bits > 16:
        used = int(values.max()).bit_length()
        bits = 8 if used <= 8 else max(16, used)
    values /= 2.0**bits - 1
    return (1 - values if tags.get(262) == 0 else values).astype(np.float32)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Return mode "RGB", converted from the colours of an embedded profile if it is legible."""
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    with suppress(Exception):  # a profile may be damaged in any way, or fit no such pixels
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        if "sRGB" not in ImageCms.getProfileDescription(profile):
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    return image.convert("RGB")


def to_standard(
    pixels: UInt16[np.ndarray, "height width 3"], curve: str | None, *, wide: bool
) -> UInt8[np.ndarray, "height width 3"]:
    """Return 16-bit RGB of high dynamic range ("pq" or "hlg", else None) as sRGB.

    Its primaries are those of BT.2020 if ``wide``. Light up to 0.6 of white paper, 203 cd/m²
    (ITU-R BT.2408), is kept, and the rest is compressed.
    """
    to_light, to_srgb = _curves(curve)
    light = to_light[pixels]
    if curve == "hlg":  # from the scene to a screen of 1000 cd/m²
        light *= 1000 / 203 * (light @ np.float32([[0.2627], [0.6780], [0.0593]])) ** 0.2
    light = light @ _FROM_BT2020.T if wide else light
    if curve is not None:
        most = light.max(-1, keepdims=True)
        over = np.maximum(0, most - 0.6) / 0.4
        light *= (np.minimum(most, 0.6) + 0.4 * over / (1 + over)) / np.maximum(most, 1e-6)
    return to_srgb[(light.clip(0, 1) * 65535 + 0.5).astype(np.uint16)]


@lru_cache
def _curves(curve: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the light of each 16-bit signal, 1 for white paper (HLG: the scene's), and 8-bit sRGB.

    Sources: SMPTE ST 2084, ITU-R BT.2100, IEC 61966-2-1.
    """
    x = np.linspace(0, 1, 65536)
    srgb = np.where(x > 0.0031308, 1.055 * x ** (1 / 2.4) - 0.055, 12.92 * x)
    light = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    if curve == "pq":
        root = x ** (32 / 2523)
        base = np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)
        light = 10000 / 203 * base ** (16384 / 2610)
    elif curve == "hlg":
        bright = (np.exp((x - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(x > 0.5, bright, x**2 / 3)
    return light.astype(np.float32), (255 * srgb + 0.5).astype(np.uint8)
