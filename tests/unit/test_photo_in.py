"""Photos as they come: odd metadata, cut ends, deep and wide colours, HEIC."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from gidlite import media
from gidlite.dynamics import make_scene
from gidlite.errors import GidliteError, GidliteWarning
from gidlite.media.photo import to_standard
from gidlite.motion import SpectralVolume
from gidlite.render import render_frame, render_frames

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_warning():
    """Nothing may warn, of metadata above all, but what a test expects."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def rgb() -> np.ndarray:
    """Flat cells of 8×8, which survive JPEG."""
    cells = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cells.repeat(8, 0).repeat(8, 1)


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def read(path: Path, data: bytes | None = None) -> np.ndarray:
    """Pixels of 0 to 255, (H, W, 3)."""
    if data is not None:
        path.write_bytes(data)
    return media.read_image(path).permute(1, 2, 0).numpy() * 255


# ---------------------------------------------------------------- metadata


def tiff_header(*entries: tuple[int, int, int, int], after: bytes = b"") -> bytes:
    """A little-endian EXIF block of (tag, type, count, value)."""
    block = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return block + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4) + after


TURNED = (0x0112, 3, 1, 6)
OVER_ZERO = struct.pack("<2I", 2**32 - 1, 0)
# Orientation 6 and then something that Pillow chokes on when it writes or reads it.
BAD_EXIF = {
    "rational": tiff_header(TURNED, (0x9204, 10, 1, 38), after=OVER_ZERO),
    "beyond the end": tiff_header(TURNED, (0x011A, 5, 1, 60000)),
    "absurd count": tiff_header(TURNED, (0x9286, 7, 2**31, 38)),
    "cut": tiff_header(TURNED, (0x010F, 2, 5, 38), (0x0110, 2, 5, 38))[:26],
    "GPS": tiff_header(TURNED, (0x8825, 4, 1, 2**32 - 1)),
    "wrong type": tiff_header(TURNED, (0x011B, 99, 1, 0)),
}


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize("name", BAD_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_still_turns_the_picture(tmp_path, rgb, name, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(rgb, kind, exif=b"Exif\0\0" + BAD_EXIF[name], **options)
    want = np.rot90(np.asarray(Image.open(io.BytesIO(encoded(rgb, kind, **options)))), -1)
    np.testing.assert_allclose(read(tmp_path / "a", data), want, atol=1)


@pytest.mark.parametrize("exif", [b"", b"II", b"no exif at all", b"II*\0" + b"\xff" * 40])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_without_any_sense_is_ignored(tmp_path, rgb, exif, kind):
    want = np.asarray(Image.open(io.BytesIO(encoded(rgb, kind))))
    got = read(tmp_path / "a", encoded(rgb, kind, exif=b"Exif\0\0" + exif))
    np.testing.assert_allclose(got, want, atol=1)


def test_orientation_from_xmp(tmp_path, rgb):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="3"/></x:xmpmeta>'
    got = read(tmp_path / "a.webp", encoded(rgb, "WEBP", lossless=True, xmp=xmp))
    np.testing.assert_allclose(got, rgb[::-1, ::-1], atol=1e-3)


def test_orientation_of_tiff_is_applied_once(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    got = read(tmp_path / "a.tif", encoded(rgb, "TIFF", exif=exif))
    np.testing.assert_allclose(got, np.rot90(rgb, -1), atol=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        segment(0xE2, b"MPF\0II*\0" + struct.pack("<IH", 8, 9)),  # an index of further pictures
        segment(0xE2, b"MPF\0" + tiff_header((0xB001, 4, 1, 3), (0xB002, 7, 4, 0))),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE0, b"JFIF\0"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x90\1"),
    ],
)
def test_damaged_segments_of_a_jpeg(tmp_path, rgb, bad):
    plain, turned = encoded(rgb, "JPEG"), segment(0xE1, b"Exif\0\0" + tiff_header(TURNED))
    want = np.rot90(np.asarray(Image.open(io.BytesIO(plain))), -1)
    data = plain[:2] + turned + bad + plain[2:]
    np.testing.assert_allclose(read(tmp_path / "a.jpg", data), want, atol=1)


def chunk(kind: bytes, content: bytes, flip: int = 0) -> bytes:
    check = zlib.crc32(kind + content) ^ flip
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


@pytest.mark.parametrize(
    "bad",
    [
        chunk(b"tEXt", b"Comment\0x", flip=1),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"gAMA", b""),
        chunk(b"fcTL", b"\0"),
        chunk(b"iCCP", b"x\0\0nonsense"),
        chunk(b"eXIf", tiff_header(TURNED), flip=1),
    ],
)
def test_damaged_chunks_of_a_png(tmp_path, rgb, bad):
    plain = encoded(rgb, "PNG")
    np.testing.assert_array_equal(read(tmp_path / "a.png", plain[:33] + bad + plain[33:]), rgb)
    turned = chunk(b"eXIf", tiff_header(TURNED)) + bad
    if b"eXIf" not in bad:
        got = read(tmp_path / "a.png", plain[:33] + turned + plain[33:])
        np.testing.assert_array_equal(got, np.rot90(rgb, -1))


# ---------------------------------------------------------------- cut ends


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end(tmp_path, rgb, mode, options):
    image = Image.fromarray(rgb).resize((256, 192), Image.Resampling.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, **options)
    whole, path = stream.getvalue(), tmp_path / "a.jpg"
    want = read(path, whole)
    for missing in (1, 2):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(read(path, whole[:-missing]), want)
        # Pillow has read the last rows of some before it misses the end.
        assert mode == "CMYK" or "a.jpg lacks its end; 100%" in str(told[0].message)
    with pytest.warns(GidliteWarning, match="lacks its end"):
        got = read(path, whole[: len(whole) * 95 // 100])
    assert np.abs(got - want)[:160].max() < 40  # progressive ones lose a little everywhere
    for share in (0.3, 0.5, 0.75 if not options.get("progressive") else 0.4):
        with pytest.raises(GidliteError, match=r"cut short and lacks|could not be decoded"):
            read(path, whole[: int(len(whole) * share)])


def test_how_much_of_a_cut_jpeg_is_there(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    whole = encoded(noise, "JPEG", quality=90)
    for share in (30, 50, 70):  # noise needs as many bytes everywhere
        with pytest.raises(GidliteError, match=r"lacks all but the upper (\d+)%") as caught:
            read(tmp_path / "a.jpg", whole[: len(whole) * share // 100])
        told = int(str(caught.value).split("upper ")[1].split("%")[0])
        assert abs(told - share) <= 8  # a row of blocks is 6 %


# ---------------------------------------------------------------- depth


def tiff(values: np.ndarray, sample_format: int, photometric: int = 1, bits: int = 0) -> bytes:
    height, width = values.shape
    data = values.tobytes() if not bits else pack_12(values)
    bits = bits or values.dtype.itemsize * 8
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8),
        (277, 1), (278, height), (279, len(data)), (339, sample_format),
    ]  # fmt: skip
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags))
    return head + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)


def pack_12(values: np.ndarray) -> bytes:
    a, b = values.reshape(-1, 2).astype(int).T
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()


def test_deep_grey_is_scaled_by_what_the_file_says(tmp_path):
    deep = np.linspace(0, 65535, 32 * 40).round().astype(np.int64).reshape(32, 40)
    want = deep / 257
    cases = {
        "int32 of 8 bits": tiff((deep >> 8).astype("<i4"), 2),
        "int32 of 16 bits": tiff(deep.astype("<i4"), 2),
        "int32 of 31 bits": tiff((deep << 15).astype("<i4"), 2),
        "int32 with a sign": tiff(((deep << 16) - 2**31).astype("<i4"), 2),
        "uint32": tiff((deep * 65537).astype("<u4"), 1),
        "uint16": tiff(deep.astype("<u2"), 1),
        "int16 with a sign": tiff((deep - 32768).astype("<i2"), 2),
        "white is zero": tiff((65535 - deep).astype("<u2"), 1, photometric=0),
        "12 bits": tiff(deep >> 4, 1, bits=12),
        "PNG": encoded(deep.astype(np.uint16), "PNG"),
        "PGM": b"P5 40 32 4095\n" + (deep >> 4).astype(">u2").tobytes(),
    }
    for name, data in cases.items():
        np.testing.assert_allclose(read(tmp_path / "a", data)[..., 1], want, atol=1, err_msg=name)


# ---------------------------------------------------------------- colour


def display_p3() -> bytes:
    """A matrix profile of Display P3, built from its numbers."""

    def fixed(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(65536 * number)) for number in numbers)

    def xyz(*numbers: float) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(*numbers)

    text = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", 4, 28) + b"\0P\0" + b"3"
    curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0)
    curve += fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {
        b"desc": text, b"cprt": text, b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.5151, 0.2412, -0.0011), b"gXYZ": xyz(0.2919, 0.6922, 0.0419),
        b"bXYZ": xyz(0.1572, 0.0666, 0.7841), b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I4xI4s4s4s", start + len(body), 4 << 24, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + body


