"""The table of figures tells met from missed, and leaves no load behind."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.rows import Cost, Row, busy, run

ROOT = Path(__file__).parents[2]


def test_a_row_knows_its_target():
    assert Row("a", 2.0, "s", 2.5).met and not Row("a", 2.6, "s", 2.5).met
    assert Row("a", 60.0, "fps", 60, most=False).met
    assert not Row("a", 59.0, "fps", 60, most=False).met
    assert Row("a", 1.0, "s").met is None
    cells = Row("a", 1.234, "s", 1, peer="other", beside=2.0).cells()
    assert cells == ["a", "1.23 s", "≤ 1", "missed", "2  other"]


def test_what_a_command_costs():
    """Asked by a small process: what starts a command counts for it until it runs."""
    held = "import time; x = bytearray(200_000_000); x[::4096] = b'1' * 48829; time.sleep(0.2)"
    asked = "import sys; from benchmarks.rows import run; cost = run([sys.executable, '-c', {!r}]);"
    asked = asked.format(held) + "print(cost.seconds, cost.gigabytes)"
    told = subprocess.run(
        [sys.executable, "-c", asked], stdout=subprocess.PIPE, cwd=ROOT, check=True
    )
    seconds, gigabytes = map(float, told.stdout.split())
    assert seconds > 0.2 and 0.2 < gigabytes < 0.3


def test_the_fastest_counts():
    cost = Cost(0.3, 1.0)
    assert cost.fastest(Cost(0.1, 9.0)) == Cost(0.1, 1.0) and cost.fastest(None) == cost


def test_a_command_that_fails_is_no_figure():
    with pytest.raises(RuntimeError, match="why not"):
        run([sys.executable, "-c", "import sys; sys.exit('why not')"])


def test_load_ends_with_the_measurement():
    before = set(psutil.Process().children())
    with pytest.raises(ZeroDivisionError), busy(2):
        load = set(psutil.Process().children()) - before
        assert len(load) == 2
        raise ZeroDivisionError
    assert not any(process.is_running() for process in load)
