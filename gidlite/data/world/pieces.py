"""What scenes are made of, and how it is drawn: cut-outs that sway, backdrops, living views."""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional

from gidlite.data.world.shapes import BACKDROP_SIZE, PIECE_SIZE, Brush
from gidlite.data.world.things import FAMILIES, STILL, paint_piece
from gidlite.errors import GidliteError, require
from gidlite.media import read_image, resize

ANCHORS = ("bottom", "top", "side", "none", "any", "line")


class Kind(NamedTuple):
    """How one kind of thing sways; amplitudes are relative to the swing of a stem."""

    rigid: float  # 1 for a body that moves as one, 0 for a profile that grows from the anchor
    beam: float  # 1 for the bending of a clamped beam, 0 for a pendulum
    slowest_hz: float  # natural frequencies of a thing as tall as the picture lie between this ...
    fastest_hz: float  # ... and this; smaller things are faster
    least_damping: float  # damping ratios lie between this ...
    most_damping: float  # ... and this
    sway: float  # amplitude of the swinging of the whole
    flutter: float  # amplitude of waves within it
    travels: float  # 1 if its waves run through it, 0 if they stand
    head: float = 1.0  # share of the height from which it moves as one body
    fine: float = 1.0  # how many more waves than usual it has: of leaves on their own


KINDS = {
    "stem": Kind(0, 1, 0.4, 3.2, 0.06, 0.3, 1.0, 0.25, 0),
    "flower": Kind(0, 1, 0.4, 3.2, 0.06, 0.3, 1.0, 0.25, 0, head=0.55),
    "leaves": Kind(0, 1, 0.6, 3.5, 0.1, 0.4, 0.12, 0.4, 0, fine=2.0),
    "still": Kind(1, 1, 1.0, 1.0, 0.1, 0.1, 0.0, 0.0, 0),
    "leafy": Kind(0, 1, 0.4, 3.0, 0.08, 0.4, 0.8, 0.5, 0),
    "tree": Kind(0, 1, 0.3, 1.8, 0.1, 0.4, 0.6, 0.55, 0),
    "pendulum": Kind(0, 0, 0.35, 1.2, 0.02, 0.1, 1.0, 0.04, 0),
    "cloth": Kind(0, 0, 0.4, 2.0, 0.1, 0.4, 0.7, 0.9, 1),
    "flame": Kind(0, 1, 1.0, 3.0, 0.2, 0.6, 0.45, 0.35, 1),
    "body": Kind(1, 1, 0.4, 3.0, 0.06, 0.3, 0.7, 0.08, 0),
    "view": Kind(0, 0, 0.35, 2.4, 0.12, 0.4, 0.75, 0.45, 0),
}


def kind_numbers(kind: Int[Tensor, "*batch"]) -> dict[str, Float[Tensor, "*batch"]]:
    """Return each number of ``Kind``, by its name, for indices into ``KINDS``."""
    columns = list(zip(*KINDS.values(), strict=True))
    table = torch.tensor(columns, dtype=torch.float32, device=kind.device)[:, kind]
    return dict(zip(Kind._fields, table, strict=True))


# Kind, anchor, and the share of the height that cannot move, of what is painted ...
_PAINTED = {
    "flower": ("flower", "bottom", 0.0), "grass": ("stem", "bottom", 0.0),
    "fern": ("leafy", "bottom", 0.0), "palm": ("tree", "bottom", 0.15),
    "tree": ("tree", "bottom", 0.1), "bush": ("leafy", "bottom", 0.0),
    "potted": ("leafy", "bottom", 0.3), "branch": ("leafy", "any", 0.0),
    "vine": ("leafy", "top", 0.08), "lamp": ("pendulum", "top", 0.0),
    "ornament": ("pendulum", "top", 0.0), "flame": ("flame", "bottom", 0.46),
    "cloth": ("cloth", "top", 0.04), "flag": ("cloth", "side", 0.05), "head": ("body", "none", 0.0),
    "climber": ("leaves", "bottom", 0.0), "vase": ("leafy", "bottom", 0.5),
    **dict.fromkeys(STILL, ("still", "bottom", 0.0)),
    **dict.fromkeys(("lights", "laundry"), ("pendulum", "line", 0.05)),
}  # fmt: skip
# ... and kind and share of what was photographed, unless it is a stem; manifests say the anchor.
_PHOTOGRAPHED = {
    "tree": ("tree", 0.12), "potted": ("leafy", 0.4), "bush": ("leafy", 0.0),
    "bouquet": ("leafy", 0.35), "branch": ("leafy", 0.0), "leaf": ("leafy", 0.0),
    "flower": ("flower", 0.0), "frond": ("leafy", 0.0), "vine": ("leafy", 0.0),
    "flag": ("cloth", 0.03), "hanging": ("pendulum", 0.0), "flame": ("flame", 0.4),
    "bamboo": ("tree", 0.05),
}  # fmt: skip
# Families that folders of cut-outs have few of; painted ones then fill in.
_OFTEN_MISSING = "palm vine lamp ornament flame cloth cloth flag branch climber vase".split()
_OFTEN_MISSING += ["lights", "laundry", "laundry", *STILL, *STILL]


