"""The training objective and the sampler around diffusers' noise schedulers.

Source: Ho et al. 2020 (objective), Song et al. 2021 (DDIM), Lu et al. 2022 (DPM-Solver++),
Bansal et al. 2023 (self-recurrence).
Departures from Li et al. 2024: the network predicts v on a cosine schedule, which keeps a signal
to learn from at every noise level; and noise levels are spread evenly over the logarithm of the
signal-to-noise ratio, in training and in sampling. Motion of large parts has a hundred times the
variance of the noise per mode, so it is decided while the picture still looks like pure noise:
twenty steps spread evenly over time lose 80 % of its power (notebook 04).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gidlite.errors import require
from gidlite.prior import Latents

PREDICTION_TYPES = ("v_prediction", "epsilon")
_SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
_SOLVERS = {
    # DPM-Solver++ of first order is DDIM.
    "ddim": (DPMSolverMultistepScheduler, {"solver_order": 1}),
    "dpm": (DPMSolverMultistepScheduler, {"solver_order": 2}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
}
# Log of signal over noise at the first and the last noise level that are visited.
_LOG_RATIOS = (-3.5, 2.8)
Predict = Callable[[Tensor, Tensor], Tensor]


def make_scheduler(solver: str = "dpm", prediction_type: str = "v_prediction") -> SchedulerMixin:
    """Return the noise schedule with a solver: "dpm" (fast), "ddim" (as in the paper), "ddpm".

    The prediction type says what the network predicts: "v_prediction" or "epsilon".
    """
    for what, name, known in (
        ("solver", solver, _SOLVERS),
        ("prediction type", prediction_type, PREDICTION_TYPES),
    ):
        require(name in known, f"{what} {name!r} is unknown; use one of {', '.join(known)}")
    kind, options = _SOLVERS[solver]
    return kind(**_SCHEDULE, prediction_type=prediction_type, **options)


@functools.cache
def signal_levels(device: torch.device | str = "cpu") -> Float[Tensor, " steps"]:
    """Return the share of the clean latents at every noise level; the noise has √(1 − share²)."""
    return make_scheduler("ddpm").alphas_cumprod.sqrt().to(device)


def noise_steps(place: Float[Tensor, " count"]) -> Int[Tensor, " count"]:
    """Return diffusion steps at places from 0 (noisiest) to 1, even in log signal to noise."""
    first, last = _LOG_RATIOS
    signal = signal_levels(place.device)
    log_ratio = torch.log(signal / (1 - signal.square()).sqrt())
    wanted = first + (last - first) * place.float()
    # The table falls with the step, and searching needs one that rises.
    return torch.searchsorted(-log_ratio, -wanted).clamp(max=len(signal) - 1)


def denoising_loss(
    denoiser: Callable[..., Tensor],
    latents: Latents,
    freq_index: Int[Tensor, "batch freq"],
    condition: Float[Tensor, "batch condition patch_rows patch_columns"],
    *,
    scheduler: SchedulerMixin,
    reliable: Bool[Tensor, "batch rows columns"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Return the mean squared error of the prediction at noise levels drawn evenly.

    All bins of a volume share one noise level, because they are denoised together.

    Args:
        denoiser: Called with noisy latents, step, bin indices and condition.
        latents: Clean latents, about unit variance.
        freq_index: Which bins they are.
        condition: From the photo, zeros where it is dropped.
        scheduler: Noise schedule that defines the target.
        reliable: Cells to learn from; all if not given.
        generator: Source of noise and noise levels, on the device of ``latents``.
    """
    device, kind = latents.device, scheduler.config.prediction_type
    noise = torch.randn(latents.shape, generator=generator, device=device)
    step = noise_steps(torch.rand(len(latents), generator=generator, device=device))
    noisy = scheduler.add_noise(latents, noise, step)
    predicted = denoiser(noisy, step, freq_index, condition).float()
    target = scheduler.get_velocity(latents, noise, step) if kind == "v_prediction" else noise
    gap = (predicted - target).square().mean((1, 2))
    if reliable is None:
        return gap.mean()
    return (gap * reliable).sum() / reliable.sum().clamp(min=1)


@torch.no_grad()
def sample(
    predict: Predict,
    start: Tensor,
    *,
    scheduler: SchedulerMixin,
    num_steps: int,
    recurrence: int = 1,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw latents by running the solver from noise.

    Args:
        predict: Guided prediction as a function of (latents, step).
        start: Noise like that of the first step, see ``Denoiser.shape_noise``; white noise will
            do if the latents are about white themselves.
        scheduler: From ``make_scheduler``.
        num_steps: Solver steps, 1–500.
        recurrence: How often every step is taken, 1–100. Between two times the latents get back
            the noise that the step removed, drawn anew: what guidance pushed out of place, the
            network can then put right. Costs so many times the evaluations.
        generator: Source of that noise; on the CPU, so that seeds agree across devices.
        progress: Called with (steps done, steps in all).

    Raises:
        GidliteError: If a number is out of its range.
    """
    require(1 <= num_steps <= 500, f"number of steps is {num_steps}; it must lie in 1–500")
    require(1 <= recurrence <= 100, f"recurrence is {recurrence}; it must lie in 1–100")
    # Neighbouring places share a step when there are more places than steps.
    steps = noise_steps(torch.linspace(0, 1, num_steps)).unique().flip(0)
    latents, device = start, start.device
    scheduler.set_timesteps(timesteps=steps.tolist(), device=device)
    signals = signal_levels(device)[scheduler.timesteps]
    signals = torch.cat([signals, signals.new_ones(1)])  # the last step ends without noise
    is_v = scheduler.config.prediction_type == "v_prediction"
    for done, step in enumerate(scheduler.timesteps, start=1):
        for _ in range(recurrence - 1):
            noise = torch.randn(latents.shape, generator=generator).to(device)
            levels = signals[done - 1], signals[done]
            latents = _there_and_back(latents, predict(latents, step), *levels, noise, is_v=is_v)
        prediction = predict(scheduler.scale_model_input(latents, step), step)
        latents = scheduler.step(prediction, step, latents).prev_sample
        if progress is not None:
            progress(done, len(steps))
    return latents


def _there_and_back(
    latents: Tensor, prediction: Tensor, here: Tensor, there: Tensor, noise: Tensor, *, is_v: bool
) -> Tensor:
    """Return latents of the same noise level, a step of DDIM ahead and renoised with white noise.

    ``here`` and ``there`` are the signal levels before and after the step. The solver is not
    asked, so that one of higher order remembers no step that was taken back.
    """
    sigma = (1 - here.square()).sqrt()
    clean = here * latents - sigma * prediction if is_v else (latents - sigma * prediction) / here
    removed = sigma * latents + here * prediction if is_v else prediction
    ahead = there * clean + (1 - there.square()).sqrt() * removed
    kept = here / there
    return kept * ahead + (1 - kept.square()).sqrt() * noise


def classifier_free_guidance(
    conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], *, weight: float
) -> Float[Tensor, "*shape"]:
    """Return ``(1 + w) ε(z; c) − w ε(z; ∅)``; weight 0 is the conditional estimate alone.

    Source: Ho and Salimans 2022, in the form of Li et al. 2024, section 4 (w = 1.75 there).
    """
    return conditional + weight * (conditional - unconditional)
