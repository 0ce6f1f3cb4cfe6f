"""The motion evaluation with priors whose scores are known, its baselines and its command."""

import json
import math
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch

from gidlite.__main__ import main
from gidlite.errors import GidliteError
from gidlite.evaluate import interval_over
from gidlite.evaluate.motion import (
    Case,
    Draws,
    MotionReport,
    clip_case,
    evaluate_cases,
    evaluate_motion,
    photo_baselines,
    report_tables,
)
from gidlite.media import write_video
from gidlite.motion.spectral import motion_to_spectral, spectral_to_motion
from gidlite.pipeline import GidPipeline

HEIGHT, WIDTH, FRAMES, BINS = 64, 96, 40, 5
LAST = ["95 % low", "95 % high", "clips", "places"]  # rows of a table
GRID = torch.meshgrid(torch.arange(1.0 * HEIGHT), torch.arange(1.0 * WIDTH), indexing="ij")


class Prior:
    """Answers with a given volume, or with noise of the seed of ``wobble`` times its size."""

    name, fps, num_frames = "known", 20.0, FRAMES

    def __init__(self, spectral, *, wobble=0.0, forgetful=False):
        self.spectral, self.wobble, self.forgetful, self.calls = spectral, wobble, forgetful, []

    def __call__(self, image, *, num_inference_steps, guidance_scale, generator):
        assert image.shape[0] == 3 and 0 <= image.min() and image.max() <= 1
        self.calls.append((num_inference_steps, guidance_scale, generator.initial_seed()))
        noise = torch.randn(self.spectral.shape, dtype=torch.complex64, generator=generator)
        spectral = self.spectral + self.wobble * noise + self.forgetful * len(self.calls)
        return SimpleNamespace(spectral=spectral)


def swaying(*, frames=FRAMES):
    """A disc in the middle sways along one line by 2 px at bin 1 and 1 px at bin 2."""
    y, x = GRID
    disc = ((x - 48) ** 2 + (y - 32) ** 2 < 20**2).float()
    spectral = torch.zeros(BINS, 2, HEIGHT, WIDTH, dtype=torch.complex64)
    spectral[1] = torch.tensor([1.0, 0.2])[:, None, None] * disc
    spectral[2] = torch.tensor([0.5, 0.1])[:, None, None] * disc * 1j
    spectral[3:] = torch.tensor([0.05, 0.01])[:, None, None] * disc
    times = torch.arange(frames)
    return spectral, spectral_to_motion(spectral, num_frames=FRAMES, times=times), disc > 0


def case(name="disc", *, motion=None, reliable=None):
    _, motion_of_disc, disc = swaying()
    photo = torch.where(disc, 0.8, 0.2) * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    everywhere = torch.ones_like(disc)
    return Case(
        name, photo, motion_of_disc if motion is None else motion,
        everywhere if reliable is None else reliable,
    )  # fmt: skip


def score(prior, *cases, samples=2):
    cases = cases or (case(),)
    report = evaluate_cases(cases, prior, count=len(cases), draws=Draws(samples=samples))
    return SimpleNamespace(**report.cases[0])


def test_the_truth_scores_as_the_truth():
    spectral, _, disc = swaying()
    found = score(Prior(spectral))
    ones = (
        "where_auc", "where_auc_colour", "amplitude_ratio", "correlation_length_ratio",
        "bin_agreement", "bin_agreement_observed", "phase_agreement", "reliable_fraction",
    )  # fmt: skip
    for name in ones:
        assert getattr(found, name) == pytest.approx(1, abs=1e-3), name
    zeros = ("static_to_moving", "spectral_distance_db", "spectral_shape_distance_db", "diversity")
    for name in zeros:
        assert getattr(found, name) == pytest.approx(0, abs=1e-3), name
    assert found.same_seed_identical
    assert found.moving_fraction == pytest.approx(disc.float().mean().item())
    assert 0.5 < found.where_auc_centre < 1 and found.frames == FRAMES


def test_half_the_amplitude_is_six_decibels_at_every_bin():
    spectral, *_ = swaying()
    found = score(Prior(spectral / 2))
    assert found.amplitude_ratio == pytest.approx(0.5, abs=1e-3)
    assert found.spectral_distance_db == pytest.approx(20 * math.log10(2), abs=0.01)
    assert found.spectral_shape_distance_db == pytest.approx(0, abs=0.01)
    assert found.where_auc == pytest.approx(1, abs=1e-3)