@dataclass(frozen=True)
class Pieces:
    """What scenes are made of; pictures are in [0, 1], cut-outs RGBA and anchored at the bottom."""

    cutouts: Float[Tensor, "pieces 4 size size"]
    kind: Int[Tensor, " pieces"]  # index into ``KINDS``
    anchor: Int[Tensor, " pieces"]  # index into ``ANCHORS``; "none" rides on another piece
    still: Float[Tensor, " pieces"]  # share of the height, from the anchor, that does not move
    weight: Float[Tensor, " pieces"]  # how often it is drawn, relative to the others
    backdrops: Float[Tensor, "backdrops 3 height width"]  # nothing in them moves
    views: Float[Tensor, "views 3 height width"]  # full of things that sway; there may be none
    growth: Float[Tensor, "views 1 height width"]  # how freely each pixel of a view moves, 0 to 1

    @property
    def device(self) -> torch.device:
        """Where the pieces, and the scenes made of them, live."""
        return self.cutouts.device

    def to(self, device: torch.device | str) -> Pieces:
        """Return the same pieces on another device."""
        return Pieces(**{name: value.to(device) for name, value in vars(self).items()})

    @classmethod
    def painted(
        cls, *families: str, count: int = 96, generator: torch.Generator | None = None
    ) -> Pieces:
        """Paint ``count`` cut-outs, the given (or all) families in turn, and backdrops."""
        names = list(islice(cycle(families or FAMILIES), count))
        return cls(
            cutouts=torch.stack([paint_piece(name, generator) for name in names]),
            backdrops=torch.stack([paint_backdrop(generator) for _ in range(max(count // 2, 1))]),
            weight=torch.ones(count),
            views=torch.zeros(0, 3, *BACKDROP_SIZE),
            growth=torch.zeros(0, 1, *BACKDROP_SIZE),
            **_sway([_PAINTED[name] for name in names]),
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> Pieces:
        """Read photographic pieces described by ``manifest.csv`` (file, kind, class, anchor).

        Kinds are cutout (an image with alpha; anchor bottom, top, side or none), background
        (nothing in it moves) and scene, used as a view if its class is "scene NAME". Classes are
        drawn more evenly than they occur, and painted pieces fill in families that folders have
        few of: cloth, flames, vines, what hangs, what stands still. ``GidliteError`` if
        there is no manifest, cut-out or background, or an image cannot be read.
        """
        manifest = Path(folder) / "manifest.csv"
        require(manifest.is_file(), f"{folder} has no manifest.csv; see --sprites in the README")
        rows = defaultdict(list)
        with manifest.open(newline="") as stream:
            for row in csv.DictReader(stream):
                row["file"] = manifest.parent / row["file"]
                rows[row["kind"]].append(row)
        cut, static = rows["cutout"], rows["background"]
        require(bool(cut and static), f"{manifest} lists no cut-outs or no backgrounds; add some")
        classes = Counter(row["class"] for row in cut)
        ours = {
            "cutouts": torch.stack([_read_cutout(row["file"], row["anchor"]) for row in cut]),
            "weight": torch.tensor([classes[row["class"]] ** -0.5 for row in cut]),
            **_sway([_manner_of(row) for row in cut]),
        }
        fill = cls.painted(*_OFTEN_MISSING, count=110, generator=torch.Generator().manual_seed(0))
        backdrops = torch.cat([_read_backdrops(static), fill.backdrops])
        views = _read_backdrops([v for v in rows["scene"] if v["class"].startswith("scene ")])
        # Painted cut-outs make up two fifths of all draws.
        factor = 2 / 3 * ours["weight"].sum() / fill.weight.sum()
        theirs = vars(fill) | {"weight": fill.weight * factor}
        both = {name: torch.cat([value, theirs[name]]) for name, value in ours.items()}
        return cls(**both, backdrops=backdrops, views=views, growth=_liveliness(views))


def _manner_of(row: dict) -> tuple[str, str, float]:
    anchor, name = row["anchor"], row["class"]
    refusal = f"{row['file']} has anchor {anchor!r} in manifest.csv; use bottom, top, side or none"
    require(anchor in ANCHORS, refusal)
    kind, still = _PHOTOGRAPHED.get(name, ("stem", 0.0))
    kind = "body" if anchor == "none" else kind
    return kind, "any" if name in ("branch", "leaf") else anchor, still


def _sway(manners: list[tuple[str, str, float]]) -> dict[str, Tensor]:
    kinds, anchors, still = zip(*manners, strict=True)
    return {
        "kind": torch.tensor([list(KINDS).index(kind) for kind in kinds]),
        "anchor": torch.tensor([ANCHORS.index(anchor) for anchor in anchors]),
        "still": torch.tensor(still),
    }


def _read_backdrops(rows: list[dict]) -> Float[Tensor, "photos 3 height width"]:
    """Return photos cut to the aspect of a backdrop (the middle) and resized to it."""
    photos, aspect = torch.zeros(len(rows), 3, *BACKDROP_SIZE), BACKDROP_SIZE[1] / BACKDROP_SIZE[0]
    for photo, row in zip(photos, rows, strict=True):
        image = read_image(row["file"], max_side=512)
        height, width = image.shape[-2:]
        rows, columns = min(height, round(width / aspect)), min(width, round(height * aspect))
        top, left = (height - rows) // 2, (width - columns) // 2
        middle = image[:, top : top + rows, left : left + columns]
        photo.copy_(resize(middle, height=BACKDROP_SIZE[0], width=BACKDROP_SIZE[1]))
    return photos


def _read_cutout(path: Path, anchor: str) -> Float[Tensor, "4 size size"]:
    """Return an RGBA cut-out, padded to a square with its anchored side at the bottom."""
    try:
        rgba = np.array(Image.open(path).convert("RGBA"))
    except OSError as error:
        raise GidliteError(f"{path} cannot be read ({error}); mend or remove its line") from None
    picture = torch.from_numpy(rgba).movedim(-1, 0) / 255
    if anchor == "side":
        picture = picture.rot90(1, dims=(-2, -1))
    elif anchor == "top":
        picture = picture.flip(-2)
    height, width = picture.shape[-2:]
    side = max(height, width)
    left = (side - width) // 2
    picture = functional.pad(picture, (left, side - width - left, side - height, 0))
    return resize(picture, height=PIECE_SIZE, width=PIECE_SIZE)


def _liveliness(views: Float[Tensor, "views 3 h w"]) -> Float[Tensor, "views 1 h w"]:
    """Guess how freely each pixel of a close-up of plants moves: sharp detail does, bokeh hardly.

    A guess is good enough: the scene is rendered from it, so its labels are exact all the same.
    """
    grey = views.mean(1, keepdim=True)
    edges = functional.pad(grey.diff(dim=-1).abs(), (0, 1))
    detail = edges + functional.pad(grey.diff(dim=-2).abs(), (0, 0, 0, 1))
    for size in (25, 15):
        detail = functional.avg_pool2d(detail, size, 1, size // 2, count_include_pad=False)
    rank = int(0.9 * math.prod(BACKDROP_SIZE))
    typical = detail.flatten(1).kthvalue(rank).values.clamp(min=1e-3)
    return (detail / typical[:, None, None, None]).clamp(0, 1) ** 1.5


def paint_backdrop(generator: torch.Generator | None) -> Float[Tensor, "3 height width"]:
    """Paint what never moves: sky or wall, hills or floor, houses, furniture and clutter."""
    b = Brush(generator)
    height, width = BACKDROP_SIZE
    top, bottom = b.muted()[:, None, None], b.muted()[:, None, None]
    ramp = torch.linspace(0, 1, height)[:, None]
    cells = ((3,), (3, 9), (5, 40), (12, 80))[b.count(0, 3)]
    picture = (top * (1 - ramp) + bottom * ramp) * (1 + b.one(0.05, 0.35) * b.noise(*cells))
    if b.often(0.6):  # ground, floor or table, with a rough or wavy edge
        edge = b.one(0.45, 0.9) + b.one(0, 0.12) * b.noise(b.count(2, 12), size=(1, width))
        ground = b.green() if b.often(0.5) else b.muted()
        grain = 1 + b.one(0.05, 0.4) * b.noise(b.count(10, 90))
        picture = torch.where(ramp > edge, ground[:, None, None] * grain, picture)
    if b.often(0.35):
        picture = picture * _texture(b)
    picture = picture.clamp(0, 1)
    for _ in range(b.count(0, 5)):
        _add_clutter(picture, b)
    return picture


def _add_clutter(picture: Tensor, b: Brush) -> None:
    """Draw a still thing, or a box (wall, book), a stone or a pole, often in plants' colours."""
    height, width = BACKDROP_SIZE
    if b.often(0.3):
        side, family = b.count(30, 120), STILL[b.count(0, len(STILL) - 1)]
        thing = resize(paint_piece(family, b.generator)[None], height=side, width=side)[0]
        top, left = b.count(0, height - side), b.count(0, width - side)
        picture[:, top : top + side, left : left + side].lerp_(thing[:3], thing[3:])
        return
    x, y = b.one(0, 1), b.one(0.2, 1)
    kind = ("windows", "box", "stone", "pole")[b.count(0, 3)]
    long, short = b.one(0.03, 0.25), b.one(0.03, 0.25)
    if kind == "pole":
        long, short = b.one(0.004, 0.02), b.one(0.3, 0.8)
    color = b.green() if b.often(0.4) else b.muted()
    u = ((torch.arange(width) + 0.5) / width - x).abs() / long
    v = (((torch.arange(height) + 0.5) / height - y).abs() / short)[:, None]
    power = 2.0 if kind == "stone" else 30.0
    inside = 1 - (u**power + v**power) ** (1 / power)
    paint = color[:, None, None] * (1 + b.one(0.03, 0.3) * b.noise(b.count(4, 60)))
    if kind == "stone":  # round, so lit from the middle
        paint = paint * (0.7 + 0.4 * inside.clamp(0, 1))
    alpha = (inside * 20).clamp(0, 1)
    picture.lerp_(paint.clamp(0, 1), alpha)
    if kind == "windows":  # or shelves
        step = b.count(8, 20)
        mesh = ((torch.arange(width) % step) < 2) | ((torch.arange(height) % step) < 2)[:, None]
        picture.mul_(1 - 0.4 * alpha * mesh)


def _texture(b: Brush) -> Float[Tensor, "height width"]:
    """Return the light on planks, tiles, bark or water: they look like stems, leaves or waves."""
    x, y = torch.meshgrid(*(torch.arange(side) for side in BACKDROP_SIZE), indexing="ij")
    if b.often(0.5):
        x, y = y, x
    if b.often(0.3):  # streaks
        return b.draw(0.6, 1.2, 300)[x] * (1 + b.one(0.1, 0.4) * b.noise(6, 30))
    step = b.count(8, 40)
    gap = (x % step < 2) | (b.often(0.5) & (y % step < 2))
    return b.draw(0.75, 1.15, 40)[x // step] * (1 - b.one(0.2, 0.6) * gap)


def collect_pieces(sprites: str | Path | None, *, seed: int = 0) -> list[Pieces]:
    """Return sources of scenes, to be used in turn: painted, or mostly photographic if given.

    A folder that cannot be used is refused, before anything is painted.
    """
    # Photographs matter most; the painted world fills in what the folder lacks.
    photographic = [] if sprites is None else [Pieces.from_folder(sprites)] * 3
    return [*photographic, Pieces.painted(generator=torch.Generator().manual_seed(seed))]


class Draw:
    """Random numbers for a batch of scenes, ``(batch, *shape)``, on the device of the pieces."""

    def __init__(self, batch: int, device: torch.device, generator: torch.Generator | None) -> None:
        self.batch, self.device = batch, device
        self._source = {"generator": generator, "device": generator.device if generator else device}

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        numbers = torch.rand(self.batch, *shape, **self._source)
        return low + (high - low) * numbers.to(self.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        return self(0, 1, *shape) < probability

    def log(self, low: float, high: float, *shape: int) -> Tensor:
        """Return numbers whose logarithm is uniform."""
        return self(math.log(low), math.log(high), *shape).exp()

    def index(self, weight: Tensor, *shape: int) -> Tensor:
        """Return indices drawn in proportion to ``weight``."""
        levels = (weight.cumsum(0) / weight.sum()).to(self.device)
        return torch.searchsorted(levels, self(0, 1, *shape)).clamp(max=len(weight) - 1)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.batch, *shape, **self._source).to(self.device)
