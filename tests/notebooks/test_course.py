"""The tools of the course: films, the slice explorer, the map, checks of exercises."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from gidlite.errors import GidliteError

pytest.importorskip("ipywidgets")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "notebooks"))

import footage
from course import check, explore_slices, film, slice_view, you_are_here
from exercises import number, tensor


@pytest.mark.parametrize("line", [{"row": 20}, {"column": 16}])
def test_view_marks_the_line_and_the_time(clip, line):
    view = slice_view({"real": clip, "ours": clip[:6]}, time=8, **line)
    marked = (view == torch.tensor([255, 64, 32])[:, None, None]).all(0)
    length = 40 if "row" in line else 30
    assert marked.sum() == 2 * (length + 2 * 6)  # two clips: a line, and ticks beside the slice
    if "row" in line:
        assert marked[20, :40].all() and marked[30 + 4 + 8, [0, 5, 34, 39]].all()
        assert marked[30 + 4 + 5, [44, 49, 78, 83]].all()  # the shorter one stays at its end
    else:
        assert marked[:30, 16].all() and marked[[0, 5, 24, 29], 40 + 4 + 8].all()


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


def test_a_film_moves_and_fits(clip):
    made = film({"true": clip, "still <i>": clip[:1].expand(12, -1, -1, -1)}, fps=10, row=20)
    assert len(made.webp) + len(made.avif or b"") <= 60_000
    page = made._repr_html_()
    assert "data:image/webp;base64," in page and "<i>" not in page
    assert ("data:image/avif;base64," in page) == (made.avif is not None)
    for data in filter(None, (made.webp, made.avif)):
        picture = Image.open(io.BytesIO(data))
        assert picture.n_frames == 12 and picture.size == (2 * 44, 30 + 4 + 12 + 4)
        picture.seek(11)
        shown = torch.tensor(np.asarray(picture.convert("RGB")))
        lit = shown.float().mean(2)
        assert lit[19, 26] > 170 > 150 > lit[19, 70]  # moved on the left only
    assert Image.open(io.BytesIO(made.webp)).info["loop"] == 0


def test_a_film_that_does_not_fit_is_made_smaller_or_refused():
    noise = torch.randint(256, (20, 3, 96, 160), dtype=torch.uint8)
    made = film({"noise": noise}, fps=10, row=5, max_bytes=30_000)
    assert len(made.webp) + len(made.avif or b"") <= 30_000
    with pytest.raises(GidliteError, match="show fewer"):
        film({"noise": noise}, fps=10, row=5, max_bytes=500)


def test_floats_are_frames_too(clip):
    same = film({"a": clip}, fps=10, row=20), film({"a": clip / 255}, fps=10, row=20)
    assert same[0].webp == same[1].webp


@pytest.mark.parametrize(("lesson", "filled"), [("05", 1), ("10", 1), ("15", 12)])
def test_the_map_fills_in_where_one_is(lesson, filled, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    you_are_here(lesson)
    boxes = [p for p in pyplot.gca().patches if p.get_gid()]
    assert sum(box.get_facecolor()[2] > box.get_facecolor()[0] + 0.3 for box in boxes) == filled
    pyplot.close()


def test_answers_are_checked_without_giving_them_away(capsys, monkeypatch):
    def odd(answer):
        return None if answer % 2 else "think of remainders."

    checks = {
        "1": number(2.5, hint="mind the unit."),
        "2": tensor(torch.eye(2), hint="h"),
        "3": odd,
    }
    monkeypatch.setitem(sys.modules, "exercises.e99", SimpleNamespace(CHECKS=checks))
    for exercise, answer in (
        ("99.1", 2.51), ("99.1", 3), ("99.1", "two"), ("99.1", ...), ("99.2", torch.eye(2)),
        ("99.2", torch.eye(3)), ("99.2", 2 * torch.eye(2)), ("99.3", 1), ("99.3", 2),
    ):  # fmt: skip
        check(exercise, answer)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1].split(" ")[0].rstrip(";") for line in lines] == [
        "right.", "not", "not", "put", "right.", "not", "not", "right.", "not",
    ]  # fmt: skip
    assert "2.5 " not in lines[1] and "too large" in lines[1]
    with pytest.raises(GidliteError, match=r"no exercise 99\.7"):
        check("99.7", 1)


def test_the_clip_is_what_its_code_films():
    times, clip = [0, 45, 149], footage.footage()
    gap = (footage.film(times) - clip.frames[times] / 255).square().mean((1, 2, 3))
    assert (-10 * gap.log10()).min() > 34  # dB: the noise of the sensor and H.264
    assert footage.CLIP.stat().st_size < 300_000


def test_the_motion_of_the_clip_is_true():
    """I_t(p + F_t(p)) = I_0(p), but for noise, light and the border."""
    clip, time = footage.footage(), 135
    y, x = torch.meshgrid(torch.arange(160) + 0.5, torch.arange(256) + 0.5, indexing="ij")
    where = torch.stack([x, y]) + clip.motion[time]
    grid = torch.stack([2 * where[0] / 256 - 1, 2 * where[1] / 160 - 1], -1)[None]
    later, first = clip.frames[[time, 0]] / 255
    back = torch.nn.functional.grid_sample(later[None], grid, align_corners=False)[0]
    head = (slice(None), slice(20, 90), slice(40, 115))
    still, moved = ((picture - first)[head].square().mean() for picture in (later, back))
    assert clip.motion[time, 0, 51, 77].abs() > 5 and moved < 0.1 * still
    assert clip.motion[0].abs().max() == 0
