"""Guidance: how predictions are combined or pushed while sampling."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

__all__ = ["classifier_free_guidance"]


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
