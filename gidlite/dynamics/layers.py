"""A photo taken apart for touching: what moves most in front, what it hides behind.

One bent sheet smears the background along with a flower. Two sheets do not: the front one is what
moves more than its surroundings, cut out along edges of the photo; the back one is the photo with
the front filled in from around it. Each moves by the modes of its own pixels, spread smoothly
beyond them, so that where nothing separates the two they move alike and no seam shows. At rest both
are the photo. All of it is arithmetic of fixed length, which ``gidlite.web`` exports as it is.

Source: superpixels by colour and place, Achanta et al. 2012; guided filter, He et al. 2010;
distances by jump flooding, Rong and Tan 2006.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from gidlite.media import resize
from gidlite.motion.spectral import pack_complex, resize_spectral, unpack_complex

GRID = 32  # both sides of the grid on which a photo is taken apart are multiples of so many px
_SIDES = 96, 384  # of that grid, shortest and longest
# Shares of the liveliest motion nearby above which a pixel is likely and surely front, and below
# which it is surely back; colour decides the rest.
_LIKELY, _SURELY, _NEVER = 0.55, 0.95, 0.1
# With this share of front there is no back worth the name.
_ALL = 0.72
_LIVELY = 0.1  # of the liveliest motion
_DOUBTFUL, _CLOSED = 14, 3  # px of the grid
# Superpixels: px between them at first, and the differences of colour and of place, in shares of
# 256 px, that count alike.
_SPACING, _COLOR, _PLACE = 16, 0.06, 0.25
_GUIDE_RADIUS = 4  # half a window's side, px of the grid
_GUIDE_SOFTNESS = 1e-3  # variance of colour under which an edge is ignored
_SHALLOW = (0.06, 0.14)  # of the width: how deep behind the front the back is mirrored, and faded
_FAR = 1e4  # px, farther than any pixel is from another
_PINNED = 0.08  # of a side: where the border begins to hold
_SMOOTH = 2.0  # px of the mode grid; a prior's finer detail would tear what is dragged far

Map = Float[Tensor, "1 _height _width"]
# Of every mode dx re, dx im, dy re, dy im.
Packed = Float[Tensor, "modes 4 rows columns"]


@dataclass(frozen=True)
class Layers:
    """Two sheets that lie on each other; modes in px of the photo, the back's half as fine."""

    alpha: Float[Tensor, "1 height width"]  # opacity of the front, 0–1
    back: Float[Tensor, "3 height width"]  # the photo without its front, 0–1
    front_modes: Complex[Tensor, "modes 2 rows columns"]
    back_modes: Complex[Tensor, "modes 2 back_rows back_columns"]


def split_layers(
    image: Float[Tensor, "3 height width"], spectral: Complex[Tensor, "modes 2 rows columns"]
) -> Layers:
    """Take a photo and its modes (px of their own grid) apart into a front and a back."""
    least, most = _SIDES
    rows, columns = (
        min(max(GRID * round(side / GRID), least), most) for side in spectral.shape[-2:]
    )
    packed = pack_complex(resize_spectral(spectral, height=rows, width=columns))
    guide = resize(image, height=rows, width=columns)
    alpha, back, *modes = take_apart(guide, image, packed)
    if float(alpha.min()) > 0.05:
        back = image  # nothing to fill from, and nothing to uncover
    return Layers(alpha, back, *(unpack_complex(sheet) for sheet in modes))


