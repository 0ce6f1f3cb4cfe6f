"""Images and video, compared with numpy, Pillow's metadata and the FFmpeg program."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from gidlite import media
from gidlite.errors import DiskFullError, GidliteError, ShapeError, protected

torch.set_num_threads(1)


def gradient(height: int = 48, width: int = 64) -> torch.Tensor:
    """(3, H, W) float in [0, 1], smooth and different in every channel."""
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width)[None, :].expand(height, width)
    return torch.stack([x, y, 1 - x])


def moving(count: int = 12, height: int = 48, width: int = 64) -> torch.Tensor:
    """(T, 3, H, W) float: a bright square on a gradient, in a new place in every frame."""
    frames = gradient(height, width).repeat(count, 1, 1, 1) * 0.5
    for t in range(count):
        frames[t, :, 8:20, 2 * t : 2 * t + 12] = 1.0
    return frames


def gray_video(path: Path, times_ms: list[int], levels: list[int]) -> None:
    """Write one flat gray frame per timestamp, without the code under test."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.options = {"crf": "4"}
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, level in zip(times_ms, levels, strict=True):
            pixels = np.full((32, 32, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def ffmpeg(*arguments: str | Path) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def refuses(match: str, error: type[GidliteError] = GidliteError):
    """Expect an error of one sentence, so of one line."""
    return pytest.raises(error, match=rf"\A(?=[^\n]*\Z).*({match})")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*arguments, **options):
    raise OSError(28, "No space left on device")


def levels_of(clip: media.Clip) -> np.ndarray:
    return clip.frames.float().mean((1, 2, 3)).numpy()


# ---------------------------------------------------------------- images in


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def as_array(image: torch.Tensor) -> np.ndarray:
    assert image.dtype == torch.float32 and image.ndim == 3 and image.shape[0] == 3
    assert 0 <= float(image.min()) and float(image.max()) <= 1
    return image.permute(1, 2, 0).numpy() * 255


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif"])
def test_lossless_formats_are_exact(tmp_path, rgb, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(tmp_path / f"a{suffix}", rgb, **options)
    np.testing.assert_allclose(as_array(media.read_image(path)), rgb, atol=1e-4)


ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("value", ORIENTATIONS)
@pytest.mark.parametrize("max_side", [4096, 20])
def test_exif_orientation(tmp_path, value, max_side):
    # Flat quadrants, so that the reduced image has a truth as well.
    quadrants = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    pixels = quadrants.repeat(16, 0).repeat(20, 1)
    exif = Image.Exif()
    exif[0x0112] = value
    path = save(tmp_path / "a.png", pixels, exif=exif)
    got = as_array(media.read_image(path, max_side=max_side))
    want = ORIENTATIONS[value](pixels)
    if max_side == 4096:
        np.testing.assert_allclose(got, want, atol=1e-4)
    else:
        assert got.shape[:2] == (want.shape[0] // 2, want.shape[1] // 2)
        np.testing.assert_allclose(got[3::10, 3::12], want[6::20, 6::24], atol=1)


def test_alpha_is_laid_over_white(tmp_path, rgb):
    alpha = np.linspace(0, 255, rgb[..., 0].size).reshape(rgb.shape[:2]).round().astype(np.uint8)
    path = save(tmp_path / "a.png", np.dstack([rgb, alpha]))
    weight = alpha[..., None] / 255
    want = rgb * weight + 255 * (1 - weight)
    np.testing.assert_allclose(as_array(media.read_image(path)), want, atol=1)


def test_gray_and_gray_with_alpha(tmp_path, rgb):
    gray = rgb[..., 0]
    got = as_array(media.read_image(save(tmp_path / "l.png", gray)))
    np.testing.assert_allclose(got, gray[..., None].repeat(3, 2), atol=1e-4)
    opaque = np.where(np.arange(40) < 20, 255, 0).astype(np.uint8)[None].repeat(24, 0)
    image = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(opaque)])
    image.save(tmp_path / "la.png")
    got = as_array(media.read_image(tmp_path / "la.png"))
    np.testing.assert_allclose(got[..., 1], np.where(opaque, gray, 255), atol=1e-4)


def test_palette_with_transparency(tmp_path):
    index = np.zeros((20, 30), np.uint8)
    index[:, 10:], index[:, 20:] = 1, 2
    image = Image.fromarray(index).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([255, 0, 0, 0, 200, 0, 0, 0, 90])
    image.save(tmp_path / "p.png", transparency=1)
    got = as_array(media.read_image(tmp_path / "p.png"))
    for column, colour in ((5, (255, 0, 0)), (15, (255, 255, 255)), (25, (0, 0, 90))):
        np.testing.assert_allclose(got[10, column], colour, atol=1e-4)


def test_cmyk(tmp_path):
    ink = np.zeros((32, 32, 4), np.uint8)
    ink[:, :16, 0] = 255  # cyan
    Image.frombytes("CMYK", (32, 32), ink.tobytes()).save(tmp_path / "c.jpg", quality=95)
    got = as_array(media.read_image(tmp_path / "c.jpg"))
    np.testing.assert_allclose(got[16, 4], (0, 255, 255), atol=8)
    np.testing.assert_allclose(got[16, 28], (255, 255, 255), atol=8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_gray_is_scaled_not_clipped(tmp_path, suffix):
    deep = np.linspace(0, 65535, 20 * 32).round().astype(np.uint16).reshape(20, 32)
    path = save(tmp_path / f"d{suffix}", deep)
    got = media.read_image(path)
    np.testing.assert_allclose(got[1].numpy(), deep / 65535, atol=1e-6)
    assert media.read_image(path, max_side=26).shape == (3, 16, 26)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animation_gives_its_first_frame(tmp_path, suffix):
    colours = ["red", "lime", "blue"]
    first, *rest = [Image.new("RGB", (20, 20), colour) for colour in colours]
    path = tmp_path / f"a{suffix}"
    first.save(path, save_all=True, append_images=rest, duration=100)
    np.testing.assert_allclose(as_array(media.read_image(path))[10, 10], (255, 0, 0), atol=4)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_large_image_is_reduced(tmp_path, suffix):
    pixels = (gradient(800, 2000).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    got = media.read_image(save(tmp_path / f"big{suffix}", pixels), max_side=300)
    assert got.shape == (3, 120, 300)
    assert (got - gradient(120, 300)).abs().max() < 0.02
    assert media.read_image(tmp_path / f"big{suffix}", max_side=2000).shape == (3, 800, 2000)


def test_decompression_bomb(tmp_path, rgb, monkeypatch):
    path = save(tmp_path / "a.png", rgb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    media.read_image(path)  # 960 pixels: between once and twice the limit is fine
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with refuses(r"a\.png is too large"):
        media.read_image(path)


def test_unreadable_images(tmp_path, rgb):
    def fails(name: str, match: str) -> None:
        with refuses(match) as caught:
            media.read_image(tmp_path / name)
        assert name in str(caught.value)

    fails("nothing.jpg", "does not exist")
    (tmp_path / "folder").mkdir()
    fails("folder", "is a folder")
    (tmp_path / "empty.jpg").touch()
    fails("empty.jpg", "is empty")
    (tmp_path / "text.jpg").write_text("This is not a photo.\n")
    fails("text.jpg", "not a known image")
    save(tmp_path / "tiny.png", rgb[:3, :3])
    fails("tiny.png", "3×3")
    save(tmp_path / "thin.png", rgb[:15])
    fails("thin.png", "40×15")
    Image.new("F", (20, 20)).save(tmp_path / "float.tif")
    fails("float.tif", "floating-point")
    for suffix in ("jpg", "png", "webp"):
        whole = save(tmp_path / f"whole.{suffix}", rgb.repeat(8, 0)).read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
        fails(f"cut.{suffix}", "could not be decoded|is cut short and lacks all but")


# ---------------------------------------------------------------- images out


@pytest.mark.parametrize(
    ("suffix", "tolerance"), [(".png", 1e-6), (".jpg", 0.02), (".JPEG", 0.02), (".webp", 0.02)]
)
def test_image_round_trip(tmp_path, suffix, tolerance):
    image = (gradient() * 255).round() / 255
    path = tmp_path / "new" / "folder" / f"a{suffix}"
    media.write_image(path, image)
    assert (media.read_image(path) - image).abs().mean() <= tolerance
    media.write_image(path, (image * 255).to(torch.uint8))
    assert (media.read_image(path) - image).abs().mean() <= tolerance
    assert names_in(path.parent) == [path.name]


def test_write_image_clamps(tmp_path):
    media.write_image(tmp_path / "a.png", gradient() * 3 - 1)
    got = media.read_image(tmp_path / "a.png")
    assert (got - (gradient() * 3 - 1).clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6


def test_unwritable_images(tmp_path, monkeypatch):
    with refuses(r"use one of the suffixes \.png, \.jpg, \.jpeg, \.webp"):
        media.write_image(tmp_path / "a.tiff", gradient())
    (tmp_path / "file").write_text("in the way")
    with refuses("cannot write .*: Not a directory"):
        media.write_image(tmp_path / "file" / "a.png", gradient())
    (tmp_path / "b.png").mkdir()
    with refuses("it is a folder"):
        media.write_image(tmp_path / "b.png", gradient())
    with refuses("axes", ShapeError):
        media.write_image(tmp_path / "c.png", gradient()[None])
    with refuses("NaN"):
        media.write_image(tmp_path / "c.png", gradient() * float("nan"))
    with refuses("int64"):
        media.write_image(tmp_path / "c.png", gradient().long())
    monkeypatch.setattr(Image.Image, "save", no_space)
    with refuses(r"no space left for .*c\.png", DiskFullError):
        media.write_image(tmp_path / "c.png", gradient())
    assert names_in(tmp_path) == ["b.png", "file"]


def test_encode_jpeg(rgb):
    smooth = media.to_bytes(gradient())
    whole = media.encode_jpeg(smooth)
    got = np.asarray(Image.open(io.BytesIO(whole)))
    assert np.abs(got.astype(float) - smooth).mean() < 1.5
    assert len(media.encode_jpeg(smooth, 40)) < len(whole)
    assert len(media.encode_jpeg(rgb, subsampling="4:2:0")) < len(media.encode_jpeg(rgb))
    gray = Image.open(io.BytesIO(media.encode_jpeg(smooth[..., 0], 95)))
    assert gray.mode == "L" and np.abs(np.asarray(gray, float) - smooth[..., 0]).mean() < 1


# ---------------------------------------------------------------- MP4 out and in


def test_mp4_colours(tmp_path):
    path = tmp_path / "a.mp4"
    media.write_video(path, gradient().repeat(6, 1, 1, 1), fps=24, quality=1.0)
    error = media.read_video(path).float_frames() - gradient()
    assert error.abs().mean() < 0.005  # of the full range 1; 1.3 levels of 255
    assert error.mean((0, 2, 3)).abs().max() < 0.002  # no shift of any channel


def test_mp4_primaries_read_by_ffmpeg(tmp_path):
    """The FFmpeg program, not our reader, says which colour is where."""
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    frame = colours.T.repeat_interleave(16, 1)[:, None].expand(3, 32, 80)
    path = tmp_path / "a.mp4"
    media.write_video(path, [frame] * 4, fps=24)
    raw = ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    pixels = np.frombuffer(raw, np.uint8).reshape(4, 32, 80, 3)
    np.testing.assert_allclose(pixels[1, 16, 8::16], colours.numpy() * 255, atol=8)


def test_mp4_plays_in_browsers(tmp_path):
    path = tmp_path / "a.mp4"
    media.write_video(path, moving(), fps=30000 / 1001)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        (stream,) = container.streams
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.color_range == 1
        assert stream.average_rate == Fraction(30000, 1001)
        assert stream.frames == 12


def test_mp4_odd_size_is_padded_by_its_edge(tmp_path):
    path = tmp_path / "a.mp4"
    media.write_video(path, [gradient(33, 47)] * 3, fps=10, quality=1.0)
    clip = media.read_video(path)
    assert clip.frames.shape == (3, 3, 34, 48)
    got = clip.float_frames()[0]
    assert (got[:, :33, :47] - gradient(33, 47)).abs().mean() < 0.01
    assert (got[:, 33] - got[:, 32]).abs().mean() < 0.02
    assert (got[:, :, 47] - got[:, :, 46]).abs().mean() < 0.02


def test_mp4_quality_changes_the_size(tmp_path):
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    sizes = []
    for quality in (0.0, 0.8, 1.0):
        media.write_video(tmp_path / "a.mp4", noise, fps=10, quality=quality)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] / 2


def test_clip():
    clip = media.Clip(torch.full((30, 3, 2, 2), 255, dtype=torch.uint8), 15.0)
    assert clip.seconds == 2.0
    assert clip.float_frames().dtype == torch.float32 and clip.float_frames().max() == 1.0


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("width", [None, 40])
def test_rotation_metadata(tmp_path, degrees, width):
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    media.write_video(plain, [gradient(48, 80)] * 3, fps=10, quality=1.0)
    ffmpeg("-display_rotation", degrees, "-i", plain, "-c", "copy", turned)
    shown = (80, 48) if degrees % 180 else (48, 80)
    if width:
        shown = (2 * round(width * shown[0] / shown[1] / 2), width)
    scale = f"scale={shown[1]}:{shown[0]}:flags=area"
    raw = ffmpeg("-i", turned, "-vf", scale, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    want = np.frombuffer(raw, np.uint8).reshape(3, *shown, 3).transpose(0, 3, 1, 2)
    got = media.read_video(turned, width=width).frames.numpy()
    assert got.shape == want.shape
    assert np.abs(got.astype(float) - want).mean() < 3
    upright = np.rot90(gradient(48, 80).numpy(), degrees // 90, (1, 2)) * 255
    np.testing.assert_allclose(got[0, :, 0, 0], upright[:, 0, 0], atol=12)
    np.testing.assert_allclose(got[0, :, -1, 0], upright[:, -1, 0], atol=12)


# ---------------------------------------------------------------- frame times

TIMES_MS = [0, 40, 80, 400, 440, 480, 700, 1000, 1040, 1080]
LEVELS = [20 + 22 * i for i in range(10)]


@pytest.mark.parametrize("fps", [10.0, 25.0, 7.0])
@pytest.mark.parametrize("start", [0.0, 0.43])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate_takes_the_nearest_frame(tmp_path, fps, start, suffix):
    path = tmp_path / f"vfr{suffix}"
    gray_video(path, TIMES_MS, LEVELS)
    clip = media.read_video(path, fps=fps, start=start)
    assert clip.fps == fps
    assert abs(clip.seconds - (1.12 - start)) <= 1 / fps + 0.05  # the last frame's length varies
    asked = start + np.arange(len(clip.frames)) / fps
    nearest = np.abs(asked[:, None] - np.array(TIMES_MS) / 1000).argmin(1)
    np.testing.assert_allclose(levels_of(clip), np.array(LEVELS)[nearest], atol=4)


def test_constant_frame_rate_gives_every_frame_once(tmp_path):
    levels = [10 + 8 * i for i in range(28)]
    path = tmp_path / "cfr.mp4"
    media.write_video(path, (torch.full((3, 16, 16), v / 255) for v in levels), fps=30000 / 1001)
    clip = media.read_video(path)
    assert clip.fps == pytest.approx(30000 / 1001, rel=1e-12)
    np.testing.assert_allclose(levels_of(clip), levels, atol=3)
    late = media.read_video(path, start=20 / clip.fps, max_frames=3)
    np.testing.assert_allclose(levels_of(late), levels[20:23], atol=3)
    doubled = media.read_video(path, fps=2 * clip.fps)
    assert len(doubled.frames) == 56
    np.testing.assert_allclose(levels_of(doubled)[::2], levels, atol=3)
    assert media.read_video(path, max_frames=1).frames.shape == (1, 3, 16, 16)


def test_width_keeps_the_aspect(tmp_path):
    path = tmp_path / "a.mp4"
    media.write_video(path, [gradient(96, 130)] * 2, fps=10, quality=1.0)
    clip = media.read_video(path, width=64)
    assert clip.frames.shape == (2, 3, 48, 64)  # 47.26 rounds to 48
    want = torch.nn.functional.interpolate(gradient(96, 130)[None], (48, 64), mode="area")
    assert (clip.float_frames() - want).abs().mean() < 0.008


def test_unreadable_videos(tmp_path):
    def fails(path: Path, match: str, **options) -> None:
        with refuses(match):
            media.read_video(path, **options)

    good = tmp_path / "good.mp4"
    media.write_video(good, moving(), fps=10)
    fails(tmp_path / "nothing.mp4", "does not exist")
    fails(tmp_path, "is a folder")
    fails(good, "lasts 1.20 s", start=1.3)
    for name in ("fps", "width", "max_frames", "start"):
        fails(good, name, **{name: -1})
    (tmp_path / "empty.mp4").touch()
    fails(tmp_path / "empty.mp4", "empty.mp4 could not be decoded")
    (tmp_path / "text.mp4").write_text("This is not a video.\n" * 20)
    fails(tmp_path / "text.mp4", "text.mp4 could not be decoded")
    data = good.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.index(b"mdat") - 20])
    fails(tmp_path / "cut.mp4", "cut.mp4 could not be decoded|no frame")
    media.write_video(tmp_path / "single.mp4", moving(1), fps=10)
    fails(tmp_path / "single.mp4", "only one frame")
    media.write_image(tmp_path / "photo.png", gradient())
    fails(tmp_path / "photo.png", "only one frame")
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", tmp_path / "sound.wav")
    fails(tmp_path / "sound.wav", "no pictures")


# ---------------------------------------------------------------- GIF, WebP, folders


def played(path: Path) -> tuple[np.ndarray, list[int]]:
    """Return the frames of an animation, in [0, 1], and how long each is shown, in ms."""
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        pictures, delays = [], []
        for t in range(image.n_frames):
            image.seek(t)
            image.load()
            delays.append(image.info["duration"])
            pictures.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1) / 255)
    return np.stack(pictures), delays


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("fps", [30.0, 12.5, 24000 / 1001])
def test_animations(tmp_path, suffix, fps):
    path = tmp_path / f"a{suffix}"
    media.write_video(path, moving(13), fps=fps)
    pictures, delays = played(path)
    assert len(pictures) == 13
    assert (np.abs(pictures - moving(13).numpy()).mean((1, 2, 3)) < 0.03).all()
    assert abs(sum(delays) - 1000 * 13 / fps) <= (5 if suffix == ".gif" else 0.5)


def test_gif_above_fifty_frames_per_second_keeps_its_speed(tmp_path):
    levels = torch.arange(24) * 10
    frames = (levels / 255).view(24, 1, 1, 1).expand(-1, 3, 16, 16)
    media.write_video(tmp_path / "a.gif", frames, fps=60)
    pictures, delays = played(tmp_path / "a.gif")
    assert min(delays) >= 20 and sum(delays) == 400
    shown = np.repeat(pictures.mean((1, 2, 3)) * 255, np.array(delays) // 20)
    nearest = np.abs(np.arange(20)[:, None] / 50 - np.arange(24) / 60).argmin(1)
    # The palette, made from every other frame, lacks the last level.
    np.testing.assert_allclose(shown[:-1], levels.numpy()[nearest][:-1], atol=2)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_repeated_frames_keep_their_time(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    media.write_video(path, moving(3).repeat_interleave(4, 0), fps=10)
    assert sum(played(path)[1]) == 1200


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_keep_frames_whose_memory_is_used_again(tmp_path, suffix):
    buffer = torch.zeros(32, 32, 3, dtype=torch.uint8)
    with media.VideoWriter(tmp_path / f"a{suffix}", fps=10) as video:
        for level in (50, 200):
            video.write(buffer.fill_(level).permute(2, 0, 1))
    pictures, _ = played(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(pictures.mean((1, 2, 3)) * 255, (50, 200), atol=4)


def test_gif_is_read_back(tmp_path):
    path = tmp_path / "a.gif"
    media.write_video(path, moving(), fps=30)
    clip = media.read_video(path)
    assert clip.fps == pytest.approx(30) and len(clip.frames) == 12
    assert (clip.float_frames() - moving()).abs().mean() < 0.03
    assert len(media.read_video(path, fps=10, start=0.2).frames) == 2


@pytest.mark.parametrize("name", ["sequence", "sequence.v2/"])
def test_png_sequence(tmp_path, name):
    target = f"{tmp_path}/new/{name}"
    media.write_video(target, moving(5), fps=10)
    folder = Path(target)
    assert names_in(folder) == [f"frame_{t:05d}.png" for t in range(5)]
    got = torch.stack([media.read_image(p) for p in sorted(folder.iterdir())])
    assert (got - moving(5)).abs().max() <= 0.5 / 255 + 1e-6
    (folder / "notes.txt").write_text("mine")
    media.write_video(target, moving(2), fps=10)
    kept = ["frame_00000.png", "frame_00001.png", "notes.txt"]
    assert names_in(folder) == kept and names_in(folder.parent) == [folder.name]
    with pytest.raises(RuntimeError), media.VideoWriter(target, fps=10) as video:
        video.write(gradient())
        raise RuntimeError
    assert names_in(folder) == kept and names_in(folder.parent) == [folder.name]
    assert (media.read_image(folder / kept[1]) - moving(2)[1]).abs().max() < 0.01


def test_png_sequence_never_takes_an_input(tmp_path):
    photo = tmp_path / "frame_00003.png"
    media.write_image(photo, gradient())
    before = photo.read_bytes()
    with protected(photo), refuses(r"frame_00003\.png is an input"):
        media.VideoWriter(tmp_path, fps=10)  # one frame would not replace, but remove it
    assert photo.read_bytes() == before


# ---------------------------------------------------------------- the writer's promises

TARGETS = ["a.mp4", "a.gif", "a.webp", "a"]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, StopIteration])
def test_an_exception_leaves_nothing_and_passes_unchanged(tmp_path, name, count, kind):
    error = kind("mine")
    with pytest.raises(kind) as caught, media.VideoWriter(tmp_path / name, fps=10) as video:
        for frame in moving(count):
            video.write(frame)
        raise error
    assert caught.value is error and error.__context__ is None
    assert list(tmp_path.iterdir()) == []


def test_an_exception_keeps_the_earlier_output(tmp_path):
    path = tmp_path / "a.mp4"
    media.write_video(path, moving(3), fps=10)
    before = path.read_bytes()
    with refuses(r"64×48.*40×40"):
        media.write_video(path, [moving(1)[0], gradient(40, 40)], fps=10)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a"])
def test_a_full_disk(tmp_path, name, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", no_space)
    with refuses("no space left for", DiskFullError):
        media.write_video(tmp_path / name, moving(2), fps=10)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_can_be_used_again(tmp_path):
    video = media.VideoWriter(tmp_path / "a.gif", fps=10)
    for side in (20, 30):
        with video:
            video.write(gradient(side, side))
        with refuses("with statement"):
            video.write(gradient(side, side))
    assert played(tmp_path / "a.gif")[0].shape == (1, 3, 30, 30)


@pytest.mark.parametrize("name", TARGETS)
def test_bad_frames(tmp_path, name):
    path = tmp_path / name
    with refuses("no frame"):
        media.write_video(path, [], fps=10)
    with pytest.raises(ShapeError):
        media.write_video(path, [gradient()[0]], fps=10)
    with refuses("NaN"):
        media.write_video(path, [gradient(), gradient() / 0], fps=10)
    assert list(tmp_path.iterdir()) == []
    media.write_video(path, [gradient()], fps=10)
    assert list(tmp_path.iterdir()) == [path]


def test_the_place_is_checked_before_any_work(tmp_path):
    with refuses(r"\.mp4, \.gif, \.webp"):
        media.VideoWriter(tmp_path / "a.avi", fps=10)
    (tmp_path / "file").write_text("in the way")
    for name in TARGETS:
        with refuses("cannot write"):
            media.VideoWriter(tmp_path / "file" / name, fps=10)
    with refuses("an existing file"):
        media.VideoWriter(tmp_path / "file", fps=10)
    (tmp_path / "b.mp4").mkdir()
    with refuses("it is a folder"):
        media.VideoWriter(tmp_path / "b.mp4", fps=10)
    for options in ({"fps": 1e-5}, {"fps": float("nan")}, {"fps": 10, "quality": 1.5}):
        with refuses(r"fps|quality"):
            media.VideoWriter(tmp_path / "c.mp4", **options)
    with refuses("with statement"):
        media.VideoWriter(tmp_path / "c.mp4", fps=10).write(gradient())
    assert names_in(tmp_path) == ["b.mp4", "file"]


def test_float_and_uint8_frames_agree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a bare name has no folder in it
    frames = (moving(3) * 255).round()
    media.write_video("a.MP4", frames / 255, fps=10)
    media.write_video("b.mp4", frames.to(torch.uint8), fps=10)
    assert torch.equal(media.read_video("a.MP4").frames, media.read_video("b.mp4").frames)


# ---------------------------------------------------------------- finding videos


def test_find_videos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["b.MP4", "a.gif", "deep/er/c.mov", "notes.txt", ".hidden.mp4", ".trash/d.mp4"]
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("folder.mp4").mkdir()
    Path("again.mp4").symlink_to("b.MP4")
    found = media.find_videos(["."])
    assert [name for _, name in found] == ["a.gif", "again.mp4", "deep/er/c.mov"]
    assert [path for path, _ in found] == [tmp_path / n for n in ("a.gif", "b.MP4", names[2])]
    named = media.find_videos([Path("deep/er/c.mov"), "*.gif", "deep", ".hidden.mp4"])
    assert [name for _, name in named] == ["c.mov", "a.gif", ".hidden.mp4"]
    with refuses(r"\*\.webm does not exist"):
        media.find_videos([".", "*.webm"])
    with refuses(r"no video found in folder\.mp4, notes; known suffixes: \.mp4"):
        Path("notes").mkdir()
        media.find_videos(["folder.mp4", "notes"])


# ---------------------------------------------------------------- sizes, times, slices


def test_resize():
    assert torch.allclose(media.resize(gradient(), height=48, width=64), gradient(), atol=1e-6)
    stripes = (torch.arange(64) % 2).float().expand(2, 3, 64, 64)
    small = media.resize(stripes, height=16, width=16)
    assert small.shape == (2, 3, 16, 16)
    assert (small[..., 2:-2] - 0.5).abs().max() < 0.02  # antialiased: stripes average out
    step = (torch.arange(32) >= 16).float().expand(1, 16, 32)
    assert media.resize(step, height=16, width=96).max() <= 1
    assert media.resize(step * 4, height=16, width=96).max() > 4  # flow, say, is not clamped
    with pytest.raises(GidliteError, match="float"):
        media.resize(step.long(), height=16, width=16)
    with pytest.raises(GidliteError, match="0×16"):
        media.resize(step, height=16, width=0)
    with pytest.raises(ShapeError):
        media.resize(step[0], height=16, width=16)


def test_fit_size():
    for height, width in [(1080, 1920), (427, 640), (2000, 100), (100, 2000), (511, 511), (9, 9)]:
        for limit in (8, 100, 512, 4000):
            rows, columns = media.fit_size(height, width, max_width=limit)
            assert rows % 2 == columns % 2 == 0
            assert 2 <= columns <= limit and columns <= width
            assert 2 <= rows <= height
            assert abs(rows - height * columns / width) <= 2 or rows == 2
    with pytest.raises(GidliteError):
        media.fit_size(100, 100, max_width=1)


def test_xt_slice():
    frames = torch.rand(5, 3, 6, 7)
    array = frames.numpy()
    for row in (0, 5, -1, -6):
        got = media.xt_slice(frames, row=row).numpy()
        np.testing.assert_array_equal(got, array[:, :, row, :].transpose(1, 0, 2))
    for column in (0, 6, -7):
        got = media.xt_slice(frames, column=column).numpy()
        np.testing.assert_array_equal(got, array[:, :, :, column].transpose(1, 0, 2))
    for bad in ({}, {"row": 1, "column": 1}, {"row": 6}, {"row": -7}, {"column": 7}):
        with pytest.raises(GidliteError):
            media.xt_slice(frames, **bad)


def test_sample_photo(monkeypatch):
    assert media.read_image(media.sample_photo()).shape == (3, 427, 640)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GidliteError, match="scikit-learn"):
        media.sample_photo()


def test_import_is_light():
    code = (
        "import sys, gidlite.media as m; m.sample_photo();"
        "sys.exit(' '.join({'av', 'sklearn', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_a_photo_comes_in_any_common_form(tmp_path):
    pixels = (torch.arange(3 * 16 * 20) % 256).view(3, 16, 20).byte()
    array = pixels.movedim(0, -1).numpy()
    Image.fromarray(array).save(tmp_path / "photo.png")
    wanted = pixels.float() / 255
    as_image = media.as_image
    for picture in (
        tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(array), array, pixels,
        array.astype(np.float32) / 255, wanted.double(),
    ):  # fmt: skip
        assert torch.allclose(as_image(picture), wanted), type(picture)
        assert as_image(picture).dtype == torch.float32
    for wrong, words in (
        (wanted * 255, "to 255"), (array.astype(np.int64), "int64"), (None, "NoneType"),
        (wanted[0], "axes"), (wanted * float("nan"), "floats lie in"),
    ):  # fmt: skip
        with pytest.raises(GidliteError, match=words):
            as_image(wrong)
