"""One photo in, its spectral volume and frames out: the trained parts put together."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Complex, Float, UInt8
from torch import Tensor

from gidlite.errors import GidliteError, load_network, require, written
from gidlite.loops import Predict, close_loop, loop_guidance
from gidlite.media import as_image, resize
from gidlite.motion import SpectralVolume, check_timing
from gidlite.motion.normalize import FrequencyStats, denormalize, load_stats, save_stats
from gidlite.motion.spectral import anchor, resize_spectral, spectral_to_motion
from gidlite.prior import PHOTO_STRIDE, AmplitudeNet, photo_features, sharpen
from gidlite.prior.autoencoder import SliceAutoencoder
from gidlite.prior.denoiser import PATCH, Denoiser
from gidlite.prior.diffusion import make_scheduler, sample
from gidlite.render import render_frames

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "prior"
_WORKING_PIXELS = 256 * 160  # about as many as in training, at any aspect ratio
_SIZE_MULTIPLE = 4 * PATCH * PHOTO_STRIDE  # the U-Net halves its grid of patches twice
PARTS = {"autoencoder": SliceAutoencoder, "amplitude": AmplitudeNet, "denoiser": Denoiser}
_HEAD, _KEYS = {"format": "gidlite-pipeline", "version": 3}, ("name", "num_frames", "fps")


@dataclass(frozen=True)
class Sampling:
    """How a volume is sampled, as far as that is rarely changed."""

    contrast: float = 0.5  # how much more than predicted what moves stands out: ``prior.sharpen``
    loop_weight: float = 0.0  # u of guidance towards the loop; closing it does what is left
    recurrence: int = 1  # how often every step is taken, see ``diffusion.sample``; paper: 2
    close: bool = True  # False leaves the seam as guidance left it
    solver: str = "dpm"  # or "ddim"

    def __post_init__(self) -> None:
        _check_weight("contrast", self.contrast)
        _check_weight("loop weight", self.loop_weight)
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
    scale = math.sqrt(_WORKING_PIXELS / (height * width))
    rounded = [max(1, round(side * scale / _SIZE_MULTIPLE)) for side in (height, width)]
    # An extreme panorama would otherwise grow without bound when its short side is rounded up.
    return tuple(min(side, 24) * _SIZE_MULTIPLE for side in rounded)


def _read_config(path: Path) -> dict[str, Any]:
    """Return what ``pipeline.json`` of a folder says, checked: name, num_frames and fps."""
    file, advice = path / "pipeline.json", "leave --model out to use the shipped weights"
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError):
        what = "a gidlite pipeline (no readable pipeline.json)"
        raise GidliteError(f"{path} is not {what}; {advice}") from None
    known = isinstance(config, dict) and config.items() >= _HEAD.items()
    require(known, f"{path} has an unknown format or version; train it again")
    missing = [key for key in _KEYS if key not in config]
    require(not missing, f"{file} lacks {', '.join(missing)}; save it again")
    check_timing(file, config["num_frames"], config["fps"])
    return {key: config[key] for key in _KEYS}


class GidPipeline:
    """Photo → spectral volume, by latent diffusion.

    The amplitude network says how much each place moves, the denoiser what the photo cannot tell,
    and the autoencoder how that looks in detail. The statistics, in px of the motion grid, are
    those of the training; ``SpectralVolume.model`` will say the name.
    """

    def __init__(
        self,
        autoencoder: SliceAutoencoder,
        amplitude: AmplitudeNet,
        denoiser: Denoiser,
        stats: FrequencyStats,
        *,
        num_frames: int = 150,
        fps: float = 30.0,
        name: str = "unnamed",
    ) -> None:
        self.autoencoder, self.amplitude, self.denoiser = autoencoder, amplitude, denoiser
        for part in self._parts().values():
            part.eval().requires_grad_(False)
        self.stats, self.num_frames, self.fps, self.name = stats, num_frames, fps, name

    def _parts(self) -> dict[str, torch.nn.Module]:
        return {name: getattr(self, name) for name in PARTS}

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    def to(self, device: torch.device | str) -> GidPipeline:
        """Move the parts and return the pipeline."""
        for part in self._parts().values():
            part.to(device)
        return self

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> GidPipeline:
        """Load the shipped weights, or a folder's as ``save_pretrained`` wrote it, whole."""
        path = Path(path) if path is not None else DEFAULT_WEIGHTS
        config = _read_config(path)
        try:
            stats = load_stats(path / "frequency_stats.safetensors")
            parts = [load_network(kind, path / name) for name, kind in PARTS.items()]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise GidliteError(f"{path} is incomplete or damaged ({error})") from None
        return cls(*parts, stats, **config)

    def save_pretrained(self, path: str | Path) -> None:
        """Write configs and half-precision weights, loadable by ``from_pretrained``."""
        path = Path(path)
        for name, part in self._parts().items():
            with written(path / name, folder=True) as hidden:
                copy.deepcopy(part).half().save_pretrained(hidden)
        save_stats(path / "frequency_stats.safetensors", self.stats)
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
        height, width = working_size(*image.shape[-2:])
        photo = resize(image, height=height, width=width)[None].to(self.device)
        features = photo_features(photo)
        scale = sharpen(self.amplitude.scale(features), sampling.contrast)
        bins = torch.arange(len(self.stats.scale), device=self.device)[None]
        kind = self.denoiser.config.prediction_type
        timing = {"num_frames": self.num_frames, "loop_frames": loop_frames}
        predict = self._guided(self.denoiser.embed_photo(features, scale), bins, guidance_scale)
        if loop_frames is not None:

            def coarse_volume(whitened: Tensor) -> Tensor:
                # Means over 2×2 pixels spare guidance a costly gradient through the decoder.
                latents = whitened * scale / self.autoencoder.config.scaling_factor
                return denormalize(latents, self.stats)

            predict = loop_guidance(
                predict, coarse_volume, weight=sampling.loop_weight, prediction_type=kind, **timing
            )
        noise = torch.randn(scale.shape, generator=generator).to(self.device)
        whitened = sample(
            predict, self.denoiser.shape_noise(noise, bins), num_steps=num_inference_steps,
            scheduler=make_scheduler(sampling.solver, kind), recurrence=sampling.recurrence,
            generator=generator, progress=progress,
        )  # fmt: skip
        packed = self.autoencoder.decode(whitened * scale, photo)[0].cpu()
        spectral = anchor(denormalize(packed, self.stats))
        if loop_frames is not None and sampling.close:
            spectral = close_loop(spectral, **timing)
        spectral = resize_spectral(spectral, height=height, width=width)
        seed = generator.initial_seed() if generator is not None else -1
        volume = SpectralVolume(spectral, self.num_frames, self.fps, seed, self.name)
        return GidOutput(image, volume, loop_frames)

    def _guided(self, condition: Tensor, bins: Tensor, weight: float) -> Predict:
        """Return ``(1 + w) ε(z; c) − w ε(z; ∅)`` of all bins (Ho and Salimans 2022), in a batch."""
        if weight == 0:
            return lambda z, step: self.denoiser(z, step.reshape(1), bins, condition)
        both = torch.cat([condition, torch.zeros_like(condition)])

        def predict(z: Tensor, step: Tensor) -> Tensor:
            twice, steps, index = torch.cat([z, z]), step.expand(2), bins.expand(2, -1)
            conditional, free = self.denoiser(twice, steps, index, both).chunk(2)
            return conditional + weight * (conditional - free)

        return predict
