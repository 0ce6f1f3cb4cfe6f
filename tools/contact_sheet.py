"""Draw docs/sheet.jpg: pictures beside where the shipped prior thinks they move (brighter: more).

Upper row: the flower with three seeds. Below: painted scenes, each with true and predicted motion.
"""

from pathlib import Path

import torch

from gidlite.data.world import make_scenes
from gidlite.data.world.pieces import Pieces
from gidlite.media import read_image, resize, sample_photo, write_image
from gidlite.motion.spectral import motion_amplitude
from gidlite.pipeline import GidPipeline
from gidlite.viz import contact_sheet

HEIGHT, WIDTH = 160, 256


def grey(rms: torch.Tensor) -> torch.Tensor:
    """Return RMS motion as a picture, white at its 99th percentile."""
    scaled = rms / rms.flatten().quantile(0.99).clamp(min=0.1)
    picture = resize(scaled[None], height=HEIGHT, width=WIDTH).clamp(0, 1)
    return picture.expand(3, -1, -1)


def main() -> None:
    """Predict and write the sheet."""
    pipeline = GidPipeline.from_pretrained()

    def predicted(image: torch.Tensor, seed: int) -> torch.Tensor:
        output = pipeline(image, generator=torch.Generator().manual_seed(seed))
        return grey(motion_amplitude(output.spectral))

    photo = read_image(sample_photo())
    tiles = [resize(photo, height=HEIGHT, width=WIDTH)]
    tiles += [predicted(photo, seed) for seed in range(3)] + [torch.ones(3, HEIGHT, WIDTH)] * 2
    generator = torch.Generator().manual_seed(4242)
    scenes = make_scenes(4, Pieces.painted(count=24, generator=generator), generator=generator)
    truth = motion_amplitude(scenes.spectral(16))
    for number in range(4):
        image = scenes.photo[number]
        tiles += [image, grey(truth[number]), predicted(image, 0)]
    write_image(Path(__file__).parents[1] / "docs" / "sheet.jpg", contact_sheet(tiles, columns=6))


if __name__ == "__main__":
    main()
