"""What a user might take instead of a prior: no motion, a random wave, the motion of another photo.

Each answers as a pipeline does, so that it is rendered and scored in the same way.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gidlite.media import resize
from gidlite.motion import SpectralVolume
from gidlite.motion.spectral import anchor, resize_spectral
from gidlite.pipeline import GidOutput, working_size
from gidlite.prior import photo_features
from studies.ablation.scenes import StoredScenes

_BINS = 16
# RMS displacement of the random wave, in px at 256 wide: what moves in real clips moves as much.
_WAVE_PX = 1.0
_WAVES = 3
_TURN = 2 * math.pi
# Photos the nearest one is looked for among.
_LIBRARY = 256


class _StandIn:
    """Common to all: a period, and a volume made of a photo and a seed."""

    name = "stand-in"
    num_frames, fps = 150, 30.0

    def __call__(
        self, image: Tensor, *, generator: torch.Generator | None = None, **options: Any
    ) -> GidOutput:
        """Return a volume of 16 bins at the working size; solver options are ignored."""
        height, width = working_size(*image.shape[-2:])
        generator = generator or torch.Generator().manual_seed(0)
        spectral = anchor(self._volume(image, height, width, generator))
        return GidOutput(image, SpectralVolume(spectral, self.num_frames, self.fps, -1, self.name))

    def _volume(self, image: Tensor, height: int, width: int, generator) -> Tensor:
        raise NotImplementedError


class Still(_StandIn):
    """Nothing moves."""

    name = "still"

    def _volume(self, image, height, width, generator) -> Tensor:
        return torch.zeros(_BINS, 2, height, width, dtype=torch.complex64)


class RandomSinusoid(_StandIn):
    """The whole picture is warped by a few plane waves in random directions and bins.

    They depend on the seed and on the photo, so that one seed is not one wave for all photos.
    """

    name = "sinusoid"

    def _volume(self, image, height, width, generator) -> Tensor:
        seed = generator.initial_seed() + int(1000 * image.double().sum())
        own = torch.Generator().manual_seed(seed)

        def draw(low: float, high: float) -> float:
            return low + (high - low) * torch.rand(1, generator=own).item()

        y = torch.linspace(0, height / width, height)[:, None]
        x = torch.linspace(0, 1, width)
        spectral = torch.zeros(_BINS, 2, height, width, dtype=torch.complex64)
        for _ in range(_WAVES):
            waves, way, swing, begin = draw(0.5, 3), draw(0, _TURN), draw(0, _TURN), draw(0, _TURN)
            run = x * math.cos(way) + y * math.sin(way)
            wave = torch.polar(torch.ones(height, width), _TURN * waves * run + begin)
            direction = torch.tensor([math.cos(swing), math.sin(swing)])
            spectral[int(draw(1, 6))] += direction[:, None, None] * wave
        # One coefficient S moves by 2 |S| cos, whose mean square is 2 |S|².
        rms = (2 * spectral.abs().square().sum((0, 1)).mean()).sqrt()
        return spectral * (_WAVE_PX * width / 256 / rms)


class NearestScene(_StandIn):
    """The motion of the training scene whose photo looks most alike.

    Args:
        scenes: Training scenes; the first 256 are looked at.
    """

    name = "copied"

    def __init__(self, scenes: StoredScenes) -> None:
        self._scenes = scenes
        count = min(scenes.count, _LIBRARY)
        self._library = torch.stack([_describe(scenes.example(n).image) for n in range(count)])

    def nearest(self, image: Tensor) -> int:
        """Return the number of the scene that looks most alike."""
        return int((self._library @ _describe(image)).argmax())

    def _volume(self, image, height, width, generator) -> Tensor:
        spectral = self._scenes.example(self.nearest(image)).spectral[:_BINS]
        return resize_spectral(spectral, height=height, width=width)


def _describe(image: Tensor) -> Tensor:
    """Return ImageNet features of a photo, averaged, of length 1."""
    height, width = working_size(*image.shape[-2:])
    features = photo_features(resize(image, height=height, width=width)[None])
    return functional.normalize(features.mean((0, 2, 3)), dim=0)