def from_p3(rgb: np.ndarray) -> np.ndarray:
    light = np.where(rgb <= 10, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[1.2249, -0.2247, 0], [-0.042, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    light = (light @ matrix.T).clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def test_a_wide_gamut_comes_as_srgb(tmp_path, rgb):
    profile, path, want = display_p3(), tmp_path / "a", from_p3(rgb)
    assert np.abs(want - rgb).max() > 30
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(rgb, kind, icc_profile=profile, **options)
        np.testing.assert_allclose(read(path, data), want, atol=1.5)
    clear = np.dstack([rgb, np.full(rgb.shape[:2], 128, np.uint8)])
    got = read(path, encoded(clear, "PNG", icc_profile=profile))
    np.testing.assert_allclose(got, want * (128 / 255) + 127, atol=1.5)
    for useless in (profile[:200], b"nonsense", b""):
        got = read(path, encoded(rgb, "PNG", icc_profile=useless))
        np.testing.assert_array_equal(got, rgb)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(read(path, encoded(rgb, "PNG", icc_profile=srgb)), rgb)


def test_high_dynamic_range_against_the_formulas():
    nits = np.array([0, 1, 20, 36.5, 100, 121])
    power = (nits / 10000) ** (2610 / 16384)
    pq = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    scene = (nits / 1000) ** (1 / 1.2)
    hlg = np.where(
        scene <= 1 / 12,
        np.sqrt(3 * scene),
        0.17883277 * np.log((12 * scene - 0.28466892).clip(1e-9)) + 0.55991073,
    )
    paper = nits / 203
    want = 255 * np.where(paper <= 0.0031308, 12.92 * paper, 1.055 * paper ** (1 / 2.4) - 0.055)
    for curve, signal in (("pq", pq), ("hlg", hlg)):
        pixels = (65535 * signal).round().astype(np.uint16)[None, :, None].repeat(3, 2)
        got = to_standard(pixels, curve, wide=True)
        np.testing.assert_allclose(got[0], want[:, None].repeat(3, 1), atol=1)
    ramp = np.arange(65536, dtype=np.uint16)[None, :, None].repeat(3, 2)
    for curve in ("pq", "hlg", None):
        shades = to_standard(ramp, curve, wide=True)[0, :, 1].astype(int)
        assert (np.diff(shades) >= 0).all() and shades[0] == 0 and shades[-1] >= 248


# ---------------------------------------------------------------- HEIC and names


def test_heic_without_its_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GidliteError, match=r'a\.jpg is HEIC.*pip install "gidlite\[heic\]"'):
        read(tmp_path / "a.jpg", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(200))


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_heic_is_turned_once(tmp_path, rgb, orientation):
    heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    heif.register_heif_opener()
    image.save(tmp_path / "a.heic", quality=-1, chroma=444)
    turn = {1: lambda a: a, 3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1)}
    turn[7] = lambda a: a[::-1, ::-1].transpose(1, 0, 2)
    np.testing.assert_allclose(read(tmp_path / "a.heic"), turn[orientation](rgb), atol=4)
    with pytest.raises(GidliteError, match=r"a\.heic is HEIC but could not.*as JPEG$"):
        read(tmp_path / "a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))


def test_a_name_that_is_not_utf8(tmp_path, rgb):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    np.testing.assert_array_equal(read(path, encoded(rgb, "PNG")), rgb)


# ---------------------------------------------------------------- where a photo enters


def test_every_entrance_takes_every_form(tmp_path, rgb):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(rgb, "PNG"))
    spectral = torch.zeros(4, 2, 6, 8, dtype=torch.complex64)
    spectral[3] = 0.01
    volume, times = SpectralVolume(spectral), torch.zeros(1, dtype=torch.float64)
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    forms = [
        path, str(path), Image.fromarray(rgb), rgb, rgb / 255, (rgb / 255).astype(np.float16),
        (rgb / 255).astype(">f4"), tensor, tensor.double() / 255, tensor.half() / 255,
    ]  # fmt: skip
    still = torch.zeros(2, *rgb.shape[:2])
    for form in forms:
        (frame,) = render_frames(form, volume, times)
        assert (frame - tensor / 255).abs().mean() < 0.02
        assert (render_frame(form, still, still[:1]) - tensor / 255).abs().mean() < 0.02
        shown = Image.open(io.BytesIO(make_scene(form, volume).photo))
        assert np.abs(np.asarray(shown) - rgb.astype(float)).mean() < 12
    for entrance in (
        lambda x: next(render_frames(x, volume, times)),
        lambda x: make_scene(x, volume),
    ):
        with pytest.raises(GidliteError, match="floats lie in"):
            entrance(tensor.float())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_halves_are_resized(kind):
    image = torch.rand(3, 32, 40, generator=torch.Generator().manual_seed(0))
    got = media.resize(image.to(kind), height=16, width=20)
    assert got.dtype == kind
    want = media.resize(image, height=16, width=20)
    torch.testing.assert_close(got.float(), want, atol=0.01, rtol=0)
