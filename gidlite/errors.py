"""How to refuse, in one clear sentence, how to write a file, and how to load a network."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_LARGEST = {int: 1024, float: 1e9}  # numbers that the config of a network may hold
_PROTECTED: ContextVar[tuple[os.stat_result, ...]] = ContextVar("protected", default=())


def plain(text: object) -> str:
    """Return a text as one line, with what a terminal would obey or cannot show spelled out."""
    shown = (c.isprintable() or unicodedata.category(c) == "Zs" for c in str(text))
    return "".join(c if ok else ascii(c)[1:-1] for c, ok in zip(str(text), shown, strict=True))


class GidliteError(Exception):
    """A problem the user can fix; the message, one line, names what is wrong and what to do."""

    def __str__(self) -> str:
        return plain(super().__str__())


class ShapeError(GidliteError, ValueError):
    """A tensor whose shape does not match the documented axes."""


class DiskFullError(GidliteError):
    """There is no space left where something is written; nothing else could be saved either."""


class GidliteWarning(UserWarning):
    """Something was used that is not as it should be; the message names what was made of it."""


def require(condition: bool, message: str) -> None:
    """Raise ``GidliteError(message)`` unless the condition holds."""
    if not condition:
        raise GidliteError(message)


def check_shape(name: str, tensor: torch.Tensor, axes: str, *, hint: str = "") -> None:
    """Raise ``ShapeError`` unless the axes of ``tensor``, called ``name``, match ``axes``.

    ``axes`` is a word per axis: a number is an exact size, any other word a size of at least 1.
    Further leading axes are allowed where it begins with ``...``. A ``hint`` says what to do.
    """
    words = axes.removeprefix("...").split()
    pairs = zip(tensor.shape[-len(words) :], words, strict=False)
    matches = all(size == int(word) if word.isdigit() else size > 0 for size, word in pairs)
    extra = tensor.ndim - len(words)
    if not matches or extra < 0 or (extra > 0 and not axes.startswith("...")):
        named, advice = ", ".join(axes.split()), f"; {hint}" if hint else ""
        shape = tuple(tensor.shape)
        raise ShapeError(f"expected {name} with axes ({named}), got shape {shape}{advice}")


def all_finite(tensor: torch.Tensor) -> bool:
    """Return whether every (real or complex) entry is finite."""
    return bool(tensor.isfinite().all())


def require_file(path: str | Path, *, what: str) -> Path:
    """Return ``path`` as a ``Path``; refuse it if nothing is there or it is a folder."""
    path = Path(path)
    require(not os.path.isdir(path), f"{path} is a folder, not {what}; give the path of a file")
    require(os.path.exists(path), f"{path} does not exist; check the path to {what}")
    return path


def same_file(first: str | Path, second: str | Path) -> bool:
    """Return whether two paths lead to one file, by whatever name or link, made or to be made."""
    with suppress(OSError):
        return os.path.samefile(first, second)
    return os.path.realpath(first) == os.path.realpath(second)


@contextmanager
def protected(*inputs: str | Path) -> Iterator[None]:
    """Refuse, within this context, to write over these files, by whatever name or link.

    Of a folder all files are meant, however deep.
    """
    given = [path for path in inputs if os.path.exists(path)]  # the rest needs no protection
    inside = (Path(top, f) for path in given for top, _, files in os.walk(path) for f in files)
    found = [os.stat(path) for path in (*given, *inside) if os.path.exists(path)]
    token = _PROTECTED.set((*_PROTECTED.get(), *found))
    try:
        yield
    finally:
        _PROTECTED.reset(token)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong while ``path`` is written into a ``GidliteError``."""
    try:
        yield
    except GidliteError:
        raise
    except Exception as error:  # encoders, PyAV, safetensors and the file system share no base
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error):
            advice = "free some and run the same command again"
            raise DiskFullError(f"no space left for {path}; {advice}") from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        long = getattr(error, "errno", None) == errno.ENAMETOOLONG
        advice = "give a shorter one" if long else "check the folder and the free space there"
        told = f"{' '.join(reason.split())}; {advice}"
        raise GidliteError(f"cannot write {path}: {told}") from error


def check_output(path: str | Path, *, folder: bool = False) -> None:
    """Create missing parents and prove that ``path`` can be written, before work is spent on it.

    Refused are inputs (see ``protected``), files that are write-protected, devices, and a folder
    where a file is meant or the reverse.
    """
    _discard(_begin(Path(path), folder))


