"""Guidance: how predictions are combined or pushed while sampling.

Source: Li et al. 2024, section 4: ``(1 + w) ε(z; c) − w ε(z; ∅) + u σ ∇_z L``. Departures: the
loss of a loop is relative to the motion itself, and its gradient need not pass the network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from gidlite.diffusion import signal_levels
from gidlite.loops import loop_gap
from gidlite.spectral import power_spectrum

__all__ = ["classifier_free_guidance", "loop_guidance", "loop_loss"]

Predict = Callable[[Tensor, Tensor], Tensor]


def classifier_free_guidance(
    conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], *, weight: float
) -> Float[Tensor, "*shape"]:
    """Return ``(1 + w) ε(z; c) − w ε(z; ∅)``; weight 0 is the conditional estimate alone.

    Source: Ho and Salimans 2022, in the form of Li et al. 2024, section 4 (w = 1.75 there).

    Example:
        >>> import torch
        >>> classifier_free_guidance(torch.tensor([2.0]), torch.tensor([1.0]), weight=0.5)
        tensor([2.5000])
    """
    return conditional + weight * (conditional - unconditional)


def loop_loss(
    spectral: Complex[Tensor, "*batch freq 2 height width"],
    *,
    num_frames: int,
    loop_frames: float,
    orders: tuple[int, ...] = (0, 1),
) -> Float[Tensor, ""]:
    """Return ``mean |F_N − F_0| + mean |v_N − v_0|``, each over what unrelated times differ by.

    That is √2 times the RMS of position, or of velocity, over all pixels and times, so that the
    loss is about 0.5 to 0.8 an order for any motion that knows nothing of the loop, calm or
    lively, and 0 for a loop. Were the paper's u = 200 the factor of a mean in pixels, it would be
    200 × that RMS / n as the weight of ``loop_guidance``, n the number of latents: about 0.001.
    The divisors are constants to the gradient, or stillness would be rewarded less than it is.

    Args:
        spectral: Spectral volume in px.
        num_frames: T.
        loop_frames: N, fractional allowed.
        orders: Derivatives compared: 0 position, 1 velocity, 2 acceleration.
    """
    gap = loop_gap(spectral, num_frames=num_frames, loop_frames=loop_frames, orders=orders)
    power = power_spectrum(spectral.detach()).double()
    speed = 2 * torch.pi / num_frames * torch.arange(power.shape[-1]).to(power)
    sizes = [(4 * (power * speed ** (2 * d))[..., 1:].sum(-1)).mean().sqrt() for d in orders]
    means = gap.abs().mean((-3, -2, -1)).reshape(-1, len(orders)).mean(0)
    return sum(mean / size.clamp(min=1e-12) for mean, size in zip(means, sizes, strict=True)).to(
        gap
    )


def loop_guidance(
    predict: Predict,
    to_spectral: Callable[[Tensor], Tensor],
    *,
    weight: float,
    prediction_type: str,
    num_frames: int,
    loop_frames: float,
    through_network: bool = False,
) -> Predict:
    """Return the prediction pushed towards a loop of N frames; weight 0 returns ``predict``.

    The noise estimate gains ``u σ n ∇_z L``, where L is the loss of the clean latents that z and
    the prediction imply, and n their number, so that u does not depend on the size of the photo.

    Args:
        predict: Prediction as a function of (latents, step).
        to_spectral: Clean latents → spectral volume in px, differentiable.
        weight: u; 0.001 nudges, 0.01 closes most of the gap and costs a third of the motion.
        prediction_type: What ``predict`` returns: "v_prediction" or "epsilon".
        num_frames: T.
        loop_frames: N.
        through_network: Whether the gradient passes the network. If not, the network counts as
            the best denoiser of white latents, whose estimate moves by the signal level α per
            unit of z: half the time, the same trade of amplitude for gap (notebook 07). Through
            the network, u must be about 100 times smaller, or sampling diverges.
    """
    if weight == 0:
        return predict
    is_v = prediction_type == "v_prediction"

    def guided(z: Tensor, step: Tensor) -> Tensor:
        signal = signal_levels(z.device)[step.long()]
        noise = (1 - signal.square()).sqrt()
        with torch.enable_grad():
            z = z.detach().requires_grad_(through_network)
            prediction = predict(z, step) if through_network else _still(predict, z, step)
            clean = signal * z - noise * prediction if is_v else (z - noise * prediction) / signal
            wanted = z if through_network else clean.requires_grad_()
            loss = loop_loss(to_spectral(clean), num_frames=num_frames, loop_frames=loop_frames)
            (gradient,) = torch.autograd.grad(loss, wanted)
        push = weight * noise * z.numel() * gradient * (1 if through_network else signal)
        # ε + push, in terms of v = α ε − σ x and x = (z − σ ε) / α.
        return prediction.detach() + (push / signal if is_v else push)

    return guided


@torch.no_grad()
def _still(predict: Predict, z: Tensor, step: Tensor) -> Tensor:
    return predict(z, step)
