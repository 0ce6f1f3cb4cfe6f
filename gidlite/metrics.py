"""How far pictures and motions are from the truth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from gidlite._checks import ShapeError

__all__ = ["auc", "endpoint_error", "psnr", "ssim"]


def _same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ShapeError(
            f"expected equal shapes, got {tuple(first.shape)} and {tuple(second.shape)}"
        )


def psnr(image: Float[Tensor, "*shape"], reference: Float[Tensor, "*shape"]) -> float:
    """Return the peak signal-to-noise ratio in dB of values in [0, 1]; infinite if equal.

    Example:
        >>> round(psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1)), 3)
        20.0
    """
    _same_shape(image, reference)
    return (-10 * (image - reference).square().mean().log10()).item()


def ssim(
    image: Float[Tensor, "*batch 3 height width"], reference: Float[Tensor, "*batch 3 height width"]
) -> float:
    """Return mean structural similarity, at most 1, over an 11×11 Gaussian window (σ = 1.5).

    Source: Wang et al. 2004, with their constants; channels are averaged.
    """
    _same_shape(image, reference)
    line = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    window = (torch.outer(line, line) / line.sum() ** 2).to(image)[None, None]
    blur = lambda x: functional.conv2d(x, window)  # noqa: E731
    x, y = (z.reshape(-1, 1, *z.shape[-2:]) for z in (image, reference))
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return (top / bottom).mean().item()


def endpoint_error(
    motion: Float[Tensor, "*batch 2 height width"], truth: Float[Tensor, "*batch 2 height width"]
) -> float:
    """Return the mean Euclidean distance between two displacement fields, in px."""
    _same_shape(motion, truth)
    return (motion - truth).norm(dim=-3).mean().item()


def auc(score: Float[Tensor, "*shape"], positive: Tensor) -> float:
    """Return the area under the ROC curve: how often a positive outranks a negative.

    Ties count half (the Mann–Whitney statistic).

    Example:
        >>> auc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True]))
        0.875
    """
    _same_shape(score, positive)
    ordered, order = score.flatten().double().sort()
    _, groups, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = (last - (counts - 1) / 2)[groups]
    chosen = positive.flatten()[order]
    n, m = int(chosen.sum()), int((~chosen).sum())
    if n == 0 or m == 0:
        return float("nan")
    return ((ranks[chosen].sum() - n * (n + 1) / 2) / (n * m)).item()