@contextmanager
def written(path: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a hidden name to write to; on leaving, what is there appears as ``path``.

    After an exception nothing is left, and what ``path`` held before is still there. Files get
    the permissions of any new file, whatever the writer gave them. Of a ``folder``, what is in it
    already stays, but for equal names. Missing parents are created. Raises ``DiskFullError`` if
    there is no space left, ``GidliteError`` as ``check_output`` and for whatever fails inside.
    """
    with writing(path), staged(path, folder=folder) as hidden:
        yield hidden


@contextmanager
def staged(path: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """Do as ``written``, but let the exceptions of the block pass unchanged."""
    path = Path(path)
    hidden = _begin(path, folder)
    try:
        mode = stat.S_IMODE(hidden.stat().st_mode)
        yield hidden
        with writing(path):
            for entry in hidden.rglob("*"):
                entry.chmod(mode if entry.is_dir() else mode & 0o666)
            if folder and path.exists():
                made = list(hidden.iterdir())
                for entry in made:  # all, before anything is moved
                    check_output(path / entry.name, folder=entry.is_dir())
                for entry in made:
                    os.replace(entry, path / entry.name)
            else:
                hidden.chmod(mode)
                os.replace(hidden, path)
    finally:
        _discard(hidden)


@contextmanager
def alone(folder: Path, *places: str) -> Iterator[None]:
    """Make a folder, and refuse it while another process on this machine works on it like this.

    In the end what processes that were killed left half-written in it, or in folders in it, the
    ``places``, is cleared.
    """
    import fcntl  # not everywhere

    path, new = folder / ".lock", not folder.exists()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        try:  # a lock that ends with the process, and that children do not inherit
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # others mean that there are no locks here
            free = error.errno not in (errno.EACCES, errno.EAGAIN)
            advice = "wait for it, or choose another folder"
            require(free, f"another process is writing to {folder}; {advice}")
        try:
            yield
        finally:
            for stale in (p for at in (".", *places) for p in (folder / at).glob(".gidlite-*.*")):
                _discard(stale)
            path.unlink(missing_ok=True)
            with suppress(OSError):
                if new:
                    folder.rmdir()  # if it is empty, because nothing came of the work


def _begin(path: Path, folder: bool) -> Path:
    """Refuse, or make a hidden file or folder beside ``path``: a later move stays on one disk."""
    with writing(path):
        with suppress(FileNotFoundError):
            old, advice = os.stat(path), "choose another output name"
            lost = any(os.path.samestat(old, found) for found in _PROTECTED.get())
            require(not lost, f"{path} is an input and would be lost; {advice}")
            kinds = {stat.S_IFDIR: "a folder", stat.S_IFREG: "an existing file"}
            kind = kinds.get(stat.S_IFMT(old.st_mode), "no file but a device or a pipe")
            same = kind == kinds[stat.S_IFDIR if folder else stat.S_IFREG]
            require(same, f"cannot write {path}: it is {kind}; {advice}")
            # Whoever may write to a folder may replace what is write-protected in it.
            free = folder or old.st_mode & 0o222
            require(bool(free), f"cannot write {path}: it is write-protected; {advice}")
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.parent / f".gidlite-{secrets.token_hex(6)}{path.suffix}"
        make = hidden.mkdir if folder else hidden.touch
        make()
    return hidden


def _discard(hidden: Path) -> None:
    """Remove a file or folder, if it is there; never raise, an exception may be on its way."""
    shutil.rmtree(hidden, ignore_errors=True)
    with suppress(OSError):
        hidden.unlink()


def to_safetensors(tensors: Mapping[str, torch.Tensor], told: Mapping[str, object]) -> bytes:
    """Return a safetensors file with metadata; equal contents give equal bytes."""
    from safetensors.torch import save

    content = save(dict(tensors), {name: str(value) for name, value in told.items()})
    end = 8 + int.from_bytes(content[:8], "little")
    # The library orders metadata by chance.
    head = json.dumps(json.loads(content[8:end]), sort_keys=True).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + content[end:]


def check_device(wanted: torch.device | str) -> torch.device:
    """Return a device that can compute, or refuse it."""
    import torch

    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device).item()  # "meta" is a device, but holds no numbers
    except Exception as error:  # some are no device, some were not built, some are not there
        raise GidliteError(f"device {str(wanted)!r} cannot be used; try cpu") from error
    return device


def load_network(kind: type[torch.nn.Module], folder: str | Path) -> torch.nn.Module:
    """Return a network, as ``save_pretrained`` wrote it, in single precision and for evaluation.

    A missing file raises ``OSError``; one that is damaged, holds numbers that are not finite or
    does not fit the other raises ``ValueError``. Only JSON and safetensors are read.
    """
    import torch
    from safetensors.torch import load_file

    names = ("config.json", "diffusion_pytorch_model.safetensors")
    for path in (paths := [Path(folder, name) for name in names]):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
    try:
        found, held = json.loads(paths[0].read_text(encoding="utf-8")), load_file(paths[1])
        require(all(map(all_finite, held.values())), "holds NaN or infinite weights")
        options = {name: value for name, value in found.items() if name[0] != "_"}
        numbers = [n for v in options.values() for n in (v if isinstance(v, list) else [v])]
        plain = all(0 < n <= _LARGEST[type(n)] for n in numbers if type(n) in _LARGEST)
        require(plain, "has a number in its config.json that is not positive, or too large")
        with torch.device("meta"):  # what a damaged config asks for takes no memory there
            wanted = {name: like.shape for name, like in kind(**options).state_dict().items()}
        missing = wanted.keys() - held.keys()
        require(not missing, f"lacks {len(missing)} weights, such as {min(missing, default='')}")
        other = [n for n, t in held.items() if t.is_complex() or wanted.get(n) != t.shape]
        require(not other, f"has weights of another config, such as {min(other, default='')}")
        network = kind(**options)
        network.load_state_dict(held)
    except Exception as error:  # whatever a constructor does with values it was not made for
        raise ValueError(f"{folder} {error!s:.200}") from None
    return network.eval()