def take_apart(
    guide: Float[Tensor, "3 rows columns"], image: Float[Tensor, "3 height width"], packed: Packed
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return opacity, back, and packed modes of both sheets, of a photo at two sizes.

    Modes come in px of their grid, with sides that are multiples of 32, and leave in px of the
    image, the front's on a quarter of the grid and the back's on an eighth.
    """
    amplitude = (2 * packed.square().sum((0, 1))).sqrt()
    front = _front(guide, _blur(amplitude[None], 1.5))
    line = _guide_line(guide, front)
    opacity = _opacity(line, guide)
    alpha = _opacity(
        functional.interpolate(line[None], image.shape[-2:], mode="bilinear")[0], image
    )
    factor = image.shape[-1] / guide.shape[-1]
    sheets = [_continued(packed, opacity, 4), _continued(packed, 1 - opacity, 8)]
    front_modes, back_modes = (factor * _pinned(sheet) for sheet in sheets)
    return alpha, _back(guide, image, alpha, opacity), front_modes, back_modes


def _box(field: Float[Tensor, "channels height width"]) -> Tensor:
    padded = functional.pad(field[None], (_GUIDE_RADIUS,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, 2 * _GUIDE_RADIUS + 1, stride=1)[0]


def _guide_line(guide: Tensor, field: Map) -> Float[Tensor, "4 height width"]:
    """Return the slopes and the offset by which a map is a local function of a photo's colour."""
    mean, mean_field = _box(guide), _box(field)
    products = _box((guide[:, None] * guide).flatten(0, 1)).unflatten(0, (3, 3))
    xx, xy, xz, _, yy, yz, _, _, zz = (products - mean[:, None] * mean).flatten(0, 1)
    xx, yy, zz = (variance + _GUIDE_SOFTNESS for variance in (xx, yy, zz))
    # The inverse of a symmetric matrix by its cofactors.
    inverse = torch.stack([
        yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy,
        xz * yz - xy * zz, xx * zz - xz * xz, xy * xz - xx * yz,
        xy * yz - xz * yy, xy * xz - xx * yz, xx * yy - xy * xy,
    ]).unflatten(0, (3, 3))  # fmt: skip
    determinant = xx * inverse[0, 0] + xy * inverse[0, 1] + xz * inverse[0, 2]
    cross = _box(guide * field) - mean * mean_field
    slope = (inverse * cross).sum(1) / determinant
    return _box(torch.cat([slope, mean_field - (slope * mean).sum(0, keepdim=True)]))


def _along(line: Tensor, guide: Tensor) -> Map:
    return (line[:3] * guide).sum(0, keepdim=True) + line[3:]


def _opacity(line: Tensor, guide: Tensor) -> Map:
    return _ramp(_along(line, guide), 0.05, 0.7)


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


def _largest(field: Map, radius: int) -> Map:
    """Return the largest value in a square around each pixel."""
    down = functional.max_pool2d(field[None], (2 * radius + 1, 1), stride=1, padding=(radius, 0))
    return functional.max_pool2d(down, (1, 2 * radius + 1), stride=1, padding=(0, radius))[0]


def _fill(picture: Tensor, weight: Map, levels: int) -> Tensor:
    """Return the picture with pixels of no weight filled from the nearest scale that has some."""
    if levels == 0:
        total = weight.sum((-2, -1), keepdim=True).clamp(min=1e-6)
        mean = (picture * weight).sum((-2, -1), keepdim=True) / total
        return torch.lerp(mean.expand_as(picture), picture, weight)
    coarse_weight = functional.avg_pool2d(weight[None], 2)[0]
    coarse = functional.avg_pool2d((picture * weight)[None], 2)[0]
    coarse = coarse / coarse_weight.clamp(min=1e-6)
    coarse = _fill(coarse, (4 * coarse_weight).clamp(max=1), levels - 1)
    smooth = functional.interpolate(coarse[None], picture.shape[-2:], mode="bilinear")[0]
    return torch.lerp(smooth, picture, weight)


def _front(guide: Tensor, amplitude: Map) -> Map:
    """Return 1 where a pixel belongs to what moves, by motion nearby and by colour.

    Where that is all of it, as where the background sways too, the liveliest of all is in front;
    where that moves alike, too, all of it is one sheet.
    """
    top = functional.avg_pool2d(amplitude[None], 8).max().clamp(min=1e-6)
    nearby = _blur(_largest(amplitude, 20), 8.0)
    members = _superpixels(guide)
    near = _largest((amplitude > _LIVELY * top).float(), _DOUBTFUL)
    front = torch.ones_like(amplitude)
    for most in (nearby.maximum(top), nearby.maximum(0.15 * top)):
        share = amplitude / most
        cut = _cut(guide, share, near, members)
        likely = (share > _LIKELY).float().mean()
        parted = (likely > 0) & (likely < _ALL) & (cut.mean() < _ALL)
        front = torch.where(parted, cut, front)
    return front


def _superpixels(guide: Tensor) -> Float[Tensor, "pixels superpixels"]:
    """Return how much each pixel belongs to groups of pixels alike in colour and place."""
    y, x = (
        torch.arange(side, device=guide.device).float() / (256 * _PLACE)
        for side in guide.shape[-2:]
    )
    places = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    features = torch.cat([guide / _COLOR, places])

    def alike(pixels: Tensor, centres: Tensor) -> Tensor:
        squares = pixels.square().sum(0)[:, None] + centres.square().sum(0)
        return torch.softmax(pixels.mT @ centres - squares / 2, dim=1)

    centres = functional.avg_pool2d(features[None], _SPACING)[0].flatten(1)
    sample = functional.avg_pool2d(features[None], 2)[0].flatten(1)
    for _ in range(2):
        members = alike(sample, centres)
        centres = sample @ members / members.sum(0).clamp(min=1e-6)
    return alike(features.flatten(1), centres)


def _cut(guide: Tensor, share: Map, near: Map, members: Tensor) -> Map:
    """Return 1 in front, cut along edges of the photo between what moves and what does not.

    Superpixels hold an election among their pixels, by and by of more pixels.
    """
    surely = (share > _SURELY).float()
    # A prior's motion may end before its flower does: near what is lively, colour decides.
    sure = surely.maximum(((share < _NEVER) & (near < 0.5)).float())
    lean = 3 * (share - 0.4).clamp(-0.4, 0.45) / 0.45
    front = torch.lerp((share > _LIKELY).float(), surely, sure)
    weight = sure.maximum(torch.full_like(sure, 0.1))
    for _ in range(5):
        votes = torch.cat([weight * front, weight * (1 - front)]).flatten(1) @ members
        elected = (members @ torch.softmax((votes + 1).log(), dim=0)[0]).clamp(1e-3, 1 - 1e-3)
        soft = torch.sigmoid(torch.logit(elected).view_as(share) + lean)
        edged = _along(_guide_line(guide, soft), guide).clamp(0, 1)
        front = torch.lerp(torch.sigmoid(8 * (edged - 0.5)), surely, sure)
        weight = sure.maximum(0.5 * (2 * front - 1).abs())
    # What is shut in by a flower belongs to it, a shadow between its petals, say.
    return -_largest(-_largest(_ramp(front, 0.4, 0.6), _CLOSED), _CLOSED)


def _nearest(known: Map) -> Float[Tensor, "2 height width"]:
    """Return row and column of a known pixel close to each, by jump flooding."""
    y, x = (torch.arange(side, device=known.device).float() for side in known.shape[-2:])
    here = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    found = torch.where(known > 0.5, here, torch.full_like(here, _FAR))
    height, width = known.shape[-2:]
    for step in (64, 32, 16, 8, 4, 2, 1, 1):
        padded = functional.pad(found, (step,) * 4, value=_FAR)
        for i, j in product((0, step, 2 * step), repeat=2):
            other = padded[:, i : i + height, j : j + width]
            closer = (other - here).square().sum(0) < (found - here).square().sum(0)
            found = torch.where(closer, other, found)
    return found


def _mirrored(image: Tensor, known: Map, known_here: Map) -> tuple[Tensor, Tensor]:
    """Return what lies as far outside the nearest edge of the known, and how much to trust it.

    Known is told on the grid and at the size of the image.
    """
    y, x = (torch.arange(side, device=known.device).float() for side in known.shape[-2:])
    here = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    away = _nearest(known) - here
    depth = away.square().sum(0, keepdim=True).sqrt()
    # Edges are ragged; smooth, what is reflected is not torn.
    there = here + _blur(2 * away.clamp(-_FAR / 10, _FAR / 10), 2.0)
    size = there.new_tensor(known.shape[-2:]).view(2, 1, 1)
    there = functional.interpolate(
        ((2 * there + 1) / size - 1)[None], image.shape[-2:], mode="bilinear"
    )
    options = {"mode": "bilinear", "padding_mode": "reflection", "align_corners": False}
    both = torch.cat([image, known_here])[None]
    both = functional.grid_sample(both, there.flip(1).permute(0, 2, 3, 1), **options)[0]
    # Far inside, reflections from all sides meet; nothing is dragged far enough to show it sharp.
    shallow = 1 - _ramp(depth, *(share * known.shape[-1] for share in _SHALLOW))
    shallow = functional.interpolate(shallow[None], image.shape[-2:], mode="bilinear")[0]
    return both[:3], _blur(both[3:], 2.0) * shallow


def _back(
    guide: Tensor, image: Tensor, alpha: Map, opacity: Map
) -> Float[Tensor, "3 height width"]:
    """Return the photo with its front, of the same opacity at two sizes, filled in from around."""
    known = 1 - _ramp(_largest(alpha, 3), 0.02, 0.1)
    coarse = 1 - _ramp(_largest(opacity, 2), 0.02, 0.1)
    smooth = _fill(guide, coarse, 5)
    smooth = functional.interpolate(smooth[None], image.shape[-2:], mode="bilinear")[0]
    filled = torch.lerp(torch.lerp(smooth, image, known), *_mirrored(image, coarse, known))
    # A front of colour 0–1 that gives the photo exists for backs within these bounds only.
    clear = (1 - alpha).clamp(min=1e-3)
    bounded = torch.minimum(torch.maximum(filled, (image - alpha) / clear), image / clear)
    return torch.where(alpha > 0.9, filled, bounded).clamp(0, 1)


def _continued(packed: Packed, share: Map, stride: int) -> Tensor:
    """Return the modes of one sheet on a coarser grid, spread smoothly beyond it.

    Its rim is left out: motion there is that of both sheets, or of none.
    """
    inner = -functional.max_pool2d(-share[None], 3, stride=1, padding=1)
    weight = functional.avg_pool2d(inner, 4)[0]
    mean = functional.avg_pool2d(packed * inner, 4) / weight.clamp(min=1e-6)
    filled = _fill(mean.flatten(0, 1), _ramp(weight, 0.1, 0.6), 3)
    return functional.avg_pool2d(_blur(filled, _SMOOTH)[None], stride // 4)[0].view(
        -1, 4, share.shape[-2] // stride, share.shape[-1] // stride
    )


def _pinned(packed: Packed) -> Packed:
    """Let what lies on the border slide along it only; leaving it would uncover nothing at all."""
    ramps = []
    for axis in (-1, -2):
        count = packed.shape[axis]
        place = torch.arange(count, device=packed.device).float()
        away = place.minimum(count - 1 - place) / (count * _PINNED)
        ramp = away.clamp(max=1)
        ramp = ramp * (2 - ramp)
        ramps += 2 * [ramp.expand(*packed.shape[-2:]) if axis == -1 else
                      ramp[:, None].expand(*packed.shape[-2:])]  # fmt: skip
    return packed * torch.stack(ramps)
