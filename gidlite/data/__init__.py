"""One dataset over real shards, synthetic scenes, or a weighted mix, with its augmentations.

An augmentation changes the photo and the motion together, so that warping the changed photo by
the changed motion still gives the changed video.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from gidlite.data.shards import ShardFolder
from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.errors import GidliteError
from gidlite.motion.spectral import anchor, motion_to_spectral, resize_spectral, spectral_to_motion


@dataclass(frozen=True)
class Example:
    """A photo with its motion.

    Attributes:
        image: ``(3, H, W)`` in [0, 1].
        spectral: ``(K, 2, h, w)`` px of the (h, w) grid.
        reliable: ``(h, w)`` where the motion can be trusted.
    """

    image: Float[Tensor, "3 height width"]
    spectral: Complex[Tensor, "freq 2 rows columns"]
    reliable: Bool[Tensor, "rows columns"]


def flip(example: Example) -> Example:
    """Mirror left and right; dx changes sign."""
    mirrored = example.spectral.flip(-1)
    sign = torch.tensor([-1.0, 1.0], device=mirrored.device)[:, None, None]
    return Example(example.image.flip(-1), mirrored * sign, example.reliable.flip(-1))


def crop(example: Example, *, top: float, left: float, share: float) -> Example:
    """Cut out a part of the same aspect and enlarge it again; px grow with it.

    Args:
        example: What to cut from.
        top: Upper edge, as a share of the height.
        left: Left edge, as a share of the width.
        share: Side of the part relative to the whole, in (0, 1].
    """

    def cut(image: Tensor) -> tuple[Tensor, tuple[float, float]]:
        height, width = image.shape[-2:]
        rows, columns = max(1, round(share * height)), max(1, round(share * width))
        y = min(round(top * height), height - rows)
        x = min(round(left * width), width - columns)
        return image[..., y : y + rows, x : x + columns], (height, width)

    picture, size = cut(example.image)
    picture = functional.interpolate(picture[None], size, mode="bicubic", antialias=True)[0]
    part, grid = cut(example.spectral)
    spectral = resize_spectral(part, height=grid[0], width=grid[1])
    kept, _ = cut(example.reliable)
    reliable = functional.interpolate(kept[None, None].float(), grid, mode="nearest")[0, 0] > 0.5
    return Example(picture.clamp(0, 1), spectral, reliable)


def reverse_time(example: Example) -> Example:
    """Play the motion backwards: F_t becomes F_{T-t}, every coefficient its conjugate.

    The photo stays frame 0, because frame T of a periodic motion is frame 0.
    """
    return replace(example, spectral=example.spectral.conj().resolve_conj())


def retime(example: Example, speed: float) -> Example:
    """Play the motion at another speed, from the photo on and for as long as before.

    What repeats within the period, as the loops of other people do, fills single bins and leaves
    those between empty; at another speed it spreads over them, as the motion of real clips does.

    Args:
        example: Whose motion repeats after its period.
        speed: Positive; 2 is twice as fast. What becomes too fast for the last bin is lost.
    """
    bins = len(example.spectral)
    samples = 8 * bins  # of a period; the fastest bin is sampled finely at any speed up to 4
    times = torch.arange(samples, device=example.spectral.device) * speed
    motion = spectral_to_motion(example.spectral, num_frames=samples, times=times)
    return replace(example, spectral=anchor(motion_to_spectral(motion, num_frequencies=bins)))


def amplify(example: Example, factor: float) -> Example:
    """Scale the motion."""
    return replace(example, spectral=example.spectral * factor)


def recolor(example: Example, gain: Float[Tensor, " 3"], *, contrast: float = 1.0) -> Example:
    """Change the photo's colour balance, brightness and contrast; the motion stays."""
    middle = example.image.mean()
    image = (example.image - middle) * contrast + middle
    return replace(example, image=(image * gain.to(image)[:, None, None]).clamp(0, 1))


@dataclass(frozen=True)
class Augmentation:
    """How strongly examples are varied.

    Attributes:
        flip: Probability of mirroring.
        reverse: Probability of reversing time.
        smallest_crop: Crops keep at least this share of each side; 1 crops nothing.
        amplitude: Motion is scaled by a factor between 1/this and this.
        speed: Motion is played at a speed between 1/this and this.
        color: Gains and contrast vary by up to this share.
    """

    flip: float = 0.5
    reverse: float = 0.5
    smallest_crop: float = 0.5
    amplitude: float = 1.25
    speed: float = 1.25
    color: float = 0.12

    def __call__(self, example: Example, generator: torch.Generator) -> Example:
        """Return a variation; equal generators give equal ones."""
        chance = torch.rand(11, generator=generator).tolist()
        if chance[0] < self.flip:
            example = flip(example)
        if chance[1] < self.reverse:
            example = reverse_time(example)
        share = self.smallest_crop + (1 - self.smallest_crop) * chance[2]
        if share < 0.98:
            top, left = chance[3] * (1 - share), chance[4] * (1 - share)
            example = crop(example, top=top, left=left, share=share)
        example = amplify(example, self.amplitude ** (2 * chance[5] - 1))
        if self.speed > 1:
            example = retime(example, self.speed ** (2 * chance[10] - 1))
        gain = 1 + self.color * (2 * torch.tensor(chance[6:9]) - 1)
        return recolor(example, gain, contrast=1 + self.color * (2 * chance[9] - 1))


class Source(Protocol):
    """Where examples come from: any number gives an example, the same number the same one."""

    def example(self, number: int, seed: int) -> Example:
        """Return the numbered example of a seed."""
        ...


