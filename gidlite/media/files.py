"""Output files that appear whole or not at all, and one-sentence refusals."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gidlite._checks import GidliteError

__all__ = ["check_output", "require", "sibling", "writing"]


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
