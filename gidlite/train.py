"""Training: the autoencoder, then the prior, on scenes of the synthetic world.

Everything random is a function of the seed and the step, and scene number i of the seed alone,
so a run resumed on a CPU continues exactly as if it had not stopped. Scenes go through a *pool*:
a window of recent scenes from which every step draws its batch and into which it puts a few new
ones. On a CPU, where making a scene costs as much as learning from it, each is used several times.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gidlite._checks import GidliteError
from gidlite.autoencoder import autoencoder_loss, encode, make_autoencoder
from gidlite.dataset import Augmented, MotionDataset, ShardSource, SyntheticSource, seeded
from gidlite.denoiser import Denoiser, photo_features
from gidlite.diffusion import denoising_loss, make_scheduler
from gidlite.normalize import FrequencyStats, fit_frequency_stats, normalize, stats_of_variant
from gidlite.synthesize import collect_pieces

__all__ = [
    "PARTS",
    "ScenePool",
    "TrainConfig",
    "load_checkpoint",
    "make_dataset",
    "run_training",
    "train",
]

PARTS = ("vae", "prior")
_SHARD_BYTES = 15 << 20


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; saved beside every checkpoint.

    Attributes:
        part: "vae" or "prior".
        scenes_per_step: Scenes in a batch.
        slices_per_scene: Bins drawn from each of them.
        new_scenes_per_step: Scenes added to the pool at every step.
        pool_size: Scenes kept; the oldest leave.
        learning_rate: Peak of a linear warm-up over ``warmup_steps`` and a cosine decay.
        steps: Length of the cosine decay and of the run.
        ema_decay: Of the averaged weights, which are the ones to use.
        real_share: Share of examples from real shards, where there are any.
        normalization: One of ``normalize.VARIANTS``.
        percentile: Of coefficient magnitude, that the scales are read at.
        condition_dropout: Share of slices trained without the photo, for guidance.
        mixed_precision: bfloat16 where it is safe.
    """

    part: str = "prior"
    num_frequencies: int = 16
    height: int = 160
    width: int = 256
    grid_stride: int = 2
    num_frames: int = 150
    fps: float = 30.0
    scenes_per_step: int = 8
    slices_per_scene: int = 4
    new_scenes_per_step: int = 1
    pool_size: int = 1024
    learning_rate: float = 4e-4
    warmup_steps: int = 100
    steps: int = 20_000
    ema_decay: float = 0.999
    condition_dropout: float = 0.1
    mixed_precision: bool = True
    seed: int = 0
    real_share: float = 0.3
    normalization: str = "adaptive"
    percentile: float = 95.0
    autoencoder_channels: tuple[int, ...] = (32, 64, 96)
    denoiser_channels: tuple[int, ...] = (64, 128, 192)

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise GidliteError(f"part {self.part!r} is unknown; train one of {', '.join(PARTS)}")
        if self.slices_per_scene > self.num_frequencies:
            raise GidliteError("slices_per_scene is larger than num_frequencies; lower it")

    @classmethod
    def from_json(cls, path: str | Path, **overrides) -> TrainConfig:
        """Read a config; unknown keys are refused with the valid ones listed."""
        try:
            values = json.loads(Path(path).read_text()) | overrides
        except (OSError, ValueError) as error:
            raise GidliteError(f"{path} is not a readable JSON config ({error})") from None
        valid = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - valid):
            raise GidliteError(
                f"{path} has unknown keys {', '.join(unknown)}; valid: {', '.join(sorted(valid))}"
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


class ScenePool:
    """A sliding window over the endless, numbered scenes of one seed.

    Args:
        make: Turns a range of scene numbers into a dict of tensors, first axis the scene.
        size: Scenes kept.
        per_step: New scenes per step.
        first_step: Step to start at; the window is rebuilt as it would have been.
        initial: Scenes in the window before step 0.
    """

    def __init__(
        self,
        make: Callable[[range], dict[str, Tensor]],
        *,
        size: int,
        per_step: int,
        first_step: int,
        initial: int,
    ) -> None:
        self._make, self._size, self._per_step, self._initial = make, size, per_step, initial
        self._items: list[dict[str, Tensor]] = []
        self._end = max(0, initial + first_step * per_step - size)
        self.advance(first_step)

    def advance(self, step: int) -> None:
        """Add the scenes due before ``step`` and drop the oldest."""
        due = self._initial + step * self._per_step
        while self._end < due:
            numbers = range(self._end, min(due, self._end + 8))
            made = self._make(numbers)
            self._items += [{k: v[i] for k, v in made.items()} for i in range(len(numbers))]
            self._end = numbers.stop
        self._items = self._items[-self._size :]

    def draw(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return ``count`` scenes of the window, stacked."""
        chosen = torch.randint(len(self._items), (count,), generator=generator).tolist()
        return {k: torch.stack([self._items[i][k] for i in chosen]) for k in self._items[0]}


def make_dataset(
    config: TrainConfig,
    *,
    sprites: str | Path | None = None,
    data: Sequence[str | Path] = (),
    device: str = "cpu",
) -> MotionDataset:
    """Return what to train on: synthetic scenes, and folders of real shards in a share of draws.

    Args:
        config: Sizes, ``real_share`` and the seed.
        sprites: Folder of photographic pieces for the scenes.
        data: Folders that ``gidlite extract`` wrote.
        device: Where scenes are made.

    Raises:
        GidliteError: If a folder cannot be used.
    """
    shape = {"grid_stride": config.grid_stride, "num_frequencies": config.num_frequencies}
    scene = {
        "height": config.height, "width": config.width, "num_frames": config.num_frames,
        "fps": config.fps,
    }  # fmt: skip
    pieces = collect_pieces(sprites, seed=config.seed)
    sources = [SyntheticSource(p.to(device), **shape, **scene) for p in pieces]
    weights = [(1 - config.real_share if data else 1.0) / len(sources)] * len(sources)
    real = [Augmented(ShardSource(folder, **shape)) for folder in data]
    weights += [config.real_share / len(real)] * len(real)
    return MotionDataset([*sources, *real], weights=weights, length=1 << 40, seed=config.seed)


def fit_stats(config: TrainConfig, dataset: MotionDataset, *, count: int = 256) -> FrequencyStats:
    """Fit frequency statistics on items from the far end of the dataset, never trained on."""
    volumes = [dataset[10**9 + n]["spectral"].cpu() for n in range(count)]
    return fit_frequency_stats(volumes, percentile=config.percentile, variant=config.normalization)


def _slices(values: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw ``count`` bins of every volume ``(B, K, ...)``; return slices and bin indices."""
    order = torch.rand(values.shape[:2], generator=generator).argsort(dim=1)[:, :count]
    rows = torch.arange(len(values))[:, None]
    return values[rows, order].flatten(0, 1), order.flatten()


class _AutoencoderTask:
    """What is learned and from what, for the autoencoder."""

    def __init__(self, config: TrainConfig, dataset, stats: FrequencyStats, device) -> None:
        self.config, self.dataset, self.stats, self.device = config, dataset, stats, device
        self.model: nn.Module = make_autoencoder(config.autoencoder_channels).to(device)

    def make(self, numbers: range) -> dict[str, Tensor]:
        volumes = torch.stack([self.dataset[n]["spectral"].to(self.device) for n in numbers])
        return {"packed": normalize(volumes, self.stats).half()}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        slices, _ = _slices(batch["packed"], self.config.slices_per_scene, generator)
        slices = slices.to(self.device).float()
        loss, _ = autoencoder_loss(self.model, slices, generator=generator)
        return loss


class _PriorTask:
    """What is learned and from what, for the prior."""

    def __init__(self, config, dataset, stats, device, autoencoder) -> None:
        self.config, self.dataset, self.stats, self.device = config, dataset, stats, device
        self.autoencoder = autoencoder.to(device).eval().requires_grad_(False)
        self.scheduler = make_scheduler("ddpm")
        self.model: nn.Module = Denoiser(config.num_frequencies, config.denoiser_channels).to(
            device
        )

    @torch.no_grad()
    def make(self, numbers: range) -> dict[str, Tensor]:
        items = [self.dataset[n] for n in numbers]
        images, volumes = (
            torch.stack([item[key].to(self.device) for item in items])
            for key in ("image", "spectral")
        )
        with _autocast(self.config, self.device):
            latents = encode(self.autoencoder, normalize(volumes, self.stats))
            features = photo_features(images)
        return {"latents": latents.half(), "features": features.half()}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        count = self.config.slices_per_scene
        latents, freq_index = _slices(batch["latents"], count, generator)
        condition = self.model.embed_photo(batch["features"].to(self.device).float())
        kept = (
            torch.rand(len(latents), 1, 1, 1, generator=generator) >= self.config.condition_dropout
        )
        return denoising_loss(
            self.model,
            latents.to(self.device).float(),
            freq_index.to(self.device),
            condition.repeat_interleave(count, dim=0) * kept.to(self.device),
            scheduler=self.scheduler,
            generator=generator if str(self.device) == "cpu" else None,
        )


def _autocast(config: TrainConfig, device: torch.device | str) -> torch.autocast:
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=config.mixed_precision)


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    dataset: MotionDataset,
    device: str = "cpu",
    minutes: float | None = None,
    resume: bool = False,
    autoencoder=None,
    stats: FrequencyStats | None = None,
    checkpoint_every_minutes: float = 5.0,
    report: Callable[[int, float, float], None] | None = None,
) -> nn.Module:
    """Train one part and return it with averaged (EMA) weights.

    Args:
        config: What and how.
        out: Folder for checkpoints (shards under 16 MiB) and ``log.csv``.
        dataset: What to learn from, see ``make_dataset``.
        device: Where to train.
        minutes: Stop cleanly after this long; otherwise after ``config.steps``.
        resume: Continue from the checkpoint in ``out``.
        autoencoder: Trained autoencoder, needed by the prior.
        stats: Frequency statistics; fitted first if not given.
        checkpoint_every_minutes: Time between checkpoints.
        report: Called with (step, smoothed loss, steps per second) now and then.

    Raises:
        GidliteError: If there is nothing to resume, the configs differ, a checkpoint exists but
            ``resume`` was not asked for, or the loss is not finite.
    """
    out = Path(out)
    stats = stats or fit_stats(config, dataset)
    torch.manual_seed(config.seed)  # initial weights; everything later is seeded by step
    if config.part == "vae":
        task = _AutoencoderTask(config, dataset, stats, device)
    elif autoencoder is None:
        raise GidliteError("training the prior needs a trained autoencoder; train vae first")
    else:
        task = _PriorTask(config, dataset, stats, device, autoencoder)
    state = _State(config, task.model, stats, out)
    if resume:
        state.load()
    elif (out / "checkpoint").exists():
        raise GidliteError(f"{out} already holds a checkpoint; pass --resume or another --out")
    pool = ScenePool(
        task.make, size=config.pool_size, per_step=config.new_scenes_per_step,
        first_step=state.step, initial=4 * config.scenes_per_step,
    )  # fmt: skip
    started = saved = time.monotonic()
    for loss in _steps(state, task, pool):
        now = time.monotonic()
        if state.step % 20 == 0:
            state.log(loss, now - started)
            if report is not None:
                report(state.step, state.smoothed_loss, state.step_rate)
        if now - saved > checkpoint_every_minutes * 60:
            state.save()
            saved = now
        if minutes is not None and now - started > minutes * 60:
            break
    state.save()
    return state.averaged.module


