"""Two loops side by side: who knows which is which, what is made once, and what answers say."""

import base64
import hashlib
import json
import re
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from unit.tiny_pipeline import tiny

from gidlite.__main__ import run
from gidlite.cli import console
from gidlite.errors import GidliteError
from gidlite.media import read_video, write_image
from gidlite.motion import SpectralVolume
from gidlite.motion.spectral import anchor
from studies.eye import make
from studies.eye.__main__ import app
from studies.eye.make import Settings, draw_pairs, find_photos, make_set, page
from studies.eye.score import exact_interval, photo_interval, read_results, score

NAMES = ["rose.png", "fern.png"]
STRIPES = (0.5 + 0.4 * (torch.arange(60) / 2).sin()).expand(3, 40, 60)


class Swaying:
    """In place of a pipeline: the whole photo sways, by how much the seed says."""

    representation = "modes"

    def __call__(self, image, *, generator, sampling):
        assert sampling.wind == 0.5
        spectral = torch.zeros(3, 2, 8, 12, dtype=torch.complex64)
        spectral[1, 0] = 0.2 + 0.1 * torch.rand((), generator=generator)
        return SimpleNamespace(volume=SpectralVolume(anchor(spectral), aspect=60 / 40))


@pytest.fixture(scope="module", autouse=True)
def source():
    """The name of a source that is made up here; others are what they are."""
    load, name = make.load_pipeline, "secret_source"
    with pytest.MonkeyPatch.context() as patch:
        make._pipeline.cache_clear()
        patch.setattr(make, "load_pipeline", lambda p: Swaying() if p.name == name else load(p))
        yield name
    make._pipeline.cache_clear()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    paths = [tmp_path_factory.mktemp("photos") / name for name in NAMES]
    for turn, path in enumerate(paths):
        write_image(path, STRIPES.roll(turn, -1))
    return paths


def settings(source, seed=0, pairs=10):
    return Settings(source, "still", pairs, seconds=1, fps=15, seed=seed)


