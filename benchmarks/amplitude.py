"""What the amplitude network learns from which data, and how its scale is best set.

The network is trained on several mixes of data, each time without a part of the real scenes and of
the published results, and judged on that part: where things move, by its map alone. Then samples
of the whole pipeline, with networks that have not seen the photo, are compared with its motion for
several contrasts. Nothing that is kept for the final judgement is looked at.

    python benchmarks/amplitude.py --real runs/real_train --published runs/published \
        --sprites sprites --out runs/amplitude_mixes
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gidlite.amplitude import AmplitudeNet, amplitude_loss
from gidlite.dataset import (
    Augmentation,
    Example,
    MotionDataset,
    ShardSource,
    SyntheticSource,
    seeded,
)
from gidlite.evaluate.scores import MOVING_PX, Case, compare
from gidlite.metrics import auc
from gidlite.normalize import denormalize, normalize
from gidlite.photo import photo_features
from gidlite.pipeline import GidPipeline
from gidlite.shards import write_json
from gidlite.spectral import motion_amplitude, resize_spectral, spectral_to_motion
from gidlite.synthesize import collect_pieces
from gidlite.train.prefetch import Prefetched

FOLDS = 4
VARIATIONS = 10  # of every real sample
COLOUR = 3  # channels of the features that ImageNet has no part in
# Shares of photographic and painted scenes, real clips and published results; then what is hidden.
MIXES = {
    "all": (0.49, 0.16, 0.175, 0.175, ""),
    "all, half of it real": (0.375, 0.125, 0.25, 0.25, ""),
    "all, features dropped at random": (0.49, 0.16, 0.175, 0.175, "dropout"),
    "all, colour instead of features": (0.49, 0.16, 0.175, 0.175, "colour"),
    "without published results": (0.49, 0.16, 0.35, 0.0, ""),
    "without real clips": (0.49, 0.16, 0.0, 0.35, ""),
    "scenes alone": (0.75, 0.25, 0.0, 0.0, ""),
    "photographic scenes alone": (1.0, 0.0, 0.0, 0.0, ""),
    "painted scenes alone": (0.0, 1.0, 0.0, 0.0, ""),
    "real clips and published results alone": (0.0, 0.0, 0.5, 0.5, ""),
}  # fmt: skip
CONTRASTS = (0.0, 0.5, 1.0)


@dataclass
class Bank:
    """Examples as the network meets them, on the device, each with the scene it belongs to."""

    features: Tensor
    latents: Tensor
    reliable: Tensor
    scene: list[str]

    def draw(self, count: int, allowed: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        chosen = allowed[torch.randint(len(allowed), (count,), generator=generator)]
        return tuple(x[chosen].float() for x in (self.features, self.latents, self.reliable))


class Maker:
    """Turns examples into what the network meets."""

    def __init__(self, pipeline: GidPipeline, device: str) -> None:
        self.pipeline, self.device = pipeline, device

    @torch.no_grad()
    def bank(self, examples: list[Example], scenes: list[str]) -> Bank:
        parts: list[tuple[Tensor, ...]] = []
        for first in range(0, len(examples), 16):
            some = examples[first : first + 16]
            photos = torch.stack([e.image for e in some]).to(self.device)
            volumes = torch.stack([e.spectral for e in some]).to(self.device)
            reliable = torch.stack([e.reliable for e in some]).to(self.device)
            packed = normalize(volumes, self.pipeline.stats)
            latents = self.pipeline.autoencoder.encode(packed)
            share = functional.adaptive_avg_pool2d(reliable.float(), latents.shape[-2:])
            features = photo_features(photos)
            parts.append((features.half(), latents.half(), share > 0.5))
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        return Bank(*columns, scenes)


def scene_of(info: dict) -> str:
    """Return a name that samples of one place share."""
    name = re.sub(r"(-|_)?loop(_[0-9]+)?$", "", Path(info["source"]).stem)
    return re.sub(r"_([0-9]|[a-z])$", "", name)


def real_examples(folder: str) -> tuple[list[Example], list[str]]:
    """Return the samples of a folder on the motion grid, and their scenes."""
    source = ShardSource(folder, grid_stride=2)
    order = torch.randperm(len(source.shards), generator=seeded(0, 0)).tolist()
    examples = [source.example(number, 0) for number in range(len(order))]
    return examples, [scene_of(source.shards[place].info) for place in order]


def varied(examples: list[Example], scenes: list[str]) -> tuple[list[Example], list[str]]:
    """Return every sample in several variations."""
    vary, made, names = Augmentation(), [], []
    for number, (example, scene) in enumerate(zip(examples, scenes, strict=True)):
        for again in range(VARIATIONS):
            made.append(vary(example, seeded(1, number * VARIATIONS + again)))
            names.append(scene)
    return made, names


def composed(pieces, count: int, workers: int) -> list[Example]:
    """Return so many synthetic scenes."""
    dataset = MotionDataset([SyntheticSource(pieces, grid_stride=2)], length=1 << 40)
    source = Prefetched(dataset, workers) if workers else dataset
    items = source.take(range(count))
    return [Example(item["image"], item["spectral"], item["reliable"]) for item in items]


def folds_of(scenes: list[str], *, seed: int) -> dict[str, int]:
    """Deal scenes out to folds."""
    names = sorted(set(scenes))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    return {names[place]: number % FOLDS for number, place in enumerate(order)}


def hide(features: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Return features without what a mix does without."""
    if how == "colour":
        return torch.cat([features[:, :COLOUR], torch.zeros_like(features[:, COLOUR:])], dim=1)
    if how == "dropout":
        kept = torch.rand(*features.shape[:2], 1, 1, generator=generator) >= 0.3
        return features * kept.to(features.device) / 0.7
    return features


