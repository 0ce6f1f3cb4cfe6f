"""A loss that is not finite: back to the last checkpoint, slower; and at last an error."""

import pytest
import torch
from tiny_task import TinyTask, events, rows, tiny_config, train_task

from gidlite.errors import GidliteError
from gidlite.train import learning_rate, load_checkpoint


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_after_a_rollback_the_run_is_one_of_half_the_learning_rate(how, tmp_path):
    """There is no checkpoint but the first, so everything is as at step 0 except the rate."""
    config, speeds = tiny_config(), []
    task = TinyTask(noise=0.1, broken_at=7, how=how)
    report = lambda *told: speeds.append(told[2])  # noqa: E731
    trained = train_task(config, task, tmp_path / "a", report=report)
    slower = tiny_config(learning_rate=config.learning_rate / 2)
    expected = train_task(slower, TinyTask(noise=0.1), tmp_path / "b")
    for one, two in zip(trained.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, two)
    assert task.calls == 7 + 1 + 12 == len(speeds) + 1 and min(speeds) > 0
    assert [row["loss"] for row in rows(tmp_path / "a")] == [
        row["loss"] for row in rows(tmp_path / "b")
    ]
    (event,) = events(tmp_path / "a")
    assert event == f"the {how} was not finite at step 7: back to step 0, learning rate halved"


def test_a_rollback_loses_no_more_than_the_last_checkpoint(tmp_path):
    config, task = tiny_config(), TinyTask(broken_at=7, broken=2)
    train_task(config, task, tmp_path, checkpoint_minutes=0)
    assert task.calls == 12 + 2
    steps, rates = zip(
        *((int(r["step"]), float(r["learning_rate"])) for r in rows(tmp_path)), strict=True
    )
    assert steps == tuple(range(1, 13))
    halved = [0.25 if step > 7 else 1 for step in steps]
    full = [learning_rate(config, step - 1) for step in steps]
    assert rates == pytest.approx([h * f for h, f in zip(halved, full, strict=True)], rel=1e-5)
    assert load_checkpoint(tmp_path)[1]["rollbacks"] == 2


def test_the_lower_rate_outlives_a_resume(tmp_path):
    train_task(tiny_config(), TinyTask(broken_at=3, signal_at=7), tmp_path)
    assert load_checkpoint(tmp_path)[1]["step"] == 3
    train_task(tiny_config(), TinyTask(), tmp_path, resume=True)
    last = float(rows(tmp_path)[-1]["learning_rate"])
    assert last == pytest.approx(learning_rate(tiny_config(), 11) / 2, rel=1e-5)


def test_the_fourth_time_is_an_error(tmp_path):
    """It broke at step 5 first, and from then on at once."""
    with pytest.raises(GidliteError, match="at step 0, after 3 returns"):
        train_task(tiny_config(), TinyTask(broken_at=5, broken=10**6), tmp_path)
    assert ["given up" in event for event in events(tmp_path)] == [False] * 3 + [True]
