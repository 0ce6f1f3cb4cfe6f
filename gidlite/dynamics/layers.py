"""A photo taken apart for touching: what moves most in front, what it hides behind.

One bent sheet smears the background along with a flower. Two sheets do not: the front one is what
moves more than its surroundings, cut out along edges of the photo; the back one is the photo with
the front filled in from around it. Each moves by the modes of its own pixels, spread smoothly
beyond them, so that where nothing separates the two they move alike and no seam shows. At rest
both are the photo.

Where motion leaves open what is front, colour decides: pixels gather in clusters of like colour
and place (as superpixels do, Achanta et al. 2012), each cluster is in front as far as its own
pixels, and others of its colour, surely move, and a guided filter (He et al. 2010) brings the
answer to the edges. All of it is arithmetic on whole maps, of any size, so that a web page can run
the same (``gidlite.web``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from gidlite.motion.spectral import pack_complex, resize_spectral, unpack_complex

# The grid on which a photo is taken apart: as fine as the motion, and edges still show.
_PIXELS, _MULTIPLE = 256 * 160, 32
# Shares of the liveliest motion nearby above which a pixel is likely and surely front, and below
# which it is surely back; colour decides the rest.
_LIKELY, _SURELY, _NEVER = 0.55, 0.85, 0.1
# With this share of front there is no back worth the name.
_ALL = 0.72
_LIVELY, _LEAST = 0.1, 0.45  # of the liveliest motion: near it all is doubtful; front at least
_NEAR, _DOUBTFUL, _CLOSED = 20, 14, 3  # px of the grid
# One cluster to so many px; colours and places (of 256 px) that are about one cluster's.
_CLUSTER, _COLOR, _PLACE = 16, 0.04, 0.12
_KIN = 20  # px that others of like colour count for
_ROUNDS = 3  # in which doubtful pixels, too, tell their cluster what they have become
_GUIDE_RADIUS = 4  # half a window's side, px of the grid
_GUIDE_SOFTNESS = 1e-3  # variance of colour under which an edge is ignored
_SHALLOW = (0.06, 0.14)  # of the width: how deep behind the front the back is mirrored, and faded
_PINNED = 0.08  # of a side: where the border begins to hold
_SMOOTH = 2.0  # px of the mode grid; a prior's finer detail would tear what is dragged far
SHEER = 0.05  # opacity; a front that nowhere is clearer hides nothing: there is one sheet


@dataclass(frozen=True)
class Layers:
    """Two sheets that lie on each other; modes in px of the photo, the back's half as fine."""

    alpha: Float[Tensor, "1 height width"]  # opacity of the front, 0–1
    back: Float[Tensor, "3 height width"]  # the photo without its front, 0–1
    front_modes: Complex[Tensor, "modes 2 rows columns"]
    back_modes: Complex[Tensor, "modes 2 back_rows back_columns"]


def _box(field: Float[Tensor, "channels height width"]) -> Tensor:
    padded = functional.pad(field[None], (_GUIDE_RADIUS,) * 4, mode="replicate")
    rows = functional.avg_pool2d(padded, (2 * _GUIDE_RADIUS + 1, 1), stride=1)
    return functional.avg_pool2d(rows, (1, 2 * _GUIDE_RADIUS + 1), stride=1)[0]


def guided_filter(
    guide: Float[Tensor, "3 height width"],
    fields: Float[Tensor, "fields height width"],
    fine_guide: Float[Tensor, "3 fine_height fine_width"],
) -> Float[Tensor, "fields fine_height fine_width"]:
    """Return fields as locally linear functions of a photo's colour, at another resolution."""
    mean, mean_field = _box(guide)[:, None], _box(fields)
    products = _box((guide[:, None] * guide).flatten(0, 1)).unflatten(0, (3, 3))
    softness = _GUIDE_SOFTNESS * torch.eye(3, device=guide.device)[..., None, None]
    a, b, c = products - mean * mean[:, 0] + softness
    # Cross products of the rows of a matrix make its inverse, but for the determinant.
    inverse = torch.stack([b.cross(c, dim=0), c.cross(a, dim=0), a.cross(b, dim=0)])
    inverse = inverse / (a * inverse[0]).sum(0)
    shared = _box((guide[:, None] * fields).flatten(0, 1)).unflatten(0, (3, -1))
    slope = (inverse[:, :, None] * (shared - mean * mean_field)).sum(1)
    offset = mean_field - (slope * mean).sum(0)
    line = torch.cat([slope, offset[None]])
    line = _resized(_box(line.flatten(0, 1)), fine_guide).unflatten(0, (4, -1))
    return (line[:3] * fine_guide[:, None]).sum(0) + line[3]


