"""Bilinear resizing as TensorFlow 1 did it, which the published FID and FVD numbers rest on."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, arange

__all__ = ["resize_bilinear"]


def resize_bilinear(
    images: Float[Tensor, "*batch height width"], *, height: int, width: int
) -> Float[Tensor, "*batch new_height new_width"]:
    """Resize with output pixel i sampled at ``i · old / new``, without antialiasing.

    Pixel centres are not aligned and shrinking skips pixels. Both are flaws, kept because the
    reference implementations of FID (2017) and FVD (2018) have them: other resizing moves a score
    by more than methods differ.

    Example:
        >>> import torch
        >>> resize_bilinear(torch.tensor([[0.0, 1.0]]), height=1, width=4)
        tensor([[0.0000, 0.5000, 1.0000, 1.0000]])
    """
    return _along(_along(images, width, -1), height, -2)


def _along(images: Tensor, size: int, axis: int) -> Tensor:
    old = images.shape[axis]
    if old == size:
        return images
    at = arange(size, device=images.device, dtype=images.dtype) * (old / size)
    low = at.long().clamp(max=old - 1)
    weight = (at - low).reshape(-1, *[1] * (-axis - 1))
    near = images.index_select(axis, low)
    far = images.index_select(axis, (low + 1).clamp(max=old - 1))
    return near.lerp(far, weight.expand_as(near))
