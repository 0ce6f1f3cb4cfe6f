"""What the rows are measured on: held-out scenes and first frames of real clips, kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Bool, Complex, Float, Int, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from gidlite.data.splits import ABLATION_SEED, place_of, seeded
from gidlite.data.world import Scenes, make_scenes
from gidlite.data.world.pieces import collect_pieces
from gidlite.errors import require, written
from gidlite.evaluate.motion import MOVING_PX, STATIC_PX, Mask, clip_case
from gidlite.evaluate.scenes import MOVING, STILL, STRIDE, peak
from gidlite.media import read_video
from gidlite.motion.spectral import (
    motion_amplitude,
    motion_to_spectral,
    pack_complex,
    resize_motion,
    resize_spectral,
    unpack_complex,
)
from studies.textures.films import another_wind as blown_again

FILM = 32  # frames of a film
_FINE = 2  # px of a picture along a sample of what a wind is rendered from
BINS = 24  # of the row that has most: what a row leaves out counts as still
WINDS = 4  # of a scene: the one of its film, and others that might as well have blown
NUM_FRAMES, FPS = 150, 30.0
_WIDTH = 256


@dataclass(frozen=True)
class Truth:
    """A photo, how it moved, and its film.

    Motion is compared on cells of 4 × 4 px of a picture 256 px wide, and in px of these cells.

    Attributes:
        name: Of the scene or clip.
        place: What was filmed; takes of one place are not independent.
        photo: In [0, 1].
        film: The first 32 frames.
        fine: Spectral volumes that might all have followed, 24 bins, on a grid twice as fine as the
            cells; the film shows the first. Of a real clip there is one.
        reliable: Cells whose motion is known.
        depth: Number of the layer seen at a cell; nothing but 0 for a real clip.
        frames: Length in frames of what was observed.
    """

    name: str
    place: str
    photo: Float[Tensor, "3 height width"]
    film: UInt8[Tensor, "32 3 height width"]
    fine: Complex[Tensor, "winds 24 2 fine_rows fine_columns"]
    reliable: Mask
    depth: Int[Tensor, "rows columns"]
    frames: int = NUM_FRAMES

    @cached_property
    def winds(self) -> Complex[Tensor, "winds 24 2 rows columns"]:
        """The spectral volumes on the cells."""
        return _on_grid(self.fine, self.reliable.shape)

    @cached_property
    def level(self) -> Float[Tensor, "rows columns"]:
        """RMS displacement of the film's wind."""
        return motion_amplitude(self.winds[0])

    @cached_property
    def moving(self) -> Bool[Tensor, "rows columns"]:
        """Cells that move: by 0.25 px of the picture, or 0.3 of what moves most in a scene."""
        least = MOVING_PX / STRIDE if len(self.winds) == 1 else MOVING * peak(self.level)
        return (self.level > least) & self.reliable

    @cached_property
    def still(self) -> Bool[Tensor, "rows columns"]:
        """Cells that do not: by 0.1 px of the picture, or 0.06 of what moves most in a scene."""
        most = STATIC_PX / STRIDE if len(self.winds) == 1 else STILL * peak(self.level)
        return (self.level < most) & self.reliable

    def save(self, path: Path) -> None:
        """Write it; nothing is left half-written."""
        tensors = {
            "photo": (self.photo * 255).round().byte(), "film": self.film,
            "fine": pack_complex(self.fine).half(), "reliable": self.reliable.byte(),
            "depth": self.depth.to(torch.int32),
        }  # fmt: skip
        about = {"name": self.name, "place": self.place, "frames": str(self.frames)}
        with written(path) as hidden:
            save_file({key: value.contiguous() for key, value in tensors.items()}, hidden, about)


def read_truth(path: Path) -> Truth:
    """Read what ``Truth.save`` wrote."""
    with safe_open(path, "pt") as file:
        about = file.metadata()
        found = {name: file.get_tensor(name) for name in file.keys()}
    found["photo"] = found["photo"].float() / 255
    found["fine"] = unpack_complex(found["fine"].float())
    found["reliable"] = found["reliable"].bool()
    return Truth(**found, name=about["name"], place=about["place"], frames=int(about["frames"]))


