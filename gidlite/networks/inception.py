"""InceptionV3 of 2015-12-05, whose features FID and KID are defined on.

Layer names are those of torch-fidelity, so that its weights load. Three blocks pool differently
from torchvision's Inception: that is how this checkpoint was trained.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from gidlite._checks import GidliteError
from gidlite.networks.resize import resize_bilinear

__all__ = ["Inception"]

_SIDE = 299
# Where features of each size are read: after which layer.
_TAPS = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e", 2048: "Mixed_7c"}
_POOLS = {
    "average": lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "max": lambda x: functional.max_pool2d(x, 3, 1, 1),
    "halve": lambda x: functional.max_pool2d(x, 3, 2),
}


class _Conv(nn.Module):
    """Convolution, batch normalization, ReLU; "same" padding unless told otherwise."""

    def __init__(self, channels: int, out: int, kernel, stride: int = 1, pad=None) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        if pad is None:
            pad = tuple(side // 2 for side in sides) if stride == 1 else 0
        self.conv = nn.Conv2d(channels, out, sides, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same or half the size."""
        return functional.relu(self.bn(self.conv(x)), inplace=True)


class _Mixed(nn.Module):
    """Branches side by side, concatenated.

    A branch is a sequence of steps: the name of a pool, ``(name, channels, kernel[, stride])``, or
    a list of two such convolutions that both see the same input and are concatenated.
    """

    def __init__(self, channels: int, *branches: tuple) -> None:
        super().__init__()
        self.branches: list[list[list[str]]] = []
        for branch in branches:
            width, names = channels, []
            for step in branch:
                parts = step if isinstance(step, list) else [step]
                names.append([part if isinstance(part, str) else part[0] for part in parts])
                width = self._build(parts, width)
            self.branches.append(names)

    def _build(self, parts: list, width: int) -> int:
        """Make the convolutions of one step and return how many channels come out."""
        if isinstance(parts[0], str):
            return width
        for name, *shape in parts:
            self.add_module(name, _Conv(width, *shape))
        return sum(part[1] for part in parts)

    def _run(self, names: list[str], x: Tensor) -> Tensor:
        if names[0] in _POOLS:
            return _POOLS[names[0]](x)
        return torch.cat([self.get_submodule(name)(x) for name in names], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return all branches along the channels."""
        outputs = []
        for branch in self.branches:
            y = x
            for names in branch:
                y = self._run(names, y)
            outputs.append(y)
        return torch.cat(outputs, 1)


def _mixed_5(channels: int, pooled: int) -> _Mixed:
    return _Mixed(
        channels,
        (("branch1x1", 64, 1),),
        (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
        ("average", ("branch_pool", pooled, 1)),
    )


def _mixed_6a() -> _Mixed:
    return _Mixed(
        288,
        (("branch3x3", 384, 3, 2),),
        (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)),
        ("halve",),
    )


def _mixed_6(inner: int) -> _Mixed:
    wide, tall = (1, 7), (7, 1)
    return _Mixed(
        768,
        (("branch1x1", 192, 1),),
        (("branch7x7_1", inner, 1), ("branch7x7_2", inner, wide), ("branch7x7_3", 192, tall)),
        (
            ("branch7x7dbl_1", inner, 1), ("branch7x7dbl_2", inner, tall),
            ("branch7x7dbl_3", inner, wide), ("branch7x7dbl_4", inner, tall),
            ("branch7x7dbl_5", 192, wide),
        ),
        ("average", ("branch_pool", 192, 1)),
    )  # fmt: skip


def _mixed_7a() -> _Mixed:
    return _Mixed(
        768,
        (("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)),
        (
            ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)),
            ("branch7x7x3_3", 192, (7, 1)), ("branch7x7x3_4", 192, 3, 2),
        ),
        ("halve",),
    )  # fmt: skip


def _mixed_7(channels: int, pool: str) -> _Mixed:
    wide, tall = (1, 3), (3, 1)
    return _Mixed(
        channels,
        (("branch1x1", 320, 1),),
        (
            ("branch3x3_1", 384, 1),
            [("branch3x3_2a", 384, wide), ("branch3x3_2b", 384, tall)],
        ),
        (
            ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3),
            [("branch3x3dbl_3a", 384, wide), ("branch3x3dbl_3b", 384, tall)],
        ),
        (pool, ("branch_pool", 192, 1)),
    )  # fmt: skip


class Inception(nn.Module):
    """Features of images for FID and KID; always in evaluation mode, without gradients.

    Args:
        num_features: 64, 192, 768 or 2048: where features are read. FID means 2048.

    Raises:
        GidliteError: If there are no features of that size.

    Reference:
        Szegedy et al. 2016; the checkpoint of Heusel et al. 2017 (FID).
    """

    def __init__(self, num_features: int = 2048) -> None:
        super().__init__()
        if num_features not in _TAPS:
            raise GidliteError(f"Inception has features of size {list(_TAPS)}, not {num_features}")
        self.num_features = num_features
        layers: dict[str, nn.Module] = {
            "Conv2d_1a_3x3": _Conv(3, 32, 3, 2),
            "Conv2d_2a_3x3": _Conv(32, 32, 3, pad=0),
            "Conv2d_2b_3x3": _Conv(32, 64, 3),
            "MaxPool_1": nn.MaxPool2d(3, 2),
            "Conv2d_3b_1x1": _Conv(64, 80, 1),
            "Conv2d_4a_3x3": _Conv(80, 192, 3, pad=0),
            "MaxPool_2": nn.MaxPool2d(3, 2),
            "Mixed_5b": _mixed_5(192, 32),
            "Mixed_5c": _mixed_5(256, 64),
            "Mixed_5d": _mixed_5(288, 64),
            "Mixed_6a": _mixed_6a(),
            "Mixed_6b": _mixed_6(128),
            "Mixed_6c": _mixed_6(160),
            "Mixed_6d": _mixed_6(160),
            "Mixed_6e": _mixed_6(192),
            "Mixed_7a": _mixed_7a(),
            "Mixed_7b": _mixed_7(1280, "average"),
            "Mixed_7c": _mixed_7(2048, "max"),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.eval()

    def train(self, mode: bool = True) -> Inception:
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    @torch.inference_mode()
    def forward(
        self, images: UInt8[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return features averaged over the picture."""
        x = resize_bilinear(images.float(), height=_SIDE, width=_SIDE)
        return self.features((x - 128) / 128)

    @torch.inference_mode()
    def features(self, x: Float[Tensor, "batch 3 299 299"]) -> Float[Tensor, "batch features"]:
        """Return features of pixels that are already scaled, to [-1, 1)."""
        for name, layer in self.named_children():
            x = layer(x)
            if name == _TAPS[self.num_features]:
                break
        return x.mean((-2, -1))
