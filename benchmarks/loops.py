"""Ways to make a loop that is no whole period: seam, amplitude and spectrum kept, time.

    python benchmarks/loops.py PHOTO... --seconds 2.5 3 5 --weights 0.003

Amplitude is the RMS about the mean of the loop, over what a free sample shows on average in as
many frames. The spectrum is the power in four bands between 0.1 and 3.1 Hz of the loop played for
ever, against the free sample; the distance is the mean of |dB| over bands, photos pooled. Change is
the RMS difference from the free motion in the same frames, over the same expected RMS. All count
everything that moves. Pixel seams are of
frames 256 px wide, by some of the methods for some of the photos.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers.utils import logging
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gidlite.evaluate import loop_seam
from gidlite.loops import close_loop
from gidlite.media import fit_size, read_image, resize, sample_photo
from gidlite.motion import SpectralVolume
from gidlite.motion.spectral import anchor, resize_motion, resize_spectral, spectral_to_motion
from gidlite.pipeline import GidPipeline, Sampling
from gidlite.render import mean_motion, render_frame

BANDS_HZ = (0.1, 0.5, 0.9, 1.7, 3.1)
PIXEL_WAYS = ("none", "taper", "cross-fade", "snapping", "projection")
MEASURES = (
    "position", "velocity", "amplitude", "spectrum_db", "change", "pixel_position", "pixel_velocity"
)  # fmt: skip


def smooth_ramp(count: int) -> Tensor:
    """Return a rise from 0 to 1 that starts and ends flat, ``(count, 1, 1, 1)``."""
    return (0.5 - 0.5 * torch.cos(math.pi * torch.arange(count) / count)).view(-1, 1, 1, 1)


def cross_fade(motion: Tensor, count: int) -> Tensor:
    """Return ``count`` of more frames whose first third comes out of what follows the last."""
    fade = count // 3
    ramp, loop = smooth_ramp(fade), motion[:count].clone()
    loop[:fade] = ramp * motion[:fade] + (1 - ramp) * motion[count : count + fade]
    return loop


def taper(motion: Tensor, *, frames: int = 15) -> Tensor:
    """Return motion that sets out from its mean pose and comes to rest in it again."""
    ramp, mean = smooth_ramp(frames), motion.mean(0)
    moved = motion - mean
    moved[:frames] *= ramp
    moved[-frames:] *= ramp.flip(0)
    return mean + moved


def snap_frequencies(spectral: Tensor, *, num_frames: int, loop_frames: int) -> Tensor:
    """Return a volume of ``loop_frames``: every bin at the nearest harmonic of the loop."""
    bins = torch.arange(1, len(spectral))
    places = (bins * loop_frames / num_frames + 0.5).floor().long().clamp(min=1)
    snapped = spectral.new_zeros(int(places.max()) + 1, *spectral.shape[1:])
    snapped.index_add_(0, places, spectral[1:])
    snapped[0] = spectral[0]
    return anchor(snapped)


def motions(free: Tensor, guided: dict[str, Tensor], *, period: int, count: int) -> dict:
    """Return the motion of a loop by every method, ``(count, 2, H, W)`` each."""
    play = lambda volume, times: spectral_to_motion(volume, num_frames=period, times=times)  # noqa: E731
    times = torch.arange(count, dtype=torch.float64)
    longer = play(free, torch.arange(2 * count))
    snapped = snap_frequencies(free, num_frames=period, loop_frames=count)
    close = {"num_frames": period, "loop_frames": count}
    loops = {"none": longer[:count], "taper": taper(longer[:count])}
    if count % period == 0:  # a loop already
        return loops
    loops |= {
        "retiming": play(free, times * (max(1, round(count / period)) * period / count)),
        "cross-fade": cross_fade(longer, count),
        "snapping": spectral_to_motion(snapped, num_frames=count),
        "projection, plain": play(close_loop(free, **close, exponent=0), times),
        "projection": play(close_loop(free, **close), times),
        "projection, exact": play(
            close_loop(free, **close, exponent=1, keep_amplitude=False), times
        ),
    }
    for name, volume in guided.items():
        loops[name] = play(volume, times)
        loops[f"{name} + projection"] = play(close_loop(volume, **close), times)
    return loops


def expected_amplitude(spectral: Tensor, *, period: int, count: int) -> float:
    """Return the RMS that a free sample shows about its mean over ``count`` frames, any start."""
    angle = math.pi * torch.arange(1, len(spectral), dtype=torch.float64) / period
    kept = (angle * count).sin() / (count * angle.sin())  # of a bin in the mean over the window
    power = spectral[1:].abs().square().double().sum(1).mean((1, 2))
    return (2 * power * (1 - kept.square())).sum().sqrt().item()


def band_powers(motion: Tensor, *, fps: float) -> Tensor:
    """Return the power per band of a motion that repeats."""
    power = torch.fft.rfft(motion.flatten(1), dim=0).abs().square().mean(1) / len(motion) ** 2
    place = torch.arange(len(power)) * (fps / len(motion))
    edges = torch.tensor(BANDS_HZ)
    band = torch.bucketize(place, edges)
    return torch.stack([power[band == b].sum() for b in range(1, len(edges))])


def pixel_seams(image: Tensor, volume: Tensor, motion: Tensor) -> tuple[float, float]:
    """Return the seams in position and velocity of rendered frames."""
    height, width = image.shape[-2:]
    metric = mean_motion(SpectralVolume(resize_spectral(volume, height=height, width=width)))
    frames = torch.stack([
        render_frame(image, resize_motion(field, height=height, width=width), metric)
        for field in motion
    ])  # fmt: skip
    return loop_seam(frames), loop_seam(frames, order=2)


def timed(
    pipeline: GidPipeline, image: Tensor, seed: int, **options
) -> tuple[SpectralVolume, float]:
    """Return a sample and the seconds it took."""
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    return pipeline(image, generator=generator, **options).volume, time.perf_counter() - started


def measure(motion: Tensor, image: Tensor, free: SpectralVolume, *, pixels: bool) -> dict:
    """Return everything that is said about one loop; the band powers in a list of their own."""
    options = {"period": free.num_frames, "count": len(motion)}
    period = torch.arange(free.num_frames)
    course = spectral_to_motion(free.spectral, num_frames=free.num_frames, times=period)
    wanted = course[torch.arange(len(motion)) % free.num_frames]
    moved, wanted = motion - motion.mean(0), wanted - wanted.mean(0)
    amplitude = moved.square().sum(1).mean().sqrt().item()
    change = (moved - wanted).square().sum(1).mean().sqrt().item()
    expected = expected_amplitude(free.spectral, **options)
    both = pixel_seams(image, free.spectral, motion) if pixels else (math.nan, math.nan)
    return {
        "position": loop_seam(motion), "velocity": loop_seam(motion, order=2),
        "amplitude": amplitude / expected, "change": change / expected,
        "pixel_position": both[0], "pixel_velocity": both[1],
        "bands": band_powers(motion, fps=free.fps),
        "free_bands": band_powers(course, fps=free.fps),
    }  # fmt: skip


def mean(values: Iterable[float]) -> float:
    """Return the mean of what was measured."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def summary(rows: list[dict]) -> dict[str, float]:
    """Return means over photos; the spectrum's distance is between pooled shares of power."""
    found = {name: mean(row[name] for row in rows) for name in MEASURES if name != "spectrum_db"}
    total = [row["free_bands"].sum() for row in rows]
    pooled, free = (
        sum(row[key] / size for row, size in zip(rows, total, strict=True))
        for key in ("bands", "free_bands")
    )
    decibels = 10 * (pooled / free).log10()
    found["spectrum_db"] = decibels.abs().mean().item()
    found["bands_db"] = [round(value, 2) for value in decibels.tolist()]
    found["amplitude_each"] = [round(row["amplitude"], 3) for row in rows]
    return found