def cases_in(folder: Path) -> list[Path]:
    """Return the files of the cases in a folder, in order."""
    return sorted(folder.glob("*.safetensors"))


def store_scene_cases(
    folder: Path, count: int, *, sprites: str | Path | None = None, say=lambda text: None
) -> None:
    """Make scenes that were never trained on, with exact motion, unless they are there.

    The photo is what the film begins with, without the grain of a camera, which the renderer of
    the scenes could not move along.
    """
    _claim(folder, {"sprites": sprites is not None})
    missing = [n for n in range(count) if not (folder / f"{n:03d}.safetensors").is_file()]
    sources = collect_pieces(sprites, seed=ABLATION_SEED) if missing else []
    for number in missing:
        generator = torch.Generator().manual_seed(ABLATION_SEED + number)
        scenes = make_scenes(1, sources[number % len(sources)], generator=generator)
        blown = [scenes, *(another_wind(scenes, wind) for wind in range(1, WINDS))]
        rows, columns = (side // _FINE for side in scenes.grid)
        fine = torch.stack([_on_grid(one.spectral(BINS)[0], (rows, columns)) for one in blown])
        film = torch.stack([scenes.frame(time)[0] for time in range(FILM)])
        cells = scenes.depth[0, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
        name = f"scene {number}"
        Truth(
            name, name, film[0], (film * 255).round().byte(), fine,
            torch.ones_like(cells, dtype=torch.bool), cells,
        ).save(folder / f"{number:03d}.safetensors")  # fmt: skip
        say(f"scene {number + 1} of {count} made")


def another_wind(scenes: Scenes, seed: int) -> Scenes:
    """Return the same one scene in another wind of the same strength."""
    generator = seeded(ABLATION_SEED + seed, int(1e6 * scenes.photo.double().mean()))
    return blown_again(scenes, generator)


def store_clips(folder: Path, clips: Sequence[Path], *, say=lambda text: None) -> None:
    """Read clips at 256 px wide and 30 fps, and follow their motion, unless they are there.

    One clip of every place, the first by name: further takes would say little more.

    Raises:
        GidliteError: If a clip cannot be read or is shorter than 32 frames.
    """
    first = {place_of(path.name): path for path in sorted(clips, reverse=True)}
    clips = sorted(first.values())
    _claim(folder, {"clips": [path.name for path in clips]})
    for number, path in enumerate(clips):
        target = folder / f"{path.stem}.safetensors"
        if target.is_file():
            continue
        film = read_video(path, fps=FPS, width=_WIDTH, max_frames=FILM).frames
        require(len(film) == FILM, f"{path} is shorter than {FILM} frames; leave it out")
        case = clip_case(path, fps=FPS, num_frames=NUM_FRAMES)
        rows, columns = (side // STRIDE for side in film.shape[-2:])
        grid = {"height": rows * STRIDE // _FINE, "width": columns * STRIDE // _FINE}
        motion = resize_motion(case.motion.float(), **grid)
        bins = min(BINS, len(motion) // 2 + 1)
        wind = torch.zeros(BINS, 2, *motion.shape[-2:], dtype=torch.complex64)
        wind[:bins] = motion_to_spectral(motion, num_frequencies=bins)
        share = functional.adaptive_avg_pool2d(case.reliable.float()[None], (rows, columns))[0]
        Truth(
            path.stem, place_of(path.name), case.photo, film, wind[None], share > 0.5,
            torch.zeros_like(share, dtype=torch.int32), len(motion),
        ).save(target)  # fmt: skip
        say(f"clip {number + 1} of {len(clips)} read")


def _on_grid(volume: Tensor, size: tuple[int, int]) -> Tensor:
    return resize_spectral(volume, height=size[0], width=size[1])


def _claim(folder: Path, what: dict) -> None:
    """Note what a folder holds; empty it if that is something else."""
    note = folder / "cases.json"
    if note.is_file() and json.loads(note.read_text()) == what:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in cases_in(folder):
        path.unlink()
    note.write_text(json.dumps(what) + "\n")
