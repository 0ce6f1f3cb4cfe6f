"""What every notebook of the course uses: the map, films that play without a kernel, checks.

Notebooks import it from their own folder. Pictures that are not about the course are in
``gidlite.viz``.
"""

import base64
import html
import io
from dataclasses import dataclass, field
from importlib import import_module

import ipywidgets
import torch
from footage import footage  # noqa: F401  (notebooks take it from here)
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image, ImageDraw, ImageFont, features
from torch.nn import functional

from gidlite.errors import GidliteError
from gidlite.media import resize, to_bytes, xt_slice
from gidlite.viz import liveliest_line, liveliest_slice

_LINE = torch.tensor([255, 64, 32], dtype=torch.uint8)[:, None]
_GAP = 4  # px between the videos of a film
_TICK = 6  # px at both ends of a slice that mark the time
# Scale and quality of a film, and which frames it has (every one, every second ...), ever smaller.
_LADDER = (
    (1, 70, 1), (1, 50, 1), (1, 32, 1), (0.8, 38, 1), (0.65, 42, 1), (0.65, 28, 1), (0.65, 34, 2),
    (0.5, 40, 2), (0.5, 25, 2), (0.5, 25, 3), (0.4, 25, 3), (0.4, 15, 4), (0.3, 15, 4), (0.2, 5, 6),
)  # fmt: skip

# Name: place in a grid, what it says, and the lessons about it.
_BOXES = {
    "video": (0, 1, "videos", "14"),
    "flow": (1, 1, "motion\ntextures", "01"),
    "volume": (2, 1, "spectral\nvolumes", "02"),
    "normalized": (3, 1, "equal\nbins", "03"),
    "photo": (0, 0, "a photo", "00"),
    "prior": (1, 0, "what it says\nof motion", "04 06"),
    "diffusion": (2, 0, "motion\ndrawn", "05"),
    "together": (3, 0, "its bins\nagree", "07"),
    "frames": (4, 0, "splatted\nframes", "08"),
    "loop": (5, 1, "a loop", "09 10"),
    "touch": (5, 0, "touch", "11"),
    "measured": (4, 1, "measured", "12 13"),
}
_ARROWS = """video flow, flow volume, volume normalized, normalized together, photo prior,
prior diffusion, diffusion together, together frames, frames loop, frames touch, frames measured"""


def you_are_here(lesson: str) -> None:
    """Draw the way from a photo to its motion, with the part that a lesson is about filled in."""
    figure, axis = pyplot.subplots(figsize=(9, 1.9), layout="none")
    figure.subplots_adjust(0, 0, 1, 1)
    axis.set(xlim=(-0.55, 5.55), ylim=(-0.5, 1.62)), axis.set_axis_off()
    everything = lesson == "15"  # the capstone goes all the way
    for name, (x, y, text, lessons) in _BOXES.items():
        here = everything or lesson in lessons.split()
        box = FancyBboxPatch(
            (x - 0.4, y - 0.3), 0.8, 0.6, boxstyle="round,pad=0,rounding_size=0.08", lw=1.2,
            fc="#0072b2" if here else "#eef3f7", ec="#0072b2", gid=name,
        )  # fmt: skip
        axis.add_patch(box)
        ink = "white" if here else "#222222"
        axis.text(x, y + 0.07, text, ha="center", va="center", fontsize=9, color=ink)
        axis.text(x, y - 0.22, lessons, ha="center", va="center", fontsize=7, color=ink)
    for pair in _ARROWS.split(","):
        (x0, y0, *_), (x1, y1, *_) = (_BOXES[name] for name in pair.split())
        away = (0.4 * (x1 > x0), 0.3 * (y1 - y0) * (x0 == x1))
        if x0 != x1 and y0 != y1:
            away = (0.4, 0.2 * (y1 - y0))
        ends = (x0 + away[0], y0 + away[1]), (x1 - away[0], y1 - away[1])
        axis.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, color="#555555"))
    where = "everything" if everything else "filled in: you are here"
    axis.text(-0.4, 1.5, f"Lesson {lesson}, {where}. Numbers are lessons.", va="center", fontsize=8)
    pyplot.show()


