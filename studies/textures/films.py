"""Films that are looked at: of scenes and clips to learn from, and of faults to be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Complex, Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from gidlite.data.splits import HELD_OUT_SEED, seeded
from gidlite.data.world import Scenes, compose, make_scenes
from gidlite.data.world.pieces import KINDS, Draw, Pieces
from gidlite.errors import require, written
from gidlite.evaluate.networks import resize_bilinear
from gidlite.media import resize
from gidlite.media.video import stream_video
from gidlite.motion import SpectralVolume
from gidlite.motion.spectral import anchor, motion_amplitude
from gidlite.render import render_frames

LENGTH, BINS, LEAST_PX = 16, 16, 0.5
START = 40  # first frame of compared films: a series of 16 bins rings about frame 0
LEARN_SEED, COMPARE_SEED = HELD_OUT_SEED + 800_000, HELD_OUT_SEED + 900_000
FAMILIES = {
    "stems": "stem flower", "leaves": "leafy leaves view", "trees": "tree", "pendula": "pendulum",
    "cloth": "cloth", "flames": "flame",
}  # fmt: skip
# Of what moves most in a scene.
TEMPI, MANNERS = ("slow", "medium", "fast"), ("sways", "gusts", "waves", "rings down", "apart")
SEEN_FAULTS = ("frozen", "twice as fast", "shuffled", "reversed")
MOTION_FAULTS = (
    "half the amount", "twice the amount", "each bin its own way", "speckle",
    "the whole picture moves", "half of each thing moves", "each pixel by itself",
)  # fmt: skip
Film = UInt8[Tensor, "16 3 height width"]
Volume = Complex[Tensor, "freq 2 height width"]


@torch.inference_mode()
def look(network: nn.Module, film: Film) -> Float[Tensor, " 1024"]:
    """Return what I3D sees of a film before its logits, averaged over time."""
    x = resize_bilinear(film.float(), height=224, width=224) / 255 * 2 - 1
    return network.pooled(x.transpose(0, 1)[None].contiguous()).mean((2, 3, 4))[0].clone()


def stored(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of a file, which is made if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        made = make()
    with written(path) as hidden:
        save_file(made, hidden)
    return made


def as_film(frames: Float[Tensor, "16 3 height width"]) -> Film:
    """Return pictures in [0, 1] as uint8."""
    return (255 * frames).round().byte()


def draw_scene(seed: int, pieces: Pieces) -> tuple[Scenes, torch.Generator]:
    """Return the first scene of a seed that moves visibly, and what to draw with next."""
    for attempt in range(50):
        generator = seeded(seed, attempt)
        scene = make_scenes(1, pieces, generator=generator)
        level = motion_amplitude(scene.spectral(BINS)[0]).flatten()
        if level.quantile(0.99) > LEAST_PX:  # RMS of one pixel in a hundred
            break
    return scene, generator


def another_wind(scene: Scenes, generator: torch.Generator, *, let_go: bool = False) -> Scenes:
    """Return a scene of one under another wind, or let go wherever no gusts come."""
    traits = dict(scene.traits)
    if let_go:
        traits["let_go"] = 1 - traits["gusty"]
    coords = compose.wind_driven(Draw(1, torch.device("cpu"), generator), traits)
    parent, rides = (traits[name][..., None, None] for name in ("parent", "rides"))
    ridden = torch.gather(coords, 1, parent.expand_as(coords)) * rides
    return replace(scene, traits=traits, coords=torch.cat([coords, ridden], dim=2))


def seen(scene: Scenes, times: Tensor) -> Film:
    """Return the film of a scene at these frames."""
    return as_film(torch.stack([scene.frame(time)[0] for time in times.tolist()]))


def rendered(scene: Scenes, spectral: Volume, times: Tensor) -> Film:
    """Return the film of a scene's first frame moved by a spectral volume."""
    volume = SpectralVolume(anchor(spectral), num_frames=scene.coords.shape[-1])
    return as_film(torch.stack(list(render_frames(scene.image[0], volume, times.double()))))


def classes_of(scene: Scenes, times: Tensor, pieces: Pieces) -> list[int]:
    """Return family, tempo and manner of the layer that moves most in a film; -1 is none."""
    speed = scene.motion(times.tolist())[0].diff(dim=0).square().sum((0, 1)).flatten()
    total = torch.bincount(scene.depth.flatten(), speed, minlength=2)  # 0 is the backdrop
    names = ("piece", "is_view", "natural_hz", "gusty", "let_go", "apart")
    it = {name: scene.traits[name][0, total[1:].argmax()] for name in names}
    kind = "view" if it["is_view"] else list(KINDS)[pieces.kind[it["piece"]]]
    family = next((n for n, kinds in enumerate(FAMILIES.values()) if kind in kinds.split()), -1)
    marks = [it["gusty"], KINDS[kind].travels, it["let_go"], it["apart"]]
    manner = max((n for n, mark in enumerate(marks, start=1) if mark), default=0)
    return [family, sum(int(it["natural_hz"][0] > hz) for hz in (0.8, 1.6)), manner]


