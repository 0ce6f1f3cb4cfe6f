"""Checks of lesson 12."""

import json
from pathlib import Path

import torch

from exercises import number
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.evaluate import bin_agreement, log_spectral_distance, phase_agreement
from gidlite.evaluate.scenes import coherence, flatness, halves, things
from gidlite.motion.spectral import motion_amplitude, power_spectrum, spectral_to_motion

_TABLE = Path(__file__).parents[2] / "docs" / "ablation" / "table.json"


def photos(answer):
    d = json.loads(_TABLE.read_text())["sets"]["scenes"]["rows"]["k4"]["differences"]["fvd"]
    hint = "only the variance of the photos shrinks; take off what training leaves."
    return number(d["photos_needed"], rel=0.06, hint=hint)(answer)


def unseen(answer):
    generator = torch.Generator().manual_seed(0)
    scene = make_scenes(
        1, Pieces.painted(count=23, generator=generator), height=96, width=160,
        generator=torch.Generator().manual_seed(945),
    )  # fmt: skip
    truth = scene.spectral(16)[0]
    truth[0] = 0
    if answer.shape != truth.shape:
        return f"its shape is {tuple(answer.shape)}, not that of S."
    level, found = motion_amplitude(truth), motion_amplitude(answer)
    mask, masks = level > 0.25, things(level, scene.depth[0])
    powers = power_spectrum(answer), power_spectrum(truth)
    off = {
        "where and how much": (found - level).abs().max().item(),
        "spectrum": log_spectral_distance(*powers),
        "flatness": max(flatness(found, level, masks)), "halves": max(halves(found, level, masks)),
    }  # fmt: skip
    for name, measure in {
        "direction": lambda v: bin_agreement(v, mask, double_angle=True),
        "phases": lambda v: phase_agreement(v, mask), "coherence": lambda v: coherence(v, masks)[0],
    }.items():  # fmt: skip
        off[name] = abs(measure(answer) - measure(truth))
    minding = [name for name, value in off.items() if not value < 0.01]
    if minding:
        return f"this is minded by: {', '.join(minding)}."
    motions = [spectral_to_motion(v, num_frames=150) for v in (answer, truth)]
    if (motions[0] - motions[1]).abs().max() < 0.01:
        return "this is the truth."
    if (answer - truth.conj()).abs().max() < 1e-4:
        return "this one is in the picture: it runs backwards."
    steps = (answer[1:] * truth[1:].conj()).sum((1, 2, 3))
    if (answer[1:] - truth[1:] * (steps / steps.abs()).view(-1, 1, 1, 1)).abs().max() < 1e-3:
        return "this is another wind, and nobody would reject it."
    return None


CHECKS = {
    "1": number(
        4, rel=0.12, hint="draw the distance over 1/n, and read the line where 1/n is 0."
    ),
    "2": photos,
    "3": unseen,
}  # fmt: skip