def check(exercise: str, answer) -> None:
    """Say whether the answer to an exercise is right, or what to look at.

    ``exercise`` is lesson and number, as in "02.1"; the checks are in ``exercises``. ``...`` is no
    answer yet.
    """
    lesson, _, number = exercise.partition(".")
    checks = import_module(f"exercises.e{lesson}").CHECKS
    if number not in checks:
        raise GidliteError(f"there is no exercise {exercise}; lesson {lesson} has {sorted(checks)}")
    if answer is ...:
        return print(f"{exercise}: put your answer in place of the dots.")
    try:
        hint = checks[number](answer)
    except Exception as error:  # whatever a reader may hand over
        hint = f"this cannot be checked ({type(error).__name__}: {error})."
    print(f"{exercise}: right." if hint is None else f"{exercise}: not yet; {hint}")


def slice_view(clips, *, time, row=None, column=None, stretch=1):
    """Return frames above their slices, videos side by side, with the line and the time marked.

    Args:
        clips: title → frames ``(T, 3, H, W)``, uint8, of one size.
        time: the frame to be shown; of a shorter video, its last one.
        row: the line that is followed, px. Slices lie beneath.
        column: the same for a column: slices stand beside, videos are one below the other.
        stretch: px of the slice for a frame.
    """
    if column is not None:  # the row of frames that lie on their side
        turned = {title: frames.mT for title, frames in clips.items()}
        return slice_view(turned, time=time, row=column, stretch=stretch).mT
    tallest, tiles = max(map(len, clips.values())), []
    for frames in clips.values():
        now = min(time, len(frames) - 1)
        picture, frame = xt_slice(frames, row=row).clone(), frames[now].clone()
        frame[:, row] = _LINE
        ends = torch.arange(picture.shape[2]).remainder(picture.shape[2] - _TICK) < _TICK
        picture[:, now, ends] = _LINE
        picture = picture.repeat_interleave(stretch, 1)
        frame = functional.pad(frame, (0, 0, 0, _GAP), value=255)
        padding = (0, _GAP, 0, stretch * (tallest - len(frames)) + _GAP)
        tiles.append(functional.pad(torch.cat([frame, picture], 1), padding, value=255))
    return torch.cat(tiles, dim=2)


@dataclass(frozen=True)
class Film:
    """A film that a notebook shows and stores: it plays where there is no kernel, too.

    AVIF is sharp at a tenth of the size of WebP, which every other reader of notebooks gets.
    """

    webp: bytes = field(repr=False)
    avif: bytes | None = field(repr=False)
    alt: str
    width: int = field(repr=False)  # px on the screen, if there is room

    def _repr_html_(self) -> str:
        style = f"width: 100%; max-width: {self.width}px; height: auto"
        picture = (
            f'<img alt="{html.escape(self.alt)}" style="{style}" src="{self._source("webp")}">'
        )
        if self.avif is None:
            return picture
        sharp = f'<source type="image/avif" srcset="{self._source("avif")}">'
        return f"<picture>{sharp}{picture}</picture>"

    def _source(self, kind: str) -> str:
        return f"data:image/{kind};base64,{base64.b64encode(getattr(self, kind)).decode()}"


