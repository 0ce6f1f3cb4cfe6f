"""What a photo shows, at four resolutions: a trained encoder over frozen ImageNet features.

ImageNet knows what things are, but hardly where they end; the encoder brings its features from
coarse to fine, lets all cells of the coarser maps attend to each other, and adds colour at the
finest. It runs once per photo.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gidlite.prior import PHOTO_STRIDE, TAP_CHANNELS, Photos, mute

WIDTHS = (64, 128, 192, 192)  # of the maps at strides 4, 8, 16 and 32
Map = Float[Tensor, "batch channels rows columns"]


class Residual(nn.Module):
    """Two convolutions beside the identity, which it is at first."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        wide = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        narrow = nn.Conv2d(channels, channels, 3, padding=1)
        first, second = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.branch = nn.Sequential(first, nn.SiLU(), wide, second, nn.SiLU(), narrow)
        mute(narrow)

    def forward(self, x: Map) -> Map:
        return x + self.branch(x)


class Attention(nn.Module):
    """A transformer block over all cells; a depthwise convolution tells places apart."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.place = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        up, down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.mlp = nn.Sequential(nn.LayerNorm(channels), up, nn.GELU(), down)
        self.heads = heads
        mute(self.out)
        mute(down)

    def forward(self, x: Map) -> Map:
        x = x + self.place(x)
        tokens = x.flatten(2).mT
        triples = self.query_key_value(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        mixed = functional.scaled_dot_product_attention(*triples.permute(2, 0, 3, 1, 4))
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return (tokens + self.mlp(tokens)).mT.unflatten(2, x.shape[-2:])


class PhotoEncoder(nn.Module):
    """Photos and their ImageNet features → maps at strides 4, 8, 16 and 32, see ``WIDTHS``.

    In training, a tenth of the feature maps is dropped, so that nothing hangs on a single one.
    """

    def __init__(self, dropped: float = 0.1) -> None:
        super().__init__()
        fine, middle, coarse, coarsest = WIDTHS
        self.dropped = dropped
        pairs = zip(TAP_CHANNELS, WIDTHS, strict=True)
        self.enter = nn.ModuleList(nn.Conv2d(taps, width, 1) for taps, width in pairs)
        across = nn.Conv2d(3 * PHOTO_STRIDE**2, fine, 3, padding=1)
        self.color = nn.Sequential(across, nn.SiLU(), nn.Conv2d(fine, fine, 3, padding=1))
        lower = zip(WIDTHS[1:], WIDTHS, strict=False)
        self.descend = nn.ModuleList(nn.Conv2d(below, width, 1) for below, width in lower)
        self.blocks = nn.ModuleList([
            nn.Sequential(Residual(fine), Residual(fine, 2), Residual(fine)),
            nn.Sequential(*(m for _ in range(2) for m in (Residual(middle), Attention(middle, 4)))),
            nn.Sequential(*(Attention(coarse, 6) for _ in range(3))),
            nn.Sequential(*(Attention(coarsest, 6) for _ in range(2))),
        ])  # fmt: skip

    def forward(self, photo: Photos, taps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps, finest first; taps are those of ``image_taps``."""
        if self.training:
            taps = [functional.dropout2d(tap, self.dropped) for tap in taps]
        maps: list[Tensor] = []
        for level in (3, 2, 1, 0):
            x = self.enter[level](taps[level])
            if level == 0:
                x = x + self.color(functional.pixel_unshuffle(photo - 0.5, PHOTO_STRIDE))
            if maps:
                below = self.descend[level](maps[0])
                x = x + functional.interpolate(below, x.shape[-2:], mode="bilinear")
            maps.insert(0, self.blocks[level](x))
        return maps
