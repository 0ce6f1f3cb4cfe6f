"""What looking at the photo gains the autoencoder's decoder.

Two decoders are trained from scratch on the same slices in the same order, one that sees the photo
and one that enlarges latents bilinearly, and compared on held-out scenes and, with --real, on
samples of real clips, with which neither is trained. The shipped autoencoder is measured beside
them.

    python -m studies.autoencoder --sprites sprites --real runs/held_out
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor

from gidlite.data import Example, MotionDataset, ShardSource, SyntheticSource
from gidlite.data.splits import HELD_OUT_SEED
from gidlite.data.world.pieces import collect_pieces
from gidlite.motion.normalize import FrequencyStats, denormalize, normalize
from gidlite.pipeline import GidPipeline
from gidlite.prior.autoencoder import SliceAutoencoder, autoencoder_loss


def scenes(sprites: str | None, first: int, count: int) -> list[Example]:
    """Return synthetic scenes, three in four photographic if there are sprites."""
    pieces = collect_pieces(sprites, seed=first)
    dataset = MotionDataset([SyntheticSource(p, grid_stride=2) for p in pieces], length=1 << 50)
    items = [dataset[number] for number in range(first, first + count)]
    return [Example(item["image"], item["spectral"], item["reliable"]) for item in items]


def train(
    examples: list[Example], stats: FrequencyStats, *, guided: bool, steps: int, batch: int
) -> SliceAutoencoder:
    """Train an autoencoder of the shipped size on single bins of scenes."""
    torch.manual_seed(0)
    model = SliceAutoencoder((24, 48), guided=guided)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        picks = torch.randint(len(examples), (batch,), generator=generator).tolist()
        packed = torch.stack([normalize(examples[n].spectral, stats) for n in picks])
        bins = torch.randint(packed.shape[1], (batch, 4), generator=generator)
        slices = packed[torch.arange(batch)[:, None], bins]
        photos = torch.stack([examples[n].image for n in picks])
        loss, _ = autoencoder_loss(model, slices, photos, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


@torch.no_grad()
def error(model: SliceAutoencoder, example: Example, stats: FrequencyStats) -> tuple[float, float]:
    """Return squared error and power of a volume sent through latents and back, in px²."""
    packed = normalize(example.spectral, stats)[None]
    decoded = model.decode(model.encode(packed), example.image[None])[0]
    gap: Tensor = (denormalize(decoded, stats) - example.spectral)[1:, :, example.reliable]
    truth = example.spectral[1:, :, example.reliable]
    return gap.abs().square().sum().item(), truth.abs().square().sum().item()


def show(name: str, model: SliceAutoencoder, sets: dict[str, list[Example]], stats) -> None:
    """Print relative RMS errors, over all examples together and in their median."""
    cells = []
    for kind, examples in sets.items():
        pairs = [error(model, example, stats) for example in examples]
        pairs = [(gap, power) for gap, power in pairs if power > 0]
        gaps, powers = zip(*pairs, strict=True)
        pooled = (sum(gaps) / sum(powers)) ** 0.5
        middle = median((gap / power) ** 0.5 for gap, power in pairs)
        cells.append(f"{kind} {pooled:.3f} pooled, {middle:.3f} median of {len(pairs)}")
    print(f"{name}: {'; '.join(cells)}", flush=True)


def main() -> None:
    """Train both decoders, print errors of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sprites", help="Folder of photographic pieces.")
    parser.add_argument("--real", help="Folder of shards of real clips, to measure on.")
    for name, value in {"steps": 600, "batch": 6, "scenes": 160, "held-out": 24}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    pipeline = GidPipeline.from_pretrained()
    examples = scenes(options.sprites, 0, options.scenes)
    sets = {"scenes": scenes(options.sprites, HELD_OUT_SEED, options.held_out)}
    if options.real:
        source = ShardSource(options.real, grid_stride=2)
        sets["real"] = [source.example(n, 0) for n in range(len(source.shards))]
    show("shipped", pipeline.prior.autoencoder, sets, pipeline.prior.stats)
    for name, guided in (("sees the photo", True), ("does not", False)):
        started = time.monotonic()
        size = {"steps": options.steps, "batch": options.batch}
        model = train(examples, pipeline.prior.stats, guided=guided, **size)
        show(f"{name} ({time.monotonic() - started:.0f} s)", model, sets, pipeline.prior.stats)


if __name__ == "__main__":
    main()