@pytest.fixture(scope="module")
def made(photos, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eye") / "set"
    seen = []
    assert make_set(photos, folder, settings(source), progress=lambda *at: seen.append(at)) == 20
    assert seen == [(number, 20) for number in range(1, 21)]
    return folder


def test_sides_are_balanced_and_drawn_with_the_seed():
    drawn = [draw_pairs(NAMES, Settings("modes", "grid", 61, seed=seed)) for seed in (0, 0, 1)]
    for pairs in drawn:
        left = Counter(pair["left"] for pair in pairs)
        assert left["first"] + left["second"] == 55 and abs(left["first"] - left["second"]) == 1
        assert left["moving"] == left["frozen"] == 3
        assert all({p["left"], p["right"]} in ({"first", "second"}, {"moving", "frozen"})
                   for p in pairs)  # fmt: skip
        assert sorted(Counter(pair["photo"] for pair in pairs).values()) == [30, 31]
        assert len({pair["seed"] for pair in pairs}) == 61
    assert drawn[0] == drawn[1]
    ordinary = [[p["left"] for p in pairs if p["kind"] == "pair"] for pairs in drawn]
    assert ordinary[0] != ordinary[2], "no pattern"
    assert [p["id"] for p in drawn[0]] == [p["id"] for p in drawn[2]]


def test_what_moves_in_a_catch_pair_is_no_still():
    for first, second in (("still", "grid"), ("grid", "still")):
        caught = [p for p in draw_pairs(NAMES, Settings(first, second)) if p["kind"] == "catch"]
        moving = "first" if first == "grid" else "second"
        assert [pair["source"] for pair in caught] == [moving] * 6


def test_names_and_the_page_do_not_tell(made, photos, source, tmp_path):
    """Another seed, so other sides: all that an observer's browser reads is called the same."""
    other = tmp_path / "other"
    make_set(photos, other, settings(source, seed=1))
    keys, pages, files = [], [], []
    for folder in (made, other):
        key = json.loads((folder / "key.json").read_text("utf-8"))
        text = (folder / "index.html").read_text("utf-8")
        files.append(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")))
        keys.append([pair["left"] for pair in key["pairs"]])
        pages.append(text.replace(key["set"], "SET"))
        told = re.search(r'application/json" id="set">(.*?)</script>', text)[1]
        assert json.loads(told) == {"set": key["set"], "ids": [p["id"] for p in key["pairs"]]}
        for word in ("key.json", "secret_source", "still", "frozen", "moving", "rose", "fern"):
            assert word not in text
    assert keys[0] != keys[1] and pages[0] == pages[1] and files[0] == files[1]
    loops = [f"loops/p{n:03d}_{side}.mp4" for n in range(1, 11) for side in ("left", "right")]
    assert files[0] == sorted(["index.html", "key.json", *loops])


def test_the_page_is_under_a_policy_of_hashes_and_names_no_origin():
    text = page("abc", ["p001"])
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for kind in ("script", "style"):
        content = re.search(rf"<{kind}>(.*?)</{kind}>", text, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert rules.pop("media-src") == "'self' file:" and rules.pop("img-src") == "data:"
    assert set(rules) == {"default-src", "base-uri", "form-action"}
    assert set(rules.values()) == {"'none'"}
    assert "//" not in re.sub(r"(?m)\s// .*|^// .*", "", text) and "{{" not in text


def amount(path):
    frames = read_video(path).float_frames()
    return (frames - frames[0]).abs().amax().item(), len(frames)


def test_loops_show_what_the_key_says(made):
    for pair in json.loads((made / "key.json").read_text("utf-8"))["pairs"]:
        for side in ("left", "right"):
            moved, count = amount(made / "loops" / f"{pair['id']}_{side}.mp4")
            assert count == 15
            rests = pair[side] in ("second", "frozen")
            assert moved < 0.03 if rests else moved > 0.05, (pair, side, moved)


def test_pipelines_of_both_representations_make_loops(photos, tmp_path):
    for name in ("modes", "grid"):
        tiny(name).save_pretrained(tmp_path / name)
    chosen = Settings(str(tmp_path / "modes"), str(tmp_path / "grid"), 2, seconds=1, fps=15)
    assert make_set(photos, tmp_path / "set", chosen) == 4
    assert all(amount(path)[1] == 15 for path in (tmp_path / "set" / "loops").iterdir())


def test_called_again_it_makes_what_is_missing_and_nothing_twice(made, photos, source):
    def stamps():
        return {path.name: path.stat().st_mtime_ns for path in (made / "loops").iterdir()}

    before, lost = stamps(), made / "loops" / "p004_right.mp4"
    assert make_set(photos, made, settings(source)) == 0 and stamps() == before
    content = lost.read_bytes()
    lost.unlink()
    assert make_set(photos, made, settings(source)) == 1
    assert lost.read_bytes() == content
    assert {name for name, stamp in stamps().items() if stamp != before[name]} == {lost.name}


def test_another_set_is_not_written_over(made, photos, source):
    before = (made / "key.json").read_bytes()
    for chosen, options in ((photos, settings(source, seed=1)), (photos[:1], settings(source))):
        with pytest.raises(GidliteError, match="other photos or options"):
            make_set(chosen, made, options)
    assert (made / "key.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"second": "modes"}, "both modes"),
        ({"pairs": 1}, "--pairs is 1"),
        ({"seconds": 0.5}, "--seconds is 0.5"),
        ({"fps": 60}, "--fps is 60"),
        ({"fps": float("nan")}, "--fps is nan"),
    ],
)
def test_impossible_settings_are_refused(options, says):
    with pytest.raises(GidliteError, match=says):
        Settings(**{"first": "modes", "second": "grid"} | options)


def test_photos_are_found_once(photos, tmp_path):
    assert find_photos([photos[0].parent, photos[1]]) == [photos[0], photos[1]]
    with pytest.raises(GidliteError, match=r"two photos are called rose\.png"):
        find_photos([photos[0], photos[0].parent])
    with pytest.raises(GidliteError, match="no photo was found"):
        find_photos([tmp_path])


def test_what_cannot_be_read_is_refused_before_anything_is_written(photos, source, tmp_path):
    for chosen, name in (([tmp_path / "no.jpg"], source), (photos, str(tmp_path))):
        with pytest.raises(GidliteError):
            make_set(chosen, tmp_path / "new", settings(name))
        assert not (tmp_path / "new").exists()


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["eye", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        run(app)
    return stopped.value.code


KEY = {"set": "s", "first": "modes", "second": "grid", "pairs": [
    {"id": f"p{n}", "kind": "pair", "photo": f"{n % 4}.jpg",
     **dict(zip(("left", "right"), ("first", "second")[:: 1 if n % 2 else -1], strict=True))}
    for n in range(8)
] + [{"id": f"c{n}", "kind": "catch", "photo": "0.jpg", "left": "frozen", "right": "moving"}
     for n in range(5)]}  # fmt: skip


def answers(wins, ties=0, failed=0):
    """Prefer the first in so many pairs, tell nothing in the next, and the second in the rest."""
    chosen = {}
    for number, pair in enumerate(KEY["pairs"][:8]):
        first, second = (next(s for s in ("left", "right") if pair[s] == w)
                         for w in ("first", "second"))  # fmt: skip
        chosen[pair["id"]] = first if number < wins else second
        if wins <= number < wins + ties:
            chosen[pair["id"]] = "none"
    return chosen | {f"c{n}": "left" if n < failed else "right" for n in range(5)}


def rows(report):
    return {(row["kind"], row["observer"]): row for row in report["rows"]}


def test_known_answers_of_one_observer():
    found = rows(score(KEY, {"AB": answers(5, ties=1)}))
    assert set(found) == {("pair", "AB"), ("catch", "AB")}
    row = found["pair", "AB"]
    counts = [row[name] for name in ("pairs", "former", "latter", "neither", "share")]
    assert counts == [8, 5, 2, 1, 5.5 / 8]
    # From tables of Clopper and Pearson: the lower end of 5 and the upper end of 6 in 8.
    assert row["exact"] == pytest.approx([0.2449, 0.9681], abs=1e-4)
    low, high = row["photos"]
    assert 0.5 <= low < row["share"] < high <= 1
    assert found["catch", "AB"]["share"] == 1
    assert found["catch", "AB"]["photos"] is None, "all are of one photo"


def test_everyone_averages_observers_and_no_pair_counts_twice():
    report = score(KEY, {"AB": answers(8), "CD": answers(4), "EF": answers(8)})
    row = rows(report)["pair", "all observers"]
    assert row["share"] == pytest.approx(5 / 6) and row["pairs"] == 8
    assert row["exact"] == pytest.approx(exact_interval(20 / 3, 8))
    assert row["photos"] == pytest.approx([5 / 6, 5 / 6]), "of every photo one pair is always won"


def test_each_photo_once_and_one_observer_gives_no_interval_over_photos():
    key = KEY | {"pairs": KEY["pairs"][:4]}
    assert rows(score(key, {"AB": answers(3)}))["pair", "AB"]["photos"] is None


@pytest.mark.parametrize("count", [1, 6, 54])
def test_exact_intervals_of_all_and_none(count):
    end = 0.025 ** (1 / count)
    assert exact_interval(count, count) == pytest.approx([end, 1])
    assert exact_interval(0, count) == pytest.approx([0, 1 - end])
    assert exact_interval(0.5, count)[0] == 0
    assert exact_interval(0.5, count)[1] == pytest.approx(exact_interval(1, count)[1])


def test_intervals_over_photos_see_that_pairs_of_a_photo_agree():
    assert photo_interval([[1.0, 0.0], [0.5]]) == [0.5, 0.5]
    points = [[float(n % 2)] * 25 for n in range(40)]  # whole photos are won or lost
    low, high = photo_interval(points)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5 / 40**0.5, rel=0.1)


def test_who_fails_more_than_one_in_five_catch_pairs_is_named():
    inattentive = answers(4, failed=1) | {"c4": "none"}
    report = score(KEY, {"AB": answers(4, failed=1), "CD": inattentive})
    (warning,) = report["warnings"]
    assert warning.startswith("CD failed 2 of 5 catch pairs")


def saved(path, chosen, **changes):
    told = [{"id": i, "choice": c, "seconds": 1, "order": n} for n, (i, c) in enumerate(chosen)]
    result = {"format": "gidlite-eye", "version": 1, "set": "s", "observer": "AB", "answers": told}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result | changes))
    return path


