"""Networks that are not told something, for the rows without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gidlite.prior import FEATURE_CHANNELS
from gidlite.train.loop import TASKS

_COLORS = 3  # the first features of a photo are its colours
# What a row may be blind to: by part, the weights that stay 0 and the inputs they belong to.
# Without the features photos are seen as colours alone; without the amplitude every place is
# expected to move as much as any other, though not every bin as much as every other.
BLIND: dict[str, dict[str, Callable[[nn.Module], tuple[Tensor, slice]]]] = {
    "features": {
        "amplitude": lambda net: (net.fine.weight, slice(_COLORS, None)),
        "prior": lambda net: (net.condition["reduce"].weight, slice(_COLORS, FEATURE_CHANNELS)),
    },
    "amplitude": {"amplitude": lambda net: (net.out.weight, slice(None))},
}


def mute_inputs(weight: Tensor, inputs: slice) -> None:
    """Let the weights (out, in, ...) of some inputs be 0, and stay so while they are trained."""
    kept = torch.ones_like(weight)
    kept[:, inputs] = 0
    with torch.no_grad():
        weight.mul_(kept)
    weight.register_hook(lambda gradient: gradient * kept.to(gradient.device))


@contextmanager
def blinded(what: str) -> Iterator[None]:
    """Let what is trained meanwhile be blind to a key of ``BLIND``, or to nothing."""
    before = dict(TASKS)
    for part, reach in BLIND.get(what, {}).items():
        TASKS[part] = _blind(before[part], reach)
    try:
        yield
    finally:
        TASKS.update(before)


def _blind(kind: type, reach: Callable[[nn.Module], tuple[Tensor, slice]]) -> type:
    class Blind(kind):
        def network(self) -> nn.Module:
            model = super().network()
            mute_inputs(*reach(model))
            return model

    return Blind
