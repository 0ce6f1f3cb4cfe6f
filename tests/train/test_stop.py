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