def test_results_that_do_not_fit_are_refused(tmp_path):
    good = list(answers(4).items())
    path = saved(tmp_path / "eye_AB.json", good)
    assert read_results([path], KEY) == {"AB": answers(4)}
    for chosen, changes, says in (
        (good, {"set": "t"}, "another set"),
        (good, {"format": "x"}, "not what the page saved"),
        (good, {"answers": 3}, "not what the page saved"),
        ([*good, good[0]], {}, "unknown or given twice"),
        ([("p99", "left")], {}, "unknown"),
        ([("p1", "both")], {}, "unknown"),
        (good, {"answers": ["p1"]}, "unknown"),
        ([], {}, "no answer"),
    ):
        with pytest.raises(GidliteError, match=says):
            read_results([saved(tmp_path / "bad.json", chosen, **changes)], KEY)
    (tmp_path / "bad.json").write_bytes(b"\xff{")
    for paths, says in (([tmp_path / "bad.json"], "JSON"), ([tmp_path / "no.json"], "not exist"),
                        ([path, saved(tmp_path / "b" / "eye_AB.json", good)], "two files"),
                        ([], "no results")):  # fmt: skip
        with pytest.raises(GidliteError, match=says):
            read_results(paths, KEY)


def test_answers_handed_in_twice_are_refused(tmp_path):
    pairs = draw_pairs(NAMES, Settings("modes", "grid"))
    chosen = [(pair["id"], "left") for pair in pairs]
    paths = [saved(tmp_path / name, chosen) for name in ("eye_AB.json", "eye_AB (1).json")]
    with pytest.raises(GidliteError, match="same answers as that of AB"):
        read_results(paths, {"set": "s", "pairs": pairs})


def test_the_command_prints_a_table_and_writes_it(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console, "width", 120)
    key = json.loads((made / "key.json").read_text("utf-8"))
    right = [(p["id"], "left" if p["left"] in ("first", "moving") else "right")
             for p in key["pairs"]]  # fmt: skip
    path = saved(tmp_path / "eye_AB.json", right, set=key["set"])
    assert command(monkeypatch, "score", made, path, "-o", tmp_path / "score.json") == 0
    (line,) = re.findall(r"over still +AB +9 +9 +0 +1\.00 .*", capsys.readouterr().out)
    assert "0.66–1.00" in line
    report = json.loads((tmp_path / "score.json").read_text("utf-8"))
    assert report["rows"][0]["share"] == 1 and report["warnings"] == []
    assert command(monkeypatch, "score", tmp_path, path) == 2
    assert "key.json does not exist" in capsys.readouterr().err
