"""A photo's own modes: how far each place moves, and which places move together.

A volume is taken to be

    S_k(p) = g · level(p) · s_k Σ_m ψ_m(p) e_mk q_mk,

with real mode shapes ψ (dx, dy) and envelopes e predicted from the photo, an amount g for the
scene, the frequency scale s_k of adaptive normalization, and complex coordinates q that the photo
cannot tell. It is the law by which the synthetic world moves, and by which a touched photo answers
(Davis et al. 2015). Shapes have unit power at every cell, so the level alone says how much a place
moves, and the shapes say how places move together. Departure from Li et al. 2024, who draw
pictures of Fourier coefficients: see ``docs/departures.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from gidlite.errors import require
from gidlite.prior import PHOTO_STRIDE, Photos, image_taps, mute
from gidlite.prior.encoder import WIDTHS, PhotoEncoder

EMBEDDING, BASIS = 16, 12  # channels of cells: what they belong to, and what shapes are made of
WIDE, TOKEN = 96, 128  # of what a cell shows, and of what is known of a part
UNEXPLAINED = 0.5  # of what a component varies by, is noise to the likelihood
STILL = 0.03  # relative level below which differences of level are of no interest
LEAST_AMOUNT = 0.15  # px of RMS; a scene that moves less is taken to move by this
_OUTLIER = 8.0  # standard deviations at which a component is cut off
_PLACE_WAVES = 4

Maps = Float[Tensor, "batch rows columns"]
# Real and imaginary parts of bins 1 to K − 1, along x and y.
Components = Float[Tensor, "batch 2 bins 2 rows columns"]
Coords = Float[Tensor, "batch bins 2 modes"]  # of every mode and bin: real and imaginary part


@dataclass(frozen=True)
class Modes:
    """What a photo says of its motion, on cells of 4×4 pixels."""

    shapes: Float[Tensor, "batch modes 2 rows columns"]  # ψ: mean square 1 over x, y, modes summed
    level: Maps  # RMS displacement over that of the liveliest places of the scene
    envelope: Float[Tensor, "batch modes bins"]  # e, of bins 1 to K − 1
    amount: Float[Tensor, "batch 2"]  # mean and log variance of ln g, g in px of the photo
    parts: Float[Tensor, "batch parts rows columns"]  # soft regions, summing to 1
    embedding: Float[Tensor, "batch channels rows columns"]  # alike where one thing is
    tokens: Float[Tensor, "batch parts features"]  # what is known of each part
    scale: Float[Tensor, " bins"]  # s_k, with 8 Σ s_k² = 1

    def draw_amount(
        self, noise: Float[Tensor, " batch"], wind: float | None = None
    ) -> Float[Tensor, " batch"]:
        """Return g: of normal noise, or the quantile ``wind`` of what the photo leaves open."""
        mean, log_variance = self.amount.unbind(1)
        if wind is not None:
            # The ends of a normal distribution are infinite.
            place = min(max(wind, 0.01), 0.99)
            noise = torch.full_like(noise, NormalDist().inv_cdf(place))
        return (mean + log_variance.exp().clamp(0.02, 4).sqrt() * noise).exp()

    def basis(self) -> tuple[Complex[Tensor, "pairs 2 rows columns"], Float[Tensor, " pairs"]]:
        """Return the shapes of the first photo in pairs, times the level, and places in the bins.

        The two modes of a shape make a complex one.
        """
        shapes = (self.shapes[0] * self.level[0]).unflatten(0, (-1, 2))
        return torch.complex(*shapes.unbind(1)), self.places()

    def places(self) -> Float[Tensor, " pairs"]:
        """Return the place in the bins of every pair: their mean, weighted by speed."""
        power = (self.envelope[0, ::2] * self.scale).square()
        bins = torch.arange(1, power.shape[1] + 1, device=power.device)
        return ((power * bins.square()).sum(1) / power.sum(1).clamp(min=1e-9)).sqrt()

    def compose(self, coords: Coords, amount: Float[Tensor, " batch"]) -> Components:
        """Return the volume of coordinates, of an amount g, in px of the photo."""
        weights = coords * (self.envelope.mT * self.scale[:, None])[:, :, None]
        volume = torch.einsum("bmchw,bksm->bskchw", self.shapes, weights)
        return volume * (self.level * amount[:, None, None])[:, None, None, None]


class ModesNet(ModelMixin, ConfigMixin):
    """Photo → modes: cells that are alike make a part, and each part has a few shapes of its own.

    Every cell has an embedding, close to that of another if both move as one thing (De Brabandere
    et al. 2017); parts gather around cells that are far from each other. A shape is a scalar, and
    moves along x in one mode and along y in another, both as far as the axis along which a cell
    swings allows: a stem goes sideways in either.
    """

    @register_to_config
    def __init__(self, num_frequencies: int = 16, parts: int = 24, modes_per_part: int = 4) -> None:
        super().__init__()
        require(modes_per_part % 2 == 0, f"modes_per_part is {modes_per_part}; it must be even")
        self.encoder = PhotoEncoder()
        fine, middle, _, coarsest = WIDTHS
        hidden = nn.Conv2d(fine, WIDE, 3, padding=1)
        self.pixels = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), hidden, nn.SiLU())
        self.level = nn.Conv2d(WIDE, 1, 1)
        self.embed = nn.Sequential(
            nn.Conv2d(WIDE + 4 * _PLACE_WAVES, WIDE, 3, padding=1), nn.SiLU(),
            nn.Conv2d(WIDE, EMBEDDING + BASIS + 2, 1),
        )  # fmt: skip
        # How much being elsewhere in the picture tells things apart.
        self.reach = nn.Parameter(torch.tensor(2.0))
        seen = WIDE + middle + 5
        self.describe = nn.Sequential(nn.Linear(seen, TOKEN), nn.SiLU(), nn.Linear(TOKEN, TOKEN))
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(TOKEN, modes_per_part // 2 * (BASIS + 3)))
        with torch.no_grad():  # at first, every part is rigid
            self.mix[1].bias.view(-1, BASIS + 3)[:, -1] = 1
        envelopes = nn.Linear(TOKEN, modes_per_part // 2 * (num_frequencies - 1))
        self.envelope = nn.Sequential(nn.SiLU(), envelopes)
        mute(envelopes)
        self.amount = nn.Sequential(nn.Linear(coarsest, 64), nn.SiLU(), nn.Linear(64, 2))
        flat = torch.full((num_frequencies - 1,), (8 * (num_frequencies - 1)) ** -0.5)
        self.register_buffer("scale", flat)

    def forward(self, photo: Photos, taps: list[Tensor] | None = None) -> Modes:
        """Return the modes of photos in [0, 1], sides multiples of 32; taps may be given."""
        maps = self.encoder(photo, image_taps(photo) if taps is None else taps)
        pixels = self.pixels(maps[0])
        level = functional.softplus(self.level(pixels).float())[:, 0]
        found = self.embed(torch.cat([pixels, _places(pixels)], 1)).float()
        embedding, basis, lean = found.split((EMBEDDING, BASIS, 2), 1)
        embedding = torch.cat([embedding, self.reach * _ramps(embedding)], 1)
        parts = gather_parts(embedding, level.detach(), self.config.parts)
        seen, place = _describe(parts, level.detach(), pixels, maps[1])
        tokens = self.describe(torch.cat([seen, place], -1))
        mix = self.mix(tokens).float().unflatten(-1, (-1, BASIS + 3))
        ramps = _ramps(basis)[:, None] - place[..., :2, None, None]
        ramps = ramps / (2 * place[..., 2:4, None, None] + 0.1)
        scalars = torch.einsum("bjrn,bnhw->bjrhw", mix[..., :BASIS], basis)
        scalars = scalars + torch.einsum("bjrn,bjnhw->bjrhw", mix[..., BASIS:-1], ramps)
        scalars = (scalars + mix[..., -1, None, None]) * parts[:, :, None]
        scalars = scalars.flatten(1, 2)
        scalars = scalars / (scalars.square().sum(1, keepdim=True) + 1e-8).sqrt()
        shapes = (scalars[:, :, None, None] * _swing(lean)[:, None]).flatten(1, 2)
        envelope = self._envelope(tokens).repeat_interleave(2, 1)
        amount = self.amount(maps[3].mean((-2, -1))).float()
        known = torch.cat([tokens.float(), seen.float(), place], -1).detach()
        return Modes(shapes, level, envelope, amount, parts, embedding, known, self.scale)

    @property
    def fitted(self) -> bool:
        """Whether s_k was measured on data; a network starts with the same for all bins."""
        return bool((self.scale != self.scale[0]).any())

    def _envelope(self, tokens: Tensor) -> Tensor:
        """Return envelopes that leave the level what it says: Σ s² e² = Σ s²."""
        logs = 2 * torch.tanh(self.envelope(tokens).float() / 2)
        envelope = logs.unflatten(-1, (-1, len(self.scale))).flatten(1, 2).exp()
        power = (self.scale.square() * envelope.square()).sum(-1, keepdim=True)
        return envelope * (self.scale.square().sum() / power).sqrt()


def square_distances(
    embedding: Float[Tensor, "batch channels cells"], others: Float[Tensor, "batch channels parts"]
) -> Float[Tensor, "batch parts cells"]:
    """Return d² between embeddings; two cells are one thing with a likeness of exp −d²."""
    squares = embedding.square().sum(1)[:, None] + others.square().sum(1)[..., None]
    return (squares - 2 * others.mT @ embedding).clamp(min=0)


def gather_parts(
    embedding: Float[Tensor, "batch channels rows columns"], level: Maps, count: int
) -> Float[Tensor, "batch parts rows columns"]:
    """Return soft parts around cells that move and are unlike each other; they sum to 1.

    The first centre is the liveliest cell; each further one is that which moves most of what no
    centre is like. A late centre that is like an earlier one takes little.
    """
    flat, lively = embedding.flatten(2), level.flatten(1) + STILL
    left, centres, news = torch.ones_like(lively), [], []
    with torch.no_grad():
        for _ in range(count):
            wanted = lively * left
            cell = wanted.argmax(1)
            news.append(left.gather(1, cell[:, None])[:, 0])
            centre = flat.gather(2, cell[:, None, None].expand(-1, flat.shape[1], -1))
            # The mean of what is like the cell stands for it better than the cell.
            near = torch.exp(-square_distances(flat, centre)) * lively[:, None]
            centre = torch.einsum("bjn,bcn->bcj", near / near.sum(-1, keepdim=True), flat)
            centres.append(centre)
            left = left * (1 - torch.exp(-square_distances(flat, centre)[:, 0]))
    alike = torch.exp(-square_distances(flat, torch.cat(centres, 2))) + 1e-6
    shares = alike * torch.stack(news, 1)[..., None].clamp(min=1e-3)
    return (shares / shares.sum(1, keepdim=True)).unflatten(2, embedding.shape[-2:])


def swing_axis(moves: Float[Tensor, "batch many 2 cells"]) -> Float[Tensor, "batch 2 cells"]:
    """Return along which axis cells move: a vector at twice its angle, of length 1 for a line."""
    dx, dy = moves.unbind(2)
    power = (dx.square() + dy.square()).sum(1).clamp(min=1e-9)
    lean = torch.stack([(dx.square() - dy.square()).sum(1), 2 * (dx * dy).sum(1)], 1)
    return lean / power[:, None]


def _swing(lean: Float[Tensor, "batch 2 rows columns"]) -> Float[Tensor, "batch 2 2 rows columns"]:
    """Return symmetric matrices A with A A = 1 + [[α, β], [β, −α]], whose axis ``lean`` tells.

    Of (α, β), the direction is twice the angle of the axis, and the length how strictly a cell
    keeps to it: 0 swings anyhow, 1 along a line.
    """
    length = lean.square().sum(1, keepdim=True).clamp(min=1e-8).sqrt()
    strict = 0.99 * torch.tanh(length)
    alpha, beta = (lean / length).unbind(1)
    long, short = (1 + strict[:, 0]).sqrt(), (1 - strict[:, 0]).sqrt()
    mean, half = (long + short) / 2, (long - short) / 2
    rows = [mean + half * alpha, half * beta, half * beta, mean - half * alpha]
    return torch.stack(rows, 1).unflatten(1, (2, 2))


def _places(like: Tensor) -> Tensor:
    """Return sines and cosines of the place of every cell, alike in pictures of any shape."""
    rows, columns = like.shape[-2:]
    y = (torch.arange(rows, device=like.device) + 0.5) / rows
    x = (torch.arange(columns, device=like.device) + 0.5) / rows
    waves = 2.0 ** torch.arange(_PLACE_WAVES, device=like.device)[:, None, None] * math.pi
    grids = torch.meshgrid(y, x, indexing="ij")
    found = torch.cat([f(grid * waves) for grid in grids[::-1] for f in (torch.sin, torch.cos)])
    return found.to(like.dtype).expand(len(like), -1, -1, -1)


def _ramps(like: Tensor) -> Tensor:
    """Return x and y of every cell, sides at ±1."""
    # Unlike linspace, this can be exported for pictures of any size.
    y, x = (2 * torch.arange(n, device=like.device) / (n - 1) - 1 for n in like.shape[-2:])
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y]).expand(len(like), -1, -1, -1).to(like.dtype)


def _describe(parts: Tensor, level: Tensor, pixels: Tensor, map8: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the photo shows in every part, and its place: centre, spread, log of weight."""
    weight = parts * (level + STILL)[:, None]
    mass = weight.sum((-2, -1), keepdim=True).clamp(min=1e-4)
    share = weight / mass
    ramps = _ramps(parts)
    centre = torch.einsum("bjhw,bchw->bjc", share, ramps)
    spread = torch.einsum("bjhw,bchw->bjc", share, ramps.square()) - centre.square()
    coarse = functional.adaptive_avg_pool2d(share, map8.shape[-2:])
    coarse = coarse / coarse.sum((-2, -1), keepdim=True).clamp(min=1e-4)
    seen = [
        torch.einsum("bjhw,bchw->bjc", share, pixels.float()),
        torch.einsum("bjhw,bchw->bjc", coarse, functional.group_norm(map8.float(), 8)),
    ]
    place = [centre, spread.clamp(min=1e-4).sqrt(), mass[..., 0].log() / 4]
    return torch.cat(seen, -1), torch.cat(place, -1)


