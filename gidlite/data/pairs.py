"""Pairs of frames with the motion between them, for the renderer: of scenes and of real clips.

``python -m studies.renderer_pairs`` writes real ones as ``pairs_*.safetensors``: tensors as in
``Pair``, but ``hidden``, with a leading axis, float16; metadata ``format``, ``version`` and
``sources``, a JSON list of the clip of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gidlite.data import SceneBlocks, seeded, shuffled
from gidlite.data.world import Scenes, make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.errors import GidliteError, require

PAIR_FORMAT = {"format": "gidlite-pairs", "version": "2"}
PAIR_TENSORS = ("first", "second", "motion", "metric", "reliable")
_AGAIN = "write pairs with python -m studies.renderer_pairs"
# Motion of scenes is multiplied by up to this, but no pixel is moved farther than so many px.
_AMPLIFY, _FARTHEST = 6.0, 24.0
_GRAIN, _METRIC_TIMES = 0.03, 8


@dataclass(frozen=True)
class Pair:
    """Two frames and the motion between them."""

    first: UInt8[Tensor, "3 height width"]  # the photo
    second: UInt8[Tensor, "3 height width"]  # what it should become
    motion: Float[Tensor, "2 height width"]  # px, of pixels of the first
    metric: Float[Tensor, "1 height width"]  # mean over time of |F_t|, px at 256 px wide
    reliable: Bool[Tensor, "1 height width"]  # where the motion of the first can be trusted
    hidden: Bool[Tensor, "1 height width"]  # what only the second shows; false if unknown


def scene_pairs(
    scenes: Scenes, times: Sequence[int], *, amplify: Float[Tensor, " batch"],
    grain: Float[Tensor, "batch 1 height width"],
) -> list[Pair]:  # fmt: skip
    """Return the pairs (0, t) of scenes with amplified motion, rendered with true occlusions.

    The factor is lowered where it would move a pixel by more than 24 px. Grain is painted onto
    everything, to move with it. The metric is a mean over the times and others.
    """
    frames, width = scenes.coords.shape[-1], scenes.background.shape[-1]
    others = [frames * n // _METRIC_TIMES for n in range(_METRIC_TIMES)]
    motion = scenes.motion([*times, *others])
    length = motion.square().sum(2).sqrt()
    amplify = torch.minimum(amplify, _FARTHEST / length.amax((1, 2, 3)).clamp(min=1e-3))
    factor = amplify[:, None, None, None]
    motion, metric = motion * factor[..., None], length.mean(1) * factor[:, 0] * (256 / width)
    layers, background = scenes.layers.clone(), (scenes.background + grain).clamp(0, 1)
    layers[:, :, :3] = (layers[:, :, :3] + grain[:, None]).clamp(0, 1)
    scenes = replace(scenes, layers=layers, background=background, coords=scenes.coords * factor)
    first, sure = _bytes(scenes.image), torch.ones_like(metric[:1], dtype=torch.bool)
    pairs = []
    for place, time in enumerate(times):
        second, hidden = _bytes(scenes.frame(time)), scenes.disoccluded(time)[:, None]
        rows = zip(first, second, motion[:, place], metric[:, None], hidden, strict=True)
        pairs += [Pair(*row[:4], sure, row[4]) for row in rows]
    return pairs


def _bytes(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255).byte()


class ScenePairs(SceneBlocks):
    """Endless pairs of scenes, so many ``times`` of each, motion and metric in half precision."""

    def __init__(
        self, pieces: Pieces, *, height: int = 160, width: int = 256, scenes: int = 4,
        times: int = 4,
    ) -> None:  # fmt: skip
        super().__init__(pieces, scenes * times)
        self.scenes, self.times = scenes, times
        self.size = {"height": height, "width": width}

    @torch.no_grad()
    def make(self, number: int, seed: int) -> list[Pair]:
        """Return all pairs of a block."""
        generator = seeded(seed, number, self.pieces.device)
        chance = {"generator": generator, "device": generator.device}
        scenes = make_scenes(self.scenes, self.pieces, generator=generator, **self.size)
        others = scenes.coords.shape[-1] - 1
        times = torch.randperm(others, generator=seeded(seed, number))[: self.times] + 1
        draw = torch.rand(2, self.scenes, **chance)
        noise = torch.randn(self.scenes, 1, *scenes.grid, **chance)
        grain = _GRAIN * (2 * draw[0] - 1).clamp(min=0)[:, None, None, None] * noise
        amplify = torch.exp(draw[1] * math.log(_AMPLIFY))
        pairs = scene_pairs(scenes, times.tolist(), amplify=amplify, grain=grain)
        return [replace(p, motion=p.motion.half(), metric=p.metric.half()) for p in pairs]


class PairFolder:
    """Real pairs of ``pairs_*.safetensors``, held on a device, in a seeded order.

    A folder without readable pairs, or not of a ``size`` (height, width), is a ``GidliteError``.
    """

    def __init__(
        self, folder: str | Path, *, size: tuple[int, int], device: torch.device | str = "cpu"
    ) -> None:
        self._pairs: list[Pair] = []
        for path in sorted(Path(folder).glob("pairs_*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    ours = PAIR_FORMAT.items() <= (file.metadata() or {}).items()
                    require(ours, f"{path} is no shard of pairs of version 2; {_AGAIN}")
                    held = {name: file.get_tensor(name).to(device) for name in PAIR_TENSORS}
            except (OSError, SafetensorError) as error:
                raise GidliteError(f"{path} cannot be read ({error!s:.200}); {_AGAIN}") from None
            shapes = [tuple(tensor.shape[1:]) for tensor in held.values()]
            fits = shapes == [(channels, *size) for channels in (3, 3, 2, 1, 1)]
            asked = f"{size[1]}x{size[0]}, as the config asks for"
            require(fits and len({*map(len, held.values())}) == 1, f"{path} is not of {asked}")
            rows = zip(*held.values(), strict=True)
            self._pairs += [Pair(*row, torch.zeros_like(row[-1])) for row in rows]
        require(len(self._pairs) > 0, f"{folder} holds no pairs_*.safetensors; {_AGAIN}")

    def example(self, number: int, seed: int) -> Pair:
        """Return one pair; every pair once before any comes again."""
        return self._pairs[shuffled(number, len(self._pairs), seed)]
