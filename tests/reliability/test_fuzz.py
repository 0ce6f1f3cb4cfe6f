"""Whatever bytes a reader is given, it returns what it documents or says one sentence.

``tools/fuzz.py`` does the same at length.
"""

import json
import pickle
import re
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
from unit.tiny_pipeline import tiny

from gidlite.errors import GidliteError
from gidlite.motion import SpectralVolume, check_aspect, load_volume, save_volume
from gidlite.pipeline import GidPipeline, working_size
from gidlite.prior.drawer import Drawer

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
        {"height": "-6"}, {"height": "0"}, {"aspect": "nan"}, {"aspect": "0"}, {"aspect": "-1"},
        {"aspect": "1e308"}, {"seed": "1e5"}, {"version": "1\n"}, {"version": "é" * 5000},
        {"format": ""},
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


@pytest.mark.parametrize("size", [(427, 640), (1080, 1920), (3000, 4000), (600, 600), (640, 20)])
def test_a_volume_fits_its_own_photo_and_no_other(size):
    rows, columns = working_size(*size)
    photo, still = torch.zeros(3, *size), torch.zeros(1, 2, rows, columns, dtype=torch.complex64)
    check_aspect(photo, SpectralVolume(still))  # as written before volumes knew their photo
    check_aspect(photo, SpectralVolume(still, aspect=size[1] / size[0]))
    for factor in (0.9, 1.1):
        with pytest.raises(GidliteError, match="aspects differ"):
            check_aspect(photo, SpectralVolume(still, aspect=factor * size[1] / size[0]))


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_pickle_in_a_pipeline_is_not_loaded(tmp_path):
    tiny("modes").save_pretrained(tmp_path / "model")
    planted = pickle.dumps(Planted(tmp_path / "ran"))
    index = {"metadata": {}, "weight_map": {"embed.0.weight": "planted.bin"}}
    for folder in (
        tmp_path / "model",
        *(tmp_path / "model" / part for part in ("modes", "drawer")),
    ):
        for name in (
            "planted.bin",
            "diffusion_pytorch_model.bin",
            "pytorch_model.bin",
            "model.pkl",
        ):
            (folder / name).write_bytes(planted)
        for name in ("safetensors", "bin"):
            path = folder / f"diffusion_pytorch_model.{name}.index.json"
            path.write_text(json.dumps(index))
    GidPipeline.from_pretrained(tmp_path / "model")
    for part in ("modes", "drawer"):
        (tmp_path / "model" / part / "diffusion_pytorch_model.safetensors").write_bytes(planted)
    with pytest.raises(GidliteError):
        GidPipeline.from_pretrained(tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_nothing_is_unpickled():
    package = Path(__file__).parents[2] / "gidlite"
    loads = re.compile(r"\b(?:torch|np|numpy|joblib)\.load\(.*|\bpickle\b.*|\bload_state\(.*")
    found = [
        line.strip()
        for path in package.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if loads.search(line) and "pickles" not in line
    ]
    assert found == ["network.load_state_dict(torch.load(path, weights_only=True))"]


@pytest.mark.parametrize(
    "changed",
    [
        {"parts": 10**9}, {"num_frequencies": 10**6}, {"modes_per_part": -4}, {"parts": "many"},
        {"parts": 1.5}, {"parts": None}, {"parts": [24]}, {"num_frequencies": 5}, {"other": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_asks_for_too_much_is_refused(changed, reader, tmp_path):
    tiny("modes").save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "modes" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert reader.ask("modes", tmp_path / "model") == ""
    with pytest.raises(GidliteError, match="model"):
        GidPipeline.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    "content",
    [
        "", "{}", "[]", "null", "[" * 100_000, '{"a": NaN}', b"\xff\xfe", {"representation": []},
        {"representation": {}}, {"num_frames": True}, {"num_frames": 5}, {"num_frames": 10**30},
        {"fps": 0}, {"fps": 10**400}, {"fps": 1e-300}, {"fps": "24"}, {"fps": [24]}, {"name": 5},
        {"name": None}, {"version": "4"}, {"format": "x\ny"},
    ],
    ids=lambda content: str(content)[:20],
)  # fmt: skip
def test_an_absurd_pipeline_is_refused(content, reader, tmp_path):
    tiny("modes").save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "pipeline.json"
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert reader.ask("modes", tmp_path / "model") == ""
    with pytest.raises(GidliteError):
        GidPipeline.from_pretrained(tmp_path / "model")


def test_parts_of_different_pipelines_are_refused(tmp_path):
    tiny("modes").save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    Drawer(6, 3, 2, width=16, layers=1).save_pretrained(tmp_path / "model" / "drawer")
    with pytest.raises(GidliteError, match="differ in num_frequencies"):
        GidPipeline.from_pretrained(tmp_path / "model")


def test_a_message_is_one_line():
    words = "a\nb \x1b[31m \u202egnp.exe \u2028 \udcff 🌷 ×.jpg"
    assert str(GidliteError(words)) == r"a\nb \x1b[31m \u202egnp.exe \u2028 \udcff 🌷 ×.jpg"