def test_motion_in_the_wrong_place_and_of_a_coarser_grid():
    spectral, *_ = swaying()
    flat = spectral[..., 32:33, 48:49].expand(BINS, 2, HEIGHT, WIDTH)
    found = score(Prior(flat / 2, wobble=0.0))
    assert (found.where_auc, found.static_to_moving) == (0.5, pytest.approx(1))
    # Half the resolution: half the px. Scores are in px of the clip.
    coarse = score(Prior(flat[..., ::2, ::2] / 2))
    assert coarse.amplitude_ratio == pytest.approx(1, abs=1e-3)


def test_no_motion_at_all_is_undefined_not_a_crash():
    found = score(Prior(torch.zeros_like(swaying()[0])))
    assert (found.where_auc, found.amplitude_ratio) == (0.5, 0)
    for name in ("static_to_moving", "spectral_distance_db", "bin_agreement", "diversity"):
        assert getattr(found, name) is None, name


def test_samples_differ_repeat_and_count_up_from_the_seed():
    spectral, *_ = swaying()
    prior = Prior(0 * spectral, wobble=1.0)
    found = score(prior, samples=3)
    assert found.diversity == pytest.approx(math.sqrt(2), rel=0.02)
    assert found.bin_agreement == pytest.approx(2 / math.pi, abs=0.02)
    assert found.same_seed_identical and prior.calls == [(12, 0.0, s) for s in (0, 1, 2, 0)]
    assert not score(Prior(spectral, forgetful=True)).same_seed_identical
    assert score(Prior(spectral), samples=1).diversity is None


def test_undefined_auc_is_null_and_medians_ignore_it(capsys):
    spectral, motion, disc = swaying()
    cases = [
        case("a"), case("nothing static", reliable=disc), case("nothing moves", motion=0 * motion),
        case("nothing seen", reliable=torch.zeros_like(disc)),
    ]  # fmt: skip
    report = evaluate_cases(cases, Prior(spectral), count=4, draws=Draws(samples=1))
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    aucs = [row["where_auc"] for row in content["cases"]]
    assert aucs == [pytest.approx(1), None, None, None]
    assert content["median"]["where_auc"] == pytest.approx(1)
    assert content["median"]["diversity"] is None
    assert content["settings"]["moving_px"] == 0.25 and content["settings"]["samples"] == 1
    tables = report_tables(report)
    where = list(tables[0].columns[1].cells)
    assert list(map(str, where)) == ["1.00", "-", "-", "-", "1.00", "-", "-", "1", "1"]
    assert list(map(str, tables[0].columns[0].cells))[4:] == ["median", *LAST]


def made_of(**scores):
    """A report of one score by the name of its case."""
    rows = [{"name": n, "score": s, "same_seed_identical": True} for n, s in scores.items()]
    return MotionReport({"seed": 0}, rows)


def test_equal_clips_of_one_place_count_as_one_place():
    """Takes cannot narrow an interval: the unit of the bootstrap is the place."""
    alone = {"lily_0": 0.2, "oak_0": 0.5, "elm_0": 0.9, "ivy_0": 0.6}
    takes = {f"{name[:-1]}{take}": score for name, score in alone.items() for take in range(5)}
    found, again = (made_of(**scores).support["score"] for scores in (alone, takes))
    assert (found["clips"], again["clips"]) == (4, 20) and found["places"] == again["places"] == 4
    assert [found["low"], found["high"]] == [again["low"], again["high"]]
    one = made_of(**{f"lily_{take}": take / 10 for take in range(10)}).support["score"]
    assert one == {"low": None, "high": None, "clips": 10, "places": 1}


def test_the_interval_of_three_places_is_exact():
    """The median of three draws of {0, 1, 2} is 0 in 7 of 27, more than one in forty; so is 2."""
    report = made_of(oak=0.0, elm=1.0, ivy=2.0)
    assert report.support["score"] == {"low": 0.0, "high": 2.0, "clips": 3, "places": 3}
    assert report.median()["score"] == 1.0
    same = made_of(oak=0.7, elm_0=0.7, elm_1=0.7, ivy=0.7).support["score"]
    assert (same["low"], same["high"]) == pytest.approx((0.7, 0.7))


def test_the_interval_contains_the_median_and_ignores_what_is_undefined():
    scores = {f"place{n}_{take}": n + take / 4 for n in range(7) for take in range(n % 3 + 1)}
    report = made_of(**scores, nowhere=None)
    found = report.support["score"]
    assert 0 <= found["low"] < report.median()["score"] < found["high"] <= 6.25
    assert (found["clips"], found["places"]) == (len(scores), 7)
    assert made_of(oak=1.0, elm=2.0, ivy=None).support["score"]["low"] is None  # two places
    assert "same_seed_identical" not in report.support and report.support == report.support


