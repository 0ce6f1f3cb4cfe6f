"""The training objective and the sampler around diffusers' noise schedulers.

Source: Ho et al. 2020 (objective), Song et al. 2021 (DDIM), Lu et al. 2022 (DPM-Solver++),
Bansal et al. 2023 (self-recurrence). Departures from Li et al. 2024: the network predicts v on a
cosine schedule, to learn something at every noise level; and noise levels are even in the log of
signal to noise. Motion of large things is decided while the picture still looks like pure noise:
twenty steps spread evenly over time lose 80 % of its power (lesson 05).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from gidlite.errors import require
from gidlite.prior import FreqIndex

Predict = Callable[[Tensor, Tensor], Tensor]
PREDICTION_TYPES = ("v_prediction", "epsilon")  # Salimans and Ho's v (2022), or the noise
_SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
_SOLVERS = {
    # DPM-Solver++ of first order is DDIM.
    "ddim": (DPMSolverMultistepScheduler, {"solver_order": 1}),
    "dpm": (DPMSolverMultistepScheduler, {"solver_order": 2}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
}
_FIRST_RATIO, _LAST_RATIO = -3.5, 2.8  # log of signal over noise where sampling starts and ends


def make_scheduler(solver: str = "dpm", prediction_type: str = "v_prediction") -> SchedulerMixin:
    """Return a noise schedule and solver: "dpm" (fast), "ddim" (as in the paper) or "ddpm"."""
    known = {("solver", solver): _SOLVERS, ("prediction type", prediction_type): PREDICTION_TYPES}
    for (what, name), names in known.items():
        require(name in names, f"{what} {name!r} is unknown; use one of {', '.join(names)}")
    kind, options = _SOLVERS[solver]
    return kind(**_SCHEDULE, prediction_type=prediction_type, **options)


@functools.cache
def signal_levels(device: torch.device | str = "cpu") -> Float[Tensor, " steps"]:
    """Return the share of the clean latents at every noise level; the noise has √(1 − share²)."""
    return make_scheduler("ddpm").alphas_cumprod.sqrt().to(device)


def noise_steps(place: Float[Tensor, " count"]) -> Int[Tensor, " count"]:
    """Return diffusion steps at places from 0 (noisiest) to 1, even in log signal to noise."""
    signal = signal_levels(place.device)
    log_ratio = torch.log(signal / (1 - signal.square()).sqrt())
    wanted = _FIRST_RATIO + (_LAST_RATIO - _FIRST_RATIO) * place.float()
    # The table falls with the step, and searching needs one that rises.
    return torch.searchsorted(-log_ratio, -wanted).clamp(max=len(signal) - 1)


def solver_steps(count: int) -> Int[Tensor, " steps"]:
    """Return the diffusion steps at which a solver of so many steps asks, noisiest first."""
    # Neighbouring places share a step when there are more places than steps.
    return noise_steps(torch.linspace(0, 1, count)).unique().flip(0)


def denoising_loss(
    denoiser: Callable[..., Tensor],
    latents: Float[Tensor, "batch freq numbers *places"],
    freq_index: FreqIndex,
    condition: Float[Tensor, "batch first *about"],
    *,
    scheduler: SchedulerMixin,
    weight: Shaped[Tensor, "#batch *places"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Return the mean squared error of what a denoiser predicts at noise levels drawn evenly.

    Latents are clean and of about unit variance; all bins of a volume share one noise level. The
    condition is 0 where the photo is dropped, the weight says what is learned from each place
    (from all alike if not given), the scheduler defines the target, and the generator is on the
    device of the latents.
    """
    device, kind = latents.device, scheduler.config.prediction_type
    noise = torch.randn(latents.shape, generator=generator, device=device)
    step = noise_steps(torch.rand(len(latents), generator=generator, device=device))
    noisy = scheduler.add_noise(latents, noise, step)
    predicted = denoiser(noisy, step, freq_index, condition).float()
    target = scheduler.get_velocity(latents, noise, step) if kind == "v_prediction" else noise
    gap = (predicted - target).square().mean((1, 2))
    return gap.mean() if weight is None else (gap * weight).sum() / weight.sum().clamp(min=1)


