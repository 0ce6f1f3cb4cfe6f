"""One dataset over synthetic scenes, real shards or pairs, or a weighted mix; augmentations.

An augmentation changes the photo and the motion together, so that warping the changed photo by
the changed motion still gives the changed video.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from gidlite.data.shards import Progress, ShardFolder
from gidlite.data.splits import STATISTICS, seeded
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.errors import GidliteError, require
from gidlite.motion.spectral import (
    anchor,
    motion_amplitude,
    motion_to_spectral,
    resize_spectral,
    spectral_to_motion,
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A photo with its motion."""

    image: Float[Tensor, "3 height width"]  # in [0, 1]
    spectral: Complex[Tensor, "freq 2 rows columns"]  # px of its own grid
    reliable: Bool[Tensor, "rows columns"]  # where the motion can be trusted
    periodic: bool = False  # whether frame T is frame 0, as of loops but not of real clips
    level: Float[Tensor, "rows columns"] | None = None  # expected RMS in px; None: what was seen


def flip(example: Example) -> Example:
    """Mirror left and right; dx changes sign."""
    sign = torch.tensor([-1.0, 1.0], device=example.spectral.device)[:, None, None]
    image, reliable = example.image.flip(-1), example.reliable.flip(-1)
    return replace(
        example, image=image, spectral=example.spectral.flip(-1) * sign, reliable=reliable
    )