def test_groups_are_drawn_whole():
    """Of one group nothing else can be drawn; of two, a mean lies between theirs."""
    one = torch.tensor([1.0, 2.0, 6.0])
    assert interval_over([one], torch.mean, 0) == [3, 3]
    assert interval_over([one, one + 10], torch.mean, 0) == [3, 13]
    means = torch.arange(100.0)[:, None]
    low, high = interval_over(list(means), torch.mean, 0)
    error = means.std(correction=0).item() / 10  # of a mean of a hundred, by theory
    assert [low, high] == pytest.approx([49.5 - 1.96 * error, 49.5 + 1.96 * error], abs=0.6)
    assert interval_over(list(means), torch.mean, 1) != [low, high]


def test_a_short_clip_is_compared_through_its_own_window():
    spectral, motion, _ = swaying(frames=30)
    found = score(Prior(spectral), case(motion=motion))
    assert (found.frames, found.amplitude_ratio) == (30, pytest.approx(1, abs=1e-3))
    assert found.spectral_distance_db == pytest.approx(0, abs=1e-2)


def test_baselines_see_colour_saturation_and_the_centre():
    image = torch.full((3, 32, 48), 0.5)
    image[:, 10:20, 30:40] = torch.tensor([0.9, 0.5, 0.1])[:, None, None]
    maps = photo_baselines(image)
    odd = torch.zeros(32, 48, dtype=torch.bool)
    odd[10:20, 30:40] = True
    for name in ("colour", "saturation"):
        assert maps[name][odd].min() > 0.5 and maps[name][~odd].max() < 1e-6
    assert maps["centre"].flatten().argmax() in (15 * 48 + 23, 15 * 48 + 24)
    assert maps["centre"][0, 0] == -2


