"""The ablation table: rows alike but for one thing, nothing done twice, verdicts that can fail."""

import json
import math
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gidlite.__main__ import run
from gidlite.errors import GidliteError
from gidlite.evaluate import frechet_distance, moments_of
from gidlite.motion.spectral import motion_amplitude
from gidlite.pipeline import GidPipeline
from studies.ablation import films, training
from studies.ablation import measure as measuring
from studies.ablation.__main__ import app
from studies.ablation.cases import (
    Truth,
    another_wind,
    cases_in,
    read_truth,
    store_clips,
    store_scene_cases,
)
from studies.ablation.measure import MeasureSettings, predict, read_measured, with_seeds
from studies.ablation.paired import (
    Gap,
    Scatter,
    difference_interval,
    gap,
    holm,
    photos_needed,
    resamples,
    seeds_needed,
    times_needed,
    training_scatter,
)
from studies.ablation.rows import PRESETS, Row, part_config, read_rows
from studies.ablation.scenes import StoredScenes, store_scenes
from studies.ablation.scores import energy_score, score_motion
from studies.ablation.stand_ins import NearestScene, RandomSinusoid, Still
from studies.ablation.table import (
    compare_rows,
    markdown_table,
    power,
    reference,
    scatters_of,
    verdict,
)
from studies.ablation.training import pack_models, train_rows

