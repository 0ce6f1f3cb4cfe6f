"""The renderer's network: features of the photo, splatted on three levels, become a frame.

Features are extracted once per photo. For every frame each level is splatted along the motion, and
a decoder, coarse to fine, corrects the splatted photo: it undoes the blur of bilinear splatting
and paints what motion uncovers. Where nothing moves, the photo is returned as it is.

Source: Li et al. 2024, section 5. Departures: a small network of our own instead of ResNet-34; the
metric has a learned scale per level and is corrected by what the photo shows; the decoder may
blend in the photo sampled backwards along the splatted motion, which is sharp but ghosts.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gidlite.errors import GidliteError, load_network
from gidlite.motion.flow import sample_at
from gidlite.render.photo import LARGEST_METRIC, Maps, Motions, Picture, Pictures, fill_holes, halve
from gidlite.render.splat import SplatPlan

WEIGHTS = Path(__file__).parents[1] / "weights" / "renderer"
REACH = 96  # px of the photo, before it is moved, that can influence a pixel of the frame
_WHOLE, _TILE = 1024, 512  # px a side: larger photos than the first are rendered in tiles
_ALIGN = 64  # px: tiles begin at multiples of it, so that every level sees the same cells
# Up to the first number of px nothing moves, from the second on the network has full say.
_STILL, _MOVING = 0.02, 0.1
_COVERED, _UNCOVERED = 0.05, 0.25  # the same for how far coverage is from 1
_STRIDE = 4  # of the coarsest level
_INITIAL_SCALE = 3.0


@dataclass(frozen=True)
class PhotoPyramid:
    """What is computed once per photo in [0, 1]."""

    photo: Pictures
    levels: tuple[Tensor, ...]  # features, full to quarter resolution, sides multiples of 4
    order: Tensor  # (B, 2, h, w) at quarter resolution: log factor of the metric, what is added


class _Block(nn.Module):
    """Two 3×3 convolutions around an identity, without normalization: tiles must not differ."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.second.weight.data.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu_(self.first(functional.relu(x))))


