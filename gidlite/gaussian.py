"""The exact denoiser of a Gaussian field: what a network need not learn.

How strongly neighbouring places move alike is a power spectrum, and for a Gaussian field with a
known spectrum the best denoiser is known, too (Wiener): every spatial mode is shrunk by its own
signal-to-noise ratio. The network starts from it and learns the rest: where parts end, and how
they move together. Our departure from Li et al. 2024; measured in notebook 04.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

__all__ = ["GaussianField", "cosine_transform"]

# Spatial frequencies, in cycles per cell, between which the spectrum is interpolated.
_KNOTS = (0.0, *torch.logspace(math.log10(1 / 128), math.log10(0.7072), 13).tolist())
_LEAST_POWER = 1e-4


@functools.cache
def _cosines(size: int, device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II matrix, one mode a row."""
    mode = torch.arange(size, dtype=torch.float64)[:, None]
    place = torch.arange(size, dtype=torch.float64) + 0.5
    rows = torch.cos(math.pi / size * mode * place) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float().to(device)


def cosine_transform(
    field: Float[Tensor, "*batch rows columns"], *, inverse: bool = False
) -> Float[Tensor, "*batch rows columns"]:
    """Return the orthonormal 2D cosine transform: white noise stays white, borders reflect."""
    down, across = (_cosines(size, field.device) for size in field.shape[-2:])
    return down.mT @ field @ across if inverse else down @ field @ across.mT


class GaussianField(nn.Module):
    """Zero-mean Gaussian slices with a spatial power spectrum per bin and channel; white at first.

    Args:
        num_frequencies: K.
    """

    def __init__(self, num_frequencies: int) -> None:
        super().__init__()
        self.register_buffer("log_power", torch.zeros(num_frequencies, 4, len(_KNOTS)))

    def power(self, rows: int, columns: int) -> Float[Tensor, "freq 4 rows columns"]:
        """Return the variance of every cosine mode, at any size."""
        return (
            (self.log_power.float() @ self._hats(rows, columns).flatten(1))
            .exp()
            .unflatten(-1, (rows, columns))
        )

    def _hats(self, rows: int, columns: int) -> Float[Tensor, "knots rows columns"]:
        """Return the weight of every knot in every mode, linear in log frequency."""
        device = self.log_power.device
        down = torch.arange(rows, device=device)[:, None] / (2 * rows)
        across = torch.arange(columns, device=device) / (2 * columns)
        place = torch.log((down.square() + across.square()).sqrt() + _KNOTS[1] / 2)
        knots = torch.log(torch.tensor(_KNOTS, device=device) + _KNOTS[1] / 2)
        upper = torch.bucketize(place, knots).clamp(1, len(knots) - 1)
        share = ((place - knots[upper - 1]) / (knots[upper] - knots[upper - 1])).clamp(0, 1)
        hats = torch.zeros(len(knots), rows, columns, device=device)
        hats.scatter_(0, upper[None], share[None])
        return hats.scatter_(0, upper[None] - 1, 1 - share[None])

    @torch.no_grad()
    def fit(
        self,
        latents: Float[Tensor, "batch freq 4 rows columns"],
        reliable: Bool[Tensor, "batch rows columns"],
    ) -> None:
        """Measure the spectrum on examples, weighted by how much of each can be trusted.

        What cannot be trusted counts as 0, and the power it would have had is made up for.
        """
        share = reliable.float().mean((1, 2))
        known = torch.where(reliable[:, None, None], latents.float(), 0)
        power = cosine_transform(known).square().sum(0) / share.sum().clamp(min=1)
        hats = self._hats(*latents.shape[-2:])
        weight = hats.sum((1, 2))
        pooled = torch.einsum("kcij,nij->kcn", power, hats) / weight.clamp(min=1e-6)
        pooled = pooled.clamp(min=_LEAST_POWER).log()
        # A small grid has no modes near some knots; they take after their neighbours.
        known = (weight > 1e-3).nonzero()[:, 0].cpu()
        filled = [
            np.interp(np.arange(len(_KNOTS)), known, row)
            for row in pooled.flatten(0, 1)[:, known].cpu()
        ]
        self.log_power.copy_(torch.tensor(np.array(filled)).view_as(self.log_power))

    def denoise(
        self,
        noisy: Float[Tensor, "batch freq 4 rows columns"],
        freq_index: Int[Tensor, "batch freq"],
        signal: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch freq 4 rows columns"]:
        """Return the expected clean slices.

        Args:
            noisy: ``signal`` × clean + ``√(1 − signal²)`` × white noise.
            freq_index: Which bins they are.
            signal: Share of the clean slices, 0–1.
        """
        with torch.autocast(noisy.device.type, enabled=False):  # powers span many decades
            power = self.power(*noisy.shape[-2:])[freq_index]
            signal = signal.float().reshape(-1, 1, 1, 1, 1)
            gain = signal * power / (signal.square() * power + 1 - signal.square()).clamp(min=1e-8)
            return cosine_transform(gain * cosine_transform(noisy.float()), inverse=True)

    def draw_noisy(
        self,
        noise: Float[Tensor, "batch freq 4 rows columns"],
        freq_index: Int[Tensor, "batch freq"],
        signal: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch freq 4 rows columns"]:
        """Return a draw of noisy slices, made from white noise of the same shape."""
        power = self.power(*noise.shape[-2:])[freq_index]
        signal = signal.float().reshape(-1, 1, 1, 1, 1)
        deviation = (signal.square() * power + 1 - signal.square()).sqrt()
        return cosine_transform(deviation * cosine_transform(noise), inverse=True)
