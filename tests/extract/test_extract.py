"""Videos to shards: accepted samples are right, rejected ones say why, nothing is lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from gidlite.data.extract import Settings, make_plan, run_extraction
from gidlite.data.screening import camera_path, camera_way, left_behind, remove_camera
from gidlite.data.shards import SHARD_BYTES, ShardFolder, sample_bytes
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.errors import DiskFullError, GidliteError
from gidlite.media import find_videos, probe_video, write_video
from gidlite.motion.spectral import motion_amplitude, motion_to_spectral

FRAMES, HEIGHT, WIDTH = 40, 64, 96
SETTINGS = Settings(height=HEIGHT, width=WIDTH, num_frames=FRAMES, num_frequencies=8)
CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"


def texture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A picture with detail at every scale, (3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 3, height, width)
    for cells in (4, 9, 20, 40):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        total += functional.interpolate(noise, (height, width), mode="bicubic")
    return (total[0] / 4 - 0.5) * 1.8 + 0.5


def swaying(frames: int = 60, *, drift: float = 0.0, seed: int = 0) -> list[torch.Tensor]:
    """A square that sways by about 2 px before a still picture, seen by a drifting camera."""
    picture = texture(HEIGHT + 16, WIDTH + 16, seed)
    piece = texture(28, 28, seed + 1)
    ramp = (torch.linspace(-1, 1, 28).abs() < 0.86).float()
    alpha = functional.avg_pool2d((ramp[:, None] * ramp)[None], 3, 1, 1)[0]
    film = []
    for t in range(frames):
        shift = 2 * np.sin(2 * np.pi * t / 20) - 2 * np.sin(0)
        canvas = picture.clone()
        # Sub-pixel placement by resampling the piece.
        y = torch.arange(28.0)[:, None].expand(28, 28)
        x = torch.arange(28.0) - (shift - np.floor(shift))
        grid = torch.stack([(x.expand(28, 28) + 0.5) / 14 - 1, (y + 0.5) / 14 - 1], -1)[None]
        rgba = torch.cat([piece, alpha[None]])[None]
        moved = functional.grid_sample(rgba, grid, mode="bicubic", align_corners=False)[0]
        left = 40 + int(np.floor(shift))
        part = canvas[:, 26:54, left : left + 28]
        part.lerp_(moved[:3], moved[3:].clamp(0, 1))
        offset = 8 - drift * t
        ys = torch.arange(HEIGHT) + 8.0
        xs = torch.arange(WIDTH) + offset
        grid = torch.stack(
            [
                ((xs + 0.5) * 2 / (WIDTH + 16) - 1).expand(HEIGHT, WIDTH),
                ((ys + 0.5) * 2 / (HEIGHT + 16) - 1)[:, None].expand(HEIGHT, WIDTH),
            ],
            -1,
        )
        seen = functional.grid_sample(canvas[None], grid[None], mode="bicubic", align_corners=False)
        film.append(seen[0].clamp(0, 1))
    return film


def save(path: Path, film) -> Path:
    write_video(path, film, fps=30, quality=1.0)
    return path


@pytest.fixture(scope="module")
def sway(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("video") / "sway.mp4", swaying(90))


def test_samples_agree_with_the_true_motion(tmp_path):
    pieces = Pieces.painted(count=17, generator=torch.Generator().manual_seed(1))
    scenes = make_scenes(1, pieces, generator=torch.Generator().manual_seed(28))
    film = [scenes.frame(t)[0] for t in range(60)]
    save(tmp_path / "scene.mp4", film)
    settings = Settings(num_frames=50, num_frequencies=8)
    report = run_extraction(
        [tmp_path / "scene.mp4"], tmp_path / "out", settings=settings, workers=1
    )
    folder = ShardFolder(tmp_path / "out")
    assert report.samples == len(folder) == 2, report.rejected
    for sample, start in zip((folder[0], folder[1]), (0, 10), strict=True):
        assert sample.info["start"] == pytest.approx(start / 30, abs=1e-3)
        assert (sample.image.float() / 255 - film[start]).abs().mean() < 0.02
    sample = folder[0]
    truth = motion_to_spectral(scenes.motion()[0, :50], num_frequencies=8)
    still = scenes.depth[0] == 0
    assert motion_amplitude(sample.spectral)[still & sample.reliable].median() < 0.1
    moving = sample.reliable & (motion_amplitude(truth) > 0.5)
    error = (sample.spectral - truth).abs().square().sum((0, 1)).sqrt()[moving].median()
    assert moving.sum() > 100
    assert error < 0.3 * truth.abs().square().sum((0, 1)).sqrt()[moving].median()


def pan(frames=60):
    return [p[:, :, 2 * t : 2 * t + WIDTH] for t in range(frames) for p in [PANORAMA]]


PANORAMA = texture(HEIGHT, WIDTH + 140).clamp(0, 1)


@pytest.mark.parametrize(
    ("film", "reason"),
    [
        (lambda: swaying(40) + swaying(40, seed=5), "cut"),
        (lambda: [f * (1 - t / 70) for t, f in enumerate(swaying(60))], "fade or flicker"),
        (lambda: swaying(1) * 60, "frozen"),
        (lambda: pan(), "moving camera"),
        (lambda: [torch.full((3, HEIGHT, WIDTH), 0.5)] * 60, "no texture"),
        (lambda: swaying(20), "shorter than 40 frames"),
        (lambda: [texture(HEIGHT, WIDTH, t).clamp(0, 1) for t in range(60)], "cut"),
    ],
    ids=["cut", "fade", "frozen", "pan", "flat", "short", "noise"],
)
def test_what_cannot_teach_motion_is_left_out_with_its_reason(tmp_path, film, reason):
    save(tmp_path / "a.mp4", film())
    report = run_extraction([tmp_path / "a.mp4"], tmp_path / "out", settings=SETTINGS, workers=1)
    assert report.samples == (2 if reason == "cut" and len(film()) == 80 else 0)
    if reason in ("frozen", "no texture"):  # a flat clip is also frozen
        assert set(report.rejected) <= {"frozen", "no texture", "nothing moves"}
    else:
        assert reason in report.rejected
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["rejected"] == report.rejected and index["samples"] == report.samples


def test_slight_drift_is_removed(tmp_path):
    """A camera that creeps 0.04 px a frame adds 2.4 px over the clip; the labels do not see it."""
    volumes = {}
    for name, drift in (("still", 0.0), ("creeping", 0.06)):
        save(tmp_path / f"{name}.mp4", swaying(42, drift=drift))
        out = tmp_path / name
        report = run_extraction([tmp_path / f"{name}.mp4"], out, settings=SETTINGS, workers=1)
        assert report.samples == 1 and report.stabilised == (drift > 0)
        volumes[name] = ShardFolder(out)[0]
    reliable = volumes["still"].reliable & volumes["creeping"].reliable
    gap = (volumes["still"].spectral - volumes["creeping"].spectral).abs()[1:].sum((0, 1))
    assert gap[reliable].median() < 0.15
    checks = volumes["creeping"].info["checks"]
    assert checks["camera_px"] == pytest.approx(0.06 * 39, rel=0.25)
    # Swaying alone is not mistaken for a camera.
    rms = motion_amplitude(volumes["still"].spectral)
    assert rms[20:30, 40:52].median() == pytest.approx(2 / 2**0.5, rel=0.25)


def test_a_damaged_video_is_reported_and_the_rest_goes_on(tmp_path, sway):
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.mov").write_bytes(b"")
    whole = sway.read_bytes()
    (tmp_path / "cut short.mp4").write_bytes(whole[: len(whole) // 2])
    holes = bytearray(whole)
    holes[len(whole) // 2 : len(whole) // 2 + 3000] = bytes(3000)
    (tmp_path / "holes.mp4").write_bytes(holes)
    (tmp_path / "good.mp4").write_bytes(whole)
    (tmp_path / "copy.mp4").write_bytes(whole)
    (tmp_path / "notes.txt").write_text("not a video")
    report = run_extraction([tmp_path], tmp_path / "out", settings=SETTINGS, workers=1)
    assert "unreadable" in report.videos["noise.mp4"]["error"]
    assert "empty.mov" in report.videos
    assert report.videos["good.mp4"]["error"] == "same file as copy.mp4"
    assert report.videos["copy.mp4"]["samples"] == 6
    assert "cut short.mp4" in report.videos and "holes.mp4" in report.videos
    assert "notes.txt" not in report.videos
    assert not any(str(tmp_path) in str(video) for video in report.videos.values())


def test_copies_are_found_after_reencoding(tmp_path, sway):
    (tmp_path / "a.mp4").write_bytes(sway.read_bytes())
    write_video(tmp_path / "b.mp4", swaying(90), fps=30, quality=0.7)
    save(tmp_path / "c.mp4", swaying(90, seed=3))
    report = run_extraction([tmp_path], tmp_path / "out", settings=SETTINGS, workers=1)
    assert report.videos["a.mp4"]["samples"] == 6
    assert report.videos["b.mp4"]["rejected"].get("duplicate", 0) >= 5
    assert report.videos["c.mp4"]["samples"] == 6  # moves alike, but looks different
    assert len(ShardFolder(tmp_path / "out")) == report.samples


def content(out: Path) -> dict:
    """Everything that two runs must agree on."""
    folder = ShardFolder(out)
    return {
        (s.info["source"], s.info["start"]): (s.image.sum().item(), s.spectral.abs().sum().item())
        for s in (folder[n] for n in range(len(folder)))
    }


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    for seed in range(6):
        save(folder / f"{seed}.mp4", swaying(120, seed=10 * seed))
    return folder


@pytest.fixture(scope="module")
def expected(library, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("whole") / "out"
    run_extraction([library], out, settings=CLI_SETTINGS, workers=1)
    found = content(out)
    assert len(found) >= 12
    return found


# What the command below uses: its own sizes, but sparse starts so that it is quick.
CLI_OPTIONS = ["--size", f"{WIDTH}x{HEIGHT}", "--every", "10", "--num-frequencies", "8"]
CLI_SETTINGS = Settings(height=HEIGHT, width=WIDTH, num_frequencies=8, num_frames=FRAMES)
RUN = (
    "import sys; from gidlite.data.extract import Settings, run_extraction;"
    f"run_extraction([sys.argv[1]], sys.argv[2], workers=int(sys.argv[3]), settings=Settings("
    f"height={HEIGHT}, width={WIDTH}, num_frequencies=8, num_frames={FRAMES}))"
)


def start(library: Path, out: Path, workers: int = 1) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, str(library), str(out), str(workers)]
    return subprocess.Popen(command, start_new_session=True)


def test_killed_at_any_moment_nothing_is_lost_or_doubled(tmp_path, library, expected):
    out = tmp_path / "out"
    killed = 0
    for delay in (2.5, 3.0, 3.5, 4.0):
        process = start(library, out)
        try:
            process.wait(timeout=delay)
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    # A half-written file, as a kill inside a write would leave it.
    (out / "shards").mkdir(parents=True, exist_ok=True)
    (out / "shards" / ".gidlite-0123456789ab.safetensors").write_bytes(b"half")
    records = (out / "records").glob("[!.]*.json")  # not those that a kill left without their name
    before = {p: p.stat().st_mtime_ns for p in records}
    assert start(library, out).wait(timeout=120) == 0
    assert killed and content(out) == expected
    assert not list(out.rglob(".gidlite-*"))
    for path, written in before.items():
        assert path.stat().st_mtime_ns == written, "finished work was done again"
    # Whole, but killed before it had its name: what it tells is told by another.
    record = next((out / "records").glob("[!.]*.json"))
    (out / "records" / ".gidlite-0123456789ab.json").write_bytes(record.read_bytes())
    told = json.loads((out / "index.json").read_text())
    (out / "index.json").unlink()
    assert start(library, out).wait(timeout=120) == 0
    assert json.loads((out / "index.json").read_text()) == told


def test_two_workers_give_the_same(tmp_path, library, expected):
    assert start(library, tmp_path / "out", workers=2).wait(timeout=180) == 0
    assert content(tmp_path / "out") == expected


def test_a_real_cluster_survives_the_loss_of_a_worker(tmp_path, library, expected):
    """A scheduler and two workers as separate programs; one is killed in the middle."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    options = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--local-directory", tmp_path]
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], **quiet
    )
    workers = [
        subprocess.Popen([*dask, "worker", address, *map(str, options)], **quiet) for _ in range(2)
    ]
    out, seen = tmp_path / "out", []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if done == 2 and workers[0].poll() is None:
            workers[0].send_signal(signal.SIGKILL)

    try:
        from distributed import Client

        with Client(address, timeout=30, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        run_extraction(
            [library], out, settings=CLI_SETTINGS, scheduler=address, progress=progress
        )  # fmt: skip
        assert workers[0].wait(timeout=10) == -signal.SIGKILL
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()
    assert seen[-1] == 6 and content(out) == expected


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, library, expected, monkeypatch):
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"no space left for .* run the same command again"):
        run_extraction([library], tmp_path / "out", settings=CLI_SETTINGS, workers=1)
    assert not list((tmp_path / "out").rglob(".gidlite-*"))
    monkeypatch.undo()
    run_extraction([library], tmp_path / "out", settings=CLI_SETTINGS, workers=1)
    assert content(tmp_path / "out") == expected