def texture(x, y):
    waves = torch.cos(0.9 * x + 0.3 * y) + torch.cos(0.5 * x - 0.8 * y) + torch.cos(0.2 * x + y)
    return (0.5 + waves / 8).clamp(0, 1).expand(3, -1, -1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A textured disc that sways before a still, textured backdrop."""
    path = tmp_path_factory.mktemp("clips") / "disc_b.mp4"
    y, x = GRID
    disc = (x - 48) ** 2 + (y - 32) ** 2 < 20**2
    path_x = 1.5 * torch.sin(2 * math.pi * torch.arange(30.0) / 15)
    frames = [torch.where(disc, texture(x - p, y), texture(y, x)) for p in path_x]
    write_video(path, torch.stack(frames), fps=20.0, quality=1.0)
    return path


def test_a_clip_is_read_at_256_wide_and_named_by_its_scene(clip):
    found = clip_case(clip, fps=20.0, num_frames=25)
    assert found.name == "disc_b"
    assert found.photo.shape[-1] == 256 and len(found.motion) == 25
    centre = found.amplitude[60:110, 100:156]
    assert centre.median().item() == pytest.approx(1.5 / math.sqrt(2) * 256 / WIDTH, rel=0.15)
    assert found.amplitude[:20].median() < 0.25


def test_real_clips_end_to_end(clip):
    prior = Prior(torch.zeros(BINS, 2, HEIGHT, WIDTH, dtype=torch.complex64))
    prior.num_frames = 30
    observed = clip_case(clip, fps=20.0, num_frames=30)
    prior.spectral = motion_to_spectral(observed.motion, num_frequencies=BINS)
    done = []
    report = evaluate_motion(
        [clip], prior, draws=Draws(1, steps=3, guidance=0.5), progress=lambda *at: done.append(at)
    )
    found = report.cases[0]
    assert found["where_auc"] > 0.99
    assert found["amplitude_ratio"] == pytest.approx(1, abs=1e-3)
    assert prior.calls == [(3, 0.5, 0)] * 2 and done == [(1, 2), (2, 2)]
    assert report.failed == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [({"samples": 0}, "samples"), ({"seed": -1}, "seed"), ({"steps": 0}, "steps"),
     ({"guidance": math.nan}, "guidance")],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(GidliteError, match=f"{words} is .*; it must lie between"):
        Draws(**options)


@pytest.fixture
def bad_clips(tmp_path):
    """Return by what is wrong with it: no file, no video, and half a second."""
    (tmp_path / "text.mp4").write_text("hello")
    y, x = GRID
    write_video(tmp_path / "short.mp4", torch.stack([texture(x, y)] * 10), fps=20.0)
    return {
        "does not exist": tmp_path / "none.mp4", "not a video": tmp_path / "text.mp4",
        "shorter than a second": tmp_path / "short.mp4",
    }  # fmt: skip


def test_bad_clips_alone_are_refused_before_any_prediction(bad_clips):
    prior = Prior(swaying()[0])
    for words, path in bad_clips.items():
        with pytest.raises(GidliteError, match=words):
            evaluate_motion([path], prior)
    with pytest.raises(GidliteError, match="does not exist"):
        evaluate_motion(list(bad_clips.values()), prior)
    with pytest.raises(GidliteError, match="at least one"):
        evaluate_motion([], prior)
    assert prior.calls == []


def test_among_others_bad_clips_are_left_out_and_listed(clip, bad_clips):
    first, *others = bad_clips.values()
    report = evaluate_motion([first, clip, *others], Prior(swaying()[0]), draws=Draws(1))
    content = report.to_json()
    assert [row["name"] for row in content["cases"]] == ["disc_b"]
    assert list(content["failed"]) == [str(path) for path in bad_clips.values()]
    for words, path in bad_clips.items():
        assert words in content["failed"][str(path)]
    last = report_tables(report)[-1]
    assert last.row_count == 3 and "does not exist" in next(iter(last.columns[1].cells))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("motion", "none.mp4"), "does not exist"),
        (("motion", "{clip}", "--samples", "0"), "samples"),
        (("scenes", "--count", "0"), "count is 0"),
        (("motion", "{clip}", "--model", "nowhere"), "pipeline.json"),
        (("motion", "{clip}", "-o", "{clip}/x.json"), "x.json"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments, words, clip, monkeypatch, capsys):
    if "--model" not in arguments:
        monkeypatch.setattr(GidPipeline, "from_pretrained", lambda path: Prior(swaying()[0]))
    assert run_command(monkeypatch, *(a.format(clip=clip) for a in arguments)) == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("Error:") == 1 and not printed.out


def test_the_command_prints_tables_and_writes_json(clip, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(GidPipeline, "from_pretrained", lambda path: Prior(swaying()[0]))
    target = tmp_path / "new" / "scores.json"
    assert run_command(monkeypatch, "motion", str(clip), "--samples", "2", "-o", str(target)) == 0
    printed = capsys.readouterr().out
    content = json.loads(target.read_text())
    assert content["settings"]["model"] == "known" and content["cases"][0]["name"] == "disc_b"
    assert f"{content['median']['where_auc']:.2f}" in printed and "disc_b" in printed
    assert content["support"]["amplitude_ratio"] == {
        "low": None, "high": None, "clips": 1, "places": 1,
    }  # fmt: skip
    assert all(row in printed for row in LAST)


def test_the_command_prints_and_writes_an_interval_over_places(clip, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(GidPipeline, "from_pretrained", lambda path: Prior(swaying()[0]))
    clips = [tmp_path / f"{name}.mp4" for name in ("oak_a", "oak_b", "elm", "ivy")]
    for path in clips:
        shutil.copy(clip, path)
    target = tmp_path / "scores.json"
    options = *map(str, clips), "--samples", "1", "-o", str(target)
    assert run_command(monkeypatch, "motion", *options) == 0
    content, printed = json.loads(target.read_text()), capsys.readouterr().out
    found, median = content["support"]["where_auc"], content["median"]["where_auc"]
    assert found == pytest.approx({"low": median, "high": median, "clips": 4, "places": 3})
    [line, *_] = [line for line in printed.splitlines() if line.startswith("95 % low")]
    assert f"{median:.2f}" in line


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gidlite", "evaluate", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_the_seam_of_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ramp = torch.linspace(0, 2 * math.pi, 49)[:-1].sin().expand(3, 32, -1) / 2 + 0.5
    turning = [ramp.roll(6 * n, -1) for n in range(8)]  # the ninth would be the first again
    for frames, low, high in ((turning, 0.95, 1.05), (turning[:4], 1.5, 9), ([ramp] * 4, None, 0)):
        write_video("a.mp4", frames, fps=10)
        monkeypatch.setattr(sys, "argv", "gidlite evaluate loop a.mp4 -o seam.json".split())
        with pytest.raises(SystemExit, match="0"):
            main()
        step = json.loads((tmp_path / "seam.json").read_text())["position"]
        assert step is None if low is None else low < step < high
        assert f"Seam of {len(frames)} frames" in capsys.readouterr().out
