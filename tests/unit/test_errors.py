"""Refusals are one sentence, and a file appears whole, under its own name, or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch

from gidlite.errors import (
    DiskFullError,
    GidliteError,
    ShapeError,
    check_output,
    check_shape,
    protected,
    require_file,
    staged,
    written,
)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def refuses(match: str):
    return pytest.raises(GidliteError, match=rf"\A(?=[^\n]*\Z).*{match}")


@pytest.fixture
def umask():
    """Set a umask that no other user's default equals, and put the old one back."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


# ---------------------------------------------------------------- checks


def test_check_shape():
    check_shape("image", torch.zeros(3, 4, 5), "3 height width")
    check_shape("volume", torch.zeros(7, 6, 2, 4, 5), "... freq 2 height width")
    check_shape("volume", torch.zeros(6, 2, 4, 5), "... freq 2 height width")
    for shape in [(3, 4), (1, 3, 4, 5), (4, 4, 5), (3, 0, 5), ()]:
        with pytest.raises(ShapeError, match=r"image with axes \(3, height, width\), got shape"):
            check_shape("image", torch.zeros(shape), "3 height width")
    with refuses(r"shape \(3, 4\); crop it"):
        check_shape("image", torch.zeros(3, 4), "3 height width", hint="crop it")
    for shape in [(2, 4, 5), (6, 3, 4, 5), (0, 2, 4, 5)]:
        with pytest.raises(ValueError, match=r"axes \(\.\.\., freq, 2, height, width\)"):
            check_shape("volume", torch.zeros(shape), "... freq 2 height width")


def test_require_file(tmp_path):
    (tmp_path / "a.txt").touch()
    assert require_file(str(tmp_path / "a.txt"), what="a text") == tmp_path / "a.txt"
    with refuses("is a folder, not a text"):
        require_file(tmp_path, what="a text")
    for name in ("missing", "a.txt/below", "x" * 300, "nul\0"):
        with refuses("does not exist; check the path to a text"):
            require_file(tmp_path / name, what="a text")


# ---------------------------------------------------------------- written


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with written(path) as hidden:
        hidden.write_text("half")
        assert names(tmp_path) == {"new", f"new/{hidden.name}"}
        assert hidden.name.startswith(".") and hidden.suffix == ".txt"
        hidden.write_text("whole")
    assert names(tmp_path) == {"new", "new/a.txt"} and path.read_text() == "whole"
    with written(str(path)) as hidden:
        hidden.write_text("other")
        assert path.read_text() == "whole"
    assert path.read_text() == "other"


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("why\nso"), KeyboardInterrupt()])
def test_an_exception_leaves_what_was_there(tmp_path, folder, error):
    kept = tmp_path / "kept" if folder else tmp_path / "kept.txt"
    with written(kept, folder=folder) as hidden:
        (hidden / "a" if folder else hidden).write_text("old")
    before = names(tmp_path)
    ours = isinstance(error, RuntimeError)
    for path in (kept, tmp_path / "new"):
        with refuses("why so") if ours else pytest.raises(KeyboardInterrupt):
            with written(path, folder=folder) as hidden:
                (hidden / "a" if folder else hidden).write_text("half")
                raise error
    assert names(tmp_path) == before
    assert (kept / "a" if folder else kept).read_text() == "old"


@pytest.mark.parametrize("folder", [False, True])
def test_staged_lets_exceptions_pass(tmp_path, folder):
    error = ZeroDivisionError("mine")
    with pytest.raises(ZeroDivisionError) as caught, staged(tmp_path / "a", folder=folder):
        raise error
    assert caught.value is error and error.__cause__ is None and error.__context__ is None
    assert names(tmp_path) == set()


def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    from safetensors.torch import save_file

    plain = tmp_path / "plain"
    plain.touch()
    path = tmp_path / "a.safetensors"
    with written(path) as hidden:
        save_file({"a": torch.zeros(1)}, hidden)
        hidden.chmod(0o600)  # as safetensors does in some versions
    mode = stat.S_IMODE(path.stat().st_mode)
    assert mode == stat.S_IMODE(plain.stat().st_mode) == 0o666 & ~umask
    with written(tmp_path / "folder", folder=True):
        pass
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_a_folder_is_merged(tmp_path):
    path = tmp_path / "folder"
    for content in ("old", "new"):
        with written(path, folder=True) as hidden:
            (hidden / "both").write_text(content)
            (hidden / content).mkdir()
            (hidden / content / "inside").write_text(content)
    found = {"folder", "folder/both", "folder/old", "folder/new"}
    assert names(tmp_path) == found | {"folder/old/inside", "folder/new/inside"}
    assert (path / "both").read_text() == "new"
    with refuses("it is a folder"), written(path, folder=True) as hidden:
        (hidden / "both").write_text("third")
        (hidden / "old").write_text("a file in the place of a folder")
    assert (path / "both").read_text() == "new"  # refused before anything is moved