def film(clips, *, fps, width=None, max_bytes=60_000, **line) -> Film:
    """Return videos of one size side by side, by title, with the X-t slice of each.

    It is shown 720 px wide at most. If need be, quality is lowered and then size, until it fits.

    Args:
        clips: title → frames ``(T, 3, H, W)``, uint8, or float in [0, 1].
        fps: frames a second, as they are played.
        width: of each video as stored, px. Default: as it is, at most 256.
        max_bytes: of the film as AVIF and as WebP, together.
        line: ``row`` or ``column`` of the frames as given. Default: the ``liveliest_slice`` of the
            first video.

    Raises:
        GidliteError: if it is larger than ``max_bytes`` at any size.
    """
    clips = {
        title: 255 * frames if frames.is_floating_point() else frames
        for title, frames in clips.items()
    }
    first = next(iter(clips.values())).round().byte()
    line = line or liveliest_slice(first)
    width = width or min(first.shape[3], 256)
    scale = width / first.shape[3]
    pictures = _pictures(clips, scale, **line)
    avif = None
    if features.check("avif"):
        made = (_encoded(pictures, fps, quality=q, speed=7) for q in (55, 40, 28, 18, 10, 4, 1))
        avif = next((data for data in made if len(data) <= max_bytes // 2), None)
    left = max_bytes - len(avif or b"")
    low, high, webp = 0, len(_LADDER) - 1, None  # size falls along the ladder: halve it
    while low <= high:
        step, quality, every = _LADDER[middle := (low + high) // 2]
        fewer = _pictures(clips, step * scale, **line)[::every]
        data = _encoded(fewer, fps / every, "WEBP", quality=quality, method=4, kmin=4, kmax=9)
        webp, low, high = (data, low, middle - 1) if len(data) <= left else (webp, middle + 1, high)
    if webp is None:
        raise GidliteError(f"the film takes over {max_bytes:,} bytes; show fewer frames")
    shown = min(720, 2 * pictures[0].width)
    return Film(webp, avif, "Film: " + " | ".join(clips), shown)


def _encoded(pictures, fps, kind="AVIF", **options) -> bytes:
    stream, every = io.BytesIO(), round(1000 / fps)
    options |= {"save_all": True, "append_images": pictures[1:], "duration": every, "loop": 0}
    pictures[0].save(stream, kind, **options)
    return stream.getvalue()


def _pictures(clips, scale, **line) -> list[Image.Image]:
    """Return the frames of a film, ``scale`` times as large as those of the clips."""
    clips = {title: _resized(frames, scale) for title, frames in clips.items()}
    height, width = next(iter(clips.values())).shape[2:]
    count, [(kind, at)] = max(map(len, clips.values())), line.items()
    options = {kind: int(at * scale), "stretch": max(1, round(0.3 * width / count))}
    step = (0, height + _GAP) if kind == "column" else (width + _GAP, 0)
    views = (slice_view(clips, time=time, **options) for time in range(count))
    return [_titled(view, clips, step, size=max(9, width / 16)) for view in views]


def _resized(frames, scale):
    height, width = (round(scale * size) for size in frames.shape[2:])
    resized = resize(frames.float() / 255, height=height, width=width)
    return (255 * resized).round().clamp(0, 255).byte()


def _titled(view, titles, step, *, size) -> Image.Image:
    picture = Image.fromarray(to_bytes(view))
    draw, room = ImageDraw.Draw(picture), (step[0] or picture.width) - 12
    longest = max(draw.textlength(title, font=ImageFont.load_default(size)) for title in titles)
    font = ImageFont.load_default(size * min(1, room / longest))
    for n, title in enumerate(titles):
        place = 4 + n * step[0], 2 + n * step[1]
        draw.text(place, title, font=font, fill="white", stroke_width=1, stroke_fill="black")
    return picture


def explore_slices(clips, *, fps) -> ipywidgets.VBox:
    """Return a widget: choose row or column and the frame; the ``slice_view`` follows.

    It starts at the ``liveliest_slice`` of the first video. The play button runs at ``fps``.
    """
    first = next(iter(clips.values()))
    [(begin, position)] = liveliest_slice(first).items()
    length = {"row": first.shape[2], "column": first.shape[3]}
    kind = ipywidgets.ToggleButtons(options=["row", "column"], value=begin, description="follow a")
    line = ipywidgets.IntSlider(position, 0, length[begin] - 1, description="at (px)")
    time = ipywidgets.IntSlider(0, 0, max(map(len, clips.values())) - 1, description="frame")
    play = ipywidgets.Play(0, 0, time.max, interval=round(1000 / fps))
    ipywidgets.jslink((play, "value"), (time, "value"))
    picture = ipywidgets.Image(format="png")

    def draw(_=None) -> None:
        view = slice_view(clips, time=time.value, **{kind.value: line.value})
        stream = io.BytesIO()
        Image.fromarray(to_bytes(view)).save(stream, "PNG")
        picture.value = stream.getvalue()

    def turn(_) -> None:
        line.max = length[kind.value] - 1
        line.value = liveliest_line(first, columns=kind.value == "column")
        draw()

    kind.observe(turn, "value")
    for slider in (line, time):
        slider.observe(draw, "value")
    draw()
    titles = ipywidgets.Label(", ".join(clips))
    rows = [ipywidgets.HBox([kind, line]), ipywidgets.HBox([play, time]), titles, picture]
    return ipywidgets.VBox(rows)
