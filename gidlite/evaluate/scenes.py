"""What a prior imagines from photos of unseen synthetic scenes against their exact motion.

Volumes are in px, (bins, 2, rows, columns), and bin 0 never counts; levels are RMS displacements,
``spectral.motion_amplitude``. Shares are of the 95th percentile of a scene's true level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from gidlite import evaluate as measures
from gidlite.data.splits import HELD_OUT_SEED, seeded
from gidlite.data.world import Scenes, make_scenes
from gidlite.data.world.pieces import collect_pieces
from gidlite.errors import require
from gidlite.evaluate.motion import Draws, Map, Mask, Predictor, Progress, rms_ratio
from gidlite.motion.spectral import motion_amplitude, resize_spectral

STRIDE = 4  # px of a photo along a cell, in which everything is compared: 64 × 40 cells
STILL, MOVING, LIVELY = 0.06, 0.3, 0.5  # shares: below, a cell is still; above, it moves (a lot)
LEAST_CELLS = 12  # of a thing
_FLOOR = 0.001  # share: what moves less counts as much, for logarithms
Scores = dict[str, list[float]]


def peak(level: Map) -> float:
    """Return the 95th percentile of a level, in its unit."""
    return level.flatten().quantile(0.95).item()


def things(truth: Map, depth: Int[Tensor, "height width"]) -> list[Mask]:
    """Return where each layer is seen whole and moves, if that is ``LEAST_CELLS`` at least.

    ``depth`` is that of ``Scenes``. Cells next to one of another layer are left out.
    """
    number = depth.float()[None]
    farthest, nearest = (functional.max_pool2d(s * number, 3, 1, 1)[0] * s for s in (-1, 1))
    inside = (farthest == nearest) & (truth > MOVING * peak(truth))
    masks = [inside & (depth == layer) for layer in range(1, int(depth.max()) + 1)]
    return [mask for mask in masks if mask.sum() >= LEAST_CELLS]


def flatness(predicted: Map, truth: Map, masks: Sequence[Mask]) -> list[float]:
    """Return the standard deviation of log(predicted / true level) inside every thing."""
    gain = (predicted.clamp(min=_FLOOR * peak(truth)) / truth).log()
    return [gain[mask].std().item() for mask in masks]


def halves(predicted: Map, truth: Map, masks: Sequence[Mask]) -> list[float]:
    """Return |log| of the gain of one half of a thing over that of the other: does half of it move?

    A gain is predicted over true RMS; halves are left and right, top and bottom of the centroid.
    """
    levels, found = torch.stack([predicted.clamp(min=_FLOOR * peak(truth)), truth]), []
    for mask in masks:
        for place in mask.nonzero().T:
            first = place < place.float().mean()
            if first.any():
                gains = [rms_ratio(*levels[:, mask][:, half]) for half in (first, ~first)]
                found.append(abs(math.log(gains[0] / gains[1])))
    return found


def still_over_moving(predicted: Map, truth: Map) -> float:
    """Return the predicted RMS where nothing moves over that where much does; NaN if undefined."""
    still, lively = truth < STILL * peak(truth), truth > LIVELY * peak(truth)
    return rms_ratio(predicted[still], predicted[lively])


def coherence(volume: measures.Volume, masks: Sequence[Mask]) -> list[float]:
    """Return for every thing the mean absolute correlation between two of its cells, in [0, 1].

    It is over bins and both components: 1 for a thing that is carried along without turning.
    """
    found = []
    for mask in masks:
        cells = volume[1:, :, mask].flatten(0, 1)
        cells = cells / cells.norm(dim=0).clamp(min=torch.finfo(torch.float32).tiny)
        alike = (cells.mH @ cells).abs()
        found.append(((alike.sum() - alike.trace()) / (len(alike) * (len(alike) - 1))).item())
    return found


def score(predicted: measures.Volume, truth: measures.Volume, masks: Sequence[Mask]) -> Scores:
    """Return the values of every measure that compares two volumes of one size."""
    level, true_level = motion_amplitude(predicted), motion_amplitude(truth)
    moving = true_level > MOVING * peak(true_level)
    return {
        "flatness": flatness(level, true_level, masks),
        "halves": halves(level, true_level, masks),
        "still_over_moving": [still_over_moving(level, true_level)],
        "amount": [rms_ratio(level[moving], true_level[moving])],
        "direction_agreement": [measures.bin_agreement(predicted, moving, double_angle=True)],
        "coherence": coherence(predicted, masks),
    }


def unseen_scenes(
    count: int, *, seed: int = 0, sprites: str | Path | None = None, **clip: float
) -> Iterator[Scenes]:
    """Yield scenes of which training may have seen pieces of ``sprites``; ``clip``: make_scenes."""
    sources = collect_pieces(sprites, seed=HELD_OUT_SEED)
    for number in range(count):
        generator = torch.Generator().manual_seed(HELD_OUT_SEED + seed + number)
        yield make_scenes(1, sources[number % len(sources)], generator=generator, **clip)


@torch.no_grad()
def evaluate_scenes(
    count: int, pipeline: Predictor, *, sprites: str | Path | None = None,
    draws: Draws | None = None, progress: Progress = None,
) -> dict[str, Any]:  # fmt: skip
    """Compare samples with the exact motion of ``count`` scenes; return what is written as JSON.

    Every measure has a ``value``, a median over scenes, samples and things, and a 95 % bootstrap
    interval over scenes, ``low`` to ``high``; it is None if undefined. ``*_truth`` is what the
    truth scores. ``photo_gain`` is a mean, in the unit of ``pipeline.surprise(photo, spectral)``,
    and None without that method. ``scenes`` lists all values of every scene.
    """
    require(1 <= count <= 100_000, f"count is {count}; give 1 to 100000 scenes")
    draws, scenes = draws or Draws(samples=2), []
    clip = {"num_frames": pipeline.num_frames, "fps": pipeline.fps}
    made = unseen_scenes(count + 1, seed=draws.seed, sprites=sprites, **clip)
    for number, (scene, other) in enumerate(pairwise(made)):
        volumes = []
        for place in range(number * draws.samples, (number + 1) * draws.samples):
            output = pipeline(
                scene.photo[0], num_inference_steps=draws.steps, guidance_scale=draws.guidance,
                generator=seeded(draws.seed, place),
            )  # fmt: skip
            volumes.append(output.spectral)
            if progress:
                progress(place + 1, count * draws.samples)
        exact = scene.spectral(len(volumes[0]))[0]
        found = _compare(volumes, exact, scene.depth[0])
        if getattr(pipeline, "representation", None) == "modes":
            own, others = (pipeline.surprise(s.photo[0], exact) for s in (scene, other))
            found["photo_gain"] = [float(others - own)]
        scenes.append({n: [v for v in f if math.isfinite(v)] for n, f in found.items()})
    settings = {"model": pipeline.name, "count": count, "sprites": sprites is not None, **clip}
    head = {"format": "gidlite-scene-evaluation", "version": 1, "photo_gain": None}
    summary = {name: _interval(name, [s[name] for s in scenes], draws.seed) for name in scenes[0]}
    return head | summary | {"settings": settings | asdict(draws), "scenes": scenes}


def _compare(volumes: list[Tensor], exact: Tensor, depth: Tensor) -> Scores:
    """Return the values of all samples, and what the truth scores by itself."""
    rows, columns = (side // STRIDE for side in depth.shape)
    truth, *predicted = (resize_spectral(v, height=rows, width=columns) for v in (exact, *volumes))
    inside = depth[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    masks = things(motion_amplitude(truth), inside)
    samples = [score(volume, truth, masks) for volume in predicted]
    itself = {f"{name}_truth": values for name, values in score(truth, truth, masks).items()}
    return {name: [v for s in samples for v in s[name]] for name in samples[0]} | itself


def _interval(name: str, scenes: list[list[float]], seed: int) -> dict[str, float] | None:
    """Return the middle of all values, and its interval over scenes that have one."""
    values = [torch.tensor(found, dtype=torch.float64) for found in scenes if found]
    if not values:
        return None
    middle = torch.mean if name == "photo_gain" else partial(torch.quantile, q=0.5)
    low, high = measures.interval_over(values, middle, seed)
    return {"value": middle(torch.cat(values)).item(), "low": low, "high": high}


def scene_table(report: dict[str, Any]) -> Table:
    """Return a table of what ``evaluate_scenes`` found, with the truth's own scores."""
    rows = []
    for name in [name for name in report if f"{name}_truth" in report] + ["photo_gain"]:
        found, truth = report[name] or {}, report.get(f"{name}_truth") or {}
        rows.append([name, *map(found.get, ("value", "low", "high")), truth.get("value")])
    title = "Samples against the exact motion of unseen scenes; 95 % intervals"
    return measures.table(title, ["", "found", "low", "high", "truth"], rows)
