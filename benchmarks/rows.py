"""One row of the table of ``python -m benchmarks``, and what several benchmarks share."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gidlite.__main__ import PATIENT

GIDLITE = (sys.executable, "-m", "gidlite")


@dataclass(frozen=True)
class Row:
    """A figure beside its target and the same figure of a peer, measured in the same run."""

    work: str
    value: float
    unit: str
    target: float | None = None
    most: bool = True  # the target is the largest good value; else the smallest
    peer: str = ""
    beside: float | None = None  # the peer's value

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.most else self.value >= self.target

    def cells(self) -> list[str]:
        """Return the texts of the row."""
        sign = "≤" if self.most else "≥"
        target = "" if self.target is None else f"{sign} {self.target:g}"
        verdict = {None: "", True: "met", False: "missed"}[self.met]
        peer = "" if self.beside is None else f"{self.beside:.3g}  {self.peer}"
        return [self.work, f"{self.value:.3g} {self.unit}", target, verdict, peer]


@dataclass(frozen=True)
class Cost:
    """Of a finished process."""

    seconds: float
    gigabytes: float  # of memory, at the most; children not counted, the caller's share at start is

    def fastest(self, other: "Cost | None") -> "Cost":
        """Return the cost with the shorter time; other work on the machine only ever adds."""
        return self if other is None else replace(self, seconds=min(self.seconds, other.seconds))


def run(command: Sequence[str | Path], **environment: str) -> Cost:
    """Run a command to its end and return what it took; raise if it fails."""
    started = time.perf_counter()
    inherited = {k: v for k, v in os.environ.items() if k not in PATIENT}
    process = subprocess.Popen(
        [str(part) for part in command], env=inherited | environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} failed: {said.decode(errors='replace')}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, usage.ru_maxrss * unit / 1e9)


@contextmanager
def busy(processes: int = 2) -> Iterator[None]:
    """Keep so many processes computing beside what is measured."""
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in load:
            process.kill()
            process.wait()