CONFIGS = Path(__file__).parents[2] / "configs" / "ablations"
TINY = replace(PRESETS["tiny"], scenes=4, held_out=2)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Return a folder with the scenes of the tiny preset."""
    folder = tmp_path_factory.mktemp("ablation")
    store_scenes(training.scenes_path(folder), TINY)
    return folder


def test_the_rows_of_the_repository():
    rows = {row.name: row for row in read_rows(CONFIGS)}
    assert list(rows)[:2] == ["full", "k4"]
    trained = {name for name, row in rows.items() if row.trained}
    told = {"k4", "k8", "k24", "unnormalized", "independent", "volume"}
    assert trained == {"full", "unscaled", "colors"} | told
    assert {rows[name].source for name in ("average", "softmax", "neural")} == {"full"}
    published = [rows[n].published.get("fvd") for n in ("full", "k4", "unnormalized", "softmax")]
    assert published == [47.1, 60.3, 62.7, 49.5]


@pytest.mark.parametrize("preset", PRESETS)
def test_rows_differ_in_what_they_say_and_nothing_else(preset):
    rows = [row for row in read_rows(CONFIGS) if row.trained]
    for part in ("vae", "amplitude", "prior"):
        full = part_config(rows[0], PRESETS[preset], part).to_json()
        for row in rows[1:]:
            other = part_config(row, PRESETS[preset], part).to_json()
            differing = {key for key in full if full[key] != other[key]}
            assert differing <= set(row.train)
            assert part != "prior" or differing == set(row.train)
            assert bool(row.train) != bool(row.blind)


def test_rows_share_the_parts_they_agree_on(tmp_path):
    rows = {row.name: row for row in read_rows(CONFIGS)}
    folders = {
        name: training._part_folders(row, TINY, tmp_path, "scenes") for name, row in rows.items()
    }
    full, independent, k4 = (folders[name] for name in ("full", "independent", "k4"))
    assert full["vae"] == independent["vae"] and full["amplitude"] == independent["amplitude"]
    assert full["prior"] != independent["prior"]
    assert not set(full.values()) & set(k4.values())
    # What a row is not told matters from the first part on that would be told.
    colors, unscaled = folders["colors"], folders["unscaled"]
    assert colors["vae"] == unscaled["vae"] == full["vae"]
    assert len({one["amplitude"] for one in (full, colors, unscaled)}) == 3
    again = training._part_folders(replace(rows["full"], seed=1), TINY, tmp_path, "scenes")
    assert not set(full.values()) & set(again.values())
    # A prior that builds on another autoencoder is another prior.
    other = training._part_folders(rows["full"], TINY, tmp_path, "other scenes")
    assert not set(full.values()) & set(other.values())


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "no readable row"),
        ('{"title": "a", "colour": 1}', "unknown keys colour"),
        ('{"title": "a", "train": {"seed": 1}}', "varies seed"),
        ('{"title": "a", "source": "nothing"}', "does not exist"),
        ('{"title": "a", "blind": "one eye"}', "blind to one eye"),
        ('{"title": "a", "source": "still", "train": {"num_frequencies": 4}}', "give one"),
    ],
)
def test_rows_that_make_no_sense_are_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(GidliteError, match=message):
        read_rows(tmp_path)


def test_scenes_are_made_once_and_held_out_ones_stay_apart(out):
    path = training.scenes_path(out)
    before = path.stat().st_mtime_ns
    store_scenes(path, TINY)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(GidliteError, match="another preset"):
        store_scenes(path, PRESETS["tiny"])
    source = StoredScenes(path, num_frequencies=4)
    photos = [source.example(number).image for number in range(6)]
    held_out = [source.example(10**9 + number).image for number in range(2)]
    assert torch.equal(photos[0], photos[4]) and torch.equal(photos[1], photos[5])
    assert not any(torch.equal(a, b) for a in photos for b in held_out)
    assert source.example(0).spectral.shape == (4, 2, 48, 64)
    # The bins that a row has are those that every row has.
    most = StoredScenes(path, num_frequencies=24).example(0).spectral
    assert torch.equal(most[:4], source.example(0).spectral) and most[1:].abs().max() > 0


@pytest.mark.slow
def test_training_stops_goes_on_and_does_nothing_twice(out, tmp_path, monkeypatch):
    rows = [Row("full", "full", {"num_frequencies": 4})]
    rows.append(Row("alone", "alone", {"num_frequencies": 4, "coordination": "independent"}))
    assert train_rows(rows, TINY, out, minutes=0) == []
    trained = []
    train = training.train

    def watched(config, *args, **kwargs):
        trained.append((config.part, config.coordination))
        return train(config, *args, **kwargs)

    monkeypatch.setattr(training, "train", watched)
    assert train_rows(rows, TINY, out) == ["full-0", "alone-0"]
    assert [part for part, _ in trained] == ["vae", "amplitude", "prior", "prior"]
    assert train_rows(rows, TINY, out) == ["full-0", "alone-0"] and len(trained) == 4
    (archive,) = pack_models(out, tmp_path)
    assert archive.stat().st_size < 16_000_000
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path)
    models = [GidPipeline.from_pretrained(tmp_path / "models" / row.model) for row in rows]
    full, alone = (model.prior.denoiser for model in models)
    # Attention learned together with everything else: its output began at exactly zero.
    assert all(layer.out.weight.abs().max() > 0 for layer in full.frequency)
    assert full.config.coordination == "attention" and len(alone.frequency) == 0
    assert models[0].prior.stats.scale.shape == (4,)


def test_stand_ins_move_as_they_say():
    image = torch.rand(3, 160, 256, generator=torch.Generator().manual_seed(3))
    assert not Still()(image).spectral.any()
    waves = [RandomSinusoid()(image, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    rms = motion_amplitude(waves[0].spectral).square().mean().sqrt()
    width = waves[0].spectral.shape[-1]
    assert rms.item() == pytest.approx(width / 256, rel=1e-3)
    assert torch.equal(waves[0].spectral, waves[1].spectral)
    assert not torch.equal(waves[0].spectral, waves[2].spectral)


def test_the_nearest_scene_to_a_photo_is_the_one_it_shows(out):
    source = StoredScenes(training.scenes_path(out))
    nearest = NearestScene(source)
    for number in range(4):
        photo = source.example(number).image
        assert nearest.nearest((photo * 0.95 + 0.02).clamp(0, 1)) == number


def test_differences_of_distances_are_exact_and_paired(generator):
    real = [torch.randn(3, 2, generator=generator) for _ in range(20)]
    near, far = [video + 1 for video in real], [video + 3 for video in real]
    # Equal covariance: a Fréchet distance is the squared shift, 2 · 1 and 2 · 9, in any resample.
    value, low, high = difference_interval(real, near, far, draws=20)
    assert (value, low, high) == pytest.approx((-16, -16, -16), abs=1e-3)
    assert difference_interval(real, near, near, draws=5) == (0, 0, 0)
    noise = [torch.randn(3, 2, generator=generator) for _ in range(20)]
    value, low, high = difference_interval(real, noise, near, draws=50)
    expected = frechet_distance(moments_of(real), moments_of(noise)) - 2
    assert value == pytest.approx(expected, abs=1e-3) and low < value < high


def test_a_renderer_is_compared_with_the_network_the_paper_renders_with():
    rows = {row.name: row for row in read_rows(CONFIGS)}
    against = {name: reference(row, rows) for name, row in rows.items()}
    assert {name for name, other in against.items() if other == "neural"} == {"average", "softmax"}
    assert set(against.values()) == {"neural", "full"} and against["neural"] == "full"
    del rows["neural"]
    assert reference(rows["softmax"], rows) == "full"


def winds(generator, count=6, scale=1.0):
    """Return random volumes (count, 3, 2, 8, 8)."""
    parts = torch.randn(2, count, 3, 2, 8, 8, generator=generator)
    return scale * torch.complex(*parts)


def test_the_energy_score_is_least_for_what_happens(generator):
    truth = winds(generator, 40)
    right, still = winds(generator, 40), torch.zeros(2, 3, 2, 8, 8, dtype=torch.complex64)
    lengths = truth[:, 1:].unfold(3, 4, 4).unfold(4, 4, 4).abs().square().sum((1, 2, 5, 6)).sqrt()
    nothing = energy_score(still, truth)
    assert nothing == pytest.approx(lengths.sqrt().mean().item(), rel=1e-4)
    best = energy_score(right, truth)
    # Independent Gaussians of one length: E|X − Y| = √2 E|Y|, and half of it is the spread.
    assert best == pytest.approx(2**0.5 / 2 * nothing, rel=0.02)
    mean_of_all = truth.mean(0).expand(2, -1, -1, -1, -1)  # what endpoint error loves
    for worse in (0.1 * right, 4 * right, right[:1].expand(4, -1, -1, -1, -1), mean_of_all):
        assert energy_score(worse, truth) > 1.02 * best
    assert energy_score(right[:, :2], truth) > 1.005 * best  # a bin is missing


def test_the_energy_score_is_proper_where_strength_is_unknown(generator):
    strengths = torch.tensor([0.1, 1.0, 10.0])[torch.arange(48) % 3].view(-1, 1, 1, 1, 1)
    blown = winds(generator, 48) * strengths
    drawn = (winds(generator, 48) * strengths)[torch.randperm(48, generator=generator)]

    def score(samples):  # each wind is one photo's: what blew is not known before
        return sum(energy_score(samples, wind[None]) for wind in blown) / len(blown)

    best = score(drawn)
    for strength in (0.03, 0.1, 1.0, 3.0):  # any one strength is worse than the mixture
        assert score(winds(generator, 24) * strength) > best


def made_truth(generator):
    """Return a scene of one thing that moves as one, on 16 × 16 cells."""
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[3:13, 4:12] = True
    courses = winds(generator, 4)[..., :1, :1].expand(-1, -1, -1, 32, 32)
    fine = courses * inside.repeat_interleave(2, 0).repeat_interleave(2, 1)
    film = torch.zeros(32, 3, 64, 64, dtype=torch.uint8)
    return Truth("made", "made", film[0] / 255, film, fine, torch.ones_like(inside), inside.int())


def test_scores_of_motion_see_what_they_are_named_after(generator):
    truth = made_truth(generator)
    own = truth.winds[1:]
    right = score_motion(own, truth)
    assert right["where"] == 1 and right["static"] < 0.05 and right["flatness"] < 0.1
    speckle = (0.7 * torch.randn(16, 16, generator=generator)).exp()
    assert score_motion(own * speckle, truth)["flatness"] > right["flatness"] + 0.4
    whole = truth.winds[1:, :, :, 8:9, 8:9].expand(-1, -1, -1, 16, 16)
    everywhere = score_motion(whole, truth)
    assert everywhere["static"] > 0.3 and everywhere["where"] < 0.8
    half = own.clone()
    half[..., :8] = 0
    assert score_motion(half, truth)["halves"] > right["halves"] + 1
    twice = score_motion(truth.winds[:1] * 2, truth)
    assert twice["amount"] == pytest.approx(1, abs=1e-3) and twice["axes"] < 1e-5
    turned = truth.winds[:1].clone()
    turned[:, 1] = turned[:, 1].roll(1, dims=1) * torch.tensor([1.0, -1]).view(2, 1, 1)
    assert score_motion(turned, truth)["axes"] > 0.1
    for worse in (own * speckle, whole, half):
        assert score_motion(worse, truth)["energy"] > right["energy"]


def test_scatter_of_training_is_pooled_over_rows():
    found = training_scatter([[1.0, 2.0, 3.0], [10.0, 10.0, 13.0]])
    assert (found.variance, found.freedom) == (pytest.approx((2 + 6) / 4), 4)
    assert training_scatter([[5.0]]) == Scatter(0.0, 1)


def test_scatters_add_up_as_welch_and_satterthwaite_say():
    assert Scatter(2.0, 8) + Scatter(0.0, 3) == Scatter(2.0, 8)
    assert (Scatter(1.0, 5) + Scatter(1.0, 5)).freedom == pytest.approx(10)
    assert 4 < (Scatter(100.0, 4) + Scatter(1.0, 50)).freedom < 5
    assert Scatter(2.0, 8).times(3) == Scatter(6.0, 8)


def test_a_gap_counts_photos_and_training():
    one = Gap(2.0, Scatter(0.16, 60), Scatter(0.09, 18))
    assert one.error == pytest.approx(0.5) and 18 < one.freedom < 78
    low, high = one.interval()
    assert high - 2 == pytest.approx(2 - low) and 0.98 < high - 2 < 1.03
    assert 2.8 * 0.5 < one.least < 2.9 * 0.5 and one.p < 0.001
    # As many photos as shrink the interval to the difference; never, if training alone hides it.
    needed = photos_needed(one, 60)
    assert needed < 60
    shrunk = replace(one, photos=Scatter(0.16 * 60 / needed, 60))
    assert shrunk.interval()[0] == pytest.approx(0, abs=0.02)
    assert math.isinf(photos_needed(replace(one, value=0.1), 60))
    assert times_needed(replace(one, value=0.5)) == pytest.approx((1.0 / 0.5) ** 2, rel=0.05)
    assert seeds_needed(one, 3) < 3 and math.isinf(seeds_needed(replace(one, value=0.1), 3))


def test_takes_of_one_place_count_as_one():
    values = torch.tensor([0.0, 1.0] * 20, dtype=torch.float64)

    def error(places, values):
        drawn = torch.stack([values[photos].mean() for photos in resamples(places)])
        return gap(drawn, len(set(places)), Scatter(0, 1))

    alone = error([str(n) for n in range(40)], values)
    assert alone.value == 0.5 and alone.photos.variance == pytest.approx(0.25 / 40, rel=0.3)
    taken_often = error([str(n // 10) for n in range(40)], values.sort().values)
    assert taken_often.photos.variance > 5 * alone.photos.variance
    assert taken_often.photos.freedom == 3


def test_intervals_hold_what_they_promise():
    """Rows that are equal, trained with seeds that matter: false alarms in about one of twenty.

    Two rows are not told something and scatter six times as much: that costs the others nothing.
    """
    trials, seeds, photos = 60, 3, 30
    rows = {f"row {n}": Row(f"row {n}", "", blind="features" if n > 6 else "") for n in range(9)}
    pairs, alarms, widths = {"row 1": "row 0", "row 8": "row 0"}, dict.fromkeys("18", 0), []
    for trial in range(trials):
        generator = torch.Generator().manual_seed(trial)
        hard, scatter = torch.randn(photos, generator=generator), torch.full((9, 1, 1), 0.5)
        scatter[7:] = 3.0
        luck = scatter * torch.randn(len(rows), seeds, 1, generator=generator)
        noise = torch.randn(len(rows), seeds, photos, generator=generator)
        drawn = resamples(list(map(str, range(photos))))
        means = torch.stack([(hard + luck + noise)[..., p].mean(2) for p in drawn], dim=2)
        scores = dict(zip(rows, means.double(), strict=True))
        scatters = scatters_of(scores, pairs, rows)
        for name, kind in {"1": "trained", "8": "blind"}.items():
            apart = scores[f"row {name}"].mean(0) - scores["row 0"].mean(0)
            low, high = gap(apart, photos, scatters[kind]).interval()
            alarms[name] += not low <= 0 <= high
            widths += [high - low] if kind == "trained" else []
    assert max(alarms.values()) <= 0.12 * trials
    exact = 2 * 1.96 * math.sqrt(2 * (0.5**2 + 2 / photos) / seeds)
    assert 0.9 * exact < sum(widths) / trials < 1.25 * exact


def test_holm_tests_all_rows_together():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a"}
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}) == {"a", "b", "c"}
    assert holm({}) == set()


def test_verdicts():
    sure, doubtful = ({"value": 5.0, "low": low, "high": 9.0} for low in (1.0, -1.0))
    assert verdict(13.2, sure) == "confirmed" and verdict(-1.0, sure) == "contradicted"
    assert verdict(13.2, doubtful) == verdict(-1.0, doubtful) == "undecided"


def test_kernel_distance_leaves_out_a_photo_with_itself(generator):
    real = torch.randn(12, 2, 5, generator=generator)
    alike = {"stills": real + 0.01 * torch.randn(12, 2, 5, generator=generator)}
    everything = films.distance("kid", {"stills": real}, alike)
    assert abs(everything) < 0.02  # one photo, two stills: no better than another photo
    far = {"stills": real + 2}
    assert films.distance("kid", {"stills": real}, far) > 1
    twice = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert abs(films.distance("kid", {"stills": real}, alike, twice)) < 0.05


def test_distances_of_films_are_those_of_the_package(generator):
    real, made = ({"clips": torch.randn(9, 2, 4, generator=generator) + k} for k in (0, 1))
    flat = [moments_of([side["clips"].flatten(0, 1)]) for side in (real, made)]
    assert films.distance("fvd", real, made) == pytest.approx(frechet_distance(*flat))
    late = [moments_of([side["clips"][:, 1]]) for side in (real, made)]
    assert films.distance("fvd_late", real, made) == pytest.approx(frechet_distance(*late))
    # Photos may come twice, as the bootstrap draws them.
    some = torch.tensor([0, 0, 3, 4, 8])
    drawn = [moments_of([side["clips"][some].flatten(0, 1)]) for side in (real, made)]
    assert films.distance("fvd", real, made, some) == pytest.approx(frechet_distance(*drawn))


@pytest.fixture(scope="module")
def measured(out, metric_weights):
    """Return a folder in which stand-ins are measured on two scenes."""
    store_scene_cases(out / "cases" / "scenes", 2)
    networks, settings = films.load_film_networks(metric_weights), MeasureSettings(2, 1)
    measuring.measure(STANDING, out, ["scenes"], settings=settings, networks=networks)
    return out


STANDING = [
    Row("full", "copied", source="copied", published={"fvd": 47.1}), Row("still", "still"),
    Row("sinusoid", "waves", source="sinusoid", published={"fvd": 60.0}), Row("wind", "wind"),
    Row("average", "average", source="copied", renderer="average", published={"fvd": 51.4}),
    Row("lost", "not trained"),
]  # fmt: skip


def test_scenes_to_measure_on_are_exact(measured):
    truth = read_truth(cases_in(measured / "cases" / "scenes")[0])
    assert truth.fine.shape == (4, 24, 2, 80, 128) and truth.winds.shape == (4, 24, 2, 40, 64)
    assert truth.film.shape == (32, 3, 160, 256) and truth.reliable.all()
    assert torch.allclose(truth.photo, truth.film[0] / 255)
    levels = [motion_amplitude(wind) for wind in truth.winds]
    # Other winds move the same things about as much, each in its own course.
    assert torch.corrcoef(torch.stack([levels[0].flatten(), levels[1].flatten()]))[0, 1] > 0.7
    assert (truth.winds[0] - truth.winds[1]).abs().max() > 0.3 * truth.winds[0].abs().max()


def test_another_wind_is_another_but_the_same_every_time():
    from gidlite.data.world import make_scenes
    from gidlite.data.world.pieces import Pieces

    pieces = Pieces.painted(count=8, generator=torch.Generator().manual_seed(0))
    scenes = make_scenes(1, pieces, height=32, width=48,
                         generator=torch.Generator().manual_seed(3))  # fmt: skip
    first, again, second = (another_wind(scenes, seed) for seed in (1, 1, 2))
    assert torch.equal(first.coords, again.coords)
    assert not torch.equal(first.coords, second.coords)
    assert not torch.equal(first.coords, scenes.coords)
    assert torch.equal(first.frame(0), scenes.frame(0))  # all begin with the photo


@pytest.mark.slow
def test_measuring_is_resumed_and_compared(measured, monkeypatch):
    settings = MeasureSettings(2, 1)
    folders = {path.name for path in (measured / "measured" / "scenes").iterdir()}
    assert folders == {"real", "copied-0", "still-0", "sinusoid-0", "wind-0"}
    monkeypatch.setattr(measuring, "film_features", None)  # nothing is measured twice
    measuring.measure(STANDING, measured, ["scenes"], settings=settings, networks={})
    still = read_measured(measured, "scenes", "still-0", "softmax")
    assert still.scores["where"] == [0.5, 0.5] and min(still.scores["energy"]) > 0
    wind = read_measured(measured, "scenes", "wind-0", "softmax")
    ratios = [a / b for a, b in zip(wind.scores["energy"], still.scores["energy"], strict=True)]
    assert max(ratios) < 0.9 and min(wind.scores["where"]) > 0.9
    table = compare_rows(STANDING, measured, seeds=[0], settings=settings)
    found = table["sets"]["scenes"]
    assert found["photos"] == found["places"] == 2 and "lost" not in found["rows"]
    gaps = {name: row["differences"] for name, row in found["rows"].items()}
    values = {name: row["scores"]["fvd"][0] for name, row in found["rows"].items()}
    for name in ("still", "sinusoid", "wind"):
        assert gaps[name]["fvd"]["value"] == pytest.approx(values[name] - values["full"])
    assert "energy" in gaps["wind"] and "energy" not in gaps["average"]
    assert gaps["average"]["fvd"]["against"] == "full" and not gaps["full"]
    assert set(table["orderings"]) == {"sinusoid", "average"}
    text = markdown_table(table)
    assert "2 photos of 2 places, 1 seeds" in text and "waves" in text
    assert "× both" in text or " photos |" in text or "decided |" in text
    assert json.loads(json.dumps(table)) == table
    seen = power(measured, seeds=[0], settings=settings)
    assert seen["scenes"]["seeds"] == 0
    assert measuring.read_settings(measured, "softmax") == settings
    for other in (replace(settings, samples=3), replace(settings, long=True)):
        with pytest.raises(GidliteError, match="measured with 2 samples, 1 steps, not long"):
            measuring.measure(STANDING, measured, ["scenes"], settings=other, networks={})


@pytest.mark.slow
def test_a_hint_is_tested_on_other_photos(measured, tmp_path):
    for name in ("cases", "measured"):
        shutil.copytree(measured / name, tmp_path / name)
    for path in sorted(tmp_path.rglob("000.safetensors")):
        shutil.copy(path, path.with_name("002.safetensors"))
    options = {"seeds": [0], "settings": MeasureSettings(2, 1)}
    table = compare_rows(STANDING, tmp_path, skip=1, **options)
    found = table["sets"]["scenes"]
    assert found["photos"] == 2 and "scenes slice" in table["orderings"]["average"]
    whole = compare_rows(STANDING, measured, **options)["sets"]["scenes"]  # the same, turned round
    for name, row in found["rows"].items():
        for score, values in row["scores"].items():
            assert values == pytest.approx(whole["rows"][name]["scores"][score], rel=1e-4, abs=1e-6)
    assert not compare_rows(STANDING, tmp_path, skip=3, **options)["sets"]


def test_another_renderer_is_added_and_none_is_lost(measured, monkeypatch):
    settings, made = MeasureSettings(2, 1), []
    paths = sorted((measured / "measured" / "scenes" / "still-0").iterdir())
    before = [path.read_bytes() for path in paths]
    real = films.film_features

    def watched(film, networks, **options):
        made.append(len(film))
        return real(film, networks, **options)

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, films):
            return films.float().flatten(1)[:, :4].clone()

    monkeypatch.setattr(measuring, "film_features", watched)
    rows = [Row("still", "still"), Row("averaged", "a", source="still", renderer="average")]
    networks = {"inception": Plain(), "i3d": Plain()}
    options = {"settings": settings, "networks": networks}
    measuring.measure(rows[1:], measured, ["scenes"], **options)
    assert len(made) == 4  # two scenes, by the new renderer and by the one that was there
    for renderer in ("softmax", "average"):
        assert read_measured(measured, "scenes", "still-0", renderer).features
    measuring.measure(rows, measured, ["scenes"], **options)
    assert len(made) == 4
    with pytest.raises(GidliteError, match=r"lacks the renderer neural; run the command measure"):
        read_measured(measured, "scenes", "still-0", "neural")
    for path, content in zip(paths, before, strict=True):
        path.write_bytes(content)


def test_a_case_that_is_not_measured_is_named(measured, tmp_path):
    with pytest.raises(GidliteError, match=r"settings.json does not exist.*measure writes"):
        measuring.read_settings(tmp_path, "softmax")
    with pytest.raises(GidliteError, match=r"000.safetensors is missing; run the command measure"):
        read_measured(measured, "scenes", "full-0", "softmax")


def test_samples_are_the_same_for_every_model_and_every_run(measured):
    truth = read_truth(cases_in(measured / "cases" / "scenes")[1])
    first, again = (predict(RandomSinusoid(), truth, MeasureSettings(2, 1)) for _ in range(2))
    assert torch.equal(first[0].spectral, again[0].spectral)
    assert not torch.equal(first[0].spectral, first[1].spectral)


def test_every_seed_is_measured_and_stand_ins_once():
    rows = [Row("full", "full"), Row("average", "a", source="full", renderer="average"),
            Row("still", "still")]  # fmt: skip
    found = [(row.name, row.model) for row in with_seeds(rows, (0, 1))]
    assert found == [
        ("full", "full-0"), ("average", "full-0"), ("full", "full-1"), ("average", "full-1"),
        ("still", "still-0"),
    ]  # fmt: skip


def test_clips_are_read_with_what_is_known_of_them(tmp_path, generator):
    from gidlite.media import write_video

    still = torch.rand(3, 96, 160, generator=generator)
    frames = [still.roll(round(3 * math.sin(t / 4)), dims=2) for t in range(40)]
    write_video(tmp_path / "phys_white_rose_3.mp4", frames, fps=30, quality=0.9)
    store_clips(tmp_path / "cases", [tmp_path / "phys_white_rose_3.mp4"])
    (path,) = cases_in(tmp_path / "cases")
    truth = read_truth(path)
    assert truth.name == "phys_white_rose_3" and truth.place == "phys_desk" and truth.frames == 40
    assert truth.winds.shape[:3] == (1, 24, 2) and not truth.winds[0, 21:].any()
    assert truth.level[truth.reliable].median() > 0.4  # 3 px of 160 are 1.2 cells of 64
    (tmp_path / "short.mp4").unlink(missing_ok=True)
    write_video(tmp_path / "short.mp4", frames[:31], fps=30, quality=0.9)
    with pytest.raises(GidliteError, match=r"short.mp4 is shorter than 32 frames"):
        store_clips(tmp_path / "cases", [tmp_path / "short.mp4"])


def run_command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ablation", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        run(app)
    return stopped.value.code


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("scenes", "--preset", "huge"), "use one of tiny, laptop, gpu"),
        (("train", "--preset", "tiny", "--row", "k5"), "there is no row k5"),
        (("train", "--preset", "tiny", "--configs", "nowhere"), "nowhere holds no rows"),
        (("train", "--preset", "tiny", "--sprites", "nowhere"), "nowhere"),
        (("pack", "archives"), "holds no finished row"),
        (("measure", "--row", "still", "--scenes", 0), "give --scenes, or --clips"),
        (("measure", "--row", "still", "--samples", 1), "samples must be at least 2"),
        (("measure", "--row", "still", "--renderer", "magic"), "'magic' is unknown"),
        (("measure", "--row", "still", "--weights", "nowhere"), "get it with: python tools"),
    ],
)
def test_commands_refuse_bad_input_in_one_sentence(
    monkeypatch, capsys, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    if "--configs" not in arguments and arguments[0] in ("train", "measure"):
        arguments = (*arguments, "--configs", CONFIGS)
    assert run_command(monkeypatch, *arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said and "Traceback" not in said
    assert said.startswith("Error:") and said.count("Error") == 1


def test_a_clip_that_is_no_video_is_refused(monkeypatch, capsys, tmp_path, metric_weights):
    (tmp_path / "a.mp4").write_text("no video")
    options = ["--configs", CONFIGS, "--out", tmp_path / "out", "--weights", metric_weights]
    options += ["--row", "still", "--scenes", 0, "--clips", tmp_path / "a.mp4"]
    assert run_command(monkeypatch, "measure", *options) == 2
    assert "a.mp4" in capsys.readouterr().err


@pytest.mark.slow
def test_commands_make_scenes_train_and_pack(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    configs, out = tmp_path / "rows", tmp_path / "out"
    configs.mkdir()
    (configs / "full.json").write_text('{"title": "4 bins", "train": {"num_frequencies": 4}}')
    shared = ("--preset", "tiny", "--out", out)
    assert run_command(monkeypatch, "scenes", *shared) == 0
    assert "4 scenes to learn from, 2 held out" in capsys.readouterr().out
    assert run_command(monkeypatch, "train", *shared, "--configs", configs, "--seed", 0) == 0
    assert "finished rows: full-0" in " ".join(capsys.readouterr().out.split())
    about = json.loads((out / "models" / "full-0" / "row.json").read_text())
    assert about["steps"] == {"vae": 2, "amplitude": 2, "prior": 2}
    assert run_command(monkeypatch, "pack", tmp_path / "archives", "--out", out) == 0
    assert [path.name for path in (tmp_path / "archives").iterdir()] == ["rows_0.tar"]