def test_long_videos_are_cut_into_segments_that_agree_with_the_whole(tmp_path, monkeypatch):
    save(tmp_path / "long.mp4", swaying(150))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_extraction([tmp_path / "long.mp4"], whole, settings=SETTINGS, workers=1)
    monkeypatch.setattr("gidlite.data.screening._STARTS_PER_SEGMENT", 4)
    segments, _ = make_plan(find_videos([tmp_path / "long.mp4"]), SETTINGS)
    assert [s.first for s in segments] == [0, 40, 80]
    run_extraction([tmp_path / "long.mp4"], parts, settings=SETTINGS, workers=1)
    assert content(whole) == content(parts)
    assert len(list((parts / "shards").iterdir())) == 3


def test_shards_stay_under_their_limit():
    for settings in (Settings(), Settings(height=320, width=512, num_frequencies=24)):
        size = (settings.height, settings.width)
        each = sample_bytes(settings.num_frequencies, size)
        assert settings.starts_per_segment * each + 1_000_000 <= SHARD_BYTES


def test_bad_input_is_one_sentence(tmp_path, sway):
    with pytest.raises(GidliteError, match="does not exist"):
        run_extraction([tmp_path / "nothing.mp4"], tmp_path / "out")
    with pytest.raises(GidliteError, match="no video found"):
        run_extraction([tmp_path], tmp_path / "out")
    with pytest.raises(GidliteError, match="--every is 0"):
        Settings(every=0)
    with pytest.raises(GidliteError, match="hold 1 to 75"):
        Settings(num_frequencies=80)
    with pytest.raises(GidliteError, match="no dask scheduler answers"):
        run_extraction([sway], tmp_path / "o", settings=SETTINGS, scheduler="tcp://127.0.0.1:9")
    run_extraction([sway], tmp_path / "out", settings=SETTINGS, workers=1)
    with pytest.raises(GidliteError, match="made with another num_frames"):
        run_extraction([sway], tmp_path / "out", settings=Settings(height=HEIGHT, width=WIDTH))
    for content in ("{", "[]"):
        (tmp_path / "out" / "settings.json").write_text(content)
        with pytest.raises(GidliteError, match=r"settings\.json is no JSON object; give a folder"):
            run_extraction([sway], tmp_path / "out", settings=SETTINGS)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(GidliteError, match="it is an existing file; choose another output name"):
        run_extraction([sway], tmp_path / "file", settings=SETTINGS)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("[]", "is damaged; delete it"), ("{", "is damaged"), ("{}", "is damaged"),
        ({"samples": 5}, "is damaged"), ({"samples": [{}]}, "is damaged"),
        ({"left_out": [3]}, "is damaged"), ({"seconds": None}, "is damaged"),
        ({"segment": "0"}, "is damaged"), ({"video": None}, "is damaged"),
        ({"shard": "gone.safetensors"}, "gone.safetensors cannot be read"),
        ("signature", "is damaged"), ("shard", r"safetensors cannot be read"),
        ("records", "cannot write .*records"), ("lock", "cannot write"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_named_before_any_work(change, problem, tmp_path, sway, done):
    out = tmp_path / "out"
    shutil.copytree(done, out)
    (path,) = (out / "records").iterdir()
    if change == "signature":
        record = json.loads(path.read_text())
        record["samples"][0]["signature"]["picture"] = "AAAA"
        path.write_text(json.dumps(record))
    elif change == "shard":
        shard = next((out / "shards").iterdir())
        shard.write_bytes(shard.read_bytes()[:5000])
    elif change == "records":
        shutil.rmtree(out / "records")
        (out / "records").write_text("in the way")
    elif change == "lock":
        (out / ".lock").mkdir()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    before = {p: p.read_bytes() for p in out.rglob("*.json")}
    save(tmp_path / "other.mp4", swaying(42, seed=3))
    with pytest.raises(GidliteError, match=problem):
        run_extraction([tmp_path / "other.mp4"], out, settings=SETTINGS, workers=1)
    assert {p: p.read_bytes() for p in out.rglob("*.json")} == before


@pytest.fixture(scope="module")
def done(sway, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "out"
    run_extraction([sway], out, settings=SETTINGS, workers=1)
    return out


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_two_workers_with_hardly_a_word(name, tmp_path, library):
    """As a terminal sends them, to all processes; nothing half-written stays."""
    command = [
        sys.executable,
        "-m",
        "gidlite",
        "extract",
        str(library),
        "-o",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        [*command, *CLI_OPTIONS, "--workers", "2"], start_new_session=True, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out" / "records").glob("*.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, getattr(signal, name))
    said = process.communicate(timeout=60)[1].strip()
    assert process.returncode != 0 and said.count("\n") == 0, said
    assert name != "SIGINT" or process.returncode == 130
    listed = ["ps", "--no-headers", "-o", "pid", "--sid", str(process.pid)]
    while subprocess.run(listed, stdout=subprocess.PIPE, check=False).stdout:  # the workers
        assert time.monotonic() < deadline + 60
        time.sleep(0.1)
    assert not list((tmp_path / "out").rglob(".gidlite-*"))


def test_videos_of_one_name_are_reported_apart(tmp_path):
    """In one run by their folders; a name that an earlier run gave to another video, by a mark."""
    for number, place in enumerate(("a/x", "b/x", "c/x", "later/b/x")):
        (tmp_path / place).mkdir(parents=True)
        save(tmp_path / place / "clip.mp4", swaying(42, seed=10 * number))
    out, folders = tmp_path / "out", [tmp_path / place / "x" for place in "abc"]
    (folders[2] / "clip.mp4").write_text("no video")
    report = run_extraction(folders, out, settings=SETTINGS, workers=1)
    assert {name: video["samples"] for name, video in report.videos.items()} == {
        "a/x/clip.mp4": 1, "b/x/clip.mp4": 1, "c/x/clip.mp4": 0,
    }  # fmt: skip
    assert "unreadable: c/x/clip.mp4" in report.videos["c/x/clip.mp4"]["error"]
    again = [folders[0] / "clip.mp4", tmp_path / "later" / "b" / "x" / "clip.mp4"]
    report = run_extraction(again, out, settings=SETTINGS, workers=1)
    assert report.samples == 3 and len(report.videos) == 3


def test_loops_are_told_from_what_does_not_repeat(tmp_path):
    """It sways once in 20 frames; half a turn more comes back to the pose, but the other way."""
    save(tmp_path / "sway.mp4", swaying(60))
    for frames, loop in ((40, True), (45, False), (50, False)):
        out = tmp_path / str(frames)
        settings = replace(SETTINGS, num_frames=frames)
        run_extraction([tmp_path / "sway.mp4"], out, settings=settings, workers=1)
        assert ShardFolder(out)[0].info["loop"] == loop


def test_the_command_says_what_it_did(tmp_path, sway):
    command = [sys.executable, "-m", "gidlite", "extract", str(sway), "-o", str(tmp_path / "out")]
    done = subprocess.run([*command, *CLI_OPTIONS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "shorter than 150 frames 1" in done.stdout
    wrong = subprocess.run([*command, "--size", "big"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "--size is 'big'" in wrong.stderr


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not here")
def test_a_real_clip(tmp_path):
    begun = time.perf_counter()
    report = run_extraction([CLIPS / "phys_yellow_tulip_1.mp4"], tmp_path / "out", workers=1)
    assert report.samples == 1 and report.seconds < time.perf_counter() - begun
    sample = ShardFolder(tmp_path / "out")[0]
    assert sample.image.shape == (3, 160, 256) and sample.spectral.shape == (16, 2, 160, 256)
    assert 1 < sample.info["checks"]["motion_px"] < 4  # the manifest says 1.53 RMS, 95th percentile


def test_a_large_thing_that_sways_is_not_a_camera():
    """Most pixels move as one either way; behind a plant the background stays, a camera's goes."""
    seen = torch.ones(40, 60, dtype=torch.bool)
    path = torch.eye(2, 3).repeat(5, 1, 1)
    path[:, 0, 2] = torch.arange(5.0)
    camera = path[:, :, 2, None, None].expand(5, 2, 40, 60).clone()
    plant = camera.clone()
    plant[..., :18] = 0
    for motion, behind in ((camera, 0.0), (plant, 0.3)):
        fitted, share = camera_path(motion, seen)
        assert share >= 0.7 - 0.05 and torch.allclose(fitted, path, atol=1e-3)
        assert left_behind(motion[4], fitted[4], seen) == pytest.approx(behind, abs=0.01)
    assert remove_camera(camera, path).abs().max() < 1e-5
    assert camera_way(path, height=40, width=60).tolist() == pytest.approx([0, 1, 2, 3, 4])
    turned = path.clone()
    turned[4, :, :2] = torch.tensor([[0.99, -0.1], [0.1, 0.99]])
    grid = torch.stack(torch.meshgrid(torch.arange(60.0), torch.arange(40.0), indexing="xy"))
    film = (
        torch.einsum("tij,jhw->tihw", turned[:, :, :2], grid) + turned[:, :, 2, None, None] - grid
    )
    assert remove_camera(film, turned).abs().max() < 1e-4


@pytest.mark.parametrize("seconds", [1e12, -5.0, None])
def test_a_duration_that_cannot_be_is_not_believed(tmp_path, monkeypatch, seconds):
    write_video(tmp_path / "film.mp4", torch.rand(FRAMES, 3, HEIGHT, WIDTH), fps=30)
    told = replace(probe_video(tmp_path / "film.mp4"), seconds=seconds)
    monkeypatch.setattr("gidlite.data.extract.probe_video", lambda path: told)
    (segment,), refused = make_plan(find_videos([tmp_path]), SETTINGS)
    assert segment.first == 0 and not refused
