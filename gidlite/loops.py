"""Loops of any length at natural speed: when a Fourier series comes back early, and how to make it.

A volume of T frames repeats after T by construction. A loop of N frames that is no whole number
of periods also needs ``F_N = F_0`` in position and in velocity: two linear equations for each
coordinate of each pixel, with the same coefficients everywhere. The loss is that of Li et al.
2024, section 4 (looping). Departure: what the equations demand can be had exactly, without
sampling anew; which is better is measured in lesson 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gidlite.errors import check_shape, require
from gidlite.motion.spectral import Spectral, derivative_basis, power_spectrum

Predict = Callable[[Tensor, Tensor], Tensor]
_ROUNDING = 1e-9  # relative error of phases after many periods, and of small matrices


def _equations(
    loop_frames: float, orders: tuple[int, ...], num_frequencies: int, num_frames: int
) -> Float[Tensor, "orders coefficients"]:
    """Return one row per order: its product with the coefficients is the gap at the seam."""
    good = math.isfinite(loop_frames) and loop_frames > 0
    require(good, f"loop length is {loop_frames} frames; it must be a positive number")
    ends = torch.tensor([0.0, loop_frames], dtype=torch.float64)
    size = {"num_frequencies": num_frequencies, "num_frames": num_frames}
    rows = []
    for order in orders:
        start, end = derivative_basis(ends, order=order, **size)
        # A whole period leaves only rounding errors, which are no equation.
        certain = (end - start).abs() > _ROUNDING * start.abs().max().clamp(min=1e-300)
        rows.append(torch.where(certain, end - start, 0))
    return torch.stack(rows)


def loop_gap(
    spectral: Spectral, *, num_frames: int, loop_frames: float, orders: tuple[int, ...] = (0, 1)
) -> Float[Tensor, "*batch orders 2 height width"]:
    """Return what a loop of N frames lacks: ``F_N − F_0`` in px, ``v_N − v_0`` in px per frame.

    N, ``loop_frames``, may be fractional; ``orders`` are the derivatives to compare.
    """
    check_shape("spectral", spectral, "... freq 2 height width")
    rows, parts = _equations(loop_frames, orders, spectral.shape[-4], num_frames), _parts(spectral)
    return torch.einsum("dk,...kchw->...dchw", rows.to(parts), parts)


def close_loop(
    spectral: Spectral,
    *,
    num_frames: int,
    loop_frames: float,
    orders: tuple[int, ...] = (0, 1),
    exponent: float = 0.5,
    keep_amplitude: bool = True,
) -> Spectral:
    """Return the nearest volume whose motion comes back to itself after ``loop_frames``, N.

    N is positive and may be fractional; at a multiple of T nothing changes. ``orders`` are the
    derivatives that must agree at the seam. F_0 stays what it was, and ``keep_amplitude`` restores
    the RMS motion with one factor.

    The change is least in the norm ``Σ_k |ΔS_k|² / P_k^exponent``, with P_k the power of bin k.
    Exponent 0 is the plain nearest volume, which gives fast bins motion they never had. With 1,
    each bin gives in proportion to what it has, which makes a Gaussian draw from all motions one
    from the loops among them (Matheron's rule), which move less. One half keeps the spectrum best.
    One matrix serves all pixels and both coordinates: shapes and directions of motion stay.
    """
    check_shape("spectral", spectral, "... freq 2 height width")
    bins = spectral.shape[-4]
    rows = _equations(loop_frames, orders, bins, num_frames).to(spectral.device)
    if not rows.any():
        return spectral
    power = power_spectrum(spectral).double()
    matrix = _projection(rows, torch.cat([power, power], dim=-1) ** exponent)
    parts = _parts(spectral)
    closed = torch.einsum("...jk,...kchw->...jchw", matrix.to(parts), parts)
    closed = torch.complex(*closed.chunk(2, dim=-4))
    if keep_amplitude:
        left = power_spectrum(closed).double()[..., 1:].sum(-1)
        factor = (power[..., 1:].sum(-1) / left.clamp(min=torch.finfo(left.dtype).tiny)).sqrt()
        closed = closed * factor.to(parts)[..., None, None, None, None]
    start = derivative_basis(rows.new_zeros(1), num_frequencies=bins, num_frames=num_frames)[0]
    shift = torch.einsum("k,...kchw->...chw", start.to(parts), parts - _parts(closed))
    closed[..., 0, :, :, :] += shift
    return closed


def _parts(spectral: Tensor) -> Tensor:
    return torch.cat([spectral.real, spectral.imag], dim=-4)


def _projection(
    rows: Float[Tensor, "orders coefficients"], variance: Float[Tensor, "*batch coefficients"]
) -> Float[Tensor, "*batch coefficients coefficients"]:
    """Return ``1 − Σ Aᵀ (A Σ Aᵀ)⁺ A`` for equations A and a diagonal Σ."""
    given = rows * variance[..., None, :]
    gram = given @ rows.mT
    size = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    size = torch.where(size > 0, size, 1)
    scale = size[..., :, None] * size[..., None, :]
    inverse = torch.linalg.pinv(gram / scale, rtol=_ROUNDING, hermitian=True) / scale
    return torch.eye(rows.shape[1]).to(rows) - given.mT @ inverse @ rows


def whole_periods(loop_frames: float, *, num_frames: int) -> int:
    """Return how many whole periods come within 10 %, a change of speed not seen, or 0."""
    periods = round(loop_frames / num_frames)
    near = periods > 0 and abs(loop_frames / (periods * num_frames) - 1) <= 0.1
    return periods if near else 0


def loop_loss(spectral: Spectral, *, num_frames: int, loop_frames: float) -> Float[Tensor, ""]:
    """Return ``mean |F_N − F_0| + mean |v_N − v_0|``, each over what unrelated times differ by.

    That is √2 times the RMS of position, or of velocity, over all pixels and times, so that each
    term is 0 for a loop and about 0.5 to 0.8 for motion that knows nothing of it, calm or lively.
    The paper's u = 200, if for a mean in pixels, is about 0.001 as ``loop_guidance`` weighs. To
    the gradient the divisors are constants, or stillness would be rewarded less than it is.

    Departure: the paper's second term is ``|∇F_T − ∇F_1|``, with ∇ read as the spatial gradient.
    That agrees wherever positions do; but motion that returns with another velocity jerks.
    """
    gap = loop_gap(spectral, num_frames=num_frames, loop_frames=loop_frames)
    power = power_spectrum(spectral.detach()).double()
    speed = 2 * torch.pi / num_frames * torch.arange(power.shape[-1]).to(power)
    means = gap.abs().mean((-3, -2, -1)).reshape(-1, 2).mean(0)
    squares = (4 * (power * speed**n)[..., 1:].sum(-1) for n in (0, 2))
    sizes = torch.stack([square.mean().sqrt() for square in squares])
    return (means / sizes.clamp(min=1e-12)).sum().to(gap)


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
    """Return the prediction ("v_prediction" or "epsilon") pushed towards a loop of N frames.

    The noise estimate gains ``u σ n ∇_z L``, where L is the loss of the clean latents that z and
    the prediction imply, and n their number, so that u does not depend on the size of the photo.
    Of weights u, 0.001 nudges, and 0.01 closes most of the gap and costs a third of the motion.
    ``to_spectral`` takes clean latents to px and is differentiable.

    Unless the gradient passes through the network, that counts as the best denoiser of white
    latents, whose estimate moves by the signal level α per unit of z: half the time for the same
    (lesson 10). Through the network, u must be about 100 times smaller, or sampling diverges.
    """
    from gidlite.prior.diffusion import signal_levels  # loads diffusers, which closing does without

    if weight == 0:
        return predict
    is_v = prediction_type == "v_prediction"

    def guided(z: Tensor, step: Tensor) -> Tensor:
        signal = signal_levels(z.device)[step.long()]
        noise = (1 - signal.square()).sqrt()
        z = z.detach().requires_grad_(through_network)
        with torch.set_grad_enabled(through_network):
            prediction = predict(z, step)
        with torch.enable_grad():
            clean = signal * z - noise * prediction if is_v else (z - noise * prediction) / signal
            wanted = z if through_network else clean.requires_grad_()
            loss = loop_loss(to_spectral(clean), num_frames=num_frames, loop_frames=loop_frames)
            (gradient,) = torch.autograd.grad(loss, wanted)
        push = weight * noise * z.numel() * gradient * (1 if through_network else signal)
        # ε + push, in terms of v = α ε − σ x and x = (z − σ ε) / α.
        return prediction.detach() + (push / signal if is_v else push)

    return guided
