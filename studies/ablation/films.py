"""Features of films, and distances between sets of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchmetrics.image.kid import poly_kernel

from gidlite.evaluate import frechet_distance, moments_of
from gidlite.evaluate.networks import load_published

Film = UInt8[Tensor, "32 3 height width"]
Features = dict[str, Float[Tensor, "films samples features"]]
_STILLS = (15, 31)  # frames that FID and KID look at; the first is the photo
_CLIP = 16


def load_film_networks(weights: Path | None = None, device: str = "cpu") -> dict[str, nn.Module]:
    """Return the networks of FID and FVD; a GidliteError if their weights are missing."""
    return {name: load_published(name, weights).to(device) for name in ("inception", "i3d")}


def film_features(
    film: Film, networks: dict[str, nn.Module], *, long: bool = False
) -> dict[str, Tensor]:
    """Return features of one film, (samples, features) each.

    Stills are looked at by Inception; the first and the second 16 frames by I3D, and all 32 if
    ``long``, which takes as long as everything else together.
    """
    device = next(networks["i3d"].parameters()).device
    halves = torch.stack(film.split(_CLIP)).to(device)
    found = {
        "stills": networks["inception"](film[list(_STILLS)].to(device)),
        "clips": networks["i3d"](halves),
    }
    if long:
        found["whole"] = networks["i3d"](film[None].to(device))
    return {name: values.float().cpu() for name, values in found.items()}


def _frechet(real: Tensor, made: Tensor, films: Tensor) -> float:
    return frechet_distance(*(moments_of([side.flatten(0, 1)]) for side in (real, made)))


def _kernel(real: Tensor, made: Tensor, films: Tensor) -> float:
    """Return the kernel distance over pairs of different films alone.

    Stills of one film are nearly the same picture, and so are a real film and one made of its
    first frame: with those pairs the estimate is negative whatever is shown.
    """
    owner = films.repeat_interleave(real.shape[1])
    apart = (owner[:, None] != owner).double()

    def mean(first: Tensor, second: Tensor) -> Tensor:
        x, y = (side.flatten(0, 1).double() for side in (first, second))
        return (poly_kernel(x, y) * apart).sum() / apart.sum()

    return (mean(real, real) + mean(made, made) - 2 * mean(real, made)).item()


# A name, the features it is a distance of, which of them, and how.
DISTANCES: dict[str, tuple[str, slice, Callable[[Tensor, Tensor, Tensor], float]]] = {
    "fid": ("stills", slice(None), _frechet),
    "kid": ("stills", slice(None), _kernel),
    "fvd": ("clips", slice(None), _frechet),
    "fvd_early": ("clips", slice(0, 1), _frechet),
    "fvd_late": ("clips", slice(1, 2), _frechet),
    "fvd_32": ("whole", slice(None), _frechet),
}


def distance(name: str, real: Features, made: Features, films: Tensor | None = None) -> float:
    """Return a distance between two sets of films, or of chosen ones, repeated as they come.

    Film i of both sides is of the same photo. Fréchet distances of few films are too large by a
    bias, which a difference of two of them hardly has.
    """
    key, which, between = DISTANCES[name]
    films = torch.arange(len(real[key])) if films is None else films
    return between(*(side[key][films, which] for side in (real, made)), films)
