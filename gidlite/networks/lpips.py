"""LPIPS: how different two pictures look, as distances between features of AlexNet."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gidlite._checks import ShapeError, check_shape

__all__ = ["LEAST_SIDE", "Lpips"]

# Smaller pictures leave nothing for the last pooling.
LEAST_SIDE = 31
_CHANNELS = (64, 192, 384, 256, 256)
# ImageNet statistics, for pixels in [-1, 1] instead of [0, 1], rounded as LPIPS was trained with.
_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)


def _alexnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
    )  # fmt: skip


class _Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        # Dropout, as in training, keeps the names of the published weights.
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, gap: Tensor) -> Tensor:
        """Return the weighted sum over channels, averaged over the picture."""
        return self.model(gap).mean((1, 2, 3))


def _unit(x: Tensor) -> Tensor:
    """Return features scaled to length 1 at every place; where all are 0, they stay 0."""
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)


class Lpips(nn.Module):
    """Perceptual distance of pictures; always in evaluation mode, gradients reach the pictures.

    Layer names are those of torchvision and of the published heads, so that both load.

    Reference:
        Zhang et al. 2018, version 0.1 ("lin", AlexNet).
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = _alexnet()
        for number, channels in enumerate(_CHANNELS):
            self.add_module(f"lin{number}", _Head(channels))
        self.eval()

    def train(self, mode: bool = True) -> Lpips:
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    def taps(self, images: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        """Return features after each of the five ReLUs, of length 1, for pixels in [0, 1]."""
        mean, deviation = (images.new_tensor(v)[:, None, None] for v in (_MEAN, _DEVIATION))
        x = (2 * images - 1 - mean) / deviation
        found = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(_unit(x))
        return found

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        others: Float[Tensor, "batch 3 height width"],
    ) -> Float[Tensor, " batch"]:
        """Return the distance of each pair, 0 for equal pictures; pixels in [0, 1].

        Raises:
            ShapeError: If the shapes differ, or a side is under 31 pixels.
        """
        check_shape("images", images, "batch 3 height width")
        if images.shape != others.shape or min(images.shape[-2:]) < LEAST_SIDE:
            raise ShapeError(
                f"LPIPS compares pictures of one shape, {LEAST_SIDE} pixels a side at least, got "
                f"{tuple(images.shape)} and {tuple(others.shape)}"
            )
        total = images.new_zeros(len(images))
        for number, (a, b) in enumerate(zip(self.taps(images), self.taps(others), strict=True)):
            total = total + self.get_submodule(f"lin{number}")((a - b).square())
        return total
