"""X-t slices: which line is chosen and what is drawn; maps of sign, phase and flow."""

import pytest
import torch

from gidlite.errors import ShapeError
from gidlite.viz import (
    compare_slices,
    liveliest_line,
    liveliest_slice,
    show_flow,
    show_map,
    show_phase,
    show_signed,
    show_slices,
    style,
)


def test_the_line_that_changes_most_is_found(clip):
    assert liveliest_line(clip) in (19, 20, 21)
    assert 16 <= liveliest_line(clip, columns=True) <= 26
    flicker = (clip.float() * torch.linspace(0.4, 1, 12)[:, None, None, None]).to(torch.uint8)
    assert liveliest_line(flicker) in (19, 20, 21)


def test_the_slice_follows_the_direction_of_motion(clip):
    assert liveliest_slice(clip) == {"row": liveliest_line(clip)}
    turned = clip.transpose(2, 3).contiguous()
    assert liveliest_slice(turned) == {"column": liveliest_line(clip)}


@pytest.mark.parametrize("ways", [(1, 0), (0, 1)])
def test_the_slice_follows_texture_that_sways(ways):
    generator = torch.Generator().manual_seed(0)
    noise = 255 * torch.rand(1, 3, 60, 80, generator=generator)
    soft = torch.nn.functional.avg_pool2d(noise, 5, 1)[0]
    swing = (6 * torch.sin(torch.arange(24) / 3)).round().int().tolist()
    frames = torch.stack([soft.roll([ways[1] * s, ways[0] * s], (1, 2)) for s in swing])
    assert list(liveliest_slice(frames.to(torch.uint8))) == ["row" if ways[0] else "column"]


def test_slices_are_stacked_with_lines_between(clip):
    stacked = compare_slices(clip, clip[:5], clip, row=20)
    assert stacked.shape == (3, 12 + 3 + 5 + 3 + 12, 40)
    assert (stacked[:, 12:15] == 1).all()
    assert torch.equal(stacked[:, 15:20], clip[:5, :, 20].transpose(0, 1) / 255)
    assert compare_slices(clip, clip, column=3).shape == (3, 27, 30)
    with pytest.raises(ShapeError):
        compare_slices(clip, clip[..., :20], row=20)


def test_side_by_side_has_one_scale(clip):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = show_slices({"real": clip, "ours": clip[:6], "still": clip[:1]}, fps=4)
    limits = {(axis.get_xlim(), axis.get_ylim()) for axis in figure.axes}
    assert limits == {((0, 40), (3, 0))}
    assert [axis.get_title() for axis in figure.axes] == ["real", "ours", "still"]
    assert "row y = " in figure.get_suptitle()
    pyplot.close(figure)
    turned = show_slices({"real": clip.transpose(2, 3).contiguous()}, fps=4)
    assert "column x = " in turned.get_suptitle()
    pyplot.close(turned)
    with pytest.raises(ShapeError):
        show_slices({"a": clip, "b": clip[..., :20]}, fps=4)


@pytest.fixture
def axis():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure, axis = pyplot.subplots()
    yield axis
    pyplot.close(figure)


def drawn(axis):
    """Return the colours (H, W, 3) that an axis shows."""
    image = axis.images[0]
    colours = image.to_rgba(image.get_array())
    return torch.tensor(colours[..., :3])


def test_hue_is_phase_and_brightness_magnitude(axis):
    turns = torch.tensor([[0, 1, 2, 3]]) * torch.pi / 2
    values = torch.polar(torch.tensor([[1.0, 1, 1, 0.25]]), turns)
    shown = drawn(show_phase(axis, values, top=1.0))[0]
    assert torch.allclose(shown[0], torch.tensor([1.0, 0, 0], dtype=shown.dtype), atol=0.05)
    assert shown[0].sub(shown[2]).abs().max() > 0.9  # opposite phases, opposite hues
    assert shown[2].max() > 0.95 and abs(shown[3].max() - 0.5) < 0.05  # root of a quarter


def test_signs_are_red_and_blue_and_zero_is_white(axis):
    shown = drawn(show_signed(axis, torch.tensor([[-2.0, 0, 2]])))[0]
    assert shown[0].argmax() == 2 and shown[2].argmax() == 0 and shown[1].min() > 0.95


def test_flow_is_white_where_nothing_moves_and_has_arrows_elsewhere(axis):
    motion = torch.zeros(2, 32, 64)
    motion[0, :, 32:] = 3  # to the right
    show_flow(axis, motion, top=3)
    shown = drawn(axis)
    assert shown[:, :32].min() == 1 and torch.allclose(shown[5, 40], shown[20, 60])
    (arrows,) = [part for part in axis.collections if hasattr(part, "U")]
    assert len(arrows.U) == 8 * 8 and set(arrows.U) == {4.0} and not arrows.V.any()


def test_amounts_begin_at_zero_and_name_their_unit(axis):
    show_map(axis, torch.tensor([[1.0, 2]]), "amount", label="px")
    assert axis.images[0].get_clim() == (0, 2) and axis.get_title() == "amount"
    assert axis.figure.axes[1].get_ylabel() == "px"


def test_style_keeps_titles_apart(axis):
    from matplotlib import pyplot

    before = dict(pyplot.rcParams)
    try:
        style()
        assert pyplot.rcParams["figure.dpi"] >= 100
        assert pyplot.rcParams["figure.constrained_layout.use"]
    finally:
        pyplot.rcParams.update(before)
