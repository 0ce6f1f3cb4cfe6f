"""Where the time of a prediction goes, for both representations side by side; and memory.

How good the priors are: `gidlite evaluate motion CLIP...` and `gidlite evaluate scenes`.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gidlite.media import read_image, resize, sample_photo
from gidlite.pipeline import REPRESENTATIONS, GidPipeline, working_size
from gidlite.prior import image_taps, photo_features


def seconds(action: Callable[[], object], *, repeats: int = 3) -> float:
    """Return the median time of an action, after one call to warm up."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def grid_parts(prior, photo: Tensor, steps: int) -> dict[str, tuple[Callable, int]]:
    """Return what a prediction consists of, and how often each is done."""
    features = photo_features(photo)
    scale = prior.amplitude.scale(features)
    noisy, bins = torch.randn_like(scale), torch.arange(scale.shape[1])[None]
    condition, step = prior.denoiser.embed_photo(features, scale), torch.tensor([500])
    return {
        "photo features": (lambda: photo_features(photo), 1),
        "amplitude": (lambda: prior.amplitude.scale(features), 1),
        "denoiser": (lambda: prior.denoiser(noisy, step, bins, condition), steps),
        "decoder": (lambda: prior.autoencoder.decode(noisy, photo), 1),
    }


def modes_parts(prior, photo: Tensor, steps: int) -> dict[str, tuple[Callable, int]]:
    """Return the same for modes."""
    taps, found = image_taps(photo), prior.modes(photo)
    coords = torch.randn(1, len(found.scale), 2, found.shapes.shape[1])
    bins, step = torch.arange(coords.shape[1])[None], torch.tensor([500])
    condition, amount = prior.drawer.embed(found.tokens), torch.ones(1)
    return {
        "photo features": (lambda: image_taps(photo), 1),
        "modes": (lambda: prior.modes(photo, taps), 1),
        "drawer": (lambda: prior.drawer(coords, step, bins, condition), steps),
        "volume": (lambda: found.compose(coords, amount), 1),
    }


@torch.no_grad()
def main() -> None:
    """Print a row per part and the whole of either representation, for the default solver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    image = read_image(sample_photo())
    height, width = working_size(*image.shape[-2:])
    photo = resize(image, height=height, width=width)[None]
    table = Table("representation", "part", "seconds each", "times", "share of a prediction")
    for name in REPRESENTATIONS:
        pipeline = GidPipeline.from_pretrained(name)
        parts = {"modes": modes_parts, "grid": grid_parts}[name]
        whole = seconds(lambda p=pipeline: p(image, num_inference_steps=options.steps), repeats=1)
        for part, (action, times) in parts(pipeline.prior, photo, options.steps).items():
            each = seconds(action)
            share = f"{each * times / whole:.0%}"
            table.add_row(name, part, f"{each:.3f}", str(times), share)
        table.add_row(name, "whole prediction", f"{whole:.1f}", "1", "100%")
    console = Console()
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(
        f"{width}x{height}, {options.steps} steps, {torch.get_num_threads()} threads; "
        f"peak memory {peak:.1f} GB"
    )


if __name__ == "__main__":
    main()
