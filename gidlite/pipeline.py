"""One photo in, its spectral volume and frames out: the trained parts put together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from gidlite.errors import GidliteError, check_shape, load_network
from gidlite.loops import close_loop, loop_guidance
from gidlite.media import resize
from gidlite.motion import SpectralVolume
from gidlite.motion.normalize import FrequencyStats, denormalize, load_stats, save_stats
from gidlite.motion.spectral import anchor, resize_spectral, spectral_to_motion
from gidlite.prior import PHOTO_STRIDE, AmplitudeNet, photo_features, sharpen
from gidlite.prior.autoencoder import SliceAutoencoder
from gidlite.prior.denoiser import PATCH, Denoiser
from gidlite.prior.diffusion import classifier_free_guidance, make_scheduler, sample
from gidlite.render import render_frames

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "prior"
# The photo is shown to the network at about as many pixels as in training, any aspect ratio.
_WORKING_PIXELS = 256 * 160
# The U-Net halves its grid of patches twice.
_SIZE_MULTIPLE = 4 * PATCH * PHOTO_STRIDE
PARTS = {"autoencoder": SliceAutoencoder, "amplitude": AmplitudeNet, "denoiser": Denoiser}
_VERSION = 3


@dataclass(frozen=True)
class GidOutput:
    """What the pipeline returns.

    Attributes:
        image: The photo as given, ``(3, H, W)`` in [0, 1].
        volume: The sampled spectral volume, anchored so that F_0 = 0, in px of the working size.
        loop_frames: Frames after which the motion returns to its beginning, if not T.
    """

    image: Tensor
    volume: SpectralVolume = field(repr=False)
    loop_frames: int | None = None

    @property
    def spectral(self) -> Complex[Tensor, "freq 2 height width"]:
        """The spectral volume as a tensor."""
        return self.volume.spectral

    def motion(self, *, num_frames: int | None = None) -> Float[Tensor, "time 2 height width"]:
        """Return the motion texture of the first ``num_frames`` frames (one loop by default)."""
        times = torch.arange(num_frames or self.loop_frames or self.volume.num_frames)
        return spectral_to_motion(self.spectral, num_frames=self.volume.num_frames, times=times)

    @property
    def frames(self) -> Tensor:
        """One loop of video at the resolution of the photo, ``(T, 3, H, W)`` uint8."""
        times = torch.arange(self.loop_frames or self.volume.num_frames)
        frames = render_frames(self.image, self.volume, times)
        return torch.stack([(frame * 255).round().byte() for frame in frames])


def working_size(height: int, width: int) -> tuple[int, int]:
    """Return the size at which the network sees a photo: about 256×160 pixels in all."""
    scale = math.sqrt(_WORKING_PIXELS / (height * width))
    rounded = [max(1, round(side * scale / _SIZE_MULTIPLE)) for side in (height, width)]
    # An extreme panorama would otherwise grow without bound when its short side is rounded up.
    return tuple(min(side, 24) * _SIZE_MULTIPLE for side in rounded)


class GidPipeline:
    """Photo → spectral volume, by latent diffusion.

    Args:
        autoencoder: Latents ↔ normalized slices.
        amplitude: Expected magnitude of latents, from the photo.
        denoiser: The prior over what the photo cannot tell.
        stats: Frequency statistics the parts were trained with, px of the motion grid.
        num_frames: T.
        fps: Frames per second.
        name: What ``SpectralVolume.model`` will say.
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
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.amplitude = amplitude.eval().requires_grad_(False)
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.stats, self.num_frames, self.fps = stats, num_frames, fps
        self.name = name

    def _parts(self) -> dict[str, torch.nn.Module]:
        return {name: getattr(self, name) for name in PARTS}

    @property
    def device(self) -> torch.device:
        """Where the parts live."""
        return self.denoiser.device

    def to(self, device: torch.device | str) -> GidPipeline:
        """Move the parts and return the pipeline."""
        for part in self._parts().values():
            part.to(device)
        return self

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None) -> GidPipeline:
        """Load the shipped weights, or those in a folder written by ``save_pretrained``.

        Raises:
            GidliteError: If the folder is not a pipeline of a known version.
        """
        path = Path(path) if path is not None else DEFAULT_WEIGHTS
        try:
            config = json.loads((path / "pipeline.json").read_text())
        except (OSError, ValueError):
            raise GidliteError(
                f"{path} is not a gidlite pipeline (no readable pipeline.json); "
                "leave --model out to use the shipped weights"
            ) from None
        if config.get("format") != "gidlite-pipeline" or config.get("version") != _VERSION:
            raise GidliteError(f"{path} has an unknown format or version; train it again")
        try:
            stats = load_stats(path / "frequency_stats.safetensors")
            parts = [load_network(kind, path / name) for name, kind in PARTS.items()]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise GidliteError(f"{path} is incomplete or damaged ({error})") from None
        return cls(
            *parts, stats, num_frames=config["num_frames"], fps=config["fps"],
            name=config["name"],
        )  # fmt: skip

    def save_pretrained(self, path: str | Path) -> None:
        """Write configs and half-precision weights, loadable by ``from_pretrained``."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        for name, part in self._parts().items():
            part.half().save_pretrained(path / name)
            part.float()
        save_stats(path / "frequency_stats.safetensors", self.stats)
        config = {
            "format": "gidlite-pipeline", "version": _VERSION, "name": self.name,
            "num_frames": self.num_frames, "fps": self.fps,
        }  # fmt: skip
        (path / "pipeline.json").write_text(json.dumps(config, indent=1) + "\n")

    @torch.no_grad()
    def __call__(
        self,
        image: Float[Tensor, "3 height width"],
        *,
        num_inference_steps: int = 12,
        guidance_scale: float = 0.0,
        contrast: float = 0.5,
        loop: bool = True,
        loop_frames: int | None = None,
        loop_weight: float = 0.0,
        recurrence: int = 1,
        close: bool = True,
        solver: str = "dpm",
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> GidOutput:
        """Sample a spectral volume for a photo.

        Args:
            image: Photo in [0, 1], any size and aspect ratio.
            num_inference_steps: Solver steps.
            guidance_scale: w of classifier-free guidance (paper: 1.75); 0 is none, and faster.
            contrast: How much more what moves shall stand out from what does not than the amplitude
                network says; 0 is none.
            loop: Whether the motion must return after ``loop_frames``.
            loop_frames: N; T if not given, after which every volume repeats by construction.
                Otherwise the sample is changed as little as closes the loop (``close_loop``).
            loop_weight: u of self-guidance towards the loop while sampling; what it does not
                reach, closing the loop does. 0 does without: cheaper and closer to free samples.
            recurrence: How often every solver step is taken, renoised in between (see ``sample``);
                the paper guides with 2. Costs so many times the evaluations.
            close: False leaves the seam as guidance left it.
            solver: "dpm" or "ddim".
            generator: On the CPU; equal seeds give equal volumes.
            progress: Called with (steps done, steps in all).

        Returns:
            The photo with its volume: a loop of ``loop_frames`` frames, and of T in any case.

        Raises:
            ShapeError: If ``image`` is not one RGB picture.
            GidliteError: If an option is out of range.
        """
        check_shape("image", image, "3 height width")
        if not (math.isfinite(guidance_scale) and guidance_scale >= 0):
            raise GidliteError(f"guidance is {guidance_scale}; it must be 0 or a positive number")
        if not (math.isfinite(contrast) and contrast >= 0):
            raise GidliteError(f"contrast is {contrast}; it must be 0 or a positive number")
        if not (math.isfinite(loop_weight) and loop_weight >= 0):
            raise GidliteError(f"loop weight is {loop_weight}; it must be 0 or a positive number")
        if loop_frames is not None and loop_frames < 2:
            raise GidliteError(f"loop is {loop_frames} frames long; ask for 2 at least")
        loop_frames = loop_frames if loop else None
        height, width = working_size(*image.shape[-2:])
        photo = resize(image, height=height, width=width)[None].to(self.device)
        features = photo_features(photo)
        scale = sharpen(self.amplitude.scale(features), contrast)
        condition = self.denoiser.embed_photo(features, scale)
        predict = self._guided(condition, guidance_scale)
        if loop_frames is not None:
            predict = loop_guidance(
                predict, lambda whitened: self._coarse_volume(whitened * scale),
                weight=loop_weight, prediction_type=self.denoiser.config.prediction_type,
                num_frames=self.num_frames, loop_frames=loop_frames,
            )  # fmt: skip
        whitened = sample(
            predict, tuple(scale.shape),
            scheduler=make_scheduler(solver, self.denoiser.config.prediction_type),
            num_steps=num_inference_steps, recurrence=recurrence, shape_noise=self._shape_noise,
            generator=generator, device=self.device, progress=progress,
        )  # fmt: skip
        packed = self.autoencoder.decode(whitened * scale, photo)[0]
        spectral = anchor(denormalize(packed.cpu(), self.stats))
        if loop_frames is not None and close:
            spectral = close_loop(spectral, num_frames=self.num_frames, loop_frames=loop_frames)
        spectral = resize_spectral(spectral, height=height, width=width)
        seed = generator.initial_seed() if generator is not None else -1
        volume = SpectralVolume(spectral, self.num_frames, self.fps, seed, self.name)
        return GidOutput(image, volume, loop_frames)

    def _coarse_volume(self, latents: Tensor) -> Tensor:
        """Return a volume without its finest detail: latents are means over 2×2 pixels.

        A loop asks the same of every pixel, so guidance needs no decoder: its gradient costs next
        to nothing this way, and two thirds of a solver step through the decoder.
        """
        return denormalize(latents / self.autoencoder.config.scaling_factor, self.stats)

    @property
    def _freq_index(self) -> Tensor:
        return torch.arange(self.stats.scale.shape[0], device=self.device)[None]

    def _shape_noise(self, noise: Tensor, step: Tensor) -> Tensor:
        return self.denoiser.shape_noise(noise, step.reshape(1), self._freq_index)

    def _guided(self, condition: Tensor, weight: float) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the guided prediction of all bins; both branches in one batch."""
        freq_index = self._freq_index
        if weight == 0:
            return lambda z, step: self.denoiser(z, step.reshape(1), freq_index, condition)
        both = torch.cat([condition, torch.zeros_like(condition)])

        def predict(z: Tensor, step: Tensor) -> Tensor:
            prediction = self.denoiser(
                torch.cat([z, z]), step.expand(2), freq_index.expand(2, -1), both
            )
            return classifier_free_guidance(*prediction.chunk(2), weight=weight)

        return predict
