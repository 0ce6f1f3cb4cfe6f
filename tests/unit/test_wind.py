"""What a photo leaves open and a user may settle: how windy it is, and what moves."""

import math
from statistics import NormalDist

import pytest
import torch
from PIL import Image
from tiny_pipeline import PHOTO, run, tiny

from gidlite.errors import GidliteError
from gidlite.media import write_image
from gidlite.pipeline import FARTHEST, Sampling, drawn_wind
from gidlite.prior.drawer import _distance
from gidlite.render import farthest_motion


def blown(wind=0.5, seed=0, gain=None):
    return run(tiny("modes"), seed, sampling=Sampling(wind=wind, gain=gain)).spectral


def test_wind_is_the_quantile_of_what_the_photo_leaves_open():
    """The photo leaves ln g open by a normal distribution, and the wind scales all motion by g."""
    median, ratios = blown(0.5), []
    for wind in (0.0, 0.2, 0.8, 1.0):
        spectral = blown(wind)
        ratio = (spectral.abs().sum() / median.abs().sum()).item()
        assert torch.allclose(spectral, ratio * median, atol=1e-4 * median.abs().max())
        place = NormalDist().inv_cdf(min(max(wind, 0.01), 0.99))
        ratios.append(math.log(ratio) / place)
    assert min(ratios) > 0.1  # as a deviation of ln g cannot be less than sqrt(0.02)
    assert max(ratios) == pytest.approx(min(ratios), rel=1e-3)


def test_a_seed_draws_the_wind_and_the_rest_does_not_depend_on_it():
    for seed in (0, 1, 2):
        drawn, asked = blown(None, seed), blown(drawn_wind(seed), seed)
        assert torch.allclose(drawn, asked, atol=1e-4 * drawn.abs().max())
    assert not torch.allclose(blown(0.5, 0), blown(0.5, 1), rtol=0.1)
    with pytest.raises(GidliteError, match="knows no wind"):
        run(tiny("grid"), sampling=Sampling(wind=0.5))


def test_gain_scales_motion_where_it_says():
    one = blown()
    assert blown(gain=torch.zeros(1, 1)).abs().max() == 0
    assert torch.allclose(blown(gain=torch.full((3, 5), 0.5)), 0.5 * one, atol=1e-5)
    half = blown(gain=torch.tensor([[0.0, 1.0]]))
    middle = one.shape[-1] // 2
    assert half[..., : middle - 8].abs().max() == 0
    assert torch.allclose(half[..., middle + 8 :], one[..., middle + 8 :], atol=1e-5)
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(GidliteError, match="gain has a negative or infinite"):
            blown(gain=torch.full((2, 2), bad))


def test_nothing_goes_farther_than_a_renderer_can_show():
    output = run(tiny("modes"), sampling=Sampling(wind=0.5, gain=torch.full((1, 1), 1000.0)))
    assert farthest_motion(output.volume) == pytest.approx(FARTHEST, rel=1e-3)
    one = blown()
    scale = output.spectral.abs().max() / one.abs().max()
    assert torch.allclose(output.spectral, scale * one, atol=1e-3 * output.spectral.abs().max())


def test_a_region_ends_at_the_outline_and_is_whole_up_to_there():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(64.0), indexing="ij")
    disc = torch.hypot(y - 20, x - 30) < 9
    colors = torch.where(disc, torch.tensor([[[0.9]], [[0.3]], [[0.1]]]), torch.tensor(0.4))
    colors = colors + 0.03 * torch.rand(3, 40, 64, generator=torch.Generator().manual_seed(0))
    far = _distance(colors, (20, 26))
    assert far[20, 26] == 0 and far[disc].max() < 1 and far[~disc].min() > 1.5
    flat = _distance(torch.full((3, 40, 64), 0.5), (0, 0))
    assert flat[0, 32] == pytest.approx(2, rel=0.01)  # half a side away, where 1 is a quarter


def test_a_mask_says_where_motion_may_be(tmp_path):
    picture = torch.zeros(3, 50, 80)
    picture[..., 40:] = 1
    write_image(tmp_path / "mask.png", picture)
    veiled = Image.open(tmp_path / "mask.png").convert("RGBA")
    veiled.putalpha(Image.new("L", veiled.size, 0))
    veiled.save(tmp_path / "veiled.png")
    for pipe in (tiny("modes"), tiny("grid")):
        for mask in (picture, tmp_path / "mask.png", tmp_path / "veiled.png", veiled):
            gain = pipe.edit(PHOTO, mask=mask)
            columns = gain.shape[1]
            assert gain[:, : columns // 2].max() == 0 and gain[:, columns // 2 :].min() == 1
        assert (pipe.edit(PHOTO) == 1).all()
    both = tiny("modes").edit(PHOTO, mask=torch.zeros(3, 16, 16), move=[(0.2, 0.2)])
    assert both.max() == 0


def test_points_stop_things_and_move_them():
    pipe, points = tiny("modes"), [(0.25, 0.5), (0.75, 0.5)]
    gain = pipe.edit(PHOTO, still=points[:1], move=points[1:])
    rows, columns = gain.shape
    assert gain[rows // 2, columns // 4] == 0 and gain[rows // 2, 3 * columns // 4] >= 1
    alone = pipe.edit(PHOTO, still=points[:1])
    assert 0.9 < alone.max() <= 1 and alone[rows // 2, columns // 4] == 0
    moved = run(pipe, sampling=Sampling(wind=0.5, gain=alone)).spectral.abs().mean((0, 1))
    height, width = moved.shape
    assert moved[height // 2, width // 4] < 1e-3 * moved.max()
    with pytest.raises(GidliteError, match="lies outside the photo"):
        pipe.edit(PHOTO, move=[(0.5, 1.01)])
    with pytest.raises(GidliteError, match="give a mask"):
        tiny("grid").edit(PHOTO, still=points)


def test_what_is_told_to_move_moves_almost_as_the_liveliest(monkeypatch):
    pipe, size = tiny("modes"), (36, 60)
    level, region = torch.full(size, 0.01), torch.zeros(1, *size)
    level[:, :20], region[:, :, 40:] = 0.9, 1
    monkeypatch.setattr(pipe.prior, "things", lambda photo, points: (level, region))
    monkeypatch.setattr("gidlite.pipeline.working_size", lambda *_: (4 * size[0], 4 * size[1]))
    moved = level * pipe.edit(PHOTO, move=[(0.9, 0.5)])
    assert torch.allclose(moved[:, 40:], torch.tensor(0.7 * 0.9))
    assert torch.equal(moved[:, :40], level[:, :40])
