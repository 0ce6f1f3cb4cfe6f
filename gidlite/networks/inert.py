"""Reads the numbers out of a pickle without running it.

A pickle is a program: loading one may call anything. Here its opcodes are followed on an inert
stack, where what would be a call becomes a record of the call. Arrays are then cut out of the
records by their dtype and shape; anything else stays a record.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from gidlite._checks import GidliteError

__all__ = ["Call", "read_array_tree", "read_torch_tree"]

_STORAGE_DTYPES = {
    "torch FloatStorage": "<f4", "torch HalfStorage": "<f2", "torch DoubleStorage": "<f8",
    "torch LongStorage": "<i8",
}  # fmt: skip

_CONSTANTS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING",
}  # fmt: skip


@dataclass
class Call:
    """What a pickle would have called; ``name`` is "module attribute".

    Attributes:
        name: What would be imported.
        args: What it would be called with.
        state: What the result would then be given, if anything.
    """

    name: str
    args: tuple = ()
    state: Any = field(default=None)


def read_array_tree(stream: BinaryIO) -> dict[str, np.ndarray]:
    """Return the arrays of a pickled nested dictionary of NumPy arrays by dotted path.

    Raises:
        GidliteError: If the file is not such a pickle.
    """
    return _flatten(_follow(stream), _numpy_array)


def read_torch_tree(stream: BinaryIO) -> dict[str, np.ndarray]:
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
        tree = _follow(pickled)
    return _flatten(tree, lambda call: _torch_tensor(call, archive, folder))


def _flatten(
    tree: Any, convert: Callable[[Call], np.ndarray | None], prefix: str = ""
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
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
    dtype = np.dtype(_STORAGE_DTYPES[kind.name])
    flat = np.frombuffer(archive.read(str(folder / "data" / key)), dtype)
    count = math.prod(shape)
    if tuple(stride) != tuple(math.prod(shape[i + 1 :]) for i in range(len(shape))):
        raise GidliteError("the file holds tensors that are not contiguous; it is not used")
    return flat[offset : offset + count].reshape(shape)


class _Stack:
    """A pickle machine that builds containers and constants, and records calls."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        taken, self.items[start:] = self.items[start:], []
        return taken

    def take(self, count: int) -> list[Any]:
        taken, self.items[-count:] = self.items[-count:], []
        return taken

    def pairs_into(self, target: dict, flat: list[Any]) -> None:
        target.update(zip(flat[::2], flat[1::2], strict=True))

    def do(self, name: str, arg: Any) -> None:
        """Follow one opcode."""
        action = getattr(self, f"_{name.lower()}", None)
        if name in _CONSTANTS:
            self.items.append(arg)
        elif action is not None:
            action(arg)
        else:
            raise GidliteError(f"the pickle uses {name}, which plain data does not need")

    def _proto(self, arg: int | None) -> None:
        pass

    _frame = _stop = _proto

    def _mark(self, arg: None) -> None:
        self.marks.append(len(self.items))

    def _memoize(self, arg: None) -> None:
        self.memo[len(self.memo)] = self.items[-1]

    def _binput(self, arg: int) -> None:
        self.memo[arg] = self.items[-1]

    _long_binput = _put = _binput

    def _binget(self, arg: int) -> None:
        self.items.append(self.memo[arg])

    _long_binget = _get = _binget

    def _none(self, arg: None) -> None:
        self.items.append(None)

    def _newtrue(self, arg: None) -> None:
        self.items.append(True)

    def _newfalse(self, arg: None) -> None:
        self.items.append(False)

    def _empty_dict(self, arg: None) -> None:
        self.items.append({})

    def _empty_list(self, arg: None) -> None:
        self.items.append([])

    def _empty_tuple(self, arg: None) -> None:
        self.items.append(())

    def _tuple(self, arg: None) -> None:
        self.items.append(tuple(self.since_mark()))

    def _tuple1(self, arg: None) -> None:
        self.items.append(tuple(self.take(1)))

    def _tuple2(self, arg: None) -> None:
        self.items.append(tuple(self.take(2)))

    def _tuple3(self, arg: None) -> None:
        self.items.append(tuple(self.take(3)))

    def _append(self, arg: None) -> None:
        (item,) = self.take(1)
        self.items[-1].append(item)

    def _appends(self, arg: None) -> None:
        items = self.since_mark()
        self.items[-1].extend(items)

    def _setitem(self, arg: None) -> None:
        pair = self.take(2)
        self.pairs_into(self.items[-1], pair)

    def _setitems(self, arg: None) -> None:
        flat = self.since_mark()
        self.pairs_into(self.items[-1], flat)

    def _global(self, arg: str) -> None:
        self.items.append(Call(arg))

    def _stack_global(self, arg: None) -> None:
        self.items.append(Call(" ".join(self.take(2))))

    def _reduce(self, arg: None) -> None:
        called, args = self.take(2)
        self.items.append(Call(called.name, tuple(args)))

    _newobj = _reduce

    def _build(self, arg: None) -> None:
        (state,) = self.take(1)
        self.items[-1].state = state

    def _binpersid(self, arg: None) -> None:
        self.items.append(Call("persistent id", tuple(self.take(1))))


def _follow(stream: BinaryIO) -> Any:
    stack = _Stack()
    try:
        for operation, arg, _ in pickletools.genops(stream):
            stack.do(operation.name, arg)
        (result,) = stack.items
    except GidliteError:
        raise
    except Exception as error:  # whatever a damaged pickle trips over
        raise GidliteError(f"this is no pickle of plain data: {error}") from error
    return result
