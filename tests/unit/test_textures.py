"""A substitute for the network of DT-FVD: faults are what they say, unseen stays unseen."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from gidlite.__main__ import run
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.media.encode import write_video
from gidlite.motion.spectral import motion_amplitude, power_spectrum
from studies.textures import __main__ as commands
from studies.textures import films, head
from studies.textures.compare import FAULTS, ROWS, better, bootstrap, separations
from studies.textures.films import MOTION_FAULTS, another_wind, draw_scene, spoil
from studies.textures.head import (
    FOLDS,
    SUBJECTS,
    TASKS,
    clips_to_learn,
    cross_validate,
    fit,
    subject_of,
)


@pytest.fixture(scope="module")
def pieces():
    return Pieces.painted("flower", "flag", count=4, generator=torch.Generator().manual_seed(0))


def test_another_wind_moves_the_same_scene_in_another_way(pieces):
    scene, generator = draw_scene(3, pieces)
    other = another_wind(scene, generator)
    assert torch.equal(scene.frame(0), other.frame(0))
    assert other.coords.shape == scene.coords.shape and not torch.allclose(
        other.motion([50]), scene.motion([50]), atol=0.1
    )
    free = another_wind(scene, generator, let_go=True)
    swinging = scene.traits["gusty"][0] == 0
    assert swinging.any() and (free.coords[0, swinging, 0, 0] == 0).all()
    rings = free.coords[0, swinging, 0] + 1.5  # about rest, where it was let go 1.5 away
    assert (rings[:, -30:].abs().amax(1) < rings[:, :30].abs().amax(1)).all()


def test_faults_are_what_they_say():
    generator = torch.Generator().manual_seed(0)
    depth = torch.zeros(24, 32, dtype=torch.long)
    depth[4:20, 2:10], depth[4:20, 16:30] = 1, 2
    S = torch.randn(6, 2, 24, 32, dtype=torch.complex64, generator=generator) * (depth > 0)
    made = dict(spoil(S, depth, generator))
    assert tuple(made) == MOTION_FAULTS
    level = {name: motion_amplitude(volume) for name, volume in made.items()}
    true, still = motion_amplitude(S), depth == 0
    torch.testing.assert_close(level["half the amount"], true / 2)
    torch.testing.assert_close(level["twice the amount"], true * 2)
    for name in ("each bin its own way", "each pixel by itself"):
        torch.testing.assert_close(level[name], true)
        assert (made[name] - S)[1:, :, 10, 5].abs().amin() > 1e-3
    torch.testing.assert_close(
        power_spectrum(made["speckle"])[1:].sum(), power_spectrum(S)[1:].sum()
    )
    gain = (level["speckle"] / true)[~still]
    assert gain.log().std() > 0.5 and (level["speckle"][still] == 0).all()
    assert level["the whole picture moves"][still].unique().numel() == 1
    half = level["half of each thing moves"]
    assert (half[4:20, 2:6] == 0).all() and torch.equal(half[4:20, 6:10], true[4:20, 6:10])
    assert (half[4:20, 16:23] == 0).all() and torch.equal(half[4:20, 23:30], true[4:20, 23:30])


@pytest.mark.parametrize(
    "description, subject",
    [
        ("pocket watch swinging on a chain, candles beside", "pendula"),
        ("field of seeding grass in strong wind, trees at horizon", "grass"),
        ("broad-leaved tree over tall foreground grass", "trees"),
        ("rain puddle ripples, trees in background", "water"),
        ("a street at night", None),
    ],
)
def test_the_first_telling_word_names_the_subject(description, subject):
    found = subject_of(description)
    assert (None if found is None else [*SUBJECTS][found]) == subject


def test_takes_of_a_place_stay_together_and_what_is_tested_on_unseen(tmp_path):
    names = ["rose_a", "rose_b", "tulip", "apple_blossom", "phys_telephone_1", "syn_flag", "oak"]
    lines = [f"{name}.mp4,a rose in wind" for name in names[:-1]] + ["oak.mp4,an oak"]
    (tmp_path / "manifest.csv").write_text("\n".join(["file,subject", *lines]))
    found = {path.stem: fold for path, _, fold in clips_to_learn(tmp_path)}
    assert found == {"rose_a": 0, "rose_b": 0, "tulip": 1}


def test_a_head_learns_what_there_is_to_learn_and_not_what_there_is_not():
    torch.manual_seed(1)
    x, y = torch.rand(150, 1024), torch.full((150, 4), -1)
    y[:100, 0], y[:, 1] = torch.randint(3, (100,)), torch.randint(3, (150,))
    x[:100] += 0.3 * torch.randn(3, 1024)[y[:100, 0]]
    scores = cross_validate(x, y, torch.arange(150) % FOLDS)
    assert list(scores) == list(TASKS)
    assert scores["kind"]["balanced"] > 0.9 and scores["kind"]["chance"] == pytest.approx(1 / 3)
    assert sum(scores["kind"]["films"].values()) == 100
    assert scores["tempo"]["balanced"] < 0.55 and scores["subject"]["films"] == {}
    # It takes features as they are, though it learned from standardized ones.
    made = fit(x, y, torch.arange(150) % FOLDS == 4)
    right = made(x[4:100:5])[:, :3].argmax(1) == y[4:100:5, 0]
    assert right.float().mean() > 0.9 and made[:2](x).shape == (150, 128)


def made_sets(fault_size, *, count=30, noise=1.0):
    """Return features in which every fault is shifted by so much; a control is not."""
    generator, sets = torch.Generator().manual_seed(2), {}
    scene = torch.randn(count, 6, generator=generator)
    for name in {part for row in ROWS.values() for part in row}:
        sets[name] = scene + noise * torch.randn(count, 6, generator=generator)
        sets[name][:, 0] += fault_size * (name in FAULTS)
    return sets


def test_separation_finds_a_fault_and_none_where_there_is_none():
    strong, weak = (bootstrap(made_sets(size), draws=20) for size in (4.0, 0.4))
    assert strong.shape == (21, len(ROWS))
    z = dict(zip(ROWS, separations(strong)[0].tolist(), strict=True))
    assert min(z[name] for name in FAULTS) > 3
    assert all(abs(z[name]) < 3 for name in ROWS if "control" in name)
    verdict = better(strong, weak)
    assert verdict["better"] == verdict["faults"] == len(FAULTS) and verdict["mean"]["low"] > 0
    back = better(weak, strong)
    assert back["better"] == 0 and back["mean"]["high"] < 0 and back["surely_worse"] > 6
    same = better(weak, weak)
    assert same["mean"] == {"gap": 0, "low": 0, "high": 0}


class Coarse:
    """In place of I3D: pixels, averaged to 1024 numbers."""

    def __init__(self):
        last = SimpleNamespace(weight=torch.eye(4, 1024)[..., None], bias=torch.zeros(4))
        self.label, self.logits = "coarse", {"conv3d": last}

    def pooled(self, clips):
        return functional.adaptive_avg_pool3d(clips[:, :1], (16, 8, 8)).view(1, 1024, 1, 1, 1)


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["textures", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        run(commands.app)
    return stopped.value.code


def test_both_commands_and_how_they_go_on(pieces, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(films, "make_scenes", partial(make_scenes, height=40, width=64))
    monkeypatch.setattr(films, "LENGTH", 4)
    monkeypatch.setattr(head, "_PATIENCE", 3)
    monkeypatch.setattr(commands, "load_published", lambda *given: Coarse())
    monkeypatch.setattr(commands, "collect_pieces", lambda *given, **options: [pieces])
    clips, out = tmp_path / "clips", tmp_path / "out"
    learn = ["learn", "-o", out, "--clips", clips, "--scenes", 5]
    assert command(monkeypatch, *learn) == 2 and "manifest.csv" in capsys.readouterr().err
    assert not out.exists()
    clips.mkdir()
    (clips / "manifest.csv").write_text("file,subject\nflame.mp4,a flame\n")
    write_video(clips / "flame.mp4", torch.rand(20, 3, 40, 64), fps=30)
    assert command(monkeypatch, "compare", "-o", out) == 2 and not out.exists()
    assert command(monkeypatch, *learn) == 0
    report = json.loads((out / "head.json").read_text())
    assert report["films"] == 5 * 2 + 4 and report["held_out"]["subject"]["films"] == {"flames": 4}
    assert command(monkeypatch, *learn, "--every", 2) == 2  # other films
    assert "choose another folder" in capsys.readouterr().err.replace("\n", " ")
    monkeypatch.setattr(commands, "DRAWS", 5)
    assert command(monkeypatch, "compare", "-o", out, "--scenes", 3) == 0
    measured = json.loads((out / "compare.json").read_text())
    # What is made already is not made again, nor are pieces read for it.
    monkeypatch.setattr(commands, "collect_pieces", None)
    assert command(monkeypatch, "compare", "-o", out, "--scenes", 3) == 0
    again = json.loads((out / "compare.json").read_text())
    assert again["rows"] == measured["rows"]
    # A film that is frozen or played backwards is not the one that it was made of.
    assert all(abs(row["pooled"]["difference"]) > 1e-9 for row in again["rows"].values())
