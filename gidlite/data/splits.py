"""Which examples are trained on, fitted on, shown and tested, and the seeds that make them.

| What | Numbers, seeds or names | For |
|---|---|---|
| items of a dataset | from 0 on | training |
| items of a dataset | ``STATISTICS`` | scales, spatial spectra: fitted, never trained on |
| items of a dataset | ``SHEETS`` | the pictures that training draws of itself |
| items, seeds of scenes | ``HELD_OUT_SEED`` and on | ``studies.autoencoder``, ``evaluate scenes`` |
| seeds of scenes | ``ABLATION_SEED`` and on | the rows of the ablation |
| seeds of scenes | ``RENDER_SEED`` and on | ``studies.warping`` |
| real clips | ``HELD_OUT_CLIPS`` and other takes of their scenes | tables: 14 clips of 8 places |
| clips | ``syn_*`` (rendered, generated) | unused |
| real clips, published results | all others | training |
| real clips | ``judges`` | tables of what learnt from none: 47 clips of 26 places |
| photos | ``gd_*``, of the published results | training, with their results |
| photos | all others | pictures to look at |
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath

import torch

from gidlite.errors import require
from gidlite.media import IMAGE_SUFFIXES

STATISTICS = range(10**9, 2 * 10**9)
SHEETS = range(2 * 10**9, 3 * 10**9)
HELD_OUT_SEED = 1 << 40
LAST_SEED = (1 << 63) - 1  # torch takes no larger ones
ABLATION_SEED = HELD_OUT_SEED + 500_000
RENDER_SEED = 7_000_000_019
HELD_OUT_CLIPS = (
    "apple_blossom", "phys_yellow_tulip_0", "phys_yellow_tulip_2", "shore_saplings",
    "bug_on_flower", "foxtail_grass", "houseplant_magnif", "phys_telephone_0",
    "phys_telephone_2", "candle_glass",
)  # fmt: skip
# Scenes whose camera moves, or may: seen by eye, and by what drifts in optical flow.
MOVING_CAMERA = (
    "branch_rain", "candle_glass_ocean", "curtain_terrace", "foxtail_grass", "maple_overhang",
    "monstera_mist", "palm_beach_aerial", "pendula_black_coupled", "pendulum_watch_candles",
    "red_azalea", "trees_lookup", "wick_flame_tile", "wind_grassfield", "wind_grassstalks",
    "wind_reeds",
)  # fmt: skip


def scene_of(name: str) -> str:
    """Return the name that all takes of a scene share: ``phys_rose`` of ``phys_rose_0.mp4``."""
    return re.sub(r"_([0-9]|[a-z])$", "", PurePath(name).stem)


def place_of(name: str) -> str:
    """Return the name that all clips of a place share: three flowers were filmed at one desk."""
    return re.sub("^phys_(orange_rose|white_rose|yellow_tulip)$", "phys_desk", scene_of(name))


def judges(clips: Iterable[Path]) -> list[Path]:
    """Return those of our clips that judge what learnt from none: real ones of a still camera."""
    return [c for c in clips if place(c.name) != "unused" and scene_of(c.name) not in MOVING_CAMERA]


def place(name: str) -> str:
    """Return what a clip or photo is for, by its file name: train, show, test or unused."""
    stem = PurePath(name).stem
    if PurePath(name).suffix.lower() in IMAGE_SUFFIXES:
        return "train" if stem.startswith("gd_") else "show"
    if scene_of(name) in map(scene_of, HELD_OUT_CLIPS):
        return "test"
    return "unused" if stem.startswith("syn_") else "train"


def check_seed(seed: int) -> None:
    """Refuse a seed that is out of range."""
    require(0 <= seed <= LAST_SEED, f"seed is {seed}; it must lie between 0 and {LAST_SEED}")


def seeded(seed: int, number: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for item ``number`` of a seed."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + number) & LAST_SEED)