def crop(example: Example, *, top: float, left: float, share: float) -> Example:
    """Cut out a window, its edges and sides shares of the whole, and enlarge it; px grow too."""

    def cut(maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        rows, columns = max(1, round(share * height)), max(1, round(share * width))
        y = min(round(top * height), height - rows)
        x = min(round(left * width), width - columns)
        return maps[..., y : y + rows, x : x + columns]

    size, grid = example.image.shape[-2:], example.reliable.shape
    image = functional.interpolate(cut(example.image)[None], size, mode="bicubic", antialias=True)
    spectral = resize_spectral(cut(example.spectral), height=grid[0], width=grid[1])
    reliable = functional.interpolate(cut(example.reliable)[None, None].float(), grid)[0, 0] > 0.5
    return replace(example, image=image[0].clamp(0, 1), spectral=spectral, reliable=reliable)


def reverse_time(example: Example) -> Example:
    """Play a periodic motion backwards from the same photo: F_t becomes F_{T-t}."""
    return replace(example, spectral=example.spectral.conj().resolve_conj())


def retime(example: Example, speed: float) -> Example:
    """Play a periodic motion ``speed`` times as fast, from the photo on and for as long as before.

    Loops shorter than the period leave bins empty; at another speed they spread over all, as the
    motion of real clips does. What becomes too fast for the last bin is lost.
    """
    spectral, bins = example.spectral, len(example.spectral)
    samples = 8 * bins  # of a period; the fastest bin is sampled finely at any speed up to 4
    times = torch.arange(samples, device=spectral.device) * speed
    motion = spectral_to_motion(spectral, num_frames=samples, times=times)
    return replace(example, spectral=anchor(motion_to_spectral(motion, num_frequencies=bins)))


def recolor(example: Example, gain: Float[Tensor, " 3"], *, contrast: float = 1.0) -> Example:
    """Change the photo's colour balance, brightness and contrast; the motion stays."""
    middle = example.image.mean()
    image = (example.image - middle) * contrast + middle
    return replace(example, image=(image * gain.to(image)[:, None, None]).clamp(0, 1))


@dataclass(frozen=True)
class Augmentation:
    """How strongly examples are varied; time only of periodic ones, as others would jump."""

    flip: float = 0.5  # probability of mirroring
    reverse: float = 0.5  # probability of reversing time
    smallest_crop: float = 0.5  # least share of each side that is kept; 1 crops nothing
    amplitude: float = 1.25  # motion is scaled by a factor between 1/this and this
    speed: float = 1.25  # and played at a speed between 1/this and this
    color: float = 0.12  # gains and contrast vary by up to this share

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """Return a variation; equal generators give equal ones."""
        chance = torch.rand(11, generator=generator).tolist()
        if chance[0] < self.flip:
            example = flip(example)
        if example.periodic and chance[1] < self.reverse:
            example = reverse_time(example)
        share = self.smallest_crop + (1 - self.smallest_crop) * chance[2]
        if share < 0.98:
            top, left = chance[3] * (1 - share), chance[4] * (1 - share)
            example = crop(example, top=top, left=left, share=share)
        factor = self.amplitude ** (2 * chance[5] - 1)
        example = replace(example, spectral=example.spectral * factor)
        if example.periodic and self.speed > 1:
            example = retime(example, self.speed ** (2 * chance[10] - 1))
        gain = 1 + self.color * (2 * torch.tensor(chance[6:9]) - 1)
        return recolor(example, gain, contrast=1 + self.color * (2 * chance[9] - 1))


@runtime_checkable
class Source(Protocol):
    """Where examples come from: any number gives one, the same number and seed the same one."""

    def example(self, number: int, seed: int) -> Any:
        """Return a dataclass of tensors: an ``Example``, or a ``Pair`` for the renderer."""


class SceneBlocks:
    """A source of scenes whose ``make(block, seed)`` makes neighbours together, faster on a GPU."""

    def __init__(self, pieces: Pieces, block: int) -> None:
        self.pieces, self.block = pieces, block
        self._made: tuple[tuple[int, int], list] = ((-1, -1), [])

    def example(self, number: int, seed: int) -> Any:
        """Return the example; the last block made is kept."""
        key = (number // self.block, seed)
        if self._made[0] != key:
            self._made = (key, self.make(*key))
        return self._made[1][number % self.block]


class SyntheticSource(SceneBlocks):
    """Endless scenes, on the device of the pieces; ``scene`` are options of ``make_scenes``."""

    def __init__(
        self, pieces: Pieces, *, num_frequencies: int = 16, block: int = 1, **scene: Any
    ) -> None:
        super().__init__(pieces, block)
        self.num_frequencies, self.scene = num_frequencies, scene

    def make(self, number: int, seed: int) -> list[Example]:
        """Return all examples of a block."""
        generator = seeded(seed, number, self.pieces.device)
        scenes = make_scenes(self.block, self.pieces, generator=generator, **self.scene)
        volumes = scenes.spectral(self.num_frequencies)
        sure = torch.ones(volumes.shape[-2:], dtype=torch.bool, device=volumes.device)
        rows = zip(scenes.photo, volumes, scenes.expected_level(self.num_frequencies), strict=True)
        return [Example(photo, volume, sure, level=level) for photo, volume, level in rows]


def shuffled(number: int, count: int, seed: int) -> int:
    """Return the place of an item in an order that has each of ``count`` before any again."""
    order = torch.randperm(count, generator=seeded(seed, number // count))
    return int(order[number % count])


class ShardSource:
    """Samples of a folder of shards in an order drawn from the seed, motion on a coarser grid.

    A folder that is unfinished, empty, holds fewer frequencies or, if a ``size`` (height, width) is
    asked for, others, is a ``GidliteError``.
    """

    def __init__(
        self, folder: str | Path, *, grid_stride: int = 1, num_frequencies: int = 16,
        size: tuple[int, int] | None = None,
    ) -> None:  # fmt: skip
        self.shards = ShardFolder(folder)
        require(len(self.shards) > 0, f"{folder} holds no samples; extract more videos")
        for height, width in self.shards.sizes:
            asked = f"{size[1]}x{size[0]}" if size else ""
            wrong = f"{folder} holds samples of {width}x{height}, {asked} are needed"
            fits = size in (None, (height, width))
            require(fits, f"{wrong}; extract again with --size {asked}, or change the config")
        held = self.shards.settings["num_frequencies"]
        require(
            num_frequencies <= held,
            f"{folder} holds {held} frequencies, {num_frequencies} are needed; extract again "
            f"with --num-frequencies {num_frequencies}",
        )
        self.grid_stride, self.num_frequencies = grid_stride, num_frequencies

    def example(self, number: int, seed: int) -> Example:
        """Return one sample; every sample once before any comes again."""
        sample = self.shards[shuffled(number, len(self.shards), seed)]
        spectral, reliable = sample.spectral[: self.num_frequencies], sample.reliable
        if self.grid_stride > 1:
            rows, columns = (n // self.grid_stride for n in reliable.shape)
            spectral = resize_spectral(spectral, height=rows, width=columns)
            share = functional.adaptive_avg_pool2d(reliable[None].float(), (rows, columns))[0]
            reliable = share > 0.5
        periodic = sample.info.get("loop", False)
        return Example(sample.image.float() / 255, spectral, reliable, periodic)


class Augmented:
    """A source whose examples are varied, another way for every number."""

    def __init__(self, source: Source) -> None:
        self.source, self.vary = source, Augmentation()

    def example(self, number: int, seed: int) -> Example:
        """Return a variation of the source's example."""
        return self.vary(self.source.example(number, seed), seeded(seed + 1, number))


class MotionDataset(Dataset):
    """Examples of one size from several sources, drawn by weight: equally if none are given.

    Item i is a function of the seed and i alone, whatever was asked for before, so training can
    stop and go on; items are dictionaries that stack. No source, or weights that do not fit, are a
    ``GidliteError``.
    """

    def __init__(
        self, sources: Sequence[Source], *, weights: Sequence[float] | None = None,
        length: int = 1 << 40, seed: int = 0,
    ) -> None:  # fmt: skip
        weights = [1.0] * len(sources) if weights is None else list(weights)
        fit = 0 < len(sources) == len(weights)
        require(fit, f"{len(sources)} sources and {len(weights)} weights; give one each")
        valid = min(weights) >= 0 and 0 < sum(weights) < math.inf
        require(valid, f"weights {weights} must not be negative, nor all 0")
        self.sources, self.length, self.seed = list(sources), length, seed
        self._shares = torch.tensor(weights).cumsum(0) / sum(weights)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Return what the example holds, by name, and the number of its ``source``."""
        if not 0 <= number < self.length:
            raise IndexError(f"item {number} of a dataset of {self.length}")
        draw = torch.rand(1, generator=seeded(self.seed, number))
        chosen = min(int(torch.searchsorted(self._shares, draw)), len(self.sources) - 1)
        held = vars(self.sources[chosen].example(number, self.seed)) | {"source": chosen}
        if "level" in held and held["level"] is None:
            held["level"] = motion_amplitude(held["spectral"])
        return {name: torch.as_tensor(value) for name, value in held.items()}


def load_items(
    dataset: Dataset, batches: Iterable[range], workers: int = 0
) -> Iterator[list[dict[str, Tensor]]]:
    """Yield the items of every range of numbers; ``workers`` processes make them ahead.

    Where that fails, in whichever process, it is a ``GidliteError``.
    """
    # A generator of its own: a loader would draw from the caller's global random state.
    options = {"collate_fn": list, "generator": torch.Generator(), "num_workers": workers}
    calm, others = _leave_signals_to_the_run, set(active_children())
    loader = iter(DataLoader(dataset, batch_sampler=batches, worker_init_fn=calm, **options))
    started = set(active_children()) - others
    try:
        yield from loader
    except GidliteError as error:  # from a worker it comes with a traceback before it
        last = error.args[0].strip().splitlines()[-1]
        raise GidliteError(last.removeprefix(f"{GidliteError.__module__}.GidliteError: ")) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        advice = "free some memory, and go on with --resume and fewer --workers"
        raise GidliteError(f"a process that made examples was ended; {advice}") from None
    finally:
        for process in started:  # what they are about to make is not needed
            process.terminate()


def _leave_signals_to_the_run(_: int) -> None:
    """Let a worker process end, at once, when the run says so, and not by Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # any other end is an error to a loader
    sys.excepthook = lambda *_: None  # a thread that hands over tensors prints that nobody came


def held_out(
    dataset: Dataset, count: int, workers: int = 0, *, tell: Progress | None = None
) -> Iterator[dict[str, Tensor]]:
    """Yield items that no run trains on; ``tell`` is told (done, in all) after each."""
    items = load_items(dataset, (STATISTICS[n : n + 1] for n in range(count)), workers)
    for done, (item,) in enumerate(items, start=1):
        # Copies: every tensor that comes from another process keeps a file open.
        yield {name: value.clone() for name, value in item.items()}
        if tell is not None:
            tell(done, count)
