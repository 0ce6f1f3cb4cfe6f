"""What a training run is told and what it reads: settings, checkpoints, parts and examples."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gidlite.data import Augmented, MotionDataset, ShardSource, SyntheticSource
from gidlite.data.pairs import PairFolder, ScenePairs
from gidlite.data.splits import LAST_SEED
from gidlite.data.world.pieces import collect_pieces
from gidlite.errors import GidliteError, load_network, require, written
from gidlite.motion.normalize import VARIANTS, FrequencyStats, load_stats
from gidlite.pipeline import PARTS as PIPELINE_PARTS
from gidlite.pipeline import REPRESENTATIONS, WEIGHTS, GidPipeline
from gidlite.prior.denoiser import COORDINATIONS, GridPrior
from gidlite.prior.drawer import ModesPrior
from gidlite.render.network import SynthesisNet

# The trained networks that each part builds on, in the order in which the parts are trained.
NEEDS = {
    "vae": (), "amplitude": ("autoencoder",), "prior": ("autoencoder", "amplitude"),
    "coordinate": ("autoencoder", "amplitude", "denoiser"), "renderer": (),
    "modes": (), "drawer": ("modes",),
}  # fmt: skip
PARTS = tuple(NEEDS)
WITH_STATS = ("vae", "amplitude", "prior", "coordinate")  # parts that need frequency statistics
STATS = "frequency_stats.safetensors"
_NETWORKS = {**PIPELINE_PARTS, "renderer": SynthesisNet}
_MOST = sys.float_info.max
# What a setting may be: its choices; or smallest value, largest value, and both in words.
Whole = Annotated[int, 0, LAST_SEED, f"a whole number from 0 to {LAST_SEED}"]
Count = Annotated[int, 1, 1_000_000, "a whole number from 1 to 1000000"]
Few = Annotated[int, 1, 256, "a whole number from 1 to 256"]
Side = Annotated[int, 32, 1024, "a whole number from 32 to 1024"]
Positive = Annotated[float, 1e-15, _MOST, "a finite number above 0"]
Share = Annotated[float, 0, 1, "a number from 0 to 1"]
Fraction = Annotated[float, 0, 0.99999, "a number of at least 0 and less than 1"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; saved beside every checkpoint.

    A ``GidliteError`` names the key of a value that is of another type or out of range.
    """

    part: Annotated[str, PARTS] = "prior"
    num_frequencies: Annotated[int, 2, 256, "a whole number from 2 to 256"] = 16
    height: Side = 160  # of photos, in px: a multiple of 32, for the renderer of 16
    width: Side = 256
    grid_stride: Annotated[int, (1, 2, 4)] = 2  # px between motion vectors
    num_frames: Annotated[int, 4, 2048, "a whole number from 4 to 2048"] = 150
    fps: Annotated[float, 1, 1000, "a number from 1 to 1000"] = 30.0  # Hz
    scenes_per_step: Few = 8  # in a batch; of the renderer: pairs of frames
    slices_per_scene: Count = 4  # bins drawn from each of them
    new_scenes_per_step: Few = 1  # that join the pool
    pool_size: Count = 1024  # scenes that it keeps; the oldest leave
    learning_rate: Positive = 4e-4  # peak of a linear warm-up and a cosine decay over all steps
    warmup_steps: Whole = 100
    steps: Count = 20_000
    # If it ends before the steps do, the decay does, too, and cannot be repeated step by step.
    decay_minutes: Annotated[float | None, 1e-15, _MOST, "a finite number above 0, or null"] = None
    clip_norm: Positive = 1.0  # longer gradients are shortened to it
    ema_decay: Fraction = 0.999  # of the averaged weights, which are the ones to use
    condition_dropout: Share = 0.1  # slices trained without the photo, for guidance
    feature_dropout: Fraction = 0.0  # maps of the photo that the amplitude network does without
    mixed_precision: bool = True  # bfloat16 where it is safe
    seed: Whole = 0
    real_share: Share = 0.3  # of draws from real examples, where there are any
    normalization: Annotated[str, VARIANTS] = "adaptive"
    percentile: Annotated[float, 0, 100, "a number from 0 to 100"] = 95.0  # of |S| at scale s_k
    autoencoder_channels: tuple[int, ...] = (16, 32)
    guided: bool = True  # the decoder of the autoencoder sees the photo
    decoder_only: bool = False  # the encoder stays, and so latents and what learned from them
    denoiser_channels: tuple[int, ...] = (64, 128, 192)
    denoiser_layers: Few = 1
    # How bins hear of each other; "attention" comes with part "coordinate", unless "prior" is
    # ``joint``: then it trains every layer on all bins of a scene.
    coordination: Annotated[str, COORDINATIONS] = "attention"
    joint: bool = False
    prediction_type: Annotated[str, ("v_prediction", "epsilon")] = "v_prediction"
    parts: Few = 24  # soft regions of a photo that move on their own
    modes_per_part: Few = 4  # shapes along x and along y
    renderer_channels: tuple[int, ...] = (16, 32, 48)  # at full, half and quarter resolution
    perceptual_weight: Annotated[float, 0, _MOST, "a finite number of at least 0"] = 0.03
    coarse_share: Share = 0.25  # batches with motion as coarse as a prediction

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for entry in dataclasses.fields(self):
            _check(entry.name, getattr(self, entry.name), hints[entry.name], entry.default)
        fits = self.slices_per_scene <= self.num_frequencies
        require(fits, "slices_per_scene is larger than num_frequencies; lower it")
        fits = 2 * self.num_frequencies <= self.num_frames
        require(fits, "num_frequencies is more than half of num_frames; lower it")
        fits = self.grid_stride == 2 or self.part not in WITH_STATS
        require(fits, f"grid_stride is {self.grid_stride}; for {self.part} it must be 2")
        unit = 16 if self.part == "renderer" else 32
        for name, side in {"height": self.height, "width": self.width}.items():
            require(side % unit == 0, f"{name} is {side}; it must be a multiple of {unit}")

    @classmethod
    def from_json(cls, path: str | Path, **overrides: object) -> TrainConfig:
        """Read a config; unknown keys are refused with the valid ones listed."""
        try:
            values = json.loads(Path(path).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise GidliteError(f"{path} is not a readable JSON config ({error})") from None
        require(isinstance(values, dict), f"{path} holds no JSON object; write settings as {{...}}")
        values |= overrides
        keys = sorted(entry.name for entry in dataclasses.fields(cls))
        unknown = sorted(set(values) - set(keys))
        require(not unknown, f"{path}: unknown keys {', '.join(unknown)}; valid: {', '.join(keys)}")
        try:
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        except GidliteError as error:
            raise GidliteError(f"{path}: {error}") from None

    def to_json(self) -> dict:
        """Return the settings as they are after a round trip through JSON: tuples are lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def _check(name: str, value: Any, hint: Any, default: Any) -> None:
    """Refuse a value that is not of the type and range that its annotation tells."""
    if hint is bool:
        fits, words = isinstance(value, bool), "true or false"
    elif isinstance(default, tuple):
        fits = isinstance(value, tuple) and len(value) == len(default)
        fits = fits and all(type(entry) is int and entry in range(8, 4097, 8) for entry in value)
        words = f"{len(default)} multiples of 8, up to 4096"
    elif len(hint.__metadata__) == 1:
        choices = hint.__metadata__[0]
        fits = type(value) is hint.__origin__ and value in choices
        words = f"one of {', '.join(map(str, choices))}"
    else:
        low, high, words = hint.__metadata__
        kinds = (int,) if hint.__origin__ is int else (int, float)
        fits = value is default or (type(value) in kinds and low <= value <= high)
    require(fits, f"{name} is {value!r:.80}; it must be {words}")


@dataclass(frozen=True)
class RunOptions:
    """How a run goes; times are in minutes. What is out of range is a ``GidliteError``."""

    device: str = "cpu"  # of several processes on "cuda", each has its own GPU
    workers: int = 0  # processes that make scenes ahead; 0 makes them between steps, on the device
    minutes: float | None = None  # stop so long after ``started``, 0: after a step; or after all
    resume: bool = False  # continue from the checkpoint in the run folder
    start: str | Path | None = None  # run folder, or part of a pipeline, with the first weights
    checkpoint_minutes: float = 5.0  # between checkpoints, and between sheets
    log_every: int = 20  # steps between rows of the log
    # Told (step, smoothed loss, steps per second) at every row.
    report: Callable[[int, float, float], None] | None = None
    # Told (what is prepared, done, in all) before the first step.
    progress: Callable[[str, int, int], None] | None = None
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        require(0 <= self.workers <= 256, f"workers is {self.workers}; give a number from 0 to 256")
        fits = self.minutes is None or 0 <= self.minutes < math.inf
        require(fits, f"minutes is {self.minutes}; it must be a finite number of at least 0")

    def preparing(self, what: str) -> Callable[[int, int], None]:
        """Return what is to be told (done, in all); it raises when there is no time for a step."""

        def tell(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(what, done, total)
            late = self.minutes and time.monotonic() - self.started > 60 * self.minutes
            over = f"{self.minutes} minutes were over before the first step ({what.lower()})"
            require(not late, f"{over}; give it more with --minutes")

        return tell


def learning_rate(config: TrainConfig, step: int, seconds: float = 0.0) -> float:
    """Return the rate of a step: a linear warm-up, then a cosine down to 2 % of the peak.

    The schedules of diffusers end at 0, cannot see the clock, and have a state to save.

    Examples:
        >>> config = TrainConfig(learning_rate=1.0, warmup_steps=10, steps=100)
        >>> [round(learning_rate(config, step), 2) for step in (0, 9, 55, 100)]
        [0.1, 0.98, 0.43, 0.02]
    """
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    done = step / config.steps
    if config.decay_minutes is not None:
        done = max(done, seconds / (60 * config.decay_minutes))
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return config.learning_rate * warm * (0.02 + 0.98 * cosine)


# A checkpoint is a safetensors file of our own: ``Accelerator.save_state`` writes pickles, which
# are never loaded here. Random states need no saving, because every step seeds its own.


def checkpoint_file(out: str | Path) -> Path:
    """Return where the checkpoint of a run folder lies, if there is one."""
    return Path(out) / "checkpoint" / "state.safetensors"


def save_checkpoint(out: str | Path, tensors: Mapping[str, Tensor], meta: dict) -> None:
    """Replace the checkpoint of a run folder as a whole."""
    # Copies: safetensors refuses tensors that share memory, such as tied weights.
    copies = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    with written(checkpoint_file(out)) as path:
        save_file(copies, path, {"run": json.dumps(meta)})


def load_checkpoint(out: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors of a run folder's checkpoint, and its config and counters."""
    try:
        with safe_open(checkpoint_file(out), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            meta = json.loads(file.metadata()["run"])
        whole = isinstance(meta["config"], dict) and isinstance(meta["step"], int)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError):
        whole = False
    require(whole, f"{out} holds no readable checkpoint; check it, or train without --resume")
    return tensors, meta


def check_run(
    config: TrainConfig, out: str | Path, parts: Mapping[str, nn.Module], options: RunOptions
) -> None:
    """Refuse a run that lacks trained parts, or whose folder does not fit, before any work."""
    missing = " and ".join(name for name in NEEDS[config.part] if name not in parts)
    problem = f"training {config.part} needs a trained {missing}"
    advice = "name their run folders, too, or leave --parts out to use those of the package"
    require(not missing, f"{problem}; {advice}")
    for name in NEEDS[config.part]:
        bins = getattr(parts[name].config, "num_frequencies", config.num_frequencies)
        problem = f"num_frequencies is {config.num_frequencies}, and the {name} has {bins}"
        require(bins == config.num_frequencies, f"{problem}; change it, or name other --parts")
    # The encoder that stays, and the scale of its latents, come with --start.
    needs = "decoder_only needs a trained autoencoder; name its run with --parts and --start"
    require(not config.decoder_only or options.start is not None, needs)
    if options.resume:
        theirs, ours = load_checkpoint(out)[1]["config"], config.to_json()
        differing = ", ".join(key for key, value in theirs.items() if ours.get(key) != value)
        problem = f"cannot resume {out}: {differing} differ from the checkpoint"
        require(not differing, f"{problem}; use the config it was trained with, or another --out")
        return
    require(not config.decoder_only or "autoencoder" in parts, needs)  # for its statistics
    # A run that never reached its first checkpoint leaves a log without rows, and no weights.
    log, found = Path(out) / "log.csv", (checkpoint_file(out), Path(out) / "model" / "config.json")
    there = any(path.exists() for path in found) or (log.is_file() and log.stat().st_size > 100)
    require(not there, f"{out} already holds a run; pass --resume or another --out")


def load_part(run: str | Path) -> tuple[str, nn.Module]:
    """Return name and network of a run folder, or of a part of a pipeline."""
    folder = Path(run) / "model" if (Path(run) / "model").exists() else Path(run)
    try:
        kind = json.loads((folder / "config.json").read_text())["_class_name"]
        name = {network.__name__: name for name, network in _NETWORKS.items()}[kind]
        return name, load_network(_NETWORKS[name], folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        problem = f"{run} holds no trained part that can be read ({reason}); train it first"
        raise GidliteError(problem) from None


def load_parts(runs: Sequence[str | Path]) -> tuple[dict[str, nn.Module], FrequencyStats | None]:
    """Return the networks of such folders, or pipelines, by name, and the statistics of the last.

    ``modes`` and ``grid`` are the pipelines of the package.
    """
    folders = [WEIGHTS / run if str(run) in REPRESENTATIONS else Path(run) for run in runs]
    runs = []
    for run in folders:
        inside = [run / n for n in PIPELINE_PARTS if (run / n).is_dir()]
        runs += inside if (run / "pipeline.json").is_file() else [run]
    # In a pipeline, statistics lie beside the folders of its parts.
    places = [folder / STATS for run in runs for folder in (run.parent, run / "model")]
    known = [place for place in places if place.is_file()]
    parts = dict(map(load_part, runs))
    needed = not {"modes", "drawer", "renderer"} >= parts.keys()
    require(bool(known) or not needed, f"{', '.join(map(str, runs))} come without {STATS}")
    return parts, load_stats(known[-1]) if known else None


def start_from(model: nn.Module, run: str | Path) -> None:
    """Give a model the weights of a run folder, or of a part of a pipeline."""
    _, start = load_part(run)
    try:
        model.load_state_dict(start.state_dict())
    except RuntimeError:
        kinds = f"a {type(start).__name__} of other sizes than the {type(model).__name__}"
        raise GidliteError(f"{run} holds {kinds} of this config; change one of them") from None
    if (scaling := getattr(start.config, "scaling_factor", None)) is not None:
        model.register_to_config(scaling_factor=scaling)


def write_network(network: nn.Module, folder: str | Path) -> None:
    """Write a network to a folder, whole."""
    with written(folder, folder=True) as hidden:
        network.save_pretrained(hidden)


def assemble(
    config: TrainConfig, parts: Mapping[str, nn.Module], last: nn.Module,
    stats: FrequencyStats | None, *, name: str,
) -> GidPipeline:  # fmt: skip
    """Return the pipeline of trained parts, of which the last was trained with a config."""
    if config.part == "drawer":
        prior = ModesPrior(parts["modes"], last)
    else:
        prior = GridPrior(parts["autoencoder"], parts["amplitude"], last, stats)
    return GidPipeline(prior, num_frames=config.num_frames, fps=config.fps, name=name)


def make_dataset(
    config: TrainConfig, *, sprites: str | Path | None = None, data: Sequence[str | Path] = (),
    device: torch.device | str = "cpu",
) -> MotionDataset:  # fmt: skip
    """Return synthetic scenes, or pairs of their frames, and real ones in a share of draws.

    Real ones come from folders of shards, or of pairs; scenes are made on the device.
    """
    size, pairs = {"height": config.height, "width": config.width}, config.part == "renderer"
    grid = {"grid_stride": config.grid_stride, "num_frequencies": config.num_frequencies}
    clip = {"num_frames": config.num_frames, "fps": config.fps}
    asked = {"size": (config.height, config.width)} | ({"device": device} if pairs else grid)
    # What may be refused comes first, for painting pieces takes longer.
    real = [PairFolder(f, **asked) if pairs else Augmented(ShardSource(f, **asked)) for f in data]
    pieces = collect_pieces(sprites, seed=config.seed)
    distinct = list({id(p): p for p in pieces}.values())
    kind, form = (ScenePairs, size) if pairs else (SyntheticSource, size | grid | clip)
    scenes = [kind(p.to(device), **form) for p in distinct]
    share = config.real_share if real else 0.0
    weights = [(1 - share) * sum(q is p for q in pieces) / len(pieces) for p in distinct]
    weights += [share / max(len(real), 1)] * len(real)
    return MotionDataset([*scenes, *real], weights=weights, seed=config.seed)
