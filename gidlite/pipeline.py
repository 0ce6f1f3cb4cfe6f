"""One photo in, its spectral volume and frames out: the trained parts put together."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Complex, Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from gidlite.errors import GidliteError, all_finite, load_network, require, require_file, written
from gidlite.loops import Predict, close_loop, loop_guidance
from gidlite.media import as_image, open_photo, resize
from gidlite.motion import ModalBasis, SpectralVolume, check_timing
from gidlite.motion.normalize import load_stats, save_stats
from gidlite.motion.spectral import anchor, resize_spectral, spectral_to_motion
from gidlite.prior import PHOTO_STRIDE
from gidlite.prior.denoiser import PATCH, GridPrior
from gidlite.prior.diffusion import Sampler
from gidlite.prior.drawer import ModesPrior
from gidlite.render import farthest_motion, render_frames
from gidlite.render.photo import GuidedUpsampling

WEIGHTS, DEFAULT = Path(__file__).parent / "weights", "modes"  # a folder for each representation
FARTHEST = 12.0  # px at 256 wide; beyond, a renderer invents more than it moves
_LIVELY = 0.7  # of the level of the liveliest place: what a thing that is told to move has
_LEAST_LEVEL, _LEAST_LIVELIEST = 1e-3, 0.5  # taken of a still place, and of a still photo
WORKING_PIXELS = 256 * 160  # about as many as in training, at any aspect ratio
SIZE_MULTIPLE = 4 * PATCH * PHOTO_STRIDE  # the U-Net halves its grid of patches twice
_HEAD = {"format": "gidlite-pipeline", "version": 4}
_KEYS = ("representation", "name", "num_frames", "fps")
_STATS = "frequency_stats.safetensors"
# How a volume is represented: as modes of the photo (ours), or as pictures (the paper's).
REPRESENTATIONS = {"modes": ModesPrior, "grid": GridPrior}
PARTS = {name: kind for prior in REPRESENTATIONS.values() for name, kind in prior.PARTS.items()}


@dataclass(frozen=True)
class Sampling:
    """How a volume is sampled, as far as that is rarely changed."""

    # How windy it is, from 0 to 1: among 100 scenes like this, so many per cent move less.
    # None draws it with the seed.
    wind: float | None = None
    # Factor on the motion of every place, on a grid of any size over the photo: see ``edit``.
    gain: Float[Tensor, "rows columns"] | None = None
    loop_weight: float = 0.0  # u of guidance towards the loop; closing it does what is left
    recurrence: int = 1  # how often every step is taken, see ``diffusion.sample``; paper: 2
    close: bool = True  # False leaves the seam as guidance left it
    solver: str = "dpm"  # or "ddim"

    def __post_init__(self) -> None:
        _check_weight("loop weight", self.loop_weight)
        good = self.wind is None or 0 <= self.wind <= 1
        require(good, f"wind is {self.wind}; it must lie between 0 and 1")
        good = 1 <= self.recurrence <= 100
        require(good, f"recurrence is {self.recurrence}; it must lie in 1–100")
        require(self.solver in ("dpm", "ddim"), f"solver is {self.solver!r}; use dpm or ddim")


def _check_weight(name: str, value: float) -> None:
    good = math.isfinite(value) and value >= 0
    require(good, f"{name} is {value}; it must be 0 or a positive number")


@dataclass(frozen=True)
class GidOutput:
    """What the pipeline returns: the photo, and a volume with F_0 = 0 in px of the working size."""

    image: Float[Tensor, "3 height width"]
    volume: SpectralVolume = field(repr=False)
    loop_frames: int | None = None  # after which the motion returns to its beginning, if not T

    @property
    def spectral(self) -> Complex[Tensor, "freq 2 height width"]:
        return self.volume.spectral

    def motion(self, *, num_frames: int | None = None) -> Float[Tensor, "time 2 height width"]:
        """Return the motion texture of the first ``num_frames`` frames (one loop by default)."""
        times = torch.arange(num_frames or self.loop_frames or self.volume.num_frames)
        return spectral_to_motion(self.spectral, num_frames=self.volume.num_frames, times=times)

    @property
    def frames(self) -> UInt8[Tensor, "time 3 height width"]:
        """One loop of video at the resolution of the photo."""
        times = torch.arange(self.loop_frames or self.volume.num_frames, dtype=torch.float64)
        frames = render_frames(self.image, self.volume, times)
        return torch.stack([(frame * 255).round().byte() for frame in frames])


def working_size(height: int, width: int) -> tuple[int, int]:
    """Return the size at which the network sees a photo: about 256×160 pixels in all."""
    scale = math.sqrt(WORKING_PIXELS / (height * width))
    rounded = [max(1, round(side * scale / SIZE_MULTIPLE)) for side in (height, width)]
    # An extreme panorama would otherwise grow without bound when its short side is rounded up.
    return tuple(min(side, 24) * SIZE_MULTIPLE for side in rounded)


def _read_config(path: Path) -> dict[str, Any]:
    """Return what ``pipeline.json`` of a folder says, checked: name, num_frames and fps."""
    file, advice = path / "pipeline.json", "leave --model out to use the shipped weights"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        what = "a gidlite pipeline (no readable pipeline.json)"
        raise GidliteError(f"{path} is not {what}; {advice}") from None
    known = isinstance(config, dict) and config.items() >= _HEAD.items()
    known = known and config.get("representation") in tuple(REPRESENTATIONS)
    require(known, f"{path} has an unknown format or version; train it again")
    missing = [key for key in _KEYS if key not in config]
    require(not missing, f"{file} lacks {', '.join(missing)}; save it again")
    check_timing(file, config["num_frames"], config["fps"])
    require(isinstance(config["name"], str), f"{file} has a name that is no text; save it again")
    return {key: config[key] for key in _KEYS}


def _check_parts(parts: list, num_frames: int) -> None:
    """Refuse, as ``ValueError``, parts of different pipelines, and frames that are too few."""
    told = [getattr(p, "config", None) or {"num_frequencies": len(p.scale)} for p in parts]
    for key in ("num_frequencies", "parts", "modes_per_part"):
        if len(values := {config[key] for config in told if key in config}) > 1:
            raise ValueError(f"its parts differ in {key}")
        if key == "num_frequencies" and max(values) > num_frames // 2 + 1:
            raise ValueError(f"{num_frames} frames do not hold its frequencies")


class GidPipeline:
    """Photo → spectral volume, by the prior that a folder holds.

    Volumes have ``num_frames`` and ``fps``; ``SpectralVolume.model`` will say the name.
    """

    def __init__(
        self, prior: ModesPrior | GridPrior, *,
        num_frames: int = 150, fps: float = 30.0, name: str = "unnamed",
    ) -> None:  # fmt: skip
        self.prior, self.num_frames, self.fps, self.name = prior, num_frames, fps, name
        for part in self._parts().values():
            part.eval().requires_grad_(False)

    @property
    def representation(self) -> str:
        return next(n for n, kind in REPRESENTATIONS.items() if isinstance(self.prior, kind))

    def _parts(self) -> dict[str, torch.nn.Module]:
        return {name: getattr(self.prior, name) for name in self.prior.PARTS}

    @property
    def device(self) -> torch.device:
        return next(next(iter(self._parts().values())).parameters()).device

    def to(self, device: torch.device | str) -> GidPipeline:
        """Move the parts and return the pipeline."""
        for part in self._parts().values():
            part.to(device)
        return self

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> GidPipeline:
        """Load a folder, whole, as ``save_pretrained`` wrote it; or shipped weights.

        Those are "modes", the default, and "grid".
        """
        path = Path(path or DEFAULT)
        path = WEIGHTS / path if str(path) in REPRESENTATIONS else path
        config = _read_config(path)
        kind = REPRESENTATIONS[config.pop("representation")]
        try:
            parts = [load_network(network, path / name) for name, network in kind.PARTS.items()]
            parts += [load_stats(path / _STATS)] if kind is GridPrior else []
            _check_parts(parts, config["num_frames"])
        except (OSError, ValueError, TypeError) as error:
            raise GidliteError(f"{path} is incomplete or damaged ({error})") from None
        return cls(kind(*parts), **config)

    def save_pretrained(self, path: str | Path) -> None:
        """Write configs and half-precision weights, loadable by ``from_pretrained``."""
        path = Path(path)
        for name, part in self._parts().items():
            with written(path / name, folder=True) as hidden:
                copy.deepcopy(part).half().save_pretrained(hidden)
        if self.prior.stats is not None:
            save_stats(path / _STATS, self.prior.stats)
        config = _HEAD | {key: getattr(self, key) for key in _KEYS}
        with written(path / "pipeline.json") as hidden:
            hidden.write_text(json.dumps(config, indent=1) + "\n")

    @torch.no_grad()
    def __call__(
        self,
        image: Any,
        *,
        num_inference_steps: int = 12,
        guidance_scale: float = 0.0,
        loop: bool | int = True,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
        sampling: Sampling | None = None,
    ) -> GidOutput:
        """Sample a spectral volume for a photo; equal seeds give equal volumes.

        The image is a path, a Pillow image, an array (H, W, 3), or a tensor (3, H, W) in [0, 1], of
        any size; the generator is on the CPU. ``guidance_scale`` is w of classifier-free guidance
        (paper: 1.75); 0 is none, and faster. ``loop`` may be a number of frames, 2 at least, after
        which ``close_loop`` closes the loop; True and False close nothing, for every volume
        repeats after T by construction. ``progress`` gets (steps done, steps in all).
        """
        image, sampling = as_image(image), sampling or Sampling()
        _check_weight("guidance", guidance_scale)
        loop_frames = None if isinstance(loop, bool) else loop
        closable = loop_frames is None or loop_frames >= 2
        require(closable, f"loop is {loop_frames} frames long; ask for 2 at least")
        photo = _reduced(image)
        timing = {"num_frames": self.num_frames, "loop_frames": loop_frames}

        def guide(predict: Predict, to_spectral: Callable[[Tensor], Tensor], kind: str) -> Predict:
            options = {"weight": sampling.loop_weight, "prediction_type": kind, **timing}
            return loop_guidance(predict, to_spectral, **options)

        sampler = Sampler(
            num_inference_steps, guidance_scale, sampling.wind, sampling.solver,
            sampling.recurrence, generator, progress, guide if loop_frames is not None else None,
        )  # fmt: skip
        coarse = self.prior.sample(photo[None].to(self.device), sampler)
        advice = "the sampler left the finite numbers; ask for less guidance"
        require(all_finite(coarse), f"guidance is {guidance_scale} and {advice}")
        spectral = anchor(_along_edges(_edited(coarse, sampling.gain), photo))
        if loop_frames is not None and sampling.close:
            spectral = close_loop(spectral, **timing)
        seed = generator.initial_seed() if generator is not None else -1
        aspect = image.shape[-1] / image.shape[-2]
        volume = SpectralVolume(spectral, self.num_frames, self.fps, seed, self.name, aspect)
        return GidOutput(image, _within_reach(volume), loop_frames)

    @torch.no_grad()
    def surprise(self, image: Any, spectral: Complex[Tensor, "freq 2 height width"]) -> float:
        """Return how badly a motion fits a photo: the negative log-likelihood of a component.

        It does not ask how much moves, but what moves with what; lower is better.
        """
        require(self.representation == "modes", f"{self.name} has no modes; use one that has")
        photo = _reduced(as_image(image))[None].to(self.device)
        height, width = photo.shape[-2:]
        return self.prior.surprise(photo, resize_spectral(spectral, height=height, width=width))

    @torch.no_grad()
    def level(self, image: Any) -> Float[Tensor, "rows columns"]:
        """Return the RMS displacement to be expected in a usual wind, in px of its own grid."""
        require(self.representation == "modes", f"{self.name} has no modes; use one that has")
        found = self.prior.modes(_reduced(as_image(image))[None].to(self.device))
        return (found.level[0] * found.amount[0, 0].exp()).cpu() / PHOTO_STRIDE

    @torch.no_grad()
    def basis(self, image: Any, *, gain: Tensor | None = None) -> ModalBasis:
        """Return the photo's own modes, by which it answers a hand, at the working size."""
        require(self.representation == "modes", f"{self.name} has no modes; give a volume instead")
        photo = _reduced(as_image(image))
        shapes, places = self.prior.basis(photo[None].to(self.device))
        shapes = _along_edges(_edited(shapes, gain), photo)
        return ModalBasis(shapes, places * (self.fps / self.num_frames))

    @torch.no_grad()
    def edit(
        self, image: Any, *, mask: Any = None,
        still: Sequence[tuple[float, float]] = (), move: Sequence[tuple[float, float]] = (),
    ) -> Float[Tensor, "rows columns"]:  # fmt: skip
        """Return the factors on motion (``Sampling.gain``) by which a photo moves as asked.

        Points are (x, y), each from 0 to 1. What is at a point of ``still`` stands still; what is
        at one of ``move`` moves as the liveliest do, even if it would not. ``mask`` is a picture
        like ``image``, of any size: white may move, black stays whatever points say, and
        transparency is ignored. Raises ``GidliteError`` for points outside, and for any point if
        the prior is one of grids.
        """
        photo = _reduced(as_image(image))[None].to(self.device)
        size = tuple(side // PHOTO_STRIDE for side in photo.shape[-2:])
        gain = torch.ones(size)
        if still or move:
            known = self.representation == "modes"
            require(known, f"{self.name} does not know what belongs to a point; give a mask")
            inside = all(0 <= side <= 1 for point in (*still, *move) for side in point)
            require(inside, "a point lies outside the photo; x and y are from 0 to 1")
            level, regions = self.prior.things(photo, [*still, *move])
            stays, moves = regions[: len(still)], regions[len(still) :]
            stays, moves = (t.sum(0).clamp(max=1) for t in (stays, moves))
            lively = _LIVELY * level.max().clamp(min=_LEAST_LIVELIEST)
            raised = 1 + moves * (lively / level.clamp(min=_LEAST_LEVEL) - 1).clamp(min=0)
            gain = torch.where(moves > stays, raised, 1 - stays)
        if mask is not None:
            gray = functional.interpolate(_opaque(mask)[None], size, mode="area")[0].mean(0)
            gain = gain * gray
        return gain


def _reduced(image: Tensor) -> Tensor:
    height, width = working_size(*image.shape[-2:])
    return resize(image, height=height, width=width)


def _opaque(mask: Any) -> Float[Tensor, "3 height width"]:
    """Return a picture with the colours that lie under its transparency."""
    if isinstance(mask, str | Path):
        require_file(mask, what="a mask")
    picture = as_image(mask)
    with open_photo(mask) if isinstance(mask, str | Path) else nullcontext(mask) as opened:
        if isinstance(opened, Image.Image) and opened.has_transparency_data:
            picture = as_image(opened.convert("RGBA").convert("RGB"))
    return picture


def drawn_wind(seed: int) -> float:
    """Return the wind that a seed draws for a prior of modes if none is asked for."""
    return torch.special.ndtr(torch.randn(1, generator=torch.Generator().manual_seed(seed))).item()


def _edited(spectral: Tensor, gain: Tensor | None) -> Tensor:
    """Return a volume with every place multiplied by what a map says there."""
    if gain is None:
        return spectral
    valid = bool(torch.isfinite(gain).all() and (gain >= 0).all())
    require(valid, "gain has a negative or infinite factor; use 0 or more")
    size = spectral.shape[-2:]
    return spectral * functional.interpolate(gain[None, None].float(), size, mode="area")[0, 0]


def _along_edges(spectral: Tensor, photo: Tensor) -> Complex[Tensor, "freq 2 height width"]:
    """Return a volume at the size of a photo, in px of it, with the outlines of the photo."""
    upsample = GuidedUpsampling(photo, *spectral.shape[-2:])
    parts = torch.view_as_real(spectral).movedim(-1, 0).flatten(0, 1)
    moved = torch.stack([upsample.motion(part) for part in parts])
    return torch.complex(*moved.unflatten(0, (2, -1)))


def _within_reach(volume: SpectralVolume) -> SpectralVolume:
    """Return the volume, calmed down if it goes farther than a renderer can show."""
    farthest = farthest_motion(volume)
    if farthest <= FARTHEST:
        return volume
    return replace(volume, spectral=volume.spectral * (FARTHEST / farthest))
