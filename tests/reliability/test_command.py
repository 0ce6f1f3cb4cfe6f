"""The command line keeps what it is given, says what it did in one line, and leaves nothing."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from unit.tiny_pipeline import tiny

from gidlite import cli
from gidlite.__main__ import PATIENT, main
from gidlite.cli import beside
from gidlite.errors import GidliteError, plain, same_file
from gidlite.media import write_video
from gidlite.motion import SpectralVolume, check_aspect, load_volume, save_volume

PACKAGE = Path(cli.__file__).parents[1]
SHORT = ("--seconds", "0.2")
ROGUES = [
    "rose[red].jpg", "x[", "[bold]b[", "a:rose:.jpg", "tab\there.jpg", "new\nline.jpg",
    "esc\x1b[31m.jpg", "left\u202egpj.jpg", "caf\udce9.jpg", "ünï ✿.jpg", "-o.jpg", "%s{0}$x.jpg",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make photos, a volume and a clip, and stand beside them, with a tiny pipeline at hand."""
    monkeypatch.chdir(tmp_path)
    photo = Image.fromarray((torch.rand(32, 48, 3) * 255).byte().numpy())
    for name in ("p.jpg", "p.webp", "other.png"):
        photo.save(name)
    spectral = torch.zeros(4, 2, 32, 48, dtype=torch.complex64)
    spectral[2, 0, :, 20:] = 0.3
    save_volume("v.safetensors", SpectralVolume(spectral, model="test"))
    write_video("clip.mp4", torch.rand(12, 3, 32, 48), fps=30)
    monkeypatch.setattr(cli, "load_pipeline", lambda model: tiny("modes"))
    return tmp_path


