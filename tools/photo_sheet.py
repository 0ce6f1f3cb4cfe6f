"""A contact sheet of what the prior imagines, a row for every photo.

python tools/photo_sheet.py PHOTO_OR_FOLDER... -o sheet.jpg [--model DIR] [--seed 0]

From left to right: the photo; how far each pixel moves (RMS of two samples; white is 4 px at 256
wide); the two samples, bright where much moves, in a colour for each axis of motion (red sideways,
cyan up and down, grey in all directions); a row of pixels through one loop, which runs downwards.
Of a folder, 40 photos are taken, evenly spaced by name.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.colors import hsv_to_rgb
from torch.nn import functional

from gidlite.cli import load_pipeline
from gidlite.media import IMAGE_SUFFIXES, read_image, resize, write_image, xt_slice
from gidlite.pipeline import GidPipeline
from gidlite.render import render_frames
from gidlite.viz import contact_sheet, liveliest_row, motion_tile

HEIGHT, WIDTH = 128, 192  # of a tile
SAMPLES, FROM_FOLDER = 2, 40


def collect(sources: list[Path]) -> list[Path]:
    """Return the photos given, and 40 at most of every folder."""
    found = []
    for source in sources:
        inside = [source]
        if source.is_dir():
            inside = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        count = min(FROM_FOLDER, len(inside))
        found += [inside[i * len(inside) // count] for i in range(count)]
    return found


def direction_tile(spectral: torch.Tensor, *, height: int, width: int) -> torch.Tensor:
    """Return a picture of one sample: hue is the axis of motion, brightness its size."""
    dx, dy = spectral[1:].unbind(1)
    along = (dx.abs().square() - dy.abs().square()).sum(0)
    across = 2 * (dx * dy.conj()).real.sum(0)
    power = spectral[1:].abs().square().sum((0, 1)).clamp(min=1e-12)
    hue = torch.atan2(across, along) / (2 * math.pi) % 1
    purity = (along**2 + across**2).sqrt() / power
    colour = torch.from_numpy(hsv_to_rgb(torch.stack([hue, purity, torch.ones_like(hue)], -1)))
    colour = resize(colour.movedim(-1, 0).float(), height=height, width=width).clamp(0, 1)
    return colour * motion_tile(spectral, height=height, width=width)


def fit(photo: torch.Tensor) -> tuple[int, int]:
    """Return the size at which a photo fits into a tile."""
    scale = min(HEIGHT / photo.shape[-2], WIDTH / photo.shape[-1])
    return tuple(max(1, round(side * scale)) for side in photo.shape[-2:])


def row(pipeline: GidPipeline, path: Path, seed: int) -> list[torch.Tensor]:
    """Return the tiles of a photo."""
    photo = read_image(path, max_side=512)
    size = dict(zip(("height", "width"), fit(photo), strict=True))
    outputs = [
        pipeline(photo, generator=torch.Generator().manual_seed(seed + number))
        for number in range(SAMPLES)
    ]
    # One volume whose RMS is that of all samples.
    joint = torch.cat([output.spectral for output in outputs]) / SAMPLES**0.5
    bins = len(joint) // SAMPLES
    joint = torch.cat([joint[:1], *(joint[n + 1 : n + bins] for n in range(0, len(joint), bins))])
    tiles = [resize(photo, **size), motion_tile(joint, **size)]
    tiles += [direction_tile(output.spectral, **size) for output in outputs]
    times = torch.arange(pipeline.num_frames, dtype=torch.float64)
    frames = torch.stack(list(render_frames(tiles[0], outputs[0].volume, times)))
    line = xt_slice(frames, row=liveliest_row(outputs[0].spectral, height=size["height"]))
    tiles.append(resize(line, **size))
    return [
        functional.pad(t, (0, WIDTH - t.shape[-1], 0, HEIGHT - t.shape[-2]), value=1.0)
        for t in tiles
    ]


def main() -> None:
    """Predict and write the sheet; the names are printed in the order of its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pipeline, tiles = load_pipeline(options.model), []
    for path in collect(options.photos):
        tiles += row(pipeline, path, options.seed)
        print(path.name, flush=True)
    write_image(options.output, contact_sheet(tiles, columns=SAMPLES + 3))


if __name__ == "__main__":
    main()