@torch.no_grad()
def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    *,
    scheduler: SchedulerMixin,
    num_steps: int,
    recurrence: int = 1,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw latents by running the solver of a scheduler from noise, in 1–500 steps.

    Start is noise like that of the first step, see ``Denoiser.shape_noise``; white noise will do
    for latents that are about white. Recurrence says how often every step is taken, 1–100: in
    between the latents get back the noise that the step removed, drawn anew from a generator on
    the CPU, and the network can put right what guidance pushed out of place. ``progress`` is
    called with (steps done, steps in all).
    """
    require(1 <= num_steps <= 500, f"number of steps is {num_steps}; it must lie in 1–500")
    require(1 <= recurrence <= 100, f"recurrence is {recurrence}; it must lie in 1–100")
    steps = solver_steps(num_steps)
    latents, device = start, start.device
    scheduler.set_timesteps(timesteps=steps.tolist(), device=device)
    signals = signal_levels(device)[scheduler.timesteps]
    signals = functional.pad(signals, (0, 1), value=1.0)  # the last step ends without noise
    is_v = scheduler.config.prediction_type == "v_prediction"
    for done, step in enumerate(scheduler.timesteps, start=1):
        for _ in range(recurrence - 1):
            noise = torch.randn(latents.shape, generator=generator).to(device)
            levels = signals[done - 1 : done + 1]
            latents = _there_and_back(latents, predict(latents, step), *levels, noise, is_v=is_v)
        prediction = predict(scheduler.scale_model_input(latents, step), step)
        latents = scheduler.step(prediction, step, latents).prev_sample
        if progress is not None:
            progress(done, len(steps))
    return latents


def _there_and_back(
    latents: Tensor, prediction: Tensor, here: Tensor, there: Tensor, noise: Tensor, *, is_v: bool
) -> Tensor:
    """Return latents a step of DDIM ahead, from signal level here to there, and renoised."""
    # The solver is not asked: one of higher order shall remember no step that was taken back.
    sigma = (1 - here.square()).sqrt()
    clean = here * latents - sigma * prediction if is_v else (latents - sigma * prediction) / here
    removed = sigma * latents + here * prediction if is_v else prediction
    ahead = there * clean + (1 - there.square()).sqrt() * removed
    kept = here / there
    return kept * ahead + (1 - kept.square()).sqrt() * noise


@dataclass(frozen=True)
class Sampler:
    """How a prior draws: the noise, the wind that was asked for, and the solver with its guidance.

    ``guide(predict, to_spectral, prediction_type)`` may push a prediction, as towards a loop.
    """

    steps: int
    guidance: float = 0.0  # w of classifier-free guidance
    wind: float | None = None  # 0 to 1, see ``pipeline.Sampling``
    solver: str = "dpm"
    recurrence: int = 1
    generator: torch.Generator | None = None
    progress: Callable[[int, int], None] | None = None
    guide: Callable[..., Predict] | None = None

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Return white noise on the CPU."""
        return torch.randn(tuple(shape), generator=self.generator)

    def solve(
        self, denoiser: nn.Module, start: Tensor, condition: Tensor, bins: FreqIndex,
        to_spectral: Callable[[Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        """Return what a denoiser draws from noise; ``to_spectral`` takes clean draws to px."""
        kind = denoiser.config.get("prediction_type", "v_prediction")
        predict = free_guidance(denoiser, condition, bins, self.guidance)
        if self.guide is not None:
            predict = self.guide(predict, to_spectral, kind)
        return sample(
            predict, start, scheduler=make_scheduler(self.solver, kind), num_steps=self.steps,
            recurrence=self.recurrence, generator=self.generator, progress=self.progress,
        )  # fmt: skip


def free_guidance(
    denoiser: Callable[..., Tensor], condition: Tensor, bins: FreqIndex, weight: float
) -> Predict:
    """Return ``(1 + w) ε(z; c) − w ε(z; ∅)`` of all bins (Ho and Salimans 2022), in a batch."""
    if weight == 0:
        return lambda z, step: denoiser(z, step.reshape(1), bins, condition)
    both = torch.cat([condition, torch.zeros_like(condition)])

    def predict(z: Tensor, step: Tensor) -> Tensor:
        twice, steps, index = torch.cat([z, z]), step.expand(2), bins.expand(2, -1)
        conditional, free = denoiser(twice, steps, index, both).chunk(2)
        return conditional + weight * (conditional - free)

    return predict