def train(banks: dict[str, Bank], mix: tuple, allowed: dict[str, Tensor], options) -> AmplitudeNet:
    """Train a network on a mix of the banks, of each only what is allowed; return its average."""
    *shares, how = mix
    torch.manual_seed(0)
    net = AmplitudeNet().to(options.device)
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.5e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.5e-3, total_steps=options.steps, pct_start=0.05
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(options.steps):
        picks = torch.multinomial(torch.tensor(shares), 32, True, generator=generator)
        counts = picks.bincount(minlength=4).tolist()
        parts = [
            banks[name].draw(count, allowed[name], generator)
            for name, count in zip(banks, counts, strict=True) if count
        ]  # fmt: skip
        features, latents, reliable = (torch.cat(column) for column in zip(*parts, strict=True))
        if torch.rand(1, generator=generator) < 0.5:
            features, latents, reliable = (
                x.flip(-1) for x in (features, latents, reliable)
            )  # fmt: skip
        with torch.autocast(torch.device(options.device).type, dtype=torch.bfloat16):
            loss = amplitude_loss(net, hide(features, how, generator), latents, reliable)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(net)
    return averaged.module.eval().requires_grad_(False)


def where(pipeline, net: AmplitudeNet, example: Example, how: str, device: str) -> float:
    """Return how well the network's map alone tells what moves in a photo it has not seen."""
    features = photo_features(example.image[None].to(device))
    features = hide(features, how if how == "colour" else "", torch.Generator())
    # The magnitudes as a volume: what moves so far in every bin.
    found = net.scale(features)[0].cpu() / pipeline.autoencoder.config.scaling_factor
    predicted = motion_amplitude(denormalize(found, pipeline.stats))
    size = tuple(example.reliable.shape)
    predicted = functional.interpolate(predicted[None, None], size, mode="bilinear")[0, 0]
    truth = motion_amplitude(example.spectral) * (256 / size[1])
    moving = (truth > MOVING_PX)[example.reliable]
    return auc(predicted[example.reliable], moving)


def sampled(pipeline, net, example: Example, contrast: float) -> dict[str, float]:
    """Return scores of one sample for a photo that the network has not seen."""
    amplitude, pipeline.amplitude = pipeline.amplitude, net
    height, width = example.image.shape[-2:]
    truth = resize_spectral(example.spectral, height=height, width=width)
    reliable = functional.interpolate(example.reliable[None, None].float(), (height, width))
    motion = spectral_to_motion(truth, num_frames=pipeline.num_frames)
    case = Case("", "", example.image, motion, reliable[0, 0] > 0.5)
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline(example.image, contrast=contrast, generator=generator).spectral
    pipeline.amplitude = amplitude
    scores = compare(case, drawn[None])
    names = ("where_auc", "amplitude_ratio", "static_to_moving", "spectral_shape_distance_db")
    return {name: scores[name] for name in names}


