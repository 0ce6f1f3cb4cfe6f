"""Videos as they come, against the FFmpeg program, formulas and what was written."""

from __future__ import annotations

import io
import math
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from gidlite import media
from gidlite.errors import GidliteError, GidliteWarning
from gidlite.evaluate import loop_seam
from gidlite.media import VideoWriter, read_video, stream_video, write_video

torch.set_num_threads(1)


def ffmpeg(*arguments: str | Path) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def write(path: Path, frames: list[np.ndarray], *, codec: str = "libx264", fps=25, **told) -> Path:
    """Write (H, W, 3) frames, without the code under test; ``told`` describes the stream."""
    kind, options = told.pop("pix_fmt", "yuv420p"), told.pop("options", {"crf": "6"})
    turn, aspect = told.pop("turn", None), told.pop("aspect", None)
    clusters = {"cluster_time_limit": "800"} if path.suffix in (".mkv", ".webm") else {}
    with av.open(str(path), "w", options=clusters) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = kind, options
        for name, value in told.items():
            setattr(stream.codec_context, name, value)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if turn is not None:
            stream.set_display_matrix(turn)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered(count: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """Frames over a busy picture, with their number as the level of the upper half."""
    busy = np.random.default_rng(0).integers(0, 200, (height // 8, width // 8)).astype(np.uint8)
    busy = busy.repeat(8, 0).repeat(8, 1)
    frames = [np.roll(busy, 2 * k, 1)[..., None].repeat(3, 2) for k in range(count)]
    for number, frame in enumerate(frames):
        frame[: height // 2] = 40 + number
    return frames


def numbers_of(clip: media.Clip) -> np.ndarray:
    rows = clip.frames.shape[2] // 2 - 4
    return clip.frames[:, :, 2:rows].float().mean((1, 2, 3)).numpy() - 40


# ---------------------------------------------------------------- as it is shown

QUADRANTS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
QUADRANTS = QUADRANTS.repeat(32, 0).repeat(48, 1)
TURNS = {  # a, b, c, d of the display matrix, and what it does
    (1, 0, 0, 1): lambda a: a,
    (-1, 0, 0, 1): lambda a: a[:, ::-1],
    (1, 0, 0, -1): lambda a: a[::-1],
    (-1, 0, 0, -1): lambda a: a[::-1, ::-1],
    (0, 1, 1, 0): lambda a: a.transpose(1, 0, 2),
    (0, 1, -1, 0): lambda a: np.rot90(a, -1),
    (0, -1, 1, 0): lambda a: np.rot90(a, 1),
    (0, -1, -1, 0): lambda a: a[::-1, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("numbers", TURNS)
@pytest.mark.parametrize("aspect", [None, Fraction(2), Fraction(1, 2)])
def test_turned_mirrored_and_stretched(tmp_path, numbers, aspect):
    a, b, c, d = (65536 * number for number in numbers)
    turn = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    path = write(tmp_path / "a.mp4", [QUADRANTS] * 3, turn=turn, aspect=aspect)
    stretched = QUADRANTS.repeat(2, 1) if aspect == 2 else QUADRANTS
    want = TURNS[numbers](stretched if aspect != Fraction(1, 2) else QUADRANTS.repeat(2, 0))
    clip = media.read_video(path)
    assert clip.frames.shape == (3, 3, *want.shape[:2])
    got = clip.frames[0].permute(1, 2, 0).numpy()
    assert np.abs(got.astype(float) - want)[8::16, 8::16].max() < 25
    info = media.probe_video(path)
    assert (info.height, info.width) == want.shape[:2]
    small = media.read_video(path, width=32).frames.shape
    assert abs(small[2] / small[3] - want.shape[0] / want.shape[1]) < 0.05
    cut = media.read_video(path, size=(20, 20)).frames
    assert cut.shape == (3, 3, 20, 20)
    assert np.abs(cut[0, :, 2, 2].numpy() - want[2, 2].astype(float)).max() < 25
    shown = "scale='iw*max(1,sar)':'ih*max(1,1/sar)'"
    picture = ["-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "-"]
    played = Image.open(io.BytesIO(ffmpeg("-i", path, "-vf", shown, *picture)))
    assert np.abs(np.asarray(played.convert("RGB")).astype(float) - got).mean() < 3


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_interlaced_footage(tmp_path, codec):
    moving = np.full((24, 64, 96, 3), 60, np.uint8)
    for t, frame in enumerate(moving):
        frame[:, 8 + 3 * t : 20 + 3 * t] = 220
    woven = moving[::2].copy()  # 25 frames a second of 50 fields
    woven[:, 1::2] = moving[1::2, 1::2]
    fields = "+ildct+ilme"
    (tmp_path / "raw").write_bytes(woven.tobytes())
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "96x64", "-r", "25", "-i"]
    made = ["-c:v", codec, "-flags", fields, "-pix_fmt", "yuv420p", "-b:v", "4M", "-bf", "0"]
    ffmpeg(*raw, tmp_path / "raw", "-vf", "setfield=tff", *made, tmp_path / "a.mkv")
    with av.open(str(tmp_path / "a.mkv")) as container:
        stored = next(container.decode(video=0))
        assert stored.interlaced_frame
        combs = np.abs(np.diff(stored.to_ndarray(format="gray").astype(float), axis=0)).mean()
    clip = media.read_video(tmp_path / "a.mkv")
    assert clip.frames.shape == (12, 3, 64, 96) and clip.fps == pytest.approx(25)
    frames = clip.frames.float()[:, 1]
    assert frames.diff(dim=1).abs().mean() < combs / 5
    bar = (frames.mean(1) - 60).clamp(min=0)
    centers = (bar * torch.arange(96)).sum(1) / bar.sum(1)
    np.testing.assert_allclose(centers[1:-1].diff(), 6, atol=0.5)


# ---------------------------------------------------------------- colours

COLOURS = np.array([0, 0.18, 0.5])[:, None].repeat(3, 1)
COLOURS = np.concatenate([COLOURS, 0.35 * np.eye(3) + 0.05, [[0.3, 0.2, 0.1], [0.1, 0.3, 0.5]]])
TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.088, 0.8956]])
WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # of red and blue


def srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def patches(path: Path, signal: np.ndarray, space: int, told: dict, height: int = 64) -> np.ndarray:
    """Write patches of RGB signals by the formulas of YUV, and return how they are read, 0 to 1."""
    red, blue = WEIGHTS[space]
    luma = signal @ [red, 1 - red - blue, blue]
    chroma = (signal[:, 2] - luma) / (2 - 2 * blue), (signal[:, 0] - luma) / (2 - 2 * red)
    full, width = told["color_range"] == 2, len(signal) * (32 if height < 700 else 160)
    planes = [1023 * luma if full else 64 + 876 * luma]
    planes += [512 + (1023 if full else 896) * part for part in chroma]
    frame = av.VideoFrame(width, height, "yuv420p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        row = values.round().astype("<u2").repeat(plane.width // len(signal))
        rows = np.zeros((plane.height, plane.line_size // 2), "<u2")
        rows[:, : plane.width] = row
        plane.update(rows.tobytes())
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p10le"
        stream.options = {"qp": "0", "preset": "ultrafast"}
        for name, value in told.items():
            setattr(stream.codec_context, name, value)
        for number in range(2):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    row = media.read_video(path, max_frames=1).frames[0, :, height // 2].numpy().T / 255
    return row[width // len(signal) // 2 :: width // len(signal)]


@pytest.mark.parametrize(
    ("space", "tag", "full", "height"),
    [(1, 1, 1, 64), (6, 6, 1, 64), (6, 2, 1, 64), (1, 2, 1, 720), (6, 6, 1, 720), (1, 1, 2, 64)],
)
def test_matrix_and_range_tagged_or_guessed(tmp_path, space, tag, full, height):
    told = {"colorspace": tag, "color_range": full}
    got = patches(tmp_path / "a.mp4", COLOURS, space, told, height)
    np.testing.assert_allclose(got, COLOURS, atol=2 / 255)


@pytest.mark.parametrize("curve", [16, 18, 14])  # PQ, HLG, and BT.2020 of standard range
def test_high_dynamic_range(tmp_path, curve):
    nits = COLOURS @ TO_2020.T * 203
    if curve == 16:
        power = (nits / 10000) ** (2610 / 16384)
        signal = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    elif curve == 18:
        bright = (nits @ [0.2627, 0.678, 0.0593] / 1000).clip(1e-9)[:, None]
        scene = nits / 1000 * bright ** (1 / 1.2 - 1)
        log = 0.17883277 * np.log((12 * scene - 0.28466892).clip(1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), log)
    else:
        signal = srgb(nits / 203)
    told = {"colorspace": 9, "color_primaries": 9, "color_trc": curve, "color_range": 1}
    got = patches(tmp_path / "a.mp4", signal, 9, told)
    np.testing.assert_allclose(got, srgb(COLOURS), atol=4 / 255)


# ---------------------------------------------------------------- times

COPIES = ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.mpg"]


@pytest.mark.parametrize("name", COPIES)
def test_every_frame_at_its_time_also_after_a_seek(tmp_path, name):
    mpg = name.endswith("mpg")
    options = {"g": "25", "bf": "2"} | ({"b": "4M"} if mpg else {"crf": "6"})
    codec = "mpeg2video" if mpg else "libx264"  # with frames stored in another order than shown
    path = write(tmp_path / name, numbered(80), codec=codec, options=options)
    clip = media.read_video(path)
    assert clip.fps == pytest.approx(25, rel=1e-3)
    np.testing.assert_allclose(numbers_of(clip), np.arange(80), atol=2.5)
    late = media.read_video(path, fps=25, start=1.6, max_frames=4)
    np.testing.assert_allclose(numbers_of(late), np.arange(40, 44), atol=2.5)


def test_a_stream_without_a_rate(tmp_path):
    path = tmp_path / "a.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000)  # the clock of a camera, in ms
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"crf": "6"}
        for number, pixels in enumerate(numbered(60)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * number / 30), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert not container.streams.video[0].average_rate
    clip = media.read_video(path)
    assert clip.fps == pytest.approx(30, rel=0.01)
    assert abs(len(clip.frames) - 60) <= 1  # the length of the last one is a guess
    np.testing.assert_allclose(numbers_of(clip)[:59], np.arange(59), atol=2.5)


def test_joined_files_play_on(tmp_path):
    parts = [write(tmp_path / f"{i}.ts", numbered(80)[40 * i : 40 * i + 40]) for i in range(2)]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    clip = media.read_video(tmp_path / "both.ts", fps=25)
    np.testing.assert_allclose(numbers_of(clip), np.arange(80), atol=2.5)


def test_a_size_that_changes(tmp_path):
    parts = [(64, 96), (32, 48), (64, 64)]
    joined = b""
    for number, (height, width) in enumerate(parts):
        frame = np.full((height, width, 3), 60 + 50 * number, np.uint8)
        joined += write(tmp_path / "part.ts", [frame] * 20).read_bytes()
    (tmp_path / "a.ts").write_bytes(joined)
    clip = media.read_video(tmp_path / "a.ts", fps=25)
    assert clip.frames.shape == (60, 3, 64, 96)
    levels = clip.frames.float().mean((1, 2, 3))
    np.testing.assert_allclose(levels, np.repeat([60, 110, 160], 20), atol=3)


# ---------------------------------------------------------------- damage

DAMAGED = {
    "a.mp4": "libx264", "a.mkv": "libx264", "a.ts": "libx264", "a.mpg": "mpeg2video",
    "a.avi": "mpeg4", "m.avi": "mjpeg", "a.webm": "libvpx",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("fill", [b"\0", b"\xa5"])
def test_damage_in_the_middle(tmp_path, name, fill):
    codec = DAMAGED[name]
    options = {"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx" else {"b": "2M"}
    options["g"] = "10"
    kind = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write(tmp_path / name, numbered(120), codec=codec, options=options, pix_fmt=kind)
    data = bytearray(path.read_bytes())
    first, last = len(data) * 45 // 100, len(data) * 55 // 100
    data[first:last] = fill * (last - first)
    path.write_bytes(data)
    clip = media.read_video(path, fps=25)
    assert abs(len(clip.frames) - 120) <= 1
    right = np.abs(numbers_of(clip) - np.arange(len(clip.frames))) < 6
    assert right[:30].all() and right[-30:].all() and right.mean() > 0.75


def test_mostly_damaged_is_told(tmp_path):
    path = write(tmp_path / "a.avi", numbered(60), codec="mjpeg", pix_fmt="yuvj420p", options={})
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for place, size in places[5:50]:  # the frames of an AVI, within their bounds
        data[place : place + size] = bytes(size)
    path.write_bytes(data)
    with pytest.warns(GidliteWarning, match=r"a\.avi is damaged; only \d+ of its frames"):
        clip = media.read_video(path)
    np.testing.assert_allclose(numbers_of(clip)[-8:], np.arange(52, 60), atol=3)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["12:30.mp4", "a%03d.gif", "new\nline.mp4", b"caf\xe9.mp4"])
def test_any_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name))
    media.write_video("plain" + path.suffix, torch.rand(3, 3, 32, 32), fps=10)
    Path("plain" + path.suffix).rename(path)
    assert media.probe_video(path).width == 32
    assert media.read_video(path, fps=10).frames.shape[1:] == (3, 32, 32)
    ((found, shown),) = media.find_videos([path])
    assert found == tmp_path / path and shown.encode()


def test_found_names_are_unique_and_patterns_find_videos_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hidden = ["a/._x.mp4", "a/.DS_Store", "a/.cache/x.mp4", "a/notes.txt"]
    for name in ["a/x.mp4", "b/x.mp4", "b/deep/x.mp4", "b/y.mxf", "b/z.MTS", *hidden]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    names = [name for _, name in media.find_videos(["a", "b"])]
    assert names == ["a/x.mp4", "deep/x.mp4", "b/x.mp4", "z.MTS"]
    assert [n for _, n in media.find_videos(["a/x.mp4", "b/x.mp4"])] == ["a/x.mp4", "b/x.mp4"]
    assert [n for _, n in media.find_videos(["a/*"])] == ["x.mp4"]
    assert [n for _, n in media.find_videos(["b/*.mxf"])] == ["y.mxf"]
    with pytest.raises(GidliteError, match="no video found"):
        media.find_videos(["a/n*"])


# ---------------------------------------------------------------- out


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
@pytest.mark.parametrize("fps", [48, 50, 60, 120])
def test_animations_never_ask_for_more_than_browsers_show(tmp_path, suffix, fps):
    frames = torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(0)).round()
    with media.VideoWriter(tmp_path / f"a{suffix}", fps=fps) as writer:
        for frame in frames:
            writer.write(frame)
    delays = []
    with Image.open(tmp_path / f"a{suffix}") as image:
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            delays.append(image.info["duration"])
    assert min(delays) >= 20
    assert abs(sum(delays) - 60_000 / fps) <= 20
    assert writer.frames_held == len(delays) == min(60, round(3000 / fps))


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a/"])
def test_the_writer_counts_what_the_file_holds(tmp_path, name):
    still = torch.zeros(3, 16, 16)
    with media.VideoWriter(f"{tmp_path}/{name}", fps=10) as writer:
        for frame in (still, still, still + 1):
            writer.write(frame)
    merges = name in ("a.gif", "a.webp")
    assert writer.frames_held == (2 if merges else 3)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="NOT CHECKED: threads are counted")
def test_no_threads_that_a_forked_process_would_wait_for(tmp_path):
    # A scaler with threads of its own is waited for where it is collected, also in a child.
    write_video(tmp_path / "a.gif", torch.rand(3, 3, 480, 640), fps=10)
    before = len(os.listdir("/proc/self/task"))
    frames = stream_video(tmp_path / "a.gif", fps=10, width=320)
    next(frames)
    assert len(os.listdir("/proc/self/task")) == before


def test_a_loop_shows_no_step_where_it_begins_again(tmp_path):
    # A patch sways before a still picture by about what things in photos do.
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 12, 16, generator=generator)
    photo = functional.interpolate(coarse, (96, 128), mode="bicubic")[0]
    photo = (photo + 0.05 * torch.randn(1, 96, 128, generator=generator)).clamp(0, 1)
    photo = photo.expand(3, -1, -1)  # grey: colour is stored more coarsely
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 128), indexing="ij")
    frames = []
    for t in range(40):
        dx = 0.03 * math.sin(2 * math.pi * t / 40) * torch.exp(-6 * (x**2 + y**2)) * (x > -0.5)
        grid = torch.stack([x + dx, y], -1)[None]
        frames.append(functional.grid_sample(photo[None], grid, align_corners=True)[0].clamp(0, 1))
    found = {}
    for loop in (0, 40):
        with VideoWriter(tmp_path / "a.mp4", fps=20, loop=loop) as video:
            for frame in frames:
                video.write(frame)
        shown = read_video(tmp_path / "a.mp4").frames
        assert len(shown) == 40
        found[loop] = loop_seam(shown)
        error = (shown.float() / 255 - torch.stack(frames)).abs().mean()
        assert error < 0.02
    sway = loop_seam(torch.stack(frames))  # fastest just there: over the median step by itself
    assert found[40] < 1.05 * sway and found[0] > 2 * sway
    # Nor is there a step among the frames that fade.
    steps = (shown[1:].float() - shown[:-1].float()).abs().mean((1, 2, 3))
    assert steps[-13:].max() < 1.5 * steps[:-13].max()
    # What stays still is the same bit for bit, from the first frame to the last.
    assert torch.equal(shown[0, :, :, :8], shown[-1, :, :, :8])


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_what_hardly_differs_from_the_first_frame_stands_still(tmp_path, name):
    # A hundredth of a photo moves; the rest is grain of one grey level, which nobody sees.
    grain = torch.Generator().manual_seed(0)
    photo = torch.linspace(60, 180, 80).expand(3, 80, 80)
    frames = []
    for t in range(20):
        frame = photo + torch.randint(-1, 2, (1, 80, 80), generator=grain)
        frame[:, 36:44, 36:44] += 40 * math.sin(2 * math.pi * t / 20)
        frames.append((frame if t else photo).round().to(torch.uint8))
    with VideoWriter(tmp_path / name, fps=10, loop=20) as video:
        for frame in frames:
            video.write(frame)
    shown = read_video(tmp_path / name).frames
    assert torch.equal(shown[:, :, :16], shown[:1, :, :16].expand(20, -1, -1, -1))
    assert loop_seam(shown) < 1.3 * loop_seam(torch.stack(frames)[:, :, 36:44, 36:44])


@pytest.mark.parametrize("count", [2, 3, 7, 26])
def test_short_loops_are_written(tmp_path, count):
    with VideoWriter(tmp_path / "a.mp4", fps=20, loop=count) as video:
        for frame in torch.rand(count, 3, 17, 33):
            video.write(frame)
    assert read_video(tmp_path / "a.mp4").frames.shape == (count, 3, 18, 34)
