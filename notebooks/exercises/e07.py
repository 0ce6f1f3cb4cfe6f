"""Checks of lesson 07."""

import torch
from torch import nn

from exercises import number
from gidlite.prior.denoiser import FrequencyAttention

# Two of three times another line, 60° or 120° away: |cos| is 1/2.
_THREE_LINES = number(
    (1 + 0.5 + 0.5) / 3, rel=0.03, hint="what is |cos| of each angle that two lines can have?"
)
_COUNTS = number(
    32 * 20 / 16, hint="count pairs of pixels in every bin, and pairs of bins at every pixel."
)


def _near(function):
    """Ask which bins hear a change, then compare with the layer where all bins are near."""
    torch.manual_seed(1)
    layer = FrequencyAttention(32, num_frequencies=6).requires_grad_(False)
    nn.init.normal_(layer.out.weight, std=0.2)
    x, bins = torch.randn(2 * 6, 32, 3, 4), torch.arange(6).expand(2, -1)
    changed = x.clone()
    changed[3] += torch.randn(32, 3, 4)  # bin 3 of the first volume
    heard = (function(layer, changed, bins) - function(layer, x, bins)).abs().amax((1, 2, 3))
    told = set((heard > 1e-6).nonzero().flatten().tolist())
    if told != {2, 3, 4}:
        return f"a change in bin 3 of volume 0 is heard by {sorted(told)} of all {len(x)} slices."
    pair = x[:2], torch.arange(2)[None]
    if not torch.allclose(function(layer, *pair), layer(*pair), atol=1e-5):
        return "two bins are neighbours, so nothing is masked, but the layer answers otherwise."
    three = function(layer, x[:3], torch.arange(3)[None])  # the middle one hears all
    if not torch.allclose(three[1], layer(x[:3], torch.arange(3)[None])[1], atol=1e-5):
        return "bin 1 of three hears all of them, as in the layer, but the answer differs."
    return None


CHECKS = {"1": _COUNTS, "2": _THREE_LINES, "3": _near}
