"""The table of ways to warp: what each column says, on pairs whose answer is known."""

import torch
from torch.nn import functional

from gidlite.data.pairs import Pair
from gidlite.render.network import SynthesisNet
from studies.warping import METHODS, backward_warp, evaluate_render, render_tables


def shifted_pair(shift=3):
    """A picture moved right by whole pixels; its left border is uncovered."""
    coarse = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    wide = functional.interpolate(coarse, (48, 64 + shift), mode="bicubic")[0].clamp(0, 1)
    wide = (wide * 255).round().byte()
    first, second = wide[..., shift:], wide[..., :64]
    motion = torch.tensor([float(shift), 0.0])[:, None, None].expand(2, 48, 64).contiguous()
    hidden = torch.zeros(1, 48, 64, dtype=torch.bool)
    hidden[..., :shift] = True
    metric = motion.norm(dim=0, keepdim=True)
    return Pair(first, second, motion, metric, torch.ones_like(hidden), hidden)


def test_backward_warp_is_exact_for_whole_pixels():
    pair = shifted_pair()
    moved = backward_warp(pair.first.float() / 255, pair.motion)
    assert (moved - pair.second.float() / 255)[..., 3:].abs().max() < 1e-5


def test_scores_of_a_shift_by_whole_pixels():
    net = SynthesisNet((8, 8, 8)).eval().requires_grad_(False)
    done = []
    report = evaluate_render(
        [("shift", "scenes", [shifted_pair()] * 2)], net, count=1,
        progress=lambda *numbers: done.append(numbers),
    )  # fmt: skip
    scores = report.cases[0]["scores"]
    assert done == [(1, 1)] and tuple(scores) == METHODS and report.cases[0]["frames"] == 2
    for method in ("softmax", "average", "backward"):
        assert scores[method]["psnr_moving"] > 60
        assert scores[method]["psnr_hidden"] < 50  # what was never seen is only guessed
    assert scores["still"]["psnr"] < scores["softmax"]["psnr"] - 5
    assert all(row["lpips"] is None for row in scores.values())
    assert report.mean("scenes")["softmax"] == scores["softmax"]
    assert report.to_json()["mean"].keys() == {"scenes"}
    assert next(iter(render_tables(report))).row_count == len(METHODS)
    assert report.sheet().shape[0] == 3
