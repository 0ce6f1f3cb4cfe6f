"""A photo taken apart for touching: what moves most in front, what it hides behind.

One bent sheet smears the background along with a flower. Two sheets do not: the front one is what
moves more than its surroundings, cut out along edges of the photo (GrabCut, Rother et al. 2004,
softened by a guided filter, He et al. 2010); the back one is the photo with the front filled in
from around it. Each moves by the modes of its own pixels, spread smoothly beyond them, so that
where nothing separates the two they move alike and no seam shows. At rest both are the photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from gidlite.media import to_bytes
from gidlite.motion.spectral import pack_complex, resize_spectral, unpack_complex

# Grid on which the photo is taken apart: as fine as the motion, and edges still show.
_WORK_WIDTH = 256
# Shares of the liveliest motion nearby above which a pixel is likely and surely front, and below
# which it is surely back; colour decides the rest.
_LIKELY, _SURELY, _NEVER = 0.55, 0.85, 0.1
# With this share of front there is no back worth the name.
_ALL = 0.72
_LIVELY = 0.1  # of the liveliest motion
_DOUBTFUL, _CLOSED = 14, 4  # px of the grid
_GUIDE_RADIUS = 4  # half a window's side, px of the grid
_GUIDE_SOFTNESS = 1e-3  # variance of colour under which an edge is ignored
_SHALLOW = (0.06, 0.14)  # of the width: how deep behind the front the back is mirrored, and faded
_PINNED = 0.08  # of a side: where the border begins to hold
_SMOOTH = 2.0  # px of the mode grid; a prior's finer detail would tear what is dragged far


@dataclass(frozen=True)
class Layers:
    """Two sheets that lie on each other; modes in px of the photo, the back's half as fine."""

    alpha: Float[Tensor, "1 height width"]  # opacity of the front, 0–1
    back: Float[Tensor, "3 height width"]  # the photo without its front, 0–1
    front_modes: Complex[Tensor, "modes 2 rows columns"]
    back_modes: Complex[Tensor, "modes 2 back_rows back_columns"]


def _box(field: Float[Tensor, "channels height width"]) -> Tensor:
    padded = functional.pad(field[None], (_GUIDE_RADIUS,) * 4, mode="replicate")
    return functional.avg_pool2d(padded, 2 * _GUIDE_RADIUS + 1, stride=1)[0]


def guided_filter(
    guide: Float[Tensor, "3 height width"],
    field: Float[Tensor, "1 height width"],
    fine_guide: Float[Tensor, "3 fine_height fine_width"],
) -> Float[Tensor, "1 fine_height fine_width"]:
    """Return the field as locally linear functions of a photo's colour, at a finer resolution."""
    mean, mean_field = _box(guide), _box(field)
    products = _box((guide[:, None] * guide).flatten(0, 1)).unflatten(0, (3, 3))
    covariance = (products - mean[:, None] * mean).permute(2, 3, 0, 1)
    covariance = covariance + _GUIDE_SOFTNESS * torch.eye(3, device=guide.device)
    cross = (_box(guide * field) - mean * mean_field).permute(1, 2, 0)
    slope = torch.linalg.solve(covariance, cross).permute(2, 0, 1)
    offset = mean_field - (slope * mean).sum(0, keepdim=True)
    line = _box(torch.cat([slope, offset]))
    line = functional.interpolate(line[None], fine_guide.shape[-2:], mode="bilinear")[0]
    return (line[:3] * fine_guide).sum(0, keepdim=True) + line[3:]


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


def _fill(picture: Tensor, weight: Tensor) -> Tensor:
    """Return the picture with pixels of no weight filled from the nearest scale that has some."""
    if min(picture.shape[-2:]) < 2:
        return picture
    options = {"kernel_size": 2, "ceil_mode": True, "count_include_pad": False}
    coarse_weight = functional.avg_pool2d(weight[None], **options)[0]
    coarse = functional.avg_pool2d((picture * weight)[None], **options)[0]
    coarse = _fill(coarse / coarse_weight.clamp(min=1e-6), (4 * coarse_weight).clamp(max=1))
    smooth = functional.interpolate(coarse[None], picture.shape[-2:], mode="bilinear")[0]
    return torch.lerp(smooth, picture, weight)


def _front(guide: Tensor, amplitude: Tensor) -> Float[Tensor, "1 rows columns"]:
    """Return 1 where a pixel belongs to what moves, by motion nearby and by colour.

    Where that is all of it, as where the background sways too, the liveliest of all is in front.
    """
    top = float(amplitude.quantile(0.99).clamp(min=1e-6))
    nearby = _blur(functional.max_pool2d(amplitude[None], 41, stride=1, padding=20)[0], 8.0)
    for most in (nearby.clamp(min=0.15 * top), nearby.clamp(min=top)):
        share = (amplitude / most)[0].numpy()
        if 0 < (share > _LIKELY).mean() < _ALL:
            front = _cut(guide, share, (amplitude[0] > _LIVELY * top).numpy())
            if front.mean() < _ALL:
                return torch.from_numpy(front)[None]
    return torch.ones_like(amplitude)  # all of it moves alike: one sheet