def _steps(state: _State, task, pool: ScenePool) -> Iterator[float]:
    """Run optimizer steps until the configured number, yielding the loss of each."""
    config = state.config
    while state.step < config.steps:
        generator = seeded(config.seed + 1, state.step)
        pool.advance(state.step)
        batch = pool.draw(config.scenes_per_step, generator)
        with _autocast(config, task.device):
            loss = task.loss(batch, generator)
        value = loss.item()
        if not value < float("inf"):
            raise GidliteError(
                f"the loss became {value} at step {state.step}; resume with a lower learning_rate"
            )
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(task.model.parameters(), 1.0)
        state.update(value)
        yield value


class _State:
    """Model, averaged model, optimizer and step, with their file format."""

    def __init__(
        self, config: TrainConfig, model: nn.Module, stats: FrequencyStats, out: Path
    ) -> None:
        self.config, self.model, self.stats, self.out = config, model, stats, out
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=1e-3
        )
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        self.step, self.smoothed_loss, self.step_rate = 0, float("nan"), 0.0
        self._last = time.monotonic()
        out.mkdir(parents=True, exist_ok=True)

    def _rate(self, step: int) -> float:
        config = self.config
        warm = min(1.0, (step + 1) / config.warmup_steps)
        cosine = torch.cos(torch.tensor(torch.pi * min(step / config.steps, 1.0))).item()
        return warm * (0.02 + 0.98 * 0.5 * (1 + cosine))

    def update(self, loss: float) -> None:
        # A function of the step alone, so that there is no schedule state to resume.
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._rate(self.step)
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        self.step += 1
        known = self.smoothed_loss == self.smoothed_loss
        self.smoothed_loss = 0.98 * self.smoothed_loss + 0.02 * loss if known else loss
        now = time.monotonic()
        self.step_rate = 0.9 * self.step_rate + 0.1 / max(now - self._last, 1e-6)
        self._last = now

    def log(self, loss: float, seconds: float) -> None:
        path = self.out / "log.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if fresh:
                writer.writerow(["step", "seconds", "loss", "smoothed_loss"])
            writer.writerow(
                [self.step, f"{seconds:.1f}", f"{loss:.6f}", f"{self.smoothed_loss:.6f}"]
            )

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.state_dict().items()}
        for number, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in entry.items()}
        return tensors

    def save(self) -> None:
        meta = {
            "step": self.step,
            "smoothed_loss": self.smoothed_loss,
            "config": dataclasses.asdict(self.config),
        }
        tensors = self._tensors() | {"stats.scale": self.stats.scale}
        _save_sharded(tensors, self.out / "checkpoint", json.dumps(meta, indent=1))

    def load(self) -> None:
        tensors, meta = load_checkpoint(self.out)
        ours = json.loads(json.dumps(dataclasses.asdict(self.config)))
        if differing := [k for k, v in meta["config"].items() if ours.get(k) != v]:
            raise GidliteError(
                f"cannot resume {self.out}: {', '.join(differing)} differ from the checkpoint"
            )
        self.model.load_state_dict(_with_prefix(tensors, "model."))
        self.averaged.load_state_dict(_with_prefix(tensors, "averaged."))
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in _with_prefix(tensors, "optimizer.").items():
            number, key = name.split(".")
            entries.setdefault(int(number), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        self.step, self.smoothed_loss = meta["step"], meta["smoothed_loss"]


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _save_sharded(tensors: dict[str, Tensor], folder: Path, meta: str) -> None:
    """Write tensors as safetensors files under 16 MiB, replacing the folder as a whole."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous().clone()
        size = tensor.numel() * tensor.element_size()
        if used + size > _SHARD_BYTES and shards[-1]:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += size
    for number, shard in enumerate(shards):
        save_file(shard, fresh / f"shard_{number:03d}.safetensors")
    (fresh / "meta.json").write_text(meta)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(out: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Return all tensors and the metadata of the checkpoint in a run folder.

    Raises:
        GidliteError: If there is no complete checkpoint.
    """
    for name in ("checkpoint", "checkpoint.old"):
        folder = Path(out) / name
        if (folder / "meta.json").is_file():
            tensors: dict[str, Tensor] = {}
            for shard in sorted(folder.glob("shard_*.safetensors")):
                tensors |= load_file(shard)
            return tensors, json.loads((folder / "meta.json").read_text())
    raise GidliteError(f"{out} holds no checkpoint to read; check --out, or train without --resume")


def _averaged_autoencoder(run: Path, dataset: MotionDataset, device: str):
    """Return the autoencoder of a finished run, scaled to unit-variance latents, and its stats."""
    tensors, meta = load_checkpoint(run)
    stats = stats_of_variant(
        tensors["stats.scale"], meta["config"]["percentile"], meta["config"]["normalization"]
    )
    autoencoder = make_autoencoder(tuple(meta["config"]["autoencoder_channels"]))
    autoencoder.load_state_dict(_with_prefix(tensors, "averaged.module."))
    volumes = torch.stack([dataset[n]["spectral"].cpu() for n in range(32)])
    with torch.no_grad():
        deviation = encode(autoencoder, normalize(volumes, stats)).std().item()
    autoencoder.register_to_config(scaling_factor=1 / deviation)
    return autoencoder.to(device), stats


def run_training(
    config: TrainConfig,
    out: str | Path,
    *,
    sprites: str | Path | None = None,
    data: Sequence[str | Path] = (),
    vae: str | Path | None = None,
    device: str = "cpu",
    **options,
):
    """Train from the command line: collect the data, then train one part.

    Returns:
        Autoencoder, denoiser and statistics after training the prior; None after the vae.

    Raises:
        GidliteError: As ``train``; also if the prior is asked for without a trained vae.
    """
    dataset = make_dataset(config, sprites=sprites, data=data, device=device)
    if config.part == "vae":
        train(config, out, dataset=dataset, device=device, **options)
        return None
    if vae is None:
        raise GidliteError("training the prior needs --vae, the run folder of a trained vae")
    autoencoder, stats = _averaged_autoencoder(Path(vae), dataset, device)
    denoiser = train(
        config, out, dataset=dataset, device=device, autoencoder=autoencoder, stats=stats, **options
    )
    return autoencoder.cpu(), denoiser.cpu(), stats
