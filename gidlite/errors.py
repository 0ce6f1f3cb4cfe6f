"""Errors with one clear sentence, and the shape checks that raise them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class GidliteError(Exception):
    """A problem the user can fix; the message names what is wrong and what to do."""


class ShapeError(GidliteError, ValueError):
    """A tensor whose shape does not match the documented axes."""


def check_shape(name: str, tensor: Tensor, axes: str, *, hint: str = "") -> None:
    """Raise unless the trailing axes of ``tensor`` match ``axes``.

    Args:
        name: Argument name, for the message.
        tensor: What arrived; extra leading axes are allowed when ``axes`` begins with ``...``.
        axes: Space-separated words; a number is an exact size, a word is any size of at least 1.
        hint: What to do about it, appended to the message.

    Raises:
        ShapeError: If the number of axes or a fixed size differs, or an axis is empty.
    """
    words = axes.split()
    leading = words[0] == "..."
    words = words[1:] if leading else words
    count_ok = tensor.ndim >= len(words) if leading else tensor.ndim == len(words)
    sizes = tensor.shape[tensor.ndim - len(words) :] if count_ok else ()
    matches = count_ok and all(
        size == int(word) if word.isdigit() else size > 0
        for word, size in zip(words, sizes, strict=True)
    )
    if not matches:
        advice = f"; {hint}" if hint else ""
        raise ShapeError(
            f"expected {name} with axes ({', '.join(axes.split())}), "
            f"got shape {tuple(tensor.shape)}{advice}"
        )


def require_file(path: str | Path, *, what: str) -> Path:
    """Return ``path`` as a ``Path``, or say in one sentence why it cannot be read.

    Raises:
        GidliteError: If nothing is there, or it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise GidliteError(f"{path} is a folder, not {what}; give the path of a file")
    if not path.exists():
        raise GidliteError(f"{path} does not exist; check the path to {what}")
    return path


def all_finite(tensor: Tensor) -> bool:
    """Return whether every (real or complex) entry is finite."""
    return bool(tensor.isfinite().all())


def require(condition: bool, message: str) -> None:
    """Raise ``GidliteError(message)`` unless the condition holds."""
    if not condition:
        raise GidliteError(message)


def sibling(path: Path) -> Path:
    """Return an unused hidden name in the same folder, so that a move stays on one disk."""
    return path.parent / f".gidlite-{secrets.token_hex(6)}{path.suffix}"


def check_output(path: Path, *, folder: bool = False) -> None:
    """Create missing parents and prove that something can be made next to ``path``."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = sibling(path)
        probe.touch()
        probe.unlink()
    kind = "an existing file" if folder else "a folder"
    require(
        not path.exists() or path.is_dir() == folder,
        f"cannot write {path}: it is {kind}; choose another output name",
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while writing ``path`` into one sentence."""
    try:
        yield
    except GidliteError:
        raise
    except Exception as error:  # encoders, PyAV and the file system share no base class
        reason = getattr(error, "strerror", None) or error
        raise GidliteError(
            f"cannot write {path}: {reason}; check the folder and the free space there"
        ) from error


def load_part(kind: type[torch.nn.Module], folder: str | Path) -> torch.nn.Module:
    """Return a network with all its weights from a folder, in single precision.

    Raises:
        OSError: If the folder cannot be read.
        ValueError: If weights are missing; they would otherwise be random.
    """
    part, info = kind.from_pretrained(
        folder, torch_dtype=torch.float32, low_cpu_mem_usage=False, local_files_only=True,
        output_loading_info=True,
    )  # fmt: skip
    if missing := info["missing_keys"]:
        raise ValueError(f"{folder} lacks {len(missing)} weights, such as {min(missing)}")
    return part
