"""The clip that goes through the course: film-like, and its true motion is known.

A photograph of dandelions (``dandelion.jpg``: Clemens Engelhardt 2018, CC0) is moved by a small
physics: stems are cantilevers, their coordinates damped oscillators in gusty wind, a wave runs
through the grass. Then come what a camera adds: noise of the sensor, light that wavers, H.264.
Motion is smooth across outlines, so nothing is covered or uncovered, unlike in a real film.

    python footage.py    # writes dandelion.mp4 anew
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn import functional

from gidlite.media import read_image, read_video, resize, write_video

FOLDER = Path(__file__).parent
PHOTO, CLIP = FOLDER / "dandelion.jpg", FOLDER / "dandelion.mp4"
HEIGHT, WIDTH, FRAMES, FPS = 160, 256, 150, 30

# Heads in px of the clip, the nearest first: x, y, radius, y of the foot, size of the motion (px),
# frequency (Hz).
HEADS = (
    (77, 51, 46, 178, 3.2, 0.62), (227, 123, 19, 175, 1.5, 1.0), (153, 108, 14, 150, 1.2, 1.25),
    (84, 100, 13, 165, 1.0, 1.1), (181, 77, 12, 118, 0.9, 1.5), (167, 98, 8, 125, 0.8, 1.4),
    (154, 70, 10, 105, 0.7, 1.6), (220, 53, 8, 85, 0.6, 1.9), (132, 34, 10, 75, 0.6, 1.7),
    (257, 69, 8, 95, 0.6, 1.8),
)  # fmt: skip
_DAMPING, _GRASS = 0.06, 0.5  # share of critical, px


@dataclass(frozen=True)
class Footage:
    """A clip with its true motion."""

    frames: torch.Tensor  # (T, 3, H, W) uint8
    motion: torch.Tensor  # (T, 2, H, W) px, from frame 0
    fps: float


@lru_cache
def footage() -> Footage:
    """Return the clip as decoded, and the motion that it was rendered with."""
    return Footage(read_video(CLIP).frames, true_motion(), float(FPS))


def _shape(head, x, y):
    """Return how a stem and its head move, 1 px to the right at the middle of the head."""
    across, down, radius, foot, *_ = head
    height = ((foot - y) / (foot - down)).clamp(0, 1)
    bend = height**2 * (3 - height) / 2  # a cantilever; the head goes on along its slope
    slope = 1.5 / (foot - down)
    turned = torch.stack([1 + slope * (down - y), slope * (x - across)])
    to_head = torch.hypot(x - across, y - down)
    on_head = torch.sigmoid((1.12 * radius - to_head) / (0.07 * radius + 0.8))
    on_stem = torch.exp(-(((x - across) / (0.1 * radius + 2.5)) ** 2)) * (y > down)
    stem = torch.stack([bend * on_stem, 0 * bend])
    return on_head * turned + (1 - on_head) * stem, torch.maximum(on_head, on_stem)


def _courses(generator):
    """Return the coordinate of each head over time, (T, heads), px."""
    steps = 8  # of the oscillators, for every frame
    gusts = torch.randn(FRAMES * steps + 600, len(HEADS) + 1, generator=generator)
    for _ in range(3):  # gusts last a tenth of a second and more
        gusts = functional.avg_pool1d(gusts.T[None], 25, 1, 12)[0].T
    pushes = 0.8 * gusts[:, :1] + 0.6 * gusts[:, 1:]  # mostly the same wind for all
    size, hertz = (torch.tensor(column) for column in list(zip(*HEADS, strict=True))[4:])
    omega, h = 2 * math.pi * hertz, 1 / (FPS * steps)
    place, speed, courses = torch.zeros(len(HEADS)), torch.zeros(len(HEADS)), []
    for push in pushes:
        speed = speed + h * (omega**2 * (push - place) - 2 * _DAMPING * omega * speed)
        place = place + h * speed
        courses.append(place)
    courses = torch.stack(courses)[600::steps]
    return courses / courses.std(0) * size


@lru_cache
def true_motion() -> torch.Tensor:
    """Return the displacements from frame 0, (T, 2, H, W), in px."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    generator = torch.Generator().manual_seed(5)
    courses, free, motion = _courses(generator), torch.ones_like(x), 0
    for head, course in zip(HEADS, courses.T, strict=True):
        shape, covers = _shape(head, x, y)
        motion = motion + course.view(-1, 1, 1, 1) * free * shape
        free = free * (1 - covers)
    time = (torch.arange(FRAMES) / FPS).view(-1, 1, 1)
    ramp = ((y - 70) / 90).clamp(0, 1) ** 1.5
    wave = torch.sin(2 * math.pi * (0.8 * time - x / 90) + y / 40) + 0.4 * torch.sin(
        9 * time + x / 17
    )
    motion[:, 0] += _GRASS * free * ramp * wave
    return motion - motion[:1]


def film(times=range(FRAMES)) -> torch.Tensor:
    """Return the frames (T, 3, H, W) in [0, 1] at these times, before they are encoded."""
    photo = resize(read_image(PHOTO), height=2 * HEIGHT, width=2 * WIDTH)
    y, x = torch.meshgrid(torch.arange(2.0 * HEIGHT), torch.arange(2.0 * WIDTH), indexing="ij")
    here, span = torch.stack([x, y]), torch.tensor([2.0 * WIDTH, 2.0 * HEIGHT]).view(2, 1, 1)
    frames = []

    def look(picture, place):  # at positions in px
        grid = ((2 * place + 1) / span - 1).movedim(0, -1)[None]
        options = {"padding_mode": "border", "align_corners": False}
        return functional.grid_sample(picture[None], grid, **options)[0]

    for time in times:
        field = true_motion()[time, None]
        field = 2 * functional.interpolate(field, scale_factor=2, mode="bilinear")[0]
        source = here
        for _ in range(12):  # the place that moves to each pixel
            source = here - look(field, source)
        frame = resize(look(photo, source), height=HEIGHT, width=WIDTH)
        light = 1 + 0.006 * math.sin(0.9 * time) + 0.004 * math.sin(0.23 * time)
        generator = torch.Generator().manual_seed(time)
        noise = 1.5 / 255 * torch.randn(frame.shape, generator=generator)
        frames.append((light * frame + noise).clamp(0, 1))
    return torch.stack(frames)


if __name__ == "__main__":
    write_video(CLIP, film(), fps=FPS)
    print(f"{CLIP.name}: {CLIP.stat().st_size / 1000:.0f} kB")