def run(options: argparse.Namespace, pipeline: GidPipeline) -> dict[int, dict[str, dict]]:
    """Return the summary of every method for every length."""
    rows, seconds = defaultdict(lambda: defaultdict(list)), defaultdict(list)
    counts = [round(value * pipeline.fps) for value in options.seconds]
    for place, path in enumerate(options.photos):
        image = read_image(path)
        height, width = fit_size(*image.shape[-2:], max_width=256)
        small = resize(image, height=height, width=width)
        settings = {"num_inference_steps": options.steps}
        free, took = timed(pipeline, image, options.seed, **settings)
        seconds["free"].append(took)
        for count in counts:
            guided = {}
            for weight in options.weights if count % free.num_frames else ():
                name = f"guidance {weight:g}"
                volume, took = timed(
                    pipeline, image, options.seed, loop=count,
                    sampling=Sampling(loop_weight=weight, close=False), **settings,
                )  # fmt: skip
                guided[name] = volume.spectral
                seconds[name].append(took)
            ways = motions(free.spectral, guided, period=free.num_frames, count=count)
            for name, motion in ways.items():
                shown = place < options.pixels and name in PIXEL_WAYS
                rows[count][name].append(measure(motion, small, free, pixels=shown))
        report = {c: {name: summary(r) for name, r in ways.items()} for c, ways in rows.items()}
        report["seconds"] = {name: sum(took) / len(took) for name, took in seconds.items()}
        if options.output is not None:  # after every photo, in case the rest is not waited for
            options.output.write_text(json.dumps(report, indent=1) + "\n")
        print(path.stem, {k: f"{v[-1]:.1f} s" for k, v in seconds.items()}, flush=True)
    return report


def main() -> None:
    """Print a table for each length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", type=Path, default=[sample_photo()])
    parser.add_argument("--seconds", nargs="+", type=float, default=[2.5, 3.0, 5.0])
    parser.add_argument("--weights", nargs="*", type=float, default=[0.003])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pixels", type=int, default=2, help="photos whose frames are rendered")
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=None, help="JSON")
    options = parser.parse_args()
    logging.set_verbosity_error()
    pipeline = GidPipeline.from_pretrained(options.model)
    report = run(options, pipeline)
    console = Console(width=110)
    seconds = report.pop("seconds")
    for count, ways in report.items():
        table = Table(*("", *MEASURES), title=f"{count} frames, {count / pipeline.fps:g} s")
        for name, found in ways.items():
            table.add_row(name, *(f"{found[key]:.2f}" for key in MEASURES))
        console.print(table)
    console.print("seconds per sample: " + ", ".join(f"{n} {s:.1f}" for n, s in seconds.items()))


if __name__ == "__main__":
    main()
