"""How good the shipped prior is at saying where things move, and how long it takes.

Without arguments: on held-out painted scenes. With a folder of real clips (still camera): on the
first frame of every clip, against its optical flow.
"""

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from gidlite.flow import motion_texture
from gidlite.media import read_video
from gidlite.metrics import auc
from gidlite.pipeline import GidPipeline
from gidlite.spectral import motion_amplitude, resize_spectral
from gidlite.synthetic import Pieces, make_scenes


def painted_cases(count: int):
    """Yield name, photo, true RMS motion and an all-true mask of held-out scenes."""
    generator = torch.Generator().manual_seed(12345)
    scenes = make_scenes(count, Pieces.painted(count=24, generator=generator), generator=generator)
    rms = motion_amplitude(scenes.spectral(16))
    for number in range(count):
        yield f"painted {number}", scenes.photo[number], rms[number], torch.ones_like(rms[0]) > 0


def real_cases(folder: Path, names: list[str]):
    """Yield name, first frame, observed RMS motion and where it is reliable, of real clips."""
    for path in sorted(folder.glob("*.mp4")):
        if names and path.stem not in names:
            continue
        clip = read_video(path, width=256, fps=30.0, max_frames=150)
        observed = motion_texture(clip.frames)
        rms = observed.motion.var(dim=0, correction=0).sum(0).sqrt()
        yield path.stem, clip.frames[0].float() / 255, rms, observed.reliable


def main() -> None:
    """Print one line per case: AUC of ours, of saturation and of centre bias; amplitudes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--clips", nargs="*", default=[])
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--threshold", type=float, default=0.25, help="px that count as moving")
    options = parser.parse_args()
    pipeline = GidPipeline.from_pretrained(options.model)
    cases = real_cases(options.folder, options.clips) if options.folder else painted_cases(4)
    columns = (
        "case",
        "AUC ours",
        "AUC saturation",
        "AUC centre",
        "ratio moving",
        "still/moving",
        "s",
    )
    table, rows = Table(*columns), []
    for name, image, rms, reliable in cases:
        started = time.monotonic()
        output = pipeline(image, generator=torch.Generator().manual_seed(0))
        seconds = time.monotonic() - started
        height, width = rms.shape
        ours = motion_amplitude(resize_spectral(output.spectral, height=height, width=width))
        x, y = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)[:, None]
        saturation = image.amax(0) - image.amin(0)
        moving = (rms > options.threshold)[reliable]
        scores = [auc(s[reliable], moving) for s in (ours, saturation, -(x**2 + y**2))]
        moves, rests = ours[reliable][moving], ours[reliable][~moving]
        ratio = (moves.square().mean() / rms[reliable][moving].square().mean()).sqrt().item()
        leak = (rests.square().mean() / moves.square().mean()).sqrt().item()
        rows.append([*scores, ratio, leak, seconds])
        table.add_row(name, *(f"{value:.2f}" for value in rows[-1]))
    table.add_row("median", *(f"{v:.2f}" for v in torch.tensor(rows).nanmedian(0).values.tolist()))
    Console().print(table)


if __name__ == "__main__":
    main()