def judge(found: list[tuple[str, float]]) -> dict:
    """Return the median over scenes of the mean over each scene's samples."""
    scenes: dict[str, list[float]] = {}
    for scene, value in found:
        if value == value:
            scenes.setdefault(scene, []).append(value)
    means = {scene: sum(values) / len(values) for scene, values in scenes.items()}
    return {"median": median(means.values()), "scenes": means} if means else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", required=True)
    parser.add_argument("--published", required=True)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=1600)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--minutes", type=float, default=1e9, help="No new training after this.")
    parser.add_argument("--mix", action="append", help="Only these; may be repeated.")
    options = parser.parse_args()
    started = time.monotonic()
    pipeline = GidPipeline.from_pretrained().to(options.device)
    maker = Maker(pipeline, options.device)
    real, real_scenes = real_examples(options.real)
    shown, shown_scenes = real_examples(options.published)
    photographic, painted = collect_pieces(options.sprites, seed=0)[0], collect_pieces(None)[0]
    counts = {"photographic": options.scenes * 3 // 4, "painted": options.scenes // 4}
    made = {
        "photographic": composed(photographic, counts["photographic"], options.workers),
        "painted": composed(painted, counts["painted"], options.workers),
    }
    banks = {name: maker.bank(items, [""] * len(items)) for name, items in made.items()}
    banks["real"] = maker.bank(*varied(real, real_scenes))
    banks["published"] = maker.bank(*varied(shown, shown_scenes))
    print(f"{options.scenes} scenes, {len(real)} + {len(shown)} real samples of "
          f"{len(set(real_scenes))} + {len(set(shown_scenes))} scenes, made in "
          f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    folds = {"real": folds_of(real_scenes, seed=3), "published": folds_of(shown_scenes, seed=4)}
    options.out.mkdir(parents=True, exist_ok=True)
    table: dict = {"steps": options.steps, "scenes": options.scenes, "mixes": {}, "contrasts": {}}

    def late() -> bool:
        return time.monotonic() - started > 60 * options.minutes

    def allowed(without: int | None) -> dict[str, Tensor]:
        kept = {}
        for name, bank in banks.items():
            parts = [folds[name][s] if name in folds else -1 for s in bank.scene]
            kept[name] = torch.tensor([n for n, part in enumerate(parts) if part != without])
        return kept

    kinds = (("real", real, real_scenes), ("published", shown, shown_scenes))
    unseen: dict[int, AmplitudeNet] = {}  # networks of the whole mix, by what they have not seen
    for name, mix in MIXES.items():
        if late() or (options.mix and name not in options.mix):
            continue
        began, maps = time.monotonic(), {"real": [], "published": []}
        net = None
        for fold in range(FOLDS):
            if net is None or any(mix[2:4]):  # without real data, nothing is to be left out
                net = train(banks, mix, allowed(fold), options)
            if name == "all":
                unseen[fold] = net
            for kind, examples, scenes in kinds:
                for example, scene in zip(examples, scenes, strict=True):
                    if folds[kind][scene] == fold:
                        value = where(pipeline, net, example, mix[4], options.device)
                        maps[kind].append((scene, value))
        table["mixes"][name] = {kind: judge(found) for kind, found in maps.items()}
        medians = {k: v.get("median") for k, v in table["mixes"][name].items()}
        print(f"{name}: {medians}  {time.monotonic() - began:.0f} s", flush=True)
        write_json(options.out / "mixes.json", table)
        if mix[4] != "colour":
            net = train(banks, mix, allowed(None), options)
            net.half().save_pretrained(options.out / re.sub(r"\W+", "_", name))
    for contrast in CONTRASTS if unseen else ():
        rows = []
        for place in range(0, len(real), 2):  # neighbours are mostly of one clip
            net = unseen[folds["real"][real_scenes[place]]]
            rows.append((real_scenes[place], sampled(pipeline, net, real[place], contrast)))
        table["contrasts"][str(contrast)] = {
            score: judge([(scene, row[score]) for scene, row in rows]) for score in rows[0][1]
        }
        medians = {k: v.get("median") for k, v in table["contrasts"][str(contrast)].items()}
        print(f"contrast {contrast}: {medians}", flush=True)
        write_json(options.out / "mixes.json", table)


if __name__ == "__main__":
    main()
