"""Tiny untrained pipelines of both representations, and a photo for them."""

import functools

import torch

from gidlite.motion.normalize import FrequencyStats
from gidlite.pipeline import GidPipeline
from gidlite.prior import AmplitudeNet
from gidlite.prior.autoencoder import SliceAutoencoder
from gidlite.prior.denoiser import Denoiser, GridPrior
from gidlite.prior.drawer import Drawer, ModesPrior
from gidlite.prior.modes import ModesNet

PHOTO = torch.linspace(0, 1, 3 * 40 * 60).view(3, 40, 60)


@functools.cache
def tiny(representation):
    torch.manual_seed(0)
    if representation == "modes":
        return GidPipeline(ModesPrior(ModesNet(4, 3, 2), Drawer(4, 3, 2, width=16, layers=1)))
    networks = SliceAutoencoder((8, 16)), AmplitudeNet(4, 16), Denoiser(4, (32, 32, 32))
    return GidPipeline(GridPrior(*networks, FrequencyStats(torch.ones(4))))


def run(pipe, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return pipe(PHOTO, num_inference_steps=2, generator=generator, **options)
