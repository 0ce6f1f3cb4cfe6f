"""Killed at any moment, a command loses nothing, and run again it ends as if nothing had been.

``GIDLITE_KILLS=20`` kills each so often, at moments spread over its duration.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from gidlite.media import write_image
from gidlite.media.encode import write_video

KILLS = int(os.environ.get("GIDLITE_KILLS", "2"))
TINY = {
    "part": "vae", "num_frequencies": 4, "height": 64, "width": 64, "scenes_per_step": 2,
    "slices_per_scene": 2, "pool_size": 8, "steps": 8, "warmup_steps": 1,
    "autoencoder_channels": (8, 16), "mixed_precision": False,
}  # fmt: skip


def extract(folder: Path, out: Path) -> None:
    from gidlite.data.extract import Settings, run_extraction

    shape = Settings(height=64, width=96, num_frames=30, num_frequencies=8)
    run_extraction([folder], out, settings=shape, workers=1)


def train(_: Path, out: Path) -> None:
    from gidlite import train as setup
    from gidlite.data import Example, MotionDataset
    from gidlite.train import RunOptions, TrainConfig, checkpoint_file, tasks
    from gidlite.train.loop import run_training

    class Noise:
        def example(self, number: int, seed: int) -> Example:
            generator = torch.Generator().manual_seed(number + seed)
            volume = torch.randn(4, 2, 32, 32, dtype=torch.complex64, generator=generator)
            sure = torch.ones(32, 32, dtype=torch.bool)
            return Example(torch.rand(3, 64, 64, generator=generator), volume, sure)

    setup.make_dataset = lambda *a, **k: MotionDataset([Noise()])
    tasks.Task.sheet = lambda *a: torch.zeros(3, 8, 8)
    resume = checkpoint_file(out).exists()
    options = RunOptions(resume=resume, checkpoint_minutes=0, log_every=1)
    run_training(TrainConfig(**TINY), out, options=options)


def animate(folder: Path, out: Path) -> None:
    from gidlite.__main__ import app

    options = ["--width", "64", "--seconds", "2", "--fps", "10", "--steps", "2"]
    app(["animate", str(folder / "photo.png"), "-o", str(out / "loop.mp4"), *options])


class Mean(torch.nn.Module):
    """Features that take no time."""

    label = "mean colours"

    def forward(self, batch):
        return batch.float().mean((-1, -2)).flatten(1)


def evaluate(folder: Path, out: Path) -> None:
    from gidlite import cli
    from gidlite.evaluate.videos import Reading, VideoSettings, evaluate_videos

    settings = VideoSettings(("fid", "fvd"), draws=3, reading=Reading(10, 32, 16, 40))
    networks = {"inception": Mean(), "i3d": Mean()}
    options = {"cache": out / "cache", "settings": settings}
    report = evaluate_videos(folder / "real", folder / "fake", networks, **options)
    cli.show_report([], out / "report.json", report.to_json())


TASKS = {task.__name__: task for task in (extract, train, animate, evaluate)}


def serve() -> None:
    """Fork a process for every line of input, so that none waits for imports; tell how it ends."""
    import cv2

    import gidlite.evaluate.videos
    import gidlite.pipeline
    import gidlite.train.loop  # noqa: F401

    for line in sys.stdin:
        name, folder, out = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            torch.set_num_threads(1)  # threads do not outlive a fork
            cv2.setNumThreads(1)
            os.dup2(2, 1)
            code = 1
            try:
                TASKS[name](Path(folder), Path(out))
                code = 0
            except SystemExit as end:
                code = end.code or 0
            finally:
                os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Server:
    """Runs the tasks above, and kills them."""

    def __init__(self, inputs: Path) -> None:
        self.inputs = inputs
        command = [sys.executable, __file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, **pipes)

    def run(self, name: str, out: Path, kill_after: float | None = None) -> tuple[int, float]:
        """Return exit code and seconds of a task; -9 if it was killed."""
        self.process.stdin.write(f"{name}\t{self.inputs}\t{out}\n")
        pid, begun = int(self.process.stdout.readline()), time.monotonic()
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline()), time.monotonic() - begun


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    inputs = tmp_path_factory.mktemp("inputs")
    generator = torch.Generator().manual_seed(0)
    noise = functional.interpolate(torch.rand(3, 3, 20, 30, generator=generator), (64, 110))
    for number in range(3):
        film = [noise[number].roll(round(3 * (t % 16 > 7)), -1)[:, :, :96] for t in range(40)]
        write_video(inputs / f"{number}.mp4", film, fps=30)
    write_image(inputs / "photo.png", noise[0])
    for side in ("real", "fake"):
        (inputs / side).mkdir()
        for number in range(3):
            film = torch.randint(0, 256, (40, 3, 16, 32), generator=generator)
            write_video(inputs / side / f"{number}.mp4", film.to(torch.uint8), fps=10)
    server = Server(inputs)
    yield server
    server.process.stdin.close()
    server.process.wait(20)


def digest(path: Path) -> str:
    """Return what a file holds, without how long it took."""
    if path.suffix == ".csv":
        rows = [row.split(",") for row in path.read_text().splitlines()]
        return str([[row[0], *row[2:]] for row in rows])
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        content.pop("seconds", None)
        return json.dumps(content)
    if path.suffix == ".safetensors" and path.parent.name != "shards":  # metadata have no order
        with safe_open(path, framework="pt") as file:
            sums = {k: file.get_tensor(k).double().sum().item() for k in sorted(file.keys())}
            meta = json.loads((file.metadata() or {}).get("run", "{}"))
        return str((meta.get("step"), sums))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(out: Path) -> dict[str, str]:
    found = (p for p in out.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {str(path.relative_to(out)): digest(path) for path in found}


# What grows while a task runs; any other file is there as it will be, or not at all.
GROWS = ("log.csv", "checkpoint/state.safetensors", "sheets")


@pytest.mark.parametrize("name", TASKS)
def test_killed_at_any_moment_and_run_again_it_ends_as_if_nothing_had_been(name, server, tmp_path):
    assert server.run(name, tmp_path / "whole")[0] == 0
    expected, moments = contents(tmp_path / "whole"), random.Random(0)
    code, seconds = server.run(name, tmp_path / "again")  # the first is slower
    assert code == 0 and contents(tmp_path / "again") == expected != {}
    for number in range(KILLS):
        out = tmp_path / str(number)
        moment = (number + moments.random()) / KILLS * seconds
        while server.run(name, out, kill_after=moment)[0] == 0:
            shutil.rmtree(out)
            moment *= 0.7  # it was quicker this time
        for path, content in contents(out).items():
            assert path.startswith(GROWS) or content == expected[path], (path, moment)
        assert server.run(name, out)[0] == 0, f"killed after {moment:.2f} s"
        assert contents(out) == expected, f"killed after {moment:.2f} s of {seconds:.2f}"
    print(f"{name}: killed {KILLS} times within {seconds:.1f} s")


if __name__ == "__main__":
    serve()
