"""Lesson 01: motion textures."""

import torch
from footage import footage

from exercises import number, tensor
from gidlite.motion.flow import optical_flow


def _column(answer):
    # By its definition: the column of every frame, one frame below another.
    frames = footage().frames
    expected = torch.stack([frame[:, :, 77] for frame in frames], dim=1)
    return tensor(expected, atol=0, hint="time runs downwards, see `xt_slice`.")(answer)


def _rightmost(answer):
    course = footage().motion[:, 0, 51, 77]
    best = max(range(len(course)), key=lambda t: course[t])
    if abs(int(answer) - best) <= 1:
        return None
    return "dx is the first of the two displacements, and rows come before columns."


def _noise(answer):
    clip = footage()
    pair = clip.frames[[0, 10]] / 255
    noise = 0.1 * torch.randn(pair.shape, generator=torch.Generator().manual_seed(1))
    gaps = [
        (optical_flow(*two) - clip.motion[10]).norm(dim=0).mean()
        for two in (pair, (pair + noise).clamp(0, 1))
    ]
    hint = "compare with the true motion of frame 10, and divide the noisy error by the other."
    return number((gaps[1] / gaps[0]).item(), rel=0.15, hint=hint)(answer)


CHECKS = {"1": _column, "2": _rightmost, "3": _noise}
