"""What scenes are made of: cut-outs that sway, backdrops that do not, and whole living views."""

from __future__ import annotations

import csv
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from gidlite.data.world.shapes import FAMILIES, PIECE_SIZE, paint_backdrop, paint_piece
from gidlite.errors import GidliteError
from gidlite.media import read_image, resize

ANCHORS = ("bottom", "top", "side", "none", "any")
_BACKDROP_SIZE = (160, 256)


@dataclass(frozen=True)
class _Manner:
    """How a class of cut-outs is anchored and sways; ``still``: share of the height that cannot."""

    kind: str
    anchor: str = "bottom"
    still: float = 0.0


_PAINTED = {
    "flower": _Manner("stem"), "rose": _Manner("stem"), "grass": _Manner("stem"),
    "reeds": _Manner("stem"), "fern": _Manner("leafy"), "palm": _Manner("tree", still=0.15),
    "tree": _Manner("tree", still=0.1), "bush": _Manner("leafy"),
    "potted": _Manner("leafy", still=0.3), "branch": _Manner("leafy", "any"),
    "vine": _Manner("leafy", "top", 0.08), "lamp": _Manner("pendulum", "top"),
    "ornament": _Manner("pendulum", "top"), "flame": _Manner("flame", still=0.46),
    "cloth": _Manner("cloth", "top", 0.04), "flag": _Manner("cloth", "side", 0.05),
    "head": _Manner("body", "none"),
}  # fmt: skip
_PHOTOGRAPHED = {
    "flower": _Manner("stem"), "tree": _Manner("tree", still=0.12),
    "potted": _Manner("leafy", still=0.4), "bush": _Manner("leafy"),
    "bouquet": _Manner("leafy", still=0.35), "branch": _Manner("leafy"),
    "leaf": _Manner("leafy"), "grass": _Manner("stem"), "flag": _Manner("cloth", still=0.03),
    "hanging": _Manner("pendulum"), "flame": _Manner("flame", still=0.4),
}  # fmt: skip
# Families that folders of cut-outs have few of; painted ones then fill in.
_OFTEN_MISSING = (
    "reeds", "fern", "palm", "vine", "lamp", "ornament", "flame", "cloth", "flag", "branch",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """How one kind of thing sways.

    Attributes:
        rigid: 0 for a profile that grows from the anchor, 1 for a body that moves as one.
        beam: 1 for the bending of a clamped beam, 0 for a pendulum.
        slowest_hz: Natural frequencies of a part as tall as the picture lie between this ...
        fastest_hz: ... and this; smaller parts are faster.
        least_damping: Damping ratios lie between this ...
        most_damping: ... and this.
        sway: Amplitude of the swinging of the whole, relative to a stem's.
        flutter: Amplitude of waves within it, relative to a stem's swing.
        travels: 1 if its waves run through it, 0 if they stand.
    """

    rigid: float
    beam: float
    slowest_hz: float
    fastest_hz: float
    least_damping: float
    most_damping: float
    sway: float
    flutter: float
    travels: float


KINDS = {
    "stem": Kind(0, 1, 0.4, 3.2, 0.06, 0.3, 1.0, 0.25, 0),
    "leafy": Kind(0, 1, 0.4, 3.0, 0.08, 0.4, 0.8, 0.5, 0),
    "tree": Kind(0, 1, 0.3, 1.8, 0.1, 0.4, 0.6, 0.55, 0),
    "pendulum": Kind(0, 0, 0.35, 1.2, 0.02, 0.1, 1.0, 0.04, 0),
    "cloth": Kind(0, 0, 0.4, 2.0, 0.1, 0.4, 0.7, 0.9, 1),
    "flame": Kind(0, 1, 1.0, 3.0, 0.2, 0.6, 0.45, 0.35, 1),
    "body": Kind(1, 1, 0.4, 3.0, 0.06, 0.3, 0.7, 0.08, 0),
    "view": Kind(0, 0, 0.35, 2.4, 0.12, 0.4, 0.75, 0.45, 0),
}


def kind_table() -> Float[Tensor, "kinds 9"]:
    """Return the numbers of every kind, in the order of ``KINDS``."""
    return torch.tensor([astuple(kind) for kind in KINDS.values()], dtype=torch.float32)


@dataclass(frozen=True)
class Pieces:
    """What scenes are made of.

    Attributes:
        cutouts: ``(N, 4, PIECE_SIZE, PIECE_SIZE)`` RGBA in [0, 1], anchored at the bottom edge.
        kind: ``(N,)`` index into ``sway.KINDS``.
        anchor: ``(N,)`` index into ``ANCHORS``: the side of the picture it is fixed to; "none"
            rides on another piece.
        still: ``(N,)`` fraction of the height, from the anchor, that does not move (a pot).
        weight: ``(N,)`` how often it is drawn, relative to the others.
        backdrops: ``(M, 3, height, width)`` in [0, 1]; nothing in them moves.
        views: ``(V, 3, height, width)`` pictures full of things that sway; V may be 0.
        growth: ``(V, 1, height, width)`` how freely each pixel of a view moves, 0 to 1.
    """

    cutouts: Tensor
    kind: Tensor
    anchor: Tensor
    still: Tensor
    weight: Tensor
    backdrops: Tensor
    views: Tensor
    growth: Tensor

    @property
    def device(self) -> torch.device:
        """Where the pieces, and the scenes made of them, live."""
        return self.cutouts.device

    def to(self, device: torch.device | str) -> Pieces:
        """Return the same pieces on another device."""
        return Pieces(**{name: getattr(self, name).to(device) for name in vars(self)})

    @classmethod
    def painted(
        cls,
        *,
        count: int = 96,
        families: tuple[str, ...] = tuple(FAMILIES),
        generator: torch.Generator | None = None,
    ) -> Pieces:
        """Paint ``count`` cut-outs, the families in turn, and half as many backdrops."""
        names = [families[i % len(families)] for i in range(count)]
        return cls(
            cutouts=torch.stack([paint_piece(name, generator) for name in names]),
            backdrops=torch.stack([paint_backdrop(generator) for _ in range(max(count // 2, 1))]),
            weight=torch.ones(count),
            views=torch.zeros(0, 3, *_BACKDROP_SIZE),
            growth=torch.zeros(0, 1, *_BACKDROP_SIZE),
            **_manners([_PAINTED[name] for name in names]),
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> Pieces:
        """Read photographic pieces described by ``manifest.csv`` (file, kind, class, anchor).

        Kinds are cutout (an image with alpha; anchor bottom, top, side or none), background
        (nothing in it moves) and scene, used as a view if its class is "scene NAME". Classes are
        drawn more evenly than they occur, and painted pieces fill in families that folders have
        few of: cloth, flags, flames, ferns, reeds, vines, hanging things.

        Raises:
            GidliteError: If the manifest is missing, lists no cut-outs or no backgrounds, or an
                image cannot be read.
        """
        folder = Path(folder)
        manifest = folder / "manifest.csv"
        if not manifest.is_file():
            raise GidliteError(f"{folder} has no manifest.csv; see --sprites in the README")
        with manifest.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        cut, backdrops, views = (
            [row for row in rows if row["kind"] == kind]
            for kind in ("cutout", "background", "scene")
        )
        views = [row for row in views if row["class"].startswith("scene ")]
        if not cut or not backdrops:
            raise GidliteError(f"{manifest} lists no cut-outs or no backgrounds; both are needed")
        classes = [row["class"] for row in cut]
        weight = torch.tensor([classes.count(name) ** -0.5 for name in classes])
        seen = [_read_backdrop(folder / row["file"]) for row in views]
        nothing = torch.zeros(0, 4, *_BACKDROP_SIZE)
        pictures = torch.cat([nothing, *[torch.cat([p, _liveliness(p)])[None] for p in seen]])
        photographed = cls(
            cutouts=torch.stack([_read_cutout(folder / row["file"], row["anchor"]) for row in cut]),
            weight=weight,
            backdrops=torch.stack([_read_backdrop(folder / row["file"]) for row in backdrops]),
            views=pictures[:, :3],
            growth=pictures[:, 3:],
            **_manners([_manner_of(row) for row in cut]),
        )
        painted = cls.painted(
            count=8 * len(_OFTEN_MISSING),
            families=_OFTEN_MISSING,
            generator=torch.Generator().manual_seed(0),
        )
        return photographed._with_cutouts(painted, share=0.25)

    def _with_cutouts(self, other: Pieces, *, share: float) -> Pieces:
        """Return these pieces with another's cut-outs added, drawn in ``share`` of all draws."""
        ours, theirs = self.weight.sum(), other.weight.sum()
        factor = share / (1 - share) * ours / theirs
        both = {n: torch.cat([getattr(self, n), getattr(other, n)]) for n in vars(self)}
        both["weight"] = torch.cat([self.weight, other.weight * factor])
        both |= {"backdrops": self.backdrops, "views": self.views, "growth": self.growth}
        return Pieces(**both)


def _manner_of(row: dict[str, str]) -> _Manner:
    known = _PHOTOGRAPHED.get(row["class"], _Manner("stem"))
    if row["anchor"] not in ANCHORS:
        raise GidliteError(
            f"{row['file']} has anchor {row['anchor']!r} in manifest.csv; "
            "use bottom, top, side or none"
        )
    kind = "body" if row["anchor"] == "none" else known.kind
    anchor = "any" if row["class"] in ("branch", "leaf") else row["anchor"]
    return _Manner(kind, anchor, known.still)


def _manners(manners: list[_Manner]) -> dict[str, Tensor]:
    kinds = list(KINDS)
    return {
        "kind": torch.tensor([kinds.index(m.kind) for m in manners]),
        "anchor": torch.tensor([ANCHORS.index(m.anchor) for m in manners]),
        "still": torch.tensor([m.still for m in manners]),
    }


def _read_backdrop(path: Path) -> Tensor:
    """Return a photo cut to the backdrop's aspect (the middle) and size."""
    image = read_image(path, max_side=512)
    height, width = image.shape[-2:]
    aspect = _BACKDROP_SIZE[1] / _BACKDROP_SIZE[0]
    rows, columns = min(height, round(width / aspect)), min(width, round(height * aspect))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = image[:, top : top + rows, left : left + columns]
    return resize(middle, height=_BACKDROP_SIZE[0], width=_BACKDROP_SIZE[1])


def _read_cutout(path: Path, anchor: str) -> Tensor:
    """Return an RGBA cut-out, padded to a square with its anchored side at the bottom."""
    try:
        rgba = np.asarray(Image.open(path).convert("RGBA"))
    except OSError as error:
        raise GidliteError(f"{path} cannot be read ({error}); mend or remove its line") from None
    picture = torch.from_numpy(rgba.copy()).movedim(-1, 0) / 255
    if anchor == "side":
        picture = picture.rot90(1, dims=(-2, -1))
    elif anchor == "top":
        picture = picture.flip(-2)
    height, width = picture.shape[-2:]
    side = max(height, width)
    left = (side - width) // 2
    picture = functional.pad(picture, (left, side - width - left, side - height, 0))
    return resize(picture, height=PIECE_SIZE, width=PIECE_SIZE)


def _liveliness(picture: Tensor) -> Tensor:
    """Guess how freely each pixel of a close-up of plants moves: sharp detail does, bokeh hardly.

    A guess, good enough to show a network pictures in which everything sways; the labels of the
    resulting scene are exact all the same, because the scene is rendered from them.
    """
    grey = picture.mean(0, keepdim=True)
    edges = functional.pad(grey.diff(dim=-1).abs(), (0, 1)) + functional.pad(
        grey.diff(dim=-2).abs(), (0, 0, 0, 1)
    )
    detail = functional.avg_pool2d(edges[None], 25, 1, 12, count_include_pad=False)
    detail = functional.avg_pool2d(detail, 15, 1, 7, count_include_pad=False)[0]
    sharp = detail / detail.flatten().kthvalue(int(0.9 * detail.numel())).values.clamp(min=1e-3)
    return sharp.clamp(0, 1) ** 1.5


def collect_pieces(sprites: str | Path | None, *, seed: int = 0) -> list[Pieces]:
    """Return sources of scenes, to be used in turn: painted, or mostly photographic if given.

    Raises:
        GidliteError: If the folder of photographic pieces cannot be used.
    """
    # Photographs matter most; the painted world fills in what the folder lacks. A folder that
    # cannot be used is refused before anything is painted.
    photographic = [] if sprites is None else [Pieces.from_folder(sprites)] * 3
    return [*photographic, Pieces.painted(generator=torch.Generator().manual_seed(seed))]
