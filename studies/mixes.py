"""What the amplitude network learns from which data, and how its scale is best set.

The network is trained on several mixes of data, each time without a part of the real scenes and of
the published results, and judged on that part: where things move, by its map alone. With --samples,
samples of the whole pipeline, with networks that have not seen the photo, are then compared with
its motion for several contrasts. Nothing that is kept for the final judgement is looked at.

    python -m studies.mixes --real runs/real_train --published runs/published \
        --sprites sprites --out runs/amplitude_mixes
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import mean, median, stdev

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gidlite.data import (
    Augmentation,
    Example,
    MotionDataset,
    ShardSource,
    SyntheticSource,
    load_items,
    seeded,
)
from gidlite.data.shards import write_json
from gidlite.data.world.pieces import collect_pieces
from gidlite.evaluate import auc
from gidlite.evaluate.motion import MOVING_PX
from gidlite.motion.normalize import denormalize, normalize
from gidlite.motion.spectral import motion_amplitude
from gidlite.pipeline import GidPipeline
from gidlite.prior import AmplitudeNet, amplitude_loss, drop_features, photo_features

DEFAULTS = {"steps": 1500, "batch": 32, "scenes": 1600, "variations": 10, "folds": 4}
COLOUR = 3  # channels of the features that ImageNet has no part in
DROPPED = 0.3
# Shares of photographic and painted scenes, real clips and published results; then what is hidden.
MIXES = {
    "all": (0.49, 0.16, 0.175, 0.175, ""),
    "all, half of it real": (0.375, 0.125, 0.25, 0.25, ""),
    "all, features dropped at random": (0.49, 0.16, 0.175, 0.175, "dropout"),
    "half of it real, features dropped": (0.375, 0.125, 0.25, 0.25, "dropout"),
    "all, colour instead of features": (0.49, 0.16, 0.175, 0.175, "colour"),
    "without published results": (0.49, 0.16, 0.35, 0.0, ""),
    "without real clips": (0.49, 0.16, 0.0, 0.35, ""),
    "scenes alone": (0.75, 0.25, 0.0, 0.0, ""),
    "photographic scenes alone": (1.0, 0.0, 0.0, 0.0, ""),
    "painted scenes alone": (0.0, 1.0, 0.0, 0.0, ""),
    "real clips and published results alone": (0.0, 0.0, 0.5, 0.5, ""),
}  # fmt: skip


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
            packed = normalize(volumes, self.pipeline.prior.stats)
            latents = self.pipeline.prior.autoencoder.encode(packed)
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


def varied(
    examples: list[Example], scenes: list[str], count: int
) -> tuple[list[Example], list[str]]:
    """Return every sample in so many variations."""
    vary, made, names = Augmentation(), [], []
    for number, (example, scene) in enumerate(zip(examples, scenes, strict=True)):
        for again in range(count):
            made.append(vary(example, seeded(1, number * count + again)))
            names.append(scene)
    return made, names


def composed(pieces, count: int, workers: int) -> list[Example]:
    """Return so many synthetic scenes."""
    dataset = MotionDataset([SyntheticSource(pieces, grid_stride=2)], length=1 << 40)
    numbers = (range(number, number + 1) for number in range(count))
    items = (item for (item,) in load_items(dataset, numbers, workers))
    return [Example(item["image"], item["spectral"], item["reliable"]) for item in items]


def folds_of(scenes: list[str], count: int, *, seed: int) -> dict[str, int]:
    """Deal scenes out to folds."""
    names = sorted(set(scenes))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    return {names[place]: number % count for number, place in enumerate(order)}


def hide(features: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Return features without what a mix does without."""
    if how == "colour":
        return torch.cat([features[:, :COLOUR], torch.zeros_like(features[:, COLOUR:])], dim=1)
    if how == "dropout":
        return drop_features(features, DROPPED, generator=generator)
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
        picks = torch.multinomial(torch.tensor(shares), options.batch, True, generator=generator)
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
        on_gpu = torch.device(options.device).type == "cuda"
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=on_gpu):
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
    found = net.scale(features)[0].cpu() / pipeline.prior.autoencoder.config.scaling_factor
    predicted = motion_amplitude(denormalize(found, pipeline.prior.stats))
    size = tuple(example.reliable.shape)
    predicted = functional.interpolate(predicted[None, None], size, mode="bilinear")[0, 0]
    truth = motion_amplitude(example.spectral) * (256 / size[1])
    moving = (truth > MOVING_PX)[example.reliable]
    return auc(predicted[example.reliable], moving)


def judge(found: list[tuple[str, float]]) -> dict:
    """Return the median over scenes of the mean over each scene's samples."""
    scenes: dict[str, list[float]] = {}
    for scene, value in found:
        if value == value:
            scenes.setdefault(scene, []).append(value)
    means = {scene: sum(values) / len(values) for scene, values in scenes.items()}
    return {"median": median(means.values()), "scenes": means} if means else {}


