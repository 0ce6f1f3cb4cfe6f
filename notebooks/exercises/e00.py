"""Lesson 00: the quickstart."""

import torch

from exercises import number
from gidlite.media import fit_size, read_image, resize
from gidlite.pipeline import GidPipeline, Sampling


def _drawn(wind):
    photo = read_image("dandelion.jpg")
    height, width = fit_size(*photo.shape[-2:], max_width=256)
    sampling, generator = Sampling(wind=wind), torch.Generator().manual_seed(0)
    photo = resize(photo, height=height, width=width)
    return GidPipeline.from_pretrained()(photo, sampling=sampling, generator=generator)


def _calmer(answer):
    gusty, calm = (_drawn(wind).spectral[1:].norm() for wind in (0.85, 0.15))
    hint = "leave out bin 0, square before you average, and divide gusty by calm."
    return number((gusty / calm).item(), hint=hint)(answer)


def _slow(answer):
    if answer.ndim != 4 or len(answer) != 80:
        return f"its shape is {tuple(answer.shape)}: at half speed one round lasts twice as long."
    if not torch.allclose(answer[0], answer[0].clamp(0, 1)):
        return "frames lie between 0 and 1."
    change = (answer - answer[0]).abs().mean((1, 2, 3)).max().item()
    drawn = _drawn(0.85)
    frames = drawn.frames[::15].float() / 255
    once = (frames - frames[0]).abs().mean((1, 2, 3)).max().item()
    return None if change > 1.2 * once else "it moves no more than before; see `amplify`."


CHECKS = {
    "1": number(5.0, hint="frames of a period over frames a second."),
    "2": _calmer,
    "3": _slow,
}
