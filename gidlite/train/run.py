"""Training from the command line: collect the data, then train one part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gidlite._checks import GidliteError
from gidlite.train.checkpoint import averaged_autoencoder
from gidlite.train.config import TrainConfig
from gidlite.train.data import make_dataset
from gidlite.train.loop import train
from gidlite.train.processes import local_device

__all__ = ["run_training"]


def run_training(
    config: TrainConfig,
    out: str | Path,
    *,
    sprites: str | Path | None = None,
    data: Sequence[str | Path] = (),
    vae: str | Path | None = None,
    device: str = "cpu",
    **options,
):
    """Train from the command line: collect the data, then train one part.

    Returns:
        Autoencoder, denoiser and statistics after training the prior; None after the vae.

    Raises:
        GidliteError: As ``train``; also if the prior is asked for without a trained vae.
    """
    if config.part == "prior" and vae is None:
        raise GidliteError("training the prior needs --vae, the run folder of a trained vae")
    device = local_device(device)
    dataset = make_dataset(config, sprites=sprites, data=data, device=device)
    if config.part == "vae":
        train(config, out, dataset=dataset, device=device, **options)
        return None
    autoencoder, stats = averaged_autoencoder(Path(vae), dataset, device)
    denoiser = train(
        config, out, dataset=dataset, device=device, autoencoder=autoencoder, stats=stats, **options
    )
    return autoencoder.cpu(), denoiser.cpu(), stats
