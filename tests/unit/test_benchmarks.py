"""The table of figures tells met from missed, and leaves no load behind."""

import sys

import psutil
import pytest

from benchmarks.rows import Cost, Row, busy, run


def test_a_row_knows_its_target():
    assert Row("a", 2.0, "s", 2.5).met and not Row("a", 2.6, "s", 2.5).met
    assert Row("a", 60.0, "fps", 60, most=False).met
    assert not Row("a", 59.0, "fps", 60, most=False).met
    assert Row("a", 1.0, "s").met is None
    cells = Row("a", 1.234, "s", 1, peer="other", beside=2.0).cells()
    assert cells == ["a", "1.23 s", "≤ 1", "missed", "2  other"]


def test_what_a_command_costs():
    size = psutil.Process().memory_info().rss + 10**8
    code = f"import time; x = bytearray({size}); x[::4096] = b'1' * len(x[::4096]); time.sleep(0.2)"
    cost = run([sys.executable, "-c", code])
    assert cost.seconds > 0.2 and size < 1e9 * cost.gigabytes < size + 10**8
    assert cost.fastest(Cost(0.1, 9.0)).seconds == 0.1 and cost.fastest(None) == cost


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