class SynthesisNet(ModelMixin, ConfigMixin):
    """Photo features and motion → frame; channels at full, half and quarter resolution."""

    @register_to_config
    def __init__(self, channels: Sequence[int] = (16, 32, 48)) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.encoder = nn.ModuleList([
            nn.Sequential(nn.Conv2d(3, fine, 3, padding=1), _Block(fine)),
            nn.Sequential(nn.Conv2d(fine, middle, 3, 2, 1), _Block(middle)),
            nn.Sequential(nn.Conv2d(middle, coarse, 3, 2, 1), _Block(coarse), _Block(coarse)),
        ])  # fmt: skip
        # Says of every pixel how far its motion tells that it is in front, and what else does.
        self.order = nn.Sequential(_Block(coarse, 2), nn.ReLU(), nn.Conv2d(coarse, 2, 1))
        # The finest features are many pixels to move, so there are half as many of them.
        self.tap = nn.Conv2d(fine, fine // 2, 1)
        moved = (fine // 2, middle, coarse)
        # Base, sharp photo (3 each), coverage and phase (2) come beside the finest features.
        self.enter = nn.ModuleList(
            nn.Conv2d(given + extra, c, 3, padding=1)
            for given, extra, c in zip(moved, (9, 1, 1), channels, strict=True)
        )
        self.decoder = nn.ModuleList([
            nn.Sequential(_Block(fine)),
            nn.Sequential(_Block(middle), _Block(middle)),
            nn.Sequential(_Block(coarse, 2), _Block(coarse, 4), _Block(coarse)),
        ])  # fmt: skip
        self.rise = nn.ModuleList([nn.Conv2d(middle, fine, 1), nn.Conv2d(coarse, middle, 1)])
        self.out = nn.Conv2d(fine, 4, 3, padding=1)
        for parameter in (*self.order[-1].parameters(), *self.out.parameters()):
            nn.init.zeros_(parameter)
        # Starts as the photo sampled backwards wherever something lands, which is not far off.
        nn.init.constant_(self.out.bias[3:], 2.0)
        self.log_scale = nn.Parameter(torch.full((3,), math.log(_INITIAL_SCALE)))

    def encode(self, image: Pictures) -> PhotoPyramid:
        """Return the features of photos in [0, 1]; once per photo."""
        levels, x = [], _pad(image) - 0.5
        for stage in self.encoder:
            x = stage(x if not levels else functional.relu(x))
            # In the layout that the splat reads, once and not for every frame.
            levels.append((x if levels else self.tap(x)).contiguous())
        return PhotoPyramid(image, tuple(levels), self.order(x))

    def forward(self, pyramid: PhotoPyramid, motion: Motions, metric: Maps) -> Pictures:
        """Return the frame, not clamped, of a motion in px and W in px at 256 px wide."""
        height, width = motion.shape[-2:]
        photo, motion, metric = map(_pad, (pyramid.photo, motion, metric))
        plans = self.plans(motion, metric, pyramid.order)
        coverage = plans[0].coverage()
        ahead = self._ahead(0, metric, pyramid.order)
        fine = torch.cat([photo, motion, ahead, pyramid.levels[0]], dim=1)
        base, arrived, ahead, moved = plans[0](fine).split([3, 2, 1, fine.shape[1] - 6], dim=1)
        base = fill_holes(base, coverage, ahead)
        sharp = sample_at(photo, -arrived, mode="bicubic")
        phase = arrived - arrived.floor()
        beside = base - 0.5, sharp - 0.5, coverage, 4 * phase * (1 - phase)
        coarser, form = 0, {"dtype": self.out.weight.dtype, "memory_format": torch.channels_last}
        for level in (2, 1):
            given = plans[level](pyramid.levels[level]), plans[level].coverage()
            x = self.enter[level](torch.cat(given, dim=1).to(**form))
            x = self.decoder[level](x + coarser)
            x = self.rise[level - 1](x)
            coarser = functional.interpolate(x, scale_factor=2, mode="bilinear")
        x = self.enter[0](torch.cat([moved, *beside], dim=1).to(**form))
        x = self.decoder[0](x + coarser)
        change = self.out(functional.relu(x)).to(base.dtype)
        blend = torch.sigmoid(change[:, 3:]) * coverage.clamp(max=1)
        shown = _within(fill_holes(arrived, coverage))
        frame = torch.lerp(base, sharp, blend) + shown * change[:, :3]
        gate = motion_gate(motion, arrived.detach(), coverage)
        return torch.lerp(photo, frame, gate)[..., :height, :width]

    def plans(self, motion: Motions, metric: Maps, order: Tensor) -> list[SplatPlan]:
        """Return how the three levels are splatted, fine to coarse; sides are multiples of 4."""
        plans = []
        for level in range(len(self.log_scale)):
            if level:
                motion, metric = halve(motion) / 2, halve(metric)
            plans.append(SplatPlan(motion, metric=self._ahead(level, metric, order)))
        return plans

    def _ahead(self, level: int, metric: Tensor, order: Tensor) -> Tensor:
        """Return Z: the metric with the level's scale, corrected by what the photo shows."""
        order = functional.interpolate(order, metric.shape[-2:], mode="bilinear")
        factor, offset = order.split(1, dim=1)
        ahead = metric * torch.exp(self.log_scale[level] + factor) + offset
        return ahead.clamp(max=LARGEST_METRIC)


def motion_gate(motion: Motions, arrived: Motions, coverage: Maps) -> Maps:
    """Return how much say the network has: 0 to 1, and 0 exactly where nothing near moves.

    ``arrived`` is the motion, in px, of what each pixel of the frame shows.
    """
    moving = torch.maximum(*(m.square().sum(1, keepdim=True).sqrt() for m in (motion, arrived)))
    near = torch.maximum(
        _ramp(moving, _STILL, _MOVING), _ramp((coverage - 1).abs(), _COVERED, _UNCOVERED)
    )
    near = functional.pad(near, (4, 4, 4, 4), mode="replicate")
    for axis in (-1, -2):
        for step in (1, 2, 3):  # windows of 2, 4 and 7 px; far faster than max_pool2d
            length = near.shape[axis] - step
            near = torch.maximum(near.narrow(axis, 0, length), near.narrow(axis, step, length))
    for axis in (-1, -2):
        length = near.shape[axis] - 2
        near = sum(near.narrow(axis, step, length) for step in range(3)) / 3
    return near


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    x = ((x - low) / (high - low)).clamp(0, 1)
    return x * x * (3 - 2 * x)


def _within(arrived: Tensor) -> Tensor:
    """Return 1 where what arrives was in the photo, 0 beyond its border: no example shows that."""
    height, width = arrived.shape[-2:]
    x = torch.arange(width, device=arrived.device) - arrived[:, :1]
    y = torch.arange(height, device=arrived.device)[:, None] - arrived[:, 1:]
    beyond = torch.maximum(torch.maximum(-x, x - (width - 1)), torch.maximum(-y, y - (height - 1)))
    return 1 - _ramp(beyond, 0.0, 1.0)


def _pad(x: Tensor) -> Tensor:
    """Repeat the last row and column up to a multiple of the coarsest level's stride."""
    height, width = x.shape[-2:]
    return functional.pad(x, (0, -width % _STRIDE, 0, -height % _STRIDE), mode="replicate")


@functools.cache
def load_renderer(folder: str | Path | None = None) -> SynthesisNet:
    """Return the trained network of a folder, by default the package's; refuse if there is none."""
    folder = WEIGHTS if folder is None else Path(folder)
    try:
        net = load_network(SynthesisNet, folder)
    except (OSError, ValueError) as error:
        # Of files that are not there diffusers says more than one sentence.
        why = f" ({error})" if isinstance(error, ValueError) else ""
        raise GidliteError(
            f"no trained renderer in {folder}{why}; use --renderer softmax, or train one with "
            "gidlite train renderer"
        ) from None
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


class NeuralRenderer:
    """Renders frames of one photo in [0, 1], by default with the network of the package.

    A photo of more than ``tile`` px a side (by default 1024, then in tiles of 512) is rendered in
    tiles, in little memory. They overlap by all that can influence a pixel, so no seam shows.
    """

    def __init__(
        self, image: Picture, net: SynthesisNet | None = None, *, tile: int | None = None
    ) -> None:
        self.image, self.net = image[None], _quick(net or load_renderer(), image.device)
        whole = max(image.shape[-2:]) <= (tile or _WHOLE)
        self._tile = max(_ALIGN, (tile or _TILE) // _ALIGN * _ALIGN)
        with torch.inference_mode():
            self._pyramid = self.net.encode(self.image) if whole else None

    @torch.inference_mode()
    def __call__(
        self, motion: Float[Tensor, "2 height width"], metric: Float[Tensor, "1 height width"]
    ) -> Picture:
        """Return the frame in [0, 1]; motion and metric as for the network."""
        motion, metric = motion[None], metric[None]
        if self._pyramid is not None:
            return self.net(self._pyramid, motion, metric)[0].clamp(0, 1)
        frame = torch.empty_like(self.image[0])
        farthest = math.ceil(float(motion.abs().max()))
        margin = math.ceil((REACH + farthest) / _ALIGN) * _ALIGN
        for rows in _spans(frame.shape[1], self._tile, margin):
            for columns in _spans(frame.shape[2], self._tile, margin):
                seen = [x[..., rows[1], columns[1]] for x in (self.image, motion, metric)]
                made = self.net(self.net.encode(seen[0]), *seen[1:])[0]
                frame[:, rows[0], columns[0]] = made[:, rows[2], columns[2]]
        return frame.clamp_(0, 1)


def _quick(net: SynthesisNet, device: torch.device) -> SynthesisNet:
    """Return the network, its decoder in bfloat16 where a CPU has it: frames differ by -90 dB."""
    if device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
        net = copy.deepcopy(net)
        for part in (net.enter, net.decoder, net.rise, net.out):
            part.to(torch.bfloat16, memory_format=torch.channels_last)
    return net


def _spans(length: int, tile: int, margin: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield the range each tile fills, the range it sees, and the former within the latter."""
    for first in range(0, length, tile):
        last = min(first + tile, length)
        start, stop = max(0, first - margin), min(length, last + margin)
        yield slice(first, last), slice(start, stop), slice(first - start, last - start)
