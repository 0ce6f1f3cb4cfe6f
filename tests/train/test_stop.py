"""Time limits, signals and several processes: when a run stops, and what it leaves."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_task import TinyTask, events, rows, tiny_config, train_task

from gidlite import train as setup
from gidlite.errors import GidliteError
from gidlite.motion.normalize import FrequencyStats, save_stats
from gidlite.prior import AmplitudeNet
from gidlite.train import load_checkpoint
from gidlite.train import trainer as engine

PROGRAM = Path(__file__).with_name("tiny_task.py")
LONG = {"steps": 100_000}


def start(out: Path, task: dict, **environment: str) -> subprocess.Popen:
    command = [sys.executable, PROGRAM, out, "--config", json.dumps(LONG), "--task"]
    return subprocess.Popen(
        [*command, json.dumps(task)], env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_rows(out: Path, count: int, processes: list[subprocess.Popen]) -> None:
    """Wait until a log has rows, or fail with what a dead process said."""
    deadline = time.monotonic() + 600  # machines under load
    while not (out / "log.csv").exists() or len(rows(out)) < count:
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.05)


def test_minutes_end_a_run_between_steps(tmp_path, monkeypatch):
    """By a clock that only the task moves: at 10 s a step the seventh would end too late."""
    task = TinyTask()
    clock = SimpleNamespace(monotonic=lambda: 10.0 * task.calls)
    for module in (engine, setup):
        monkeypatch.setattr(module, "time", clock)
    train_task(tiny_config(**LONG), task, tmp_path, minutes=1, started=0.0)
    assert load_checkpoint(tmp_path)[1]["step"] == 6
    assert [float(row["seconds"]) for row in rows(tmp_path)] == [10.0 * n for n in range(1, 7)]


def test_an_interrupt_ends_a_run_at_its_last_whole_step(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    train_task(tiny_config(**LONG), TinyTask(signal_at=4), tmp_path)
    assert load_checkpoint(tmp_path)[1]["step"] == 4
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_saves_a_checkpoint_and_exits_cleanly(tmp_path):
    process = start(tmp_path, {"pause": 0.02})
    wait_for_rows(tmp_path, 3, [process])
    process.send_signal(signal.SIGTERM)
    assert process.wait(600) == 0, process.communicate()[1]
    step = load_checkpoint(tmp_path)[1]["step"]
    assert step == int(rows(tmp_path)[-1]["step"]) >= 3
    train_task(tiny_config(**LONG), TinyTask(), tmp_path, minutes=0, resume=True)
    assert int(rows(tmp_path)[-1]["step"]) == step + 1


def test_two_processes_do_what_one_does(tmp_path):
    """Losses, weights, a rollback and a stop, though only the second process meets both.

    The loss has no noise: noise differs between one process and two, because each process draws
    its own.
    """
    both, one = tmp_path / "both", tmp_path / "one"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    tasks = {"pause": 0.1}, {"pause": 0.1, "broken_at": 2}
    processes = [
        start(both, task, RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", **group)
        for rank, task in enumerate(tasks)
    ]
    wait_for_rows(both, 6, processes)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        assert process.wait(600) == 0, process.communicate()[1]

    tensors, meta = load_checkpoint(both)
    task = TinyTask(broken_at=2, signal_at=meta["step"] + 3)  # 2 steps and the broken one are lost
    train_task(tiny_config(**LONG), task, one)
    expected, its_meta = load_checkpoint(one)
    assert meta["step"] == its_meta["step"] and events(both) == events(one) != []
    for here, there in zip(rows(both), rows(one), strict=True):
        assert float(here["loss"]) == pytest.approx(float(there["loss"]), rel=1e-4)
    for name, tensor in expected.items():
        assert torch.allclose(tensors[name], tensor, rtol=1e-3, atol=1e-4), name
    did = [json.loads((both / f"did_{rank}.json").read_text()) for rank in (0, 1)]
    assert [process["share"] for process in did] == [task.share / 2] * 2
    first, second = (set(process["made"]) for process in did)
    # Alone, the batch of the step that the signal ends is made, too.
    assert not first & second and set(task.dataset.made[:-2]) <= first | second
    # Each makes a whole batch of two at a time, one of which may not be due yet.
    assert len(first | second) <= len(set(task.dataset.made)) + 2


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        engine, "join_processes", lambda _: (SimpleNamespace(num_processes=3, process_index=0), "")
    )
    with pytest.raises(GidliteError, match="3 processes cannot share equally"):
        train_task(tiny_config(), TinyTask(), tmp_path)


RUN = """
import json, sys, torch
from pathlib import Path
from gidlite import train as setup
from gidlite.data import Example, MotionDataset, held_out
from gidlite.train import RunOptions, TrainConfig, tasks
from gidlite.train.loop import run_training