def test_a_full_disk(tmp_path):
    failures = [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ]
    for failure in failures:
        with pytest.raises(DiskFullError, match=r"no space left for .*a\.bin; free some"):
            with written(tmp_path / "a.bin") as hidden:
                hidden.write_bytes(b"half")
                raise failure
    assert names(tmp_path) == set()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="NOT CHECKED: there is no /dev/full")
def test_a_device_that_is_full(tmp_path):
    with pytest.raises(DiskFullError), written(tmp_path / "a.txt") as hidden:
        hidden.unlink()
        hidden.symlink_to("/dev/full")
        hidden.write_text("some")
    assert names(tmp_path) == set()


# ---------------------------------------------------------------- refused places


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    before = names(tmp_path)
    for check in (check_output, lambda path, **kind: written(path, **kind).__enter__()):
        with refuses("cannot write .*: it is a folder; choose another"):
            check(tmp_path / "folder")
        with refuses("cannot write .*: it is an existing file; choose another"):
            check(tmp_path / "file", folder=True)
        for name in ("file/below", "x" * 300, "loop", "nul\0"):
            with refuses("cannot write "):
                check(tmp_path / name)
    assert names(tmp_path) == before
    check_output(tmp_path / "a" / "b")
    assert names(tmp_path) == before | {"a"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="NOT CHECKED: there are no pipes here")
def test_devices_and_protected_files_stay(tmp_path):
    precious, pipe = tmp_path / "precious.mp4", tmp_path / "pipe.json"
    precious.write_bytes(b"mine")
    precious.chmod(0o444)
    os.mkfifo(pipe)
    for path, words in (
        (precious, "it is write-protected; choose another"),
        (pipe, "it is no file but a device or a pipe"),
        (Path(os.devnull), "it is no file but a device or a pipe"),
    ):
        with refuses(words):
            check_output(path)
        with refuses(words), written(path):
            pytest.fail("began")
    assert precious.read_bytes() == b"mine" and names(tmp_path) == {"precious.mp4", "pipe.json"}


@pytest.mark.skipif(os.geteuid() == 0, reason="NOT CHECKED: root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with refuses("Permission denied"):
        check_output(tmp_path / "a")
    tmp_path.chmod(0o700)


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> tuple[Path, list[Path]]:
    """Return a photo and the other names under which it can be reached."""
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "photo.png"
    photo.write_text("precious")
    (tmp_path / "link.png").symlink_to(photo)
    (tmp_path / "hard.png").hardlink_to(photo)
    (tmp_path / "other").symlink_to(tmp_path, target_is_directory=True)
    spelled = tmp_path / "other" / ".." / tmp_path.name / "photo.png"
    relative = ["photo.png", "./other/photo.png", "link.png", "hard.png"]
    return photo, [photo, spelled, *map(Path, relative)]


def test_an_input_is_never_written_over(inputs):
    photo, others = inputs
    before = names(photo.parent)
    for given in others:
        with protected(given, "missing.png", "nul\0"):
            for other in others:
                with refuses(f"{other.name} is an input and would be lost; choose another"):
                    check_output(other)
                with refuses("is an input"), written(other) as hidden:
                    hidden.write_text("lost")
            with protected(Path("missing.png")), refuses("is an input"):
                check_output(photo)  # also within another such context
            with written("free.png") as hidden:
                hidden.touch()
            Path("free.png").unlink()
    assert photo.read_text() == "precious" and names(photo.parent) == before
    with written(photo) as hidden:
        hidden.write_text("allowed afterwards")
    assert photo.read_text() == "allowed afterwards"


def test_an_input_survives_a_merge(inputs):
    photo, _ = inputs
    before = names(photo.parent)
    with protected(photo), refuses("photo.png is an input"):
        with written(photo.parent, folder=True) as hidden:
            (hidden / "another.png").touch()
            (hidden / "photo.png").write_text("lost")
    assert photo.read_text() == "precious" and names(photo.parent) == before
