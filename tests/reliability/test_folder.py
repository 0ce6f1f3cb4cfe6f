"""A folder of photos: all are made as one by one, once, whatever happens in between."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from test_command import gidlite
from unit.tiny_pipeline import tiny

from gidlite.cli import PhotoOptions, folder
from gidlite.cli.photo import Animator, Video
from gidlite.errors import GidliteError, plain, written
from gidlite.media import write_image

OPTIONS = (
    "--width",
    "192",
    "--seconds",
    "0.4",
    "--amplify",
    "5",
    "--steps",
    "2",
    "--model",
    "model",
)
ROGUE = "[red]\n\x1b[31m%s.jpg"
LOOPS = {f"{stem}_loop.mp4" for stem in ("a", "rose_jpg", "rose_png", "z", ROGUE[:-4])}


def command(*arguments, **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "gidlite", *arguments], **pipes | options)


def animate(top: Path, *options: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of the command for the folder ``photos``."""
    run = command("animate", "photos/", *OPTIONS, *options, cwd=top)
    said = run.communicate(timeout=240)
    return run.returncode, *said


def photo(path: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, 10, 12, generator=generator)
    write_image(path, torch.nn.functional.interpolate(image, (160, 192), mode="bicubic")[0])


def loops(top: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (top / "photos_loops").glob("*.mp4")}


def written_at(top: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (top / "photos_loops").glob("*.mp4")}


