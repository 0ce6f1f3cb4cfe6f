"""I3D on RGB, trained on Kinetics-400, whose averaged logits FVD is defined on."""

from __future__ import annotations

from functools import reduce

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from gidlite._checks import GidliteError, check_shape
from gidlite.networks.resize import resize_bilinear

__all__ = ["I3D", "LEAST_FRAMES"]

# Three halvings in time, then an average over two steps.
LEAST_FRAMES = 9
_SIDE = 224
# Channels of the branches of each block: 1×1, reduced and 3×3×3 twice, pooled.
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# Max pools before a block: kernel and stride over (time, height, width).
_POOLED = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def _pad_same(x: Tensor, kernel, stride) -> Tensor:
    """Pad with zeros so that the output has ``ceil(size / stride)``; the odd one goes last."""
    padding: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding += [total // 2, total - total // 2]
    return functional.pad(x, padding)


def _max_pool(x: Tensor, kernel, stride) -> Tensor:
    """Pool one axis at a time: many times faster on a CPU than ``max_pool3d``.

    The input comes from a ReLU, so that padding with zeros is padding with nothing.
    """
    x = _pad_same(x, kernel, stride)
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
        count = (x.shape[axis] - k) // s + 1
        steps = [x.narrow(axis, i, (count - 1) * s + 1) for i in range(k)]
        if s > 1:
            steps = [part[(slice(None),) * axis + (slice(None, None, s),)] for part in steps]
        x = reduce(torch.maximum, steps)
    return x


class _Unit(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch normalization, ReLU."""

    def __init__(self, channels: int, out: int, side: int, stride: int = 1) -> None:
        super().__init__()
        inside = side // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(channels, out, side, stride, inside, bias=False)
        self.bn = nn.BatchNorm3d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same or half the size."""
        if self.conv3d.stride != (1, 1, 1):
            x = _pad_same(x, self.conv3d.kernel_size, self.conv3d.stride)
        return functional.relu(self.bn(self.conv3d(x)), inplace=True)


class _Mixed(nn.Module):
    """Four branches side by side, concatenated."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = _Unit(channels, widths[0], 1)
        self.b1a, self.b1b = _Unit(channels, widths[1], 1), _Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = _Unit(channels, widths[3], 1), _Unit(widths[3], widths[4], 3)
        self.b3b = _Unit(channels, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return all branches along the channels."""
        pooled = _max_pool(x, (3, 3, 3), (1, 1, 1))
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled))
        return torch.cat(branches, 1)


class _Logits(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits averaged over time; the head is linear, so averaging first is the same."""
        return self.conv3d(x.mean(2, keepdim=True)).flatten(1)


class I3D(nn.Module):
    """Logits of video clips for FVD; always in evaluation mode, without gradients.

    Args:
        classes: Number of logits; 400 for Kinetics-400.

    Reference:
        Carreira and Zisserman 2017; its use in FVD: Unterthiner et al. 2018.
    """

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.num_features = classes
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = _Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        channels = 192
        for name, widths in _MIXED.items():
            self.add_module(name, _Mixed(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = _Logits(classes)
        self.eval()

    def train(self, mode: bool = True) -> I3D:
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    @torch.inference_mode()
    def pooled(
        self, clips: Float[Tensor, "batch 3 time 224 224"]
    ) -> Float[Tensor, "batch 1024 steps 1 1"]:
        """Return what the logits are computed from, for values in [-1, 1].

        Raises:
            GidliteError: If there are fewer than 9 frames.
        """
        check_shape("clips", clips, f"batch 3 time {_SIDE} {_SIDE}")
        if clips.shape[2] < LEAST_FRAMES:
            raise GidliteError(f"I3D needs {LEAST_FRAMES} frames at least, got {clips.shape[2]}")
        x = clips
        for name, layer in self.named_children():
            if name in _POOLED:
                x = _max_pool(x, *_POOLED[name])
            if name != "logits":
                x = layer(x)
        return functional.avg_pool3d(x, (2, 7, 7), 1)

    def forward(
        self, clips: UInt8[Tensor, "batch time 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return averaged logits of clips, each frame squeezed to 224 × 224."""
        with torch.inference_mode():
            x = resize_bilinear(clips.float(), height=_SIDE, width=_SIDE)
            x = (x / 255 * 2 - 1).transpose(1, 2).contiguous()
            return self.logits(self.pooled(x))
