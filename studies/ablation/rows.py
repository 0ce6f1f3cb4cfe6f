"""What the rows of the table are, one JSON each, and how much training a preset gives them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from gidlite.errors import GidliteError
from gidlite.train import TrainConfig
from studies.ablation.blind import BLIND

# What is compared with the rows without being trained; see ``stand_ins``.
STAND_INS = ("still", "sinusoid", "copied", "wind")
# The reference comes first; the others by what they tell, in case time runs out.
_ORDER = (
    "full", "k4", "unnormalized", "independent", "volume", "k8", "k24", "unscaled", "colors",
)  # fmt: skip
_VARIED = ("num_frequencies", "normalization", "coordination")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: Name of its file.
        title: For the table.
        train: Settings of ``TrainConfig`` in which it differs from "full", some of
            ``num_frequencies``, ``normalization`` and ``coordination``.
        blind: What its networks are not told, a key of ``blind.BLIND``.
        source: The trained row, or the stand-in, that its motion comes from; itself by default.
        renderer: Of its videos; the one that all rows share if not given.
        published: FVD and DT-FVD of the paper, as "fvd" and "dtfvd".
        seed: Of its training; rows are trained several times, to know how much that matters.
    """

    name: str
    title: str
    train: dict = field(default_factory=dict)
    blind: str = ""
    source: str = ""
    renderer: str | None = None
    published: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", self.source or self.name)
        if unknown := sorted(set(self.train) - set(_VARIED)):
            raise GidliteError(
                f"row {self.name} varies {', '.join(unknown)}; a row may vary {', '.join(_VARIED)}"
            )
        if self.blind and self.blind not in BLIND:
            raise GidliteError(
                f"row {self.name} is blind to {self.blind}; it may be to {', '.join(BLIND)}"
            )
        if (self.train or self.blind) and self.source != self.name:
            raise GidliteError(f"row {self.name} has a source and settings to train; give one")

    @property
    def trained(self) -> bool:
        """Whether it has weights of its own."""
        return self.source == self.name and self.name not in STAND_INS

    @property
    def model(self) -> str:
        """Name of the folder of its pipeline: the trained row and the seed."""
        return f"{self.source}-{self.seed}"


@dataclass(frozen=True)
class Preset:
    """How large everything is; equal for all rows.

    Attributes:
        scenes: Scenes to learn from.
        held_out: Further scenes that statistics and spectra are measured on.
        width: Of photos.
        height: Of photos.
        vae: Settings of ``TrainConfig`` for this part.
        amplitude: The same.
        prior: The same.
    """

    scenes: int
    held_out: int
    width: int
    height: int
    vae: dict
    amplitude: dict
    prior: dict


_NETS = {
    "autoencoder_channels": (8, 16), "denoiser_channels": (32, 64, 64), "denoiser_layers": 1
}  # fmt: skip


def _part(steps: int, scenes_per_step: int, **settings) -> dict:
    return {
        "steps": steps, "scenes_per_step": scenes_per_step, "warmup_steps": steps // 20,
        "new_scenes_per_step": 1, **_NETS, **settings,
    }  # fmt: skip


PRESETS = {
    # For tests: seconds, and nothing is learned.
    "tiny": Preset(
        scenes=12, held_out=8, width=128, height=96,
        vae=_part(2, 2), amplitude=_part(2, 2), prior=_part(2, 2),
    ),
    # Five to thirteen minutes of a busy core for a row.
    "laptop": Preset(
        scenes=768, held_out=48, width=256, height=160,
        vae=_part(200, 2, learning_rate=2e-3, ema_decay=0.98),
        amplitude=_part(250, 8, learning_rate=1.5e-3, ema_decay=0.98),
        prior=_part(500, 1, learning_rate=1e-3, ema_decay=0.99),
    ),
    # The same networks, an order of magnitude more examples: under a minute a row on a GPU.
    "gpu": Preset(
        scenes=1024, held_out=96, width=256, height=160,
        vae=_part(300, 8, learning_rate=2e-3, ema_decay=0.98),
        amplitude=_part(400, 16, learning_rate=1.5e-3, ema_decay=0.99),
        prior=_part(700, 16, learning_rate=1.5e-3, ema_decay=0.99),
    ),
}  # fmt: skip


def part_config(row: Row, preset: Preset, part: str) -> TrainConfig:
    """Return how a part of a row is trained.

    A setting that does not touch a part is left at its default there, so that rows that share a
    part agree on it. The prior learns all bins of a scene at once, attention from the start.
    """
    settings = dict(row.train)
    if part != "prior":
        settings.pop("coordination", None)
    joint = {"joint": True} if part == "prior" else {}
    settings |= {"part": part, "width": preset.width, "height": preset.height, "seed": row.seed}
    return TrainConfig(**settings | joint | getattr(preset, part))


def read_rows(folder: str | Path, names: Sequence[str] = ()) -> list[Row]:
    """Return the rows of a folder, trained ones first, or those that are named.

    Raises:
        GidliteError: If there is none, one is not readable, or one named is missing.
    """
    found = {path.stem: _read_row(path) for path in sorted(Path(folder).glob("*.json"))}
    if not found:
        raise GidliteError(f"{folder} holds no rows; see configs/ablations of the repository")
    if missing := [name for name in names if name not in found]:
        raise GidliteError(f"there is no row {', '.join(missing)}; there are {', '.join(found)}")
    place = {name: number for number, name in enumerate(_ORDER)}
    rows = [found[name] for name in names or found]
    for row in rows:
        if row.source not in found and row.source not in STAND_INS:
            raise GidliteError(f"row {row.name} builds on {row.source}, which does not exist")
    return sorted(
        rows, key=lambda row: (not row.trained, row.name in STAND_INS, place.get(row.name, 99))
    )


def _read_row(path: Path) -> Row:
    try:
        values = json.loads(path.read_text())
        valid = {f.name for f in fields(Row)} - {"name", "seed"}
        if unknown := sorted(set(values) - valid):
            raise GidliteError(f"{path} has unknown keys {', '.join(unknown)}")
        return Row(path.stem, **values)
    except (OSError, ValueError, TypeError) as error:
        raise GidliteError(f"{path} is no readable row of the table ({error})") from None
