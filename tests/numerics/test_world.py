"""The synthetic world: every label against what is rendered, or against its definition."""

import csv
import io
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from gidlite.data.world import compose, make_scenes, photograph
from gidlite.data.world.pieces import KINDS, Draw, Pieces, kind_numbers
from gidlite.data.world.things import FAMILIES, STILL, paint_piece
from gidlite.errors import GidliteError
from gidlite.media import encode_jpeg
from gidlite.motion.flow import sample_at
from gidlite.motion.spectral import motion_amplitude, motion_to_spectral, pack_complex
from gidlite.render.splat import splat

# RMS of one real coefficient per bin, px at 256x160: real plants, as in lesson 03.
REAL_RMS = (
    0.229, 0.0915, 0.0587, 0.0484, 0.0396, 0.0355, 0.0347, 0.0330, 0.0306, 0.0302, 0.0258, 0.0232,
    0.0219, 0.0193, 0.0164, 0.0155, 0.0124, 0.0112, 0.0105, 0.0095, 0.0087, 0.0084, 0.0081, 0.0075,
    0.0073,
)  # fmt: skip


@pytest.fixture(scope="module")
def painted():
    return Pieces.painted(count=34, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def scenes(painted):
    return make_scenes(6, painted, generator=torch.Generator().manual_seed(3))


def widened(mask: torch.Tensor, by: int = 7) -> torch.Tensor:
    return functional.max_pool2d(mask[:, None].float(), by, 1, by // 2) > 0


def textured(image: torch.Tensor) -> torch.Tensor:
    grey = image.mean(1, keepdim=True)
    energy = functional.pad(grey.diff(dim=-1), (0, 1)).square()
    energy = energy + functional.pad(grey.diff(dim=-2), (0, 0, 0, 1)).square()
    return functional.avg_pool2d(energy, 7, 1, 3) > 1e-4


def test_volume_is_the_transform_of_the_motion(scenes, tolerance):
    motion = scenes.motion()
    expected = motion_to_spectral(motion, num_frequencies=16)
    assert (scenes.spectral(16) - expected).abs().max() < tolerance["spectral_px"]
    assert motion[:, 0].abs().max() == 0
    assert motion.abs().max() > 1


def test_motion_starts_with_velocity(scenes):
    """A photo is taken at a random moment of the swing: F_0 = 0, but F_1 is not small."""
    first = scenes.motion([1])[:, 0].norm(dim=1)
    step = scenes.motion([74, 75]).diff(dim=1)[:, 0].norm(dim=1)
    moving = motion_amplitude(scenes.spectral(75)) > 0.25
    assert 0.3 < first[moving].mean() / step[moving].mean() < 3


def test_amplitude_and_depth_agree_with_the_motion(scenes):
    rms = motion_amplitude(scenes.spectral(75))
    exact = scenes.motion().var(dim=1, correction=0).sum(1).sqrt()
    assert (rms - exact).abs().max() < 0.02
    assert (exact[scenes.depth == 0] == 0).all()
    assert torch.equal(scenes.depth > 0, (scenes.layers[:, :, 3] > 0.5).any(1))


@pytest.mark.parametrize("time", [20, 75, 140])
def test_frame_t_at_p_plus_motion_is_frame_0_at_p(scenes, time):
    """The contract of every label, on textured moving parts that stay visible: 35 dB or more."""
    motion, first = scenes.motion([time])[:, 0], scenes.image
    assert (scenes.frame(0) - first).abs().max() < 1e-4
    returned = sample_at(scenes.frame(time), motion, mode="bicubic")
    # Soft outlines mix two layers, so they are left out.
    depth = scenes.depth
    outline = sum(widened(depth == d) for d in depth.unique()) > 1
    compared = textured(first) & ~outline & ~widened(scenes.occluded(time)) & (depth > 0)[:, None]
    assert compared.float().mean() > 0.02
    error = (returned - first).square().mean(1, keepdim=True)[compared].mean()
    assert -10 * error.log10() > 35


@pytest.mark.parametrize("time", [20, 75])
def test_occlusion_is_where_the_labels_fail(scenes, time):
    """What is marked covered really is not found again; what is marked new cannot be splatted."""
    motion, first = scenes.motion([time])[:, 0], scenes.image
    gap = (sample_at(scenes.frame(time), motion, padding="zeros") - first).abs().mean(1)
    hidden = scenes.occluded(time)
    assert 0.001 < hidden.float().mean() < 0.2
    assert gap[hidden].mean() > 5 * gap[~hidden].mean()
    # Where a frame shows something new, no pixel of frame 0 lands with the right depth.
    order = scenes.depth[:, None].float()
    landed = splat(order, motion, metric=order * 50)
    fresh = scenes.disoccluded(time)
    assert 0.001 < fresh.float().mean() < 0.2
    true = scenes.depth_at(time)[:, None]
    wrong = (landed - true).abs() > 0.5
    assert wrong[fresh[:, None]].float().mean() > 0.5 > 5 * wrong[~fresh[:, None]].float().mean()


def test_children_ride_on_their_parents(painted):
    """A rider's root bends exactly as the point of its parent that it is fixed to."""
    scenes = make_scenes(24, painted, grid_stride=2, generator=torch.Generator().manual_seed(5))
    traits, modes = scenes.traits, scenes.coords.shape[2] // 2
    assert traits["rides"].float().mean() > 0.05
    inherited = traits["carry"].norm(dim=-1).amax(-1)
    assert ((inherited > 0) == traits["rides"]).all()
    compared = 0
    for scene, layer in traits["rides"].nonzero().tolist():
        parent = traits["parent"][scene, layer]
        ridden, own = scenes.coords[scene, layer, modes:], scenes.coords[scene, parent, :modes]
        assert torch.equal(ridden, own)
        row, column = (
            int(traits[name][scene, layer] * side)
            for name, side in zip(("root_y", "root_x"), scenes.grid, strict=True)
        )
        if 0 <= row < scenes.grid[0] and 0 <= column < scenes.grid[1]:
            here = scenes._modes[scene, :, :, :, row, column]
            # Modes 0 and 1 bend the parent; its waves are about as short as the grip is long.
            carried, moved = here[layer, modes : modes + 2], here[parent, :2]
            assert (carried - moved).norm() < 0.2 * moved.norm()
            compared += 1
    assert compared > 10


def test_gusts_travel(painted):
    """Along a row of copies one trajectory arrives later and later."""
    scenes = make_scenes(32, painted, grid_stride=4, generator=torch.Generator().manual_seed(6))
    gusty = (scenes.traits["gusty"] > 0).nonzero().tolist()
    assert gusty
    for scene, layer in gusty[:8]:
        first, second = scenes.coords[scene, layer, :2].numpy()
        delay = round(float(scenes.traits["gust_delay"][scene, layer]) * 30)
        first, second = (np.diff(v) for v in (first, second))
        lags = np.correlate(second, first, mode="full")
        assert abs(int(lags.argmax()) - (len(first) - 1) - delay) <= 2


def only(*families: str, seed: int = 4):
    """Scenes of a few families, and where every pixel lies on every layer: (u, s), its copy."""
    pieces = Pieces.painted(*families, count=8, generator=torch.Generator().manual_seed(seed))
    scenes = make_scenes(8, pieces, grid_stride=2, generator=torch.Generator().manual_seed(seed))
    layers = (compose.layer_traits(scenes.traits, n) for n in range(scenes.layers.shape[1]))
    local, folded, _ = zip(
        *(compose.local_coordinates(traits, *scenes.grid) for traits in layers), strict=True
    )
    return scenes, torch.stack(local, dim=1), torch.stack(folded, dim=1)


def test_what_hangs_in_a_row_swings_each_as_one_body():
    """A copy is a pendulum of its own, whatever its neighbours do; the line does not move."""
    scenes, local, folded = only("laundry", "lights")
    motion = torch.einsum("blm,blmchw->blchw", scenes.coords[..., 60], scenes._modes)
    s = (local[:, :, 1] - 0.05) / 0.95
    assert (motion.movedim(2, -1)[s <= 0] == 0).all()
    swing = (motion / s[:, :, None]).movedim(2, -1)
    number = (local[:, :, 0] * 1.1 - folded[:, :, 0]).round()
    on_it = (s > 0.1) & (s < 1) & (folded[:, :, 0].abs() < 0.49)
    distinct = []
    for scene, layer in (scenes.traits["copies"] > 1).nonzero().tolist():
        here = [number[scene, layer], on_it[scene, layer], swing[scene, layer]]
        bodies = [here[2][(here[0] == n) & here[1]] for n in here[0][here[1]].unique()]
        assert all((body - body[0]).abs().max() < 1e-4 * here[2].abs().max() for body in bodies)
        one = torch.stack([body[0] for body in bodies])
        distinct += (one[1:] - one[:-1]).norm(dim=-1).div(one.norm(dim=-1).max()).tolist()
    assert len(distinct) > 100 and min(distinct) > 0 and np.median(distinct) > 0.2


def test_still_things_do_not_move():
    scenes, *_ = only(*STILL, "fern", "cloth")
    kind = list(KINDS).index("still")
    fixed = Pieces.painted(*STILL, "fern", "cloth", count=8).kind == kind
    still = functional.pad(fixed[scenes.traits["piece"]], (1, 0), value=True)
    still = still.gather(1, scenes.depth.flatten(1)).view_as(scenes.depth)
    motion = scenes.motion().abs().amax((1, 2))
    assert (scenes.depth > 0)[still].float().mean() > 0.1
    assert motion[still].max() == 0 < motion[~still].median()


def test_the_head_of_a_flower_is_a_body():
    scenes, local, _ = only("flower")
    compared = 0
    for scene, layer in (scenes.traits["copies"] == 1).nonzero().tolist():
        seen, s = scenes.depth[scene] == layer + 1, local[scene, layer, 1]
        head, stem = seen & (s > 0.56), seen & (s > 0.1) & (s < 0.4)
        if head.sum() > 20 < stem.sum() and not scenes.traits["framed"][scene, layer]:
            modes, level = scenes.visible_modes[scene, ..., head], scenes.expected_level(150)[scene]
            assert (modes - modes[..., :1]).abs().max() < 1e-5 * modes.abs().max()
            assert level[stem].max() < level[head].min()
            compared += 1
    assert compared > 5


def test_expected_level_is_that_of_many_winds(painted):
    """Within the sampling error of 8 × 20 winds of 5 s; gusts and riders are part of it."""
    scenes = make_scenes(
        6, painted, height=40, width=64, generator=torch.Generator().manual_seed(8)
    )
    traits = scenes.traits | {"let_go": torch.zeros(6, scenes.layers.shape[1])}
    draw, power = Draw(6, painted.device, torch.Generator().manual_seed(9)), 0
    parent, rides = (traits[name][..., None, None] for name in ("parent", "rides"))
    for _ in range(8):
        coords = compose.wind_driven(draw, traits, num_frames=3000)[..., ::10]
        ridden = coords.gather(1, parent.expand_as(coords)) * rides
        windy = replace(scenes, coords=torch.cat([coords, ridden], dim=2))
        seconds = windy.motion().unflatten(1, (20, -1))
        power = power + seconds.var(dim=2, correction=0).sum(2).mean(1) / 8
    level, moving = scenes.expected_level(75), power > 1e-4
    ratio = power[moving].sqrt() / level[moving]
    assert (traits["gusty"] > 0).any() and traits["rides"].any() and moving.float().mean() > 0.1
    assert ratio.mean() == pytest.approx(1, abs=0.03) and (ratio - 1).abs().max() < 0.2
    assert (level[scenes.depth == 0] == 0).all()


def test_batches_are_seeded_and_devices_follow_the_pieces(painted):
    first, second = (
        make_scenes(2, painted, height=64, width=96, generator=torch.Generator().manual_seed(2))
        for _ in range(2)
    )
    assert torch.equal(first.photo, second.photo) and torch.equal(first.coords, second.coords)
    assert first.photo.device == painted.device
    with pytest.raises(GidliteError, match="grid_stride 3 does not divide"):
        make_scenes(1, painted, height=64, width=64, grid_stride=3)


@pytest.mark.slow
def test_spectra_are_those_of_real_plants():
    """Within a factor 1.5 at every bin, pooled over scenes; sampling noise is part of the bound.

    A few scenes in strong wind carry most of the power, so many are needed: 1,920 small ones give
    a standard error of 3 to 12 % per bin.
    """
    pieces = Pieces.painted(generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(7)
    height, width = 40, 64
    size = {"height": height, "width": width, "generator": generator}
    volumes = (make_scenes(32, pieces, **size).spectral(25) for _ in range(60))
    power = sum(pack_complex(volume).square().mean((0, 2, 3, 4)) for volume in volumes) / 60
    ratio = power.sqrt() * (256 / width) / torch.tensor(REAL_RMS)
    assert ratio.max() < 1.5 and ratio.min() > 1 / 1.5, ratio


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_paints_something_and_each_time_something_else(family):
    one, two = (paint_piece(family, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert 0.01 < (one[3] > 0.5).float().mean() < 0.9
    assert (one - two).abs().mean() > 0.01
    assert one.min() >= 0 and one.max() <= 1


def test_jpeg_is_that_of_a_real_encoder():
    """Our block quantization loses about what Pillow's encoder loses at the same quality."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    picture = torch.stack([(x * 0.3).sin(), (y * 0.2).cos(), (x * y / 90).sin()]) * 0.3 + 0.5
    for quality in (20, 60, 90):
        exposure = {"grain": torch.zeros(1), "jpeg": torch.full((1, 1, 1, 1), float(quality))}
        ours = photograph(picture[None], exposure, torch.zeros(1, 3, 64, 96))[0]
        pixels = (picture * 255).round().byte().movedim(0, -1).numpy()
        buffer = io.BytesIO(encode_jpeg(pixels, quality, subsampling="4:2:0"))
        theirs = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).movedim(-1, 0) / 255
        lost, expected = ((p - picture).square().mean().sqrt() for p in (ours, theirs))
        assert lost == pytest.approx(expected.item(), rel=0.35)


def test_numbers_of_a_kind_are_found_by_name():
    """Every number of a kind arrives under its own name, whatever their order."""
    kind = torch.tensor([[list(KINDS).index("cloth"), list(KINDS).index("flame")]])
    found = kind_numbers(kind)
    for name in ("slowest_hz", "most_damping", "sway", "travels"):
        expected = [getattr(KINDS[key], name) for key in ("cloth", "flame")]
        assert found[name].tolist() == [pytest.approx(expected)]


def test_scenes_never_change(scenes):
    """What is seen later does not depend on what was asked before."""
    first = scenes.frame(20)
    assert scenes.occluded(20).any() and scenes.spectral(4).abs().max() > 0
    assert torch.equal(scenes.frame(20), first)
    with pytest.raises(FrozenInstanceError):
        scenes.photo = scenes.background


def test_folders_of_cutouts(tmp_path):
    rgba = np.zeros((40, 30, 4), np.uint8)
    rgba[5:, 10:20] = (200, 50, 50, 255)
    Image.fromarray(rgba).save(tmp_path / "rose.png")
    Image.fromarray(rgba[..., :3]).resize((64, 40)).save(tmp_path / "wall.png")
    rows = [
        ("rose.png", "cutout", "flower", "bottom"), ("rose.png", "cutout", "flower", "none"),
        ("wall.png", "background", "background", "none"),
        ("wall.png", "scene", "scene rose", "none"),
    ]  # fmt: skip

    def write(rows):
        with (tmp_path / "manifest.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("file", "kind", "class", "anchor"), *rows])

    write(rows)
    pieces = Pieces.from_folder(tmp_path)
    assert len(pieces.backdrops) > len(pieces.views) == 1
    share = pieces.weight[:2].sum() / pieces.weight.sum()
    assert share == pytest.approx(0.6, abs=1e-4)  # painted pieces fill in two fifths
    scenes = make_scenes(8, pieces, generator=torch.Generator().manual_seed(0))
    assert scenes.photo.isfinite().all() and scenes.spectral(4).abs().max() > 0
    write([(*rows[0][:3], "middle"), *rows[1:]])
    with pytest.raises(GidliteError, match=r"rose\.png has anchor 'middle'"):
        Pieces.from_folder(tmp_path)
    write(rows[:2])
    with pytest.raises(GidliteError, match="no backgrounds"):
        Pieces.from_folder(tmp_path)
