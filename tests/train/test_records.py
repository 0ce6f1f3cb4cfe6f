"""What a run leaves behind: checkpoints, log, sheets; and averaged weights."""

import errno

import pytest
import torch
from tiny_task import TinyTask, rows, tiny_config, train_task

from gidlite import train
from gidlite.errors import GidliteError
from gidlite.media import read_image
from gidlite.train import PARTS, load_checkpoint, save_checkpoint
from gidlite.train.loop import TASKS

META = {"config": {}}


def test_a_checkpoint_gives_back_what_was_saved_and_replaces_the_one_before(tmp_path):
    """Among it tied tensors, a transposed one, an empty one and a number."""
    big, tied = torch.arange(9_000.0).view(30, 300), torch.ones(25)
    saved = {
        "big": big, "tied.a": tied, "tied.b": tied, "transposed": big[:4].T, "empty": torch.ones(0),
        "count": torch.tensor(7),
    }  # fmt: skip
    save_checkpoint(tmp_path, {"old": tied}, META | {"step": 2})
    save_checkpoint(tmp_path, saved, META | {"step": 3})
    tensors, meta = load_checkpoint(tmp_path)
    assert meta["step"] == 3 and tensors.keys() == saved.keys()
    for name, tensor in saved.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoint", "state.safetensors"]


def test_a_save_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    def half(_, path, __):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "full")

    save_checkpoint(tmp_path, {"a": torch.ones(1)}, META | {"step": 1})
    monkeypatch.setattr(train, "save_file", half)
    with pytest.raises(GidliteError, match="no space left"):
        save_checkpoint(tmp_path, {"a": torch.zeros(1)}, META | {"step": 2})
    assert load_checkpoint(tmp_path)[1]["step"] == 1


def test_averaged_weights_are_the_recursion_over_steps(tmp_path):
    task, history = TinyTask(), []

    def remember(*_):
        history.append([p.detach().clone() for p in task.model.parameters()])

    averaged = train_task(tiny_config(), task, tmp_path, report=remember)
    expected = history[0]
    for weights in history[1:]:
        expected = [0.9 * old + 0.1 * new for old, new in zip(expected, weights, strict=True)]
    for one, two, last in zip(averaged.parameters(), expected, history[-1], strict=True):
        assert torch.allclose(one, two, atol=1e-6) and not torch.allclose(one, last, atol=1e-4)


def test_gradients_are_clipped_and_logged_as_they_were(tmp_path):
    task = TinyTask()
    train_task(tiny_config(clip_norm=1e-3), task, tmp_path)
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


def test_sheets_are_drawn_by_the_averaged_model_at_checkpoints(tmp_path):
    class Drawing(TinyTask):
        def sheet(self, model):
            assert not model.training and not torch.is_grad_enabled()
            self.drew = next(model.parameters()).detach().clone()
            return torch.tensor([1.0, 0.5, 0.0])[:, None, None].expand(3, 16, 20)

    task = Drawing()
    averaged = train_task(tiny_config(steps=3), task, tmp_path, checkpoint_minutes=0)
    names = sorted(path.name for path in (tmp_path / "sheets").iterdir())
    assert names == [f"step_000000{step}.png" for step in (1, 2, 3)]
    image = read_image(tmp_path / "sheets" / names[-1])
    assert image.shape == (3, 16, 20) and image[1].mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(task.drew, next(averaged.parameters()))


def test_every_part_has_a_task():
    assert set(TASKS) == set(PARTS)