def gidlite(*arguments):
    """Run a command line in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gidlite", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
    return stopped.value.code or 0


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- what is given is kept


@pytest.mark.parametrize(
    "arguments",
    [
        "animate p.webp -o {p.webp}",
        "animate p.jpg -o o.mp4 --xt {p.jpg}",
        "animate p.jpg -o o.mp4 --mask other.png --xt {other.png}",
        "predict p.jpg -o {p.jpg}",
        "render p.webp v.safetensors -o {p.webp}",
        "render p.jpg v.safetensors -o o.mp4 --xt {p.jpg}",
        "poke v.safetensors --photo p.jpg -o {p.jpg}",
        "poke v.safetensors --photo p.jpg -o {v.safetensors}",
        "reanimate clip.mp4 -o {clip.mp4}",
        "evaluate loop clip.mp4 -o {clip.mp4}",
    ],
)
def test_no_output_replaces_an_input(folder, arguments, capfd):
    original = re.search(r"\{(.*)\}", arguments)[1]
    suffix = Path(original).suffix
    os.link(original, f"hard{suffix}")
    os.symlink(original, f"soft{suffix}")
    before = contents(folder)
    for spelling in (original, f"../{folder.name}/{original}", f"hard{suffix}", f"soft{suffix}"):
        assert gidlite(*arguments.replace(f"{{{original}}}", spelling).split()) == 2
        assert contents(folder) == before
        assert capfd.readouterr().err.count("\n") == 1


def test_a_pipeline_in_use_is_not_written_over(folder, capsys):
    tiny("modes").save_pretrained("model")
    before = contents(folder)
    weights = "model/modes/diffusion_pytorch_model.safetensors"
    assert gidlite("predict", "p.jpg", "--model", "model", "-o", weights) == 2
    assert "is an input" in capsys.readouterr().err and contents(folder) == before


def test_the_slice_is_not_the_video(folder, capsys):
    os.symlink("later.webp", "link.webp")
    for video, xt in (("s.webp", "s.webp"), ("s.webp", "./s.webp"), ("later.webp", "link.webp")):
        assert gidlite("render", "p.jpg", "v.safetensors", "-o", video, "--xt", xt) == 2
        assert "give the slice another name" in capsys.readouterr().err
        assert not Path(video).exists()


def test_same_file(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    assert same_file(first, tmp_path / "x" / ".." / "a") and not same_file(first, second)
    first.touch()
    os.link(first, second)
    assert same_file(first, second)


def test_photos_of_one_stem_have_outputs_of_their_own(folder, capsys):
    assert gidlite("animate", "other.png", *SHORT) == 0
    assert Path("other_loop.mp4").is_file()
    Image.open("other.png").save("other.jpg")
    before = contents(folder)
    for command, made in (
        (("animate", "other.jpg", *SHORT), "other_jpg_loop.mp4"),
        (("animate", "other.png", *SHORT, "--no-loop"), "other_png_video.mp4"),
        (("render", "other.jpg", "v.safetensors", *SHORT), "other_jpg_loop.mp4"),
        (("predict", "other.jpg"), "other_jpg.safetensors"),
        (("poke", "v.safetensors", "--photo", "other.png"), "other_png_poke.html"),
    ):
        assert gidlite(*command) == 0
        assert made in capsys.readouterr().out and Path(made).is_file()
    assert before.items() <= contents(folder).items()
    assert not list(folder.glob("*xt*"))  # only where asked for


def test_names_beside(tmp_path):
    for name in ("A.mov", "a.mp4", "b.mp4", "b.txt"):
        (tmp_path / name).touch()
    rivals = (".mov", ".mp4")
    assert beside(tmp_path / "A.mov", "_x.mp4", rivals).name == "A_mov_x.mp4"
    assert beside(tmp_path / "b.mp4", "_x.mp4", rivals).name == "b_x.mp4"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("predict", "p.jpg", "-o", "v.mp4"), "let its name end in .safetensors"),
        (("poke", "p.jpg", "-o", "page.png"), "let its name end in .html or .htm"),
        (("animate", "p.jpg", "--xt", "x.bmp"), "--xt is x.bmp"),
        (("poke", "missing.jpg", "--photo", "p.jpg"), "missing.jpg is none"),
        (("poke", "V2.SAFETENSORS", "--photo", "p.jpg"), "V2.SAFETENSORS does not exist"),
        (("predict", "p.jpg", "--seed", str(2**64)), "--seed"),
        (("animate", "p.jpg", "--seed", "-1"), "--seed"),
        (("extract", "clip.mp4", "-o", "x", "--size", f"{9:0>5000}x8"), "give width x height"),
        (("animate", "p.jpg", "-o", ""), "--output is ., where frames would be mixed"),
    ],
)
def test_refused_before_any_work(folder, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(cli, "load_pipeline", lambda model: pytest.fail("work was begun"))
    before = contents(folder)
    assert gidlite(*arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split()) and contents(folder) == before


def test_the_largest_seed(folder):
    assert gidlite("predict", "p.jpg", "--seed", str(2**63 - 1)) == 0


def test_no_volume_that_is_not_finite(folder, monkeypatch, capsys):
    volume, pipe = Path("new.safetensors"), tiny("modes")
    spectral = torch.full((4, 2, 8, 12), torch.nan, dtype=torch.complex64)
    with pytest.raises(GidliteError, match=r"new.safetensors holds NaN"):
        save_volume(volume, SpectralVolume(spectral))
    assert not volume.exists()
    monkeypatch.setattr(type(pipe.prior), "sample", lambda *_: spectral)
    before = contents(folder)
    for command in ("predict", "animate"):
        assert gidlite(command, "p.jpg", "--guidance", "1e30") == 2
        assert "guidance is 1e+30 and the sampler left" in capsys.readouterr().err
        assert contents(folder) == before


def test_equal_volumes_are_equal_files(folder):
    for number in range(8):  # by chance they would differ
        assert gidlite("predict", "p.jpg", "-o", f"{number}.safetensors") == 0
    assert len({Path(f"{number}.safetensors").read_bytes() for number in range(8)}) == 1


# ---------------------------------------------------------------- what is said


def test_text_is_shown_as_one_line():
    assert plain("a\x1b[31m\n\u202e\udce9 ✿ 日本\u202f[red]:rose:") == (
        r"a\x1b[31m\n\u202e\udce9 ✿ 日本" + "\u202f[red]:rose:"
    )


@pytest.mark.parametrize("name", ROGUES)
def test_names_are_shown_as_they_are(folder, capsys, name):
    photo = folder / (name if name.endswith(".jpg") else f"{name}/bold].jpg")
    photo.parent.mkdir(exist_ok=True)
    photo.write_bytes(Path("p.jpg").read_bytes())
    assert gidlite("render", f"./{photo.relative_to(folder)}", "v.safetensors", *SHORT) == 0
    said = capsys.readouterr().out
    made = photo.with_name(f"{photo.stem}_loop.mp4")
    assert made.is_file()
    assert said.splitlines()[-1].startswith(plain(made.relative_to(folder)) + "  48x32")
    photo.write_bytes(b"")
    assert gidlite("animate", f"./{photo.relative_to(folder)}") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {plain(photo.relative_to(folder))} is empty")
    assert said.count("\n") == 1


def test_all_text_is_printed_in_one_place():
    # Everything else goes through ``say``, whose consoles know no markup and no emoji codes.
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"rich\.markup|from_markup|markup=True|typer\.echo|secho", text), path
        printed = re.findall(r"(?<!def )\bprint\(", text)
        assert len(printed) == (3 if path == Path(cli.__file__) else 0), path


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_stream_that_cannot_show_a_name_does_not_end_the_work(folder, encoding):
    os.rename("p.jpg", "日本 ✿.jpg")
    command = [sys.executable, "-m", "gidlite", "render", "日本 ✿.jpg", "v.safetensors", *SHORT]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [*command, "-o", "é.webp", "--xt", "x.png"], env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert Path("é.webp").is_file() and Path("x.png").is_file()
    shown = {"ascii": rb"\xe9.webp", "cp1252": b"\xe9.webp", "utf-8": "é.webp".encode()}
    assert shown[encoding] in done.stdout


# ---------------------------------------------------------------- what is left


@pytest.mark.parametrize(
    ("sent", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)], ids=str
)
def test_a_stopped_command_leaves_nothing(folder, sent, code):
    before = contents(folder)
    command = ["render", "p.jpg", "v.safetensors", "-o", "o.mp4", "--seconds", "3000", "--no-loop"]
    with subprocess.Popen([sys.executable, "-m", "gidlite", *command], stderr=-1) as run:
        until = time.monotonic() + 120
        while time.monotonic() < until and not any(map(os.path.getsize, folder.glob(".gidlite-*"))):
            time.sleep(0.02)
        run.send_signal(getattr(signal, sent))
        said = run.communicate(timeout=60)[1]
    assert run.returncode == code, said
    assert contents(folder) == before
    assert said.count(b"\n") <= 1 and b"Traceback" not in said


def test_a_folder_that_was_removed(folder):
    command = "mkdir gone && cd gone && rmdir ../gone && exec {} -m gidlite predict {}/p.jpg"
    done = subprocess.run(command.format(sys.executable, folder), shell=True, capture_output=True)
    assert done.returncode == 2
    assert done.stderr == b"Error: the current folder was removed; change to another one.\n"


def test_nohup_is_respected(folder):
    code = (
        "import signal; from gidlite.__main__ import run; signal.signal(signal.SIGHUP, "
        "signal.SIG_IGN); run(lambda: signal.raise_signal(signal.SIGHUP)); print('done')"
    )
    assert subprocess.check_output([sys.executable, "-c", code]) == b"done\n"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_obey_the_umask(folder, mask):
    before = set(folder.iterdir())
    old = os.umask(mask)
    try:
        assert gidlite("predict", "other.png") == 0
        assert gidlite("poke", "v.safetensors", "--photo", "p.jpg") == 0
        for ending in ("mp4", "gif", "webp"):
            options = ("-o", f"o.{ending}", "--xt", f"{ending}.png", *SHORT)
            assert gidlite("render", "p.jpg", "v.safetensors", *options) == 0
        tiny("modes").save_pretrained("model")
    finally:
        os.umask(old)
    made = [path for top in set(folder.iterdir()) - before for path in (top, *top.rglob("*"))]
    assert len(made) >= 14
    for path in made:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask


def test_saving_leaves_live_weights_as_they_are(folder):
    pipe = tiny("modes")
    before = {name: p.clone() for name, p in pipe.prior.modes.named_parameters()}
    pipe.save_pretrained("model")
    for name, parameter in pipe.prior.modes.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, before[name])


# ---------------------------------------------------------------- which photo a volume is of


def test_a_volume_is_not_stretched_over_another_photo(folder, capsys):
    Image.open("p.jpg").rotate(90, expand=True).save("tall.jpg")
    Image.open("p.jpg").resize((48, 27)).save("wide.jpg")
    Image.open("p.jpg").resize((96, 64)).save("large.jpg")
    assert gidlite("predict", "p.jpg", "-o", "knows.safetensors") == 0
    assert load_volume("knows.safetensors").aspect == 1.5
    before = contents(folder)
    for photo, volume in (("tall", "v"), ("tall", "knows"), ("wide", "knows")):
        for command in (
            ("render", f"{photo}.jpg", f"{volume}.safetensors"),
            ("poke", f"{volume}.safetensors", "--photo", f"{photo}.jpg"),
        ):
            assert gidlite(*command) == 2
            assert "give the photo that the volume was made of" in capsys.readouterr().err
            assert contents(folder) == before
    for volume in ("v", "knows"):
        assert gidlite("render", "large.jpg", f"{volume}.safetensors", *SHORT) == 0
        assert gidlite("poke", f"{volume}.safetensors", "--photo", "large.jpg") == 0


@pytest.mark.parametrize("size", [(16, 16), (40, 400), (31, 500), (17, 600), (97, 16)])
def test_every_photo_fits_its_own_volume(size):
    image = torch.rand(3, *size)
    pipe, generator = tiny("modes"), torch.Generator().manual_seed(0)
    volume = pipe(image, num_inference_steps=1, generator=generator).volume
    check_aspect(image, volume)
    check_aspect(image, replace(volume, aspect=None))
    check_aspect(image, pipe.basis(image))


def run_alone(code, **environment):
    """Run code in a process of its own that was told nothing of threads but this."""
    told = {k: v for k, v in os.environ.items() if k not in PATIENT} | environment
    found = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_prediction_imports_what_it_needs(tmp_path):
    """Neither torch's compiler nor U-Nets; and the compiler can be had afterwards."""
    code = (
        "import sys; from gidlite.__main__ import main; from gidlite.media import sample_photo\n"
        f"output = {str(tmp_path / 'v.safetensors')!r}\n"
        "sys.argv = ['gidlite', 'predict', str(sample_photo()), '-o', output]\n"
        "try: main()\nexcept SystemExit as stopped: assert not stopped.code\n"
        "print([name for name in sys.modules if 'unet' in name or name == 'torch._dynamo'])\n"
        "import torch; print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item())"
    )  # fmt: skip
    assert run_alone(code).splitlines()[1:] == ["[]", "2.0"]


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_threads_of_the_command_wait_patiently_unless_told_otherwise(given):
    code = (
        "import os, sys; import gidlite; before = dict(os.environ); import gidlite.__main__ as m\n"
        "assert before == dict(os.environ); m.run = lambda app: print("
        "'torch' in sys.modules, [os.environ.get(name) for name in m.PATIENT]); m.main()"
    )
    wanted = list(PATIENT.values()) if not given else ["ACTIVE", None]
    assert run_alone(code, **given).strip() == f"False {wanted}"


def test_notebooks_and_tests_wait_as_the_command_does():
    root = PACKAGE.parent
    assert yaml.safe_load((root / "environment.yml").read_text())["variables"] == PATIENT
    line = "PATIENT := " + " ".join(f"{name}={value}" for name, value in PATIENT.items())
    assert line in (root / "Makefile").read_text().splitlines()