def _cut(guide: Tensor, share: np.ndarray, lively: np.ndarray) -> np.ndarray:
    """Return 1 in front, cut along edges of the photo between what moves and what does not."""
    seeds = np.where(share > _LIKELY, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seeds[share > _SURELY] = cv2.GC_FGD
    # A prior's motion may end before its flower does: near what is lively, colour decides.
    near = cv2.dilate(lively.astype(np.uint8), _disc(_DOUBTFUL))
    seeds[(share < _NEVER) & (near == 0)] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(to_bytes(guide), seeds, None, *models, 3, cv2.GC_INIT_WITH_MASK)
    front = ((seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)).astype(np.float32)
    # What is shut in by a flower belongs to it, a shadow between its petals, say.
    return cv2.morphologyEx(front, cv2.MORPH_CLOSE, _disc(_CLOSED))


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _reflect(image: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return what lies as far outside the nearest edge of the known, and how much to trust it."""
    hole = (known[0] < 0.5).numpy().astype(np.uint8)
    depth, label = cv2.distanceTransformWithLabels(
        hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(hole == 0)
    place = np.zeros((label.max() + 1, 2), np.float32)
    place[label[rows, columns]] = np.stack([rows, columns], 1)
    here = np.stack(np.indices(hole.shape), -1).astype(np.float32)
    there = torch.from_numpy(2 * place[label] - here)
    # Edges are ragged; smooth, what is reflected is not torn.
    there = _blur(there.permute(2, 0, 1), 4.0).permute(1, 2, 0)
    size = torch.tensor(hole.shape)
    grid = ((2 * there + 1) / size - 1).flip(-1)[None]
    options = {"mode": "bilinear", "padding_mode": "reflection", "align_corners": False}
    both = functional.grid_sample(torch.cat([image, known])[None], grid, **options)[0]
    # Far inside, reflections from all sides meet; nothing is dragged far enough to show it sharp.
    shallow = 1 - _ramp(torch.from_numpy(depth), *(share * hole.shape[1] for share in _SHALLOW))
    return both[:3], _blur(both[3:], 2.0) * shallow


def _back(image: Tensor, alpha: Tensor) -> Float[Tensor, "3 height width"]:
    """Return the photo with its front filled in from around it."""
    if float(alpha.min()) > 0.05:
        return image  # nothing to fill from, and nothing to uncover
    near = functional.max_pool2d(alpha[None], 7, stride=1, padding=3)[0]
    known = 1 - _ramp(near, 0.02, 0.1)
    filled = torch.lerp(_fill(image, known), *_reflect(image, known))
    # A front of colour 0–1 that gives the photo exists for backs within these bounds only.
    clear = (1 - alpha).clamp(min=1e-3)
    bounded = torch.minimum(torch.maximum(filled, (image - alpha) / clear), image / clear)
    return torch.where(alpha > 0.9, filled, bounded).clamp(0, 1)


def _continued(
    packed: Float[Tensor, "channels height width"],
    share: Float[Tensor, "1 height width"],
    size: tuple[int, int],
) -> Float[Tensor, "channels rows columns"]:
    """Return the modes of one sheet at another size, spread smoothly beyond it.

    Its rim is left out: motion there is that of both sheets, or of none.
    """
    inner = -functional.max_pool2d(-share[None], 3, stride=1, padding=1)
    weight = functional.interpolate(inner, size, mode="area")[0]
    mean = functional.interpolate(packed[None] * inner, size, mode="area")[0]
    mean = mean / weight.clamp(min=1e-6)
    return _blur(_fill(mean, _ramp(weight, 0.1, 0.6)), _SMOOTH)


def _pin(packed: Float[Tensor, "channels height width"]) -> Complex[Tensor, "modes 2 height width"]:
    """Let what lies on the border slide along it only; leaving it would uncover nothing at all."""
    modes = packed.unflatten(0, (-1, 2, 2)).clone()  # (modes, dx or dy, re or im, rows, columns)
    for component, axis in ((0, -1), (1, -2)):
        count = packed.shape[axis]
        away = torch.arange(count).minimum(torch.arange(count).flip(0)) / max(1, count * _PINNED)
        ramp = away.clamp(max=1).view((-1, 1) if axis == -2 else (1, -1))
        modes[:, component] *= ramp * (2 - ramp)
    return unpack_complex(modes.flatten(1, 2))


def split_layers(
    image: Float[Tensor, "3 height width"], spectral: Complex[Tensor, "modes 2 rows columns"]
) -> Layers:
    """Take a photo and its modes (px of their own grid) apart into a front and a back."""
    height, width = image.shape[-2:]
    columns = min(_WORK_WIDTH, width)
    rows = max(4, round(height * columns / width))
    guide = functional.interpolate(image[None], (rows, columns), mode="area")[0]
    fine = resize_spectral(spectral, height=rows, width=columns)
    amplitude = (2 * fine.abs().square().sum(dim=(0, 1))).sqrt()
    front = _front(guide, _blur(amplitude[None], 1.5))
    alpha = _ramp(guided_filter(guide, front, image), 0.05, 0.7)
    # Values in px of the photo, on a coarse grid: they are smooth.
    size = (max(2, rows // 4), max(2, columns // 4))
    packed = pack_complex(fine).flatten(0, 1) * (width / columns)
    coarse = functional.interpolate(alpha[None], (rows, columns), mode="area")[0]
    front = _continued(packed, coarse, size)
    back = _continued(packed, 1 - coarse, size)
    back = functional.avg_pool2d(back[None], 2, ceil_mode=True)[0]
    return Layers(alpha, _back(image, alpha), _pin(front), _pin(back))