def _resized(field: Tensor, like: Tensor, antialias: bool = False) -> Tensor:
    """Return maps at the size of another's."""
    size = like.shape[-2:]
    return functional.interpolate(field[None], size, mode="bilinear", antialias=antialias)[0]


def _ramp(values: Tensor, low: float, high: float) -> Tensor:
    share = ((values - low) / (high - low)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _blur(field: Float[Tensor, "channels height width"], sigma: float) -> Tensor:
    """Return a Gaussian blur; the border is repeated outside."""
    reach = round(3 * sigma)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(field)
    padded = functional.pad(field[:, None], (reach,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, -1, 1))
    return functional.conv2d(rows, kernel.view(1, 1, 1, -1))[:, 0]


def _widened(field: Float[Tensor, "channels height width"], radius: int) -> Tensor:
    """Return the largest value in squares around every pixel."""
    rows = functional.max_pool2d(field[None], (2 * radius + 1, 1), 1, (radius, 0))
    return functional.max_pool2d(rows, (1, 2 * radius + 1), 1, (0, radius))[0]


def _places(like: Tensor) -> Float[Tensor, "2 height width"]:
    """Return row and column of every pixel."""
    sides = (torch.arange(n, device=like.device, dtype=like.dtype) for n in like.shape[-2:])
    return torch.stack(torch.meshgrid(*sides, indexing="ij"))


def _fill(picture: Tensor, weight: Tensor, levels: int) -> Tensor:
    """Return the picture with pixels of no weight filled from the nearest scale that has some.

    Sides are halved so many times; cells of the last scale are filled from all others by
    distance (Shepard 1968).
    """
    if levels == 0:
        places = _places(weight).flatten(1)
        far = (places[:, None] - places[:, :, None]).square().sum(0)
        near = weight.flatten(1) / (far + 0.3).square()
        mean = (picture.flatten(1) @ near.T) / near.sum(1).clamp(min=1e-9)
        return torch.lerp(mean.view_as(picture), picture, weight)
    some = functional.avg_pool2d(weight, 2)
    coarse = functional.avg_pool2d(picture * weight, 2) / some.clamp(min=1e-6)
    coarse = _fill(coarse, (4 * some).clamp(max=1), levels - 1)
    return torch.lerp(_resized(coarse, picture), picture, weight)


def _clusters(guide: Float[Tensor, "3 rows columns"]) -> tuple[Tensor, Tensor]:
    """Return how much every pixel belongs to clusters of like colour and place, and their kinship.

    Shapes are (pixels, clusters) and (clusters, clusters); kin are alike, and may lie far apart.
    """
    seen = torch.cat([guide / _COLOR, _places(guide) / (256 * _PLACE)])
    some = functional.avg_pool2d(seen, 2).flatten(1).T
    centers = functional.avg_pool2d(seen, _CLUSTER).flatten(1).T

    def shares(seen: Tensor) -> Tensor:
        return (seen @ centers.T - centers.square().sum(1) / 2).softmax(1)

    for _ in range(2):
        share = shares(some)
        centers = (some.T @ share).T / share.sum(0)[:, None].clamp(min=1e-6)
    wide = torch.cat([centers[:, :3] / 1.5, centers[:, 3:] / 4], 1)
    kinship = (-(wide[:, None] - wide).square().sum(2) / 2).exp()
    return shares(seen.flatten(1).T), kinship


def _cut(guide: Tensor, share: Tensor, lively: Tensor) -> Float[Tensor, "guesses rows columns"]:
    """Return what is in front, by shares of the liveliest motion nearby and by colour."""
    surely = (share > _SURELY).to(share)
    # A prior's motion may end before its flower does: near what is lively, colour decides.
    never = ((share < _NEVER) & (_widened(lively, _DOUBTFUL) < 0.5)).to(share)
    known, (clusters, kinship) = surely + never, _clusters(guide)
    moving = 2 * ((share - 0.4) / 0.45).clamp(-0.9, 1.0)
    front, trust = (share > _LIKELY).to(share), 0.05
    for _ in range(_ROUNDS):
        weight = known + (1 - known) * trust
        told = torch.stack([weight * front, weight * (1 - front)]).flatten(2) @ clusters
        # Where a cluster says little, its kin do, both sides heard alike however large they are.
        kin = told / told.sum(2, keepdim=True).clamp(min=1e-6) @ kinship + 1e-6
        told = told + _KIN * kin / kin.sum(0)
        colour = clusters @ (told[0] / told.sum(0)).T
        odds = torch.logit(colour.T, eps=1e-3).view_as(share) + moving
        front = guided_filter(guide, odds.sigmoid(), guide)
        front = known * surely + (1 - known) * (8 * (front.clamp(0, 1) - 0.5)).sigmoid()
        trust = (front - 0.5).abs()
    # What is shut in by a flower belongs to it, a shadow between its petals, say.
    return -_widened(-_widened(_ramp(front, 0.4, 0.6), _CLOSED), _CLOSED)


def _front(guide: Tensor, amplitude: Tensor) -> Float[Tensor, "1 rows columns"]:
    """Return 1 where a pixel belongs to what moves, by motion nearby and by colour.

    Where that is all of it, as where the background sways too, the liveliest of all is in front;
    where that is all of it as well, there is one sheet.
    """
    top = amplitude.flatten().topk(guide[0].numel() // 100).values[-1].clamp(min=1e-6)
    nearby = _blur(_widened(amplitude, _NEAR), 8.0)
    share = amplitude / torch.cat([nearby.maximum(_LEAST * top), nearby.maximum(top)])
    front = _cut(guide, share, (amplitude > _LIVELY * top).to(share))
    likely = (share > _LIKELY).to(share).mean((1, 2))
    good = (likely > 0) & (likely < _ALL) & (front.mean((1, 2)) < _ALL)
    second = torch.where(good[1], front[1:], torch.ones_like(amplitude))
    return torch.where(good[0], front[:1], second)


def _reflect(image: Tensor, known: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return what lies as far outside the nearest edge of the known, and how much to trust it.

    ``cells`` is the known, coarsely; the nearest is found first along columns, then across them.
    """
    never = 1e6 * (cells[0] < 0.5)
    rows, columns = _places(cells)
    down = (rows[:, None, :1] - rows[None]).square() + never  # (here, there, column)
    row = down.argmin(1)
    across = (columns[:, :, None] - columns[:1]).square() + down.amin(1)[:, None]
    column = across.argmin(2)
    depth = across.amin(2)[None].sqrt() / cells.shape[-1]
    # Edges are ragged; smooth, what is reflected is not torn.
    away = _blur(torch.stack([column - columns, row.gather(1, column) - rows]), 1.0)
    # Twice as far, in units of which a side has two, as has a grid of places.
    away = 4 * torch.stack([away[0] / cells.shape[-1], away[1] / cells.shape[-2]])
    down, across = _places(image)
    here = torch.stack([(2 * across + 1) / image.shape[-1], (2 * down + 1) / image.shape[-2]]) - 1
    there = (here + _resized(away, image)).permute(1, 2, 0)[None]
    options = {"mode": "bilinear", "padding_mode": "reflection", "align_corners": False}
    both = functional.grid_sample(torch.cat([image, known])[None], there, **options)[0]
    # Far inside, reflections from all sides meet; nothing is dragged far enough to show it sharp.
    return both[:3], _blur(both[3:], 2.0) * _resized(1 - _ramp(depth, *_SHALLOW), image)


def _back(image: Tensor, alpha: Tensor, guide: Tensor) -> Float[Tensor, "3 height width"]:
    """Return the photo with its front filled in from around it."""
    near = functional.max_pool2d(alpha[None], 7, stride=1, padding=3)[0]
    known = 1 - _ramp(near, 0.02, 0.1)
    coarse = _resized(known, guide, antialias=True)
    picture = _resized(image * known, guide, antialias=True) / coarse.clamp(min=1e-6)
    smooth = torch.lerp(_resized(_fill(picture, coarse, 5), image), image, known)
    filled = torch.lerp(smooth, *_reflect(image, known, functional.avg_pool2d(coarse, 2)))
    # A front of colour 0–1 that gives the photo exists for backs within these bounds only.
    clear = (1 - alpha).clamp(min=1e-3)
    bounded = torch.minimum(torch.maximum(filled, (image - alpha) / clear), image / clear)
    back = torch.where(alpha > 0.9, filled, bounded).clamp(0, 1)
    # Of one sheet there is nothing to fill from, and nothing to uncover.
    return torch.where(alpha.min() > SHEER, image, back)


def _continued(
    packed: Float[Tensor, "modes 4 height width"], share: Float[Tensor, "1 height width"]
) -> Float[Tensor, "channels rows columns"]:
    """Return the modes of one sheet on cells of 4 px, spread smoothly beyond it.

    Its rim is left out: motion there is that of both sheets, or of none.
    """
    inner = -_widened(-share, 1)
    weight = functional.avg_pool2d(inner, 4)
    # Some modes at a time take less memory.
    sums = [functional.avg_pool2d(m.flatten(0, 1) * inner, 4) for m in packed.split(6)]
    mean = torch.cat(sums) / weight.clamp(min=1e-6)
    return _blur(_fill(mean, _ramp(weight, 0.1, 0.6), 3), _SMOOTH)


def _pin(
    packed: Float[Tensor, "channels rows columns"], larger: tuple[float, float]
) -> Float[Tensor, "modes 4 rows columns"]:
    """Return modes in px of the photo, so many times as many across and down.

    What lies on the border slides along it only; leaving it would uncover nothing at all.
    """
    rows, columns = _places(packed)
    held = []
    for place, count, px in zip((columns, rows), packed.shape[:0:-1], larger, strict=True):
        away = (place.minimum(count - 1 - place) / (count * _PINNED)).clamp(max=1.0)
        held.append(away * (2 - away) * px)
    return packed.unflatten(0, (-1, 4)) * torch.stack([held[0], held[0], held[1], held[1]])


def take_apart(
    image: Float[Tensor, "3 height width"], packed: Float[Tensor, "modes 4 rows columns"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what ``Layers`` holds; modes packed, given in px of a grid of sides of 32 px each."""
    guide = _resized(image, packed, antialias=True)
    amplitude = (2 * packed.square().sum(dim=(0, 1))).sqrt()
    front = _front(guide, _blur(amplitude[None], 1.5))
    alpha = _ramp(guided_filter(guide, front, image), 0.05, 0.7)
    # Values in px of the photo, on a coarse grid: they are smooth.
    larger = image.shape[-1] / guide.shape[-1], image.shape[-2] / guide.shape[-2]
    share = _resized(alpha, guide, antialias=True)
    ahead = _continued(packed, share)
    behind = functional.avg_pool2d(_continued(packed, 1 - share), 2)
    return alpha, _back(image, alpha, guide), _pin(ahead, larger), _pin(behind, larger)


def split_layers(
    image: Float[Tensor, "3 height width"], spectral: Complex[Tensor, "modes 2 rows columns"]
) -> Layers:
    """Take a photo and its modes (px of their own grid) apart into a front and a back."""
    sides = spectral.shape[-2:]
    scale = (_PIXELS / (sides[0] * sides[1])) ** 0.5
    scale = 1 if 0.7 < scale < 1.4 else scale  # a prior's own grid, left as it is
    height, width = (_MULTIPLE * min(24, max(1, round(n * scale / _MULTIPLE))) for n in sides)
    packed = pack_complex(resize_spectral(spectral, height=height, width=width))
    alpha, back, *modes = take_apart(image, packed)
    return Layers(alpha, image if alpha.min() > SHEER else back, *map(unpack_complex, modes))
