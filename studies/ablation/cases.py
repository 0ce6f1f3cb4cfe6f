"""What the rows are measured on: held-out scenes and first frames of real clips, kept on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gidlite.data.splits import ABLATION_SEED
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import collect_pieces
from gidlite.errors import GidliteError
from gidlite.evaluate.motion import Case
from gidlite.media import read_video, write_video
from gidlite.motion.flow import motion_texture

_WIDTH = 256
_NUM_FRAMES, _FPS = 150, 30.0
QUALITY = 0.8


class CaseFolder:
    """Cases with the video of what really happened: ``000.safetensors``, ``videos/000.mp4``.

    Args:
        folder: What ``store_clips`` or ``store_scene_cases`` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.videos = folder, folder / "videos"
        self._files = sorted(folder.glob("*.safetensors"))

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Case]:
        for path in self._files:
            with safe_open(path, "pt") as file:
                name = (file.metadata() or {})["name"]
                photo, motion = file.get_tensor("photo").float() / 255, file.get_tensor("motion")
                reliable = file.get_tensor("reliable").bool()
            yield Case(name, photo, motion.float(), reliable)


def _store(
    folder: Path, number: int, name: str, frames: Sequence[Tensor], motion, reliable
) -> None:
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    write_video(folder / "videos" / f"{number:03d}.mp4", frames, fps=_FPS, quality=QUALITY)
    tensors = {
        "photo": (frames[0] * 255).round().byte() if frames[0].is_floating_point() else frames[0],
        "motion": motion.half(), "reliable": reliable.byte(),
    }  # fmt: skip
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    save_file(tensors, folder / f"{number:03d}.safetensors", {"name": name})


def _claim(folder: Path, what: dict) -> bool:
    """Return whether the folder still has to be filled; empty it if it holds something else."""
    note = folder / "cases.json"
    if note.is_file() and json.loads(note.read_text()) == what:
        return False
    for path in [*folder.glob("*.safetensors"), *folder.glob("videos/*.mp4")]:
        path.unlink()
    note.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return True


def store_scene_cases(
    folder: Path, count: int, *, frames: int, sprites: str | Path | None = None
) -> CaseFolder:
    """Make scenes that were never trained on, with their exact motion and video.

    The photo is what the video begins with, without the grain of a camera, which the renderer of
    the scenes could not move along.
    """
    what = {"scenes": count, "frames": frames, "sprites": sprites is not None}
    if _claim(folder, what):
        sources = collect_pieces(sprites, seed=ABLATION_SEED)
        for number in range(count):
            generator = torch.Generator().manual_seed(ABLATION_SEED + number)
            scenes = make_scenes(1, sources[number % len(sources)], generator=generator)
            shown = [scenes.frame(time)[0] for time in range(frames)]
            motion = scenes.motion()[0]
            reliable = torch.ones(motion.shape[-2:], dtype=torch.bool)
            _store(folder, number, f"scene {number}", shown, motion, reliable)
        (folder / "cases.json").write_text(json.dumps(what))
    return CaseFolder(folder)


def store_clips(folder: Path, clips: Sequence[Path], *, frames: int) -> CaseFolder:
    """Read clips at 256 px wide and 30 fps, and follow their motion.

    Raises:
        GidliteError: If a clip cannot be read or is too short.
    """
    what = {"clips": [path.name for path in clips], "frames": frames}
    if _claim(folder, what):
        for number, path in enumerate(clips):
            clip = read_video(path, fps=_FPS, width=_WIDTH, max_frames=_NUM_FRAMES)
            if len(clip.frames) < max(frames, _FPS):
                raise GidliteError(f"{path} is shorter than {max(frames, _FPS):.0f} frames")
            observed = motion_texture(clip.frames)
            shown = list(clip.frames[:frames])
            _store(folder, number, path.stem, shown, observed.motion, observed.reliable)
        (folder / "cases.json").write_text(json.dumps(what))
    return CaseFolder(folder)
