"""Frames per second from a photo and a volume, by the shipped route and by the plain one.

    python -m benchmarks.render --width 512 --height 320

The plain route makes one frame after another with all threads, the network in float32. The shipped
one makes two at a time and, where a CPU multiplies bfloat16 fast, decodes in that; its frames are
compared with the plain ones. Rounds are interleaved, and the fastest counts. The last table is of
the parts of a frame on one core.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from benchmarks.rows import Row
from gidlite.media import VideoWriter, read_image, resize, sample_photo
from gidlite.motion import SpectralVolume
from gidlite.motion.flow import sample_at
from gidlite.motion.spectral import spectral_to_motion
from gidlite.render import mean_motion, render_frames
from gidlite.render.network import NeuralRenderer, load_renderer, motion_gate
from gidlite.render.photo import GuidedUpsampling, fill_holes, keep_sharp, splat_photo
from gidlite.render.splat import SplatPlan

ROUNDS = 3
# Renderer, frames, whether they are also encoded as a loop, and the target per second.
CASES = ("softmax", 60, False, 90), ("softmax", 60, True, 45), ("neural", 16, False, 14)


def scene(width: int, height: int) -> tuple[Tensor, SpectralVolume]:
    """Return a photo, and motion of a few px in it, smooth in space, whose left third is still."""
    generator = torch.Generator().manual_seed(0)
    image = resize(read_image(sample_photo()), height=height, width=width)
    coarse = torch.randn(64, 1, 10, 16, generator=generator)
    fine = functional.interpolate(coarse, (160, 256), mode="bicubic").view(2, 16, 2, 160, 256)
    fine *= (torch.arange(256) / 85 - 1).clamp(0, 1)
    size = 0.4 / torch.arange(1, 17).view(-1, 1, 1, 1)
    return image, SpectralVolume(torch.complex(*(fine * size)), num_frames=150, fps=30.0)


def plain_frames(
    image: Tensor, volume: SpectralVolume, times: Tensor, *, renderer: str
) -> Iterator:
    """Yield the frames one after another, in float32."""
    upsample = GuidedUpsampling(image, 160, 256)
    metric = upsample(mean_motion(volume))
    neural = NeuralRenderer(image)
    neural.net = load_renderer()
    for time_ in times:
        coarse = spectral_to_motion(volume.spectral, num_frames=150, times=time_[None])[0]
        motion = upsample.motion(coarse)
        if renderer == "neural":
            yield neural(motion, metric)
        else:
            sharp = keep_sharp(image[None], motion[None])
            yield splat_photo(sharp, motion[None], metric[None])[0][0].clamp(0, 1)


def seconds(call: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def take(frames: Iterator[Tensor], count: int, *, encode: bool) -> None:
    """Make so many frames, and a loop of them if wanted."""
    if not encode:
        return [None for _ in frames]
    with tempfile.TemporaryDirectory() as folder:
        with VideoWriter(Path(folder) / "loop.mp4", fps=30, loop=count) as video:
            for frame in frames:
                video.write(frame)


def compare(inputs: tuple, renderer: str, count: int, *, encode: bool = False) -> tuple:
    """Return frames per second of both routes, and the PSNR of one against the other."""
    times = torch.arange(count, dtype=torch.float64)
    routes = plain_frames, render_frames
    first = [torch.stack(list(route(*inputs, times[:6], renderer=renderer))) for route in routes]
    psnr = -10 * (first[0] - first[1]).square().mean().clamp(min=1e-15).log10()
    fastest = dict.fromkeys(routes, 0.0)
    for _ in range(ROUNDS):
        for route in routes:
            frames = route(*inputs, times, renderer=renderer)
            rate = count / seconds(lambda f=frames: take(f, count, encode=encode))
            fastest[route] = max(fastest[route], rate)
    return *fastest.values(), psnr.item()


def rows() -> Iterator[Row]:
    """Yield the rows of the table of all benchmarks, at 512×320."""
    inputs, peer = scene(512, 320), "one after another, float32"
    for renderer, count, encode, target in CASES:
        plain, shipped, _ = compare(inputs, renderer, count, encode=encode)
        work = f"{renderer} frames{', encoded' if encode else ''}"
        yield Row(work, shipped, "per second", target, most=False, peer=peer, beside=plain)


def parts(image: Tensor, volume: SpectralVolume) -> Table:
    """Return how long the parts of a frame take on one core."""
    torch.set_num_threads(1)
    upsample = GuidedUpsampling(image, 160, 256)
    coarse = spectral_to_motion(volume.spectral, num_frames=150, times=torch.tensor([40.0]))[0]
    motion, metric = upsample.motion(coarse)[None], upsample(mean_motion(volume))[None]
    photo, neural = image[None], NeuralRenderer(image)
    plan = SplatPlan(motion, metric=metric)
    torch.set_num_threads(1)  # again: Numba's first loop takes all
    moved, coverage = plan(photo), plan.coverage()
    calls = {
        "motion to the size of the photo": lambda: upsample.motion(coarse),
        "sharpen": lambda: keep_sharp(photo, motion),
        "plan of a splat": lambda: SplatPlan(motion, metric=metric),
        "splat of three channels": lambda: plan(photo),
        "fill holes": lambda: fill_holes(moved, coverage, metric),
        "sample backwards, bicubic": lambda: sample_at(photo, motion, mode="bicubic"),
        "gate": lambda: motion_gate(motion, motion, coverage),
        "whole softmax frame": lambda: splat_photo(keep_sharp(photo, motion), motion, metric),
        "whole neural frame": lambda: neural(motion[0], metric[0]),
    }
    table = Table("part, on one core", "ms")
    for name, call in calls.items():
        call()
        table.add_row(name, f"{1000 * min(seconds(call) for _ in range(9)):.2f}")
    return table


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, pixels in (("--width", 512), ("--height", 320)):
        parser.add_argument(name, type=int, default=pixels)
    options = parser.parse_args()
    inputs = scene(options.width, options.height)
    table = Table("frames per second", "plain", "shipped", "ratio", "PSNR dB")
    for renderer, count, encode, _ in CASES:
        plain, shipped, psnr = compare(inputs, renderer, count, encode=encode)
        figures = f"{plain:.1f}", f"{shipped:.1f}", f"{shipped / plain:.2f}", f"{psnr:.0f}"
        table.add_row(f"{renderer}, encoded" if encode else renderer, *figures)
    console = Console()
    console.print(f"{torch.get_num_threads()} threads, {options.width}×{options.height}", table)
    console.print(parts(*inputs))


if __name__ == "__main__":
    main()
