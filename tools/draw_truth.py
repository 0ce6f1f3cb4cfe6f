"""Draw docs/truth.png: painted scenes that no weights were trained on, with how far each pixel
moves in truth and as the shipped prior imagines, on one scale. Of a dozen scenes, the four that in
truth move most are shown: on a calm day there is little to compare.

    python tools/draw_truth.py
"""

from pathlib import Path

import torch
from matplotlib import pyplot

from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.motion.spectral import motion_amplitude
from gidlite.pipeline import GidPipeline

SEED, MADE, COUNT = 4242, 12, 4
SCALE = 4.0  # px at 256 wide: white


def main() -> None:
    """Predict and draw."""
    pipeline = GidPipeline.from_pretrained()
    generator = torch.Generator().manual_seed(SEED)
    scenes = make_scenes(MADE, Pieces.painted(count=24, generator=generator), generator=generator)
    truth = motion_amplitude(scenes.spectral(16))
    liveliest = truth.mean((1, 2)).topk(COUNT).indices.tolist()
    figure, axes = pyplot.subplots(
        3, COUNT, figsize=(2.6 * COUNT, 5.2), layout="constrained", dpi=100
    )  # fmt: skip
    for number, column in zip(liveliest, axes.T, strict=True):
        photo = scenes.photo[number]
        drawn = pipeline(photo, generator=torch.Generator().manual_seed(0)).spectral
        column[0].imshow(photo.movedim(0, -1))
        for axis, map_ in zip(column[1:], (truth[number], motion_amplitude(drawn)), strict=True):
            shown = axis.imshow(map_, cmap="magma", vmin=0, vmax=SCALE)
    for axis, title in zip(axes[:, 0], ("photo", "truth", "predicted"), strict=True):
        axis.set_ylabel(title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.colorbar(shown, ax=axes[1:], label="RMS motion (px at 256 wide)", shrink=0.8)
    figure.savefig(Path(__file__).parents[1] / "docs" / "truth.png")


if __name__ == "__main__":
    main()
