"""Where the time of a prediction goes: photo features, amplitude, denoiser, decoder; and memory.

How good the prior is: `gidlite evaluate motion CLIP...` and `gidlite evaluate scenes`.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from gidlite.media import read_image, resize, sample_photo
from gidlite.pipeline import GidPipeline, working_size
from gidlite.prior import photo_features


def seconds(action, *, repeats: int = 3) -> float:
    """Return the median time of an action, after one call to warm up."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


@torch.no_grad()
def main() -> None:
    """Print a row per part and the whole, for the default solver and guidance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    started = time.perf_counter()
    pipeline = GidPipeline.from_pretrained(options.model)
    loading = time.perf_counter() - started
    image = read_image(sample_photo())
    height, width = working_size(*image.shape[-2:])
    photo = resize(image, height=height, width=width)[None]
    features = photo_features(photo)
    scale = pipeline.amplitude.scale(features)
    noisy, freq_index = torch.randn_like(scale), torch.arange(scale.shape[1])[None]
    condition = pipeline.denoiser.embed_photo(features, scale)
    both = (noisy.repeat(2, 1, 1, 1, 1), torch.full((2,), 500), freq_index.repeat(2, 1))
    parts = {
        "photo features": (lambda: photo_features(photo), 1),
        "amplitude": (lambda: pipeline.amplitude.scale(features), 1),
        "denoiser, guided": (
            lambda: pipeline.denoiser(*both, condition.repeat(2, 1, 1, 1)), options.steps
        ),
        "decoder": (lambda: pipeline.autoencoder.decode(noisy, photo), 1),
    }  # fmt: skip
    whole = seconds(lambda: pipeline(image, num_inference_steps=options.steps), repeats=1)
    table = Table("part", "seconds each", "times", "share of a prediction")
    for name, (action, times) in parts.items():
        each = seconds(action)
        table.add_row(name, f"{each:.3f}", str(times), f"{each * times / whole:.0%}")
    table.add_row("whole prediction", f"{whole:.1f}", "1", "100%")
    console = Console()
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(
        f"{width}x{height}, {options.steps} steps, {torch.get_num_threads()} threads; loading "
        f"{loading:.1f} s; peak memory {peak:.1f} GB"
    )


if __name__ == "__main__":
    main()
