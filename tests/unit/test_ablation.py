"""The ablation table: rows alike but for one thing, nothing done twice, verdicts that can fail."""

import json
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
from studies.ablation import measure as measuring
from studies.ablation import training
from studies.ablation.__main__ import app
from studies.ablation.measure import MeasureSettings, measure_rows
from studies.ablation.paired import difference_interval
from studies.ablation.rows import PRESETS, Row, part_config, read_rows
from studies.ablation.scenes import StoredScenes, store_scenes
from studies.ablation.stand_ins import NearestScene, RandomSinusoid, Still
from studies.ablation.table import markdown_table, ordering
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
    against = {name: measuring._reference(row, rows) for name, row in rows.items()}
    assert {name for name, other in against.items() if other == "neural"} == {"average", "softmax"}
    assert set(against.values()) == {"neural", "full"} and against["neural"] == "full"
    del rows["neural"]
    assert measuring._reference(rows["softmax"], rows) == "full"


def test_verdicts():
    full, worse, better = {"fvd": 47.1}, {"fvd": 60.3}, {"fvd": 40.0}
    sure, doubtful = ({"value": 5.0, "low": low, "high": 9.0} for low in (1.0, -1.0))
    assert ordering(worse, full, sure) == "holds"
    assert ordering(better, full, sure) == "reversed"
    assert ordering(worse, full, doubtful) == "undecided, same"
    assert ordering(better, full, doubtful) == "undecided, other"
    assert ordering({}, full, sure) == "-" and ordering(worse, full, None) == "-"


@pytest.mark.slow
def test_measuring_is_resumed_and_says_what_it_left_out(out, metric_weights, monkeypatch):
    rows = [
        Row("full", "full, not trained"), Row("still", "still"), Row("sinusoid", "waves"),
        Row("neural", "neural", source="still", renderer="no such"),
    ]  # fmt: skip
    settings = MeasureSettings(frames=16, samples=1, draws=10, metrics=("fvd",))
    rows[0] = Row("full", "copied", source="copied", published={"fvd": 47.1})
    options = {"scenes": 3, "settings": settings, "weights": metric_weights}
    table = measure_rows(rows, out, **options)
    assert table["left_out"] == {"neural": "there is no renderer no such"}
    found = table["sets"]["scenes"]["rows"]
    # A still image has no motion to score, and ranks all pixels alike.
    assert found["still"]["motion"]["auc"]["value"] == 0.5
    assert found["still"]["motion"]["spectrum"]["value"] is None
    distances = [found[name]["video"]["fvd"]["value"] for name in ("sinusoid", "still", "full")]
    assert min(distances) > 1 and len(set(distances)) == 3
    gap = found["still"]["video"]["fvd"]["value"] - found["full"]["video"]["fvd"]["value"]
    assert found["still"]["fvd_difference"]["value"] == pytest.approx(gap, rel=1e-3)
    assert json.loads((out / "rows" / "still.json").read_text())["scenes"] == found["still"]
    text = markdown_table(rows, table)
    assert "n = 3 photos" in text and "no such" in text
    monkeypatch.setattr(measuring, "evaluate_cases", None)
    monkeypatch.setattr(measuring, "evaluate_videos", None)
    assert measure_rows(rows, out, **options) == table
    assert table["rows"]["sinusoid"] == {"title": "waves", "source": "sinusoid", "published": {}}


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
        (("measure", "--row", "full"), "train a row first"),
        (("measure", "--row", "still", "--scenes", 0), "give --scenes or --clips"),
        (("measure", "--row", "still", "--metrics", "fvd,dtfvd"), "not dtfvd"),
        (("measure", "--row", "still", "--frames", 20), "frames must be at least 32"),
        (("measure", "--row", "still", "--samples", 0), "samples must be at least 1"),
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


def test_an_interval_that_misses_its_own_value_is_a_dash():
    """A basic bootstrap interval of a distance between few samples ends below the distance."""
    from studies.ablation.table import format_number

    assert format_number({"value": 18.8, "low": 0.0, "high": 0.0}, 1) == "18.8 [–]"
    assert format_number({"value": 1.0, "low": 0.5, "high": 1.5}, 1) == "1.0 [0.5, 1.5]"
    assert format_number({"value": None, "low": None, "high": None}, 1) == "-"