def report(top: Path) -> dict:
    return json.loads((top / "photos_loops" / "report.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder in which photos were animated, and what was said of it."""
    top = tmp_path_factory.mktemp("folder")
    tiny("modes").save_pretrained(top / "model")
    (top / "photos" / "deeper").mkdir(parents=True)
    names = ("a.jpg", "rose.jpg", "rose.png", "z.JPG", ROGUE, "deeper/b.jpg", ".hidden.jpg")
    for seed, name in enumerate(names):
        photo(top / "photos" / name, seed)
    (top / "photos" / "bad.jpg").write_text("no photo")
    (top / "photos" / "notes.txt").write_text("no photo either")
    return top, animate(top, "--workers", "2")


@pytest.fixture
def top(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "top")
    return tmp_path / "top"


def test_all_photos_are_made_and_one_that_is_none_is_told(made):
    top, (code, said, errors) = made
    assert code == 2 and set(loops(top)) == LOOPS
    lines = said.splitlines()
    assert lines[0] == "6 photos, 0 done already; workers: 2."
    assert {line.split("  ")[0] for line in lines[1:]} == {
        plain(f"photos_loops/{name}") for name in LOOPS
    }
    assert [line for line in errors.splitlines() if line] == [
        "Error: photos/bad.jpg is not a known image; give a PNG, JPEG or WebP.",
        "Error: 1 of 6 photos could not be animated; see photos_loops/report.json.",
    ]
    told = report(top)
    assert list(told["photos"]) == sorted(told["photos"]) and told["folder"] == "../photos"
    totals = {key: told["totals"][key] for key in ("photos", "animated", "failed")}
    assert totals == {"photos": 6, "animated": 5, "failed": 1}
    assert told["photos"]["bad.jpg"]["error"] == errors.splitlines()[0][7:-1]
    rose = told["photos"]["rose.png"]
    assert (rose["video"], rose["wind"], rose["seed"]) == ("rose_png_loop.mp4", 0.5, 0)
    assert rose["settings"]["width"] == 192 and rose["farthest_px_of_256"] > 0
    slight = f"The motion is slight, {rose['farthest_px_of_256']:.1f} px of 256"
    assert (rose["farthest_px_of_256"] < 1) == any(n.startswith(slight) for n in rose["notes"])
    left = {path.name for path in (top / "photos_loops").iterdir()}
    assert left == LOOPS | {"report.json"}


def test_a_video_is_the_same_as_of_its_photo_alone(top):
    one = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # the encoder's slices
    run = command("animate", "photos/a.jpg", *OPTIONS, "-o", "a.mp4", cwd=top, env=one)
    assert run.wait(240) == 0
    assert (top / "a.mp4").read_bytes() == loops(top)["a_loop.mp4"]


def test_only_what_is_new_or_changed_is_made(top, made):
    before, when = loops(top), written_at(top)
    photo(top / "photos" / "bad.jpg", 90)  # was none
    photo(top / "photos" / "a.jpg", 91)  # is another
    photo(top / "photos" / "z.png", 92)  # is new, and has the name of one that is done
    (top / "photos_loops" / "rose_jpg_loop.mp4").write_bytes(b"cut short")
    code, said, _ = animate(top)
    assert code == 0 and said.startswith("7 photos, 3 done already; workers: ")
    after = loops(top)
    assert set(after) == LOOPS | {"bad_loop.mp4", "z_png_loop.mp4"}
    for name in LOOPS:
        assert (after[name] == before[name]) == (name != "a_loop.mp4"), name
    kept = {name for name, moment in when.items() if written_at(top)[name] == moment}
    assert kept == LOOPS - {"a_loop.mp4", "rose_jpg_loop.mp4"}
    assert report(top)["totals"]["animated"] == 7

    when = written_at(top)
    assert animate(top)[0] == 0 and written_at(top) == when  # nothing is left
    code, said, _ = animate(top, "--seed", "1")
    assert code == 0 and said.startswith("7 photos, 0 done already")
    assert {n for n, moment in when.items() if written_at(top)[n] == moment} == {"z_loop.mp4"}
    assert report(top)["photos"]["z.JPG"]["video"] == "z_JPG_loop.mp4"  # it has a twin now
    assert all(entry["seed"] == 1 for entry in report(top)["photos"].values())


def start(top: Path, *options: str) -> subprocess.Popen:
    """Start the command anew, in a session of its own, in which Ctrl-C is heard."""
    shutil.rmtree(top / "photos_loops")
    (top / "photos" / "bad.jpg").unlink()
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    arguments = ("animate", "photos", *OPTIONS, "--workers", "2", *options)
    return command(*arguments, cwd=top, start_new_session=True, **heard)


def size(path) -> int:
    """Return the size of a file, 0 of one that was removed since it was listed."""
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def wait_for(condition, run: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while not condition():
        if time.monotonic() > until or run.poll() is not None:
            os.killpg(run.pid, signal.SIGKILL)
            pytest.fail(run.communicate()[1])
        time.sleep(0.02)


def wait_until_all_are_gone(session: int) -> None:
    until, listed = time.monotonic() + 60, ["ps", "--no-headers", "-o", "pid", "--sid"]
    while subprocess.run([*listed, str(session)], stdout=subprocess.PIPE).stdout:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_killed_in_the_middle_it_goes_on_and_ends_as_if_nothing_had_been(top, made):
    run = start(top)
    wait_for(lambda: list((top / "photos_loops").glob("report.json")), run)
    run.kill()
    run.communicate(timeout=60)
    wait_until_all_are_gone(run.pid)
    expected, told = loops(made[0]), report(top)["photos"]
    assert loops(top).items() <= expected.items()
    done = [name for name, entry in told.items() if entry]
    assert done and {told[name]["video"] for name in done} <= set(loops(top))
    code, said, errors = animate(top)
    assert code == 0, errors
    assert said.startswith(f"5 photos, {len(done)} done already") and loops(top) == expected
    assert not list((top / "photos_loops").glob(".*"))


@pytest.mark.parametrize(("sent", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("to_all", [True, False])
def test_a_signal_ends_all_processes_and_leaves_nothing(top, sent, code, to_all):
    run = start(top, "--seconds", "3000", "--no-loop")  # a loop is written at its end
    hidden = (top / "photos_videos").glob
    wait_for(lambda: any(map(size, hidden(".gidlite-*.mp4"))), run)
    (os.killpg if to_all else os.kill)(run.pid, getattr(signal, sent))
    said = run.communicate(timeout=60)[1].strip()
    assert run.returncode == code and said.count("\n") == 0 and "Traceback" not in said, said
    wait_until_all_are_gone(run.pid)
    assert not (top / "photos_videos").exists()


def test_a_process_that_is_killed_costs_its_photo_alone(top):
    run = start(top)
    folder = top / "photos_loops"
    wait_for(lambda: list(folder.glob(".gidlite-*.mp4")), run)
    children = psutil.Process(run.pid).children()
    next(p for p in children if "spawn_main" in " ".join(p.cmdline())).kill()
    said = run.communicate(timeout=240)[1]
    assert run.returncode == 2 and "its process was killed" in said
    assert report(top)["totals"]["animated"] == 4 and len(loops(top)) == 4


def test_a_mistake_in_the_options_is_told_once(top):
    shutil.rmtree(top / "photos_loops")
    (top / "photos" / "bad.jpg").unlink()
    code, _, errors = animate(top, "--steps", "0")
    assert code == 2 and errors.strip().startswith("Error: number of steps is 0")
    assert errors.strip().count("\n") == 0 and not (top / "photos_loops").exists()


class Counted(Animator):
    """Writes nothing much, and returns how many threads torch and numba have."""

    def __call__(self, photo, output):
        import numba

        with written(output) as hidden:
            hidden.write_text(photo.name)
        return 10 * torch.get_num_threads() + numba.config.NUMBA_NUM_THREADS


def test_a_process_has_one_core_and_there_are_as_many_as_memory_allows(top, monkeypatch, capsys):
    monkeypatch.chdir(top)
    free = SimpleNamespace(available=1.5e9)
    monkeypatch.setattr(folder.psutil, "virtual_memory", lambda: free)
    place, output = Path("photos"), Path("photos/loops")  # may lie among the photos
    os.mkdir(output)
    os.link("photos/a.jpg", output / "a_loop.mp4")  # nothing is lost by another name
    before = Path("photos/a.jpg").read_bytes()
    for seed, workers in ((0, "workers: 1, as memory allows no more."), (1, "workers: 1.")):
        animator = Counted(Video(), PhotoOptions(seed=seed))
        with pytest.raises(GidliteError, match="1 of 6 photos"):
            folder.animate_folder(place, output, animator, 2 - seed)
        said = capsys.readouterr()
        assert said.out.startswith(f"6 photos, 0 done already; {workers}")
        assert "photos/loops/a_loop.mp4 is an input and would be lost" in said.err
    entries = json.loads((output / "report.json").read_text())["photos"]
    assert entries["z.JPG"]["farthest_px_of_256"] == 11
    assert Path("photos/a.jpg").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("photos", "--xt", "x.png"), "--xt is for one photo, and photos is a folder"),
        (("photos", "--mask", "photos/a.jpg"), "--mask is for one photo"),
        (("photos", "--still", "1,1"), "--still is for one photo"),
        (("photos", "--move", "1,1"), "--move is for one photo"),
        (("photos", "--workers", "0"), "--workers is 0"),
        (("photos", "--wind", "strong"), "--wind is strong"),
        (("photos", "-o", "x.mp4"), "--output is x.mp4; name a folder"),
        (("photos", "-o", ""), "--output is .; name a folder"),
        (("photos", "-o", "photos/a.jpg"), "a.jpg"),
        (("photos/a.jpg", "--workers", "2"), "--workers is for a folder"),
        (("photos/deeper/nothing",), "does not exist"),
        (("model",), "model holds no photo"),
        (("photos/deeper", "-o", "photos_loops"), "report.json is of the photos in ../photos;"),
        (("photos", "-o", "other"), "report.json is no report of gidlite animate"),
        (("twins",), "2 photos would be twins_loops/a_jpg_loop.mp4"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_one_sentence(top, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(top)
    os.mkdir("other")
    Path("other/report.json").write_text('{"photos": []}')
    os.mkdir("twins")
    for name in ("a.jpg", "a.png", "a_jpg.png"):
        (top / "twins" / name).touch()
    before = {path: path.read_bytes() for path in top.rglob("*") if path.is_file()}
    assert gidlite("animate", *arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.strip().count("\n") == 0
    assert before == {path: path.read_bytes() for path in top.rglob("*") if path.is_file()}
    assert {path.name for path in top.iterdir()} == {
        "photos", "photos_loops", "model", "other", "twins",
    }  # fmt: skip
