"""Whatever bytes a reader is given, it returns what it documents or says one sentence.

``tools/fuzz.py`` does the same at length.
"""

import json
import struct
from pathlib import Path

import pytest
import torch
from fuzzing import Reader, damaged, seeds_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutations import OPERATIONS
from readers import READERS, write_seeds
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gidlite.errors import GidliteError
from gidlite.media import fit_size
from gidlite.motion import SpectralVolume, check_aspect, load_volume, save_volume
from gidlite.pipeline import working_size

COUNT = {"modes": 40, "grid": 40}  # a second for ten; of the others, 100
SHARES = st.floats(0, 1)
STEPS = st.lists(
    st.tuples(st.integers(0, len(OPERATIONS) - 1), SHARES, SHARES, st.integers(0, (1 << 64) - 1)),
    min_size=1, max_size=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def reader():
    started = Reader()
    yield started
    started.close()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "seeds"
    write_seeds(folder)
    return folder


@pytest.mark.parametrize("name", READERS)
def test_what_is_valid_is_read(name, reader, seeds):
    for path in [seeds / name] if READERS[name][2] else seeds_of(name, seeds):
        assert reader.ask(name, path) == "", path.name


@pytest.mark.parametrize("name", READERS)
def test_what_is_damaged_is_read_or_refused_in_one_sentence(name, reader, seeds):
    @settings(
        max_examples=COUNT.get(name, 100), derandomize=True, deadline=None, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(seeds_of(name, seeds)), STEPS)
    def check(seed, steps):
        path = damaged(name, seed, seeds, steps, seeds.parent / "now")
        assert reader.ask(name, path) == "", f"{seed.name} {steps}"

    check()


@pytest.mark.parametrize("content", [b"", b"\0" * 1000, bytes(range(256)) * 40, b"[" * 100_000])
@pytest.mark.parametrize("name", [name for name, (_, _, whole) in READERS.items() if not whole])
def test_what_is_no_such_file_is_refused(name, content, reader, seeds, tmp_path):
    path = tmp_path / f"any{seeds_of(name, seeds)[0].suffix}"
    path.write_bytes(content)
    assert reader.ask(name, path) == ""


@pytest.mark.parametrize(
    "changed",
    [
        {"num_frames": str(10**30)}, {"num_frames": "9" * 6000}, {"num_frames": "nan"},
        {"num_frames": "60.0"}, {"num_frames": "7"}, {"fps": "1e308"}, {"fps": "5e-324"},
        {"fps": "1e-9"}, {"fps": "nan"}, {"fps": "-24"}, {"width": str(10**9)}, {"width": "nan"},
        {"height": "-6"}, {"height": "0"}, {"seed": "1e5"}, {"version": "1\n"}, {"format": ""},
        {"version": "é" * 5000},
    ],
    ids=str,
)  # fmt: skip
def test_a_volume_of_absurd_claims_is_refused(changed, reader, seeds, tmp_path):
    path, valid = tmp_path / "volume.safetensors", seeds / "volume" / "volume.safetensors"
    with safe_open(valid, framework="pt") as file:
        save_file(load_file(valid), path, file.metadata() | changed)
    assert reader.ask("volume", path) == ""
    with pytest.raises(GidliteError):
        load_volume(path)


def _header(*, height: int = 6, width: int = 9, **tensors: object) -> bytes:
    known = {"format": "gidlite-spectral-volume", "version": "1", "num_frames": "60", "fps": "24"}
    content = {"__metadata__": known | {"height": f"{height}", "width": f"{width}"}, **tensors}
    encoded = json.dumps(content).encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _tensor(kind: str, size: int) -> dict:
    return {"dtype": kind, "shape": [1, 4, 6, 9], "data_offsets": [0, size]}


BILLION = {"dtype": "F32", "shape": [1, 4, 16384, 16384], "data_offsets": [0, 1 << 32]}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 63) + b"{}",
        struct.pack("<Q", (1 << 64) - 1),
        struct.pack("<Q", 100_000_000) + b"{}",
        _header(packed=BILLION),
        _header(packed=BILLION | {"shape": [1 << 40, 1 << 40, 4, 1]}),
        _header(packed=BILLION | {"shape": [0, 4, 6, 9], "data_offsets": [0, 0]}),
        _header(packed=_tensor("C64", 8 * 216)) + bytes(8 * 216),
        _header(packed=_tensor("I8", 216)) + bytes(216),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_volume_of_absurd_size_is_refused_in_little_memory(content, reader, tmp_path):
    path = tmp_path / "volume.safetensors"
    path.write_bytes(content)
    assert reader.ask("volume", path) == ""
    with pytest.raises(GidliteError):
        load_volume(path)


def test_a_file_of_a_billion_numbers_is_not_taken_into_memory(reader, tmp_path):
    path = tmp_path / "volume.safetensors"
    header = _header(packed=BILLION, height=1 << 14, width=1 << 14)
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(len(header) + (1 << 32))  # zeros that take no place on the disk
    assert reader.ask("volume", path) == ""
    with pytest.raises(GidliteError, match="too large"):
        load_volume(path)


def test_the_case_of_the_suffix_does_not_matter(seeds, tmp_path):
    path = tmp_path / "V2.SAFETENSORS"
    path.write_bytes((seeds / "volume" / "volume.safetensors").read_bytes())
    assert load_volume(path).spectral.shape == (5, 2, 6, 9)


def test_only_what_can_be_read_back_is_saved(tmp_path):
    still = torch.zeros(4, 2, 6, 8, dtype=torch.complex64)
    for volume in (
        SpectralVolume(still, 5), SpectralVolume(still, 60, 1e308), SpectralVolume(still, 0),
        SpectralVolume(still * torch.nan),
    ):  # fmt: skip
        with pytest.raises(GidliteError, match=r"v\.safetensors"):
            save_volume(tmp_path / "v.safetensors", volume)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(427, 640), (1080, 1920), (3000, 4000), (600, 600), (640, 80)])
def test_a_volume_fits_its_own_photo_and_no_other(size):
    def volume(rows: int, columns: int) -> SpectralVolume:
        return SpectralVolume(torch.zeros(1, 2, rows, columns, dtype=torch.complex64))

    photo = torch.zeros(3, *size)
    for other in (working_size(*size), size, fit_size(*size, max_width=256)):
        check_aspect(photo, volume(*other))
    check_aspect(torch.zeros(3, 640, 20), volume(*working_size(640, 20)))
    for factor in (0.9, 1.1):  # of a grid as fine as the photo
        with pytest.raises(GidliteError, match="another aspect"):
            check_aspect(photo, volume(round(size[0] * factor) + 2 * (factor > 1), size[1]))
    with pytest.raises(GidliteError, match="another aspect"):
        check_aspect(photo, volume(*(reversed(size) if size[0] != size[1] else (160, 256))))
