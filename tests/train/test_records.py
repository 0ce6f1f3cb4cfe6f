"""What a run leaves behind: checkpoints, log, TensorBoard events, sheets; and averaged weights."""

import sys

import pytest
import torch
from tiny_task import TinyTask, rows, tiny_config

from gidlite.media import read_image
from gidlite.train import PARTS, Pace
from gidlite.train.loop import TASKS, load_checkpoint, save_sharded, train_task

EVERY = Pace(log_every=1)


def test_shards_are_under_16_megabytes_and_give_back_what_was_saved(tmp_path):
    """Among them a tensor that fits no shard, tied ones, an empty one and a number."""
    big = torch.arange(9_000_000, dtype=torch.float32).view(3000, 3000)
    tied = torch.ones(2_500_000)
    saved = {
        "big": big, "tied.a": tied, "tied.b": tied, "transposed": big[:4].T, "empty": torch.ones(0),
        "count": torch.tensor(7),
    }  # fmt: skip
    save_sharded(saved, tmp_path / "checkpoint", {"step": 3})
    shards = list((tmp_path / "checkpoint").glob("*.safetensors"))
    assert len(shards) >= 4 and max(shard.stat().st_size for shard in shards) < 16_000_000
    tensors, meta = load_checkpoint(tmp_path)
    assert meta["step"] == 3 and tensors.keys() == saved.keys()
    for name, tensor in saved.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name


def test_a_save_that_was_interrupted_leaves_the_one_before(tmp_path):
    save_sharded({"a": torch.ones(1)}, tmp_path / "checkpoint", {"step": 1})
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    (tmp_path / "checkpoint.new").mkdir()
    assert load_checkpoint(tmp_path)[1]["step"] == 1
    save_sharded({"a": torch.zeros(1)}, tmp_path / "checkpoint", {"step": 2})
    assert load_checkpoint(tmp_path)[0]["a"].item() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_averaged_weights_are_the_recursion_over_steps(tmp_path):
    task, history = TinyTask(), []

    def remember(*_):
        history.append([p.detach().clone() for p in task.model.parameters()])

    averaged = train_task(tiny_config(), task, tmp_path, pace=EVERY, report=remember)
    expected = history[0]
    for weights in history[1:]:
        expected = [0.9 * old + 0.1 * new for old, new in zip(expected, weights, strict=True)]
    for one, two, last in zip(averaged.parameters(), expected, history[-1], strict=True):
        assert torch.allclose(one, two, atol=1e-6) and not torch.allclose(one, last, atol=1e-4)


def test_gradients_are_clipped_and_logged_as_they_were(tmp_path):
    task = TinyTask()
    train_task(tiny_config(clip_norm=1e-3), task, tmp_path, pace=EVERY)
    norm = torch.cat([p.grad.flatten() for p in task.model.parameters()]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-2)
    assert float(rows(tmp_path)[-1]["gradient_norm"]) > 0.1


@pytest.mark.parametrize("mixed", [True, False])
def test_precision_follows_the_config_and_random_state_is_the_callers(mixed, tmp_path):
    class Watching(TinyTask):
        def loss(self, batch, generator):
            self.dtype = self.model(batch["x"]).dtype
            return super().loss(batch, generator)

    task = Watching(noise=0.1)
    before = torch.get_rng_state()
    train_task(tiny_config(mixed_precision=mixed, steps=2), task, tmp_path)
    assert task.dtype == (torch.bfloat16 if mixed else torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


def test_tensorboard_shows_the_csv(tmp_path, monkeypatch):
    """Before and after a return to a checkpoint."""
    files = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    # Files of one second are told apart by a counter of the process, and read as text is sorted:
    # the tenth before the ninth.
    monkeypatch.setattr(files, "_global_uid", files.AtomicCounter(100))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_task(tiny_config(), TinyTask(broken_at=7), tmp_path, pace=EVERY)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in board.Scalars("loss")]
    logged = [(int(row["step"]), float(row["loss"])) for row in rows(tmp_path)]
    assert [step for step, _ in shown] == [step for step, _ in logged] == list(range(1, 13))
    assert [v for _, v in shown] == pytest.approx([v for _, v in logged], rel=1e-5)


def test_without_tensorboard_there_is_the_csv_and_one_message(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train_task(tiny_config(), TinyTask(broken_at=7), tmp_path, pace=EVERY)
    assert len(rows(tmp_path)) == 12
    assert sum("tensorboard is not installed" in text for text in caplog.messages) == 1


def test_sheets_are_drawn_by_the_averaged_model_at_checkpoints(tmp_path):
    class Drawing(TinyTask):
        def sheet(self, model):
            assert not model.training and not torch.is_grad_enabled()
            self.drew = next(model.parameters()).detach().clone()
            return torch.tensor([1.0, 0.5, 0.0])[:, None, None].expand(3, 16, 20)

    task = Drawing()
    pace = Pace(checkpoint_minutes=0)
    averaged = train_task(tiny_config(steps=3), task, tmp_path, pace=pace)
    names = sorted(path.name for path in (tmp_path / "sheets").iterdir())
    assert names == [f"step_000000{step}.png" for step in (1, 2, 3)]
    image = read_image(tmp_path / "sheets" / names[-1])
    assert image.shape == (3, 16, 20) and image[1].mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(task.drew, next(averaged.parameters()))


def test_every_part_has_a_task():
    assert set(TASKS) == set(PARTS)
