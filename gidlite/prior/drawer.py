"""What a photo cannot tell: the coordinates of its modes, drawn by diffusion.

A token stands for a part of the photo in one bin. Tokens of one bin attend to each other, and
those of one part over all bins: frequency-coordinated denoising (Li et al. 2024, section 4), on
coordinates instead of pixels. What the bins of a part have in common, its axis of motion, is told
to every token, since attention finds a mean far sooner than a covariance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from gidlite.errors import require
from gidlite.prior import PHOTO_STRIDE, Photos, mute
from gidlite.prior.denoiser import COORDINATIONS
from gidlite.prior.diffusion import Sampler, signal_levels
from gidlite.prior.modes import Coords, Evidence, ModesNet, split_volume

Tokens = Float[Tensor, "batch parts features"]
_WAVES = 32  # frequencies by which a noise level is told
_ALIKE = 0.8  # cosine of embeddings from which on two cells belong to one thing
# Shares of the longer side at which a point's region fades: on the way, and as the crow flies.
_REACH, _TOUCH = 0.25, 0.04
# Steps of colour, in [0, 1], that are texture, and that add up to an outline.
_TEXTURE, _OUTLINE = 0.08, 0.25


class Layer(nn.Module):
    """Attention over parts and over bins, and a perceptron, all scaled by the noise level."""

    def __init__(self, width: int, heads: int, over_bins: bool) -> None:
        super().__init__()
        self.heads, self.over_bins = heads, over_bins
        self.query_key_value = nn.ModuleList(
            nn.Linear(width, 3 * width) for _ in range(1 + over_bins)
        )
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(1 + over_bins))
        up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(up, nn.GELU(), down)
        self.modulate = nn.Linear(width, 3 * (2 + over_bins) * width)
        mute(self.modulate)

    def _attend(self, number: int, x: Tensor) -> Tensor:
        triples = self.query_key_value[number](x.flatten(0, 1)).unflatten(-1, (3, self.heads, -1))
        mixed = functional.scaled_dot_product_attention(*triples.permute(2, 0, 3, 1, 4))
        return self.out[number](mixed.transpose(1, 2).flatten(2)).unflatten(0, x.shape[:2])

    def forward(self, x: Float[Tensor, "batch bins parts width"], level: Tensor) -> Tensor:
        changes = self.modulate(functional.silu(level))[:, None, None].chunk(
            3 * (2 + self.over_bins), -1
        )

        def normal(number: int) -> Tensor:
            scale, shift = changes[3 * number : 3 * number + 2]
            return functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift

        x = x + changes[2] * self._attend(0, normal(0))
        if self.over_bins:
            x = x + changes[5] * self._attend(1, normal(1).transpose(1, 2)).transpose(1, 2)
        return x + changes[-1] * self.mlp(normal(1 + self.over_bins))


class Drawer(ModelMixin, ConfigMixin):
    """Predicts v of noisy coordinates, see ``COORDINATIONS``; untrained, they are white.

    ``features`` is the length of what is known of a part, see ``modes.Modes``; its mean and spread
    over the training data are kept, so that a token of zeros stands for no photo.
    """

    @register_to_config
    def __init__(
        self, num_frequencies: int = 16, parts: int = 24, modes_per_part: int = 4,
        features: int = 357, width: int = 96, layers: int = 4, coordination: str = "attention",
    ) -> None:  # fmt: skip
        super().__init__()
        known = ", ".join(COORDINATIONS)
        message = f"coordination {coordination!r} is unknown; use one of {known}"
        require(coordination in COORDINATIONS, message)
        bins = num_frequencies - 1
        tokens = 1 if coordination == "volume" else bins  # of a part
        numbers = 2 * modes_per_part * bins // tokens
        common = 0 if coordination == "independent" else modes_per_part**2
        self.enter = nn.Linear(numbers + common, width)
        initial = torch.empty(tokens, width)
        if not initial.is_meta:  # there, drawing imports torch's compiler, for a second
            initial.normal_().mul_(0.1)
        self.bin = nn.Parameter(initial)
        self.know = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.level = nn.Sequential(nn.Linear(2 * _WAVES, width), nn.SiLU(), nn.Linear(width, width))
        over_bins = coordination == "attention"
        self.blocks = nn.ModuleList(Layer(width, 4, over_bins) for _ in range(layers))
        self.leave = nn.Linear(width, numbers)
        mute(self.leave)
        self.register_buffer("middle", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))

    def embed(self, tokens: Tokens) -> Tokens:
        """Return the condition of what is known of the parts; 0 is no photo."""
        return (tokens - self.middle) / self.spread

    def forward(
        self, noisy: Coords, step: Int[Tensor, " batch"], freq_index: Tensor, condition: Tokens
    ) -> Coords:
        """Predict v of the coordinates of bins 1 to K − 1, all at once (so no bin is asked for)."""
        config = self.config
        split = noisy.unflatten(-1, (config.parts, config.modes_per_part))
        signal = signal_levels(noisy.device)[step]
        z = split.transpose(2, 3)  # batch bins parts 2 modes
        x = z.flatten(3)
        if len(self.bin) == 1:
            x = x.transpose(1, 2).flatten(2)[:, None]
        if config.coordination != "independent":
            x = torch.cat([x, self._common(z, signal).expand(-1, x.shape[1], -1, -1)], -1)
        x = self.enter(x) + self.bin[:, None] + self.know(condition)[:, None]
        waves = torch.exp(torch.linspace(0, math.log(100), _WAVES, device=x.device)) / 4
        ratio = torch.log(signal / (1 - signal.square()).sqrt())[:, None] * waves
        level = self.level(torch.cat([ratio.sin(), ratio.cos()], -1))
        for block in self.blocks:
            x = block(x, level)
        x = self.leave(functional.layer_norm(x, x.shape[-1:]))
        bins = noisy.shape[1]
        x = x.squeeze(1).unflatten(2, (bins, -1)).transpose(1, 2) if len(self.bin) == 1 else x
        return x.unflatten(-1, (2, -1)).transpose(2, 3).flatten(3)

    def _common(self, z: Tensor, signal: Tensor) -> Float[Tensor, "batch 1 parts squares"]:
        """Return how the modes of every part go together, the mean over bins, less the noise."""
        scatter = torch.einsum("bkjsm,bkjsn->bjmn", z, z) / (2 * z.shape[1])
        identity = torch.eye(z.shape[-1], device=z.device)
        noise = (1 - signal.square())[:, None, None, None]
        return (
            (scatter - noise * identity) / signal.square().clamp(min=0.1)[:, None, None, None]
        ).flatten(2)[:, None]


class ModesPrior:
    """Draws coordinates of the photo's own modes: things move as wholes, each by its level."""

    PARTS: ClassVar = {"modes": ModesNet, "drawer": Drawer}
    stats = None

    def __init__(self, modes: ModesNet, drawer: Drawer) -> None:
        self.modes, self.drawer = modes, drawer

    def sample(self, photo: Photos, sampler: Sampler) -> Complex[Tensor, "freq 2 rows columns"]:
        """Return a volume in px of its own grid, a cell per 4×4 pixels of the photo."""
        found = self.modes(photo)
        # Drawn in any case, so that the rest does not depend on whether a wind was asked for.
        amount = found.draw_amount(sampler.noise([1]).to(photo.device), sampler.wind)
        shape = 1, len(found.scale), 2, found.shapes.shape[1]
        bins = torch.arange(shape[1], device=photo.device)[None]

        def volume(coords: Coords) -> Tensor:
            real, imaginary = (found.compose(coords, amount) / PHOTO_STRIDE).unbind(1)
            spectral = torch.complex(real, imaginary)
            return torch.cat([torch.zeros_like(spectral[:, :1]), spectral], dim=1)

        condition, start = self.drawer.embed(found.tokens), sampler.noise(shape).to(photo.device)
        return volume(sampler.solve(self.drawer, start, condition, bins, volume))[0].cpu()

    def surprise(self, photo: Photos, spectral: Tensor) -> float:
        """Return how badly a volume, of the size of the photo, fits the photo's modes."""
        found = self.modes(photo)
        motion = split_volume(spectral[None].to(photo.device), tuple(found.level.shape[-2:]))
        return Evidence(found, motion, torch.ones_like(found.level)).surprise().item()

    def basis(self, photo: Photos) -> tuple[Complex[Tensor, "modes 2 rows columns"], Tensor]:
        """Return shapes in px of their own grid, at the median amount, and places in the bins."""
        found = self.modes(photo)
        shapes, places = found.basis()
        return (shapes * found.amount[0, 0].exp() / PHOTO_STRIDE).cpu(), places.cpu()

    def things(
        self, photo: Photos, points: Sequence[tuple[float, float]]
    ) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "points rows columns"]]:
        """Return the level of cells, and how much each belongs, 0 to 1, to what is at points.

        It does where it is alike and no outline lies on the way. Points are (x, y), sides 0 to 1.
        """
        found = self.modes(photo)
        embedding = functional.normalize(found.embedding[0], dim=0)
        colors = functional.avg_pool2d(photo, PHOTO_STRIDE)[0]
        rows, columns = embedding.shape[-2:]
        regions = [torch.zeros(0, rows, columns)]
        for x, y in points:
            cell = min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)
            alike = torch.einsum("chw,c->hw", embedding, embedding[:, cell[0], cell[1]]) / _ALIKE
            region = alike.clamp(0, 1) / (1 + _distance(colors, cell) ** 4)
            regions.append(region[None].cpu())
        return found.level[0].cpu(), torch.cat(regions)


def _distance(
    colors: Float[Tensor, "3 rows columns"], cell: tuple[int, int]
) -> Float[Tensor, "rows columns"]:
    """Return how far cells are from one, along the shortest way; to cross an outline is far."""
    size, device = colors.shape[-2:], colors.device
    padded = functional.pad(colors[None], (1, 1, 1, 1), mode="replicate")
    change = functional.unfold(padded, 3).view(3, 9, *size) - colors[:, None]
    ways = (torch.cartesian_prod(*[torch.arange(-1.0, 2, device=device)] * 2)).norm(dim=1)
    step = (change.norm(dim=0) - _TEXTURE).clamp(min=0) / _OUTLINE
    step = step + ways[:, None, None] / (_REACH * max(size))
    far = torch.full(size, 1e3, device=device)
    far[cell] = 0
    for _ in range(sum(size)):
        padded = functional.pad(far[None, None], (1, 1, 1, 1), value=1e3)
        far = (functional.unfold(padded, 3).view(9, *size) + step).amin(0)
    y, x = (torch.arange(n, device=device) - at for n, at in zip(size, cell, strict=True))
    return far.minimum(torch.hypot(y[:, None].float(), x.float()) / (_TOUCH * max(size)))