def split_volume(
    spectral: Complex[Tensor, "batch freq 2 height width"], cells: tuple[int, int]
) -> Components:
    """Return bins from 1 on at every cell, in px of the photo; the middle pixel stands for a cell.

    A mean over the cell would mix what moves with what does not, along every outline.
    """
    rows, columns = cells
    stride = spectral.shape[-1] // columns
    one_each = spectral[:, 1:, :, stride // 2 :: stride, stride // 2 :: stride]
    px = PHOTO_STRIDE / stride
    return torch.stack([one_each.real, one_each.imag], 1)[..., :rows, :columns] * px


def total_level(motion: Components) -> Maps:
    """Return the RMS displacement of every cell, about its mean."""
    return (2 * motion.square().sum((1, 2, 3))).sqrt()


def scene_amount(level: Maps, reliable: Maps) -> Float[Tensor, " batch"]:
    """Return g: the 95th percentile of the level over reliable cells, ``LEAST_AMOUNT`` at least."""
    known = torch.where(reliable > 0, level, torch.nan).flatten(1)
    found = torch.nanquantile(known.float(), 0.95, dim=1)
    return torch.nan_to_num(found).clamp(min=LEAST_AMOUNT)


class Evidence:
    """The Gaussian likelihood of a motion over its own level, exact by Woodbury's identity.

    With the level divided out, a cell that moves much does not outvote the others; cells that
    stand still, or cannot be trusted, hardly count. One Cholesky factor of the size of the modes
    stands for each bin.
    """

    def __init__(self, modes: Modes, motion: Components, reliable: Maps) -> None:
        total = total_level(motion)
        amount = scene_amount(total, reliable)[:, None, None]
        self.weight = (total / amount).square() / ((total / amount).square() + 0.01) * reliable
        weight = self.weight[:, None, None]
        own = (total + STILL * amount)[:, None, None, None] * modes.scale[:, None, None, None]
        y = (motion / own * weight[:, None] / UNEXPLAINED).clamp(-_OUTLIER, _OUTLIER).flatten(3)
        shapes = (modes.shapes * weight / UNEXPLAINED).flatten(2)
        envelope = modes.envelope.mT
        gram = shapes @ shapes.mT
        seen = torch.einsum("bmd,bskd->bksm", shapes, y) * envelope[:, :, None]
        inner = envelope[..., :, None] * gram[:, None] * envelope[..., None, :]
        identity = torch.eye(inner.shape[-1], device=inner.device)
        self.factor = torch.linalg.cholesky(identity + inner)
        self.seen = torch.linalg.solve_triangular(self.factor, seen.mT, upper=False)
        self.square = y.square().sum((1, 2, 3))

    def surprise(self) -> Float[Tensor, " batch"]:
        """Return the negative log-likelihood of a component that counts, up to a constant."""
        spread = 4 * self.factor.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))
        error = self.square - self.seen.square().sum((1, 2, 3))
        bins = self.factor.shape[1]
        count = 2 * bins * (2 * self.weight.square().sum((1, 2)) + 50)
        return 0.5 * (spread + error) / count

    def draw(self, noise: Float[Tensor, "batch bins modes 2"] | None = None) -> Coords:
        """Return a posterior draw of the coordinates, or their mean without noise."""
        mean = self.seen if noise is None else self.seen + noise
        return torch.linalg.solve_triangular(self.factor.mT, mean, upper=True).mT