class SyntheticSource:
    """Endless scenes, made ``block`` at a time on the device of the pieces.

    Args:
        pieces: What to compose scenes from.
        height: Rows of photos.
        width: Columns of photos.
        grid_stride: The motion grid is this many times coarser.
        num_frequencies: K.
        num_frames: T.
        fps: Frames per second.
        block: Scenes made together; on a GPU, larger is faster.
    """

    def __init__(
        self, pieces: Pieces, *, height: int = 160, width: int = 256, grid_stride: int = 1,
        num_frequencies: int = 16, num_frames: int = 150, fps: float = 30.0, block: int = 1,
    ) -> None:  # fmt: skip
        self.pieces, self.num_frequencies, self.block = pieces, num_frequencies, block
        self.options = {
            "height": height, "width": width, "grid_stride": grid_stride,
            "num_frames": num_frames, "fps": fps,
        }  # fmt: skip
        self._made: tuple[tuple[int, int], list[Example]] = ((-1, -1), [])

    def example(self, number: int, seed: int) -> Example:
        """Return scene ``number`` of a seed; neighbours of one block are made together."""
        key = (number // self.block, seed)
        if self._made[0] != key:
            self._made = (key, self._make(*key))
        return self._made[1][number % self.block]

    def _make(self, block: int, seed: int) -> list[Example]:
        generator = seeded(seed, block, self.pieces.device)
        scenes = make_scenes(self.block, self.pieces, generator=generator, **self.options)
        volumes = scenes.spectral(self.num_frequencies)
        sure = torch.ones(volumes.shape[-2:], dtype=torch.bool, device=volumes.device)
        return [Example(p, v, sure) for p, v in zip(scenes.photo, volumes, strict=True)]


class ShardSource:
    """Samples of a folder of shards, in an order drawn from the seed.

    Args:
        folder: What ``gidlite extract`` or ``gidlite synthesize`` wrote.
        grid_stride: The motion grid is made this many times coarser.
        num_frequencies: K; must not exceed what the shards hold.

    Raises:
        GidliteError: If the folder is unfinished, empty, or holds fewer frequencies.
    """

    def __init__(self, folder, *, grid_stride: int = 1, num_frequencies: int = 16) -> None:
        self.shards = ShardFolder(folder)
        if not len(self.shards):
            raise GidliteError(f"{folder} holds no samples; extract more videos")
        held = self.shards.settings["num_frequencies"]
        if num_frequencies > held:
            raise GidliteError(
                f"{folder} holds {held} frequencies, {num_frequencies} are needed; extract again "
                f"with --num-frequencies {num_frequencies}"
            )
        self.grid_stride, self.num_frequencies = grid_stride, num_frequencies

    def example(self, number: int, seed: int) -> Example:
        """Return one sample; every sample once before any comes again."""
        count = len(self.shards)
        order = torch.randperm(count, generator=seeded(seed, number // count))
        sample = self.shards[int(order[number % count])]
        spectral = sample.spectral[: self.num_frequencies]
        reliable = sample.reliable
        if self.grid_stride > 1:
            size = [n // self.grid_stride for n in spectral.shape[-2:]]
            spectral = resize_spectral(spectral, height=size[0], width=size[1])
            reliable = functional.interpolate(reliable[None, None].float(), size, mode="area") > 0.5
            reliable = reliable[0, 0]
        return Example(sample.image.float() / 255, spectral, reliable)


class Augmented:
    """A source whose examples are varied.

    Args:
        source: Where they come from.
        augmentation: How they are varied.
    """

    def __init__(self, source: Source, augmentation: Augmentation | None = None) -> None:
        self.source, self.augmentation = source, augmentation or Augmentation()

    def example(self, number: int, seed: int) -> Example:
        """Return a variation of the source's example, another one for every number."""
        return self.augmentation(self.source.example(number, seed), seeded(seed + 1, number))


class MotionDataset(Dataset):
    """Examples from several sources, drawn by weight.

    Item i is a function of the seed and i alone, whatever was asked for before, so training can
    stop and go on; items of a batch are dictionaries that stack.

    Args:
        sources: Where examples come from; all must give the same sizes.
        weights: How often each is drawn; equally if not given.
        length: Items in an epoch.
        seed: Another seed is another dataset of the same kind.

    Raises:
        GidliteError: If there is no source, or weights do not fit.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        weights: Sequence[float] | None = None,
        length: int = 10_000,
        seed: int = 0,
    ) -> None:
        weights = [1.0] * len(sources) if weights is None else list(weights)
        if not sources or len(weights) != len(sources):
            raise GidliteError(f"{len(sources)} sources and {len(weights)} weights; give one each")
        if min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise GidliteError(f"weights {weights} must not be negative, nor all 0")
        self.sources, self.length, self.seed = list(sources), length, seed
        self._shares = torch.tensor(weights).cumsum(0) / sum(weights)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Return ``image``, ``spectral``, ``reliable`` and the number of the ``source``."""
        if not 0 <= number < self.length:
            raise IndexError(f"item {number} of a dataset of {self.length}")
        place = torch.rand(1, generator=seeded(self.seed, number))
        chosen = int(torch.searchsorted(self._shares, place))
        chosen = min(chosen, len(self.sources) - 1)
        example = self.sources[chosen].example(number, self.seed)
        return {
            "image": example.image, "spectral": example.spectral, "reliable": example.reliable,
            "source": torch.tensor(chosen),
        }  # fmt: skip

    def take(self, numbers: range) -> list[dict[str, Tensor]]:
        """Return the items of these numbers."""
        return [self[number] for number in numbers]


def seeded(seed: int, number: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for item ``number`` of a seed."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + number)
