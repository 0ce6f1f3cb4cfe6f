"""The real check of modal dynamics: fit the first part of a ring-down, predict the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gidlite._checks import GidliteError
from gidlite.flow import Motion, motion_texture, moving_mask
from gidlite.media import read_video
from gidlite.modal_fit import ModalFit, fit_modes

__all__ = ["Ringdown", "check_ringdown", "predict_motion", "ringdown"]

_MOST_MODES = 4


@dataclass(frozen=True)
class Ringdown:
    """Errors in px, RMS over pixels that moved in the first part, over the frames after it.

    Attributes:
        predicted: Of the fitted modes, stepped on by ``ModalSystem``.
        still: Of holding frame 0, the photo.
        last: Of holding the last pose that was fitted.
        rest: Of holding the fitted rest pose; what knowing where it settles is worth.
        fit: The fitted modes.
        frames_fitted: Length of the first part.
    """

    predicted: float
    still: float
    last: float
    rest: float
    fit: ModalFit
    frames_fitted: int


def predict_motion(
    fit: ModalFit, *, first: int, count: int, fps: float
) -> Float[Tensor, "time 2 height width"]:
    """Return the motion at frames ``first`` … ``first + count − 1``, px from frame 0."""
    system = fit.system()
    system.step(first / fps)
    poses = []
    for _ in range(count):
        poses.append(fit.rest + system.displacement())
        system.step(1 / fps)
    return torch.stack(poses)


def _rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


def _best_fit(motion: Tensor, mask: Tensor, fps: float) -> ModalFit:
    """Fit 1 to 4 modes; their number is the one whose fit to two thirds predicts the third best."""
    head = len(motion) * 2 // 3
    errors = {}
    for count in range(1, _MOST_MODES + 1):
        if head < 8 * count:
            break
        fit = fit_modes(motion[:head], fps=fps, num_modes=count, mask=mask)
        ahead = predict_motion(fit, first=head, count=len(motion) - head, fps=fps)
        errors[count] = _rms((ahead - motion[head:])[..., mask])
    return fit_modes(motion, fps=fps, num_modes=min(errors, key=errors.get), mask=mask)


def ringdown(observed: Motion, *, fps: float, share: float = 0.5) -> Ringdown:
    """Fit the first ``share`` of an observed motion and compare predictions of the rest.

    Args:
        observed: Motion of a thing poked before frame 0 and left alone since.
        fps: Frames per second.
        share: Part of the frames fitted, within (0, 1).

    Raises:
        GidliteError: If nothing moves, or the first part is under 12 frames or all there is.
    """
    motion, count = observed.motion, round(share * len(observed.motion))
    if not 12 <= count < len(motion):
        raise GidliteError(f"{count} of {len(motion)} frames to fit; at least 12, but not all")
    mask = moving_mask(Motion(motion[:count], observed.reliable))
    if not mask.any():
        raise GidliteError("nothing moves in the first part; start the clip at the release")
    fit = _best_fit(motion[:count], mask, fps)
    ahead = predict_motion(fit, first=count, count=len(motion) - count, fps=fps)
    truth = motion[count:, :, mask]
    candidates = {
        "predicted": ahead[..., mask], "still": torch.zeros(()),
        "last": motion[count - 1, :, mask], "rest": fit.rest[:, mask],
    }  # fmt: skip
    errors = {name: _rms(truth - pose) for name, pose in candidates.items()}
    return Ringdown(**errors, fit=fit, frames_fitted=count)


def check_ringdown(
    path: str | Path,
    *,
    share: float = 0.5,
    width: int = 256,
    max_frames: int = 150,
    progress: Callable[[int, int], None] | None = None,
) -> Ringdown:
    """Follow the pixels of a clip with a still camera and return ``ringdown`` of their motion."""
    clip = read_video(path, width=width, max_frames=max_frames)
    return ringdown(motion_texture(clip.frames, progress=progress), fps=clip.fps, share=share)