def scene_examples(number: int, pieces: Pieces, every: int) -> Iterator[tuple[Film, list[int]]]:
    """Yield two films of a scene, each of its own wind, and the classes of all tasks."""
    scene, generator = draw_scene(LEARN_SEED + number, pieces)
    # The world lets few things go: here it is one film in four, so that it can be learned.
    for wind in (scene, another_wind(scene, generator, let_go=number % 2 == 1)):
        times = torch.randint(0, 60, (), generator=generator) + every * torch.arange(LENGTH)
        yield seen(wind, times), [*classes_of(wind, times, pieces), -1]


def clip_examples(path: Path, subject: int, every: int) -> Iterator[tuple[Film, list[int]]]:
    """Yield films of four moments of a clip: whole, or a corner, mirrored, in turn."""
    frames = torch.stack(list(stream_video(path, fps=30, size=(200, 320), max_frames=360)))
    span = LENGTH * every
    require(len(frames) >= span, f"{path} has {len(frames)} frames; it needs {span}: leave it out")
    for number, start in enumerate(torch.linspace(0, len(frames) - span, 4).long().tolist()):
        film = frames[start : start + span : every]
        corner = film[..., 10 * number : 10 * number + 160, -256:].flip(-1)
        whole = number % 2 == 0
        film = as_film(resize(film / 255, height=160, width=256)) if whole else corner
        yield film, [-1, -1, -1, subject]


def spoil(
    spectral: Volume, depth: Tensor, generator: torch.Generator
) -> Iterator[tuple[str, Volume]]:
    """Yield the faults of motion, made on the exact motion of layers, ``depth`` says whose."""
    size, level = depth.shape, motion_amplitude(spectral)
    yield "half the amount", spectral / 2
    yield "twice the amount", spectral * 2
    angle = 2 * torch.pi * torch.rand(len(spectral), generator=generator)
    rows = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
    turns = torch.stack(rows, dim=1).unflatten(1, (2, 2)).to(spectral.dtype)
    yield "each bin its own way", torch.einsum("kij,kjhw->kihw", turns, spectral)
    # A gain for every cell of 4 px; altogether as much moves as before.
    gain = torch.randn(1, 1, -(-size[0] // 4), -(-size[1] // 4), generator=generator).exp()
    gain = functional.interpolate(gain, scale_factor=4)[0, 0, : size[0], : size[1]]
    yield "speckle", spectral * (gain * level.norm() / (gain * level).norm())
    liveliest = spectral.flatten(2)[..., level.argmax()]
    yield "the whole picture moves", spectral + liveliest[..., None, None] / 2
    half, columns = torch.ones(size), torch.arange(size[1]).expand(size)
    for thing in (depth == layer for layer in depth.unique()):
        half[thing & (columns < columns[thing].float().mean())] = 0
    yield "half of each thing moves", spectral * half
    phase = 2 * torch.pi * torch.rand(len(spectral), 1, *size, generator=generator)
    yield "each pixel by itself", spectral * torch.polar(torch.ones_like(phase), phase)


def compared_films(number: int, pieces: Pieces, every: int) -> Iterator[tuple[str, Film]]:
    """Yield the truth, another wind, a third one (control), all rendered, too, and all faults."""
    scene, generator = draw_scene(COMPARE_SEED + number, pieces)
    wind, third = (another_wind(scene, generator) for _ in range(2))
    times = START + every * torch.arange(LENGTH)
    for name, one in {"truth": scene, "wind": wind, "control": third}.items():
        yield name, seen(one, times)
        yield f"{name}, rendered", rendered(scene, one.spectral(BINS)[0], times)
    film = seen(wind, times)
    yield "frozen", film[:1].expand_as(film)
    yield "twice as fast", seen(wind, START + 2 * every * torch.arange(LENGTH))
    yield "shuffled", film[torch.randperm(LENGTH, generator=generator)]
    yield "reversed", film.flip(0)
    for name, spectral in spoil(wind.spectral(BINS)[0], scene.depth[0], generator):
        yield name, rendered(scene, spectral, times)
