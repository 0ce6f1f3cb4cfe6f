"""The one way to refuse, the one way to write a file, and the one way to load a network.

A refusal is one clear sentence that names what is wrong and what to do. A file that is written
appears under its name whole or not at all.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Files that must not be written to, by device and inode: links and other spellings are the same.
_PROTECTED: ContextVar[frozenset[tuple[int, int]]] = ContextVar("protected", default=frozenset())
_FULL = (errno.ENOSPC, errno.EDQUOT)


class GidliteError(Exception):
    """A problem the user can fix; the message names what is wrong and what to do."""


class ShapeError(GidliteError, ValueError):
    """A tensor whose shape does not match the documented axes."""


class DiskFullError(GidliteError):
    """There is no space left where something is written; nothing else could be saved either."""


def require(condition: bool, message: str) -> None:
    """Raise ``GidliteError(message)`` unless the condition holds."""
    if not condition:
        raise GidliteError(message)


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


def all_finite(tensor: Tensor) -> bool:
    """Return whether every (real or complex) entry is finite."""
    return bool(tensor.isfinite().all())


def require_file(path: str | Path, *, what: str) -> Path:
    """Return ``path`` as a ``Path``, or say in one sentence why it cannot be read.

    Raises:
        GidliteError: If nothing is there, or it is a folder.
    """
    path = Path(path)
    require(not path.is_dir(), f"{path} is a folder, not {what}; give the path of a file")
    require(path.exists(), f"{path} does not exist; check the path to {what}")
    return path


@contextmanager
def protected(*inputs: str | Path) -> Iterator[None]:
    """Within this context ``written`` refuses to replace these files, whatever they are called."""
    found = {(stat.st_dev, stat.st_ino) for path in inputs if (stat := _stat(path))}
    token = _PROTECTED.set(_PROTECTED.get() | found)
    try:
        yield
    finally:
        _PROTECTED.reset(token)


def _stat(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):  # not there, or no name that a file could have
        return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while writing ``path`` into one sentence.

    Raises:
        DiskFullError: If there is no space left.
        GidliteError: For any other reason.
    """
    try:
        yield
    except GidliteError:
        raise
    except Exception as error:  # encoders, PyAV, safetensors and the file system share no base
        if getattr(error, "errno", None) in _FULL or "No space left" in str(error):
            raise DiskFullError(
                f"no space left for {path}; free some and run the same command again"
            ) from None
        reason = getattr(error, "strerror", None) or error
        raise GidliteError(
            f"cannot write {path}: {reason}; check the folder and the free space there"
        ) from error


def check_output(path: str | Path, *, folder: bool = False) -> None:
    """Create missing parents and prove that ``path`` can be written, before work is spent on it.

    Raises:
        GidliteError: If it is an input (see ``protected``), a folder where a file is meant or the
            other way round, or nothing can be made there.
    """
    path = Path(path)
    stat = _stat(path)
    require(
        stat is None or (stat.st_dev, stat.st_ino) not in _PROTECTED.get(),
        f"{path} is an input and would be lost; choose another output name",
    )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = _hidden(path)
        probe.touch()
        probe.unlink()
    kind = "an existing file" if folder else "a folder"
    require(
        not path.exists() or path.is_dir() == folder,
        f"cannot write {path}: it is {kind}; choose another output name",
    )


@contextmanager
def written(path: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a hidden name to write to; on leaving, what is there appears as ``path``.

    After an exception nothing is left, and what ``path`` held before is still there. The file's
    permissions are those the umask gives, whatever the writer gave it.

    Args:
        path: Final name; missing parent folders are created.
        folder: Whether a folder is made; what is in it already stays, but for equal names.

    Raises:
        DiskFullError: If there is no space left.
        GidliteError: As ``check_output``, and if writing fails.

    Example:
        >>> import tempfile
        >>> name = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with written(name) as hidden:
        ...     _ = hidden.write_text("whole")
        >>> name.read_text()
        'whole'
    """
    path = Path(path)
    check_output(path, folder=folder)
    hidden = _hidden(path)
    try:
        with writing(path):
            hidden.mkdir() if folder else hidden.touch()
            mode = hidden.stat().st_mode
            yield hidden
            if folder and path.exists():
                for made in hidden.iterdir():
                    os.replace(made, path / made.name)
            else:
                os.chmod(hidden, mode)
                os.replace(hidden, path)
    finally:
        if hidden.is_dir():
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            hidden.unlink(missing_ok=True)


def _hidden(path: Path) -> Path:
    """Return an unused hidden name in the same folder, so that a move stays on one disk."""
    return path.parent / f".gidlite-{secrets.token_hex(6)}{path.suffix}"


def load_network(kind: type[torch.nn.Module], folder: str | Path) -> torch.nn.Module:
    """Return a diffusers network with all its weights from a folder, in single precision.

    Raises:
        OSError: If a file is missing or cannot be read; the message names it.
        ValueError: If weights are missing; they would otherwise be random.
    """
    import torch

    folder = Path(folder)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing")
    network, info = kind.from_pretrained(
        folder, torch_dtype=torch.float32, low_cpu_mem_usage=False, local_files_only=True,
        output_loading_info=True,
    )  # fmt: skip
    if missing := info["missing_keys"]:
        raise ValueError(f"{folder} lacks {len(missing)} weights, such as {min(missing)}")
    return network
