"""The ridge regression on photo features: what it learns from, and what it prints."""

import math
import subprocess
import sys

import pytest
import torch

from gidlite.evaluate.motion import Case
from gidlite.media import write_video
from studies import ridge as module
from studies.ridge import SceneRidge, log_amplitude_cells, ridge_aucs, scene_of


def test_ridge_recovers_a_linear_law_from_other_scenes_only(generator):
    slope = torch.tensor([1.0, -2.0, 0.0, 0.5])
    ridge = SceneRidge(penalty=1e-9)
    fields = {name: torch.randn(4, 6, 8, generator=generator) for name in "abc"}
    law = lambda x: torch.einsum("c,chw->hw", slope, x)  # noqa: E731
    everywhere = torch.ones(6, 8)
    assert ridge.predict("a", fields["a"]) is None
    for name, field in fields.items():
        ridge.add(name, field, law(field) + 7, everywhere)
    # A scene that contradicts the others, and one whose only odd cell has no weight.
    ridge.add("liar", fields["a"], -law(fields["a"]), everywhere)
    odd, weight = law(fields["c"]), torch.ones(6, 8)
    odd[2, 3], weight[2, 3] = 1e6, 0
    ridge.add("c", fields["c"], odd, weight)
    found = ridge.predict("liar", fields["a"])
    expected = law(fields["a"])
    assert torch.allclose(found - found.mean(), expected - expected.mean(), atol=1e-3)
    told = ridge.predict("a", fields["a"])  # the liar among the rest
    assert not torch.allclose(told - told.mean(), expected - expected.mean(), atol=1e-2)


def test_a_large_penalty_predicts_nothing(generator):
    field = torch.randn(4, 6, 8, generator=generator)
    ridge = SceneRidge(penalty=1e9)
    ridge.add("a", field, field.sum(0), torch.ones(6, 8))
    ridge.add("empty", field, field.sum(0), torch.zeros(6, 8))
    assert ridge.predict("b", field).abs().max() < 1e-6
    assert ridge.predict("a", field) is None


def test_cells_average_the_logarithm_over_reliable_pixels():
    amplitude = torch.tensor([[10.0, 1000, 0, 0], [1, 1000, 0, 0]])
    reliable = torch.tensor([[True, False, True, True], [True, False, True, True]])
    target, weight = log_amplitude_cells(amplitude, reliable, rows=1, columns=2)
    assert torch.allclose(target, torch.tensor([[0.5, math.log10(0.05)]]))
    assert torch.equal(weight, torch.tensor([[0.5, 1.0]]))


def test_clips_of_one_place_are_one_scene():
    assert scene_of("palm_a") == scene_of("palm_7") == scene_of("palm") == "palm"
    assert scene_of("palm_ab") == "palm_ab" and scene_of("palm_12") == "palm_12"


def test_every_case_is_judged_by_the_other_scenes(generator, monkeypatch):
    """The photo's red says where it moves, but for one scene, of which the others know nothing."""
    monkeypatch.setattr(module, "feature_grid", lambda photo: photo[:, ::8, ::8])

    def case(name, sign=1):
        photo = torch.rand(3, 4, 6, generator=generator)
        photo = photo.repeat_interleave(8, 1).repeat_interleave(8, 2)
        size = 0.6 * (photo[0] if sign > 0 else 1 - photo[0])
        motion = torch.stack([torch.stack([s * size, 0 * size]) for s in (-1.0, 1.0)])
        return Case(name, photo, motion, torch.ones(32, 48, dtype=torch.bool))

    found = dict(ridge_aucs([case("a"), case("b_0"), case("b_1"), case("c"), case("odd", -1)]))
    assert list(found) == ["a", "b_0", "b_1", "c", "odd"]
    assert min(found[name] for name in ("a", "b_0", "b_1", "c")) > 0.9 and found["odd"] < 0.1
    alone = ridge_aucs([case("b_0"), case("b_1")])
    assert [name for name, value in alone if math.isnan(value)] == ["b_0", "b_1"]


@pytest.mark.slow
def test_the_study_prints_a_row_per_clip(tmp_path, generator):
    paths = [tmp_path / f"{name}.mp4" for name in ("first", "second")]
    for path in paths:
        still = torch.rand(3, 8, 12, generator=generator)
        still = torch.nn.functional.interpolate(still[None], (64, 96), mode="bicubic")[0].clamp(
            0, 1
        )
        frames = [
            torch.where(torch.arange(96) < 48, still, still.roll(t % 3, -1)) for t in range(35)
        ]
        write_video(path, torch.stack(frames), fps=30.0, quality=1.0)
    command = [sys.executable, "-m", "studies.ridge", *map(str, paths), str(tmp_path / "none.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "does not exist" in done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[-2:]] == ["first", "second"]
    assert all(0 <= float(row[1]) <= 1 for row in rows[-2:])