class Slow:
    def example(self, number, seed):
        if Path(sys.argv[1], "log.csv").exists():
            import time; time.sleep(float(sys.argv[3]))
        volume = torch.ones(4, 2, 32, 32, dtype=torch.complex64)
        return Example(torch.rand(3, 64, 64), volume, torch.ones(32, 32, dtype=torch.bool))

setup.make_dataset = lambda *a, **k: MotionDataset([Slow()])
tasks.held_out = lambda dataset, count, *a, **k: held_out(dataset, 4, *a, **k)
config = TrainConfig(**json.loads(sys.argv[2]))
options = RunOptions(workers=1, log_every=1, report=lambda *a: print(*a, flush=True))
run_training(config, sys.argv[1], options=options)
"""
TINY_RUN = {
    "part": "vae", "num_frequencies": 4, "height": 64, "width": 64, "scenes_per_step": 2,
    "slices_per_scene": 2, "pool_size": 8, "steps": 100_000, "mixed_precision": False,
}  # fmt: skip


def start_run(out: Path, pause: float) -> subprocess.Popen:
    """Start a run with a worker, in a session of its own, that makes a scene in ``pause`` s."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, out, json.dumps(TINY_RUN), str(pause)], start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def wait_for_the_end_of(session: int) -> None:
    deadline, listed = time.monotonic() + 60, ["ps", "--no-headers", "-o", "pid", "--sid"]
    while subprocess.run([*listed, str(session)], stdout=subprocess.PIPE, check=False).stdout:
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_signal_to_a_run_with_a_worker(name, tmp_path):
    """As a terminal sends it, to both, or to the run alone; nothing half-written stays."""
    process = start_run(tmp_path, 0.0)
    assert process.stdout.readline() and process.stdout.readline(), process.stderr.read()
    number, begun = getattr(signal, name), time.monotonic()
    if name == "SIGKILL":
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    wait_for_the_end_of(process.pid)
    assert process.returncode == (-9 if name == "SIGKILL" else 0) and time.monotonic() - begun < 30
    assert name == "SIGKILL" or not said.strip(), said
    assert load_checkpoint(tmp_path)[1]["step"] >= (0 if name == "SIGKILL" else 2)
    assert name == "SIGKILL" or (tmp_path / "model" / "config.json").exists()
    assert not list(tmp_path.rglob(".gidlite-*")) or name == "SIGKILL"


def test_a_run_that_prepares_answers_at_once_and_has_its_folder_alone(tmp_path):
    """Scenes take 60 s each from the moment on at which the run has its log."""
    process = start_run(tmp_path, 60.0)
    while not (tmp_path / "log.csv").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    other = subprocess.run(process.args, capture_output=True, text=True, check=False)
    assert "GidliteError: another process is writing to" in other.stderr
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    wait_for_the_end_of(process.pid)
    assert time.monotonic() - begun < 30 and not list(tmp_path.rglob(".gidlite-*"))


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_permissions_of_any_new_file(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        train_task(tiny_config(steps=1), TinyTask(), tmp_path)
        setup.write_network(AmplitudeNet(4, 16), tmp_path / "model")
        save_stats(tmp_path / "model" / setup.STATS, FrequencyStats(torch.ones(4)))
    finally:
        os.umask(before)
    found = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()}
    assert len(found) == 6 and set(found.values()) == {mode}, found
