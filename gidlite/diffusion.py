"""The training objective and the sampler around diffusers' noise schedulers.

Source: Ho et al. 2020 (objective), Song et al. 2021 (DDIM), Lu et al. 2022 (DPM-Solver++).
Departure from Li et al. 2024: the network predicts v on a cosine schedule, which keeps a signal
to learn from at every noise level.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gidlite._checks import GidliteError

__all__ = ["PREDICTION_TYPES", "denoising_loss", "make_scheduler", "sample"]

PREDICTION_TYPES = ("v_prediction", "epsilon")

_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
}
_SOLVERS = {
    "ddim": (DDIMScheduler, {"timestep_spacing": "trailing", "clip_sample": False}),
    "dpm": (DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
}

Predict = Callable[[Tensor, Tensor], Tensor]


def make_scheduler(solver: str = "dpm", prediction_type: str = "v_prediction") -> SchedulerMixin:
    """Return the noise schedule with a solver: "dpm" (fast), "ddim" (as in the paper), "ddpm".

    Args:
        solver: Which of them.
        prediction_type: What the network predicts: "v_prediction" or "epsilon".

    Raises:
        GidliteError: If the solver or the prediction type is unknown.
    """
    if solver not in _SOLVERS:
        raise GidliteError(f"solver {solver!r} is unknown; use one of {', '.join(_SOLVERS)}")
    if prediction_type not in PREDICTION_TYPES:
        raise GidliteError(
            f"prediction type {prediction_type!r} is unknown; use one of "
            + ", ".join(PREDICTION_TYPES)
        )
    kind, options = _SOLVERS[solver]
    return kind(**_SCHEDULE, prediction_type=prediction_type, **options)


def denoising_loss(
    denoiser: Callable[..., Tensor],
    latents: Float[Tensor, "batch freq 4 rows columns"],
    freq_index: Int[Tensor, "batch freq"],
    condition: Float[Tensor, "batch condition patch_rows patch_columns"],
    *,
    scheduler: SchedulerMixin,
    reliable: Bool[Tensor, "batch rows columns"] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the mean squared error of the prediction at uniformly drawn noise levels.

    All bins of a volume share one noise level, because they are denoised together.

    Args:
        denoiser: Called with noisy latents, step, bin indices and condition.
        latents: Clean latents, about unit variance.
        freq_index: Which bins they are.
        condition: Photo condition, zeros where it is dropped.
        scheduler: Noise schedule that defines the target.
        reliable: Cells to learn from; all if not given.
        generator: Source of noise and noise levels, on the device of ``latents``.
    """
    device = latents.device
    noise = torch.randn(latents.shape, generator=generator, device=device)
    levels = scheduler.config.num_train_timesteps
    step = torch.randint(levels, (len(latents),), generator=generator, device=device)
    noisy = scheduler.add_noise(latents, noise, step)
    predicted = denoiser(noisy, step, freq_index, condition).float()
    is_v = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, step) if is_v else noise
    gap = (predicted - target).square().mean((1, 2))
    if reliable is None:
        return gap.mean()
    return (gap * reliable).sum() / reliable.sum().clamp(min=1)


@torch.no_grad()
def sample(
    predict: Predict,
    shape: tuple[int, ...],
    *,
    scheduler: SchedulerMixin,
    num_steps: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw latents by running the solver from pure noise.

    Args:
        predict: Guided prediction as a function of (latents, step).
        shape: Shape of the latents.
        scheduler: From ``make_scheduler``.
        num_steps: Solver steps.
        generator: Source of the initial noise; on the CPU, so that seeds agree across devices.
        device: Where to sample.
        progress: Called with (steps done, steps in all).

    Raises:
        GidliteError: If ``num_steps`` is not within 1–1000.
    """
    if not 1 <= num_steps <= scheduler.config.num_train_timesteps:
        raise GidliteError(f"number of steps is {num_steps}; it must lie between 1 and 1000")
    scheduler.set_timesteps(num_steps, device=device)
    latents = torch.randn(shape, generator=generator).to(device) * scheduler.init_noise_sigma
    for done, step in enumerate(scheduler.timesteps, start=1):
        prediction = predict(scheduler.scale_model_input(latents, step), step)
        latents = scheduler.step(prediction, step, latents).prev_sample
        if progress is not None:
            progress(done, num_steps)
    return latents
