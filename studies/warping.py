"""Rendered frames against real ones: our renderer and the usual ways to warp, with one motion.

Real clips give motion by optical flow, held-out synthetic scenes exact motion and the pixels that
the photo does not show. Baselines: softmax and average splatting with holes filled, and the photo
sampled backwards (bicubic) along the inverted motion, which leaves ghosts where it uncovers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated

import torch
import typer
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from gidlite.__main__ import run
from gidlite.cli import console, progress_bar
from gidlite.data.pairs import Pair, scene_pairs
from gidlite.data.splits import RENDER_SEED
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import collect_pieces
from gidlite.errors import GidliteError, check_output, written
from gidlite.evaluate.networks import NETWORKS, load_published, weights_folder
from gidlite.media import write_image
from gidlite.media.video import probe_video, read_video
from gidlite.motion.flow import consistent, follow, grey, optical_flow_engine
from gidlite.render.network import NeuralRenderer, SynthesisNet, load_renderer
from gidlite.render.photo import keep_sharp, splat_photo
from gidlite.render.splat import splat
from gidlite.viz import contact_sheet

METHODS = ("ours", "sharpened", "softmax", "average", "backward", "still")
_COLUMNS = {
    "psnr": "PSNR", "psnr_moving": "moving", "psnr_hidden": "uncovered", "ssim": "SSIM",
    "lpips": "LPIPS",
}  # fmt: skip
_MOVING_PX = 0.25
_CAP_DB = 100.0
_CROP, _ENLARGE = 56, 3
Picture = Float[Tensor, "3 height width"]
Progress = Callable[[int, int], None]


@dataclass
class RenderReport:
    """Mean scores of every case.

    Attributes:
        cases: One dict per case: ``name``, ``group`` ("clips" or "scenes"), ``frames``, and for
            every method a dict of scores, None where undefined.
        closeups: Rows of pictures: photo, truth, backward, average, softmax, ours.
    """

    cases: list[dict] = field(default_factory=list)
    closeups: list[list[Picture]] = field(default_factory=list)

    def mean(self, group: str) -> dict[str, dict[str, float | None]]:
        """Return the mean over the cases of a group, for every method and score."""
        rows = [case["scores"] for case in self.cases if case["group"] == group]
        return {
            method: {key: _mean([row[method][key] for row in rows]) for key in _COLUMNS}
            for method in METHODS
        }

    def groups(self) -> list[str]:
        """Return the groups there are."""
        return list(dict.fromkeys(case["group"] for case in self.cases))

    def to_json(self) -> dict:
        """Return everything but pictures."""
        return {"mean": {group: self.mean(group) for group in self.groups()}, "cases": self.cases}

    def sheet(self) -> Picture:
        """Return the close-ups as one picture."""
        return contact_sheet([tile for row in self.closeups for tile in row], columns=6)


def clip_cases(
    clips: Iterable[str | Path], *, width: int = 256, frames: int = 60, every: int = 6
) -> Iterator[tuple[str, str, list[Pair]]]:
    """Yield (name, "clips", pairs) of real clips: frame 0 and every so many frames after it.

    Raises:
        GidliteError: If a clip cannot be read or is too short.
    """
    for path in map(Path, clips):
        clip = read_video(path, width=width, max_frames=frames).frames
        if len(clip) <= every:
            raise GidliteError(f"{path} has {len(clip)} frames; it needs more than {every}")
        greys, engine = [grey(frame) for frame in clip], optical_flow_engine()
        flows = follow(greys)
        metric = flows.norm(dim=1).mean(0, keepdim=True) * (256 / clip.shape[-1])
        nothing = torch.zeros(1, *clip.shape[-2:], dtype=torch.bool)
        pairs = []
        for time in range(every, len(clip), every):
            sure = consistent(flows[time], engine(greys[time], greys[0], None))[None]
            pairs.append(Pair(clip[0], clip[time], flows[time], metric, sure, nothing))
        yield path.stem, "clips", pairs


def scene_cases(
    count: int, *, sprites: str | Path | None = None, times: int = 4
) -> Iterator[tuple[str, str, list[Pair]]]:
    """Yield (name, "scenes", pairs) of synthetic scenes unseen in training.

    Pieces are painted ones that training did not see, or those of a folder, of which it may have.
    """
    pieces = collect_pieces(sprites, seed=RENDER_SEED)
    for number in range(count):
        generator = torch.Generator().manual_seed(RENDER_SEED + number)
        scenes = make_scenes(1, pieces[number % len(pieces)], generator=generator)
        chosen = torch.randperm(scenes.coords.shape[-1] - 1, generator=generator)[:times] + 1
        amplify = 1 + 3 * torch.rand(1, generator=generator)
        grain = torch.zeros(1, 1, *scenes.grid)
        yield (
            f"scene {number}",
            "scenes",
            scene_pairs(scenes, chosen.tolist(), amplify=amplify, grain=grain),
        )


@torch.inference_mode()
def evaluate_render(
    cases: Iterable[tuple[str, str, list[Pair]]],
    net: SynthesisNet | None = None,
    *,
    count: int,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
    progress: Progress | None = None,
) -> RenderReport:
    """Score every method on cases, which are made and forgotten one at a time.

    Args:
        cases: From ``clip_cases`` and ``scene_cases``.
        net: The trained network; the one of the package if not given.
        count: Number of cases.
        lpips: Distance of batches of pictures; left out if not given.
        progress: Called with (cases done, cases in all).

    Raises:
        GidliteError: If there is no trained network, or a case cannot be made.
    """
    report = RenderReport()
    for done, (name, group, pairs) in enumerate(cases, start=1):
        first = pairs[0].first.float() / 255
        ours = NeuralRenderer(first, net)
        rows: dict[str, list[dict]] = {method: [] for method in METHODS}
        best: tuple[float, list[Picture]] = (-1.0, [])
        for pair in pairs:
            frames = _render_all(pair, first, ours)
            truth = pair.second.float() / 255
            for method, frame in frames.items():
                rows[method].append(_score(frame, truth, pair, lpips))
            busy, closeup = _closeup(pair, first, truth, frames)
            best = max(best, (busy, closeup), key=lambda found: found[0])
        scores = {
            method: {key: _mean([row[key] for row in found]) for key in _COLUMNS}
            for method, found in rows.items()
        }
        report.cases.append({"name": name, "group": group, "frames": len(pairs), "scores": scores})
        report.closeups.append(best[1])
        if progress is not None:
            progress(done, count)
    return report


def _render_all(pair: Pair, first: Picture, ours: NeuralRenderer) -> dict[str, Picture]:
    motion, metric = pair.motion.float(), pair.metric.float()
    return {
        "ours": ours(motion, metric),
        "sharpened": splat_photo(keep_sharp(first[None], motion[None]), motion[None], metric[None])[
            0
        ][0].clamp(0, 1),
        "softmax": splat_photo(first[None], motion[None], metric[None])[0][0].clamp(0, 1),
        "average": splat_photo(first[None], motion[None], None)[0][0].clamp(0, 1),
        "backward": backward_warp(first, motion),
        "still": first,
    }


def backward_warp(image: Picture, motion: Float[Tensor, "2 height width"]) -> Picture:
    """Return the photo sampled backwards along the inverted motion, by OpenCV's bicubic remap.

    The displacement of what arrives at q solves G(q) = F(q − G(q)), by fixed-point iteration.
    """
    import cv2
    import numpy as np

    height, width = image.shape[-2:]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    forward = motion.movedim(0, -1).contiguous().numpy()
    arrived = forward
    for _ in range(10):
        where = x - arrived[..., 0], y - arrived[..., 1]
        arrived = cv2.remap(forward, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    picture = image.movedim(0, -1).contiguous().numpy()
    moved = cv2.remap(
        picture, x - arrived[..., 0], y - arrived[..., 1], cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return torch.from_numpy(moved).movedim(-1, 0).clamp(0, 1)


def _score(frame: Picture, truth: Picture, pair: Pair, lpips) -> dict[str, float | None]:
    moving = (pair.motion.norm(dim=0, keepdim=True) > _MOVING_PX) & pair.reliable
    arrived = splat(moving[None].float(), pair.motion[None].float(), mode="average")[0] > 0.5
    _, similarity = structural_similarity_index_measure(
        frame[None], truth[None], data_range=1.0, return_full_image=True
    )
    return {
        "psnr": _psnr(frame, truth),
        "psnr_moving": _psnr_on(frame, truth, arrived),
        "psnr_hidden": _psnr_on(frame, truth, pair.hidden),
        "ssim": similarity[..., 5:-5, 5:-5].mean().item(),  # where the whole window fits
        "lpips": None if lpips is None else lpips(frame[None], truth[None]).item(),
    }


def _psnr(frame: Tensor, truth: Tensor) -> float:
    return min(peak_signal_noise_ratio(frame, truth, data_range=1.0).item(), _CAP_DB)


def _psnr_on(frame: Picture, truth: Picture, mask: Tensor) -> float | None:
    if mask.sum() < 20:
        return None
    mask = mask.expand_as(frame)
    return _psnr(frame[mask], truth[mask])


def _closeup(pair: Pair, first: Picture, truth: Picture, frames: dict[str, Picture]):
    """Return how much motion changes within the part where it changes most, and its pictures."""
    change = sum(functional.pad(d, pad).norm(dim=0) for d, pad in (
        (pair.motion.diff(dim=1), (0, 0, 0, 1)), (pair.motion.diff(dim=2), (0, 1)),
    ))  # fmt: skip
    side = min(_CROP, *first.shape[-2:])
    busy = functional.avg_pool2d((change * pair.reliable[0])[None, None], side, stride=4)[0, 0]
    row, column = divmod(int(busy.argmax()), busy.shape[1])
    cut = lambda x: x[:, 4 * row : 4 * row + side, 4 * column : 4 * column + side]  # noqa: E731
    shown = [first, truth, *(frames[m] for m in ("backward", "average", "softmax", "ours"))]
    large = [functional.interpolate(cut(x)[None], scale_factor=_ENLARGE)[0] for x in shown]
    return float(busy.max()), large


def _mean(values: list[float | None]) -> float | None:
    found = [v for v in values if v is not None and math.isfinite(v)]
    return sum(found) / len(found) if found else None


def render_tables(report: RenderReport):
    """Return a table per group: a row per method, means over cases."""
    from rich.table import Table

    titles = {"clips": "Real clips", "scenes": "Held-out synthetic scenes"}
    for group in report.groups():
        count = sum(case["group"] == group for case in report.cases)
        title = f"{titles[group]} ({count}): dB, and LPIPS (lower is better)"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("")
        for heading in _COLUMNS.values():
            table.add_column(heading, justify="right")
        for method, scores in report.mean(group).items():
            cells = [_cell(key, scores[key]) for key in _COLUMNS]
            table.add_row(method, *cells, style="bold" if method == "ours" else None)
        yield table


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if key.startswith("psnr") else f"{value:.4f}"


def main(
    clips: Annotated[list[Path] | None, typer.Argument(metavar="CLIP...")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Scores as JSON.")] = None,
    scenes: Annotated[int, typer.Option(help="Also so many held-out synthetic scenes.")] = 24,
    renderer: Annotated[Path | None, typer.Option(help="Folder of a trained renderer.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Close-ups of motion edges, as PNG.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of metric networks.")] = None,
    sprites: Annotated[Path | None, typer.Option(help="Folder of photographic cut-outs.")] = None,
) -> None:
    """Rendered against real frames, same motion for all: python -m studies.warping clips/*.mp4.

    LPIPS needs the metric networks, see gidlite weights list.
    """
    for path in (output, sheet):
        if path is not None:
            check_output(path)
    paths = clips or []
    for path in paths:
        probe_video(path)  # refuse what is no video before minutes are spent on the others
    if not paths and scenes < 1:
        raise GidliteError("nothing to evaluate; give clips, or --scenes")
    net = load_renderer(renderer)
    known = ((weights or weights_folder()) / NETWORKS["lpips"].file).is_file()
    cases = chain(clip_cases(paths), scene_cases(scenes, sprites=sprites))
    with progress_bar("Rendering") as progress:
        report = evaluate_render(
            cases, net, count=len(paths) + scenes,
            lpips=load_published("lpips", weights) if known else None,
            progress=progress,
        )  # fmt: skip
    for table in render_tables(report):
        console.print(table)
    if output is not None:
        with written(output) as hidden:
            hidden.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    if sheet is not None:
        write_image(sheet, report.sheet())


if __name__ == "__main__":
    run(lambda: typer.run(main))