class Laboratory:
    """Data, dealt out to folds, and what is measured on them."""

    def __init__(self, options) -> None:
        self.options = options
        self.pipeline = GidPipeline.from_pretrained().to(options.device)
        self.real = {"real": real_examples(options.real)}
        self.real["published"] = real_examples(options.published)
        self.banks = self._make_banks()
        self.folds = {
            kind: folds_of(scenes, options.folds, seed=seed)
            for seed, (kind, (_, scenes)) in enumerate(self.real.items(), start=3)
        }

    def _make_banks(self) -> dict[str, Bank]:
        options, maker = self.options, Maker(self.pipeline, self.options.device)
        pieces = {
            "photographic": collect_pieces(options.sprites, seed=0)[0],
            "painted": collect_pieces(None)[0],
        }
        counts = {"photographic": options.scenes * 3 // 4, "painted": options.scenes // 4}
        banks = {}
        for name, count in counts.items():
            examples = composed(pieces[name], count, options.workers)
            banks[name] = maker.bank(examples, [""] * count)
        return banks | {
            kind: maker.bank(*varied(*found, options.variations))
            for kind, found in self.real.items()
        }

    def train(self, mix: tuple, fold: int) -> AmplitudeNet:
        """Train a network on a mix without the real scenes of a fold."""
        allowed = {}
        for name, bank in self.banks.items():
            parts = [self.folds[name][s] if name in self.folds else -1 for s in bank.scene]
            allowed[name] = torch.tensor([n for n, part in enumerate(parts) if part != fold])
        return train(self.banks, mix, allowed, self.options)

    def networks(self, name: str) -> list[AmplitudeNet]:
        """Return a network for every fold; one for all if the mix has nothing to leave out."""
        mix = MIXES[name]
        count = self.options.folds if any(mix[2:4]) else 1
        networks = [self.train(mix, fold) for fold in range(count)]
        for fold, network in enumerate(networks):
            network.save_pretrained(self.options.out / name.replace(" ", "_") / str(fold))
        return networks * (self.options.folds // count)

    def where(self, networks: list[AmplitudeNet], how: str) -> dict[str, dict]:
        """Return how well maps tell what moves, for each kind of photo, scene by scene."""
        found = {}
        for kind, (examples, scenes) in self.real.items():
            nets = [networks[self.folds[kind][scene]] for scene in scenes]
            found[kind] = judge(
                [
                    (scene, where(self.pipeline, net, example, how, self.options.device))
                    for net, example, scene in zip(nets, examples, scenes, strict=True)
                ]
            )
        return found


def against(found: dict, reference: dict) -> tuple[float, float]:
    """Return the mean difference from a reference, scene by scene, and its standard error."""
    ours, theirs = (scores.get("scenes", {}) for scores in (found, reference))
    gaps = [ours[scene] - theirs[scene] for scene in ours if scene in theirs]
    return (mean(gaps), stdev(gaps) / len(gaps) ** 0.5) if len(gaps) > 1 else (nan, nan)


def show(title: str, found: dict[str, dict], reference: dict[str, dict], since: float) -> None:
    """Print medians, and how far they are from those of the first row."""
    cells = []
    for kind, scores in found.items():
        gap, error = against(scores, reference[kind])
        if scores:
            cells.append(f"{kind} {scores['median']:.3f} ({gap:+.3f} ± {error:.3f})")
    print(f"{title}: {', '.join(cells)}  ({time.monotonic() - since:.0f} s)", flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--real", "--published", "--sprites"):
        parser.add_argument(name, required=True, help="Folder.")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--device", default="cpu")
    for name, value in (DEFAULTS | {"workers": 0}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--mix", action="append", help="Only this; may be repeated.")
    return parser.parse_args()


def main() -> None:
    """Train on every mix; print and keep what came of it."""
    options, started = parse(), time.monotonic()
    laboratory = Laboratory(options)
    table: dict = {name: getattr(options, name) for name in DEFAULTS} | {"mixes": {}}
    for kind, (examples, scenes) in laboratory.real.items():
        table[f"{kind} samples"], table[f"{kind} scenes"] = len(examples), len(set(scenes))
    print(f"data made in {time.monotonic() - started:.0f} s", flush=True)
    for name, mix in MIXES.items():
        if options.mix and name not in options.mix:
            continue
        networks = laboratory.networks(name)
        table["mixes"][name] = laboratory.where(networks, mix[4])
        show(name, table["mixes"][name], next(iter(table["mixes"].values())), started)
        write_json(options.out / "mixes.json", table)


if __name__ == "__main__":
    main()
