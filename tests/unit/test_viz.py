"""X-t slices: which line is chosen, what is drawn, and the widget that links them."""

import pytest
import torch

from gidlite.errors import ShapeError
from gidlite.viz import (
    compare_slices,
    explore_slices,
    liveliest_line,
    liveliest_slice,
    show_slices,
    slice_view,
)


@pytest.fixture
def clip():
    """Return a gray clip of 12 frames, 30 × 40, in which a bar swings along row 20."""
    frames = torch.full((12, 3, 30, 40), 90, dtype=torch.uint8)
    for t in range(12):
        frames[t, :, 19:22, 14 + t : 17 + t] = 250
    return frames


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


@pytest.mark.parametrize("line", [{"row": 20}, {"column": 16}])
def test_view_marks_the_line_and_the_time(clip, line):
    view = slice_view({"real": clip, "ours": clip[:6]}, time=8, **line)
    marked = (view == torch.tensor([255, 64, 32])[:, None, None]).all(0)
    length = 40 if "row" in line else 30
    assert marked.sum() == 2 * 2 * length  # two clips: a line in the frame, one in the slice
    if "row" in line:
        assert marked[20, :40].all() and marked[30 + 4 + 8, :40].all()
        assert marked[30 + 4 + 5, 44:84].all()  # the shorter one stays at its end
    else:
        assert marked[:30, 16].all() and marked[:30, 40 + 4 + 8].all()


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


def test_sliders_move_the_picture(clip):
    pytest.importorskip("ipywidgets")
    box = explore_slices({"real": clip}, fps=10)
    (kind, line), (play, time), _, picture = (
        getattr(child, "children", child) for child in box.children
    )
    assert line.value in (19, 20, 21) and (line.max, time.max) == (29, 11)
    seen = {bytes(picture.value)}
    time.value = 5
    seen.add(bytes(picture.value))
    line.value = 3
    seen.add(bytes(picture.value))
    kind.value = "column"
    seen.add(bytes(picture.value))
    assert len(seen) == 4 and line.max == 39 and play.max == 11
    turned = explore_slices({"real": clip.transpose(2, 3).contiguous()}, fps=10)
    kind, line = turned.children[0].children
    assert (kind.value, line.max) == ("column", 29) and line.value in (19, 20, 21)
